import os
import subprocess
import sys

import pytest

from service.settings import InvalidSettings, Settings, load_settings
from service.settings.load import show_default


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("DDL_"):
            monkeypatch.delenv(name)


def test_defaults_are_safe() -> None:
    settings = load_settings([])
    assert settings.host == "127.0.0.1"
    assert settings.port == 8000
    assert settings.repository == "models"
    assert settings.kernel_library == "auto"
    assert settings.max_body_bytes == 8 * 1024 * 1024
    assert settings.json_cells == 200_000


def test_flag_wins_over_variable_wins_over_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DDL_PORT", "9001")
    monkeypatch.setenv("DDL_WORKERS", "3")
    settings = load_settings(["--port", "9002"])
    assert (settings.port, settings.workers) == (9002, 3)


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DDL_PORT", "")
    assert load_settings([]).port == 8000


@pytest.mark.parametrize(
    ("variable", "nearest"), [("DDL_PROT", "DDL_PORT"), ("DDL_KERNEL_LIBARY", "DDL_KERNEL_LIBRARY"), ("DDL_ZZZ", None)]
)
def test_unknown_variable_is_an_error_with_the_nearest_name(
    variable: str, nearest: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "1")
    with pytest.raises(InvalidSettings) as caught:
        load_settings([])
    assert variable in str(caught.value)
    assert (f"did you mean {nearest}?" in str(caught.value)) == (nearest is not None)


@pytest.mark.parametrize(
    ("flag", "nearest"), [("--prot", "--port"), ("--log_level", "--log-level"), ("--worker=2", "--workers")]
)
def test_unknown_flag_is_an_error_with_the_nearest_name(flag: str, nearest: str) -> None:
    with pytest.raises(InvalidSettings, match=f"did you mean {nearest}"):
        load_settings([flag])


def test_a_positional_argument_is_unknown() -> None:
    with pytest.raises(InvalidSettings, match="unknown argument models"):
        load_settings(["models"])


def test_a_flag_without_value_is_an_error() -> None:
    with pytest.raises(InvalidSettings, match="--port"):
        load_settings(["--port"])


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--port", "70000"),
        ("--port", "web"),
        ("--workers", "0"),
        ("--provider", "tpu"),
        ("--log-level", "loud"),
        ("--drain-seconds", "-1"),
        ("--max-body-bytes", "10"),
    ],
)
def test_a_value_that_does_not_fit_is_named_with_its_source(flag: str, value: str) -> None:
    with pytest.raises(InvalidSettings) as caught:
        load_settings([flag, value])
    assert str(caught.value).startswith(f"{flag}='{value}': ")


def test_a_wrong_variable_is_named_as_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DDL_QUEUE_LIMIT", "many")
    with pytest.raises(InvalidSettings, match=r"^DDL_QUEUE_LIMIT='many': "):
        load_settings([])


def test_help_names_every_setting_its_variable_and_default() -> None:
    result = subprocess.run([sys.executable, "-m", "service", "--help"], capture_output=True, text=True, check=True)
    unwrapped = " ".join(result.stdout.split())
    for name, field in Settings.model_fields.items():
        assert "--" + name.replace("_", "-") in unwrapped
        assert f"(default {show_default(field.default)}; DDL_{name.upper()})" in unwrapped
        assert field.description
