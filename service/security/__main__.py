"""`ddl-keys`: make, list and revoke API keys; a running service notices within two seconds."""

import argparse
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pydantic import ValidationError

from service.security.caller import SCOPES
from service.security.keys import KeyFile, KeyFileInvalid, KeyRecord, new_key, read_keys, write_keys

_VARIABLE = "DDL_API_KEYS"
_MOST_DAYS = 36_500


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0 if it was done, 1 if it could not be, 2 if the arguments are wrong.
    """
    options = _parser().parse_args(arguments)
    if options.file is None:
        print(f"ddl-keys: which file? give --file or {_VARIABLE}", file=sys.stderr)
        return 2
    path = Path(options.file)
    try:
        if options.command == "create":
            return _create(path, options)
        keys = read_keys(path)
        return _list(keys) if options.command == "list" else _revoke(path, keys, options.id)
    except KeyFileInvalid as error:
        return _fail(str(error))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        return _fail(f"{'.'.join(str(part) for part in first['loc'])}={first['input']!r}: {first['msg']}")
    except OSError as error:
        return _fail(f"{path} cannot be written: {error.strerror}")


def _create(path: Path, options: argparse.Namespace) -> int:
    keys = read_keys(path) if path.exists() else KeyFile()
    if any(key.name == options.name and key.revoked is None for key in keys.keys):
        return _fail(f"there is a key named {options.name}; revoke it first, or choose another name")
    days = options.expires_days
    expires = None if days is None else datetime.now(UTC).replace(microsecond=0) + timedelta(days=days)
    scopes = [scope.strip() for scope in options.scopes.split(",")]
    key, record = new_key(
        options.name, scopes, expires=expires, rate=options.rate, burst=options.burst, daily=options.daily
    )
    write_keys(path, KeyFile(keys=(*keys.keys, record)))
    print(f"{record.name} ({record.id}) may: {', '.join(record.scopes)}. It is shown only now:", file=sys.stderr)
    print(key)
    return 0


def _list(keys: KeyFile) -> int:
    for key in keys.keys:
        print(f"{key.id}  {key.name:24}  {','.join(key.scopes):26}  {_state(key)}{_limits(key)}")
    return 0


def _revoke(path: Path, keys: KeyFile, wanted: str) -> int:
    found = [key for key in keys.keys if wanted in (key.id, key.name) and key.revoked is None]
    if not found:
        return _fail(f"no valid key has the id or name {wanted!r}; ddl-keys list shows all")
    now = datetime.now(UTC).replace(microsecond=0)
    gone = {key.id for key in found}
    left = tuple(key.model_copy(update={"revoked": now}) if key.id in gone else key for key in keys.keys)
    write_keys(path, KeyFile(keys=left))
    print(f"revoked {', '.join(f'{key.name} ({key.id})' for key in found)}", file=sys.stderr)
    return 0


def _state(key: KeyRecord) -> str:
    if key.revoked is not None:
        return f"revoked {key.revoked:%Y-%m-%d}"
    if key.expires is None:
        return "valid"
    return f"{'expired' if key.expires <= datetime.now(UTC) else 'valid until'} {key.expires:%Y-%m-%d}"


def _limits(key: KeyRecord) -> str:
    limits = {"rate": key.rate, "burst": key.burst, "daily": key.daily}
    return "".join(f"  {name}={value:g}" for name, value in limits.items() if value is not None)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ddl-keys", description="Make, list and revoke the API keys of ddl-serve.")
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument(
        "--file", default=os.environ.get(_VARIABLE), help=f"the file of keys (default: the variable {_VARIABLE})"
    )
    commands = parser.add_subparsers(dest="command", required=True)
    create = commands.add_parser("create", parents=[shared], help="draw a key, print it once, keep its hash")
    create.add_argument("name", help="who holds it; shown in the log")
    create.add_argument("--scopes", default="infer", help=f"some of {','.join(SCOPES)} (default infer)")
    create.add_argument("--expires-days", type=_days, help="days until it is refused (default: never)")
    create.add_argument("--rate", type=float, help="requests per second (default: the service's rate_limit)")
    create.add_argument("--burst", type=int, help="requests at once (default: the service's rate_burst)")
    create.add_argument("--daily", type=int, help="requests per day, UTC (default: the service's daily_quota)")
    commands.add_parser("list", parents=[shared], help="show names, scopes and state; never the keys")
    revoke = commands.add_parser("revoke", parents=[shared], help="refuse a key from now on")
    revoke.add_argument("id", help="its id or its name")
    return parser


def _days(text: str) -> int:
    if not (text.isdecimal() and 1 <= int(text) <= _MOST_DAYS):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of days from 1 to {_MOST_DAYS}")
    return int(text)


def _fail(message: str) -> int:
    print(f"ddl-keys: {message}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
