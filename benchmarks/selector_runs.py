"""Train the choices of the stage selector that the page shows as recorded runs: `python benchmarks/selector_runs.py`.

    python benchmarks/selector_runs.py                 # all of them; goes on where an interrupted run stopped
    python benchmarks/selector_runs.py --only 3 17     # some of them, printed and not recorded

Each is trained as the selector's "Run it" trains it, by LiveTraining, on CPU ranks. Writes
labsupport/recorded/selector_runs.json; until then each finished run is kept in _build/selector_runs.jsonl.
"""

import argparse
import os
from pathlib import Path

from tqdm import tqdm

from labsupport.errors import TrainingError
from labsupport.memory.room import obstacle
from labsupport.ranks.live_training import LiveTraining
from labsupport.records import UnfinishedRecord, record
from labsupport.runs import WARM_UP_STEPS
from labsupport.widgets.selector.choices import DEFAULT
from labsupport.widgets.selector.runs import STEPS, live_run

ROOT = Path(__file__).parent.parent
UNFINISHED = ROOT / "_build" / "selector_runs.jsonl"
LEFT_OUT = ("config", "versions", "hardware")  # of a result: the record says them once, and the config a run


def choices():
    """Return the choices to run."""
    stages = [{"stage": stage} for stage in range(4)]
    on_cpu, on_nvme = [
        [{"stage": 3, "offload_optimizer": device}, {"stage": 3, "offload_optimizer": device, "offload_param": device}]
        for device in ("cpu", "nvme")
    ]
    wanted = [stage | {"world_size": ranks} for ranks in (1, 2, 4) for stage in stages]
    wanted += [stage | {"precision": "fp32"} for stage in stages]
    wanted += [{"stage": stage, "offload_optimizer": "cpu"} for stage in (1, 2)] + on_cpu
    wanted += [offload | {"precision": precision} for precision in ("bf16", "fp32") for offload in on_nvme]
    wanted += [stage | {"accumulation": 2} for stage in stages]
    wanted += [stage | {"checkpointing": True} for stage in stages]
    wanted += [stage | {"model": "10m"} for stage in stages]
    return [DEFAULT | choice for choice in wanted]


def train(choice, bar):
    """Train one choice to its end and return its entry; raises TrainingError where it does not get there."""
    run, events = live_run(choice), []
    if reason := obstacle(run, "cpu"):
        raise TrainingError(reason)

    def follow(event):
        events.append(event)
        bar.set_postfix_str(f"loss {event['loss']:.3f}" if event["event"] == "step" else event["event"])

    training = LiveTraining(run, steps=STEPS, accelerator="cpu", on_event=follow)
    training.start()
    if training.wait() != "ended":
        reason = f"{events[-1].get('message', training.state)}\n{events[-1].get('output', '')}"
        raise TrainingError(f"{run.in_words()}: {reason}")
    result = events[-1]["result"]
    rounded = {name: [round(value, 4) for value in result[name]] for name in ("losses", "step_seconds")}
    kept = {name: value for name, value in (result | rounded).items() if name not in LEFT_OUT}
    return {"choice": choice, "config": run.config, "result": kept, "hardware": result["hardware"]}


def main():
    """Run what is missing, then record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", type=int, nargs="+", metavar="RUN", help="numbers of runs to print, not record")
    options = parser.parse_args()
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    every = choices()
    wanted = [every[number] for number in options.only] if options.only else every
    kept = UnfinishedRecord(UNFINISHED, "choice")
    missing = [choice for choice in wanted if options.only or kept.entry_of(choice) is None]
    with tqdm(total=len(wanted), initial=len(wanted) - len(missing), unit="run") as bar:
        for choice in missing:
            entry = train(choice, bar)
            bar.update()
            tqdm.write(line(entry))
            if not options.only:
                kept.add(entry)
    if options.only:
        return
    runs = [kept.entry_of(choice) for choice in every]
    hardware = "; ".join(sorted({run.pop("hardware") for run in runs}))
    path = record(
        "selector_runs",
        command="python benchmarks/selector_runs.py",
        config={"runs": "each run names its own"},
        hardware=f"{hardware}; ranks over gloo",
        seed=0,
        warm_up=WARM_UP_STEPS,
        counted=STEPS - WARM_UP_STEPS,
        measured={"runs": runs},
    )
    kept.forget()
    print(f"Recorded {len(runs)} runs in {path}.")


def line(entry):
    """One line about a run: what was chosen and what came of it."""
    result = entry["result"]
    return (
        f"{live_run(entry['choice']).in_words()}: loss {result['initial_loss']:.2f} to {result['final_loss']:.2f}, "
        f"{result['samples_per_second']:.1f} samples/s, peak {sum(result['peak'].values()) / 2**20:.1f} MiB, "
        f"{result['times_ddp']:.2f} times DDP"
    )


if __name__ == "__main__":
    main()
