"""Which signatures of bundles are believed, and how a bundle is signed.

The signature is over `SHA256SUMS`, which has the checksum of every file, and over a comment that names the bundle: so
an old bundle of a model cannot be passed off as a new version.
"""

import re
from collections.abc import Iterable
from pathlib import Path

from service.bundle import CHECKSUMS_NAME, SIGNATURE_NAME
from service.errors import SignatureInvalid
from service.signing.minisign import MalformedKey, PublicKey, SecretKey, Signature, parse_public, parse_signature

_BUNDLE = re.compile(r"(?:^|\s)bundle:(\S+)")
_LARGEST_BYTES = 64 * 1024


class TrustedKeys:
    """Public keys whose signatures are believed."""

    def __init__(self, keys: Iterable[PublicKey]) -> None:
        """Keep the keys by their identity."""
        self._keys = {key.key_id: key for key in keys}

    def __len__(self) -> int:
        """Return how many keys are trusted."""
        return len(self._keys)

    def verify(self, folder: Path, name: str, version: str) -> str:
        """Verify the signature of a bundle whose checksums have been verified; return the name of the key.

        Raises:
            SignatureInvalid: there is no signature, nobody who is trusted made it, it is of other files, or of a bundle
                with another name or version.
        """
        path = folder / SIGNATURE_NAME
        signature = _read(path)
        key = self._keys.get(signature.key_id)
        if key is None:
            known = ", ".join(sorted(key.name for key in self._keys.values())) or "none"
            unknown = signature.key_id[::-1].hex().upper()
            raise SignatureInvalid(f"{path} was made by key {unknown}, which is not trusted (trusted: {known})")
        if not key.verifies(signature, (folder / CHECKSUMS_NAME).read_bytes()):
            raise SignatureInvalid(f"{path} is no signature of this {CHECKSUMS_NAME} by key {key.name}: sign it again")
        named = _BUNDLE.search(signature.comment)
        if named is not None and named[1] != f"{name}/{version}":
            raise SignatureInvalid(f"{path} is the signature of {named[1]}, not of {name}/{version}")
        return key.name


def read_trusted_keys(entries: Iterable[str]) -> TrustedKeys:
    """Read keys that are given as lines of base64 (`RW...`), as files, or as folders of `.pub` files.

    Raises:
        MalformedKey: an entry is none of them.
    """
    keys = []
    for entry in entries:
        path = Path(entry).expanduser()
        try:
            if path.is_dir():
                keys += [parse_public(file.read_text("utf-8")) for file in sorted(path.glob("*.pub"))]
            else:
                keys.append(parse_public(path.read_text("utf-8") if path.is_file() else entry))
        except (MalformedKey, OSError, UnicodeDecodeError) as error:
            raise MalformedKey(f"{entry}: no file, and no key: {error}") from error
    return TrustedKeys(keys)


def sign_bundle(folder: Path, key: SecretKey, name: str, version: str) -> Path:
    """Write the signature of a bundle and return its path."""
    path = folder / SIGNATURE_NAME
    signature = key.sign((folder / CHECKSUMS_NAME).read_bytes(), f"bundle:{name}/{version}")
    path.write_text(signature.encode(), encoding="utf-8")
    return path


def _read(path: Path) -> Signature:
    try:
        with path.open("rb") as file:
            return parse_signature(file.read(_LARGEST_BYTES).decode())
    except FileNotFoundError as error:
        raise SignatureInvalid(f"{path} is missing: the bundle is not signed (ddl-sign sign)") from error
    except (OSError, UnicodeDecodeError, MalformedKey) as error:
        raise SignatureInvalid(f"{path}: {error}") from error
