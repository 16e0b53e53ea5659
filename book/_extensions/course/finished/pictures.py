"""A still picture for every figure: plotly.js draws it once at build time, in headless Chromium through Playwright.

The page shows the picture until figures.js has fetched Plotly, and where no script runs at all. Each figure is
drawn as wide as an article and as wide as a phone; the style sheet chooses.
"""

import hashlib
import re
import shutil
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from urllib.parse import unquote

from sphinx.util import logging

logger = logging.getLogger(__name__)

FIGURE = re.compile(r'<figure class="lab-figure">.*?</figure>', re.DOTALL)
EMPTY_PLOT = re.compile(r'(<div class="lab-figure-plot"[^>]*>)</div>')
WIDTHS = {"wide": 690, "narrow": 358}  # pixels: an article beside two side bars, a phone held upright
# Colours that no figure has stand for the page's own, which follow the reader's light or dark theme.
PAGE_COLOURS = {"text": "rgb(1, 2, 3)", "grid": "rgb(4, 5, 6)", "line": "rgb(7, 8, 9)", "ground": "rgb(10, 11, 12)"}
# A wide font: with the reader's own, words take as much room or less.
STYLE = "body { font-family: 'DejaVu Sans', Verdana, sans-serif } figure { margin: 0 }"
SVG = "http://www.w3.org/2000/svg"
ElementTree.register_namespace("", SVG)
# What Plotly writes and a still picture does not need: the page's own font holds, and the rest are SVG's defaults.
NEEDLESS_STYLE = re.compile(
    r"(?:font-family|white-space|pointer-events|(?:fill-|stroke-)?opacity: 1|font-(?:weight|style|variant): normal)"
    r"[^;]*;\s*"
)
LONG_NUMBER = re.compile(r"-?\d+\.\d{2,}")
FLAT_STEPS = re.compile(r"(V(-?[\d.]+))(?:H-?[\d.]+V\2(?=H))+")  # V7H1V7H2V7H3: along, at one height
PLACE = "PICTURE"  # in the ids, until the picture has its place on a page


def draw(pages, static, cache):
    """Return {a figure's HTML: its pictures' HTML} for all figures of the pages; says so where nothing can draw them.

    pages: their HTML. static: the book's _static folder. cache: a folder that keeps the pictures of earlier builds.
    """
    files = {figure: cache / f"{_digest(figure, static)}.svg" for page in pages for figure in FIGURE.findall(page)}
    missing = [figure for figure, file in files.items() if not file.exists()]
    if missing and not _draw_into(cache, missing, files, static):
        return {}
    return {figure: file.read_text(encoding="utf-8") for figure, file in files.items()}


def insert(page, pictures):
    """Return a page's HTML with the picture in each figure; ids are made unique within the page."""
    for number, figure in enumerate(dict.fromkeys(FIGURE.findall(page))):
        if figure in pictures:
            picture = pictures[figure].replace(PLACE, f"picture-{number}")
            page = page.replace(figure, EMPTY_PLOT.sub(lambda found, svg=picture: f"{found[1]}{svg}</div>", figure))
    return page


def _digest(figure, static):
    digest = hashlib.sha256(figure.encode() + Path(__file__).read_bytes())
    for name in ("figures.js", "plotly.min.js"):
        digest.update((static / name).read_bytes())
    return digest.hexdigest()[:32]


def _draw_into(cache, figures, files, static):
    """Draw the figures and keep them in the cache; return whether there was something to draw with."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        chromium = None
    if not chromium:
        logger.info(
            "The pages have no still pictures of their figures: "
            "install the package chromium and `pip install playwright`, then build again."
        )
        return False
    cache.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=chromium, args=flags)
        for figure, drawings in zip(figures, _drawn(browser, figures, static), strict=True):
            files[figure].write_text(_still(drawings), encoding="utf-8")
        browser.close()
    return True


def _drawn(browser, figures, static):
    """[[SVG text for each of WIDTHS]] for the figures, as figures.js draws them."""
    columns = "".join(f'<div style="width:{width}px">{"".join(figures)}</div>' for width in WIDTHS.values())
    colours = "".join(f"--lab-figure-{name}:{colour};" for name, colour in PAGE_COLOURS.items())
    with tempfile.NamedTemporaryFile("w", suffix=".html", encoding="utf-8") as file:
        file.write(
            f'<!DOCTYPE html><meta charset="utf-8"><style>:root{{{colours}}}{STYLE}</style>'
            f'{columns}<script src="{(static / "figures.js").resolve().as_uri()}"></script>'
        )
        file.flush()
        page = browser.new_page(viewport={"width": 1000, "height": 1000}, reduced_motion="reduce")
        page.goto(Path(file.name).as_uri())
        drawings = page.evaluate(TAKE_DRAWINGS)
    return [drawings[number :: len(figures)] for number in range(len(figures))]


# Every figure in turn comes into view, which makes figures.js draw it.
TAKE_DRAWINGS = """async () => {
  const drawings = [];
  for (const figure of document.querySelectorAll("figure.lab-figure")) {
    figure.scrollIntoView();
    while (!figure.matches(".is-drawn, .is-missing")) await new Promise((done) => setTimeout(done, 10));
    const plot = figure.querySelector(".js-plotly-plot");
    const { width, height } = plot.getBoundingClientRect();
    drawings.push(await Plotly.toImage(plot, { format: "svg", width, height }));
  }
  return drawings;
}"""


def _still(drawings):
    """The HTML for a figure's pictures; the words beside them say the same to a screen reader."""
    pictures = "".join(
        _slim(unquote(drawing.partition(",")[2]), name) for name, drawing in zip(WIDTHS, drawings, strict=True)
    )
    return f'<div class="lab-figure-still" aria-hidden="true">{pictures}</div>'


def _slim(svg, name):
    """An SVG of Plotly's as part of a page: the page's font and colours, ids of its own, few digits."""
    root = ElementTree.fromstring(svg)
    width, height = root.get("width"), root.get("height")
    _simplify(root)
    root.attrib = {"class": f"lab-figure-{name}", "viewBox": f"0 0 {width} {height}"}
    text = ElementTree.tostring(root, encoding="unicode")
    for colour, value in PAGE_COLOURS.items():
        text = text.replace(value, f"var(--lab-figure-{colour})")
    found = dict.fromkeys(re.findall(r'\bid="([^"]+)"', text))
    ids = {identifier: f"{PLACE}-{name}-{number}" for number, identifier in enumerate(found)}
    return re.sub(r'(?<=\bid=")[^"]+|(?<=#)[\w-]+', lambda match: ids.get(match[0], match[0]), text)


def _simplify(element):
    """Take out of an SVG element what only the live figure needs, and of its children those that show nothing."""
    for name, value in list(element.attrib.items()):
        # Plotly cuts its legend off where the text ends in the font that it was drawn with.
        if name.startswith(("data-", "class", "pointer-")) or "#legend" in value:
            del element.attrib[name]
    for name, value in element.attrib.items():
        if name == "style":
            element.set(name, NEEDLESS_STYLE.sub("", f"{value.rstrip('; ')}; ").strip("; "))
        elif name != "id":
            short = LONG_NUMBER.sub(lambda number: f"{float(number[0]):.1f}".removesuffix(".0"), value)
            element.set(name, FLAT_STEPS.sub(r"\1", short))
    for child in list(element):
        _simplify(child)
        if _shows_nothing(child):
            element.remove(child)


def _shows_nothing(element):
    empty_group = element.tag == f"{{{SVG}}}g" and not len(element)
    unseen = element.tag == f"{{{SVG}}}rect" and "fill-opacity: 0" in element.get("style", "")
    return empty_group or unseen
