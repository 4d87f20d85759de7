"""Put what an audit found into a bundle: `python -m export.reference BUNDLE REFERENCE`."""

import argparse
import shutil
import sys
from pathlib import Path

from service.bundle import SIGNATURE_NAME, read_bundle, write_checksums
from service.errors import BundleError, BundleInvalid
from service.gates.reference import REFERENCE_NAME, read_reference


def add_reference(folder: Path, file: Path) -> bool:
    """Copy a reference into a bundle and list it among its files; return whether a signature fell away.

    Raises:
        BundleError: the bundle is damaged, or the reference is of another model; the bundle is as it was.
        OSError: the file cannot be read, or the bundle not be written.
    """
    bundle = read_bundle(folder)
    target, kept = folder / REFERENCE_NAME, None
    if target.exists():
        kept = target.read_bytes()
    shutil.copyfile(file, target)
    try:
        if read_reference(folder, bundle.manifest) is None:
            raise BundleInvalid(f"{folder} has no gates that could be compared")
    except BundleError:
        target.unlink() if kept is None else target.write_bytes(kept)
        raise
    write_checksums(folder)
    signature = folder / SIGNATURE_NAME
    was_signed = signature.exists()
    signature.unlink(missing_ok=True)
    return was_signed


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code: 0 done, 1 failed."""
    parser = argparse.ArgumentParser(prog="python -m export.reference", description="Put a reference into a bundle.")
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder NAME/VERSION")
    parser.add_argument("reference", type=Path, metavar="REFERENCE", help="reference-RUN.json of an audit")
    options = parser.parse_args(arguments)
    try:
        was_signed = add_reference(options.bundle, options.reference)
    except (BundleError, OSError) as error:
        print(f"export.reference: {error}", file=sys.stderr)
        return 1
    print(f"{options.bundle} has a reference now." + (" Sign it again: its files changed." if was_signed else ""))
    return 0


if __name__ == "__main__":
    sys.exit(main())
