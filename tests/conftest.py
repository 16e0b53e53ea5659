"""Shared by all tests: CPU ranks with one thread each; a session has one pair of them, one browser, one JupyterLab.

The browser is the first Chromium on the PATH: to try another, put its folder there.
"""

import functools
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from typing import NamedTuple

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


MIDDLE = """async (element) => {
  // JupyterLab moves its cells a while after each scrolling; a reader presses what stands still.
  for (let still = 0, before = null; still < 6; await new Promise((wake) => setTimeout(wake, 50))) {
    const { top, bottom, left } = element.getBoundingClientRect();
    const seen = top >= 0 && bottom <= innerHeight;
    if (!seen) element.scrollIntoViewIfNeeded();
    still = seen && before === `${top} ${left}` ? still + 1 : 0;
    before = `${top} ${left}`;
  }
  const { x, y, width, height } = element.getBoundingClientRect();
  const middle = [x + width / 2, y + height / 2];
  const top = document.elementFromPoint(...middle);
  const own = [element, ...(element.labels ?? [])].some((each) => each.contains(top));
  return [...middle, own ? "" : top?.outerHTML.slice(0, 120) ?? "the edge of the screen"];
}"""


def press(target, held_ms=0):
    """Press an element in its middle with the mouse as a reader does; fails where something else lies over it.

    Playwright's own click waits while a control says that it is refused, and its forced click presses what lies on top.
    """
    x, y, cover = target.evaluate(MIDDLE)
    assert cover == "", f"it cannot be pressed: over it lies {cover}"
    target.page.mouse.click(x, y, delay=held_ms)


class JupyterLab(NamedTuple):
    """A running JupyterLab: where it is, the folder that it shows, its process."""

    address: str
    folder: Path
    server: subprocess.Popen


@pytest.fixture(scope="session")
def _one_jupyterlab(tmp_path_factory):
    from labsupport.launch.processes import stop
    from labsupport.machine import free_port

    home, root = tmp_path_factory.mktemp("jupyter"), tmp_path_factory.mktemp("course")
    folder = root / "notebooks"
    folder.mkdir()
    shutil.copytree(ROOT / "book", root / "book")
    port = free_port()
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--ServerApp.port={port}",
               "--ServerApp.port_retries=0", "--IdentityProvider.token=", "--ServerApp.disable_check_xsrf=True",
               f"--ServerApp.root_dir={root}"]  # fmt: skip
    own = {"JUPYTER_CONFIG_DIR": str(home / "config"), "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
           "JUPYTER_CONFIG_PATH": str(ROOT / "notebooks" / ".jupyter"),
           "DEEPSPEED_COURSE_PROGRESS": str(home / "progress.json")}  # fmt: skip
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    outside = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}  # ipykernel reads it
    server = subprocess.Popen(command, env=outside | own, start_new_session=True, **quiet)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            try:
                urllib.request.urlopen(f"{address}/api/status", timeout=5).close()
                break
            except OSError:
                assert server.poll() is None, "JupyterLab ended"
                time.sleep(0.2)
        yield JupyterLab(address, folder, server)
    finally:
        stop(server)


@pytest.fixture
def jupyterlab(_one_jupyterlab):
    """A JupyterLab, the same for every test; afterwards its kernels end and its folder is empty."""
    yield _one_jupyterlab
    sessions = f"{_one_jupyterlab.address}/api/sessions"
    with urllib.request.urlopen(sessions, timeout=30) as answer:
        open_ones = json.load(answer)
    for session in open_ones:
        request = urllib.request.Request(f"{sessions}/{session['id']}", method="DELETE")
        urllib.request.urlopen(request, timeout=30).close()
    for file in _one_jupyterlab.folder.glob("*.ipynb"):
        file.unlink()


STARTS_SOMETHING = {"two_ranks", "site", "browser", "tab", "jupyterlab"}
# The files that take longest, in their order: begun last, one of them would run alone on an idle machine.
LONGEST = ("test_pages", "test_program", "test_live_training", "test_exercises", "test_workers", "test_suites",
           "test_jupyterlab", "test_agreement", "test_resume", "test_faults")  # fmt: skip


def pytest_collection_modifyitems(items):
    """Mark as slow what a fixture makes slow; files that start ranks themselves say so with `pytestmark`.

    The longest files come first, and those that are quick last, to fill what is left.
    """
    for item in items:
        if STARTS_SOMETHING & set(item.fixturenames):
            item.add_marker("slow")
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    order = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: (order.get(item.path.stem, len(order)), item.path not in slow))
