"""A run: what the records hold of it, its shape, its plan and its name."""

import json

import pytest

from labsupport.errors import ConfigError
from labsupport.measure import agreement, walkthrough
from labsupport.memory.planner import plan, plan_of
from labsupport.models import PRESETS
from labsupport.records import read_record
from labsupport.runs import Run, strategy_in_words
from labsupport.shapes import Shape
from labsupport.widgets.selector.runs import live_run

CONFIG = {"train_micro_batch_size_per_gpu": 1, "bf16": {"enabled": True}, "zero_optimization": {"stage": 3}}


def test_a_recorded_run_is_read_and_written_as_it_stands():
    for entry in read_record("agreement")["measured"]["runs"]:
        assert json.dumps(Run.from_dict(entry["cell"]).as_dict()) == json.dumps(entry["cell"])


@pytest.mark.parametrize(
    "run",
    [
        Run("1m", CONFIG, 2),
        Run("1m", CONFIG, 2, 32, True, 7, "special"),
        Run(Shape("llama", 2, 64, 2, 128, 256, 256), CONFIG, 2),
    ],
)
def test_a_run_survives_json(run):
    assert Run.from_dict(json.loads(json.dumps(run.as_dict()))) == run
    assert Run.from_dict(run.as_dict() | {"kind": "grid"}) == run, "what else stands there is somebody else's"


def test_the_shape_is_the_presets_with_the_layers_that_are_asked_for():
    assert Run("1m", CONFIG, 2).shape == PRESETS["1m"]
    assert Run("1m", CONFIG, 2, layers=9).shape == PRESETS["1m"]._replace(layers=9)
    assert Run(walkthrough.MODEL, CONFIG, 2).shape == walkthrough.MODEL
    with pytest.raises(ConfigError, match="'1mm'"):
        _ = Run("1mm", CONFIG, 2).shape


def test_everything_of_a_run_is_planned():
    config = CONFIG | {"train_micro_batch_size_per_gpu": 64}  # so that activations are the peak
    run = Run("tiny", config, 2, 32, True, layers=3)
    assert plan_of(run, "cpu") == plan(
        run.shape, config, world_size=2, sequence_length=32, activation_checkpointing=True, accelerator="cpu"
    )
    others = {"model": "1m", "world_size": 4, "sequence_length": 64, "activation_checkpointing": False, "layers": 2}
    for field, value in others.items():
        assert plan_of(run._replace(**{field: value}), "cpu") != plan_of(run, "cpu"), field
    assert plan_of(run, "cpu") != plan_of(run, "cuda")


def test_a_name_says_what_tells_runs_apart():
    assert Run("1m", CONFIG, 2).in_words() == "stage 3, bf16, 1m on 2 ranks"
    config = CONFIG | {
        "gradient_accumulation_steps": 4,
        "zero_optimization": {
            "stage": 3,
            "offload_optimizer": {"device": "cpu"},
            "offload_param": {"device": "nvme", "nvme_path": "/nvme"},
        },
    }
    run = Run("1m", config, 1, activation_checkpointing=True, layers=5)
    assert run.in_words() == (
        "stage 3, optimizer on the host, parameters on NVMe, bf16, 1m with 5 layers on 1 rank, 4 micro-batches a step, "
        "activation checkpointing"
    )
    assert run._replace(note="all elsewhere").in_words() == "stage 3, bf16, 1m with 5 layers on 1 rank, all elsewhere"
    assert "a model of 1,574,528 parameters on 2 ranks" in Run(walkthrough.MODEL, CONFIG, 2).in_words()
    assert strategy_in_words(0) == "stage 0"


def test_no_two_runs_of_one_record_have_the_same_name():
    choices = [run["choice"] for run in read_record("selector_runs")["measured"]["runs"]]
    for runs in (
        agreement.runs(),
        agreement.runs("cuda"),
        walkthrough.runs(),
        [live_run(choice) for choice in choices],
    ):
        assert len({run.in_words() for run in runs}) == len(runs) > 10
