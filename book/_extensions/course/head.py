"""What search engines and previews of links read: a description of each page, a map of the book, a page for dead links.

Addresses are whole only where the book knows its own, BOOK_BASE_URL: without it there is no map and no preview image.
"""

from html import escape
from pathlib import Path

from docutils import nodes

from course.labs import lab_head

PREVIEW = "_static/preview.png"  # python book/preview.py makes it
LONGEST = 200  # characters of a description that search engines show
NOT_IN_THE_MAP = {"index", "search", "genindex", "py-modindex", "404"}
NOT_FOUND = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex"><title>Not found: {title}</title>
<style>:root {{ color-scheme: light dark }} body {{ font: 1.1rem/1.6 system-ui, sans-serif; margin: 15vh auto;
max-width: 32rem; padding: 0 1rem }}</style></head><body><main><article><h1>There is no such page</h1>
<p>It may have been renamed. <a href="{home}">The first page</a> lists the labs, and
<a href="{search}">the search</a> finds every section.</p></article></main></body></html>
"""


def setup(app):
    """Register the steps."""
    app.connect("html-page-context", _describe)
    app.connect("build-finished", _write_files)


def _describe(app, pagename, templatename, context, doctree):
    """Give a page's head its description and what a preview of a link shows."""
    if doctree is None:
        return
    description = page_description(app, pagename, doctree)
    tags = {"og:type": "article", "og:site_name": app.config.project, "og:title": context["title"],
            "og:description": description}  # fmt: skip
    base = app.config.html_baseurl
    if base:
        tags |= {"og:url": _address(base, f"{pagename}.html"), "og:image": _address(base, PREVIEW)}
    lines = [f'<meta name="description" content="{escape(description)}" />']
    lines += [f'<meta property="{name}" content="{escape(value)}" />' for name, value in tags.items()]
    context["metatags"] = "\n".join([context.get("metatags", ""), *lines])


def page_description(app, pagename, doctree):
    """Return a page's first paragraph, or a lab's goal, in at most LONGEST characters and whole words."""
    lab = Path(app.srcdir, f"{pagename}.ipynb")
    if lab.exists():
        goal = lab_head(lab)[1]
        text = f"{goal[0].upper()}{goal[1:]}".replace("`", "")
    else:
        paragraph = next(doctree.findall(nodes.paragraph), None)
        text = " ".join(paragraph.astext().split()) if paragraph is not None else app.config.project
    return text if len(text) <= LONGEST else f"{text[:LONGEST].rpartition(' ')[0]} ..."


def _write_files(app, exception):
    if exception is not None or app.builder.format != "html":
        return
    out, base = Path(app.outdir), app.config.html_baseurl
    home, search = (_address(base, page) if base else page for page in ("index.html", "search.html"))
    page = NOT_FOUND.format(title=escape(app.config.project), home=home, search=search)
    (out / "404.html").write_text(page, encoding="utf-8")
    robots = "User-agent: *\nAllow: /\n"
    if base:
        pages = sorted(set(app.env.found_docs) - NOT_IN_THE_MAP)
        rows = "".join(f"<url><loc>{escape(_address(base, f'{page}.html'))}</loc></url>\n" for page in pages)
        head = '<?xml version="1.0" encoding="utf-8"?>\n<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">\n'
        (out / "sitemap.xml").write_text(f"{head}{rows}</urlset>\n", encoding="utf-8")
        robots += f"Sitemap: {_address(base, 'sitemap.xml')}\n"
    (out / "robots.txt").write_text(robots, encoding="utf-8")


def _address(base, page):
    return f"{base.rstrip('/')}/{page}"
