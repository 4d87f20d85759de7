"""API keys: long random secrets, of which a file keeps the hashes.

A key is `ddl_ID_SECRET`; SECRET is 256 bits from the system's generator. The file keeps SHA-256 of the whole key. A
slow hash (argon2, scrypt) makes guessed passwords expensive to try; nobody can try 2^256 secrets, so it would only make
every request slower. Looking a hash up in a table is safe against timing for the same reason: nobody can choose a hash.
"""

import hashlib
import os
import secrets
import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from service.errors import Unauthenticated
from service.security.caller import Allowance, Caller

_PREFIX = b"ddl_"
_ID_BYTES = 6
_SECRET_BYTES = 32


class KeyFileInvalid(Exception):
    """The file of keys cannot be read or does not follow the format."""


class KeyRecord(BaseModel):
    """What the file says about one key; the key itself is not in it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(pattern=r"^[0-9a-f]{12}$")
    name: str = Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.@-]*$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    scopes: tuple[Literal["infer", "gates", "metrics", "admin"], ...] = Field(min_length=1)
    created: AwareDatetime
    expires: AwareDatetime | None = None
    revoked: AwareDatetime | None = None
    rate: float | None = Field(None, ge=0)
    burst: int | None = Field(None, ge=0)
    daily: int | None = Field(None, ge=0)


class KeyFile(BaseModel):
    """The whole file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["ddl.keys/1"] = "ddl.keys/1"
    keys: tuple[KeyRecord, ...] = ()


def read_keys(path: Path) -> KeyFile:
    """Read a file of keys.

    Raises:
        KeyFileInvalid: it is not there, not readable, or not in the format; no content is repeated.
    """
    try:
        return KeyFile.model_validate_json(path.read_bytes())
    except OSError as error:
        raise KeyFileInvalid(f"the keys of {path} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise KeyFileInvalid(f"{path} is not a file of ddl-keys: {where} {first['msg']}") from error


def write_keys(path: Path, keys: KeyFile) -> None:
    """Replace the file as a whole; a new one is readable by its owner only, an old one keeps its mode."""
    mode = path.stat().st_mode if path.exists() else 0o600
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name + ".")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(keys.model_dump_json(indent=1).encode() + b"\n")
            file.flush()
            os.fchmod(descriptor, mode & 0o777)
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def new_key(name: str, scopes: Sequence[str], **limits: object) -> tuple[str, KeyRecord]:
    """Draw a key; the first value is shown to its holder once and kept nowhere.

    Raises:
        ValidationError: a name, scope or limit does not fit.
    """
    identity = secrets.token_hex(_ID_BYTES)
    key = f"ddl_{identity}_{secrets.token_urlsafe(_SECRET_BYTES)}"
    record = {"id": identity, "name": name, "sha256": _digest(key.encode()), "scopes": scopes, **limits}
    return key, KeyRecord.model_validate({**record, "created": datetime.now(UTC).replace(microsecond=0)})


class KeyRing:
    """The keys that are valid now, looked up by the guard; `refresh` reads the file again when it has changed."""

    def __init__(
        self, path: Path, allowance: Allowance, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        """Read the keys; `allowance` is for those that bring no limits of their own.

        Raises:
            KeyFileInvalid: the file cannot be used.
        """
        self._path = path
        self._allowance = allowance
        self._clock = clock
        self._seen: tuple[int, int, int] | None = None
        self._callers: dict[str, tuple[Caller, datetime | None]] = {}
        self.refresh()

    def find(self, secret: bytes) -> Caller | None:
        """Return who holds this key; None if it is none of ours.

        Raises:
            Unauthenticated: it was ours, and its time is over.
        """
        if not secret.startswith(_PREFIX):
            return None
        found = self._callers.get(_digest(secret))
        if found is None:
            return None
        caller, expires = found
        if expires is not None and self._clock() >= expires:
            raise Unauthenticated(f"the key {caller.name} expired on {expires:%Y-%m-%d}")
        return caller

    def refresh(self) -> None:
        """Read the file if it is another one than last time; on an error the old keys stay.

        Raises:
            KeyFileInvalid: the file cannot be used.
        """
        try:
            status = self._path.stat()
        except OSError as error:
            raise KeyFileInvalid(f"the keys of {self._path} cannot be read: {error.strerror}") from error
        seen = (status.st_mtime_ns, status.st_size, status.st_ino)
        if seen == self._seen:
            return
        records = read_keys(self._path).keys
        # Assigned at once, so that a lookup on another thread sees the old table or the new one.
        self._callers = {key.sha256: (self._caller(key), key.expires) for key in records if key.revoked is None}
        self._seen = seen

    def __len__(self) -> int:
        return len(self._callers)

    def _caller(self, key: KeyRecord) -> Caller:
        general = self._allowance
        allowance = Allowance(
            general.rate if key.rate is None else key.rate,
            general.burst if key.burst is None else key.burst,
            general.daily if key.daily is None else key.daily,
        )
        return Caller(f"key:{key.id}", key.name, frozenset(key.scopes), allowance)


def _digest(key: bytes) -> str:
    return hashlib.sha256(key).hexdigest()
