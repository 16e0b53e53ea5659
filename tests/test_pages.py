"""The built book in a real browser: it asks nobody but itself, shows no error, and fits a phone."""

import functools
import http.server
import shutil
import threading

import pytest
from conftest import ROOT

HTML = ROOT / "_build" / "html"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine: install the package chromium"),
    pytest.mark.skipif(not (HTML / "index.html").exists(), reason="the book is not built yet: make book builds it"),
]
PAGES = sorted(str(path.relative_to(HTML)) for path in HTML.glob("*/*.html")) if HTML.exists() else []
PAGES = [page for page in PAGES if page.startswith(("book/", "notebooks/"))]


@pytest.fixture(scope="module")
def site():
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


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield chromium
        chromium.close()


@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_whole_and_fits(browser, site, page):
    for width, scheme in ((1280, "light"), (390, "dark")):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        tab = context.new_page()
        asked, errors = [], []
        tab.on("request", lambda request, asked=asked: asked.append(request.url))
        tab.on(
            "console", lambda message, errors=errors: errors.append(message.text) if message.type == "error" else None
        )
        tab.on("pageerror", lambda error, errors=errors: errors.append(str(error)))
        response = tab.goto(f"{site}/{page}", wait_until="load")
        figures = tab.locator("figure.lab-figure")
        for number in range(figures.count()):
            figures.nth(number).scroll_into_view_if_needed()
            figures.nth(number).locator(".main-svg").first.wait_for(timeout=20_000)
        assert response.ok and tab.locator("article h1").count() == 1
        # data: is a picture inside the page itself.
        assert [url for url in asked if not url.startswith((site, "data:", "blob:"))] == []
        assert errors == []
        assert tab.evaluate("document.documentElement.scrollWidth") <= width, "wider than the screen"
        context.close()
