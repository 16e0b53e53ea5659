"""The planner's formula, against the numbers that the ZeRO paper prints."""

import pytest

from labsupport.errors import ConfigError
from labsupport.memory import communication_elements, model_state_bytes, model_state_parts

# Rajbhandari et al. 2020, figure 1: 7.5 billion parameters on 64 ranks, in GB of 1e9 bytes, as printed there.
PAPER_FIGURE_1 = {0: 120, 1: 31.4, 2: 16.6, 3: 1.9}


@pytest.mark.parametrize(("stage", "gigabytes"), PAPER_FIGURE_1.items())
def test_formula_gives_the_papers_figure(stage, gigabytes):
    assert round(model_state_bytes(7.5e9, stage, 64) / 1e9, 1 if stage else 0) == gigabytes


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


def test_communication_is_the_papers_for_one_micro_batch():
    assert [communication_elements(1, stage) for stage in range(4)] == [2, 2, 2, 3]
    assert [communication_elements(1, stage, 4) for stage in range(4)] == [2, 2, 5, 12]


@pytest.mark.parametrize("arguments", [(0, 1, 1), (10, 4, 1), (10, 1, 0), (10, True, 2)])
def test_impossible_questions_are_refused(arguments):
    with pytest.raises(ConfigError):
        model_state_bytes(*arguments)
