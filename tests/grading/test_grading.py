"""Grading: what submissions may do, what they may not, and what the instructor gets for it."""

import csv
import subprocess
import sys

import nbformat
import psutil
import pytest
from conftest import ROOT

from labsupport.errors import LabError
from labsupport.grading.grade import COLUMNS, grade_folder, main

pytestmark = pytest.mark.slow

RIGHT = 'batch_config = {"train_micro_batch_size_per_gpu": 8, "gradient_accumulation_steps": 3}'
CHECK = 'check("01-batch", batch_config)'
MARK = "deepspeed-course-orphan"
SUBMISSIONS = {
    "anna/lab.ipynb": [
        f"import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)', '{MARK}'], "
        "start_new_session=True)",
        "raise ValueError('an error of the reader is no reason to stop')",
        f"import subprocess, sys\n{RIGHT}",
        CHECK,
        'prediction = {"stage": 3, "precision": "fp16", "train_batch_size": 48, "gradient_clipping": 1.0, '
        '"first_loss_scale": 4096}',
        'check("01-read", prediction)',
        "mended = ...",
    ],
    "ben/cheats.ipynb": [
        "import labsupport.exercises\nlabsupport.exercises.verify = lambda *_: True\ndef check(*_, **__): pass",
        "batch_config = {}",
        CHECK,
    ],
    "cleo/exits.ipynb": [RIGHT, CHECK, "import os\nos._exit(0)"],
    "dan/loops.ipynb": [RIGHT, CHECK, "while True: pass"],
    "eve/swallows.ipynb": [RIGHT, CHECK, "rows = [bytearray(2**27) for _ in range(24)]\nimport time\ntime.sleep(100)"],
    "gus/nothing.ipynb": ["print('my first notebook')"],
}


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    """The rows of all submissions, by file; one of them is no notebook at all."""
    folder = tmp_path_factory.mktemp("submissions")
    for name, cells in SUBMISSIONS.items():
        (folder / name).parent.mkdir()
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
        nbformat.write(notebook, folder / name)
    (folder / "fay.ipynb").write_text("no notebook")
    rows = grade_folder(folder, folder / "grades.csv", minutes=0.35, memory_gib=1.5)
    with open(folder / "grades.csv", newline="", encoding="utf-8") as file:
        written = list(csv.DictReader(file))
    assert [{key: str(value) for key, value in row.items()} for row in rows] == written
    assert tuple(written[0]) == COLUMNS
    return {name: {row["exercise"]: row for row in written if row["submission"] == name} for name in
            [*SUBMISSIONS, "fay.ipynb"]}  # fmt: skip


def test_each_exercise_of_the_lab_gets_a_row_and_its_message(graded):
    rows = graded["anna/lab.ipynb"]
    assert {name: row["passed"] for name, row in rows.items()} == {
        "01-batch": "1", "01-read": "0", "01-config": "0", "01-broken": "0",
    }  # fmt: skip
    assert rows["01-read"]["message"].startswith("The stage in force is not 3.")
    assert rows["01-config"]["message"] == "The notebook defines no create_deepspeed_config."
    assert rows["01-broken"]["message"] == "Not attempted."
    assert rows["01-batch"]["run"] == "ran to its end"


def test_a_check_that_the_submission_edited_counts_for_nothing(graded):
    assert graded["ben/cheats.ipynb"]["01-batch"]["passed"] == "0"


@pytest.mark.parametrize(
    ("name", "run"),
    [
        ("cleo/exits.ipynb", "its kernel died"),
        ("dan/loops.ipynb", "ended after 0.35 minutes"),
        ("eve/swallows.ipynb", "ended at more than 1.5 GiB"),
    ],
)
def test_a_submission_that_is_ended_keeps_what_it_had_handed_over(graded, name, run):
    row = graded[name]["01-batch"]
    assert (row["run"], row["passed"]) == (run, "1")


def test_what_is_no_lab_says_so(graded):
    assert graded["fay.ipynb"][""]["run"] == "not a notebook: NotJSONError"
    assert graded["gus/nothing.ipynb"][""]["run"] == "no exercise of the course in it"


def test_no_process_of_a_submission_is_left(graded):
    assert not [p.pid for p in psutil.process_iter(["cmdline"]) if MARK in (p.info["cmdline"] or ())]


def test_mistakes_are_one_sentence(tmp_path, capsys):
    with pytest.raises(LabError, match="There is no folder"):
        grade_folder(tmp_path / "none", tmp_path / "grades.csv")
    with pytest.raises(LabError, match="holds no notebook"):
        grade_folder(tmp_path, tmp_path / "grades.csv")
    nbformat.write(nbformat.v4.new_notebook(), tmp_path / "a.ipynb")
    (tmp_path / "grades.csv").write_text("last year's")
    assert main([str(tmp_path), str(tmp_path / "grades.csv")]) == 2
    assert "exists: name another file" in capsys.readouterr().err
    assert (tmp_path / "grades.csv").read_text() == "last year's"
    assert main(["", ""]) == 2
    with pytest.raises(SystemExit):
        main([str(tmp_path), "new.csv", "--minutes", "-1"])
    assert "--minutes: -1 is not more than 0" in capsys.readouterr().err


def test_learners_get_every_lab_without_a_solution(tmp_path):
    command = [sys.executable, "-m", "nbconvert", "--to", "notebook", "--TagRemovePreprocessor.enabled=True",
               "--TagRemovePreprocessor.remove_cell_tags=solution", "--output-dir", str(tmp_path),
               *map(str, sorted((ROOT / "notebooks").glob("*.ipynb")))]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    for lab in sorted((ROOT / "notebooks").glob("*.ipynb")):
        ours, theirs = nbformat.read(lab, 4).cells, nbformat.read(tmp_path / lab.name, 4).cells
        solutions = [cell.source for cell in ours if "solution" in cell.metadata.get("tags", [])]
        assert [c.source for c in theirs] == [c.source for c in ours if c.source not in solutions]
        assert not any("record=False" in cell.source for cell in theirs)


def test_the_command_of_make_grade_is_there():
    done = subprocess.run(
        [sys.executable, "-m", "labsupport.grading", "", ""], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2 and done.stderr == "error: Name both: make grade FOLDER=submissions CSV=grades.csv\n"
