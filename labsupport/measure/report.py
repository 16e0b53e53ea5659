"""What a run of the program tells of itself: events while it trains, bytes held and sent when it has trained.

    deepspeed --num_gpus 2 labsupport/deepspeed_trainer.py --events events.jsonl --json result.json

labsupport/deepspeed_trainer.py writes both; labsupport.ranks.live_training reads them.
"""

import itertools
import json

from labsupport.measure.collectives import measured_collectives
from labsupport.measure.ledger import held_by_place, held_bytes, largest_over_ranks, model_state_total
from labsupport.measure.timeline import peak_step_bytes, watch_step
from labsupport.memory.roles import memory_held


class Events:
    """The file of --events: what happens on rank 0, one JSON line each; without a file nothing is written."""

    def __init__(self, path):
        self.file = open(path, "a", buffering=1) if path else None  # noqa: SIM115 - open as long as this rank runs

    def write(self, event, **facts):
        """Write one event, at once."""
        if self.file:
            self.file.write(json.dumps({"event": event, **facts}) + "\n")

    def of_steps(self, engine, done, steps):
        """Return the function to call after each step with its loss and its seconds, from step `done` + 1 on."""
        numbers = itertools.count(done + 1)

        def after_step(loss, seconds):
            if self.file:
                held = held_bytes(engine, everything=False)
                facts = {"loss": loss, "seconds": seconds, "samples": engine.train_batch_size(), "held": held}
                self.write("step", step=next(numbers), steps=steps, **facts)

        return after_step


def measure(trainer, batches, base):
    """Return what this rank holds and sends, in bytes, from three more steps over the micro-batches of one.

    "places" {place: {role: bytes}} and "resting" {role: bytes} between two steps, "peak" {role: bytes} and
    "peak_phase" within one, "collectives" {collective: message bytes}, and the largest totals over all ranks.
    """
    engine = trainer.engine

    def step():
        for batch in batches:
            trainer.train_step(batch)

    watched = watch_step(engine, step, base)
    collectives = measured_collectives(engine, step)
    places = held_by_place(engine, base)
    resting = memory_held(places)
    on_gpu = engine.device.type == "cuda"
    return {
        "model_state_bytes_per_rank": largest_over_ranks(model_state_total(resting), engine.device),
        "peak_bytes_per_rank": largest_over_ranks(
            peak_step_bytes(engine, step) if on_gpu else watched.peak_bytes, engine.device
        ),
        "places": places,
        "resting": resting,
        "peak": watched.peak,
        "peak_phase": watched.peak_phase,
        "collectives": collectives,
    }
