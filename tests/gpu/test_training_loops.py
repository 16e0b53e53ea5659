"""The loops that are timed beside each other train the same model: each agrees with plain PyTorch in fp32."""

import pytest
import rank_work

pytestmark = pytest.mark.slow

STEPS = 4


def test_every_loop_makes_the_same_losses(two_ranks):
    expected = two_ranks.run(rank_work.losses_of_loop, "plain PyTorch whole batch", STEPS)[0]
    assert expected[-1] < expected[0]
    for loop in ("DDP", "FSDP2", "DeepSpeed by hand", "DeepSpeedTrainer"):
        losses = [sum(pair) / 2 for pair in zip(*two_ranks.run(rank_work.losses_of_loop, loop, STEPS), strict=True)]
        assert losses == pytest.approx(expected, abs=2e-4), loop


def test_compiled_layers_compute_the_same(two_ranks):
    eager = two_ranks.run(rank_work.losses_of_loop, "DDP", 2)[0]
    assert two_ranks.run(rank_work.losses_of_loop, "DDP", 2, compiled="aot_eager")[0] == pytest.approx(eager, abs=2e-4)


def test_batches_are_sent_ahead_one_at_a_time_and_none_is_lost():
    import torch

    from labsupport.batches import ahead

    taken = []

    def batches():
        for number in range(4):
            taken.append(number)
            yield torch.tensor(number)

    seen = []
    for batch in ahead(batches(), torch.device("cpu")):
        seen.append((int(batch), len(taken)))
    assert seen == [(0, 2), (1, 3), (2, 4), (3, 4)]
    assert list(ahead(iter([]), torch.device("cpu"))) == []
