"""Keys and signatures as minisign writes them: Ed25519 over the BLAKE2b hash of a file.

Either tool reads what the other wrote. The format is described at https://jedisct1.github.io/minisign/.

The library is imported by the first key that is used: a service that trusts no key need not hold its 6 MB.
"""

import base64
import binascii
import hashlib
import secrets
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_ED25519, _PREHASHED, _SCRYPT, _BLAKE2B, _NO_PASSWORD = b"Ed", b"ED", b"Sc", b"B2", b"\0\0"
_COMMENT, _TRUSTED = "untrusted comment: ", "trusted comment: "
# About 50 ms and 16 MiB for each guess of a password: libsodium's "interactive" limits.
_OPERATIONS, _MEMORY = 524_288, 16_777_216
_LARGEST_MEMORY = 2**31 - 2  # of hashlib.scrypt; keys of minisign ask for half of it


class MalformedKey(Exception):
    """A text is no key or signature of minisign's format, or a password does not open the key."""


@dataclass(frozen=True)
class PublicKey:
    """What verifies signatures; `key_id` tells which key a signature asks for."""

    key_id: bytes
    point: bytes

    @property
    def name(self) -> str:
        """The identity that minisign prints: 16 hexadecimal digits."""
        return self.key_id[::-1].hex().upper()

    def encode(self) -> str:
        """Return the one line that goes into settings and files."""
        return base64.b64encode(_ED25519 + self.key_id + self.point).decode()

    def verifies(self, signature: "Signature", content: bytes) -> bool:
        """Tell whether this key signed `content` and the signature's comment."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        if signature.key_id != self.key_id:
            return False
        key = Ed25519PublicKey.from_public_bytes(self.point)
        try:
            key.verify(signature.value, _hash(content))
            key.verify(signature.comment_value, signature.value + signature.comment.encode())
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True)
class SecretKey:
    """What makes signatures: the seed of an Ed25519 key, and the identity of its public half."""

    key_id: bytes
    seed: bytes

    @property
    def public(self) -> PublicKey:
        """The half that may be known."""
        return PublicKey(self.key_id, self._private().public_key().public_bytes_raw())

    def sign(self, content: bytes, comment: str) -> "Signature":
        """Sign `content` and a comment, which must be one line."""
        private = self._private()
        value = private.sign(_hash(content))
        return Signature(self.key_id, value, comment, private.sign(value + comment.encode()))

    def _private(self) -> "Ed25519PrivateKey":
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        return Ed25519PrivateKey.from_private_bytes(self.seed)


@dataclass(frozen=True)
class Signature:
    """A signature of a content (`value`), and of itself with its comment (`comment_value`)."""

    key_id: bytes
    value: bytes
    comment: str
    comment_value: bytes

    def encode(self) -> str:
        """Return the four lines of a `.minisig` file."""
        value = base64.b64encode(_PREHASHED + self.key_id + self.value).decode()
        comment_value = base64.b64encode(self.comment_value).decode()
        return f"{_COMMENT}signature of a bundle\n{value}\n{_TRUSTED}{self.comment}\n{comment_value}\n"


def generate() -> SecretKey:
    """Make a new key."""
    return SecretKey(secrets.token_bytes(8), secrets.token_bytes(32))


def parse_public(text: str) -> PublicKey:
    """Read a public key: its line alone, or a `.pub` file.

    Raises:
        MalformedKey: it is neither.
    """
    raw = _decode(_last_line(text), 42, "public key")
    if raw[:2] != _ED25519:
        raise MalformedKey("not a public key of minisign (RW...)")
    return PublicKey(raw[2:10], raw[10:])


def parse_signature(text: str) -> Signature:
    """Read a `.minisig` file.

    Raises:
        MalformedKey: it is none, or one of the old kind that is not over a hash.
    """
    lines = text.splitlines()
    if len(lines) != 4 or not lines[0].startswith(_COMMENT) or not lines[2].startswith(_TRUSTED):
        raise MalformedKey("not a signature of minisign: four lines, with an untrusted and a trusted comment")
    raw = _decode(lines[1], 74, "signature")
    if raw[:2] != _PREHASHED:
        raise MalformedKey("not a signature over a hash (minisign -S makes them since version 0.10)")
    return Signature(raw[2:10], raw[10:], lines[2].removeprefix(_TRUSTED), _decode(lines[3], 64, "signature"))


def encode_secret(key: SecretKey, password: str = "") -> str:
    """Return the text of a key file; without a password it is as secret as the file is."""
    body = key.key_id + key.seed + key.public.point
    body += _checksum(body)
    if password:
        salt = secrets.token_bytes(32)
        head = _SCRYPT + _BLAKE2B + salt + struct.pack("<QQ", _OPERATIONS, _MEMORY)
        body = _xor(body, _stretch(password, salt, _OPERATIONS, _MEMORY))
    else:
        head = _NO_PASSWORD + _BLAKE2B + bytes(48)
    return f"{_COMMENT}secret key {key.public.name}\n{base64.b64encode(_ED25519 + head + body).decode()}\n"


def needs_password(text: str) -> bool:
    """Tell whether a key file is encrypted.

    Raises:
        MalformedKey: it is no key file.
    """
    return _decode(_last_line(text), 158, "secret key")[2:4] == _SCRYPT


def parse_secret(text: str, password: str = "") -> SecretKey:
    """Read a key file.

    Raises:
        MalformedKey: it is none, or the password is wrong.
    """
    raw = _decode(_last_line(text), 158, "secret key")
    kind, stretching, checksum, salt, body = raw[:2], raw[2:4], raw[4:6], raw[6:38], raw[54:]
    if (kind, checksum) != (_ED25519, _BLAKE2B) or stretching not in (_SCRYPT, _NO_PASSWORD):
        raise MalformedKey("not a secret key of minisign")
    if stretching == _SCRYPT:
        body = _xor(body, _stretch(password, salt, *struct.unpack("<QQ", raw[38:54])))
    unchecked = stretching == _NO_PASSWORD and not any(body[72:])  # as minisign itself leaves it
    if body[72:] != _checksum(body[:72]) and not unchecked:
        raise MalformedKey("the password is wrong" if stretching == _SCRYPT else "the secret key is damaged")
    return SecretKey(body[:8], body[8:40])


def _hash(content: bytes) -> bytes:
    return hashlib.blake2b(content).digest()


def _checksum(body: bytes) -> bytes:
    return hashlib.blake2b(_ED25519 + body, digest_size=32).digest()


def _stretch(password: str, salt: bytes, operations: int, memory: int) -> bytes:
    """Derive 104 bytes by scrypt, with the costs that libsodium derives from its two limits."""
    if memory > _LARGEST_MEMORY:
        raise MalformedKey(f"the key asks for {memory} bytes of memory to be opened")
    operations = max(operations, 32_768)
    parallel = 1
    if operations < memory // 32:
        cost = _power_of_two(operations // 32)
    else:
        cost = _power_of_two(memory // 1024)
        parallel = max(1, operations // 4 // cost // 8)
    try:
        return hashlib.scrypt(password.encode(), salt=salt, n=cost, r=8, p=parallel, maxmem=_LARGEST_MEMORY, dklen=104)
    except ValueError as error:
        raise MalformedKey(f"the key's password limits cannot be met: {error}") from error


def _power_of_two(limit: int) -> int:
    """Return the first power of two above half of `limit`, at least 2."""
    return max(2, 1 << (limit // 2).bit_length())


def _xor(left: bytes, right: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(left, right, strict=True))


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else ""


def _decode(line: str, length: int, what: str) -> bytes:
    try:
        raw = base64.b64decode(line, validate=True)
    except (binascii.Error, ValueError) as error:
        raise MalformedKey(f"not a {what} of minisign: {error}") from error
    if len(raw) != length:
        raise MalformedKey(f"not a {what} of minisign: it has {len(raw)} bytes, not {length}")
    return raw
