"""Measure the GPU tier of the course on this machine, stage by stage: `make gpu`.

    python benchmarks/gpu.py                          # every stage; goes on where an interrupted run stopped
    python benchmarks/gpu.py --stages grid offload    # some of them
    python benchmarks/gpu.py --dry-run --folder dry   # the same on CPU ranks with a tiny model: no measurement

Any Python with torch for CUDA, deepspeed and transformers will do, without a network; run it from the repository's top
folder with PYTHONPATH=. where labsupport is not installed. A finished cell is kept in _build/gpu, a finished stage in
labsupport/recorded/gpu_<stage>.json. A cell that runs out of memory is tried again with half its micro-batch, then
with the next smaller model, and the record says so.
"""

# ruff: noqa: E402  (a Python that lacks something must be told so before the imports that need it)
import contextlib
import importlib.util
import os
import sys
import tempfile
from pathlib import Path

from labsupport.gpu.session import _DryRunner, _Runner

if sys.version_info < (3, 11):  # noqa: UP036  (a Python of the reader's own, which no installer has checked)
    print(f"error: {sys.executable} is Python {sys.version.split()[0]}: take 3.11 or newer.", file=sys.stderr)
    sys.exit(2)
NEEDED = ("labsupport", "torch", "deepspeed", "transformers", "accelerate", "tqdm", "psutil", "ninja")
if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
    print(f"error: {sys.executable} has no {', '.join(missing)}: install what is missing, or name it in PYTHONPATH.",
          file=sys.stderr)  # fmt: skip
    sys.exit(2)


from labsupport.command_line import OneSentenceParser
from labsupport.errors import LabError
from labsupport.gpu import suites as gpu_stages
from labsupport.machine.probes import can_write, gpu_count, gpu_obstacle
from labsupport.records import FOLDER, record


def parse(arguments=None):
    """Return the command line's options; raises LabError for what it does not know."""
    parser = OneSentenceParser(prog="gpu.py", description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--stages", nargs="+", choices=gpu_stages.STAGES, default=list(gpu_stages.STAGES), metavar="STAGE",
        help=f"which to measure: {', '.join(gpu_stages.STAGES)} (default: all)")  # fmt: skip
    add(
        "--model", help="the preset of grid, speed, trainer, offload and scaling (default: the largest that should fit)"
    )
    add("--memory-gib", type=float, default=24.0,
        help="GPU memory that stage `largest` may use, 0 for all (default 24, a workstation card's)")  # fmt: skip
    add("--nvme-path", type=Path, help="a folder on the NVMe drive (default: in the temporary folder)")
    add("--folder", type=Path, default=FOLDER, help="where the records go (default: labsupport/recorded)")
    add("--fresh", action="store_true", help="forget the cells that an interrupted run has finished")
    add(
        "--dry-run",
        action="store_true",
        help="CPU ranks and a tiny model, to see that every stage works; needs --folder",
    )
    return parser.parse_args(arguments)


def main(arguments=None):
    """Measure the stages asked for and return the exit status; a mistake is one sentence."""
    try:
        options = parse(arguments)
        if not options.dry_run and (reason := gpu_obstacle()):
            raise LabError(f"{reason} `--dry-run --folder dry` tries every stage on the processor.")
        if options.dry_run and options.folder == FOLDER:
            raise LabError("A dry run measures nothing worth recording: name another folder with --folder.")
        if options.memory_gib != 0 and not 2 <= options.memory_gib < float("inf"):
            raise LabError(
                f"--memory-gib is {options.memory_gib}: give a number of GiB from 2 up, or 0 for all there is."
            )
        for folder in filter(None, (options.folder, options.nvme_path)):
            if not can_write(folder):
                raise LabError(f"{folder} cannot be written: name a folder that you own.")
        return run(options)
    except LabError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Stopped by Ctrl-C; the finished cells are kept, the same command goes on.", file=sys.stderr)
        return 130


def run(options):
    """Measure stage after stage, record each that is complete, and return 1 where a cell failed."""
    with _runner(options) as runner, tempfile.TemporaryDirectory(prefix="deepspeed-lab-") as folder:
        runner.nvme_path = options.nvme_path or folder
        tier = gpu_stages.Tier(options.dry_run, runner.ranks, options.model, options.memory_gib, runner.nvme_path)
        # The ops first: the rest would compile them unseen.
        tier.ops = runner.stage("ops", gpu_stages.ops(tier))[0][0].get("measured")
        tier.environment = runner.stage("environment", gpu_stages.environment(tier))[0][0].get("measured")
        if not tier.environment or not tier.ops:
            raise LabError("This machine could not be described: the sentence above says why; mend that first.")
        for name in options.stages:
            cells = gpu_stages.STAGES[name](tier)
            if isinstance(cells, str):  # why there is nothing to measure here
                print(f"{name}: {cells}")
                continue
            entries, measured_now = runner.stage(name, cells)
            if not any("measured" in entry for entry in entries):
                print(f"{name}: no cell was measured, so nothing is recorded; an earlier record stays.")
            elif (
                measured_now or not Path(options.folder, f"gpu_{name}.json").exists() or name in ("environment", "ops")
            ):
                _record(name, entries, tier, options)
        if not runner.failed:
            runner.forget()  # until here an interrupted run can go on
    print("Records: " + ", ".join(sorted(path.name for path in options.folder.glob("gpu_*.json"))) + ".")
    return 1 if runner.failed else 0


def _record(name, entries, tier, options):
    found = tier.environment
    limits = "" if not tier.dry_run else "DRY RUN, no measurement: "
    path = record(
        f"gpu_{name}",
        command=f"python benchmarks/gpu.py --stages {name}",
        config={"cells": "each cell names its own"},
        hardware=f"{limits}{found['machine']}; {found['cores']} CPU cores, "
        f"{found['host_memory_bytes'] / 2**30:.0f} GiB of host memory",
        seed=0,
        warm_up=gpu_stages.WARM_UP_STEPS,
        counted=f"{tier.windows} windows of {tier.steps} steps, fewer where a step is slow",
        measured={"environment": found, "ops": tier.ops, "cells": entries},
        more_versions={"cuda": found["cuda"], "driver": found["driver"]},
        folder=options.folder,
    )
    print(f"{name}: {len(entries)} cells recorded in {path.name}.", flush=True)


@contextlib.contextmanager
def _runner(options):
    if not options.dry_run:
        yield _Runner(options, gpu_count())
        return
    from labsupport.ranks.notebook import Ranks

    os.environ["DS_ACCELERATOR"] = "cpu"
    started = {}

    def live(count):
        if count not in started:
            started[count] = Ranks(count, "cpu")
        return started[count]

    try:
        yield _DryRunner(options, 2, live)
    finally:
        for ranks in started.values():
            ranks.stop()


if __name__ == "__main__":
    sys.exit(main())
