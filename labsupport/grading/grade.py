"""Grade a folder of submitted labs: run each in processes of its own, judge its answers, write one CSV.

    make grade FOLDER=submissions CSV=grades.csv
    python -m labsupport.grading submissions grades.csv --minutes 10 --memory-gib 8

A submission is code that somebody else wrote. It runs with time and memory limits, in a folder of its own and without
the solutions, and every process that it starts is ended. It is not fenced in beyond that: see book/instructors.md.
"""

import argparse
import csv
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from labsupport.command_line import exit_status
from labsupport.errors import LabError
from labsupport.exercises.exercise import Verdict
from labsupport.exercises.verify import verify_pickled

COLUMNS = ("submission", "exercise", "title", "passed", "message", "run", "seconds")
POLL_SECONDS = 0.5


def grade_folder(folder, csv_path, minutes=10, memory_gib=8, cell_seconds=120, on_submission=None):
    """Grade every notebook below `folder` and write a row for each exercise of each; return the rows, as dicts.

    minutes, memory_gib: of one submission, all its processes together. on_submission: called with the name and the rows
    of each. Rows are written as soon as they are known. Raises LabError for a folder without notebooks, and for a CSV
    that exists.
    """
    folder, csv_path = Path(folder), Path(csv_path)
    if not folder.is_dir():
        raise LabError(f"There is no folder {folder}: name the one that holds the submitted notebooks.")
    submissions = sorted(p for p in folder.rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)
    if not submissions:
        raise LabError(f"{folder} holds no notebook: put the submitted .ipynb files there, in folders if you like.")
    try:
        file = open(csv_path, "x", newline="", encoding="utf-8")  # noqa: SIM115 - closed below, after all rows
    except FileExistsError:
        raise LabError(f"{csv_path} exists: name another file, so that no grades are lost.") from None
    except OSError as error:
        raise LabError(f"Cannot write {csv_path}: {error.strerror.lower()}.") from None
    rows = []
    with file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for path in submissions:
            name = str(path.relative_to(folder))
            fresh = [{"submission": name} | row for row in grade(path, minutes, memory_gib, cell_seconds)]
            writer.writerows(fresh)
            file.flush()
            rows += fresh
            if on_submission is not None:
                on_submission(name, fresh)
    return rows


def grade(path, minutes, memory_gib, cell_seconds):
    """Return the rows of one submission, without its name."""
    import nbformat

    from labsupport.grading.submission import exercises_in

    try:
        exercises = exercises_in(nbformat.read(path, 4))
    except Exception as error:  # whatever a broken file makes nbformat raise
        return [_row(run=f"not a notebook: {type(error).__name__}")]
    if not exercises:
        return [_row(run="no exercise of the course in it")]
    with tempfile.TemporaryDirectory(prefix="deepspeed-grading-") as temporary:
        answers = Path(temporary, "answers")
        answers.mkdir()
        start = time.monotonic()
        run = _run(path, Path(temporary), answers, minutes, memory_gib, cell_seconds)
        seconds = round(time.monotonic() - start)
        rows = []
        for exercise in exercises:
            pickled, reason = answers / f"{exercise.id}.pickle", answers / f"{exercise.id}.txt"
            if pickled.exists():
                verdict = verify_pickled(exercise, pickled.read_bytes())
            else:
                verdict = Verdict(False, "not attempted", reason.read_text() if reason.exists() else "Not attempted.")
            rows.append(_row(exercise.id, exercise.title, int(verdict.passed), verdict.message, run, seconds))
    return rows


def _row(exercise="", title="", passed=0, message="", run="", seconds=0):
    values = (exercise, title, passed, message.replace("\n", " "), run, seconds)
    return dict(zip(COLUMNS[1:], values, strict=True))


def _run(path, temporary, answers, minutes, memory_gib, cell_seconds):
    """Run a submission under the guard and return how that went, in words."""
    home = temporary / "home"
    home.mkdir()
    notebook = shutil.copy(path, home / "submission.ipynb")
    for module in path.parent.glob("*.py"):  # the milestone's answer is a file beside its notebook
        shutil.copy(module, home)
    environment = os.environ | {
        "HOME": str(home),
        "TMPDIR": str(home),
        "DEEPSPEED_COURSE_PROGRESS": str(home / "progress.json"),
        # The compiled ops stay where they are: with another home each submission would compile its own.
        "TORCH_EXTENSIONS_DIR": os.environ.get("TORCH_EXTENSIONS_DIR", str(Path.home() / ".cache/torch_extensions")),
    }
    inner = [sys.executable, "-m", "labsupport.grading.submission", notebook, str(answers), str(cell_seconds)]
    command = [sys.executable, "-m", "labsupport.launch.guard", str(os.getpid()), str(temporary), "0", *inner]
    process = subprocess.Popen(
        command,
        env=environment,
        cwd=home,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline, ended_for = time.monotonic() + 60 * minutes, None
    try:
        while process.poll() is None and ended_for is None:
            time.sleep(POLL_SECONDS)
            if time.monotonic() > deadline:
                ended_for = f"ended after {minutes:g} minutes"
            elif _memory_bytes(process.pid) > memory_gib * 2**30:
                ended_for = f"ended at more than {memory_gib:g} GiB"
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)  # the guard ends all that the submission started
        process.wait()
    return ended_for or {0: "ran to its end", 3: "its kernel died"}.get(process.returncode, "failed to run")


def _memory_bytes(pid):
    total = 0
    try:
        family = psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return 0
    for member in family:
        try:
            total += member.memory_info().rss
        except psutil.NoSuchProcess:  # it ended meanwhile
            continue
    return total


def _positive(text):
    number = float(text)
    if not number > 0:
        raise argparse.ArgumentTypeError(f"{text} is not more than 0")
    return number


def main(arguments=None):
    """Grade and return the exit status: 0, 2 for a mistake told in one sentence, 130 for Ctrl-C."""
    return exit_status(run, arguments, stopped="Stopped by Ctrl-C: the rows so far are in the file.")


def run(arguments=None):
    """Grade the folder that the command line names, print a line a submission, and return 0."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", help="where the submitted notebooks are, in folders of any depth")
    parser.add_argument("csv", help="the file to write, which must not exist")
    parser.add_argument("--minutes", type=_positive, default=10, help="time for one submission (default 10)")
    parser.add_argument("--memory-gib", type=_positive, default=8, help="memory for one submission (default 8)")
    options = parser.parse_args(arguments)
    if not options.folder or not options.csv:
        raise LabError("Name both: make grade FOLDER=submissions CSV=grades.csv")

    def show(name, rows):
        passed = sum(row["passed"] for row in rows)
        of = sum(bool(row["exercise"]) for row in rows)
        print(f"{name}: {passed} of {of}, {rows[0]['run']}, {rows[0]['seconds']} s", flush=True)

    grade_folder(options.folder, options.csv, options.minutes, options.memory_gib, on_submission=show)
    print(f"The grades are in {options.csv}.")
    return 0
