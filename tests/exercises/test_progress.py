"""The reader's progress: one small file, which never costs more than itself."""

import json
import os
import stat
import threading

import pytest

from labsupport.exercises import progress


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
