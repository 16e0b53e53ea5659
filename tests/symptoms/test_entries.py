"""The entries as data: whole, found by their own patterns alone, quoted from what is installed, and all on the page."""

import ast
import importlib.util
import mmap
import re
import sys
from pathlib import Path

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "book" / "_extensions"))
from course.blocks import computed_block

from labsupport.symptoms.entries import FOLDER, KINDS, SECTIONS, plain, sections, symptoms

SYMPTOMS = symptoms()
EACH = pytest.mark.parametrize("symptom", SYMPTOMS, ids=lambda symptom: symptom.name)
# Readers and other pages link to these: an entry may come, none may go or change its name.
FIRST_ANCHORS = set(
    """
    build-ops no-ninja building-extension cuda-mismatch no-nvcc no-libaio stale-lock batch-triple micro-batch-zero
    no-batch-size auto extra-inputs removed-key two-precisions stage-number no-config-file fp16-cpu unknown-optimizer
    no-optimizer untested-optimizer client-optimizer no-update direct-backward no-sync input-dtype empty-parameter hang
    no-latest wrong-tag other-stage world-size no-universal empty-state-dict module-only nothing-saved weights-only
    no-mpi4py port-in-use no-slot hostfile killed cuda-out-of-memory no-saving
    """.split()  # noqa: SIM905
)
# Entries whose text another entry's pattern finds too, because it is said in both cases.
SHARED = {("other-stage", "wrong-tag"), ("wrong-tag", "other-stage"), ("empty-state-dict", "other-model")}


def test_the_anchors_stay_and_are_given_once():
    names = [symptom.name for symptom in SYMPTOMS]
    assert len(names) == len(set(names)) >= 55
    assert set(names) >= FIRST_ANCHORS and len(FIRST_ANCHORS) == 43
    assert sorted(SECTIONS) == sorted(path.stem for path in FOLDER.glob("*.toml"))


@EACH
def test_an_entry_is_whole(symptom):
    assert symptom.title and symptom.cause.endswith((".", ":")) and symptom.fix[-1] in ".`"
    assert symptom.kind in KINDS
    assert bool(symptom.reproduced) != bool(symptom.needs), "a test makes it, or it says what it would take"
    assert bool(symptom.text) == bool(symptom.patterns)
    for line in [*symptom.cause.splitlines(), *symptom.fix.splitlines()]:
        assert not re.search(r"[a-z]\. [A-Z]", line) or line.startswith("Delete the block"), f"two sentences: {line}"


@EACH
def test_the_test_that_an_entry_names_is_there(symptom):
    if not symptom.reproduced:
        return
    path, _, name = symptom.reproduced.rpartition("::")
    if symptom.reproduced.endswith(".py"):
        assert (ROOT / symptom.reproduced).exists()
        return
    tests = (ROOT / (path or "tests/symptoms/test_reproduced.py")).read_text()
    body = re.search(rf"^def {name}\(.*?(?=^def |^@pytest|\Z)", tests, re.MULTILINE | re.DOTALL)
    assert body, f"there is no {symptom.reproduced}"
    made = "".join(path.read_text() for path in (ROOT / "tests" / "symptoms").glob("*.py") if path != Path(__file__))
    assert f'"{symptom.name}"' in body[0] or re.search(rf"parametrize.*\n*def {name}\(", tests) and made


LEADS = ["{}", "[rank0]: {}", "2026-11-28 22:11:51,123 [ERROR] node1: {}", "\x1b[31m{}\x1b[0m", "0: [rank12]:   {}\r"]


@EACH
def test_its_patterns_find_its_text_behind_any_prefix(symptom):
    for pattern in symptom.patterns:
        assert re.match(r"[A-Za-z0-9'\">]", pattern)
        assert not re.search(r"\\[^().*+\[\]]|(?<!\[)[\^$]|\(\?", pattern), "one line, and JavaScript too"
        assert ".*" not in pattern and ".+" not in pattern, "a long line would take for ever: .{0,300}"
    if not symptom.patterns:
        return
    lines = [line for line in symptom.text.splitlines() if symptom.finds(line)]
    for lead in LEADS:
        assert symptom.finds(lead.format(lines[0]))


@EACH
def test_no_other_entry_finds_it(symptom):
    for other in SYMPTOMS:
        if other.name != symptom.name and (symptom.name, other.name) not in SHARED:
            assert not other.finds(symptom.text), f"{other.name} finds the text of {symptom.name}"


ORDINARY = """\
[2026-11-28 22:11:51,123] [INFO] [launch.py:152:main] WORLD INFO DICT: {'localhost': [0, 1]}
[2026-11-28 22:11:51,123] [INFO] [real_accelerator.py:222:get_accelerator] Setting ds_accelerator to cuda (auto detect)
[2026-11-28 22:11:52,000] [INFO] [launch.py:253:sigkill_handler] Killing subprocess 4711
[2026-11-28 22:11:52,000] [INFO] [launch.py:351:main] Process 4711 exits successfully.
{'loss': 2.31, 'grad_norm': 0.7, 'learning_rate': 5e-05, 'epoch': 0.1}
ninja: no work to do. Loading extension module cpu_adam... Time to load cpu_adam op: 2.2 seconds
[rank0]:[W1128 ProcessGroupNCCL.cpp:1538] Warning: destroy_process_group() was not called before program exit
NCCL version 2.29.7+cuda13.0
Loading checkpoint shards: 100%|##########| 2/2 [00:00<00:00, 8.42it/s]
Step 13 has taken 25 s so far: this rank waits in all_reduce, called at line 245 of labsupport/trainer.py.
ValueError: a mistake of one's own
AssertionError
"""


def test_no_pattern_finds_an_ordinary_log():
    found = [(each.name, line) for line in ORDINARY.splitlines() for each in SYMPTOMS if each.finds(line)]
    assert found == []


# What is quoted stands in the installed source


def installed(place):
    """The path of a file of an installed package, or None where the source is no such file."""
    if not re.fullmatch(r"[\w/]+\.py", place):
        return None
    package, _, inner = place.partition("/")
    return Path(importlib.util.find_spec(package).origin).parent / inner


def said_in(path):
    """The texts of a Python file, cut where something is filled in."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from re.split(r"%[a-z]|\{[^{}]*\}", node.value)


def quoted_in(symptom, path):
    """Whether every 40 letters of what the entry quotes stand in one text of the file."""
    text = re.sub(r"^([\w.]*(Error|Exception): |\[\w+\] \d+ )", "", symptom.text)
    pieces = [text[start : start + 40] for start in range(0, len(text), 40)]
    return any(all(piece in said for piece in pieces) for said in said_in(path))


@EACH
def test_a_source_is_an_address_or_a_file_that_is_installed(symptom):
    for place in symptom.source:
        if place.startswith("https://"):
            assert re.fullmatch(r"https://github\.com/[\w.-]+/[\w.-]+/(issues|pull)/\d+", place)
        elif path := installed(place):
            assert path.is_file(), f"{place} is not there any more"
        else:
            assert re.fullmatch(r"(PyTorch|DeepSpeed|NCCL)'s [\w.]+", place)


@pytest.mark.parametrize("symptom", [each for each in SYMPTOMS if each.needs], ids=lambda symptom: symptom.name)
def test_what_is_not_reproduced_is_quoted_from_the_installed_source(symptom):
    paths = [path for place in symptom.source if (path := installed(place))]
    assert all(quoted_in(symptom, path) for path in paths)
    if not paths:
        assert symptom.name in FROM_ELSEWHERE, "name the Python file that says it, or add it here with where it is said"


# Not said by a Python file of an installed package.
FROM_ELSEWHERE = {
    "build-ops": "DeepSpeed's setup.py, which is not installed",
    "glibcxx": "the dynamic loader",
    "no-kernel-image": "CUDA",
    "inflight": "a DeepSpeed that is not installed",
    "empty-deque": "Python, in a DeepSpeed that is not installed",
    "device-assert": "CUDA",
    "two-devices": "torch's C++",
    "ssh-denied": "ssh and pdsh",
    "host-key": "ssh",
    "libuv": "torch's C++",
    "nccl-watchdog": "torch's C++, for CUDA",
    "nccl-peer-lost": "torch's C++, for CUDA",
    "duplicate-gpu": "NCCL",
    "nccl-system-error": "torch's C++, for CUDA",
    "no-backend": "torch's C++",
    "cuda-out-of-memory": "torch's C++, for CUDA",
    "fragmentation": "torch's C++, for CUDA",
    "shared-memory": "torch's C++",
}


SAID_IN_CPP = {
    "two-devices": "found at least two devices",
    "libuv": "built without libuv support, run with USE_LIBUV=0",
    "no-backend": "No backend type associated with device type",
    "shared-memory": "It is possible that dataloader's workers are out of shared memory",
}


def test_what_torch_says_in_cpp_is_in_its_libraries():
    """Those texts that are in every build of torch; what is for CUDA is not in a build for the processor."""
    import torch

    texts, left = {each.name: each.text for each in SYMPTOMS}, dict(SAID_IN_CPP)
    assert all(words in texts[name] for name, words in left.items())
    for library in ("libtorch_python.so", "libtorch_cpu.so"):
        path = Path(torch.__file__).parent / "lib" / library
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            left = {name: words for name, words in left.items() if content.find(words.encode()) < 0}
    assert left == {}


def test_a_text_that_is_nowhere_would_be_seen():
    import dataclasses

    flushes = next(each for each in SYMPTOMS if each.name == "cache-flushes")
    assert quoted_in(flushes, installed(flushes.source[0]))
    invented = dataclasses.replace(flushes, text="[WARNING] 1 pytorch allocator cache fillings since last step.")
    assert not quoted_in(invented, installed(flushes.source[0]))


# The page


def test_the_page_shows_every_entry_under_its_anchor():
    page = computed_block("troubleshooting_entries")
    assert re.findall(r"^## (.+)$", page, re.MULTILINE) == [section.title for section in sections()]
    for symptom in SYMPTOMS:
        entry = re.search(rf"^\({symptom.anchor}\)=\n### (.+)\n([\s\S]+?)(?=^\(trouble-|^## |\Z)", page, re.MULTILINE)
        assert entry[1] == symptom.title
        assert symptom.text in entry[2] and symptom.cause in entry[2] and symptom.fix in entry[2]
        assert ("*Reproduced.*" in entry[2]) == bool(symptom.reproduced)
    assert "```{computed} troubleshooting_entries" in (ROOT / "book" / "troubleshooting.md").read_text()


def test_links_in_words():
    assert plain("See [it](stuck.md#here), [Lab 7](../notebooks/07.ipynb) and [that](#trouble-hang).") == (
        "See it (book/stuck.md#here), Lab 7 (notebooks/07.ipynb) and that (book/troubleshooting.md#trouble-hang)."
    )
