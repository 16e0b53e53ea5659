"""The stage selector as a widget: choose a configuration, see what it means, and run it on this machine's ranks."""

import html
import json
import threading
from pathlib import Path

import traitlets

from labsupport.doctor.diagnosis import diagnose
from labsupport.errors import ConfigError, TrainingError
from labsupport.machine.cards import CARDS
from labsupport.runs import strategy_in_words
from labsupport.widgets.base import PageWidget, joined, page_form, style
from labsupport.widgets.selector.choices import (
    DEFAULT,
    checked_choice,
    config_for,
    model_in_words,
    plan_of_choice,
    strategies,
)
from labsupport.widgets.selector.facts import facts
from labsupport.widgets.selector.runs import STEPS, live_run, recorded_runs, shown_run
from labsupport.wording import ranks_in_words

HERE = Path(__file__).parent
MIRRORED = ("numbers", "shape", "gathering", "model_states", "activations", "liger", "moments", "messages", "planner")
# The planner in JavaScript: what Python knows, its files in order, and a choice's way into it.
PLANNER = f"const FACTS = {json.dumps(facts(), separators=(',', ':'))};\n" + joined(
    HERE, *(f"planner/{name}.js" for name in MIRRORED), "choice.js"
)
DRAWN = (
    "elements",
    "config_lines",
    "advice",
    "pasted",
    "exports",
    "controls",
    "model_panel",
    "results",
    "comparisons",
    "texts",
    "run_panel",
    "selector",
)
SCRIPT = PLANNER + joined(HERE, *(f"{name}.js" for name in DRAWN))  # the last one has the export
STYLE = style(".stage-selector", HERE, "selector.css")
BUSY = ("starting", "training", "measuring", "stopping")  # the states of a run that has processes


def stage_selector(**choice):
    """Return the stage selector, at the given values of choices.DEFAULT and defaults for the rest.

    Raises ConfigError for an unknown name or value, and for what DeepSpeed does not combine.
    """
    return StageSelector(choice=checked_choice(choice))


class StageSelector(PageWidget):
    """Choose a configuration, see what it means, and run it on this machine's ranks."""

    _esm = SCRIPT
    _css = STYLE
    choice = traitlets.Dict().tag(sync=True)
    live = traitlets.Bool(True).tag(sync=True)
    obstacle = traitlets.Unicode().tag(sync=True)  # why this machine cannot run the choice
    findings = traitlets.List().tag(sync=True)  # what the config doctor says of the choice's config
    run = traitlets.Dict().tag(sync=True)  # the run under way or the last one, as run_panel.js shows it
    runs = traitlets.List().tag(sync=True)  # those that came to their end

    def __init__(self, choice=DEFAULT):
        from labsupport.ranks.live_training import stop_current

        stop_current()  # a cell that is run again leaves no ranks behind
        super().__init__(choice=dict(choice), run=_idle())
        self._training = None
        self._look_at_choice()
        self.observe(lambda _: self._look_at_choice(), "choice")
        self.on_msg(lambda _widget, message, _buffers: self._pressed(message.get("do")))

    @traitlets.validate("choice")
    def _whole_choice(self, proposal):
        return checked_choice(proposal["value"])

    def in_words(self):
        """Return the choice and what it needs in one line."""
        words = f"{model_in_words(self.choice)} on {ranks_in_words(self.choice['world_size'])}"
        peak = plan_of_choice(self.choice).peak_bytes
        return (
            f"Stage selector at stage {self.choice['stage']}, {words}: {peak / 2**20:,.1f} MiB at the peak, predicted."
        )

    def page_html(self):
        """Return the form that the book's pages show."""
        return page_html(self.choice)

    def start(self):
        """Train the choice on this machine's ranks, in processes of their own; returns at once.

        Does nothing while a run is under way. Raises TrainingError where this machine cannot run the choice.
        """
        from labsupport.ranks.live_training import LiveTraining

        if self.run["state"] in BUSY:
            return
        if self.obstacle:
            raise TrainingError(self.obstacle)
        choice, run = dict(self.choice), live_run(self.choice)
        self.run = _idle() | {"state": "starting", "label": run.in_words(), "message": "Starting the ranks ..."}
        self._training = LiveTraining(run, steps=STEPS, on_event=lambda event: self._show(choice, event))
        self._training.start()

    def stop(self):
        """Stop the run, and return when every process of it is gone."""
        if self.run["state"] in BUSY:
            self.run = self.run | {"state": "stopping", "message": "Stopping the ranks ..."}
            self._training.stop()

    def wait(self):
        """Wait until the run is over; an interrupt stops it. Raises TrainingError for a run that failed."""
        if self._training is None:
            return
        try:
            self._training.wait()
        except KeyboardInterrupt:
            self.stop()
            raise TrainingError("Interrupted, so the run was stopped: start it again.") from None
        if self.run["state"] == "failed":
            raise TrainingError(self.run["message"])

    def _pressed(self, button):
        if button == "run" and not self.obstacle:
            self.start()
        elif button == "stop":
            threading.Thread(target=self.stop).start()  # the kernel stays free while the ranks end

    def _show(self, choice, event):
        """Take an event of the run, from its own thread, into what the module draws."""
        kind = event["event"]
        if kind == "step":
            words = f"Step {event['step']} of {event['steps']}: loss {event['loss']:.3f}"
            if event["samples_per_second"]:  # none while the first steps warm up
                words += f", {event['samples_per_second']:.1f} samples per second, {event['seconds_left']:.0f} s left"
            shown = {name: event[name] for name in ("steps", "held")}
            losses = [*self.run["losses"], *event["losses"]]
            self.run = self.run | shown | {"state": "training", "losses": losses, "message": f"{words}."}
        elif kind == "ended":
            self.runs = [*self.runs, shown_run(choice, event["result"])]
            self.run = self.run | {"state": "ended", "message": "The run has ended. Its ranks are gone."}
        else:
            self.run = self.run | {"state": kind, "message": event.get("message", "Stopped. The ranks are gone.")}

    def _look_at_choice(self):
        from labsupport.memory.room import obstacle

        self.findings = findings_of(self.choice)
        try:
            self.obstacle = obstacle(live_run(self.choice))
        except ConfigError as error:
            self.obstacle = str(error)


def findings_of(choice):
    """Return what the config doctor says of a choice's config on its card, in sentences."""
    parameters = plan_of_choice(choice).parameters
    found = diagnose(config_for(choice), choice["world_size"], "cuda", CARDS[choice["card"]], parameters)
    return [f"{finding.severity}: {finding.in_words}" for finding in found]


def page_state():
    """Return what the script reads on a page without a kernel, JSON-serialisable, the same for every page."""
    return {"recorded": recorded_runs(), "live": False}


def page_html(start):
    """Return the selector's form for a page. start: some of its values; raises as `checked_choice` does."""
    choice = checked_choice(start)
    return page_form("stage_selector", {"choice": choice}, _strategies_table(choice))


def _strategies_table(choice):
    """The strategies for a choice, as a table that needs no script."""
    rows = []
    for strategy in strategies():
        planned = plan_of_choice(choice | strategy)
        cells = (strategy_in_words(**strategy), f"{planned.peak_bytes / 2**30:,.3g} GiB", f"{planned.times_ddp:.2f}")
        rows.append("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>")
    head = "<tr><th>Strategy</th><th>Peak of a rank, predicted</th><th>Sends, times DDP</th></tr>"
    caption = f"{model_in_words(choice)} on {choice['world_size']} x {choice['card']}, {choice['precision']}"
    table = f"<caption>{caption}</caption><thead>{head}</thead><tbody>{''.join(rows)}</tbody>"
    return f'<table class="table">{table}</table>'


def _idle():
    message = "Nothing has run yet. The first run starts processes of its own, which takes some ten seconds."
    return {"state": "idle", "message": message, "losses": [], "steps": 0, "held": None, "label": ""}
