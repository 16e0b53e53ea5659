"""A real JupyterLab: an exercise solved; a lab run, its selector operated, a run started, seen and stopped."""

import json
import shutil

import nbformat
import psutil
import pytest
from conftest import ROOT, needs_chromium, press

pytestmark = [
    needs_chromium,
    pytest.mark.skipif(shutil.which("jupyter-lab") is None, reason="no JupyterLab here: pip install labsupport[lab]"),
]
LAB = ROOT / "notebooks" / "01_config.ipynb"
RIGHT_BATCH = '{"train_micro_batch_size_per_gpu": 8, "gradient_accumulation_steps": 3}'
PATIENCE = 240_000  # milliseconds: starting ranks and training take tens of seconds on two busy cores


def runs_of(server):
    """The processes of live training below JupyterLab."""
    found = []
    for process in psutil.Process(server.pid).children(recursive=True):
        try:
            if "labsupport.launch.guard" in process.cmdline():
                found.append(process)
        except psutil.NoSuchProcess:
            pass
    return found


def run_all(tab, address, name):
    tab.set_default_timeout(PATIENCE)
    tab.goto(f"{address}/lab/tree/notebooks/{name}?reset")  # without what another test had open
    tab.get_by_text("Python 3 (ipykernel) | Idle").wait_for()  # before, "Run All Cells" does nothing
    tab.get_by_role("menuitem", name="Run", exact=True).click()
    tab.get_by_role("menuitem", name="Run All Cells", exact=True).click()


def test_a_reader_solves_an_exercise_and_sees_it_in_the_progress(jupyterlab, tab):
    notebook = nbformat.read(LAB, 4)
    wanted = [f"exercise-01-batch-{part}" for part in ("task", "stub", "check", "solution")] + ["progress"]
    kept = [cell for cell in notebook.cells if cell.id in wanted]
    notebook.cells = [nbformat.v4.new_code_cell("from labsupport.exercises import check"), *kept]
    nbformat.write(notebook, jupyterlab.folder / "exercise.ipynb")
    run_all(tab, jupyterlab.address, "exercise.ipynb")
    verdict, progress = tab.locator(".exercise-verdict"), tab.locator(".exercise-progress")
    progress.get_by_text("0 of 4 exercises of this lab are done").wait_for()
    assert "not attempted" in verdict.inner_text(), "and the solution gave no verdict of its own"
    assert "%%solution 01-batch run" in tab.locator(".jp-OutputArea-output", has_text="was not run").inner_text()
    assert "gradient_accumulation_steps" not in tab.locator(".jp-CodeCell").nth(3).inner_text(), "it is folded"
    for answer, title in (('{"train_batch_size": 96}', "not yet"), (RIGHT_BATCH, "passed")):
        tab.locator(".jp-CodeCell .cm-content").nth(1).click()
        tab.keyboard.press("Control+A")
        tab.keyboard.insert_text(f"batch_config = {answer}")
        tab.keyboard.press("Shift+Enter")
        tab.keyboard.press("Shift+Enter")
        verdict.get_by_text(f"01-batch: {title}").wait_for()
        assert verdict.count() == 1, "the verdict takes the place of what was shown while it was awaited"
    tab.keyboard.press("Shift+Enter")  # the solution, which stays as it is
    tab.keyboard.press("Shift+Enter")  # the cell with the progress
    progress.get_by_text("1 of 4 exercises of this lab are done").wait_for()


def test_a_lab_runs_and_its_selector_trains_and_stops(jupyterlab, tab):
    server = jupyterlab.server
    shutil.copy(LAB, jupyterlab.folder)
    run_all(tab, jupyterlab.address, LAB.name)
    selector = tab.locator(".stage-selector").first
    selector.wait_for(state="attached")  # JupyterLab hides what is far from the screen
    selector.scroll_into_view_if_needed()
    last = sum(cell.cell_type == "code" for cell in nbformat.read(LAB, 4).cells)
    tab.locator(".jp-InputPrompt", has_text=f"[{last}]:").wait_for(state="attached")
    assert tab.locator(".jp-OutputArea-output[data-mime-type*=stderr], .jp-RenderedText .ansi-red-fg").count() == 0

    stage = selector.locator("[data-axis=stage] input").nth(2)
    stage.scroll_into_view_if_needed()  # and waits until it stands still
    press(stage, held_ms=200)
    text = selector.locator(".config code").inner_text()
    assert json.loads(text)["zero_optimization"]["stage"] == 2
    assert selector.locator(".config mark").count() > 0

    start, stop = (selector.get_by_role("button", name=name, exact=True) for name in ("Run it", "Stop"))
    start.click()
    selector.locator(".loss-chart polyline").first.wait_for(state="attached")
    assert len(runs_of(server)) == 1
    stop.click()
    selector.locator(".run-words", has_text="Stopped").wait_for()
    assert runs_of(server) == []
    assert start.is_enabled() and stop.is_disabled()

    selector.locator("select[data-axis=model]").select_option("tiny")
    start.click()
    selector.locator(".run-words", has_text="has ended").wait_for()
    assert runs_of(server) == []
    assert selector.locator(".loss-chart polyline").count() == 1
    bars = selector.locator(".run .bar-total")
    predicted, measured = (int(bars.nth(number).get_attribute("data-bytes")) for number in (0, 1))
    assert abs(predicted / measured - 1) < 0.03

    link = tab.get_by_role("link", name="the set-up").first
    link.scroll_into_view_if_needed()
    link.click()
    tab.locator(".jp-MarkdownViewer").get_by_role("heading", name="Set-up").first.wait_for()
