"""Recorded measurements keep what it takes to trust them."""

import json

import pytest

from labsupport.errors import LabError
from labsupport.records import FOLDER, REQUIRED, read_record, record


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


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.json")), ids=lambda path: path.stem)
def test_every_committed_record_is_whole(path):
    content = read_record(path.stem)
    assert all(content[key] not in (None, "") for key in REQUIRED)
    assert set(content["versions"]) >= {"python", "torch", "deepspeed"}
