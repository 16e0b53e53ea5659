"""What every widget of the course has: its files joined into one ES module, and a form for pages without a kernel."""

import json

import anywidget

from labsupport.palette import css_variables


def joined(folder, *names):
    """Return the text of a widget's files, one after the other: a kernel's module cannot import its neighbours."""
    return "\n".join(folder.joinpath(name).read_text(encoding="utf-8") for name in names)


def style(selector, folder, name):
    """Return a widget's style sheet with the colours of the roles before it, for the elements of a CSS selector."""
    return css_variables(selector) + joined(folder, name)


def page_form(name, state, still):
    """Return a widget's form for a page, as HTML: what it shows until book/_static/widgets.js puts the widget there.

    state: what the widget starts with, JSON-serialisable; still: HTML that needs no script.
    """
    data = json.dumps(state).replace("</", "<\\/")
    return (
        f'<div class="lab-widget" data-widget="{name}"><script type="application/json">{data}</script>'
        f'<div class="lab-widget-still">{still}</div></div>'
    )


class PageWidget(anywidget.AnyWidget):
    """A widget that also has a form for pages without a kernel."""

    def _repr_mimebundle_(self, **options):
        bundle = super()._repr_mimebundle_(**options)
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle, {})
        if data is not None:
            data = data | {"text/html": self.page_html(), "text/plain": self.in_words()}
        return data, metadata
