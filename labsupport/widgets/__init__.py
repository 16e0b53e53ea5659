"""The course's widgets, each alive in a kernel and on the book's pages: one ES module serves both.

    from labsupport.widgets import stage_selector
    stage_selector(model="1m", stage=2)

anywidget runs the module in a notebook. On a page book/_static/widgets.js mounts the same module on the text/html
form, with the data that `page_state` gave it when the book was built.
"""

from labsupport.widgets.selector.widget import StageSelector, stage_selector
from labsupport.widgets.step_through.widget import StepThrough, step_through

__all__ = ["StageSelector", "StepThrough", "stage_selector", "step_through"]
