"""The recorded training steps: their frames against the ledger, the planner and DeepSpeed's own log."""

import copy
from collections import Counter

import pytest
from recorded_frames import RECORD, RECORDED, name, unfold

from labsupport.errors import LabError
from labsupport.measure import walkthrough
from labsupport.measure.blocks import BLOCKS, ROLES
from labsupport.measure.walkthrough import CONTROL_BYTES, MODEL
from labsupport.memory.messages import times_ddp, total_wire_bytes
from labsupport.memory.planner import plan_of
from labsupport.records import FOLDER
from labsupport.runs import Run

NORM_BYTES = [0, *[2 * 2 * MODEL.hidden_size] * MODEL.layers, 2 * MODEL.hidden_size]  # of each block, in bf16


def collectives_of(run):
    sent = Counter()
    for frame in run["frames"]:
        sent.update(frame.get("sent", {}))
    return dict(sent)


# Each takes a run and asserts what must hold of it.


def bytes_sent_are_those_of_deepspeeds_log(run):
    assert collectives_of(run) == run["collectives"]
    total = total_wire_bytes(run["collectives"], run["world_size"])
    assert sum(frame["wire_bytes"] for frame in run["frames"]) == pytest.approx(total, abs=len(run["frames"]))


def bytes_sent_are_the_predicted_ones(run):
    sent, planned = collectives_of(run), plan_of(Run(MODEL, run["config"], run["world_size"]))
    predicted = planned.collectives
    assert sent.keys() - {"all_reduce"} == predicted.keys() - {"all_reduce"}
    for collective in sent:
        extra = sent[collective] - predicted.get(collective, 0)
        assert 0 <= extra <= (CONTROL_BYTES if collective == "all_reduce" else 0), collective
    paper = 1.0 if run["stage"] == 0 or run["to_owners"] else 1.5
    assert times_ddp(sent, MODEL.parameters, planned.settings) == pytest.approx(paper, rel=1e-3)


def at_rest_the_blocks_add_up_to_the_ledger(run):
    first, *_, last = unfold(run)
    # PyTorch's Adam counts steps in 4 bytes for each tensor that it updates: no block's.
    counters = 4 * (len(MODEL.tensor_sizes) if run["stage"] == 0 else 1)
    for frame in (first, last):
        for role in ROLES:
            for rank, rest in enumerate(run["rest"]):
                held = sum(frame["held"][role, n][rank] for n in range(len(BLOCKS)))
                assert held + (counters if role == "optimizer states" else 0) == rest[role], (role, rank)
                assert frame["live"].get(role, [0] * run["world_size"])[rank] == rest[role], (role, rank)


def optimizer_shards_cover_every_block(run):
    copies = run["world_size"] if run["stage"] == 0 else 1
    for frame in unfold(run):
        for n, elements in enumerate(run["elements"]):
            assert sum(frame["held"]["master weights", n]) == 4 * elements * copies
            assert sum(frame["held"]["optimizer states", n]) == 8 * elements * copies


def only_stage_3_cuts_the_parameters(run):
    first, *middle, last = unfold(run)
    for frame in (first, *middle, last):
        for n, elements in enumerate(run["elements"]):
            parameters, gathered = frame["held"]["parameters", n], frame["held"]["gathered parameters", n]
            if run["stage"] < 3:
                assert set(parameters) == {2 * elements} and set(gathered) == {0}
            else:
                assert set(parameters) == {2 * elements // run["world_size"]}
                assert max(gathered) <= 2 * elements
                if frame in (first, last):
                    assert set(gathered) == {NORM_BYTES[n]}


def a_block_is_whole_while_it_computes(run):
    role = "gathered parameters" if run["stage"] == 3 else "parameters"
    passes = [frame for frame in unfold(run) if frame["event"] in ("forward", "backward")]
    for frame in passes:
        (n,) = frame["blocks"]
        assert set(frame["held"][role, n]) == {2 * run["elements"][n]}
    forwards = [frame["blocks"][0] for frame in passes if frame["event"] == "forward"]
    backwards = [f["blocks"][0] for f in passes if f["event"] == "backward" and not f.get("goes_on")]
    assert forwards == list(range(len(BLOCKS))) == backwards[::-1]


def stage_3_gathers_computes_and_releases(run):
    events = [(f["event"], f.get("blocks")) for f in run["frames"] if f["event"] not in ("reduce_scatter", "rest")]
    if run["stage"] < 3:
        assert not any(event == "release" for event, _ in events)
        return
    for at, (event, blocks) in enumerate(events):
        if event in ("forward", "backward"):
            assert (events[at - 1], events[at + 1]) == (("all_gather", blocks), ("release", blocks))
    whole = [[n for n in range(len(BLOCKS)) if f["held"]["gathered parameters", n][0] > 512] for f in unfold(run)]
    assert max(map(len, whole)) == 1, "more than one block is whole at one time"


def gradients_are_there_until_the_step(run):
    frames = unfold(run)
    before_step = frames[[frame["event"] for frame in frames].index("step") - 1]
    for n, elements in enumerate(run["elements"]):
        for rank, held in enumerate(before_step["held"]["gradients", n]):
            needed = before_step["held"]["master weights", n][rank] // 2  # of the same elements, in bf16
            assert needed <= held <= 2 * elements
            assert (held > 0) == (needed > 0), "a rank keeps gradients of what it does not update, or has none"
            # Stages 1 and 2 keep a tensor that lies across the cut whole on both ranks.
            assert held == needed or run["stage"] in (1, 2)
    if run["stage"] < 3:
        assert not any(sum(frames[-1]["held"]["gradients", n]) for n in range(len(BLOCKS)))


CHECKS = (
    bytes_sent_are_those_of_deepspeeds_log,
    bytes_sent_are_the_predicted_ones,
    at_rest_the_blocks_add_up_to_the_ledger,
    optimizer_shards_cover_every_block,
    only_stage_3_cuts_the_parameters,
    a_block_is_whole_while_it_computes,
    stage_3_gathers_computes_and_releases,
    gradients_are_there_until_the_step,
)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("run", RECORDED, ids=name)
def test_of_the_record(run, check):
    check(run)


@pytest.mark.parametrize("run", [run for run in walkthrough.runs() if run.world_size == 2], ids=Run.in_words)
def test_of_a_live_step_and_the_record_is_the_same(two_ranks, run):
    live = walkthrough.join(run, two_ranks.run(walkthrough.record_step, run))
    for check in CHECKS:
        check(live)
    assert live == next(recorded for recorded in RECORDED if name(recorded) == name(live))


def twice(run):
    """One collective is counted twice."""
    frame = next(frame for frame in run["frames"] if frame["wire_bytes"] > CONTROL_BYTES)
    frame["sent"] = {collective: 2 * size for collective, size in frame["sent"].items()}


def more_on_the_wire(run):
    """A frame's bytes on the wire are those of an all-reduce on more ranks."""
    frame = next(frame for frame in run["frames"] if frame["wire_bytes"] > CONTROL_BYTES)
    frame["wire_bytes"] = round(1.5 * frame["wire_bytes"])


def shard_as_whole(run):
    """A rank's shard of the master weights is marked as whole."""
    run["frames"][0]["held"]["master weights"]["0"][0] = 4 * run["elements"][0] + 4


def never_released(run):
    """A release is left out: the block stays whole."""
    run["frames"].remove(next(frame for frame in run["frames"] if frame["event"] == "release"))


def forward_too_early(run):
    """A forward pass changes places with the gather before it."""
    at = next(n for n, frame in enumerate(run["frames"]) if frame["event"] == "forward")
    run["frames"][at - 1 : at + 1] = run["frames"][at - 1 : at + 1][::-1]


def gradient_of_another(run):
    """A rank keeps a gradient that another rank needs."""
    at = next(n for n, frame in enumerate(run["frames"]) if frame["event"] == "step")
    run["frames"][at - 1]["held"].setdefault("gradients", {})["0"] = [0, 2 * run["elements"][0]]


FAULTS = {
    twice: (0, bytes_sent_are_those_of_deepspeeds_log, bytes_sent_are_the_predicted_ones),
    more_on_the_wire: (2, bytes_sent_are_those_of_deepspeeds_log),
    shard_as_whole: (1, optimizer_shards_cover_every_block, at_rest_the_blocks_add_up_to_the_ledger),
    never_released: (3, stage_3_gathers_computes_and_releases),
    forward_too_early: (3, a_block_is_whole_while_it_computes, stage_3_gathers_computes_and_releases),
    gradient_of_another: (2, gradients_are_there_until_the_step),
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_planted_fault_is_caught(fault):
    stage, *checks = FAULTS[fault]
    run = copy.deepcopy(next(run for run in RECORDED if run["stage"] == stage))
    fault(run)
    for check in checks:
        with pytest.raises(AssertionError):
            check(run)


def test_ranks_that_did_different_things_are_refused():
    frames = [{"event": "forward", "blocks": [n], "sent": {}} for n in range(2)]
    results = [{"frames": frames}, {"frames": frames[::-1]}]
    with pytest.raises(LabError, match="did not do the same things"):
        walkthrough.join(walkthrough.runs()[0], results)


def test_the_record_is_small_and_names_its_blocks():
    assert tuple(RECORD["measured"]["blocks"]) == BLOCKS
    assert (FOLDER / "walkthrough.json").stat().st_size < 150_000
    assert [(run["config"], run["world_size"]) for run in RECORDED] == [
        (run.config, run.world_size) for run in walkthrough.runs()
    ]
