"""Measure the GPU tier of the course on this machine, suite by suite: `make gpu`.

    python benchmarks/gpu.py                          # every suite; goes on where an interrupted run stopped
    python benchmarks/gpu.py --suites grid offload    # some of them
    python benchmarks/gpu.py --dry-run --folder dry   # the same on CPU ranks with a tiny model: no measurement

Any Python with torch for CUDA, deepspeed and transformers will do, without a network; run it from the repository's top
folder with PYTHONPATH=. where labsupport is not installed. A finished cell is kept in _build/gpu, a finished suite in
labsupport/recorded/gpu_<suite>.json. A cell that runs out of memory is tried again with half its micro-batch, then
with the next smaller model, and the record says so.
"""

# ruff: noqa: E402  (a Python that lacks something must be told so before the imports that need it)
import importlib.util
import sys

if sys.version_info < (3, 11):  # noqa: UP036  (a Python of the reader's own, which no installer has checked)
    print(f"error: {sys.executable} is Python {sys.version.split()[0]}: take 3.11 or newer.", file=sys.stderr)
    sys.exit(2)
NEEDED = ("labsupport", "torch", "deepspeed", "transformers", "accelerate", "tqdm", "psutil", "ninja")
if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
    print(f"error: {sys.executable} has no {', '.join(missing)}: install what is missing, or name it in PYTHONPATH.",
          file=sys.stderr)  # fmt: skip
    sys.exit(2)

import contextlib
import os
import tempfile
from pathlib import Path

from labsupport.command_line import OneSentenceParser, exit_status
from labsupport.errors import LabError
from labsupport.gpu.session import LiveCpuRanks, Session, kept_folder
from labsupport.gpu.suites import SUITES, Tier
from labsupport.machine.probes import can_write, gpu_count, gpu_obstacle
from labsupport.records import FOLDER


def parse(arguments=None):
    """Return the command line's options; raises LabError for what it does not know."""
    parser = OneSentenceParser(prog="gpu.py", description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--suites", nargs="+", choices=SUITES, default=list(SUITES), metavar="SUITE",
        help=f"which to measure: {', '.join(SUITES)} (default: all)")  # fmt: skip
    add(
        "--model", help="the preset of grid, speed, trainer, offload and scaling (default: the largest that should fit)"
    )
    add("--memory-gib", type=float, default=24.0,
        help="GPU memory that suite `largest` may use, 0 for all (default 24, a workstation card's)")  # fmt: skip
    add("--nvme-path", type=Path, help="a folder on the NVMe drive (default: in the temporary folder)")
    add("--folder", type=Path, default=FOLDER, help="where the records go (default: labsupport/recorded)")
    add("--fresh", action="store_true", help="forget the cells that an interrupted run has finished")
    add(
        "--dry-run",
        action="store_true",
        help="CPU ranks and a tiny model, to see that every suite works; needs --folder",
    )
    return parser.parse_args(arguments)


def main(arguments=None):
    """Measure the suites asked for and return the exit status: 1 where a cell failed, 2 for a mistake of the reader."""
    return exit_status(run, arguments, stopped="Stopped by Ctrl-C; finished cells are kept, the same command goes on.")


def run(arguments=None):
    """Check what was asked for, measure suite after suite, and return the exit status."""
    options = parse(arguments)
    if not options.dry_run and (reason := gpu_obstacle()):
        raise LabError(f"{reason} `--dry-run --folder dry` tries every suite on the processor.")
    if options.dry_run and options.folder == FOLDER:
        raise LabError("A dry run measures nothing worth recording: name another folder with --folder.")
    if options.memory_gib != 0 and not 2 <= options.memory_gib < float("inf"):
        raise LabError(f"--memory-gib is {options.memory_gib}: give a number of GiB from 2 up, or 0 for all there is.")
    for folder in filter(None, (options.folder, options.nvme_path)):
        if not can_write(folder):
            raise LabError(f"{folder} cannot be written: name a folder that you own.")
    with contextlib.ExitStack() as stack:
        nvme_path = options.nvme_path or stack.enter_context(tempfile.TemporaryDirectory(prefix="deepspeed-lab-"))
        ranks = 2 if options.dry_run else gpu_count()
        tier = Tier(options.dry_run, ranks, options.model, options.memory_gib, nvme_path)
        measure = None
        if options.dry_run:
            os.environ["DS_ACCELERATOR"] = "cpu"
            measure = stack.enter_context(LiveCpuRanks(nvme_path))
        session = Session(tier, kept_folder(tier), measure)
        if options.fresh:
            session.forget()
        all_worked = session.run(options.suites, options.folder)
    print("Records: " + ", ".join(sorted(path.name for path in options.folder.glob("gpu_*.json"))) + ".")
    return 0 if all_worked else 1


if __name__ == "__main__":
    sys.exit(main())
