"""Finished audits: the list, and their files."""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from service.api.answers import Answer, json_response
from service.api.state import in_worker, state_of
from service.gates.audits import REPORT_NAME, audit_file, list_audits

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".json": "application/json",
    ".parquet": "application/vnd.apache.parquet",
}
REPORT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'self'"
"""A report holds words, tables and drawings, nothing that runs or loads."""


class AuditEntry(Answer):
    """One finished audit; `settled` is null where it compares nothing."""

    id: str
    title: str
    created: str
    dataset: str
    arms: list[str]
    runs: int
    settled: bool | None
    files: list[str]


class AuditList(Answer):
    """Every finished audit, the newest first."""

    audits: list[AuditEntry]


async def audits(request: Request) -> Response:
    """Finished audits in the folder that the setting `audits` names; none without it.

    Audits are made by `ddl-audit`: they need torch and the data, which the service has not.
    """
    folder = state_of(request).settings.audits
    return json_response({"audits": await in_worker(request, lambda: list_audits(folder))})


async def audit_content(request: Request, audit: str, file: str) -> Response:
    """A file of an audit: report.html, table.parquet, histograms.parquet, audit.json, reference-RUN.json."""
    folder = state_of(request).settings.audits

    def read() -> tuple[str, bytes]:
        path = audit_file(folder, audit, file)
        return path.suffix, path.read_bytes()

    suffix, content = await in_worker(request, read)
    headers: dict[str, Any] = {"X-Content-Type-Options": "nosniff"}
    if file == REPORT_NAME:
        headers["Content-Security-Policy"] = REPORT_POLICY
    return Response(content, media_type=_TYPES[suffix], headers=headers)
