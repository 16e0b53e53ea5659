"""The set-up makes .venv, makes it again where it is not whole, and says in one sentence what hinders it."""

import json
import os
import subprocess
import sys
import time

import pytest

# A Python that answers as one, makes an environment of itself, and notes what it was asked to do.
FAKE = """#!/bin/sh
case "$*" in
  *-I*) echo '{facts}';;
  *"venv --clear"*) echo venv >> "{log}"; rm -rf "$4"; mkdir -p "$4/bin" && cp "$0" "$4/bin/python";;
  *"pip --version"*) test ! -e "{broken}";;
  *"pip install"*) echo pip >> "{log}"; {pip};;
esac
"""


class Workplace:
    """A folder with fake Pythons, and what they were asked to do there."""

    def __init__(self, root, folder):
        self.root, self.folder, self.venv, self.broken = root, folder, folder / "venv", folder / "pip-is-broken"
        self.python("python3.12", "3.12.3")

    def python(self, name, version, pip="true"):
        facts = {"path": str(self.folder / name), "version": version, "venv": True, "headers": True}
        text = FAKE.format(facts=json.dumps(facts), log=self.folder / "log", broken=self.broken, pip=pip)
        (self.folder / name).write_text(text)
        (self.folder / name).chmod(0o755)

    def start(self, *wanted):
        command = [sys.executable, str(self.root / "labsupport" / "machine" / "set_up.py"), str(self.venv), *wanted]
        paths = os.environ | {"PATH": f"{self.folder}{os.pathsep}/usr/bin{os.pathsep}/bin"}
        return subprocess.Popen(command, env=paths, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def set_up(self, *wanted):
        """Return (status, output, errors, what the Pythons did)."""
        process = self.start(*wanted)
        output, errors = process.communicate(timeout=60)
        return process.returncode, output, errors, self.done()

    def done(self):
        log = self.folder / "log"
        done = log.read_text().split() if log.exists() else []
        log.unlink(missing_ok=True)
        return done


@pytest.fixture
def place(root, tmp_path):
    return Workplace(root, tmp_path)


def test_it_says_which_python_it_takes_and_does_nothing_twice(place):
    status, output, _, done = place.set_up()
    assert status == 0 and done == ["venv", "pip"]
    assert f"Making {place.venv} with Python 3.12.3 ({place.folder}/python3.12)." in output
    assert place.set_up() == (0, "", "", [])


def test_a_newer_python_alone_does_not_replace_an_environment_and_a_wish_does(place):
    place.set_up()
    place.python("python3.13", "3.13.1")
    assert place.set_up() == (0, "", "", [])
    status, output, _, done = place.set_up("python3.13")
    assert status == 0 and "with Python 3.13.1" in output and done == ["venv", "pip"]
    assert place.set_up("python3.13")[3] == []


def test_other_pins_refresh_the_packages_alone(place):
    place.set_up()
    ready = place.venv / ".ready"
    ready.write_text(ready.read_text().splitlines()[0] + "\nthe hash of other files\n")
    status, output, _, done = place.set_up()
    assert status == 0 and "refreshing" in output and done == ["pip"]
    assert place.set_up()[3] == []


def _interrupted(place):
    (place.venv / ".ready").unlink()


def _moved(place):
    (place.venv / ".ready").write_text("3.12 /another/folder\nhash\n")


def _no_python(place):
    (place.venv / "bin" / "python").unlink()


def _broken_pip(place):
    _other_pins = (place.venv / ".ready").read_text().splitlines()[0] + "\nother pins\n"
    (place.venv / ".ready").write_text(_other_pins)
    place.broken.touch()


@pytest.mark.parametrize("harm", [_interrupted, _moved, _no_python, _broken_pip])
def test_what_is_not_whole_is_made_again(place, harm):
    place.set_up()
    harm(place)
    status, _, _, done = place.set_up()
    assert status == 0 and done == ["venv", "pip"]


@pytest.mark.parametrize(
    ("pip", "sentence"),
    [
        ("echo 'OSError: [Errno 28] No space left on device'; exit 1", "The disk is full"),
        ("echo 'retrying after NewConnectionError'; exit 1", "pip reaches no package index"),
        ("echo 'ERROR: no wheel'; exit 1", "-m pip install failed, for the reason that stands above"),
    ],
)
def test_what_hinders_pip_is_one_sentence_and_nothing_is_ready(place, pip, sentence):
    place.python("python3.12", "3.12.3", pip)
    status, _, errors, _ = place.set_up()
    (said,) = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert status == 1 and sentence in said and "Traceback" not in errors
    assert not (place.venv / ".ready").exists()
    place.python("python3.12", "3.12.3")
    assert place.set_up()[0] == 0


def test_a_second_set_up_waits_for_the_first(place):
    place.python("python3.12", "3.12.3", f"touch '{place.folder}/started'; sleep 1")
    first = place.start()
    while not (place.folder / "started").exists():
        assert first.poll() is None
        time.sleep(0.01)
    status, output, _, done = place.set_up()
    first.communicate(timeout=60)
    assert first.returncode == status == 0 and done == ["venv", "pip"]
    assert output == f"Another make is setting up {place.venv}: waiting for it.\n"


def test_make_gives_the_sentence_and_no_traceback(place):
    make = ["make", "-C", str(place.root), "setup", f"VENV={place.venv}"]
    for given, sentence in (
        ("PYTHON=/nowhere", "error: PYTHON=/nowhere does not start"),
        ("ANY_PYTHON=", "error: There is no Python 3 here"),
    ):
        done = subprocess.run([*make, given], capture_output=True, text=True)
        assert done.returncode != 0 and sentence in done.stderr and "Traceback" not in done.stderr
        assert not place.venv.exists()
