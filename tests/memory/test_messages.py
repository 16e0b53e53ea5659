"""What is predicted and what DeepSpeed's own log counts, on live ranks; and both against the paper."""

import re
import subprocess
import sys
import timeit
from types import SimpleNamespace

import communication_work
import pytest

from labsupport.errors import ConfigError, LabError
from labsupport.measure.collectives import measured_collectives
from labsupport.memory.messages import predicted_collectives, times_ddp, total_wire_bytes, wire_bytes
from labsupport.memory.paper import paper_elements
from labsupport.models import PRESETS
from labsupport.settings import Settings, read_settings

CONTROL_BYTES = 8  # at most, all-reduced: the gradient norm and the overflow flag, which no prediction lists

RELEASE = {"stage3_max_live_parameters": 0, "stage3_max_reuse_distance": 0}
# On "tiny" a layer's large tensors have 45,056 elements, the embedding 16,384.
SOME = {"stage3_max_live_parameters": 40_000, "stage3_max_reuse_distance": 40_000}
TWO_STEPS = {"gradient_accumulation_steps": 2}
LARGE_BUCKET = {"bucket_size": 1_000_000}
FP32_SUMS = {"grad_accum_dtype": "fp32"}

CASES = {
    "0, fp32": (0, {"precision": "fp32"}, {}),
    "0, bf16, 2 micro-batches": (0, TWO_STEPS, {}),
    "1": (1, {}, {}),
    "1, 2 micro-batches": (1, TWO_STEPS, {}),
    "1, fp32 sums": (1, FP32_SUMS, {}),
    "1, fp32 sums, offload": (1, FP32_SUMS | {"offload_optimizer": "cpu"}, {}),
    "1, to owners": (1, {}, {"use_multi_rank_bucket_allreduce": False}),
    "2, large bucket": (2, LARGE_BUCKET, {}),
    "2, fp32 sums, 2 micro-batches": (2, FP32_SUMS | TWO_STEPS, {}),
    "2, to owners, 2 micro-batches": (2, TWO_STEPS, {"use_multi_rank_bucket_allreduce": False}),
    "2, no reduce-scatter": (2, {}, {"use_multi_rank_bucket_allreduce": False, "reduce_scatter": False}),
    "3": (3, {}, {}),
    "3, fp32, large bucket": (3, {"precision": "fp32"} | LARGE_BUCKET, {}),
    "3, fp32 sums, 2 micro-batches": (3, FP32_SUMS | TWO_STEPS, {}),
    "3, no reduce-scatter": (3, {}, {"reduce_scatter": False}),
    "3, offload": (3, {"offload_optimizer": "cpu", "offload_param": "cpu"}, {}),
    "3, all released": (3, TWO_STEPS, RELEASE),
    "3, some released": (3, LARGE_BUCKET, SOME),
    "3, all small tensors too": (3, {}, RELEASE | {"stage3_param_persistence_threshold": 0}),
}


def assert_predicted(result, world_size, **model):
    settings = read_settings(result["config"], world_size)
    predicted = predicted_collectives(result["sizes"], settings, **model)
    measured = result["measured"]
    for name in predicted.keys() | measured.keys():
        extra = measured.get(name, 0) - predicted.get(name, 0)
        assert 0 <= extra <= (CONTROL_BYTES if name == "all_reduce" else 0), (name, predicted, measured)
    assert result["printed"] == ""


@pytest.mark.parametrize("case", CASES)
def test_prediction_is_what_deepspeed_sends(two_ranks, case):
    stage, options, changes = CASES[case]
    for result in two_ranks.run(communication_work.count_messages, "tiny", {"stage": stage, **options}, changes):
        assert_predicted(result, 2, tied_embedding=True)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_padding_is_sent_too(two_ranks, stage):
    options = {"stage": stage, **FP32_SUMS}
    result = two_ranks.run(
        communication_work.count_messages, "odd", options, {"stage3_param_persistence_threshold": 10}
    )[0]
    assert result["sizes"] == [35, 7, 21, 3]  # 66 elements: 68 in equal even shares, 18 + 4 + 11 + 2 one by one
    assert_predicted(result, 2)
    assert result["measured"]["all_gather"] == 2 * (34 if stage < 3 else 35)
    if stage == 1:
        assert result["measured"]["all_reduce"] == 2 * 68


@pytest.mark.parametrize("changes", [RELEASE, SOME, {}], ids=["all released", "some", "none"])
def test_recomputed_layers_gather_once_more(two_ranks, changes):
    result = two_ranks.run(communication_work.count_messages, "tiny", {"stage": 3}, changes, checkpointing=True)[0]
    assert_predicted(result, 2, tied_embedding=True, checkpointed_layers=2)


PAPER = {
    "0": (0, {}, {}),
    "1": (1, TWO_STEPS, {"use_multi_rank_bucket_allreduce": False}),
    "2": (2, TWO_STEPS, {"use_multi_rank_bucket_allreduce": False}),
    "3": (3, {}, RELEASE | {"stage3_param_persistence_threshold": 0}),
    "3, 2 micro-batches": (3, TWO_STEPS, RELEASE | {"stage3_param_persistence_threshold": 0}),
}


@pytest.mark.parametrize("case", PAPER)
def test_with_the_papers_settings_the_ranks_send_what_the_paper_says(two_ranks, case):
    stage, options, changes = PAPER[case]
    result = two_ranks.run(communication_work.count_messages, "layers", {"stage": stage, **options}, changes)[0]
    parameters, settings = sum(result["sizes"]), read_settings(result["config"], 2)
    paper = paper_elements(1, stage, settings.accumulation_steps) / paper_elements(1, 0)
    assert times_ddp(result["measured"], parameters, settings) == pytest.approx(paper, rel=0.01)
    assert times_ddp(predicted_collectives(result["sizes"], settings), parameters, settings) == pytest.approx(paper)


def rows_of_the_page(root):
    """{stage: what 0.19.8 sends with one and with four micro-batches}, as book/zero.md says, in multiples of Psi."""
    page = (root / "book" / "zero.md").read_text().split("### What DeepSpeed 0.19.8 really sends")[1]
    rows = re.findall(r"^\| (\d) \| (.*) \|$", page, re.MULTILINE)
    numbers = {
        int(stage): [int(each.strip(" $").removesuffix("\\Psi")) for each in cells.split("|")] for stage, cells in rows
    }
    assert {stage: cells[::2] for stage, cells in numbers.items()} == {
        stage: [paper_elements(1, stage, steps) for steps in (1, 4)] for stage in range(4)
    }
    return {stage: cells[1::2] for stage, cells in numbers.items()}


def test_what_deepspeed_sends_with_accumulation_stands_beside_the_paper(two_ranks, root):
    threshold = {"stage3_param_persistence_threshold": 0}
    sent = {}
    for stage in range(4):
        for steps in (1, 4):
            options = {"stage": stage, "gradient_accumulation_steps": steps}
            found = two_ranks.run(communication_work.count_messages, "layers", options, threshold)[0]
            settings = read_settings(found["config"], 2)
            times = 2 * times_ddp(found["measured"], sum(found["sizes"]), settings)
            assert times == pytest.approx(round(times), abs=0.01)
            sent.setdefault(stage, []).append(round(times))
    assert sent == rows_of_the_page(root)


def test_deepspeeds_default_sends_half_as_much_again_at_stages_1_and_2():
    for stage in (1, 2):
        settings = Settings(stage=stage, world_size=64)
        assert times_ddp(predicted_collectives([64_000_000], settings), 64_000_000, settings) == pytest.approx(1.5)
        settings = settings._replace(multi_rank_allreduce=False)
        assert times_ddp(predicted_collectives([64_000_000], settings), 64_000_000, settings) == pytest.approx(1.0)


def test_a_model_far_larger_than_the_limits_nears_the_paper_at_stage_3():
    settings = Settings(stage=3, world_size=64, precision="bf16", accumulation_dtype="bf16")
    shares = [times_ddp(predicted_collectives([size], settings), size, settings) for size in (10**8, 10**10, 10**12)]
    assert shares == pytest.approx([1.0, 1.45, 1.5], abs=0.005)
    sizes = PRESETS["7b"].tensor_sizes
    named, number = (
        times_ddp(predicted_collectives(known, settings), sum(sizes), settings) for known in (sizes, [sum(sizes)])
    )
    assert named == pytest.approx(number, rel=0.01)
    assert predicted_collectives([50], settings) == {"all_gather": 2, "reduce_scatter": 128}


def test_one_rank_sends_nothing():
    for stage in range(4):
        settings = Settings(stage=stage, world_size=1)
        collectives = predicted_collectives([100, 11], settings)
        assert "all_gather" not in collectives and sum(collectives.values()) == 4 * 111
        assert total_wire_bytes(collectives, 1) == times_ddp(collectives, 111, settings) == 0


def test_wire_bytes_of_a_ring():
    names = ("all_reduce", "reduce_scatter_tensor", "all_gather_into_tensor", "reduce", "broadcast")
    assert [wire_bytes(name, 120, 4) for name in names] == [180, 90, 360, 90, 90]
    # An all-reduce is a reduce-scatter and an all-gather of the parts.
    assert wire_bytes("all_reduce", 120, 4) == total_wire_bytes({"reduce_scatter": 120, "all_gather": 30}, 4)


def test_paper_elements():
    assert [paper_elements(1, stage) for stage in range(4)] == [2, 2, 2, 3]
    assert [paper_elements(1, stage, 4) for stage in range(4)] == [2, 2, 5, 12]


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: wire_bytes("telepathy", 1, 2), "telepathy"),
        (lambda: wire_bytes("all_reduce", 1, 0), "world_size is 0"),
        (lambda: paper_elements(1, 4), "ZeRO stage is 4"),
        (lambda: predicted_collectives([], Settings()), "at least one tensor"),
        (lambda: predicted_collectives([3, 0], Settings()), "at least one element"),
    ],
)
def test_bad_input_is_one_sentence(call, says):
    with pytest.raises(ConfigError, match=says) as caught:
        call()
    assert str(caught.value).count(".") <= 2 and "\n" not in str(caught.value)


def test_the_logger_is_put_back_whatever_the_step_does():
    from deepspeed.comm import comm

    engine, before = SimpleNamespace(global_steps=0, gradient_accumulation_steps=lambda: 2), comm.comms_logger
    with pytest.raises(LabError, match="made 0 optimizer steps: train exactly one, which takes 2 micro-batches"):
        measured_collectives(engine, lambda: None)
    with pytest.raises(ZeroDivisionError):
        measured_collectives(engine, lambda: 1 / 0)
    assert comm.comms_logger is before


def test_a_page_can_draw_a_thousand_predictions():
    sizes = PRESETS["300m"].tensor_sizes
    settings = Settings(stage=3, world_size=64, max_reuse_distance=0, persistence_threshold=0)
    options = {"checkpointed_layers": 24, "tied_embedding": True}
    seconds = min(timeit.repeat(lambda: predicted_collectives(sizes, settings, **options), number=1, repeat=50))
    assert len(sizes) == 292 and seconds < 1e-3  # a fifth of it on an idle core


def test_import_loads_no_torch():
    code = "import labsupport.memory.messages, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("stage", range(4))
def test_the_messages_of_the_phases_add_up_to_those_of_a_step(two_ranks, stage):
    by_phase, together, sizes = two_ranks.run(communication_work.count_by_phase, stage)[0]
    assert list(by_phase) == ["forward", "backward", "step"]
    assert bool(by_phase["forward"]) == (stage == 3)
    assert bool(by_phase["step"].get("all_gather")) == (stage > 0)  # at stage 3 what stays whole, gathered anew
    reduced = "reduce_scatter" if stage == 3 else "all_reduce"
    assert by_phase["backward"][reduced] == pytest.approx(2 * sum(sizes), rel=0.05)
    for name, size in together.items():
        added = sum(messages.get(name, 0) for messages in by_phase.values())
        assert added <= size and size - added <= max(0.05 * size, 1000), name
