"""A real JupyterLab: an exercise solved; a lab run, its selector operated, a run started, seen and stopped."""

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request

import nbformat
import psutil
import pytest
from conftest import ROOT, needs_chromium

from labsupport.launch.processes import stop
from labsupport.machine.probes import free_port

pytestmark = [
    needs_chromium,
    pytest.mark.skipif(shutil.which("jupyter-lab") is None, reason="no JupyterLab here: pip install labsupport[lab]"),
]
RIGHT_BATCH = '{"train_micro_batch_size_per_gpu": 8, "gradient_accumulation_steps": 3}'
PATIENCE = 240_000  # milliseconds: starting ranks and training take tens of seconds on two busy cores


@pytest.fixture
def jupyterlab(tmp_path):
    """The address of a JupyterLab over a folder with lab 01 and one exercise of it alone, and its process."""
    lab = ROOT / "notebooks" / "01_config.ipynb"
    shutil.copy(lab, tmp_path)
    alone = nbformat.read(lab, 4)
    wanted = [f"exercise-01-batch-{part}" for part in ("task", "stub", "check")] + ["progress"]
    kept = [cell for cell in alone.cells if cell.id in wanted]
    alone.cells = [nbformat.v4.new_code_cell("from labsupport.exercises import check"), *kept]
    nbformat.write(alone, tmp_path / "exercise.ipynb")
    port = free_port()
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--ServerApp.port={port}",
               "--ServerApp.port_retries=0", "--IdentityProvider.token=", f"--ServerApp.root_dir={tmp_path}",
               "--LabApp.news_url="]  # fmt: skip
    own = {"JUPYTER_CONFIG_DIR": str(tmp_path / ".config"), "JUPYTERLAB_SETTINGS_DIR": str(tmp_path / ".settings"),
           "DEEPSPEED_COURSE_PROGRESS": str(tmp_path / "progress.json")}  # fmt: skip
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    outside = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}  # ipykernel reads it
    server = subprocess.Popen(command, env=outside | own, start_new_session=True, **quiet)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            try:
                urllib.request.urlopen(f"{address}/api/status", timeout=5).close()
                break
            except OSError:
                assert server.poll() is None, "JupyterLab ended"
                time.sleep(0.2)
        yield address, server
    finally:
        stop(server)


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
    tab.goto(f"{address}/lab/tree/{name}")
    tab.get_by_text("Python 3 (ipykernel) | Idle").wait_for()  # before, "Run All Cells" does nothing
    tab.get_by_role("menuitem", name="Run", exact=True).click()
    tab.get_by_role("menuitem", name="Run All Cells", exact=True).click()


def test_a_reader_solves_an_exercise_and_sees_it_in_the_progress(jupyterlab, tab):
    run_all(tab, jupyterlab[0], "exercise.ipynb")
    verdict, progress = tab.locator(".exercise-verdict"), tab.locator(".exercise-progress")
    progress.get_by_text("0 of 4 exercises of this lab are done").wait_for()
    assert "not attempted" in verdict.inner_text()
    for answer, title in (('{"train_batch_size": 96}', "not yet"), (RIGHT_BATCH, "passed")):
        tab.locator(".jp-CodeCell .cm-content").nth(1).click()
        tab.keyboard.press("Control+A")
        tab.keyboard.insert_text(f"batch_config = {answer}")
        tab.keyboard.press("Shift+Enter")
        tab.keyboard.press("Shift+Enter")
        verdict.get_by_text(f"01-batch: {title}").wait_for()
        assert verdict.count() == 1, "the verdict takes the place of what was shown while it was awaited"
    tab.keyboard.press("Shift+Enter")  # the cell with the progress
    progress.get_by_text("1 of 4 exercises of this lab are done").wait_for()


def test_a_lab_runs_and_its_selector_trains_and_stops(jupyterlab, tab):
    address, server = jupyterlab
    run_all(tab, address, "01_config.ipynb")
    selector = tab.locator(".stage-selector").first
    selector.wait_for(state="attached")  # JupyterLab hides what is far from the screen
    selector.scroll_into_view_if_needed()
    last = sum(cell.cell_type == "code" for cell in nbformat.read(ROOT / "notebooks/01_config.ipynb", 4).cells)
    tab.locator(".jp-InputPrompt", has_text=f"[{last}]:").wait_for(state="attached")
    assert tab.locator(".jp-OutputArea-output[data-mime-type*=stderr], .jp-RenderedText .ansi-red-fg").count() == 0

    selector.locator("[data-axis=stage] input").nth(2).click(force=True)
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

    start.click()
    selector.locator(".run-words", has_text="has ended").wait_for()
    assert runs_of(server) == []
    assert selector.locator(".loss-chart polyline").count() == 1
    bars = selector.locator(".run .bar-total")
    predicted, measured = (int(bars.nth(number).get_attribute("data-bytes")) for number in (0, 1))
    assert abs(predicted / measured - 1) < 0.03
