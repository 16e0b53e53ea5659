"""Every kind of model, batch and output trains alike at each stage and resumes to the bit, or is refused."""

import kinds_work
import pytest
import torch

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("kind", kinds_work.KINDS)
def test_each_kind_trains_as_in_plain_torch_and_resumes_to_the_bit(two_ranks, tmp_path, kind):
    if "peft" in kind:
        pytest.importorskip("peft", reason="peft is not installed")
    plain = two_ranks.run(kinds_work.plain_torch_losses, kind)[0]
    first, second = two_ranks.run(kinds_work.every_stage, kind, str(tmp_path))
    assert first == second, "both ranks are told the same"
    for stage, (losses, after, again) in zip(kinds_work.STAGES[kind], first, strict=True):
        assert losses == pytest.approx(plain, rel=1e-5), f"stage {stage}"
        assert again == after, f"resumed at stage {stage}, the last number from an evaluation"
    assert plain[-1] != plain[0]


@pytest.mark.parametrize("stage", [0, 3])
def test_what_is_refused_is_one_sentence(two_ranks, stage):
    told = two_ranks.run(kinds_work.refusals, stage)
    assert told[0] == told[1]
    expected = {
        **{f"model: {name}": words for name, (_, words) in kinds_work.BAD_MODELS.items()},
        **{f"batch: {name}": words for name, (_, words) in kinds_work.BAD_BATCHES.items()},
        **{f"output: {name}": words for name, (_, words) in kinds_work.BAD_OUTPUTS.items()},
        "optimizer: of another model": "a parameter of shape [16, 8] that the model lacks",
        "optimizer: a list": "of type list",
        "model: complex": "first.weight is in torch.complex64",
        "model: an engine": "already a DeepSpeedEngine",
        "batch: no target for loss_fn": "does not fit mse_loss: missing a required argument: 'target'",
        "loss_fn: not one number": "loss_fn returned a tensor of shape [4, 4]",
        "output: a number of Python's": "returned a number or a text" if stage == 3 else "returned float, without",
        **kinds_work.OF_ONE_STAGE[stage],
    }
    for what in kinds_work.OF_ONE_STAGE[3 - stage]:
        assert told[0].pop(what) == (None, "nothing was raised"), what
    assert set(told[0]) == set(expected)
    wrong = {
        what: told[0][what]
        for what, words in expected.items()
        if told[0][what][0] not in ("TrainingError", "ConfigError") or words not in told[0][what][1]
    }
    assert wrong == {}
    assert not any("\n" in sentence for _, sentence in told[0].values())


def test_what_is_refused_of_a_model_deepspeed_cannot_do_either(two_ranks):
    """When a newer DeepSpeed can, the sentence goes."""
    for stage in range(4):
        worked = two_ranks.run(kinds_work.deepspeed_alone, stage)[0]
        able = {name for name, result in worked.items() if result is True}
        assert able == ({"two dtypes"} if stage == 0 else set()), (stage, worked)


def test_loss_backward_beside_the_engine_is_the_same_from_stage_1_on(two_ranks):
    assert "not supported" in two_ranks.run(kinds_work.torch_style, 0)[0]
    for stage in (1, 2, 3):
        own, losses = two_ranks.run(kinds_work.torch_style, stage)[0]
        assert own == losses


@pytest.mark.parametrize("stage", range(4))
def test_what_is_said_of_a_model_in_bf16_without_a_block_is_what_the_engine_holds(two_ranks, stage):
    (said, held), (quiet, _) = two_ranks.run(kinds_work.without_a_block, torch.bfloat16, stage)
    assert said.count("Precision: ") == 1 and "Precision: " not in quiet, "rank 0 says it, once"
    assert held["weights"] == "bfloat16" and f"stage {stage} computes in bfloat16" in said
    assert f"reduces the gradients in {held['reduced in']}, and {held['optimizer']} steps on" in said
    if held["stepped on"] == "bfloat16":
        assert held["moments"] == "bfloat16" and "moments in bfloat16 and no fp32 masters" in said
    else:
        assert held["stepped on"] == held["moments"] == "float32" and "on fp32 masters, with moments in fp32" in said


def test_nothing_is_said_of_a_model_in_fp32(two_ranks):
    assert "Precision: " not in two_ranks.run(kinds_work.without_a_block, torch.float32, 2)[0][0]
