"""What is done to the pages after Sphinx wrote them: only what a page needs is loaded, and it reads without scripts.

The theme's templates name these things outright, so they are mended in the HTML; where the theme no longer writes
what is looked for, the build fails rather than leave it.
"""

import importlib.util
import re
import shutil
from pathlib import Path

from sphinx.errors import ExtensionError

from course.finished import exercises, icons, pictures

# A file that comes with the theme's extensions, and what a page's text contains if the page uses it.
USED_BY = {
    "thebe": 'class="thebe',
    "design-tabs.js": "sd-tab-set",
    "sphinx-design.min.css": 'class="sd-',
    "togglebutton.css": "toggle",
    "togglebutton.js": "toggle",
    "figures.js": "lab-figure",
    "widgets.js": "lab-widget",
    "stage_selector.css": 'data-widget="stage_selector"',
    "step_through.css": 'data-widget="step_through"',
    "error_finder": 'class="error-finder"',
    "mystnb": "cell",
}
# Sphinx's search: on search.html search.js loads it where Pagefind's cannot be loaded; elsewhere only a search while
# one types would need it, which this book has not.
SEARCH_SCRIPTS = ("_static/searchtools.js", "_static/language_data.js", "searchindex.js")
TABLE = re.compile(r"<table\b.*?</table>", re.DOTALL)
NAME_IN_CODE = re.compile(r'(?<=<span class="pre">)[^<]+(?=</span>)')
VIEWPORT = re.compile(r'\s*<meta name="viewport"[^>]*>')  # Sphinx, docutils and the theme write one each
EMPTY_TOP_BAR = '<header id="pst-header" class="bd-header d-none"></header>'  # the theme's scripts ask its height
AUTO_THEME = 'dataset.theme = localStorage.getItem("theme") || "auto";'
RESOLVED_THEME = AUTO_THEME.replace('"auto"', '(matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")')


def setup(app):
    """Register the steps; course/__init__.py calls it."""
    app.connect("html-page-context", _drop_unused_files, priority=900)
    app.connect("build-finished", finish)


def finish(app, exception):
    """Mend the style sheets and every page of a finished HTML build; raises ExtensionError."""
    if exception is not None or app.builder.format != "html":
        return
    out = Path(app.outdir)
    _copy_plotly(out / "_static")
    _draw_icons_in_css(out / "_static")
    pages = {path: path.read_text(encoding="utf-8") for path in _pages(out)}
    drawn = pictures.draw(pages.values(), out / "_static", out.parent / "still_pictures")
    for path, page in pages.items():
        finished = pictures.insert(finished_page(page, path.name), drawn)
        if finished != page:
            path.write_text(finished, encoding="utf-8")


def finished_page(page, name):
    """Return a page's HTML without what it does not use, with inline icons; a finished page comes back as it was."""
    if "fontawesome.js" in page:
        page = _without(
            page, r'\s*<!-- So that users[^\n]*\n\s*<script defer src="[^"]*/fontawesome\.js[^"]*"></script>'
        )
        page = _without(page, re.escape(AUTO_THEME), RESOLVED_THEME)
        # The theme has no rules for "auto": where no script says light or dark, the page is light.
        page = _without(page, r' data-theme="auto"', ' data-theme="light"')
        # The top bar only repeats the buttons, and the theme's scripts would serve its instead of the article's.
        page = _without(page, r'<header id="pst-header".*?</header>', EMPTY_TOP_BAR)
        for script in SEARCH_SCRIPTS:
            page = _without(page, rf'\s*<script src="[^"]*{re.escape(script)}[^"]*"></script>')
        if name == "search.html":
            page = page.replace("</head>", '<script src="_static/search.js"></script>\n</head>', 1)
    # References: a list may hold only list items, and these are not.
    page = page.replace('<div role="list" class="citation-list">', '<div class="citation-list">')
    page = re.sub(r"<title>(.+) &#8212; \1</title>", r"<title>\1</title>", page)  # of the first page
    first = VIEWPORT.search(page)
    if first:
        page = page[: first.end()] + VIEWPORT.sub("", page[first.end() :])
    page = exercises.show(page)
    page = TABLE.sub(lambda table: NAME_IN_CODE.sub(_breakable, table[0]), page)
    return icons.inline_icons(page)


def _breakable(name):
    """A name in a table's code: it may break after _ and . and nowhere else, above all not within --option."""
    text = re.sub(r"(?<=\w)([_.])(?=\w)", r"\1<wbr>", name[0])
    return re.sub(r"-+\w+", r'<span class="unbroken">\g<0></span>', text)


def _without(page, pattern, instead=""):
    """The page without the first place that the pattern finds, or with something else there."""
    mended, count = re.subn(pattern, instead, page, count=1, flags=re.DOTALL)
    if not count:
        raise ExtensionError(f"The theme's pages hold nothing like {pattern!r} any more: see {Path(__file__).name}.")
    return mended


def _pages(out):
    return [path for path in sorted(out.rglob("*.html")) if "_static" not in path.relative_to(out).parts]


def _drop_unused_files(app, pagename, templatename, context, doctree):
    """Leave out the style sheets and scripts that this page does not use."""
    body = context.get("body") or ""
    for kind in ("script_files", "css_files"):
        context[kind] = [file for file in context[kind] if _is_used(file, body)]


def _is_used(file, body):
    said = f"{getattr(file, 'filename', file)}{getattr(file, 'attributes', '')}".lower()
    return all(mark in body for part, mark in USED_BY.items() if part in said)


def _draw_icons_in_css(static):
    """Take the icon font out of the theme's style sheets, and draw what they used it for."""
    theme, book_theme = (static / "styles" / name for name in ("pydata-sphinx-theme.css", "sphinx-book-theme.css"))
    sheet = icons.without_icon_font(theme.read_text(encoding="utf-8"))
    if icons.notice() not in sheet:
        rules = icons.drawn_rules(sheet, book_theme.read_text(encoding="utf-8"))
        theme.write_text(f"{sheet}\n{rules}\n", encoding="utf-8")
    shutil.rmtree(static / "vendor" / "fontawesome", ignore_errors=True)
    for script in (static / "scripts").glob("fontawesome.js*"):
        script.unlink()


def _copy_plotly(static):
    """Lay the installed plotly.js beside figures.js: one copy for the book, and none from another site."""
    package = Path(importlib.util.find_spec("plotly").origin).parent
    target = static / "plotly.min.js"
    if not target.exists():
        shutil.copyfile(package / "package_data" / "plotly.min.js", target)
