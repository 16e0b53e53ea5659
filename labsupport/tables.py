"""A lab's tables: rows in, an HTML table out, which a narrow screen scrolls and never cuts off."""

import html
import re

from tabulate import tabulate

NUMBER = re.compile(r"[-+]?\d|-$")  # a number, with its unit behind it, or that there is none


class LabTable:
    """A table for the page and for JupyterLab: `head` and `rows` hold what is shown, as text."""

    def __init__(self, head, rows, caption):
        self.head, self.rows, self.caption = head, rows, caption

    def _repr_mimebundle_(self, **_):
        plain = self._drawn("simple")
        page = self._drawn("html").replace("<table>", '<table class="table">', 1)
        page = f'<div class="lab-table" tabindex="0" style="overflow-x: auto">{page}</div>'
        return {
            "text/html": f"<p>{html.escape(self.caption)}</p>{page}" if self.caption else page,
            "text/plain": f"{self.caption}\n{plain}".strip(),
        }

    def _drawn(self, form):
        columns = list(zip(*self.rows, strict=True))[1:] or [()] * (len(self.head) - 1)
        align = ["left", *("right" if all(NUMBER.match(entry) for entry in each) else "left" for each in columns)]
        return tabulate(self.rows, self.head, form, disable_numparse=True, colalign=align)


def table(head, rows, caption=""):
    """Return a table. head: the columns' names; rows: a list of lists, the first entry of each a label.

    A float is shown with two digits after the point, everything else as str() writes it; a column of numbers is
    set to the right, any other to the left.
    """
    shown = [[f"{entry:,.2f}" if isinstance(entry, float) else str(entry) for entry in row] for row in rows]
    return LabTable(list(head), shown, caption)
