"""Font Awesome's icons as inline SVG: a page carries the drawings that it names, from the theme's own copy.

    PYTHONPATH=book/_extensions python -c "from course.finished import icons; print(icons.theme_icons()['fas']['bars'])"

The theme would load all 2,000 of them, as a script and as a font: 700 kB compressed on every page.
Icons: Font Awesome Free, https://fontawesome.com/license/free, CC BY 4.0; the pages keep its notice.
"""

import functools
import importlib.util
import re
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from sphinx.errors import ExtensionError

# bars:[448,512,["navicon"],"f0c9","M0 96C0 ..."]: name, width, height, other names, code point, drawing
ENTRY = re.compile(r'"?([\w-]+)"?:\[(\d+),(\d+),\[([^\]]*)\],"(\w+)","([^"]+)"\]')
ELEMENT = re.compile(r'<(i|span)\s+class="([^"]*\bfa-[^"]*)"([^>]*)>\s*</\1>')
STYLES = {"fas": "fas", "fa-solid": "fas", "far": "far", "fa-regular": "far", "fab": "fab", "fa-brands": "fab"}
SIZES = {"fa-2xs", "fa-xs", "fa-sm", "fa-lg", "fa-xl", "fa-2xl", "fa-fw"}
FONT_NAMES = re.compile(r'(?:\.fa-[\w-]+:before,?)+\{content:"[^"]*"\}')  # .fa-bars:before{content:"\f0c9"}
FONT_FACE = re.compile(r"@font-face\{[^{}]*[Aa]wesome[^{}]*\}")
VARIABLE = re.compile(r'--pst-icon-([\w-]+):(?:"(.)"|var\(--pst-icon-([\w-]+)\))')
CONTENT = re.compile(r'([^{}]+)\{[^{}]*content:(?:var\(--pst-icon-([\w-]+)\)|"\\(f\w{3})")[^{}]*\}')


class Icon(NamedTuple):
    """A drawing: width and height of its box, its code point in the font, an SVG path."""

    width: str
    height: str
    code: str
    path: str


def inline_icons(page):
    """Return a page's HTML with inline SVG for each <i class="fa-solid fa-bars">; raises ExtensionError."""
    inlined, count = ELEMENT.subn(_svg, page)
    if not count:
        return page
    return inlined.replace("</body>", f"<!-- {notice()} -->\n</body>")


def without_icon_font(style_sheet):
    """Return the theme's CSS without the names and files of the font, which inline SVG replaces."""
    return FONT_FACE.sub("", FONT_NAMES.sub("", style_sheet))


def drawn_rules(*style_sheets):
    """Return CSS that draws what the style sheets would write in the icon font, such as an admonition's sign.

    style_sheets: CSS texts, the theme's as `without_icon_font` returns it.
    """
    variables = {name: (letter, other) for sheet in style_sheets for name, letter, other in VARIABLE.findall(sheet)}
    by_letter = {chr(int(icon.code, 16)): icon for style in ("fab", "fas") for icon in theme_icons()[style].values()}
    rules = [f"/* {notice()} */"]
    for selector, name, code in (found for sheet in style_sheets for found in CONTENT.findall(sheet)):
        letter = chr(int(code, 16)) if code else ""
        while not letter:
            letter, name = variables[name]
        rules.append(_drawn_rule(selector.strip(), by_letter[letter]))
    return "\n".join(rules)


@functools.cache
def theme_icons():
    """Return {"fas": {name: Icon}, "far": ..., "fab": ...}, read from the theme's script."""
    script = (_theme_scripts() / "fontawesome.js").read_text(encoding="utf-8")
    styles, start = {}, 0
    for end in re.finditer(r'\w\("(fab|far|fas)",\w\)', script):
        entries = ENTRY.findall(script, start, end.start())
        styles.setdefault(end[1], _by_name(entries))
        start = end.end()
    if not all(styles.get(style) for style in ("fab", "far", "fas")):
        raise ExtensionError(
            "The theme's fontawesome.js has another form than this: see book/_extensions/course/finished/icons.py."
        )
    return styles


def notice():
    """Return Font Awesome's own copyright and license, in one line."""
    text = (_theme_scripts() / "fontawesome.js.LICENSE.txt").read_text(encoding="utf-8")
    return " ".join(re.sub(r"/\*!|^ \*/?", "", text, flags=re.MULTILINE).split())


def _theme_scripts():
    theme = Path(importlib.util.find_spec("pydata_sphinx_theme").origin).parent
    return theme / "theme" / "pydata_sphinx_theme" / "static" / "scripts"


def _by_name(entries):
    """{name: Icon}, an icon's other names included."""
    icons = {}
    for name, width, height, others, code, path in entries:
        for each in (name, *re.findall(r'"([\w-]+)"', others)):
            icons.setdefault(each, Icon(width, height, code, path))
    return icons


def _svg(element):
    """The SVG for one element that names an icon; its other classes, attributes and title stay."""
    classes = element[2].split()
    style = next((STYLES[each] for each in classes if each in STYLES), "fas")
    rest = [each for each in classes if each not in STYLES]
    name = next((each for each in rest if each.startswith("fa-") and each not in SIZES), "fa-")
    if name[3:] not in theme_icons()[style]:
        raise ExtensionError(f"A page names the icon {name[3:]!r}, which the theme's Font Awesome lacks: name another.")
    icon = theme_icons()[style][name[3:]]
    title = re.search(r'\btitle="([^"]*)"', element[3])
    attributes = re.sub(r'\s*\btitle="[^"]*"', "", element[3])
    return (
        f'<svg class="{" ".join(["svg-inline--fa", *rest])}"{attributes} aria-hidden="true" '
        f'viewBox="0 0 {icon.width} {icon.height}">{f"<title>{title[1]}</title>" if title else ""}'
        f'<path fill="currentColor" d="{icon.path}"/></svg>'
    )


def _drawn_rule(selector, icon):
    """A rule that shows the icon in the text's colour where the theme wrote a character of the font."""
    box = f"0 0 {icon.width} {icon.height}"
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}"><path d="{icon.path}"/></svg>'
    return (
        f"{selector} {{ content: '' !important; display: inline-block; vertical-align: top; width: 1em; "
        f"height: 1lh !important; background: currentColor; "
        f"mask: url('data:image/svg+xml,{quote(svg, safe=' =/:,')}') center / contain no-repeat; }}"
    )
