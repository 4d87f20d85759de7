import hashlib
import json
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from service.errors import Unauthenticated
from service.security.__main__ import main
from service.security.caller import Allowance
from service.security.keys import KeyFileInvalid, KeyRing, read_keys


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "keys.json"
    monkeypatch.setenv("DDL_API_KEYS", str(path))
    return path


def create(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["create", *arguments]) == 0
    return capsys.readouterr().out.strip()


def test_a_key_is_shown_once_and_only_its_hash_is_kept(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = create(capsys, "anna")
    assert key.startswith("ddl_")
    assert len(key) >= 4 + 12 + 1 + 43
    secret = key.split("_", 2)[2]
    text = file.read_text()
    assert secret not in text
    assert json.loads(text)["keys"][0]["sha256"] == hashlib.sha256(key.encode()).hexdigest()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    caller = KeyRing(file, Allowance()).find(key.encode())
    assert caller is not None
    assert (caller.name, caller.scopes, caller.anonymous) == ("anna", frozenset({"infer"}), False)


def test_no_two_keys_are_alike(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert len({create(capsys, f"k{number}") for number in range(20)}) == 20
    assert len(read_keys(file).keys) == 20


def test_what_is_no_key_of_ours_is_nobody(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = create(capsys, "anna").encode()
    ring = KeyRing(file, Allowance())
    for other in (b"", b"ddl_", key[:-1], key + b"x", key.upper(), b"x" + key, b"\xff\x00"):
        assert ring.find(other) is None


def test_a_revoked_key_is_refused_at_the_next_look(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    anna, bert = create(capsys, "anna"), create(capsys, "bert")
    ring = KeyRing(file, Allowance())
    assert len(ring) == 2
    assert main(["revoke", "anna"]) == 0
    ring.refresh()
    assert ring.find(anna.encode()) is None
    assert ring.find(bert.encode()) is not None
    assert main(["revoke", "anna"]) == 1
    assert "no valid key" in capsys.readouterr().err


def test_a_new_key_is_known_at_the_next_look(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    create(capsys, "anna")
    ring = KeyRing(file, Allowance())
    bert = create(capsys, "bert")
    assert ring.find(bert.encode()) is None
    ring.refresh()
    assert ring.find(bert.encode()) is not None


def test_a_damaged_file_leaves_the_old_keys(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = create(capsys, "anna").encode()
    ring = KeyRing(file, Allowance())
    good = file.read_text()
    for damage in ("", "{", '{"format": "ddl.keys/2"}', good.replace('"infer"', '"everything"')):
        file.write_text(damage)
        with pytest.raises(KeyFileInvalid, match=r"keys\.json") as caught:
            ring.refresh()
        assert "everything" not in str(caught.value)
        assert ring.find(key) is not None
    file.unlink()
    with pytest.raises(KeyFileInvalid, match="No such file"):
        ring.refresh()
    assert ring.find(key) is not None


def test_a_key_has_an_end(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = create(capsys, "anna", "--expires-days", "2").encode()
    now = datetime.now(UTC)
    assert KeyRing(file, Allowance(), lambda: now).find(key) is not None
    with pytest.raises(Unauthenticated, match="the key anna expired on"):
        KeyRing(file, Allowance(), lambda: now + timedelta(days=2, seconds=1)).find(key)


def test_a_key_brings_its_own_limits_or_takes_the_general_ones(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = create(capsys, "own", "--rate", "0.5", "--burst", "3", "--daily", "0")
    general = create(capsys, "general")
    ring = KeyRing(file, Allowance(10.0, 20, 1000))
    found = [ring.find(key.encode()) for key in (own, general)]
    assert [caller and caller.allowance for caller in found] == [Allowance(0.5, 3, 0), Allowance(10.0, 20, 1000)]


def test_the_list_shows_names_scopes_state_and_no_key(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys = [create(capsys, "anna", "--scopes", "infer, gates", "--rate", "2"), create(capsys, "bert")]
    assert main(["revoke", read_keys(file).keys[1].id]) == 0
    capsys.readouterr()
    assert main(["list"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.split()[1:] == ["anna", "infer,gates", "valid", "rate=2"]
    assert "bert" in second
    assert "revoked" in second
    for key in keys:
        assert key.split("_", 2)[2] not in first + second


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["create", "a b"], "name='a b'"),
        (["create", "anna", "--scopes", "all"], "scopes.0='all'"),
        (["create", "anna", "--rate", "-1"], "rate=-1.0"),
        (["list"], "cannot be read: No such file"),
        (["revoke", "anna"], "cannot be read: No such file"),
    ],
)
def test_what_does_not_fit_is_one_line(
    arguments: list[str], complaint: str, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 1
    errors = capsys.readouterr().err
    assert complaint in errors
    assert errors.count("\n") == 1
    assert not file.exists()


@pytest.mark.parametrize("days", ["0", "-1", "x", "99999999999"])
def test_days_are_checked(days: str, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["create", "anna", "--expires-days", days])
    assert caught.value.code == 2
    assert "days" in capsys.readouterr().err


def test_a_name_is_given_once(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    create(capsys, "anna")
    assert main(["create", "anna"]) == 1
    assert main(["revoke", "anna"]) == 0
    assert main(["create", "anna"]) == 0


def test_the_file_must_be_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("DDL_API_KEYS", raising=False)
    assert main(["list"]) == 2
    assert "DDL_API_KEYS" in capsys.readouterr().err


def test_the_mode_of_the_file_is_kept(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    create(capsys, "anna")
    file.chmod(0o640)
    create(capsys, "bert")
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert list(file.parent.iterdir()) == [file]
