"""`ddl-sign`: make keys, sign bundles, verify them."""

import argparse
import getpass
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from service.bundle import read_bundle
from service.errors import BundleError
from service.signing.minisign import MalformedKey, encode_secret, generate, needs_password, parse_secret
from service.signing.trust import read_trusted_keys, sign_bundle


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one of the commands.

    Returns:
        0, or 1 with the reason on standard error.
    """
    options = _parser().parse_args(arguments)
    try:
        print(options.run(options))
    except (BundleError, MalformedKey, OSError) as error:
        print(f"ddl-sign: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ddl-sign",
        description="Sign bundles for services that run with signatures=required. Keys and signatures are minisign's.",
        epilog="Example: ddl-sign keygen release.key && ddl-sign sign release.key models/english/3",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    keygen = commands.add_parser("keygen", help="make a secret key, and its public key beside it")
    keygen.add_argument("key", type=Path, help="file for the secret key; the public one gets the suffix .pub")
    keygen.add_argument("--password", action="store_true", help="encrypt the secret key with a password")
    keygen.set_defaults(run=_keygen)
    sign = commands.add_parser("sign", help="sign a bundle, NAME/VERSION, after verifying its checksums")
    sign.add_argument("key", type=Path, help="file of the secret key")
    sign.add_argument("bundle", type=Path, nargs="+", help="folder of a bundle")
    sign.set_defaults(run=_sign)
    verify = commands.add_parser("verify", help="verify checksums and signature of a bundle")
    verify.add_argument("bundle", type=Path, nargs="+", help="folder of a bundle")
    verify.add_argument(
        "--key", action="append", required=True, help="public key: a line RW..., a file, or a folder of .pub files"
    )
    verify.set_defaults(run=_verify)
    return parser


def _keygen(options: argparse.Namespace) -> str:
    path: Path = options.key
    password = _new_password() if options.password else ""
    key = generate()
    public = path.with_suffix(".pub")
    _write_new(path, encode_secret(key, password), 0o600)
    _write_new(public, f"untrusted comment: public key {key.public.name}\n{key.public.encode()}\n", 0o644)
    return f"secret key {path}, public key {public}: trust it with DDL_TRUSTED_KEYS={key.public.encode()}"


def _sign(options: argparse.Namespace) -> str:
    text = options.key.read_text("utf-8")
    key = parse_secret(text, getpass.getpass("Password: ") if needs_password(text) else "")
    lines = []
    for folder in options.bundle:
        name, version = _identity(folder)
        lines.append(f"signed {name}/{version}: {sign_bundle(folder, key, name, version)}")
    return "\n".join(lines)


def _verify(options: argparse.Namespace) -> str:
    trusted = read_trusted_keys(options.key)
    lines = []
    for folder in options.bundle:
        name, version = _identity(folder)
        lines.append(f"{name}/{version} is whole and signed by key {trusted.verify(folder, name, version)}")
    return "\n".join(lines)


def _identity(folder: Path) -> tuple[str, str]:
    """Return name and version of a whole bundle, which are those of its folders."""
    name = read_bundle(folder).manifest.name
    place = folder.resolve()
    if place.parent.name != name or not place.name.isdigit():
        raise MalformedKey(f"{folder} is a bundle of {name!r}: its folder must be {name}/VERSION, as it will be served")
    return name, place.name


def _new_password() -> str:
    password = getpass.getpass("Password: ")
    if not password or getpass.getpass("Once more: ") != password:
        raise MalformedKey("no password, or not the same twice")
    return password


def _write_new(path: Path, text: str, mode: int) -> None:
    """Write a file that must not be there yet."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="utf-8") as file:
        file.write(text)


if __name__ == "__main__":
    sys.exit(main())
