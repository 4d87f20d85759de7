"""The command, and what a service believes of its work."""

import shutil
import stat
from pathlib import Path

import pytest

from service.bundle import read_bundle, write_checksums
from service.errors import ModelNotReady, SignatureInvalid
from service.signing.__main__ import main
from service.signing.minisign import MalformedKey, generate, parse_secret
from service.signing.trust import TrustedKeys, read_trusted_keys, sign_bundle
from tests.service.repository.running import OTHER, answer, in_loop, opened, running
from tests.service.tiny_bundle import BundleMaker


@pytest.fixture
def key(tmp_path: Path) -> Path:
    assert main(["keygen", str(tmp_path / "release.key")]) == 0
    return tmp_path / "release.key"


@pytest.fixture
def folder(tmp_path: Path, maker: BundleMaker) -> Path:
    return maker.write(tmp_path / "models")


def trust(key: Path) -> TrustedKeys:
    return read_trusted_keys([str(key.with_suffix(".pub"))])


@pytest.fixture(autouse=True)
def no_password(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the answers to the prompts for passwords; there are none at first."""
    answers: list[str] = []
    monkeypatch.setattr("getpass.getpass", lambda _: answers.pop(0))
    return answers


def test_keygen_sign_verify(key: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    public = parse_secret(key.read_text()).public
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert main(["sign", str(key), str(folder)]) == 0
    read_bundle(folder)  # the signature is no file too many
    for given in (public.encode(), str(key.with_suffix(".pub")), str(key.parent)):
        assert main(["verify", "--key", given, str(folder)]) == 0
    assert f"tiny/1 is whole and signed by key {public.name}" in capsys.readouterr().out
    assert opened(folder.parents[1], trusted=trust(key)).get("tiny").version == "1"


def test_a_key_file_is_never_overwritten(key: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = key.read_text()
    assert main(["keygen", str(key)]) == 1
    assert key.read_text() == before
    assert "File exists" in capsys.readouterr().err


def test_a_key_with_a_password_asks_for_it(tmp_path: Path, folder: Path, no_password: list[str]) -> None:
    key = str(tmp_path / "locked.key")
    no_password += ["one", "two"]
    assert main(["keygen", "--password", key]) == 1
    assert not Path(key).exists()
    no_password += ["one", "one"]
    assert main(["keygen", "--password", key]) == 0
    no_password += ["two"]
    assert main(["sign", key, str(folder)]) == 1
    no_password += ["one"]
    assert main(["sign", key, str(folder)]) == 0


def test_only_a_whole_bundle_in_its_place_is_signed(
    key: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere = shutil.copytree(folder, folder.parents[2] / "out")
    assert main(["sign", str(key), str(elsewhere)]) == 1
    assert "its folder must be tiny/VERSION" in capsys.readouterr().err
    (folder / "PARITY.md").write_text("smuggled in")
    assert main(["sign", str(key), str(folder)]) == 1
    assert "PARITY.md is not listed in SHA256SUMS" in capsys.readouterr().err
    assert not (folder / "SHA256SUMS.minisig").exists()


def refused(root: Path, trusted: TrustedKeys) -> str:
    with pytest.raises(ModelNotReady) as caught:
        opened(root, trusted=trusted).get("tiny")
    return str(caught.value.details["reason"])


def test_what_is_not_signed_as_required_is_refused(key: Path, folder: Path) -> None:
    root, trusted = folder.parents[1], trust(key)
    assert refused(root, trusted) == "SHA256SUMS.minisig is missing: the bundle is not signed (ddl-sign sign)"
    sign_bundle(folder, generate(), "tiny", "1")
    assert "which is not trusted (trusted: " in refused(root, trusted)
    (folder / "SHA256SUMS.minisig").write_text("signed, honestly")
    assert "not a signature of minisign" in refused(root, trusted)
    main(["sign", str(key), str(folder)])
    (folder / "PARITY.md").write_text("changed after it was signed")
    write_checksums(folder)
    assert "no signature of this SHA256SUMS by key" in refused(root, trusted)


def test_an_old_bundle_does_not_become_a_new_version(key: Path, folder: Path) -> None:
    main(["sign", str(key), str(folder)])
    folder.rename(folder.parent / "7")
    assert refused(folder.parents[1], trust(key)) == "SHA256SUMS.minisig is the signature of tiny/1, not of tiny/7"


def test_a_signature_by_minisign_itself_need_not_name_the_bundle(key: Path, folder: Path) -> None:
    secret = parse_secret(key.read_text())
    signature = secret.sign((folder / "SHA256SUMS").read_bytes(), "timestamp:1795464689\tfile:SHA256SUMS")
    (folder / "SHA256SUMS.minisig").write_text(signature.encode())
    assert trust(key).verify(folder, "tiny", "1") == secret.public.name


@in_loop
async def test_an_unsigned_version_does_not_replace_a_signed_one(key: Path, folder: Path) -> None:
    root = folder.parents[1]
    main(["sign", str(key), str(folder)])
    async with running(root, trusted=trust(key)) as repository:
        model = repository.get("tiny")
        second = OTHER.write(root, version="2")
        await repository.refresh()
        assert repository.get("tiny") is model
        assert "is not signed" in repository.index()[1].reason
        main(["sign", str(key), str(second)])
        await repository.refresh()
        assert repository.get("tiny").version == "2"
        await answer(repository)


def test_trusted_keys_may_be_lines_files_and_folders(tmp_path: Path, key: Path, folder: Path) -> None:
    other = generate().public
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "a.pub").write_text(other.encode())
    (tmp_path / "more" / "notes.txt").write_text("no key")
    found = read_trusted_keys([str(key.with_suffix(".pub")), str(tmp_path / "more"), generate().public.encode()])
    assert len(found) == 3
    with pytest.raises(MalformedKey, match="/nix/key: no file, and no key"):
        read_trusted_keys(["/nix/key"])
    sign_bundle(folder, generate(), "tiny", "1")
    with pytest.raises(SignatureInvalid, match="trusted: none"):
        TrustedKeys([]).verify(folder, "tiny", "1")
