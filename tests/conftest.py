"""Shared by all tests: CPU ranks with one thread each, one pair of them for the whole session, and one browser."""

import functools
import http.server
import os
import shutil
import sys
import threading
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
os.environ["DS_ACCELERATOR"] = "cpu"
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
# The ranks import the functions that a test sends them.
ON_RANKS = str(ROOT / "tests" / "on_ranks")
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [ON_RANKS, os.environ.get("PYTHONPATH")]))


@pytest.fixture(scope="session")
def root():
    """The repository's top folder."""
    return ROOT


@pytest.fixture(scope="session")
def _pairs_of_ranks():
    started = []
    yield started
    for ranks in started:
        ranks.stop()


@pytest.fixture
def two_ranks(_pairs_of_ranks):
    """Two live CPU ranks, the same for every test; fresh ones where a test has stopped them."""
    from labsupport.ranks.notebook import Ranks

    if not _pairs_of_ranks or not _pairs_of_ranks[-1].alive:
        _pairs_of_ranks.append(Ranks(2, "cpu"))
    return _pairs_of_ranks[-1]


HTML = ROOT / "_build" / "html"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium on this machine: install the package chromium"
)
needs_book = pytest.mark.skipif(
    not (HTML / "index.html").exists(), reason="the book is not built yet: make book builds it"
)


@pytest.fixture(scope="session")
def site():
    """The address of the built book, served from this machine."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Quiet, directory=str(HTML))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="session")
def browser():
    """A headless Chromium."""
    from playwright.sync_api import sync_playwright

    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield chromium
        chromium.close()


@pytest.fixture
def tab(browser):
    """A page of its own in the browser; the test fails if its console shows an error or it asks another site."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme="light")
    page = context.new_page()
    errors, asked = [], []
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    yield page
    own = ("http://127.0.0.1:", "http://localhost:", "ws://127.0.0.1:", "ws://localhost:", "data:", "blob:", "about:")
    away = [url for url in asked if not url.startswith(own)]
    context.close()
    assert errors == []
    assert away == []


STARTS_SOMETHING = {"two_ranks", "site", "browser", "tab"}


def pytest_collection_modifyitems(items):
    """Mark as slow what a fixture makes slow; files that start ranks themselves say so with `pytestmark`."""
    for item in items:
        if STARTS_SOMETHING & set(item.fixturenames):
            item.add_marker("slow")
