"""Recorded measurements keep what it takes to trust them."""

import json

import pytest

from labsupport.errors import LabError
from labsupport.records import UnfinishedRecord, provenance, read_record, record, write_whole


def test_what_is_recorded_is_read_back_with_its_provenance(tmp_path):
    path = record("speed", "make speed", {"a": 1}, "2 cores", 0, 1, 2, {"seconds": [1.0, 2.0]}, folder=tmp_path)
    content = read_record("speed", tmp_path)
    assert content["measured"] == {"seconds": [1.0, 2.0]} and content["config"] == {"a": 1}
    assert content["date"].endswith("+00:00") and content["versions"]["deepspeed"]
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_missing_and_incomplete_records_are_refused_in_one_sentence(tmp_path):
    with pytest.raises(LabError, match="no recorded measurement 'x': there are none"):
        read_record("x", tmp_path)
    (tmp_path / "x.json").write_text(json.dumps({"measured": 1}))
    with pytest.raises(LabError, match="lacks command, config"):
        read_record("x", tmp_path)


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "result.json"
    write_whole(path, "first")

    def full(self, text, **_):
        with open(self, "w") as file:
            file.write(text[:2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_text", full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(path, "second")
    assert path.read_text() == "first" and list(tmp_path.iterdir()) == [path]


def test_an_unfinished_record_goes_on_where_it_stopped_and_keeps_one_entry_for_each_wish(tmp_path):
    path = tmp_path / "made" / "runs.jsonl"
    kept = UnfinishedRecord(path, "cell")
    for entry in (
        {"cell": {"a": 1, "b": 2}, "loss": 3.0},
        {"cell": {"a": 2}, "loss": 4.0},
        {"cell": {"a": 2}, "loss": 5.0},
    ):
        kept.add(entry)
    again = UnfinishedRecord(path, "cell")
    assert again.entry_of({"b": 2, "a": 1})["loss"] == 3.0 and again.entry_of({"a": 2})["loss"] == 5.0
    assert again.entry_of({"a": 3}) is None and len(path.read_text().splitlines()) == 2
    path.write_text(path.read_text()[:-5])  # cut by an interruption
    assert UnfinishedRecord(path, "cell").entry_of({"a": 2}) is None
    again.forget()
    assert UnfinishedRecord(path, "cell").entry_of({"b": 2, "a": 1}) is None


def test_provenance_names_the_hardware_the_versions_the_commit_and_the_date():
    content = {
        "hardware": "2 cores",
        "versions": {"torch": "2", "driver": None},
        "commit": "abc+",
        "date": "2026-01-02T03",
    }
    assert provenance(content) == "2 cores; torch 2; commit abc+, 2026-01-02"
