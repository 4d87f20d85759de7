"""The page at `/`: static files of the package, with a policy under which a browser asks no other host."""

import gzip
import hashlib
from functools import cache
from importlib.resources import files
from typing import NamedTuple

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

INDEX = "index.html"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_RULES = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self' data: blob:",
    "connect-src": "'self'",
    "frame-ancestors": "'none'",
    "base-uri": "'none'",
    "form-action": "'self'",
}
_HEADERS = {
    "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in _RULES.items()),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",  # asked again every time, answered 304 by the ETag: an upgrade never mixes versions
    "Vary": "Accept-Encoding",
}


class Asset(NamedTuple):
    """A file as it is sent."""

    body: bytes
    compressed: bytes
    etag: str
    media_type: str


@cache
def assets() -> dict[str, Asset]:
    """Return every file of the page by its name, read and compressed once."""
    found = {}
    for file in files("service").joinpath("page").iterdir():
        end = file.name[file.name.rfind(".") :]
        if end in _TYPES:
            body = file.read_bytes()
            etag = f'"{hashlib.sha256(body).hexdigest()[:24]}"'
            found[file.name] = Asset(body, gzip.compress(body, 9, mtime=0), etag, _TYPES[end])
    return found


async def page(request: Request) -> Response:
    """The page that shows what the gates do."""
    return _answer(request, INDEX)


async def page_file(request: Request, file: str) -> Response:
    """A script, style or picture of the page."""
    return _answer(request, file)


def _answer(request: Request, name: str) -> Response:
    asset = assets().get(name)
    if asset is None:
        raise HTTPException(404)
    headers = {**_HEADERS, "ETag": asset.etag}
    known = {tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")}
    if asset.etag in known or "*" in known:
        return Response(status_code=304, headers=headers)
    if _takes_gzip(request.headers.get("accept-encoding", "")):
        headers["Content-Encoding"] = "gzip"
        return Response(asset.compressed, media_type=asset.media_type, headers=headers)
    return Response(asset.body, media_type=asset.media_type, headers=headers)


def _takes_gzip(accepted: str) -> bool:
    for part in accepted.lower().split(","):
        coding, *parameters = (field.strip().replace(" ", "") for field in part.split(";"))
        if coding == "gzip":
            return not any(field in ("q=0", "q=0.0", "q=0.00", "q=0.000") for field in parameters)
    return False
