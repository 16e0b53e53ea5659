"""The note for versions that the course was not tried with: one, and the labs go on."""

import pytest

from labsupport.machine import versions
from labsupport.machine.versions import TRIED, untried


def test_the_tried_versions_need_no_note():
    assert untried() == ""
    for python in ("3.11.2", "3.12.12", "3.13.0"):
        assert untried(TRIED | {"torch": f"{TRIED['torch']}+cu130"}, python) == ""


@pytest.mark.parametrize("name", TRIED)
def test_another_version_is_named_beside_the_tried_one(name):
    assert f"not tried with {name} 9.9.1 (tried: {TRIED[name]}). The labs go on" in untried(TRIED | {name: "9.9.1"})


@pytest.mark.parametrize("python", ["3.14.0", "3.10.13", "3.1.1"])
def test_another_python_is_named(python):
    assert f"not tried with Python {python} (tried: 3.11, 3.12, 3.13)." in untried(TRIED, python)


def test_start_ranks_says_it_once_and_goes_on(monkeypatch, capsys):
    from labsupport.ranks import notebook as cluster

    monkeypatch.setattr(versions, "version", lambda name: "9.9.1")
    monkeypatch.setattr(cluster, "Ranks", lambda count, accelerator, on_tick: f"{count} ranks up")
    monkeypatch.setattr(cluster, "_current", None)
    versions.say_what_is_untried.cache_clear()
    cluster.start_ranks(2, "cpu")
    cluster._current = None
    cluster.start_ranks(2, "cpu")
    lines = capsys.readouterr().out.splitlines()
    assert [line.startswith("Note: the course was not tried with torch 9.9.1") for line in lines] == [
        True,
        False,
        False,
        False,
        False,
    ]
    versions.say_what_is_untried.cache_clear()
