"""The milestone, and what must hold whatever the stage: the stages change where bytes live, not what is learned.

MODULE=my_trainer.py pytest tests/test_deepspeed.py::test_milestone_deepspeed_training runs a reader's own trainer.
"""

import os
from pathlib import Path

import pytest
import rank_work

from labsupport import deepspeed_trainer
from labsupport.exercises.verify import verify

pytestmark = pytest.mark.slow


def test_milestone_deepspeed_training():
    module = Path(os.environ.get("MODULE") or deepspeed_trainer.__file__)
    verdict = verify("09-milestone", module.resolve())
    if not verdict.passed:
        pytest.fail(f"{verdict.message} {verdict.hint}", pytrace=False)


def test_two_ranks_train_save_and_resume(two_ranks, tmp_path):
    seen = two_ranks.run(rank_work.milestone, str(tmp_path / "checkpoint"))
    first, second = seen
    assert first["world_size"] == second["world_size"] == len(two_ranks) == 2
    assert first == second, "both ranks report the same losses and the same state"
    losses = [first["before"], *first["epoch_losses"]]
    assert all(later < earlier for earlier, later in zip(losses, losses[1:], strict=False)), losses
    assert (tmp_path / "checkpoint" / "latest").read_text() == f"global_step{first['loaded_step']}"
    assert first["state"] == {"epoch": 3, "module": "a key of DeepSpeed's own", "note": "mine"}
    assert first["again"] == first["went_on"], "a resumed run goes on exactly as the uninterrupted one"
    assert len(first["again"]) > 3


@pytest.fixture(scope="module")
def stage_0():
    return {}


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_every_stage_agrees_with_plain_torch_and_with_stage_0(two_ranks, stage_0, stage):
    losses, weights = two_ranks.run(rank_work.losses, stage)[0]
    assert losses == pytest.approx(rank_work.plain_torch_losses(6), rel=1e-5)
    stage_0.setdefault("result", two_ranks.run(rank_work.losses, 0)[0] if stage else (losses, weights))
    assert losses == pytest.approx(stage_0["result"][0], rel=1e-6)
    assert weights == pytest.approx(stage_0["result"][1], rel=1e-4, abs=1e-3)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_accumulated_micro_batches_equal_the_large_batch(two_ranks, stage):
    small, weights = two_ranks.run(rank_work.losses, stage, steps=8, gradient_accumulation_steps=2)[0]
    large = rank_work.plain_torch_losses(4)
    means = [(first + second) / 2 for first, second in zip(small[::2], small[1::2], strict=True)]
    assert means == pytest.approx(large, rel=1e-5)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("style", ["train_step", "train_epoch"])
def test_the_update_is_the_mean_gradient_applied_once(two_ranks, stage, style):
    change, steps = two_ranks.run(rank_work.accumulate, stage, style)[0]
    assert change == pytest.approx(-2.0), "gradients 1 and 3, SGD with lr 1"
    assert steps == 1


def test_two_ranks_equal_one_rank_at_the_same_global_batch(two_ranks):
    from labsupport.ranks.notebook import Ranks

    pair = two_ranks.run(rank_work.losses, 2)[0]
    alone = Ranks(1, "cpu")
    try:
        single = alone.run(rank_work.losses, 2)[0]
    finally:
        alone.stop()
    assert pair[0] == pytest.approx(single[0], rel=1e-5)
    assert pair[1] == pytest.approx(single[1], rel=1e-4, abs=1e-3)
