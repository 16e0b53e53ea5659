"""What a reader's browser fetches of every built page, how soon it shows something, how soon a choice is drawn.

    python benchmarks/page_weight.py     # measures _build/html in Chromium, writes labsupport/recorded/page_weight.json

The pages come from a server on this machine that compresses as a web host does, each into an empty cache. The first
view is what arrives without scrolling; a figure's share is what scrolling to the first figure adds.
"""

import contextlib
import functools
import gzip
import http.server
import shutil
import statistics
import sys
import threading
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HTML = ROOT / "_build" / "html"
VIEWPORTS = {"desktop": {"width": 1280, "height": 900}, "phone": {"width": 390, "height": 844}}
SELECTOR_PAGE = "book/selector.html"
TARGET_BYTES = 700_000  # of a page's first view, compressed
COMPRESSED = (".html", ".css", ".js", ".json", ".svg")
COMPRESSION_LEVEL = 6
WARM_UP_ROUNDS, ROUNDS = 1, 3
SEED = "none: nothing is drawn at random"


def built_pages(folder=HTML):
    """Return the book's pages as paths below the folder."""
    return sorted(
        str(path.relative_to(folder)) for kind in ("book", "notebooks") for path in folder.glob(f"{kind}/*.html")
    )


class CompressingHandler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder, text compressed with gzip."""

    def do_GET(self):
        path = Path(self.translate_path(self.path))
        if path.suffix not in COMPRESSED or not path.is_file():
            return super().do_GET()
        content = compressed(path)
        self.send_response(200)
        self.send_header("Content-Type", self.guess_type(str(path)))
        self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


@functools.cache
def compressed(path):
    """Return a file's bytes as a web host sends them."""
    return gzip.compress(path.read_bytes(), COMPRESSION_LEVEL)


@contextlib.contextmanager
def served(folder=HTML):
    """Serve the folder and give its address."""
    handler = functools.partial(CompressingHandler, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextlib.contextmanager
def fresh_tab(browser, viewport):
    """Give (a tab with an empty cache, {address: bytes that it received, headers included}), the latter growing."""
    context = browser.new_context(viewport=viewport)
    try:
        tab = context.new_page()
        session, addresses, received = context.new_cdp_session(tab), {}, {}
        session.on(
            "Network.requestWillBeSent", lambda event: addresses.update({event["requestId"]: event["request"]["url"]})
        )
        session.on(
            "Network.loadingFinished",
            lambda event: received.update({addresses[event["requestId"]]: int(event["encodedDataLength"])}),
        )
        session.send("Network.enable")
        yield tab, received
    finally:
        context.close()


def page_weight(browser, address, viewport, figures=True):
    """Return {"first_view_bytes", "requests", "first_figure_bytes", "first_paint_seconds"} of one page.

    first_figure_bytes: what scrolling to the first figure adds; None where there is no figure, or none is asked for.
    Plotly counts there even if a figure stands in the first view, where the reader sees its still picture first.
    """
    with fresh_tab(browser, viewport) as (tab, received):
        tab.goto(address, wait_until="networkidle")
        tab.wait_for_function("performance.getEntriesByName('first-contentful-paint').length")
        paint = tab.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime / 1000")
        first_view = {url: size for url, size in received.items() if size and "plotly.min.js" not in url}
        figure = tab.locator("figure.lab-figure .lab-figure-plot").first
        if has_figure := figures and figure.count() > 0:
            figure.scroll_into_view_if_needed()
            tab.locator("figure.lab-figure.is-drawn").first.wait_for()
        added = sum(size for url, size in received.items() if url not in first_view)
    return {
        "first_view_bytes": sum(first_view.values()),
        "requests": len(first_view),
        "first_figure_bytes": added if has_figure else None,
        "first_paint_seconds": paint,
    }


def measure_page(browser, address):
    """Return {viewport: page_weight}, with the samples of the first paint and their median."""
    measured = {}
    for name, viewport in VIEWPORTS.items():
        rounds = [page_weight(browser, address, viewport) for _ in range(WARM_UP_ROUNDS + ROUNDS)][WARM_UP_ROUNDS:]
        samples = [each.pop("first_paint_seconds") for each in rounds]
        measured[name] = rounds[-1] | {
            "first_paint_seconds": samples,
            "median_first_paint_seconds": statistics.median(samples),
        }
    return measured


REDRAWS = """() => {
  const seconds = [];
  const timed = (change) => {
    const start = performance.now();
    change();
    document.body.getBoundingClientRect(); // the layout belongs to it
    seconds.push((performance.now() - start) / 1000);
  };
  const all = (selector) => [...document.querySelectorAll(`.stage-selector ${selector}`)];
  const shown = (selector) => all(selector).filter((each) => each.offsetParent);
  for (const list of shown(".controls select")) {
    for (const { value } of list.options) timed(() => { list.value = value; list.dispatchEvent(new Event("change")); });
  }
  for (const number of shown("input[type=number][data-axis]")) {
    for (const value of [1, 2, 8, 64]) timed(() => { number.value = value; number.dispatchEvent(new Event("input")); });
  }
  for (const button of shown("input[type=radio]")) timed(() => button.click());
  return seconds;
}"""


def redraw_seconds(browser, address):
    """Return the seconds that each choice of the stage selector takes to show, layout included, in order."""
    with fresh_tab(browser, VIEWPORTS["desktop"]) as (tab, _):
        tab.goto(address, wait_until="networkidle")
        tab.locator(".stage-selector").wait_for()
        for _ in range(WARM_UP_ROUNDS):
            tab.evaluate(REDRAWS)
        return [seconds for _ in range(ROUNDS) for seconds in tab.evaluate(REDRAWS)]


def processor():
    """Return this machine's processor and its number of cores, in words."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else 'CPU'}, {len(names)} cores"


def main():
    """Measure every page, print a line for each, and record."""
    from playwright.sync_api import sync_playwright

    from labsupport.records import record

    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not chromium or not built_pages():
        print("error: this needs a built book (make book) and the package chromium.", file=sys.stderr)
        return 1
    with sync_playwright() as playwright, served() as address:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=chromium, args=flags)
        pages = {}
        for page in built_pages():
            pages[page] = measure_page(browser, f"{address}/{page}")
            print(page, *(said(name, weight) for name, weight in pages[page].items()), sep="  ", flush=True)
        redraws = redraw_seconds(browser, f"{address}/{SELECTOR_PAGE}")
        median, worst = statistics.median(redraws) * 1e3, max(redraws) * 1e3
        print(f"stage selector  {len(redraws)} choices: median {median:.1f} ms, longest {worst:.1f} ms")
        hardware = f"{processor()}; Chromium {browser.version}, headless"
        browser.close()
    config = {"viewports": VIEWPORTS, "compression": f"gzip, level {COMPRESSION_LEVEL}", "target_bytes": TARGET_BYTES}
    command = "python benchmarks/page_weight.py"
    measured = {"pages": pages, "redraw_seconds": [round(seconds, 5) for seconds in redraws]}
    path = record("page_weight", command, config, hardware, SEED, WARM_UP_ROUNDS, ROUNDS, measured)
    print(f"Recorded in {path.name}.")
    return 0


def said(viewport, weight):
    """Return one viewport's figures in words."""
    figure = f", a figure adds {weight['first_figure_bytes'] / 1e6:.2f} MB" if weight["first_figure_bytes"] else ""
    return (
        f"{viewport}: {weight['first_view_bytes'] / 1e3:.0f} kB in {weight['requests']} requests, "
        f"first paint {weight['median_first_paint_seconds'] * 1e3:.0f} ms{figure}"
    )


if __name__ == "__main__":
    sys.exit(main())
