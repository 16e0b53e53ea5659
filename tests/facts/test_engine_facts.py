"""What DeepSpeed 0.19.8's engine does, on two live ranks: the facts that the pages and labs state, for every stage.

Where the right statement depends on the stage, the precision or the accumulation, all of them run.
"""

import fact_work
import pytest

STAGES = (0, 1, 2, 3)


@pytest.fixture
def on_ranks(two_ranks):
    """Run a function of fact_work on both ranks; return rank 0's answer, which is the other's too."""

    def run(function, *given):
        first, second = two_ranks.run(function, *given)
        assert first == second
        return first

    return run


def test_auto_outside_the_trainer_is_the_default_without_a_word(on_ranks):
    precision, bucket, stage = on_ranks(fact_work.auto_outside_the_trainer)
    assert (precision, bucket, stage) == ("torch.float32", 500_000_000, 0)


def test_without_a_precision_block_a_bf16_model_stays_bf16_and_the_engine_says_fp32(on_ranks):
    for stage, (weights, said, updated) in on_ranks(fact_work.no_precision_block, STAGES).items():
        assert (weights, said) == ("torch.bfloat16", "torch.float32")
        assert updated == ("torch.bfloat16" if stage == 0 else "torch.float32"), "stage 0 has no masters"


def test_a_mistyped_type_is_told_when_the_engine_is_made(on_ranks):
    optimizer, scheduler = on_ranks(fact_work.told_late)
    assert "AdamWW is not a supported DeepSpeed Optimizer" in optimizer
    assert scheduler == "AssertionError: DeepSpeed does not recognize LR scheduler WarmupL"


def test_the_engine_does_nothing_with_the_block_for_activation_checkpointing(on_ranks):
    assert on_ranks(fact_work.checkpointing_after_initialize) is False


def test_an_infinite_gradient_is_applied_at_stage_0_in_fp32_and_skipped_elsewhere(on_ranks):
    for (stage, precision), (applied, finite) in on_ranks(
        fact_work.infinite_gradient, STAGES, ("fp32", "bf16")
    ).items():
        at_once = stage == 0 and precision == "fp32"
        assert (applied, finite) == (at_once, not at_once), (stage, precision)


def test_fp16_ends_the_run_when_the_loss_scale_is_at_its_minimum(on_ranks):
    _, error = on_ranks(fact_work.endless_overflow)
    assert error.startswith("Exception: Current loss scale already at minimum")


def test_the_gradient_norm_is_missing_at_stage_0_in_fp32_alone(on_ranks):
    norms = on_ranks(fact_work.gradient_norms, STAGES, ("fp32", "bf16"))
    assert {case for case, there in norms.items() if not there} == {(0, "fp32")}


def test_initialize_sends_parameters_to_all_ranks_and_not_buffers(two_ranks):
    first, second = two_ranks.run(fact_work.buffers_after_initialize, STAGES)
    for stage in STAGES:
        assert first[stage][0] == second[stage][0] and first[stage][1] != second[stage][1]


def test_stage_3_alone_needs_no_optimizer(on_ranks):
    made = on_ranks(fact_work.without_optimizer, STAGES)
    assert made[1] == "zero stage 1 requires an optimizer" and made[2] == "zero stage 2 requires an optimizer"
    assert (made[0], made[3]) == ("NoneType", "DeepSpeedZeRoOffload")


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_direct_backward_works_from_stage_1_on_and_in_fp16_with_the_scale(precision, on_ranks):
    for stage, (plain, scaled) in on_ranks(fact_work.direct_backward, STAGES, precision).items():
        if stage == 0:
            assert "Direct calls to tensor.backward() are not supported" in plain and "Direct calls" in scaled
        else:
            assert scaled == "works"
            assert ("Loss scaling is required" in plain) if precision == "fp16" else plain == "works"


def test_a_window_is_divided_once_by_either_call_and_twice_by_a_loop_that_divides_too(on_ranks):
    for (_, call), moved in on_ranks(fact_work.moved_by_a_window, (1, 2, 3)).items():
        assert moved == (1.0 if "/ 2" in call else 2.0), "the mean of 1 and 3"


def test_which_pairs_of_stages_load(two_ranks, tmp_path):
    for pairs in two_ranks.run(fact_work.pairs_of_stages, str(tmp_path)):
        loads = {pair for pair, said in pairs.items() if said == "loads"}
        assert loads == {(stage, stage) for stage in STAGES} | {(1, 2), (2, 1)}
        for (before, after), said in pairs.items():
            if (before, after) in loads:
                continue
            if 3 in (before, after):
                assert said == "AssertionError: "
            elif before == 0:
                assert said.startswith("FileNotFoundError") and "optim_states.pt" in said
            else:
                assert said == "AttributeError: 'NoneType' object has no attribute 'copy'"


def test_stage_3_ignores_the_tag_without_optimizer_states(on_ranks, tmp_path):
    """DeepSpeed issue 8499."""
    steps, without_latest = on_ranks(fact_work.weights_of_a_tag, str(tmp_path))
    assert steps == {1: [1], 2: [1], 3: [2]}, "step 1 was asked for, and `latest` names step 2"
    assert without_latest.startswith("ValueError: Unable to find 'latest' file")


def test_what_offload_keeps_on_the_host_and_how_often_it_copies(on_ranks):
    elements = fact_work.SIZE**2
    for (stage, steps), found in on_ranks(fact_work.host_bytes_of_offload, (1, 2), (1, 2, 4)).items():
        summed = stage == 2 and steps > 1
        assert found["returning"] == (2 * elements // 2, True), "2 bytes for each parameter of a rank's half"
        assert found["summed"] == (2 * elements if summed else 0), "the tensor that is cut, whole"
        assert (found["sums"], found["fp32"]) == (steps if summed else 0, 1)


def test_the_bucket_is_there_with_contiguous_gradients_alone(on_ranks):
    blocks = {"default": {}, "overlap": {"overlap_comm": True}, "not contiguous": {"contiguous_gradients": False}}
    held = on_ranks(fact_work.buckets, (1, 2, 3), blocks)
    for stage in (1, 2, 3):
        assert held[stage, "default"] == 4 * 1000, "reduce_bucket_size elements in fp32"
        assert held[stage, "overlap"] == (8000 if stage < 3 else 4000)
        assert held[stage, "not contiguous"] == 0


def test_the_updated_parameters_are_gathered_once_a_parameter_group(on_ranks):
    assert on_ranks(fact_work.gathers_after_the_step, (1, 2), (1, 2)) == {(1, 1): 1, (1, 2): 2, (2, 1): 1, (2, 2): 2}


def test_offload_takes_deepspeeds_cpu_adam_of_ones_own_and_no_other(on_ranks):
    for (_, name), said in on_ranks(fact_work.client_optimizers_with_offload, (1, 2, 3)).items():
        assert (said == "accepted") if name == "DeepSpeedCPUAdam" else "client provided optimizer" in said


def test_torch_adam_steps_with_torch_also_under_offload(on_ranks):
    blocks = {"cpu": {"offload_optimizer": {"device": "cpu"}}, "no device": {"offload_optimizer": {}}}
    assert set(on_ranks(fact_work.adam_under, (1, 2, 3), blocks, True).values()) == {"AdamW"}
    chosen = on_ranks(fact_work.adam_under, (1, 2, 3), blocks, False)
    for stage in (1, 2, 3):
        assert chosen[stage, "cpu"] == "DeepSpeedCPUAdam" != chosen[stage, "no device"]


def test_steps_per_print_prints_with_a_log_level_of_info_alone(two_ranks):
    assert two_ranks.run(fact_work.printed_by_steps, None) == ["", ""]
    first, second = two_ranks.run(fact_work.printed_by_steps, "info")
    assert "step=1, skipped=0, lr=" in first and "step=2, " in first and "step=1, " not in second
