"""The planner: the paper's tables from its formula, its questions, and what it refuses."""

import json

import pytest

from labsupport.errors import ConfigError
from labsupport.machine.cards import card
from labsupport.memory.paper import model_state_bytes, model_state_parts
from labsupport.memory.planner import plan
from labsupport.memory.report import main, parse, report
from labsupport.memory.room import ALLOWANCE_BYTES, fits, largest_model, smallest_world_size
from labsupport.models import PRESETS
from labsupport.shapes import Shape, config_of

# Rajbhandari et al. 2020, figure 1: 7.5 billion parameters on 64 ranks, in GB of 1e9 bytes, as printed there.
PAPER_FIGURE_1 = {0: 120, 1: 31.4, 2: 16.6, 3: 1.9}
# The same paper, table 1: per-device model states in GB, by parameters and ranks, for P_os, P_os+g and P_os+g+p;
# three digits, and halves of a unit rounded either way.
PAPER_TABLE_1 = {
    (7.5e9, 1): (120, 120, 120), (7.5e9, 4): (52.5, 41.3, 30), (7.5e9, 16): (35.6, 21.6, 7.5),
    (7.5e9, 64): (31.4, 16.6, 1.88), (7.5e9, 256): (30.4, 15.4, 0.47), (7.5e9, 1024): (30.1, 15.1, 0.12),
    (128e9, 1): (2048, 2048, 2048), (128e9, 4): (896, 704, 512), (128e9, 16): (608, 368, 128),
    (128e9, 64): (536, 284, 32), (128e9, 256): (518, 263, 8), (128e9, 1024): (513, 257, 2),
    (1e12, 1): (16000, 16000, 16000), (1e12, 4): (7000, 5500, 4000), (1e12, 16): (4750, 2875, 1000),
    (1e12, 64): (4187, 2218, 250), (1e12, 256): (4046, 2054, 62.5), (1e12, 1024): (4011, 2013, 15.6),
}  # fmt: skip


@pytest.mark.parametrize(("stage", "gigabytes"), PAPER_FIGURE_1.items())
def test_formula_gives_the_papers_figure(stage, gigabytes):
    assert round(model_state_bytes(7.5e9, stage, 64) / 1e9, 1 if stage else 0) == gigabytes


@pytest.mark.parametrize(("parameters", "ranks"), PAPER_TABLE_1)
def test_formula_gives_the_papers_table(parameters, ranks):
    for stage, printed in zip((1, 2, 3), PAPER_TABLE_1[parameters, ranks], strict=True):
        unit = 0.01 if printed < 2 else 0.1 if printed < 63 else 1
        assert abs(model_state_bytes(parameters, stage, ranks) / 1e9 - printed) <= unit, (stage, printed)


def test_one_rank_gains_nothing_and_many_ranks_approach_the_limits():
    assert {model_state_bytes(1000, stage, 1) for stage in range(4)} == {16_000}
    ratios = {stage: 16_000 / model_state_bytes(1000, stage, 10**9) for stage in (1, 2)}
    assert ratios == pytest.approx({1: 4, 2: 8}, rel=1e-6)
    assert model_state_bytes(1000, 1, 2) == 10_000, "1.6 times less on two ranks, not 4 times"


def test_parts_add_up_and_each_stage_partitions_one_more():
    previous = model_state_parts(1000, 0, 4)
    for stage, role in ((1, "optimizer states"), (2, "gradients"), (3, "parameters")):
        parts = model_state_parts(1000, stage, 4)
        assert sum(parts.values()) == model_state_bytes(1000, stage, 4)
        assert [name for name in parts if parts[name] != previous[name]] == [role]
        assert parts[role] == previous[role] / 4
        previous = parts


@pytest.mark.parametrize(
    "arguments", [(0, 1, 1), (10, 4, 1), (10, 1, 0), (10, True, 2), (float("nan"), 1, 2), (float("inf"), 1, 2)]
)
def test_impossible_questions_are_refused(arguments):
    with pytest.raises(ConfigError):
        model_state_bytes(*arguments)


@pytest.mark.parametrize("stage", [1, 2, 3])
@pytest.mark.parametrize("ranks", [2, 8, 64])
def test_with_gradients_held_a_bare_plan_is_the_paper(stage, ranks):
    """Nothing but model states, in the window in which DeepSpeed holds its gradients."""
    planned = plan(1_000_000_000, stage=stage, world_size=ranks, gradient_accumulation_steps=2, reduce_bucket_size=1)
    at_rest = planned.held("at rest")
    states = sum(at_rest[role] for role in ("parameters", "gradients", "master weights", "optimizer states"))
    waiting = {1: 2e9, 2: 2e9 / ranks, 3: 0}[stage]  # gradients that stage 1 and 2 free before the step ends
    assert states + waiting == pytest.approx(model_state_bytes(1e9, stage, ranks), rel=1e-6)


def test_offload_moves_bytes_and_loses_none():
    here = plan("1.3b", stage=3, world_size=4)
    there = plan("1.3b", stage=3, world_size=4, offload_optimizer="cpu", offload_param="cpu")
    nvme = plan("1.3b", stage=3, world_size=4, offload_optimizer="nvme")
    states = ("parameters", "master weights", "optimizer states")
    assert [here.held("at rest")[role] for role in states] == [there.held("at rest")[role] for role in states]
    assert there.place_bytes("at rest", "GPU") < here.place_bytes("at rest", "GPU") / 3
    assert there.moments["at rest"]["pinned host"]["master weights"] == here.moments["at rest"]["GPU"]["master weights"]
    assert nvme.moments["at rest"]["NVMe"]["optimizer states"] == pytest.approx(
        here.held("at rest")["optimizer states"]
    )
    assert nvme.place_bytes("after initialisation", "NVMe") < nvme.place_bytes("at rest", "NVMe")


def test_the_peak_holds_what_rests_and_more():
    for stage in range(4):
        planned = plan("85m", stage=stage, world_size=4, micro_batch_size=2, sequence_length=512)
        at_peak, at_rest = planned.held("peak"), planned.held("at rest")
        assert all(at_peak[role] >= count for role, count in at_rest.items())
        assert planned.peak_bytes == sum(at_peak.values()) > sum(at_rest.values())


def test_a_config_and_the_same_choices_give_the_same_plan():
    config = {
        "train_micro_batch_size_per_gpu": 2,
        "gradient_accumulation_steps": 4,
        "bf16": {"enabled": True},
        "zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}},
    }
    choices = {"stage": 2, "micro_batch_size": 2, "gradient_accumulation_steps": 4, "offload_optimizer": "cpu"}
    assert plan("10m", config, world_size=4) == plan("10m", world_size=4, **choices)


def test_checkpointing_and_micro_batches_move_the_activations_alone():
    small, large = (plan("85m", stage=2, world_size=2, micro_batch_size=size) for size in (1, 8))
    assert small.held("at rest") == large.held("at rest")
    assert large.held("peak")["activations"] == pytest.approx(8 * small.held("peak")["activations"], rel=0.02)
    recomputed = plan("85m", stage=2, world_size=2, micro_batch_size=8, activation_checkpointing=True)
    assert recomputed.held("peak")["activations"] < large.held("peak")["activations"] / 3


def test_the_largest_model_fits_and_one_layer_more_does_not():
    largest = largest_model("A100-80GB", "1.3b", stage=3, world_size=8)
    layers = (largest.parameters - largest_model_base()) // layer_parameters()
    shape = PRESETS["1.3b"]
    assert plan(shape._replace(layers=layers), stage=3, world_size=8).parameters == largest.parameters
    assert fits(largest, "A100-80GB")
    assert not fits(plan(shape._replace(layers=layers + 1), stage=3, world_size=8), "A100-80GB")
    states_alone = largest_model("T4", stage=0)
    assert states_alone.peak_bytes + ALLOWANCE_BYTES <= card("T4").memory_bytes
    assert not fits(plan(states_alone.parameters + 1000, stage=0), "T4")


def layer_parameters():
    shape = PRESETS["1.3b"]
    return shape._replace(layers=2).parameters - shape._replace(layers=1).parameters


def largest_model_base():
    return PRESETS["1.3b"]._replace(layers=1).parameters - layer_parameters()


def test_the_smallest_world_size_fits_and_one_less_does_not():
    smallest = smallest_world_size("A100-40GB", "7b", stage=3, activation_checkpointing=True)
    ranks = smallest.settings.world_size
    assert ranks > 1 and fits(smallest, "A100-40GB")
    fewer = plan("7b", stage=3, activation_checkpointing=True, world_size=ranks - 1)
    assert not fits(fewer, "A100-40GB")
    assert smallest_world_size("T4", "7b", stage=0) is None, "no number of ranks helps where nothing is partitioned"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("85n",), "did you mean '85m'"),
        ((0,), "at least 1"),
        ((float("inf"),), "at least 1"),
        (("1m", {"zero_optimization": {"stage": 2}}), "no batch size"),
    ],
)
def test_a_plan_of_nonsense_is_one_sentence(arguments, words):
    with pytest.raises(ConfigError, match=words) as caught:
        plan(*arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        ({"stage": 2, "offload_param": "cpu"}, "needs stage 3"),
        ({"stage": 0, "offload_optimizer": "cpu"}, "silently ignored"),
        ({"stage": 2, "offload_optimizer": "nvme"}, "needs stage 3"),
        ({"stage": 5}, "choose 0, 1, 2 or 3"),
        ({"world_size": 0}, "world_size is 0"),
        ({"precision": "int8"}, "fp32, fp16 or bf16"),
        ({"precision": "fp32", "low_precision_states": True}, "need bf16"),
        ({"stage": 0, "grad_accum_dtype": "fp32"}, "refuses stage 0"),
        ({"sequence_length": 0}, "sequence_length is 0"),
        ({"sequence_length": 257}, "reads at most 256"),
        ({"low_precision_states": True}, "need stage 1, 2 or 3"),
        ({"micro_batch_size": -1}, "at least 1"),
        ({"attention": "flashy"}, "'sdpa' or 'eager'"),
        ({"accelerator": "tpu"}, "'cuda' or 'cpu'"),
        ({"reduce_bucket_size": 0}, "reduce_bucket_size is 0"),
        ({"reduce_bucket_size": float("nan")}, "reduce_bucket_size is nan"),
    ],
)
def test_a_choice_that_deepspeed_does_not_have_is_one_sentence(choices, words):
    with pytest.raises(ConfigError, match=words) as caught:
        plan("1m", **choices)
    assert "\n" not in str(caught.value)


def test_a_config_and_choices_together_are_refused():
    with pytest.raises(ConfigError, match="config and stage"):
        plan("1m", {"train_micro_batch_size_per_gpu": 1}, stage=2)


@pytest.mark.parametrize("model", ["7b", "llama-3.1-405b"])
def test_the_planner_is_quick_enough_for_a_page(model):
    """Counted in work, not in seconds: another plan of a model of 32 or of 126 layers calls few functions."""
    import sys

    plan(model, stage=3, world_size=64)  # the model's tensors are laid out once
    calls = 0

    def count(frame, event, argument):
        nonlocal calls
        calls += event == "call"

    sys.setprofile(count)
    try:
        plan(model, stage=3, world_size=64)
    finally:
        sys.setprofile(None)
    assert calls < 2000, calls


# The command line


def test_the_command_line_prints_the_planners_numbers(capsys):
    assert main(["--parameters", "7.5e9", "--stage", "3", "--world-size", "64"]) == 0
    printed = capsys.readouterr().out
    planned = plan(7.5e9, stage=3, world_size=64)
    assert "7,500,000,000 parameters, stage 3" in printed
    assert f"{planned.place_bytes('peak', 'GPU') / 1e9:.2f}" in printed
    assert f"{model_state_bytes(7.5e9, 3, 64) / 1e9:.2f} GB" in printed


def test_the_command_line_answers_for_a_card(capsys):
    assert main(["--model", "7b", "--stage", "3", "--world-size", "8", "--gpu", "h200"]) == 0
    printed = capsys.readouterr().out
    assert ("Fits" if fits(plan("7b", stage=3, world_size=8), "H200") else "Does not fit") in printed
    assert f"{smallest_world_size('H200', '7b', stage=3).settings.world_size}." in printed


def test_the_command_line_reads_a_config_and_a_shape(capsys, tmp_path):
    config = {"train_batch_size": 16, "train_micro_batch_size_per_gpu": 2, "zero_optimization": {"stage": 1}}
    path = tmp_path / "ds_config.json"
    path.write_text(json.dumps(config))
    shape = "--layers 2 --hidden-size 64 --heads 2 --vocabulary 256 --sequence-length 128"
    assert main(f"{shape} --config {path} --world-size 8 --json".split()) == 0
    printed = json.loads(capsys.readouterr().out)
    expected = plan(Shape("gpt2", 2, 64, 2, 128, 256, 256), config, world_size=8)
    assert printed["predicted_bytes"] == expected.moments and printed["settings"]["stage"] == 1


def test_a_batch_of_the_whole_step_does_not_hinder_the_search_for_ranks(capsys, tmp_path):
    path = tmp_path / "ds_config.json"
    path.write_text(json.dumps({"train_batch_size": 64, "bf16": {"enabled": True}, "zero_optimization": {"stage": 3}}))
    assert main(f"--model 1.3b --config {path} --world-size 64 --gpu T4 --activation-checkpointing".split()) == 0
    config = {"train_micro_batch_size_per_gpu": 1, "bf16": {"enabled": True}, "zero_optimization": {"stage": 3}}
    smallest = smallest_world_size("T4", "1.3b", config, activation_checkpointing=True)
    assert f"fewest such cards for this one: {smallest.settings.world_size}." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("", "Name one model"),
        ("--model 1m --parameters 5", "Name one model"),
        ("--model 1.3bb", "did you mean '1.3b'"),
        ("--model 70b", "There is no model '70b'"),
        ("--model 1m --hf-config x", "Name one model"),
        ("--hf-config /nowhere", "There is no file /nowhere"),
        ("--model gemma-2-9b --liger", "leave out liger"),
        ("--model 1m --gpu T4 --gpus-per-node 0", "--gpus-per-node is 0"),
        ("--model 1m --host-memory -1", "--host-memory is -1"),
        ("--parameters nan", "not finite"),
        ("--parameters -1", "at least 1"),
        ("--parameters many", "not a number"),
        ("--parameters 1e9 --stage 1.5", "not a whole number"),
        ("--parameters 1e9 --gpu h20", "nearest is 'H200'"),
        ("--parameters 1e9 --stage 1 --offload-param cpu", "needs stage 3"),
        ("--model 1m --config /nowhere.json", "Cannot read the config"),
        ("--layers 3", "shape lacks"),
        ("--layers 3 --hidden-size 65 --heads 2 --vocabulary 9", "does not divide"),
        ("--layers 3 --hidden-size 0 --heads 1 --vocabulary 9", "--hidden-size is 0"),
        ("--model 1m --frobnicate", "unrecognized arguments"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_sentence_and_status_2(capsys, command, words):
    assert main(command.split()) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("error: ") and captured.err.count("\n") == 1
    assert words in captured.err


def test_a_world_size_that_does_not_divide_is_refused(capsys, tmp_path):
    path = tmp_path / "ds_config.json"
    path.write_text(json.dumps({"train_batch_size": 16, "train_micro_batch_size_per_gpu": 2}))
    assert main(f"--model 1m --config {path} --world-size 3".split()) == 2
    assert "train_batch_size 16" in capsys.readouterr().err


def test_the_host_is_part_of_the_verdict(capsys):
    """Offloaded: 12 bytes a parameter of masters, gradients and states but the 16-bit ones, for the ranks of a node."""
    command = "--model llama-3.1-8b --stage 3 --offload-optimizer cpu --sequence-length 4096 --gpu H200"
    assert main(f"{command} --world-size 8 --host-memory 160".split()) == 0
    out = capsys.readouterr().out
    assert "A host of 160 GB has room to train it." in out and "has room to load it." in out
    assert main(f"{command} --world-size 16 --host-memory 64".split()) == 0  # on two nodes
    out = capsys.readouterr().out
    assert "The host of 8 ranks needs" in out and "A host of 64 GB does not have room to train it." in out


def test_a_plan_without_activations_says_so(tmp_path, capsys):
    config = config_of(Shape("mixtral", 2, 64, 4, 128, 96, 256, 2, experts=4, experts_per_token=2))
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert main(["--hf-config", str(tmp_path), "--stage", "2", "--world-size", "2"]) == 0
    out = capsys.readouterr().out
    assert "Planned without: the activations of mixtral." in out and "A token goes through" in out
    assert main(["--hf-config", str(tmp_path), "--stage", "2", "--world-size", "2", "--gpu", "H100"]) == 0
    assert "Fits, activations not counted: " in capsys.readouterr().out


def test_a_verdict_on_a_model_with_frozen_layers_names_no_larger_one():
    text = report(parse(["--model", "1m", "--freeze", "layers.3.*", "--stage", "2", "--gpu", "H100"]))
    assert "of them trained" in text and "Fits" in text and "The fewest such cards" in text
    assert "The largest" not in text
