"""Runs of the stage selector's choices: what is started for one, and what is shown of it. No torch.

    python benchmarks/selector_runs.py     # records a covering set; the pages show those

Each run trains a preset on the standard library's text, on real ranks, through labsupport.ranks.live_training.
"""

from labsupport.memory.planner import plan
from labsupport.memory.roles import memory_held
from labsupport.records import provenance, read_record
from labsupport.widgets.selector.table import config_for

STEPS = 40  # optimizer steps
SEQUENCE_LENGTH = 128  # bytes of text in a sample: few enough for a processor
DEVICE_PLACES = ("GPU", "host")  # where a model computes


def run_arguments(choice):
    """Return the keyword arguments of LiveTraining for a choice."""
    return {
        "config": config_for(choice),
        "model": choice["model"],
        "ranks": choice["world_size"],
        "steps": STEPS,
        "sequence_length": SEQUENCE_LENGTH,
        "activation_checkpointing": choice["checkpointing"],
    }


def shown_run(choice, result):
    """Return what the selector shows of a run: {"choice", "label", "losses", "measured", "predicted", ...}.

    result: what LiveTraining reports at the end, with the "accelerator". "measured" and "predicted" have the bytes
    of rank 0 by role, "at rest" in all memory, which NVMe is not, and at the "peak" where the model computes.
    """
    planned = plan(
        choice["model"],
        config_for(choice),
        world_size=choice["world_size"],
        sequence_length=SEQUENCE_LENGTH,
        activation_checkpointing=choice["checkpointing"],
        accelerator=result["accelerator"],
    )
    peak = next(planned.moments["peak"][place] for place in DEVICE_PLACES if place in planned.moments["peak"])
    at_rest = memory_held(planned.moments["at rest"])
    return {
        "choice": choice,
        "label": label(choice),
        "losses": result["losses"],
        "samples_per_second": result["samples_per_second"],
        "times_ddp": result["times_ddp"],
        "measured": {"at rest": result["resting"], "peak": result["peak"]},
        "predicted": {"at rest": at_rest, "peak": peak},
    }


def strategy_in_words(choice):
    """Return a choice's stage and offload in words."""
    where = {"cpu": "host", "nvme": "NVMe"}
    parts = [f"stage {choice['stage']}"]
    parts += [f"optimizer on {where[choice['offload_optimizer']]}"] if choice["offload_optimizer"] != "none" else []
    parts += [f"parameters on {where[choice['offload_param']]}"] if choice["offload_param"] != "none" else []
    return ", ".join(parts)


def label(choice):
    """Return a choice in a few words, for a chart's key."""
    ranks = "1 rank" if choice["world_size"] == 1 else f"{choice['world_size']} ranks"
    parts = [strategy_in_words(choice), choice["precision"], f"{choice['model']} on {ranks}"]
    parts += [f"{choice['accumulation']} micro-batches a step"] if choice["accumulation"] > 1 else []
    parts += ["checkpointing"] if choice["checkpointing"] else []
    return ", ".join(parts)


def recorded_runs():
    """Return {"provenance": a sentence, "runs": [shown_run]} of labsupport/recorded/selector_runs.json."""
    record = read_record("selector_runs")
    steps = f"{STEPS} steps of samples of {SEQUENCE_LENGTH} bytes, shorter than the ones above"
    runs = [shown_run(run["choice"], run["result"]) for run in record["measured"]["runs"]]
    return {"provenance": f"Measured on {provenance(record)}: {steps}.", "runs": runs}
