"""The stage selector on a page of its own, and how a reader operates it: shared by its tests."""

import itertools
import json
import sys

import pytest
from conftest import ROOT, press

from labsupport.memory.room import fits, host_bytes_of_node
from labsupport.widgets.base import page_form
from labsupport.widgets.selector import widget as selector
from labsupport.widgets.selector.choices import AXES, DEFAULT, farthest, plan_of_choice, strategies

sys.path.insert(0, str(ROOT / "benchmarks"))
sys.path.insert(0, str(ROOT / "book" / "_extensions"))
import page_weight
from course.widgets import classic_script

START = DEFAULT | {"model": "1.3b", "world_size": 2, "micro_batch_size": 1}


@pytest.fixture(scope="module", name="folder")
def selector_folder(tmp_path_factory):
    """The selector on a page of its own: the book's scripts, and nothing of the book."""
    folder = tmp_path_factory.mktemp("selector")
    state = json.dumps(selector.page_state(), separators=(",", ":"))
    files = {
        "stage_selector.js": classic_script("stage_selector", selector.SCRIPT),
        "stage_selector_data.js": f"(window.labWidgetStates ??= {{}}).stage_selector = {state};\n",
        "stage_selector.css": selector.STYLE,
        "widgets.js": (ROOT / "book" / "_static" / "widgets.js").read_text(encoding="utf-8"),
        "page.html": '<!doctype html><html lang="en"><meta charset="utf-8"><title>Selector</title>'
        '<link rel="stylesheet" href="stage_selector.css"><link rel="icon" href="data:,">'
        '<script src="widgets.js"></script>' + page_form("stage_selector", {"choice": START}, ""),
    }
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="module", name="address")
def selector_address(folder):
    """Where that page is served."""
    with page_weight.served(folder) as address:
        yield f"{address}/page.html"


@pytest.fixture(name="page")
def selector_tab(tab, address):
    tab.goto(address)
    tab.locator(".stage-selector").wait_for()
    return tab


def choose(page, **values):
    """Make choices as a reader does: in a list, with a button, as a number that is typed."""
    for axis, value in values.items():
        control = page.locator(f"[data-axis={axis}]").first
        kind = control.evaluate("node => node.tagName")
        if kind == "SELECT":
            control.select_option(value)
        elif kind == "INPUT":
            control.fill("" if value is None else str(value))
        else:  # a refused value is there to be clicked, and says why
            press(control.locator("input").nth(AXES[axis].index(value)))


def shown_config(page):
    return json.loads(page.locator(".config code").inner_text())


def verdict(page):
    return page.locator(".verdict strong").inner_text()


def go_to(page, choice):
    """Open the page at a choice, as a link does."""
    page.evaluate(
        """(choice) => {
          const text = (value) => (typeof value === "object" ? JSON.stringify(value) : String(value));
          const parts = Object.entries(choice).map(([name, value]) => [name, text(value)]);
          location.hash = "#choice:" + new URLSearchParams(Object.fromEntries(parts));
          return new Promise((done) => setTimeout(done));
        }""",
        {name: value for name, value in choice.items() if value != DEFAULT[name]},
    )


def cheapest_that_fits(choice):
    """The first way that fits the cards and their hosts, worked out with `plan` alone."""
    for far, checkpointing, strategy in itertools.product((0, 1, 2), (False, True), strategies()):
        other = choice | strategy | {"checkpointing": checkpointing}
        planned = plan_of_choice(other)
        ranks = min(choice["world_size"], choice["gpus_per_node"])
        room = host_bytes_of_node(planned, ranks) <= choice["host_memory"] * 1e9
        if farthest(strategy) == far and room and fits(planned, choice["card"]):
            return other
    return None


def flattened(block, path=""):
    result = {}
    for key, value in block.items():
        result |= flattened(value, f"{path}{key}.") if isinstance(value, dict) else {f"{path}{key}": value}
    return result
