"""The widgets' Python side: the form for pages, and a run button that is never dead. test_live_training has ranks."""

import json
import re

import pytest
from conftest import needs_chromium

from labsupport import widgets
from labsupport.errors import ConfigError, TrainingError
from labsupport.ranks import live_training
from labsupport.widgets.selector.choices import DEFAULT, plan_of_choice, strategies
from labsupport.widgets.selector.runs import recorded_runs
from labsupport.widgets.selector.widget import SCRIPT, page_html


class FakeTraining:
    """In the place of LiveTraining: starts no process, and tells what the test has it tell."""

    def __init__(self, run, *, steps, on_event):
        self.tell, self.run, self.steps, self.started, self.stopped = on_event, run, steps, 0, 0
        trainings.append(self)

    def start(self):
        self.started += 1

    def stop(self):
        self.stopped += 1
        self.tell({"event": "stopped"})

    def wait(self):
        if self.run.model == "10m":
            raise KeyboardInterrupt


trainings = []


@pytest.fixture
def selector(monkeypatch):
    trainings.clear()
    monkeypatch.setattr(live_training, "LiveTraining", FakeTraining)
    return widgets.stage_selector(stage=2, model="tiny")


def step(loss):
    return {"event": "step", "step": 1, "steps": 2, "loss": loss, "losses": [loss], "held": {"parameters": 1},
            "samples_per_second": None, "seconds_left": 1.0}  # fmt: skip


RESULT = recorded_runs()["runs"][0]["measured"]
RESULT = {"accelerator": "cpu", "losses": [5.0, 4.0], "samples_per_second": 1.0, "times_ddp": 0.0,
          "resting": RESULT["at rest"], "peak": RESULT["peak"]}  # fmt: skip


def test_the_config_doctor_speaks_of_the_choice(selector):
    assert selector.findings == []
    selector.choice = selector.choice | {"precision": "bf16", "card": "T4"}
    assert selector.findings == ["cost: a T4 only emulates bf16, which is slow: enable fp16 in its place."]


def test_two_clicks_start_one_run_and_the_next_one_comes_after_its_end(selector):
    selector.start()
    selector._pressed("run")
    assert len(trainings) == 1 and trainings[0].started == 1
    trainings[0].tell({"event": "starting", "message": "words"})
    assert (selector.run["state"], selector.run["message"]) == ("starting", "words")
    trainings[0].tell(step(5.0))
    trainings[0].tell(step(4.0))
    assert selector.run["state"] == "training" and selector.run["losses"] == [5.0, 4.0]
    trainings[0].tell({"event": "ended", "result": RESULT})
    assert selector.run["state"] == "ended" and len(selector.runs) == 1
    selector.start()
    assert len(trainings) == 2 and selector.run["losses"] == [] and len(selector.runs) == 1


def test_a_failed_run_says_why_and_the_button_lives(selector):
    selector.start()
    trainings[0].tell({"event": "failed", "message": "A rank was ended from outside.", "output": ""})
    assert (selector.run["state"], selector.run["message"]) == ("failed", "A rank was ended from outside.")
    with pytest.raises(TrainingError, match="ended from outside"):
        selector.wait()
    selector.start()
    assert len(trainings) == 2


def test_stop_ends_the_run_once(selector):
    selector.stop()
    selector.start()
    selector.stop()
    assert trainings[0].stopped == 1 and selector.run["state"] == "stopped"
    selector.stop()
    assert trainings[0].stopped == 1


def test_an_interrupt_while_waiting_stops_the_run(selector):
    selector.choice = selector.choice | {"model": "10m"}
    selector.start()
    with pytest.raises(TrainingError, match="Interrupted, so the run was stopped"):
        selector.wait()
    assert trainings[0].stopped == 1 and selector.run["state"] == "stopped"


def test_a_cell_that_is_run_again_stops_the_run_of_the_one_before(selector, monkeypatch):
    stopped = []
    monkeypatch.setattr(live_training, "stop_current", lambda: stopped.append(True))
    widgets.stage_selector()
    assert stopped == [True]


def test_what_this_machine_cannot_run_is_not_started(selector):
    selector.choice = selector.choice | {"world_size": 64}
    assert "64 ranks" in selector.obstacle
    with pytest.raises(TrainingError, match="64 ranks"):
        selector.start()
    selector._pressed("run")
    assert trainings == []
    selector.choice = selector.choice | {"world_size": 2}
    assert selector.obstacle == ""


def test_a_choice_that_deepspeed_does_not_combine_cannot_be_set(selector):
    with pytest.raises(ConfigError, match="stage 3"):
        selector.choice = selector.choice | {"offload_param": "cpu"}
    assert selector.choice["offload_param"] == "none"


@pytest.mark.parametrize("make", [widgets.stage_selector, widgets.step_through])
def test_a_widget_has_a_form_for_a_kernel_for_a_page_and_for_a_terminal(make):
    widget = make(stage=1)
    data, _ = widget._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in data
    assert data["text/html"] == widget.page_html() and "stage 1" in data["text/plain"]


def test_the_form_for_a_page_reads_without_a_script():
    page = page_html({"model": "7b", "world_size": 4})
    rows = re.findall(r"<td>(.*?)</td><td>([\d.,]+) GiB</td><td>([\d.]+)</td>", page)
    assert len(rows) == len(strategies())
    for (_, peak, times), strategy in zip(rows, strategies(), strict=True):
        planned = plan_of_choice(DEFAULT | {"model": "7b", "world_size": 4} | strategy)
        assert float(peak.replace(",", "")) == pytest.approx(planned.peak_bytes / 2**30, rel=0.006)
        assert float(times) == pytest.approx(planned.times_ddp, abs=0.006)


def test_the_recorded_runs_are_near_their_predictions():
    runs = recorded_runs()["runs"]
    assert {run["choice"]["stage"] for run in runs} == {0, 1, 2, 3} and len(runs) >= 30
    for run in runs:
        for moment, tolerance in (("at rest", 0.06), ("peak", 0.1)):
            predicted, measured = (sum(run[kind][moment].values()) for kind in ("predicted", "measured"))
            assert predicted == pytest.approx(measured, rel=tolerance), (run["label"], moment)
    assert len({run["label"] for run in runs}) == len(runs), "two runs on one chart have the same name"


LIVE = """async ([source, state]) => {
  const module = await import(URL.createObjectURL(new Blob([source], { type: "text/javascript" })));
  const listeners = {};
  window.state = JSON.parse(state);
  window.sent = [];
  window.change = (name, value) => {
    window.state[name] = value;
    (listeners[`change:${name}`] ?? []).forEach((listener) => listener());
  };
  const model = { get: (name) => window.state[name], set: window.change, save_changes() {}, off() {},
                  on: (name, listener) => (listeners[name] ??= []).push(listener),
                  send: (message) => window.sent.push(message.do) };
  module.default.render({ model, el: document.body });
}"""


@needs_chromium
def test_the_buttons_follow_the_run(tab, selector):
    state = {name: getattr(selector, name) for name in ("choice", "live", "obstacle", "run", "runs")}
    tab.goto("about:blank")
    tab.evaluate(LIVE, [SCRIPT, json.dumps(state)])
    start, stop = (tab.get_by_role("button", name=name, exact=True) for name in ("Run it", "Stop"))
    run = state["run"]
    for name, busy in (("idle", False), ("starting", True), ("training", True), ("measuring", True), ("ended", False),
                       ("stopping", True), ("stopped", False), ("failed", False)):  # fmt: skip
        tab.evaluate("run => change('run', run)", run | {"state": name, "steps": 2, "losses": [5.0], "held": {}})
        assert start.is_enabled() != busy, name
        assert stop.is_enabled() == (busy and name != "stopping"), name
    start.click()
    assert tab.evaluate("window.sent") == ["run"]
    tab.evaluate("change('obstacle', 'It does not fit here.')")
    assert start.is_disabled() and tab.get_by_text("It does not fit here.").is_visible()
