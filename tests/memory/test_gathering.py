"""What stage 3 gathers, keeps and lets go: the replay of its rules against live ranks, for all of its three limits."""

import pytest
import stage3_work

from labsupport.memory.gathering import equal_pieces, gathering_of
from labsupport.memory.model_states import gathered_bytes, shares_of, shares_of_number
from labsupport.settings import Settings

WIDTHS, MUCH = [64] * 10, 10**9
LAYER = 64**2
MODEL = 10 * LAYER
# (max_live_parameters, max_reuse_distance, prefetch_bucket_size)
LIMITS = {
    "DeepSpeed's defaults": (MUCH, MUCH, 50_000_000),
    "max_live 0 alone": (0, MUCH, 50_000_000),
    "max_reuse 0 alone": (MUCH, 0, 50_000_000),
    "both 0": (0, 0, 50_000_000),
    "no prefetching": (MUCH, 0, 0),
    "a small prefetch bucket": (MUCH, MUCH, LAYER),
    "a tenth live": (MODEL // 10, MODEL, 2 * LAYER),
    "both a tenth": (MODEL // 10, MODEL // 10, 2 * LAYER),
    "a half live, a tenth reused": (MODEL // 2, MODEL // 10, MUCH),
    "both a little more than the model": (MODEL * 5 // 4, MODEL * 5 // 4, LAYER * 5 // 4),
}


@pytest.fixture(scope="module")
def measured():
    return {}


@pytest.fixture
def steps(two_ranks, measured):
    """{name: [what the first step gathered, the second]} of rank 0, measured once for all tests."""
    if not measured:
        found = two_ranks.run(stage3_work.gathered_under, WIDTHS, list(LIMITS.values()))
        assert found[0] == found[1], "both ranks gather alike"
        measured.update(zip(LIMITS, found[0], strict=True))
    return measured


def settings_of(limits):
    max_live, max_reuse, prefetch = limits
    return Settings(
        stage=3, world_size=2, max_live_parameters=max_live, max_reuse_distance=max_reuse,
        prefetch_bucket_size=prefetch, persistence_threshold=0,
    )  # fmt: skip


@pytest.mark.parametrize("name", LIMITS)
def test_the_replay_gathers_what_deepspeed_gathers(name, steps):
    replayed = gathering_of([width**2 for width in WIDTHS], settings_of(LIMITS[name]))
    assert steps[name][1] == {
        "whole": replayed.whole,
        "messages": replayed.messages,
        "gathered": sum(replayed.times) * LAYER,
    }


def test_the_first_step_gathers_everything_twice_and_keeps_nothing(steps):
    for first, _ in steps.values():
        assert first == {"whole": 0, "messages": 20, "gathered": 2 * MODEL}


def test_only_both_limits_together_let_go(steps):
    whole = {name: second["whole"] / MODEL for name, (_, second) in steps.items()}
    assert whole["DeepSpeed's defaults"] == whole["max_live 0 alone"] == whole["max_reuse 0 alone"] == 1
    assert whole["both 0"] == whole["no prefetching"] == 0
    assert (whole["a tenth live"], whole["both a tenth"]) == (0.5, 0.1)  # half of the reuse distance is the floor
    assert whole["a half live, a tenth reused"] == 0.5


def test_the_prefetch_bucket_says_how_many_messages_there_are(steps):
    assert steps["DeepSpeed's defaults"][1]["messages"] == 1
    assert steps["a small prefetch bucket"][1]["messages"] == 10


def test_between_half_and_all_of_the_limits_some_is_gathered_twice(steps):
    second = steps["both a little more than the model"][1]
    assert 1.05 * MODEL < second["gathered"] < 1.5 * MODEL


@pytest.mark.parametrize("name", LIMITS)
def test_the_planner_holds_what_is_whole(name, steps):
    settings = settings_of(LIMITS[name])
    planned = gathered_bytes(shares_of([width**2 for width in WIDTHS], settings), settings, on_gpu=True)
    in_use = 3 * LAYER  # at least: a layer and what is on its way, also where nothing is kept
    assert planned == max(steps[name][1]["whole"], in_use) * settings.parameter_bytes


@pytest.mark.parametrize(
    ("max_live", "max_reuse", "kept"), [(10**9, 10**9, 1e9), (10**8, 10**9, 0.5e9), (10**8, 10**8, 1e8)]
)
def test_seven_billion_parameters_keep_as_many_as_the_larger_limit_says(max_live, max_reuse, kept):
    settings = settings_of((max_live, max_reuse, 50_000_000))
    assert gathering_of(equal_pieces(7e9), settings).whole == pytest.approx(kept, rel=0.15)
    held = gathered_bytes(shares_of_number(7_000_000_000, settings), settings, on_gpu=True)
    assert held == pytest.approx(kept * settings.parameter_bytes, rel=0.15)
