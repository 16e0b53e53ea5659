"""The ledger, against bytes that can be counted by hand."""

import pytest
import rank_work
import torch
from test_timeline import engine_of

# Bytes per parameter on each of two ranks, at rest after a step, from what each dtype takes: fp32 weights 4, a
# partitioned fp32 master copy 4/2, two Adam states 8 or 8/2; ZeRO frees its gradients, stage 3 keeps their partition.
BY_HAND = {
    (0, "fp32"): {"parameters": 4, "master weights": 0, "optimizer states": 8},
    (1, "fp32"): {"parameters": 4, "master weights": 2, "optimizer states": 4},
    (2, "fp32"): {"parameters": 4, "master weights": 2, "optimizer states": 4},
    (3, "fp32"): {"parameters": 2, "master weights": 2, "optimizer states": 4, "gradients": 2},
    (1, "bf16"): {"parameters": 2, "master weights": 2, "optimizer states": 4},
    (2, "bf16"): {"parameters": 2, "master weights": 2, "optimizer states": 4},
    (3, "bf16"): {"parameters": 1, "master weights": 2, "optimizer states": 4, "gradients": 1},
}


@pytest.mark.parametrize(("stage", "precision"), BY_HAND)
def test_held_bytes_are_those_of_the_dtypes(two_ranks, stage, precision):
    for held in two_ranks.run(rank_work.held_per_parameter, stage, precision):
        for role, each in BY_HAND[stage, precision].items():
            assert held[role] == pytest.approx(each, abs=0.05), (role, held)


def test_views_and_shared_storages_count_once():
    from labsupport.measure.claims import storages

    base = torch.zeros(100)
    views = [base[:50], base[50:], base.view(10, 10), base]
    assert len({storage.data_ptr() for view in views for storage in storages(view)}) == 1
    assert list(storages(None)) == [] and list(storages(torch.zeros(3, device="meta"))) == []


def test_what_was_there_before_the_engine_can_be_left_out():
    from labsupport.measure.ledger import held_bytes, other_bytes

    text = torch.ones(1_000_000)
    base = other_bytes()
    engine = engine_of(torch.nn.Linear(2, 1))
    assert base >= text.nbytes
    assert held_bytes(engine)["other"] - held_bytes(engine, base)["other"] == base
    assert abs(held_bytes(engine, base)["other"]) < 1000


def test_a_quick_count_finds_the_same_states_and_looks_at_none_of_pythons_other_objects(two_ranks):
    for quick, whole in two_ranks.run(rank_work.counted_quickly_and_wholly):
        assert quick.pop("other") == 0 and whole.pop("other") > 0
        assert quick == whole
