"""The day's counts on the disk, so that a restart does not hand out the day's requests again."""

import json
import logging
import os
from pathlib import Path

_logger = logging.getLogger(__name__)


def load_usage(path: Path) -> tuple[int, dict[str, int]]:
    """Return the day and the counts of the file; nothing if there is none or it is damaged, which is logged."""
    try:
        document = json.loads(path.read_bytes())
        used = {str(account): int(count) for account, count in document["used"].items()}
        return int(document["day"]), used
    except FileNotFoundError:
        return 0, {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        _logger.error("usage file unusable, counts begin at 0", extra={"fields": {"path": path, "error": repr(error)}})
        return 0, {}


def save_usage(path: Path, day: int, used: dict[str, int]) -> None:
    """Replace the file as a whole.

    Raises:
        OSError: it cannot be written; the old one stays.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        temporary.write_text(json.dumps({"day": day, "used": used}), "utf-8")
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
