"""What the set-up says when something is missing: one sentence that names the package."""

import subprocess
import sys

import pytest

from labsupport.machine import preflight


def test_this_machine_misses_nothing():
    assert preflight.missing() == []


@pytest.mark.parametrize(
    ("attribute", "value", "package"),
    [
        ("sys.version_info", (3, 12, 1), "python3.11"),
        ("importlib.util.find_spec", lambda name: None, "python3.11-venv"),
        ("sysconfig.get_paths", lambda: {"include": "nowhere"}, "python3.11-dev"),
        ("shutil.which", lambda name: None, "g++"),
    ],
    ids=["python", "venv", "headers", "compiler"],
)
def test_each_missing_thing_is_one_sentence_with_its_package(monkeypatch, attribute, value, package):
    monkeypatch.setattr(f"labsupport.machine.preflight.{attribute}", value)
    sentences = preflight.missing()
    monkeypatch.undo()
    assert len(sentences) == 1
    assert f"install the package {package}" in sentences[0] and "\n" not in sentences[0]


def test_missing_libaio_is_a_note_and_no_error(monkeypatch):
    monkeypatch.setattr("pathlib.Path.exists", lambda path: False)
    notes = preflight.notices()
    monkeypatch.undo()
    assert len(notes) == 1 and "libaio-dev" in notes[0] and "skipped" in notes[0]


def test_make_stops_with_the_sentence(root, tmp_path):
    fake = tmp_path / "python3.11"
    fake.write_text('#!/bin/sh\necho "error: There is no C++ compiler" >&2\nexit 1\n')
    fake.chmod(0o755)
    command = ["make", "-C", str(root), "setup", f"PYTHON={fake}", f"VENV={tmp_path / 'venv'}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode != 0
    assert "error: There is no C++ compiler" in done.stderr and not (tmp_path / "venv").exists()
    done = subprocess.run([*command[:4], "PYTHON=", f"VENV={tmp_path / 'venv'}"], capture_output=True, text=True)
    assert "install the packages python3.11" in done.stderr


def test_it_runs_as_a_file_on_any_python(root):
    done = subprocess.run(
        [sys.executable, "-I", str(root / "labsupport/machine/preflight.py")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
