"""Where an issuer's public keys come from: a file, a URL, or what the issuer's discovery document names."""

import json
import urllib.request
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlsplit

import jwt

from service.security.addresses import is_loopback

_TIMEOUT_SECONDS = 5.0
_LARGEST_BYTES = 512 * 1024
_DISCOVERY = "/.well-known/openid-configuration"


class JwksUnavailable(Exception):
    """The issuer's keys cannot be fetched or read."""


class JwksSource:
    """Fetches a JWKS document; blocks, so not for the event loop."""

    def __init__(self, issuer: str, location: str | None) -> None:
        """Take the settings.

        Raises:
            ValueError: the location is a URL without TLS, which anybody on the way could replace.
        """
        self._location = location
        self._issuer = issuer
        for url in (issuer if location is None else location,):
            if "://" in url:
                _check_url(url)
            elif location is None:
                raise ValueError(f"the issuer {url!r} is no URL, so its keys must be named: set oidc_keys")

    def fetch(self) -> list[jwt.PyJWK]:
        """Return the keys that can sign.

        Raises:
            JwksUnavailable: the document cannot be had, or holds no such key.
        """
        location = self._location or self._discover()
        document = _get(location) if "://" in location else _read(Path(location))
        keys = []
        for entry in document.get("keys", []) if isinstance(document.get("keys"), list) else []:
            try:
                key = jwt.PyJWK(entry)
            except jwt.PyJWTError:
                continue  # of a kind that is not known here; its tokens are refused by their kid
            if key.public_key_use in (None, "sig") and key.key_type != "oct":
                keys.append(key)
        if not keys:
            raise JwksUnavailable(f"{location} holds no public key for signatures")
        return keys

    def _discover(self) -> str:
        document = _get(self._issuer.rstrip("/") + _DISCOVERY)
        found = document.get("jwks_uri")
        if document.get("issuer") != self._issuer or not isinstance(found, str):
            raise JwksUnavailable(f"the discovery document of {self._issuer} names another issuer, or no keys")
        try:
            _check_url(found)
        except ValueError as error:
            raise JwksUnavailable(str(error)) from error
        return found


def _check_url(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(parts.hostname or "")):
        raise ValueError(f"keys are fetched over https only, not from {url!r}")


class _Stay(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: it could lead to an address that was not checked."""

    def redirect_request(self, *arguments: Any) -> None:
        return None


def _get(url: str) -> dict[str, Any]:
    try:
        with urllib.request.build_opener(_Stay).open(url, timeout=_TIMEOUT_SECONDS) as answer:
            return _parse(url, answer.read(_LARGEST_BYTES + 1))
    except (URLError, OSError) as error:
        raise JwksUnavailable(f"{url} cannot be fetched: {error}") from error


def _read(path: Path) -> dict[str, Any]:
    try:
        return _parse(str(path), path.read_bytes())
    except OSError as error:
        raise JwksUnavailable(f"{path} cannot be read: {error.strerror}") from error


def _parse(source: str, body: bytes) -> dict[str, Any]:
    if len(body) > _LARGEST_BYTES:
        raise JwksUnavailable(f"{source} is larger than {_LARGEST_BYTES} bytes")
    try:
        document = json.loads(body)
    except ValueError as error:
        raise JwksUnavailable(f"{source} is not JSON") from error
    if not isinstance(document, dict):
        raise JwksUnavailable(f"{source} is not a JSON object")
    return document
