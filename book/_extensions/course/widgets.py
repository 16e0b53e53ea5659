"""The widgets on the book's pages: a directive, ```{widget} stage_selector```, and the files that a page loads.

What a widget starts with is written here, once for the book; the selector reckons in the page.
"""

import json
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective

from labsupport import records
from labsupport.widgets.page import WIDGETS


def setup(app):
    """Register the directive, the style sheets and the copying; course/__init__.py calls it."""
    app.add_directive("widget", WidgetDirective)
    for name in WIDGETS:
        app.add_css_file(f"{name}.css")
    app.connect("build-finished", _write_files)


class WidgetDirective(SphinxDirective):
    """A widget: ```{widget} stage_selector``` or ```{widget} step_through```; options are the values to start at."""

    required_arguments = 1
    option_spec = {"model": directives.unchanged, "stage": int, "world_size": int, "card": directives.unchanged,
                   "micro_batch_size": int, "small": lambda argument: directives.flag(argument) is None}  # fmt: skip

    def run(self):
        """Return the widget's page form as raw HTML; raises ExtensionError for an unknown widget."""
        name = self.arguments[0]
        if name not in WIDGETS:
            raise ExtensionError(f"There is no widget {name!r}: there are {', '.join(WIDGETS)}.")
        for path in (Path(WIDGETS[name].__file__), *records.FOLDER.glob("*.json")):
            self.env.note_dependency(str(path))
        return [nodes.raw("", WIDGETS[name].page_html(self.options), format="html")]


def _write_files(app, exception):
    if exception is not None or app.builder.format != "html":
        return
    folder = Path(app.outdir, "_static")
    for name, widget in WIDGETS.items():
        (folder / f"{name}.js").write_text(classic_script(name, widget.SCRIPT), encoding="utf-8")
        (folder / f"{name}.css").write_text(widget.STYLE, encoding="utf-8")
        state = json.dumps(widget.page_state(), separators=(",", ":"))
        data = f"(window.labWidgetStates ??= {{}}).{name} = {state};\n"
        (folder / f"{name}_data.js").write_text(data, encoding="utf-8")


def classic_script(name, module):
    """Return a widget's ES module as a script without imports: opened from the disk a page loads no modules."""
    body, _, exported = module.rpartition("export default ")
    return f"(() => {{\n{body}\n(window.labWidgets ??= {{}}).{name} = {exported.strip()}\n}})();\n"
