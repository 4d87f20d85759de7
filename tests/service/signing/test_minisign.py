"""The format, against what minisign 0.11 itself wrote: `minisign -G -W` and `minisign -S -W -t bundle:tiny/1`."""

import base64
import dataclasses
import shutil
import subprocess
from pathlib import Path

import minisign as other
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.signing.minisign import (
    MalformedKey,
    SecretKey,
    Signature,
    encode_secret,
    generate,
    needs_password,
    parse_public,
    parse_secret,
    parse_signature,
)

CONTENT = b"hello\n"
COMMENTS = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1)
PUBLIC = "RWQSOsd60YCDNhwww7DaMqSv4d4qk3s+KPJeZHcaNLeQziAukPxfnnsO"
SECRET = """untrusted comment: minisign encrypted secret key
RWQAAEIyAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAEjrHetGAgzbit2j47O8PdwvXyknQYYxDiCPuBA9rHnB7U+6QetVB\
Pxwww7DaMqSv4d4qk3s+KPJeZHcaNLeQziAukPxfnnsOAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=
"""
SIGNATURE = """untrusted comment: signature from minisign secret key
RUQSOsd60YCDNurFMs3Q/h4lAthqshsRu3ZoRqD9TpwYJMAhhkWvcWgmvRPbkUbb5JtZMq/J95oJXLqtvB0Q5q2z2SFyg61Oaw8=
trusted comment: bundle:tiny/1
S5JnOjTL1p9rVtAvvLKU3YpMmY7RCmULfCqUej7gZCwZmPBUOaWdziPNWMTGBPO2u6Ea+uc6N8gOhI1esVcwDw==
"""
LEGACY = """untrusted comment: signature from minisign secret key
RWQSOsd60YCDNvuD4fxNIe7+gd/3Q+FJh0BBbs4aF5jtEdqjvOa9VwxGnE/84rcercrUUlGFJydOLWVQnuLxtkPKagV+q3xflAQ=
trusted comment: timestamp:1795464689	file:gold
5Oyu03mWZQHRhoB7dxBxbUugeXDBuhBxijNlvbk1MLSstQNoOO7xfTfWP5uthwxaLotG/Eq2w+yjRdE/bSsHCg==
"""


def test_what_minisign_wrote_is_read_and_verified() -> None:
    public = parse_public(PUBLIC)
    signature = parse_signature(SIGNATURE)
    assert public.name == "368380D17AC73A12"
    assert public.encode() == PUBLIC
    assert parse_public(f"untrusted comment: minisign public key\n{PUBLIC}\n") == public
    assert signature.comment == "bundle:tiny/1"
    assert public.verifies(signature, CONTENT)


def test_its_secret_key_makes_the_same_signature() -> None:
    key = parse_secret(SECRET)
    assert key.public == parse_public(PUBLIC)
    assert key.sign(CONTENT, "bundle:tiny/1") == parse_signature(SIGNATURE)  # Ed25519 has no chance in it


def test_minisign_verifies_ours(tmp_path: Path) -> None:
    """Skipped where the program is not installed; the tests around it hold our signatures to others' words as well."""
    program = shutil.which("minisign")
    if program is None:
        pytest.skip("minisign is not installed")
    key = generate()
    (tmp_path / "file").write_bytes(CONTENT)
    (tmp_path / "file.minisig").write_text(key.sign(CONTENT, "bundle:tiny/1").encode())
    result = subprocess.run(
        [program, "-V", "-P", key.public.encode(), "-m", tmp_path / "file"], capture_output=True, check=False, text=True
    )
    assert (result.returncode, "Trusted comment: bundle:tiny/1" in result.stdout) == (0, True)


@given(
    content=st.binary(max_size=300), comment=st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1)
)
def test_another_implementation_verifies_ours(content: bytes, comment: str) -> None:
    key = generate()
    public = other.PublicKey.from_base64(key.public.encode())
    signature = other.Signature.from_bytes(key.sign(content, comment).encode().encode())
    public.verify(content, signature)
    assert signature.trusted_comment == comment
    with pytest.raises(other.VerifyError):
        public.verify(content + b"!", signature)


@given(
    content=st.binary(max_size=300), comment=st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1)
)
def test_ours_verifies_what_another_implementation_signs(content: bytes, comment: str) -> None:
    pair = other.KeyPair.generate()
    signature = parse_signature(bytes(pair.secret_key.sign(content, trusted_comment=comment)).decode())
    public = parse_public(pair.public_key.to_base64().decode())
    assert public.verifies(signature, content)
    assert signature.comment == comment
    assert not public.verifies(signature, content + b"!")


@pytest.mark.parametrize("password", ["", "a password"])
def test_another_implementation_reads_our_keys(password: str) -> None:
    key = generate()
    theirs = other.SecretKey.from_bytes(encode_secret(key, password).encode())
    if password:
        theirs.decrypt(password)
    signature = parse_signature(bytes(theirs.sign(CONTENT, trusted_comment="bundle:tiny/1")).decode())
    assert signature == key.sign(CONTENT, "bundle:tiny/1")


@pytest.mark.parametrize("part", ["content", "value", "comment", "comment_value", "key_id"])
def test_any_change_is_noticed(part: str) -> None:
    public = parse_public(PUBLIC)
    signature = parse_signature(SIGNATURE)
    if part == "content":
        assert not public.verifies(signature, CONTENT + b"\0")
        return
    value = getattr(signature, part)
    changed = value + "!" if isinstance(value, str) else bytes([value[0] ^ 1]) + value[1:]
    assert not public.verifies(dataclasses.replace(signature, **{part: changed}), CONTENT)


def test_another_key_of_the_same_identity_does_not_verify() -> None:
    key = generate()
    other = SecretKey(key.key_id, generate().seed)
    assert not key.public.verifies(other.sign(CONTENT, "x"), CONTENT)


@given(st.binary(min_size=8, max_size=8), st.binary(min_size=32, max_size=32), st.binary(max_size=99))
def test_keys_and_signatures_survive_being_written(key_id: bytes, seed: bytes, content: bytes) -> None:
    key = SecretKey(key_id, seed)
    assert parse_secret(encode_secret(key)) == key
    assert parse_public(key.public.encode()) == key.public
    signature = key.sign(content, "bundle:a/1")
    assert parse_signature(signature.encode()) == signature
    assert key.public.verifies(signature, content)


def test_a_password_locks_the_key() -> None:
    key = generate()
    text = encode_secret(key, "open sesame")
    assert (needs_password(text), needs_password(encode_secret(key))) == (True, False)
    assert key.seed not in base64.b64decode(text.splitlines()[1])
    assert parse_secret(text, "open sesame") == key
    with pytest.raises(MalformedKey, match="password is wrong"):
        parse_secret(text, "open says me")


def test_a_damaged_or_costly_key_is_refused() -> None:
    raw = bytearray(base64.b64decode(encode_secret(generate()).splitlines()[1]))
    raw[70] ^= 1
    with pytest.raises(MalformedKey, match="damaged"):
        parse_secret(base64.b64encode(raw).decode())
    raw[2:4] = b"Sc"
    raw[38:54] = (2**40).to_bytes(8, "little") * 2
    with pytest.raises(MalformedKey, match="bytes of memory"):
        parse_secret(base64.b64encode(raw).decode(), "x")
    raw[:2] = b"XX"
    with pytest.raises(MalformedKey, match="not a secret key"):
        parse_secret(base64.b64encode(raw).decode())


def test_signatures_that_are_not_over_a_hash_are_refused() -> None:
    with pytest.raises(MalformedKey, match="not a signature over a hash"):
        parse_signature(LEGACY)


@given(st.text(max_size=300))
def test_any_text_is_a_key_or_refused(text: str) -> None:
    for parse in (parse_public, parse_secret, parse_signature):
        with pytest.raises(MalformedKey):
            parse(text)


def test_a_signature_needs_its_four_lines() -> None:
    lines = SIGNATURE.splitlines()
    for wrong in (lines[:3], [*lines, "x"], ["x", *lines[1:]], [*lines[:2], "x", lines[3]]):
        with pytest.raises(MalformedKey, match="four lines"):
            parse_signature("\n".join(wrong))
    with pytest.raises(MalformedKey, match="74"):
        parse_signature("\n".join([lines[0], "AAAA", *lines[2:]]))
    assert isinstance(parse_signature(SIGNATURE), Signature)
