"""A real service in a thread, and Debian's Chromium that looks at it."""

import os
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from service.app import create_app
from service.settings import Settings

MODELS = Path(__file__).parents[3] / "models"
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")


class Server:
    """The service with real sockets, in a thread of its own."""

    def __init__(self, **settings: Any) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.repository = Path(settings.get("repository", MODELS))
        app = create_app(Settings(**{"repository": MODELS, **settings}))
        self._server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=self.port, log_config=None))
        self._thread = threading.Thread(target=self._server.run)
        self._thread.start()
        while not self._server.started:
            if not self._thread.is_alive():
                raise RuntimeError("the service did not start")
            self._thread.join(0.02)
        self.url = f"http://127.0.0.1:{self.port}/"

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join()


class Look:
    """A tab that remembers whatever must not happen: errors, refusals of the policy, requests to other hosts."""

    def __init__(self, page: Any, url: str) -> None:
        self.page = page
        self.url = url
        self.foreign: list[str] = []
        self.errors: list[str] = []
        page.on("request", lambda request: self._asked(request.url))
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", lambda line: self.errors.append(line.text) if line.type == "error" else None)

    def _asked(self, url: str) -> None:
        if not url.startswith((self.url, "data:", "blob:")):
            self.foreign.append(url)

    def open(self, fragment: str = "") -> "Look":
        """Load the page and wait until it shows what it has."""
        self.page.goto("about:blank")
        self.page.goto(self.url + fragment)
        self.page.wait_for_selector("html[data-ready]")
        return self

    def tab(self, view: str) -> None:
        self.page.click(f"#tab-{view}")

    def module(self, name: str, code: str, *given: Any) -> Any:
        """Run a function body with the exports of one of the page's modules in `m` and arguments in `a`."""
        source = f"async (a) => {{ const m = await import('/page/{name}.js'); {code} }}"
        return self.page.evaluate(source, list(given))


@pytest.fixture(scope="module")  # its event loop must not run on into tests of others
def chromium() -> Iterator[Any]:
    """Return a browser; where there is none, the tests say so."""
    playwright = pytest.importorskip("playwright.sync_api", reason="NOT TESTED: pip install playwright")
    if CHROMIUM is None:
        pytest.skip("NOT TESTED: there is no chromium (apt-get install chromium)")
    with playwright.sync_playwright() as started:
        # Its sandbox needs rights that containers do not give; it looks at our own pages only.
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """Return the service over the shipped classifier."""
    server = Server()
    yield server
    server.close()


@pytest.fixture
def look(chromium: Any, server: Server) -> Iterator[Look]:
    """Return a fresh tab on the service; nothing may have gone wrong in it by the end."""
    with_tab = _tabs(chromium)
    look = with_tab(server.url)
    yield look
    look.page.context.close()
    assert look.foreign == []
    assert look.errors == []


@pytest.fixture
def tab(chromium: Any) -> Iterator[Callable[..., Look]]:
    """Return a function that opens tabs, for tests that expect errors."""
    opened: list[Look] = []
    make = _tabs(chromium)

    def start(url: str, **options: Any) -> Look:
        opened.append(make(url, **options))
        return opened[-1]

    yield start
    for look in opened:
        look.page.context.close()


def _tabs(browser: Any) -> Callable[..., Look]:
    def start(url: str, **options: Any) -> Look:
        shown = {"viewport": {"width": 1280, "height": 900}, "locale": "en-GB", "accept_downloads": True, **options}
        page = browser.new_context(**shown).new_page()
        page.set_default_timeout(10_000)
        return Look(page, url)

    return start
