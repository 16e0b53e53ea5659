"""Runs that are killed, checkpoints that are damaged, a machine that fails: a part of what `make faults` records."""

import shutil

import pytest

from labsupport.checkpoint.manifest import files_of
from labsupport.faults import damage, harness, machine
from labsupport.records import read_record

pytestmark = pytest.mark.slow
STAGE = 2


@pytest.fixture(scope="module")
def undisturbed():
    return harness.reference(STAGE)


@pytest.fixture(scope="module")
def two_tags(tmp_path_factory):
    return harness.two_tags(STAGE, tmp_path_factory.mktemp("saved"))


def test_a_run_that_is_killed_again_and_again_loses_nothing(undisturbed, tmp_path):
    chain = harness.Chain(STAGE, tmp_path, undisturbed)
    results = [chain.run(kill) for kill in harness.kills(32, seed=1) if kill.stage == STAGE]
    counts = harness.counts(results)
    assert counts["kills"] == sum(counts["by_phase"].values()) == 8, counts
    assert {name: counts[name] for name in harness.MUST_BE_ZERO if counts.get(name)} == {}, results


def test_a_run_that_loses_a_step_would_be_seen(undisturbed, tmp_path):
    """The newest checkpoint is taken away behind the back of a chain, and one loss is another one."""
    chain = harness.Chain(STAGE, tmp_path, undisturbed | {3: 0.0})
    late = harness.Kill(0, STAGE, 0, "SIGKILL", "training", 0.5, 2)
    assert any("step 3" in problem for problem in chain.run(late)["problems"])
    newest = max(chain.folder.glob("global_step*"), key=lambda tag: int(tag.name[11:]))
    shutil.rmtree(newest)
    (chain.folder / "latest").unlink()
    assert chain.run(late._replace(phase="starting", saves=0))["lost_steps"] > 0


@pytest.mark.parametrize("kind", damage.KINDS)
def test_no_damage_to_a_checkpoint_is_taken_for_good(two_tags, tmp_path, kind):
    found = [each for each in damage.trials(5 * len(damage.KINDS), 0, two_tags, tmp_path) if each["kind"] == kind]
    assert len(found) == 5
    for each in found:
        assert each["told"], each["done"]
        names = [name for name in [*files_of(two_tags / "global_step4"), "manifest.json"] if name in each["done"]]
        assert any(name in told for name in names or ["zero_pp"] for told in each["told"]), each


FAULTS = {
    fault: {"seconds": 3} if fault is machine.rank_that_stalls else {}
    for fault in machine.FAULTS
    if fault is not machine.clock_that_goes_back  # two runs long, and of the sort that the record holds
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_fault_of_the_machine_costs_no_checkpoint(undisturbed, tmp_path, fault):
    result = machine.run(fault, tmp_path, undisturbed, **FAULTS[fault])
    if "skipped" in result:
        pytest.skip(result["skipped"])
    assert result["problems"] == [], result


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_run_goes_on_on_any_number_of_ranks(tmp_path, stage):
    """From two ranks to four, and from four to two; the record has every pair."""
    found = list(harness.moves(stage, tmp_path, numbers=(2, 4)))
    assert [(each["ranks"], each["to_ranks"], each["steps"]) for each in found] == [(2, 4, 4), (4, 2, 4)]
    assert all(each["largest_difference"] <= harness.APART for each in found), found


def test_the_list_of_kills_is_the_seeds_own_and_covers_all():
    found = harness.kills(400, seed=3)
    assert found == harness.kills(400, seed=3) != harness.kills(400, seed=4)
    assert harness.kills(10, seed=3, first=5) == found[5:15]
    assert {kill.phase for kill in found} == set(harness.LENGTHS) and {kill.stage for kill in found} == {0, 1, 2, 3}
    assert {kill.how for kill in found} == set(harness.SIGNALS) and {kill.rank for kill in found} == {0, 1}


def test_the_record_has_kills_of_each_phase_and_nothing_was_lost():
    measured = read_record("faults")["measured"]
    counts = harness.counts(measured["kills"])
    assert counts.items() <= measured["counts"].items() and counts["kills"] >= 1000
    assert all(measured["counts"][name] == 0 for name in harness.MUST_BE_ZERO), measured["counts"]
    assert min(counts["by_phase"].get(phase, 0) for phase in harness.LENGTHS) >= 25, counts["by_phase"]
    assert all(each["told"] for each in measured["damages"]) and len(measured["damages"]) >= 900
    moves = {tuple(each[name] for name in ("stage", "ranks", "to_stage", "to_ranks")) for each in measured["moves"]}
    ranks = {(stage, one, stage, other) for stage in range(4) for one in range(1, 5) for other in range(1, 5)}
    stages = {(one, 2, other, 2) for one in range(4) for other in range(4)}
    assert moves == {move for move in ranks | stages if move[:2] != move[2:]}
