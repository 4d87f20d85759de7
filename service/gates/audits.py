"""Finished audits in a folder, each in a folder of its own, as `ddl-audit` leaves them."""

import json
import re
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from service.errors import UnknownAudit

SUMMARY_NAME = "audit.json"
REPORT_NAME = "report.html"
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_FILES = re.compile(r"report\.html|audit\.json|(table|histograms)\.parquet|reference-[A-Za-z0-9._-]{1,100}\.json")


class AuditSummary(BaseModel):
    """What an audit says of itself in one line; `settled` is None where nothing is compared."""

    model_config = ConfigDict(extra="ignore")

    title: str
    created: str
    dataset: str
    arms: list[str]
    runs: int
    settled: bool | None


def list_audits(folder: Path | None) -> list[dict[str, Any]]:
    """Return the finished audits, the newest first; what is no audit is left out."""
    found = []
    for path in sorted(folder.iterdir()) if folder is not None and folder.is_dir() else ():
        if not _ID.fullmatch(path.name):
            continue
        try:
            summary = AuditSummary.model_validate(json.loads((path / SUMMARY_NAME).read_bytes())["summary"])
        except (OSError, ValueError, KeyError, TypeError, ValidationError):
            continue
        files = sorted(file.name for file in path.iterdir() if _FILES.fullmatch(file.name))
        found.append({"id": path.name, **summary.model_dump(), "files": files})
    return sorted(found, key=lambda audit: audit["created"], reverse=True)


def audit_file(folder: Path | None, audit: str, name: str) -> Path:
    """Return where a file of an audit is.

    Raises:
        UnknownAudit: there is no such audit, or no such file in it.
    """
    if folder is not None and _ID.fullmatch(audit) and _FILES.fullmatch(name):
        path = folder / audit / name
        # A link may lead anywhere: only what lies in the folder is an audit's.
        if path.is_file() and path.resolve().is_relative_to(folder.resolve()):
            return path
    raise UnknownAudit(f"there is no {name[:100]!r} of an audit {audit[:100]!r}")
