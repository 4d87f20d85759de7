"""`make audit`: are there known holes in the pinned dependencies?

pip-audit asks the advisory database. Where it cannot be asked, as behind a mirror that has no advisories, it says that
nothing was found; so a version that is known to have holes is asked about first, and if even that one looks clean,
nothing was audited and this says so.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parent.parent
CANARY = "pillow==9.0.0"
"""Has known holes, among them CVE-2022-22817."""

Ask = Callable[[Path], dict[str, list[str]]]


def main(pins: Path = ROOT / "constraints.txt", ask: Ask | None = None, *, required: bool | None = None) -> int:
    """Audit the pinned versions.

    Args:
        pins: a file of requirements.
        ask: returns the known holes of each package in a file.
        required: whether it is an error if nothing can be audited; by default what `AUDIT_REQUIRED` says.

    Returns:
        0 if no holes are known, or nothing could be audited (which is said loudly) though it need not be;
        1 if there are holes, or nothing could be audited though it must.
    """
    ask = ask or pip_audit
    required = bool(os.environ.get("AUDIT_REQUIRED")) if required is None else required
    try:
        with tempfile.TemporaryDirectory() as folder:
            canary = Path(folder) / "canary.txt"
            canary.write_text(CANARY + "\n", "utf-8")
            known = ask(canary)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        return _not_audited(f"pip-audit could not be run: {error}", required)
    if not any(known.values()):
        return _not_audited(f"the advisory database does not even know the holes of {CANARY}", required)
    holes = {package: found for package, found in ask(pins).items() if found}
    for package, found in sorted(holes.items()):
        print(f"{package}: {', '.join(found)}")
    print(f"{len(holes)} packages of {pins.name} with known holes")
    return 1 if holes else 0


def pip_audit(pins: Path) -> dict[str, list[str]]:
    """Return the identifiers of known holes by package and version."""
    command = [sys.executable, "-m", "pip_audit", "--requirement", str(pins), "--no-deps", "--disable-pip"]
    command += ["--format", "json", "--progress-spinner", "off"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=600)
    if not result.stdout:
        raise ValueError(result.stderr.strip().splitlines()[-1] if result.stderr.strip() else "it said nothing")
    found = {}
    for entry in json.loads(result.stdout)["dependencies"]:
        found[f"{entry['name']} {entry.get('version', '')}".strip()] = [hole["id"] for hole in entry.get("vulns", [])]
    return found


def _not_audited(reason: str, required: bool) -> int:
    print(f"*** NOT AUDITED: {reason}. Nothing is known about the dependencies. ***", file=sys.stderr)
    return 1 if required else 0


if __name__ == "__main__":
    sys.exit(main())
