"""Runs of the stage selector's choices: what is started for one, and what is shown of it. No torch.

    python benchmarks/selector_runs.py     # records a covering set; the pages show those

Each run trains a preset on the standard library's text, on real ranks, through labsupport.ranks.live_training.
"""

from labsupport.memory.planner import plan_of
from labsupport.memory.roles import memory_held
from labsupport.records import provenance, read_record
from labsupport.widgets.selector.choices import DEFAULT, run_of

STEPS = 40  # optimizer steps
SEQUENCE_LENGTH = 128  # bytes of text in a sample: few enough for a processor
DEVICE_PLACES = ("GPU", "host")  # where a model computes


def live_run(choice):
    """Return the Run that is started for a choice: its samples are shorter than those that the selector plans for."""
    return run_of(DEFAULT | choice, SEQUENCE_LENGTH)


def shown_run(choice, result):
    """Return what the selector shows of a run: {"choice", "label", "losses", "measured", "predicted", ...}.

    result: what LiveTraining reports at the end, with the "accelerator". "measured" and "predicted" have the bytes
    of rank 0 by role, "at rest" in all memory, which NVMe is not, and at the "peak" where the model computes.
    """
    run = live_run(choice)
    planned = plan_of(run, result["accelerator"])
    peak = next(planned.moments["peak"][place] for place in DEVICE_PLACES if place in planned.moments["peak"])
    at_rest = memory_held(planned.moments["at rest"])
    return {
        "choice": choice,
        "label": run.in_words(),
        "losses": result["losses"],
        "samples_per_second": result["samples_per_second"],
        "times_ddp": result["times_ddp"],
        "measured": {"at rest": result["resting"], "peak": result["peak"]},
        "predicted": {"at rest": at_rest, "peak": peak},
    }


def recorded_runs():
    """Return {"provenance": a sentence, "runs": [shown_run]} of labsupport/recorded/selector_runs.json."""
    record = read_record("selector_runs")
    steps = f"{STEPS} steps of samples of {SEQUENCE_LENGTH} bytes, shorter than the ones above"
    runs = [shown_run(run["choice"], run["result"]) for run in record["measured"]["runs"]]
    return {"provenance": f"Measured on {provenance(record)}: {steps}.", "runs": runs}
