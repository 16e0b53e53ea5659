"""The reader's progress: one small file, which never costs more than itself."""

import json
import os
import re
import stat
import threading

import nbformat
import pytest
from conftest import ROOT

from labsupport.errors import LabError
from labsupport.exercises import check, progress, show_progress
from labsupport.exercises.catalog import WITHDRAWN, catalog


@pytest.fixture(autouse=True)
def file(tmp_path, monkeypatch):
    path = tmp_path / "own" / "progress.json"
    monkeypatch.setenv("DEEPSPEED_COURSE_PROGRESS", str(path))
    return path


def test_it_is_in_the_readers_own_folder_by_default(monkeypatch, tmp_path):
    monkeypatch.delenv("DEEPSPEED_COURSE_PROGRESS")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    assert progress.path().is_relative_to(tmp_path) and progress.path().name == "progress.json"
    assert str(progress.path()).replace(str(tmp_path), "~") in progress.where()


def test_what_was_passed_once_stays_passed_and_attempts_are_counted(file):
    assert progress.done() == (set(), None)
    for passed in (False, True, False):
        assert progress.record("01-batch", passed) is None
    assert progress.done() == ({"01-batch"}, None)
    assert json.loads(file.read_text())["01-batch"]["attempts"] == 3


def test_deleting_the_file_loses_only_that(file):
    progress.record("01-batch", True)
    file.unlink()
    assert progress.done() == (set(), None)
    assert progress.record("01-read", True) is None
    assert progress.done() == ({"01-read"}, None)


@pytest.mark.parametrize("content", ["{", "[]", '{"01-batch": true}', '{"01-batch": {"attempts": "x"}}', "\x00"])
def test_a_file_that_cannot_be_read_is_kept_beside_a_new_one(file, content):
    file.parent.mkdir()
    file.write_text(content)
    assert "cannot be read" in progress.done()[1]
    assert "kept beside it" in progress.record("01-batch", True)
    assert file.with_suffix(".unreadable").read_text() == content
    assert progress.done() == ({"01-batch"}, None)


def test_a_folder_that_cannot_be_written_is_one_sentence(file):
    file.parent.write_text("a file stands where the folder should be")
    assert "was not written" in progress.record("01-batch", True)
    assert progress.done() == (set(), None)


def test_two_labs_at_once_lose_nothing(file):
    names = [f"01-{number}" for number in range(20)]
    threads = [threading.Thread(target=progress.record, args=(name, True)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert progress.done() == (set(names), None)
    assert stat.S_ISREG(os.stat(file).st_mode)


@pytest.mark.parametrize("exercise_id", WITHDRAWN)
@pytest.mark.parametrize("answer", [..., None, {"a": ...}, (each for each in "ab"), lambda: 1 / 0], ids=range(5))
def test_a_withdrawn_exercise_answers_in_one_sentence_and_counts_nothing(file, capsys, exercise_id, answer):
    check(exercise_id, answer)
    said = capsys.readouterr().out
    assert (
        said == f"The exercise {exercise_id} was withdrawn and does not count: {WITHDRAWN[exercise_id]} replaced it.\n"
    )
    assert not file.exists()


def test_what_took_the_place_of_a_withdrawn_exercise_is_there():
    assert not set(WITHDRAWN) & {exercise.id for exercise in catalog()}
    for place in WITHDRAWN.values():
        number, lab = re.fullmatch(r"question (\d) at the end of lab (\d\d)", place).groups()
        [notebook] = (ROOT / "notebooks").glob(f"{lab}_*.ipynb")
        [questions] = [cell.source for cell in nbformat.read(notebook, 4).cells if cell.id == "concept-check"]
        assert f"\n**{number}.** " in questions


def test_an_old_progress_file_with_a_withdrawn_exercise_loads_and_does_not_count_it(file, capsys):
    file.parent.mkdir()
    file.write_text('{"03-accumulate": {"attempts": 2, "passed_utc": "2026-01-01T00:00:00Z"}}')
    assert progress.done()[1] is None
    show_progress("03_training")
    assert capsys.readouterr().out.startswith("0 of 5 exercises of this lab are done.")
    progress.record("03-clipping", True)
    show_progress("03_training")
    assert capsys.readouterr().out.startswith("1 of 5 exercises of this lab are done.")


def test_an_id_that_never_was_is_told_the_nearest():
    with pytest.raises(LabError, match="did you mean '03-train-step'"):
        check("03-trainstep", ...)
