"""Predicted beside measured, on live ranks: a part of what `make measure` records, and the record itself."""

import pytest
import rank_work

from labsupport.measure import agreement
from labsupport.measure.agreement import compare, runs, small_run
from labsupport.records import read_record
from labsupport.runs import Run

ALL_SMALL = {"zero_optimization": {"stage3_param_persistence_threshold": 10**6}}
# One of every kind that two ranks can run quickly; the recorded runs cover the rest.
LIVE = {
    "stage 0, fp32": small_run(0, "fp32"),
    "stage 1": small_run(1),
    "stage 2, two micro-batches": small_run(2, accumulation=2),
    "stage 2, optimizer on the CPU": small_run(2, offload_optimizer="cpu"),
    "stage 1, optimizer on the CPU, two micro-batches": small_run(1, accumulation=2, offload_optimizer="cpu"),
    "stage 3": small_run(3),
    "stage 3, all parameters small": small_run(3, more=ALL_SMALL),
    "stage 3, bf16 states": small_run(3, more=agreement.LOW_PRECISION),
    "stage 3, released after use": small_run(3, more=agreement.RELEASE),
    "stage 1, fp32 accumulation": small_run(1, grad_accum_dtype="fp32"),
}

# As on a GPU: FusedAdam, which DeepSpeed has for processors too, behind the wrapper that it gets there; and fp16.
FUSED = {"optimizer": {"params": {"torch_adam": False}}}
AS_ON_A_GPU = {
    f"stage {stage}, {precision}": small_run(stage, precision, more=FUSED)
    for precision, stages in (("bf16", (0, 1, 2, 3)), ("fp16", (0, 2)), ("fp32", (0, 2)))
    for stage in stages
} | {
    "stage 2, two micro-batches": small_run(2, accumulation=2, more=FUSED),
    "stage 2, fp32 accumulation, two micro-batches": small_run(2, accumulation=2, grad_accum_dtype="fp32", more=FUSED),
    "stage 3, checkpointing": small_run(3, checkpointing=True, more=FUSED),
}


@pytest.mark.parametrize("name", LIVE)
def test_the_planner_agrees_with_live_ranks(two_ranks, name):
    run = LIVE[name]
    for measured in two_ranks.run(agreement.measure, run)[:1]:
        compared = compare(run, measured)
        for moment, (predicted, seen, error) in compared["states"].items():
            assert abs(error) <= 1e-4, (moment, predicted, seen)
        assert abs(compared["peak"][2]) <= agreement.PEAK_TOLERANCE, compared
        assert compared["sent"][0] == pytest.approx(compared["sent"][1], abs=0.02)


@pytest.mark.parametrize("name", AS_ON_A_GPU)
def test_the_planner_agrees_with_what_deepspeed_does_on_a_gpu(two_ranks, name):
    """The wrappers, dtypes and copies of FusedAdam and fp16, on processor ranks: all but the GPU's own allocator."""
    run = AS_ON_A_GPU[name]
    ranks = [compare(run, measured) for measured in two_ranks.run(rank_work.measured_with_fp16, run)]
    assert all(abs(error) <= 1e-4 for *_, error in ranks[0]["states"].values()), ranks[0]
    fuller = max(ranks, key=lambda each: each["peak"][1])  # stage 2's peak is planned for the last rank: step_phases
    assert abs(fuller["peak"][2]) <= agreement.PEAK_TOLERANCE, fuller


def test_the_planner_agrees_with_pytorchs_adam_as_it_works_on_a_gpu(two_ranks):
    """There it takes all tensors together, which a processor does where it is told to."""
    run = small_run(3, more={"optimizer": {"params": {"torch_adam": True, "foreach": True}}})
    measured = two_ranks.run(agreement.measure, run)[0]
    for places in measured["moments"].values():
        places["GPU"], places["host"] = places["host"], places["GPU"]
    assert abs(compare(run, measured, "cuda")["peak"][2]) <= 0.02


@pytest.mark.parametrize(("architecture", "stage"), [("qwen3", 3), ("mixtral", 1), ("phi3", 2)])
def test_the_states_of_another_architecture_are_known_to_the_byte(two_ranks, architecture, stage):
    run = small_run(stage, model=agreement.small_shapes()[architecture])
    compared = compare(run, two_ranks.run(agreement.measure, run)[0])
    assert all(predicted == measured for predicted, measured, _ in compared["states"].values())
    if run.shape.family.counted:
        assert abs(compared["peak"][2]) <= agreement.PEAK_TOLERANCE


def test_the_copies_of_the_fused_step_are_seen(two_ranks, monkeypatch):
    run = AS_ON_A_GPU["stage 0, bf16"]
    measured = two_ranks.run(rank_work.measured_with_fp16, run)[0]
    monkeypatch.setattr("labsupport.memory.model_states.flattened_gradient_bytes", lambda *_: 0)
    assert abs(compare(run, measured)["peak"][2]) > agreement.PEAK_TOLERANCE


def test_a_fault_in_the_planner_is_seen(two_ranks, monkeypatch):
    """Forget the master weights, and the comparison is no longer within its tolerance."""
    measured = two_ranks.run(agreement.measure, LIVE["stage 1"])[0]
    monkeypatch.setattr("labsupport.memory.model_states.master_bytes", lambda shares, settings: 0)
    *_, error = compare(LIVE["stage 1"], measured)["states"]["at rest"]
    assert abs(error) > agreement.STATE_TOLERANCE


def test_the_set_covers_what_it_promises_in_at_most_80_runs():
    found = runs()
    assert len(found) <= 80 and len({repr(run) for run in found}) == len(found)
    assert {run.world_size for run in found} == {1, 2, 4}
    assert len({run.model for run in found}) >= 3
    zero = [run.config["zero_optimization"] for run in found]
    assert {block["stage"] for block in zero} == {0, 1, 2, 3}
    devices = {block.get(key, {}).get("device") for block in zero for key in ("offload_optimizer", "offload_param")}
    assert devices == {None, "cpu", "nvme"}
    assert not any("fp16" in run.config for run in found), "most processors refuse fp16"
    assert any("fp16" in run.config for run in runs("cuda"))


def test_the_record_holds_every_run_and_the_planner_still_agrees_with_it():
    recorded = {repr(Run.from_dict(entry["cell"])): entry for entry in read_record("agreement")["measured"]["runs"]}
    assert len(recorded) == len(runs())
    peaks = []
    for run in runs():
        entry = recorded[repr(run)]
        assert run.as_dict() == entry["cell"]
        compared = compare(run, entry["measured"])
        assert all(abs(error) <= agreement.STATE_TOLERANCE for *_, error in compared["states"].values()), run
        peaks.append(abs(compared["peak"][2]) <= agreement.PEAK_TOLERANCE)
        if run.world_size > 1:
            assert compared["sent"][0] == pytest.approx(compared["sent"][1], rel=0.02), run
    assert sum(peaks) >= 0.9 * len(peaks)


@pytest.mark.parametrize("name", ["architectures", "adapters"])
def test_other_models_are_recorded_at_every_stage_and_their_states_are_known_to_the_byte(name):
    recorded = {repr(Run.from_dict(entry["cell"])): entry for entry in read_record(name)["measured"]["runs"]}
    asked = getattr(agreement, f"{name.removesuffix('s')}_runs")()
    assert set(recorded) == {repr(run) for run in asked} and {run.world_size for run in asked} == {2, 4}
    assert {run.config["zero_optimization"]["stage"] for run in asked} == {0, 1, 2, 3} and len(asked) >= 40
    for run in asked:
        compared = compare(run, recorded[repr(run)]["measured"])
        assert all(predicted == measured for predicted, measured, _ in compared["states"].values()), run
        assert abs(compared["peak"][2]) <= agreement.PEAK_TOLERANCE, run
        if not (run.activation_checkpointing and run.shape.adapter and run.config["zero_optimization"]["stage"] == 3):
            assert compared["sent"][0] == pytest.approx(compared["sent"][1], rel=0.02), run
