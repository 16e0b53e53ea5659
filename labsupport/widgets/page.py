"""The widgets by name, for the book: each module has SCRIPT, STYLE, page_state() and page_html(start)."""

from labsupport.widgets.selector import widget as stage_selector
from labsupport.widgets.step_through import widget as step_through

WIDGETS = {"stage_selector": stage_selector, "step_through": step_through}
