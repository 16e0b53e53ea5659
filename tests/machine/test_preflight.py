"""What the set-up says of the Pythons that it finds: which it takes, and one sentence for what is missing."""

import json
import subprocess
import sys

import pytest

from labsupport.machine import preflight, versions


@pytest.fixture
def pythons(tmp_path, monkeypatch):
    """Give the PATH the Pythons of a test and a compiler, and nothing else: add(name, version, ...)."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(preflight, "codename", lambda: "noble")

    def program(name, text):
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)

    def add(name, version, venv=True, headers=True, path=None):
        facts = {"path": path or str(tmp_path / name), "version": version, "venv": venv, "headers": headers}
        program(name, f"echo '{json.dumps(facts)}'")

    add.program = program
    program("g++", "")
    return add


def test_this_machine_misses_nothing():
    facts, sentences = preflight.choose(sys.executable)
    assert sentences == [] and facts["version"] == sys.version.split()[0]


def test_the_newest_that_is_whole_is_taken(pythons):
    pythons("python3.11", "3.11.9")
    pythons("python3.12", "3.12.3")
    pythons("python3", "3.14.1")
    assert preflight.choose()[0]["version"] == "3.12.3"
    pythons("python3.13", "3.13.1", venv=False)
    assert preflight.choose()[0]["version"] == "3.12.3"
    pythons("python3.13", "3.13.1")
    assert preflight.choose()[0]["version"] == "3.13.1"
    pythons.program("python3.13", "echo 'pyenv: python3.13: command not found' >&2; exit 127")  # a shim of pyenv's
    assert preflight.choose()[0]["version"] == "3.12.3"
    assert preflight.choose("python3.11")[0]["version"] == "3.11.9"


def test_python3_serves_when_it_is_one_of_the_three(pythons):
    pythons("python3", "3.12.1")
    assert preflight.choose()[0]["version"] == "3.12.1"


@pytest.mark.parametrize(
    ("release", "way_out"),
    [
        ("bookworm", "install the packages python3.11, python3.11-venv and python3.11-dev."),
        ("noble", "install the packages python3.12, python3.12-venv and python3.12-dev."),
        ("trixie", "install the packages python3.13, python3.13-venv and python3.13-dev."),
        ("jammy", "take one from pyenv or conda, and name it: make PYTHON=/path/to/python."),
        ("", "take one from pyenv or conda, and name it: make PYTHON=/path/to/python."),
    ],
)
def test_no_python_of_the_three_names_the_package_that_this_release_has(pythons, monkeypatch, release, way_out):
    monkeypatch.setattr(preflight, "codename", lambda: release)
    assert preflight.choose() == (None, [f"{preflight.NEEDED} and there is none of them here: {way_out}"])
    pythons("python3", "3.14.1")
    assert preflight.choose() == (None, [f"{preflight.NEEDED} and here is only 3.14.1: {way_out}"])
    assert preflight.choose("python3") == (None, [f"{preflight.NEEDED} and PYTHON=python3 is 3.14.1: {way_out}"])


def test_a_python_that_does_not_start_is_named(pythons):
    assert preflight.choose("/nowhere")[1] == [
        "PYTHON=/nowhere does not start as a Python 3: give the path of a Python 3.11, 3.12 or 3.13."
    ]


@pytest.mark.parametrize(
    ("parts", "words", "package"),
    [({"venv": False}, "no venv module", "venv"), ({"headers": False}, "no C headers (Python.h)", "dev")],
)
def test_a_missing_part_names_its_package_or_another_python(pythons, parts, words, package):
    pythons("python3.12", "3.12.3", **parts, path="/usr/bin/python3.12")
    facts, sentences = preflight.choose()
    assert facts is None
    assert sentences == [f"Python 3.12.3 (/usr/bin/python3.12) has {words}: install the package python3.12-{package}."]
    pythons("python3.12", "3.12.3", **parts, path="/opt/python/bin/python3.12")
    assert preflight.choose()[1] == [f"Python 3.12.3 (/opt/python/bin/python3.12) has {words}: {preflight.ELSEWHERE}."]


def test_no_compiler_names_its_package(pythons, tmp_path):
    pythons("python3.12", "3.12.3")
    (tmp_path / "g++").unlink()
    assert preflight.choose()[0] is None and "install the package g++" in preflight.choose()[1][0]


@pytest.mark.parametrize(
    ("lines", "name"),
    [
        ("ID=debian\nVERSION_CODENAME=trixie\n", "trixie"),
        ("VERSION_CODENAME=wilma\nUBUNTU_CODENAME='noble'\n".replace("'", '"'), "noble"),  # Linux Mint
        ("ID=fedora\n", ""),
    ],
)
def test_the_release_is_read_from_os_release(tmp_path, lines, name):
    (tmp_path / "os-release").write_text(lines)
    assert preflight.codename(tmp_path / "os-release") == name
    assert preflight.codename(tmp_path / "none") == ""


def test_missing_libaio_is_a_note_and_no_error(monkeypatch):
    monkeypatch.setattr("pathlib.Path.exists", lambda path: False)
    notes = preflight.notices()
    monkeypatch.undo()
    assert len(notes) == 1 and "libaio-dev" in notes[0] and "skipped" in notes[0]


def test_the_set_up_page_quotes_every_sentence(root, pythons, monkeypatch, tmp_path):
    page = (root / "book" / "setup.md").read_text()
    pythons("python3.12", "3.12.3", venv=False, headers=False, path="/usr/bin/python3.12")
    (tmp_path / "g++").unlink()
    sentences = [*preflight.choose()[1], preflight.choose("python3.13")[1][0].replace("3.13 does", "3.12 does")]
    (tmp_path / "python3.12").unlink()
    pythons("python3", "3.14.2")
    monkeypatch.setattr(preflight, "codename", lambda: "jammy")
    sentences.append(preflight.choose()[1][0])
    with monkeypatch.context() as bare:
        bare.setattr("pathlib.Path.exists", lambda path: False)
        sentences += preflight.notices()
    monkeypatch.syspath_prepend(root / "labsupport" / "machine")
    import set_up

    sentences += [set_up.NO_INDEX, set_up.DISK_FULL, versions.untried(versions.TRIED | {"torch": "2.12.0"}, "3.12.1")]
    assert len(set(sentences)) == 9
    for sentence in sentences:
        assert sentence in page


def test_it_runs_as_a_file_on_any_python(root):
    done = subprocess.run(
        [sys.executable, "-I", str(root / "labsupport/machine/preflight.py")], capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stdout.startswith("Python 3."), done.stderr
