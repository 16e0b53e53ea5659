"""Known problems in logs: whatever stands in front of them, whichever order they come in, however large the log is."""

import json
import random
import re
import subprocess
import sys
import tracemalloc

import pytest

from labsupport.doctor.__main__ import main
from labsupport.errors import LabError
from labsupport.symptoms import logs
from labsupport.symptoms.entries import symptoms
from labsupport.symptoms.logs import find_in_log, report

OWN = "ValueError: of my own"
LOST = "RuntimeError: [/pytorch/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:26511."
NINJA = "RuntimeError: Ninja is required to load C++ extensions (pip install ninja to get it)"
ENDED = "[ERROR] [launch.py:259:sigkill_handler] ['python', 'train.py'] exits with return code = {}"
STEP = "{{'loss': {}, 'grad_norm': {}}}"


def names(text):
    return [match.symptom and match.symptom.name for match in find_in_log(text)]


@pytest.mark.parametrize("symptom", [each for each in symptoms() if each.text], ids=lambda symptom: symptom.name)
def test_every_entry_is_found_in_a_log_of_four_ranks(symptom):
    lines = [f"\x1b[32m[rank{rank}]\x1b[0m: {line}" for line in symptom.text.splitlines() for rank in range(4)]
    log = "\n".join(["[2026-11-28 22:11:51,123] [INFO] begins", *lines, "ends"])
    found = {match.symptom: match for match in find_in_log(log)}[symptom]
    assert found.line == 2 + 4 * next(at for at, line in enumerate(symptom.text.splitlines()) if symptom.finds(line))
    assert found.text in log.replace("\x1b[32m", "").replace("\x1b[0m", "") and symptom.finds(found.text)
    assert found.count % 4 == 0


def test_find_in_log_agrees_with_a_search_line_by_line():
    """The shortcut by kinds of lines leaves nothing out: seeded mixtures of texts, with other numbers in them."""
    shuffled = random.Random(0)
    texts = [line for each in symptoms() for line in each.text.splitlines()]
    texts += [re.sub(r"\d", lambda _: str(shuffled.randrange(10)), text) for text in texts * 5]
    shuffled.shuffle(texts)
    plainly = {each.name for each in symptoms() for line in texts if each.finds(line)}
    assert {name for name in names("\n".join(texts)) if name} == plainly and len(plainly) > 100


def test_numbers_count_where_they_are_the_difference():
    log = "\n".join(ENDED.format(code) for code in (-2, -9, -7, -11, 1))
    assert sorted(names(log)) == ["bus-error", "killed", "return-code", "segmentation-fault"]
    assert names(ENDED.format(-2)) == []


def test_the_first_cause_comes_before_what_follows_from_it():
    assert names("\n".join([LOST, ENDED.format(1), NINJA])) == ["no-ninja", "peer-lost", "return-code"]
    watchdog = next(each.text for each in symptoms() if each.name == "nccl-watchdog")
    assert names("\n".join([watchdog, LOST, "CUDA out of memory"]))[0] == "cuda-out-of-memory"
    assert names(watchdog) == ["nccl-watchdog"]
    warning = "[WARNING] Unable to find hostfile, will proceed with training with local resources only."
    assert names("\n".join([warning, LOST, NINJA])) == ["no-ninja", "no-hostfile", "peer-lost"]


@pytest.mark.parametrize("lead", ["", "[rank1]: ", "node2: ", "\x1b[31m[rank1]\x1b[0m: ", "[1,3]<stderr>: "])
def test_an_error_that_no_entry_knows_is_the_cause_of_those_that_lost_a_peer(lead):
    first, *others = find_in_log("\n".join(["Traceback (most recent call last):", f"{lead}{OWN}", LOST]))
    assert (first.symptom, first.line, first.text.endswith(OWN)) == (None, 2, True)
    assert [match.symptom.name for match in others] == ["peer-lost"]
    assert names("\n".join([NINJA, OWN, LOST])) == ["no-ninja", "peer-lost"], "what comes after a known one is no cause"
    assert names("\n".join([LOST, OWN])) == ["peer-lost"]


def test_what_a_progress_bar_overwrote_is_not_quoted():
    (match,) = find_in_log(f"step 1\rstep 2\r{NINJA}\nmore")
    assert match.text == NINJA


# Files


@pytest.fixture
def log(tmp_path):
    """Write a log and return its path."""

    def write(content, encoding="utf-8"):
        path = tmp_path / "train.log"
        path.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
        return str(path)

    return write


def test_cause_and_fix_are_told_and_the_status_says_whether_the_run_ended_by_it(log, capsys):
    assert report(log(f"begins\n{NINJA}\n{NINJA}\n")) == 1
    said = capsys.readouterr().out
    assert f"line 2, and 1 times more: {NINJA}" in said and "Cause. PyTorch compiles" in said and "Fix. Use the" in said
    assert report(log("all is well\n")) == 0
    assert re.fullmatch(r"Nothing known was found in \S+train\.log \(1 line\)\.\n", capsys.readouterr().out)
    assert report(log(f"step\n{OWN}\nstep")) == 1
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and said.endswith(f"(3 lines); its first error is on line 2: {OWN}\n")
    assert report(log("[WARNING] Setting accelerator to CPU. If you have GPU or other")) == 0
    assert "Cause." in capsys.readouterr().out


def test_links_lead_somewhere_in_a_terminal(log, capsys):
    report(log("TypeError: '>' not supported between instances of 'str' and 'int'"))
    said = capsys.readouterr().out
    assert "Lab 07 (notebooks/07_huggingface.ipynb)" in said and "](" not in said


def test_json(log, capsys):
    assert report(log(f"a\n{OWN}\n{LOST}"), as_json=True) == 1
    result = json.loads(capsys.readouterr().out)
    assert result["lines"] == 3 and [found["entry"] for found in result["found"]] == [None, "peer-lost"]
    known = result["found"][1]
    assert (known["line"], known["text"], known["kind"], known["count"]) == (3, LOST, "follower", 1)
    assert known["title"] and known["cause"] and known["fix"]
    assert known["page"] == "book/troubleshooting.html#trouble-peer-lost"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be", "latin-1"])
def test_encodings(log, encoding):
    content = f"Überraschung\n{NINJA}\n".encode(encoding)
    content = b"\xfe\xff" + content if encoding == "utf-16-be" else content
    assert report(log(content)) == 1


BAD = {
    "empty": (b"", "is empty"),
    "blank": (b" \n\n", "is empty"),
    "binary": (bytes(range(256)) * 40, "is not a text"),
    "packed": (b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03", "is not a text"),
}


@pytest.mark.parametrize("kind", [*BAD, "missing", "folder", "no right", "a name with a zero"])
def test_what_is_no_log_is_told_in_one_sentence(log, tmp_path, capsys, kind):
    path, words = str(tmp_path / "train.log"), {"missing": "There is no file", "folder": "is a folder"}.get(kind, "")
    if kind in BAD:
        content, words = BAD[kind]
        log(content)
    elif kind == "folder":
        path = str(tmp_path)
    elif kind == "no right":
        path, words = "/proc/self/mem", "cannot be read"
    elif kind == "a name with a zero":
        path, words = "a\0b", "cannot be read"
    with pytest.raises(LabError, match=words):
        report(path)
    assert main(["--log", path]) == 2
    said = capsys.readouterr()
    assert said.out == "" and re.fullmatch(r"error: .*\w.*\.\n", said.err)


def test_a_large_log_is_read_in_blocks(log, monkeypatch):
    """In small: 2 MB in blocks of 64 kB, among them a line that is longer than a block."""
    monkeypatch.setattr(logs, "BLOCK_BYTES", 2**16)
    steps = "\n".join(STEP.format(random.random(), random.random()) for _ in range(10_000))
    content = "\n".join([steps, steps, "x" * 200_000 + f" {NINJA} " + "y" * 200_000, steps, LOST])
    path = log(content)
    tracemalloc.start()
    matches, lines = logs._find_in_file(path)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [(match.symptom.name, match.line) for match in matches] == [("no-ninja", 20_001), ("peer-lost", 30_002)]
    assert lines == 30_002 and matches[0].count <= 2 and len(matches[0].text) <= logs.QUOTED_LETTERS
    assert most < 0.6 * len(content)


def test_the_command_reads_standard_input_and_needs_no_torch():
    code = "import sys, labsupport.doctor.__main__ as m; status = m.main(['--log', '-']); assert 'torch' not in sys.modules; sys.exit(status)"  # noqa: E501
    done = subprocess.run([sys.executable, "-c", code], input=NINJA, capture_output=True, text=True)
    assert done.returncode == 1 and "Cause." in done.stdout and done.stderr == ""
