"""Run every lab once, then build the book, strictly, from what the labs printed.

    python book/build.py            # labs that did not change, with a labsupport that did not, are not run again
    python book/build.py --fresh    # run them all
    python book/build.py --fresh --at-once 2    # two labs at a time: sooner, and what they time is worth less

nbmake runs copies of the notebooks, and the copies go into the cache that the book's build reads its outputs
from. The book's own cache keys on code cells alone: it would keep old numbers when labsupport changes.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import nbformat

from labsupport.machine import gpu_count
from labsupport.records import commit

ROOT = Path(__file__).resolve().parent.parent
LAB_SECONDS = 600  # one cell may wait for an op that is compiled for the first time


def main():
    """Run the labs, build the book, say where it is; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--fresh", action="store_true", help="run every lab, also those that did not change")
    parser.add_argument("--at-once", type=int, default=1, help="how many labs run at a time (default 1)")
    parser.add_argument("--root", type=Path, default=ROOT, help="the course's folder")
    options = parser.parse_args()
    root = options.root.resolve()
    status = run_labs(root, options.fresh, options.at_once) or build_pages(root)
    if status:
        print("error: the book was not built: the failure stands above.", file=sys.stderr)
    else:
        print(f"The book is at {root / '_build/html/index.html'}; `make serve` shows it in a browser.")
    return status


def run_labs(root, fresh=False, at_once=1):
    """Run copies of the labs that need it through nbmake and hand them to the book; return the exit status."""
    executed = root / "_build" / "executed"
    executed.mkdir(parents=True, exist_ok=True)
    stamp, now = executed / "inputs.sha256", fingerprint(root)
    if not fresh and stamp.exists() and stamp.read_text() == now:
        print("The labs and labsupport did not change since they were run: their outputs are used again.")
        return 0
    stamp.unlink(missing_ok=True)
    labs = sorted((root / "notebooks").glob("*.ipynb"))
    if gpu_count():
        at_once = 1  # two labs on one GPU would take each other's memory
    print(f"Running {len(labs)} labs, {'one after the other' if at_once == 1 else f'{at_once} at a time'}.", flush=True)
    # nbmake passes over every folder called _build, so the copies run elsewhere and come here afterwards.
    with tempfile.TemporaryDirectory(prefix="deepspeed-labs-") as folder:
        copies = [shutil.copy(lab, folder) for lab in labs]
        command = [sys.executable, "-m", "pytest", "--nbmake", "--overwrite", f"--nbmake-timeout={LAB_SECONDS}",
                   "-v", "--durations=0", "-p", "no:cacheprovider", f"--rootdir={folder}", *copies]  # fmt: skip
        command += ["-n", str(at_once)] if at_once > 1 else []
        # The page shows nobody's progress: neither is the builder's own file read, nor does a lab write to it.
        environment = os.environ | {"DEEPSPEED_COURSE_PROGRESS": str(Path(folder, "progress.json"))}
        environment["DEEPSPEED_COURSE_SOLUTIONS"] = "1"  # the page shows each with its verdict
        status = subprocess.run(command, cwd=root, env=environment).returncode
        shutil.rmtree(executed)
        shutil.copytree(folder, executed)
    if status == 0:
        fill_cache(root, labs, executed)
        # What the pages say of the run; they are built from it later, perhaps by another commit.
        run = {"date": datetime.now(UTC).date().isoformat(), "deepspeed": version("deepspeed"), "commit": commit()}
        (executed / "run.json").write_text(json.dumps(run) + "\n")
        stamp.write_text(now)
    return status


def fill_cache(root, labs, executed):
    """Put the executed copies where the book's build looks for the outputs of the labs."""
    from jupyter_cache import get_cache

    folder = root / "_build" / ".jupyter_cache"
    shutil.rmtree(folder, ignore_errors=True)
    cache = get_cache(folder)
    for lab in labs:
        # The cache finds a lab by its code and metadata, so the copy must not keep what running it wrote there.
        source, copy = nbformat.read(lab, 4), nbformat.read(executed / lab.name, 4)
        copy.metadata = source.metadata
        for cell in copy.cells:
            cell.metadata.pop("execution", None)
        nbformat.write(copy, executed / lab.name)
        cache.cache_notebook_file(executed / lab.name, uri=str(lab), overwrite=True, check_validity=False)


def build_pages(root):
    """Build every page anew, with each warning an error; return the exit status."""
    # --all, because an incremental build forgets the warnings of the pages that it does not read again.
    command = [
        str(Path(sys.executable).with_name("jupyter-book")),
        "build",
        str(root),
        "--all",
        "-W",
        "-n",
        "--keep-going",
    ]
    return subprocess.run(command, cwd=root).returncode


def fingerprint(root):
    """Return one digest of everything that a lab's output depends on."""
    digest = hashlib.sha256()
    inputs = [
        *root.glob("notebooks/*.ipynb"),
        *root.glob("labsupport/**/*.py"),
        *root.glob("labsupport/**/*.json"),
    ]
    for path in sorted([*inputs, root / "constraints.txt"]):
        digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes())
    return digest.hexdigest()


if __name__ == "__main__":
    sys.exit(main())
