"""The picture of one recorded training step as a widget: who holds what, and what is sent."""

from pathlib import Path

import traitlets

from labsupport.arguments import require_stage
from labsupport.records import read_record
from labsupport.widgets.base import PageWidget, joined, page_form, style

HERE = Path(__file__).parent
SCRIPT = joined(HERE, "words.js", "step_through.js")  # the last one has the export
STYLE = style(".step-through", HERE, "step_through.css")


def step_through(stage=0):
    """Return the picture of one recorded training step; raises ConfigError for a stage that there is not."""
    require_stage(stage)
    return StepThrough(stage=stage)


class StepThrough(PageWidget):
    """One recorded training step of each stage, step by step."""

    _esm = SCRIPT
    _css = STYLE
    recording = traitlets.Dict().tag(sync=True)
    stage = traitlets.Int().tag(sync=True)

    def __init__(self, stage=0):
        super().__init__(recording=read_record("walkthrough"), stage=stage)

    def in_words(self):
        """Return what the picture is, in one line."""
        return f"One recorded training step, step by step, at stage {self.stage}."

    def page_html(self):
        """Return the form that the book's pages show."""
        return page_html({"stage": self.stage})


def page_state():
    """Return what the script reads on a page without a kernel, JSON-serialisable, the same for every page."""
    return {"recording": read_record("walkthrough")}


def page_html(start):
    """Return the picture's form for a page; raises ConfigError for a stage that there is not.

    start: {"stage": number, "small": whether only the picture, the words and the buttons are wanted}.
    """
    stage = start.get("stage", 0)
    require_stage(stage)
    still = "<p>Where scripts run, one recorded training step stands here, to be stepped through.</p>"
    return page_form("step_through", {"stage": stage, "small": bool(start.get("small"))}, still)
