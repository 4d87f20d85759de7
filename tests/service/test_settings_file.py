import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from service.settings import InvalidSettings, load_settings
from service.settings.fields import GROUPS


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("DDL_"):
            monkeypatch.delenv(name)


def write(folder: Path, text: str, name: str = "serve.toml") -> str:
    path = folder / name
    path.write_text(text)
    return str(path)


TOML = 'port = 9001\n[limits]\nmax_rows = 7\ncors_origins = ["https://a.example"]\n'
YAML = "port: 9001\nlimits:\n  max_rows: 7\n  cors_origins: [https://a.example]\n"


@pytest.mark.parametrize(("name", "text"), [("s.toml", TOML), ("s.yaml", YAML), ("s.yml", YAML)])
def test_a_file_is_read_in_toml_and_yaml(tmp_path: Path, name: str, text: str) -> None:
    settings = load_settings(["--config", write(tmp_path, text, name)])
    assert (settings.port, settings.max_rows, settings.cors_origins) == (9001, 7, ("https://a.example",))


def test_flag_wins_over_variable_wins_over_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DDL_CONFIG", write(tmp_path, "port = 1\nworkers = 1\nmax_rows = 1\n"))
    monkeypatch.setenv("DDL_WORKERS", "2")
    monkeypatch.setenv("DDL_MAX_ROWS", "2")
    settings = load_settings(["--max-rows", "3"])
    assert (settings.port, settings.workers, settings.max_rows) == (1, 2, 3)


def test_the_flag_names_the_file_that_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DDL_CONFIG", write(tmp_path, "port = 1\n", "one.toml"))
    assert load_settings(["--config", write(tmp_path, "port = 2\n", "two.toml")]).port == 2


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("prot = 1\n", "serve.toml: unknown setting prot; did you mean port?"),
        ("[limits]\nmax_row = 1\n", "serve.toml: unknown setting max_row; did you mean max_rows?"),
        ("port = 1\n[listen]\nport = 2\n", "serve.toml: port is set twice"),
        ("port = \n", "is not TOML"),
        ("port = 70000\n", "serve.toml: port=70000: Input should be less than"),
        ('log_format = "xml"\n', "serve.toml: log_format='xml': Input should be 'line' or 'json'"),
        ("config = 'x'\n", "unknown setting config"),
    ],
)
def test_what_is_wrong_in_a_file_is_named_with_the_file(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(InvalidSettings) as caught:
        load_settings(["--config", write(tmp_path, text)])
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("s.yaml", "- port\n", "written as name: value"),
        ("s.yaml", "port: [1\n", "is not YAML"),
        ("s.yaml", "port: !!python/object/apply:os.system [ls]\n", "is not YAML"),
        ("s.json", "{}", "ends in .toml, .yaml or .yml"),
        ("s.toml", "#" * 2_000_000, "too large"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, name: str, text: str, complaint: str) -> None:
    with pytest.raises(InvalidSettings, match=complaint):
        load_settings(["--config", write(tmp_path, text, name)])


def test_an_empty_file_changes_nothing(tmp_path: Path) -> None:
    assert load_settings(["--config", write(tmp_path, "", "s.yaml")]) == load_settings([])


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match="cannot be read"):
        load_settings(["--config", str(tmp_path / "none.toml")])


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--tls-key", "k.pem"], "tls_certificate and tls_key go together"),
        (["--tls-client-ca", "ca.pem"], "tls_client_ca needs"),
        (["--oidc-issuer", "https://i.example"], "oidc_issuer needs oidc_audience"),
        (["--oidc-audience", "me"], "need oidc_issuer"),
        (["--rate-burst", "5"], "rate_burst needs rate_limit"),
        (["--cors-origins", "example.com"], "--cors-origins='example.com': 'example.com' is not an origin"),
        (["--cors-origins", "https://a.example/path"], "is not an origin"),
        (["--anonymous-scopes", "infer,all"], "--anonymous-scopes"),
    ],
)
def test_settings_that_do_not_fit_together_are_named(flags: list[str], complaint: str) -> None:
    with pytest.raises(InvalidSettings) as caught:
        load_settings(flags)
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "scopes"), [("auto", "auto"), ("none", ()), ("infer", ("infer",)), ("infer, gates", ("infer", "gates"))]
)
def test_anonymous_scopes_are_words(given: str, scopes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DDL_ANONYMOUS_SCOPES", given)
    assert load_settings([]).anonymous_scopes == scopes


def test_lists_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DDL_CORS_ORIGINS", "https://a.example, http://localhost:3000")
    assert load_settings([]).cors_origins == ("https://a.example", "http://localhost:3000")
    assert load_settings(["--trusted-proxies", "10.0.0.1"]).trusted_proxies == ("10.0.0.1",)


def test_help_is_in_groups() -> None:
    result = subprocess.run([sys.executable, "-m", "service", "--help"], capture_output=True, text=True, check=True)
    for group in GROUPS:
        assert f"\n{(group.__doc__ or '').partition(chr(10))[0].rstrip('.')}:\n" in result.stdout
    assert "--config FILE" in result.stdout
