"""One version of DeepSpeed in the text: what a page, lab or docstring names is what constraints.txt pins.

A sentence about another version says so: since, until, before, after, from, to or than right before it, or
"fixed in", "changed in", "added in", "removed in", "not tried with".
"""

import re

import pytest
from conftest import ROOT

PINS = dict(re.findall(r"^([\w.-]+)==([\w.]+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
PACKAGES = {"deepspeed": "deepspeed", "torch": "torch", "pytorch": "torch", "transformers": "transformers",
            "accelerate": "accelerate"}  # fmt: skip
NUMBER = r"\d+\.\d+(?:\.\d+)?"
NAMED = re.compile(rf"\b({'|'.join(PACKAGES)})\b(?: |==|['\"]: ['\"])v?({NUMBER})", re.IGNORECASE)
BARE = re.compile(r"(?<!deepspeed )(?<![\w.=>])0\.\d\d\.\d+", re.IGNORECASE)  # what looks like one of DeepSpeed
BUILD = re.compile(r"(?<![\w.])(\d+\.\d+\.\d+)\+(?:cpu|cu\d+)")  # what looks like one of torch
PINNED = re.compile(r"(?<![\w-])([\w.-]+)==([\w.]+)")
HISTORY = re.compile(
    r"(?:\b(?:since|until|before|after|from|to|than)|\b(?:fixed|changed|added|removed) in|\bnot tried with) $"
)
TOP = ("README.md", "CONTRIBUTING.md", "Makefile", "_config.yml")
FILES = sorted(
    path
    for folder in ("book", "notebooks", "labsupport", "benchmarks", ".github")
    for path in (ROOT / folder).rglob("*")
    if path.suffix in (".md", ".ipynb", ".py", ".js", ".yml") and ".ipynb_checkpoints" not in path.parts
)


def versions_in(line):
    """Yield (where it begins, package, version) of what a line names."""
    yield from ((found.start(), PACKAGES[found[1].lower()], found[2]) for found in NAMED.finditer(line))
    yield from ((found.start(), "deepspeed", found[0]) for found in BARE.finditer(line))
    yield from ((found.start(), "torch", found[1]) for found in BUILD.finditer(line))
    yield from ((found.start(), found[1], found[2]) for found in PINNED.finditer(line) if found[1] in PINS)


def other_versions(text):
    """The versions in a text that are neither the pinned one nor history, each as a sentence with its line."""
    found = [
        f"line {number} names {package} {version}, and {PINS[package]} is pinned"
        for number, line in enumerate(text.splitlines(), 1)
        for start, package, version in versions_in(line)
        if not f"{PINS[package]}.".startswith(f"{version}.") and not HISTORY.search(line[:start])
    ]
    return list(dict.fromkeys(found))


@pytest.mark.parametrize("path", [*map(ROOT.joinpath, TOP), *FILES], ids=lambda path: str(path.relative_to(ROOT)))
def test_a_text_names_the_pinned_versions_alone(path):
    assert other_versions(path.read_text()) == [], path.relative_to(ROOT)


@pytest.mark.parametrize(
    "wrong",
    [
        "what DeepSpeed 0.18.9 really does",
        "`deepspeed==0.19.7`",
        "as 0.20.1 does",
        "DeepSpeed 0.20",
        "on PyTorch 2.12",
        '{"torch": "2.12.1"}',
        "the build `2.14.0+cpu`",
        "Transformers 5.2 and later",
        "pip install accelerate==1.14.0",
        "plotly==6.0.0",
    ],
)
def test_another_version_is_found_with_its_line(wrong):
    (sentence,) = other_versions(f"One line.\n{wrong}, so.\n")
    assert sentence.startswith("line 2 names ") and sentence.endswith(" is pinned")


@pytest.mark.parametrize(
    "right",
    [
        f"DeepSpeed {PINS['deepspeed']}, {PINS['deepspeed']}'s own, torch {PINS['torch']}+cpu",
        f"PyTorch {PINS['torch'].rpartition('.')[0]}.",
        "since DeepSpeed 0.18.3, from 0.17.6 to 0.18.2, fixed in 0.19.4, until PyTorch 2.6, not tried with torch 2.12",
        "127.0.0.1 and 10.0.0.1; doi 10.1016/j.jpdc.2008.09.002; Python 3.12.3; 0.25 of it; torch>=2.8",
    ],
)
def test_the_pinned_version_and_history_are_let_through(right):
    assert other_versions(right) == []


def test_every_folder_of_the_text_is_read():
    assert {path.relative_to(ROOT).parts[0] for path in FILES} == {
        "book", "notebooks", "labsupport", "benchmarks", ".github"
    }  # fmt: skip
    named = [version for path in FILES for line in path.read_text().splitlines() for *_, version in versions_in(line)]
    assert named.count(PINS["deepspeed"]) >= 30
