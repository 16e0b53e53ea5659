"""python -m labsupport.measure SCRIPT: what it says of a reader's own script, and of one that cannot be measured."""

import sys

import deepspeed
import pytest

from labsupport.errors import LabError
from labsupport.measure import script
from labsupport.measure.__main__ import measure_script, report, run
from labsupport.memory.roles import MODEL_STATES, memory_held

LOOP = """
import torch, deepspeed
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(256, 1024), nn.GELU(), nn.Linear(1024, 10))

    def forward(self, rows, labels):
        return nn.functional.cross_entropy(self.body(rows), labels)

config = {"train_micro_batch_size_per_gpu": 64, "gradient_accumulation_steps": 2, "bf16": {"enabled": True},
          "optimizer": {"type": "AdamW", "params": {"lr": 1e-3}},
          "zero_optimization": {"stage": 2, "reduce_bucket_size": 100_000}}
engine, *_ = deepspeed.initialize(model=Net(), config=config)
for _ in range(STEPS):
    loss = engine(torch.randn(64, 256, dtype=torch.bfloat16), torch.randint(0, 10, (64,)))
    engine.backward(loss)
    engine.step()
"""


@pytest.fixture
def written(tmp_path):
    """Write a script and return its path."""

    def write(text):
        path = tmp_path / "train.py"
        path.write_text(text)
        return path

    return write


@pytest.mark.slow
def test_a_script_is_run_as_it_is_and_planned_beside_held(written):
    lines = []
    measured = measure_script(written(LOOP.replace("STEPS", "1000")), ranks=2, on_line=lines.append)
    planned = memory_held(measured["planned"]["moments"]["at rest"])
    held = memory_held(measured["at rest"])
    assert {role: held[role] for role in MODEL_STATES} == {role: planned[role] for role in MODEL_STATES}
    peak = sum(measured["peak"].values())
    assert sum(memory_held(measured["planned"]["moments"]["peak"]).values()) == pytest.approx(peak, rel=0.1)
    assert measured["collectives"] == pytest.approx(measured["planned"]["collectives"], rel=0.01)
    assert measured["world_size"] == 2 and measured["planned"]["not_described"] == []
    text = report(measured)
    assert "Net, 273,418 trained parameters, stage 2, bf16, rank 0 of 2 ranks" in text and "together" in text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "words"),
    [
        (LOOP.replace("STEPS", "4"), "train.py ended after 2 optimizer steps, and 3 are needed"),
        (
            LOOP.replace("STEPS", "1000") + "    assert engine.global_steps < 2, 'my own reason'\n",
            "train.py, line 21: AssertionError: my own reason",
        ),
    ],
)
def test_a_script_that_fails_or_ends_early_is_one_sentence(written, text, words):
    with pytest.raises(LabError, match=words):
        measure_script(written(text), ranks=1)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("print('hello')", "ended without a call of deepspeed.initialize"),
        ("import sys\nsys.exit(3)", "ended itself with status 3: give it the arguments"),
        ("x = 1\nprint(y)", "train.py, line 2: NameError: name 'y' is not defined"),
        ("def broken(:", "SyntaxError"),
        ("import nothing_of_this_name", "line 1: ModuleNotFoundError"),
    ],
)
def test_a_script_that_trains_nothing_is_one_sentence(written, monkeypatch, text, words):
    monkeypatch.setattr(deepspeed, "initialize", deepspeed.initialize)  # put back afterwards
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(LabError, match=words) as raised:
        script.run(["result.json", str(written(text)), "--its", "own"])
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["no_such.py"], "There is no script no_such.py"),
        (["--ranks", "0", "x.py"], "--ranks is 0"),
        (["--ranks", "64", "x.py"], "--ranks is 64"),
        ([], "see --help"),
    ],
)
def test_a_command_line_that_cannot_be_run_is_one_sentence(arguments, words):
    with pytest.raises(LabError, match=words):
        run(arguments)
