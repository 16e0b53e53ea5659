"""The step-time model against references of its own: arithmetic by hand, the memory planner, live ranks."""

import math
import random
import re

import pytest
import stage3_work

from labsupport.errors import ConfigError, LabError
from labsupport.memory.paper import model_state_bytes
from labsupport.memory.planner import plan
from labsupport.models import PRESETS, shape_named
from labsupport.step_time import nccl
from labsupport.step_time.collectives import COLLECTIVES, collective_seconds, fit_rate, ring_seconds, traffic
from labsupport.step_time.compute import LOGIT_BYTES, RECOMPUTED_SHARE, accumulation_seconds, compute_seconds
from labsupport.step_time.flops import flops_per_token
from labsupport.step_time.machines import cluster
from labsupport.step_time.model import TRUSTED_MESSAGES, StepTime, step_time
from labsupport.step_time.offload import offload_seconds
from labsupport.step_time.scaling import model_states_fit, stage3_break_even_tokens, strong_scaling, weak_scaling
from labsupport.step_time.transformer import GPT, Transformer

MODEL = GPT["7.5B"]
H100 = cluster("H100", "NDR")


def by_steps(collective, size, ranks, alpha, rate):
    """A ring, hop by hop."""
    seconds = 0.0
    for _ in range({"all_reduce": 2, "reduce_scatter": 1, "all_gather": 1}[collective]):
        for _ in range(ranks - 1):
            seconds += alpha + (size / ranks) / rate
    return seconds


@pytest.mark.parametrize("collective", COLLECTIVES)
@pytest.mark.parametrize("ranks", [1, 2, 7, 1024])
def test_a_collective_is_a_ring_hop_by_hop(collective, ranks):
    expected = by_steps(collective, 3e8, ranks, 5e-6, 1e11)
    assert collective_seconds(collective, 3e8, ranks, 5e-6, 1e11) == pytest.approx(expected)


@pytest.mark.parametrize("ranks", [2, 8, 1000])
def test_an_all_reduce_is_a_reduce_scatter_and_an_all_gather(ranks):
    whole, *halves = (collective_seconds(each, 1e9, ranks, 1e-5, 1e10) for each in COLLECTIVES)
    assert whole == pytest.approx(sum(halves))


def test_the_rate_of_a_known_ring_is_found_through_noise():
    noise = random.Random(0)
    seconds = {
        4**power: by_steps("all_reduce", 4**power, 4, 2e-4, 8e8) * noise.uniform(0.98, 1.02) for power in range(6, 14)
    }
    alpha, rate = fit_rate("all_reduce", 4, seconds)
    assert (alpha, rate) == (pytest.approx(2e-4, rel=0.05), pytest.approx(8e8, rel=0.05))


def test_times_without_a_rate_are_refused():
    with pytest.raises(LabError, match="do not grow with the message"):
        fit_rate("all_gather", 2, {1024: 1e-3, 2048: 1e-3, 4096: 1e-3})


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("steps", [1, 4])
def test_many_ranks_send_what_the_paper_counts(stage, steps):
    sent = traffic(MODEL, stage, steps, deepspeed_default=False, element_bytes=1)
    rates = dict.fromkeys(COLLECTIVES, (0.0, 1.0))  # no start, one byte a second: seconds are bytes
    ranks = 10**6
    paper = {0: 2, 1: 2, 2: steps + 1, 3: 3 * steps}[stage]  # times the parameters: Rajbhandari et al. 2020, section 7
    assert ring_seconds(sent, ranks, rates) == pytest.approx(paper * MODEL.parameters, rel=1e-5)


def test_deepspeeds_default_sends_half_as_much_again_at_stages_1_and_2():
    rates = dict.fromkeys(COLLECTIVES, (0.0, 1e9))
    for stage in (1, 2):
        default, paper = (ring_seconds(traffic(MODEL, stage, 1, each), 64, rates) for each in (True, False))
        assert default == pytest.approx(1.5 * paper)


def test_by_default_stage_3_gathers_again_only_what_is_beyond_the_live_parameters():
    """The planner's count of messages, made from every tensor, says the same of the volume."""
    rates = dict.fromkeys(COLLECTIVES, (0.0, 1.0))
    for preset in ("300m", "1.3b", "7b"):
        model = Transformer(PRESETS[preset].parameters, PRESETS[preset].layers, PRESETS[preset].hidden_size)
        modelled = ring_seconds(traffic(model, 3), 64, rates)
        planned = plan(preset, stage=3, world_size=64)
        assert modelled == pytest.approx(planned.sent_bytes, rel=0.01), preset


@pytest.mark.parametrize("prefetch", [50_000_000, 150_000])
def test_stage_3_sends_as_many_messages_as_deepspeed(prefetch, two_ranks):
    (first, _, later), (parameters, layers) = two_ranks.run(stage3_work.gatherings_of_a_step, "1m", prefetch)[0]
    large, small, _ = traffic(Transformer(parameters, layers, 0), 3, prefetch_elements=prefetch)
    assert small.messages == later[1]
    assert abs(large.messages - later[0]) <= (1 if later[0] > 1 else 0), "the model has no embedding of its own"
    assert first[0] > 2 * 4 * layers, "the first step records the order, and gathers one by one, twice"


@pytest.mark.parametrize(("name", "messages"), [("1.7B", 1), ("7.5B", 3), ("39.1B", 4), ("1008B", 4)])
def test_a_layer_takes_as_many_messages_as_the_page_says(name, messages):
    gathered = traffic(GPT[name], 3, deepspeed_default=False)[0]
    assert gathered.messages == 2 * messages * GPT[name].layers, "twice: forward and backward"


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_one_rank_sends_nothing(stage):
    assert step_time(MODEL, stage, H100, 1, 2048).communication_seconds == 0


def test_flops_are_six_or_eight_a_parameter_and_the_attention():
    model = Transformer(10**9, 10, 1000)
    assert flops_per_token(model, 0 + 1, recompute=False) == pytest.approx(6e9, rel=1e-4)
    assert flops_per_token(model, 1, recompute=True) == pytest.approx(8e9, rel=1e-4)
    # Narayanan et al. 2021, equation 3, without the logits: 96 s l h^2 (1 + s / 6 h) for one sequence of s tokens.
    layers, hidden, sequence = 96, 12288, 2048
    paper = 96 * sequence * layers * hidden**2 * (1 + sequence / (6 * hidden))
    blocks = Transformer(12 * layers * hidden**2, layers, hidden)
    assert sequence * flops_per_token(blocks, sequence, recompute=True) == pytest.approx(paper)


def test_the_shapes_have_the_parameters_that_their_names_say():
    for name, model in GPT.items():
        assert model.parameters / 1e9 == pytest.approx(float(name.rstrip("B")), rel=0.03), name


def test_what_is_expected_lies_between_the_bounds_and_parts_add_up():
    step = StepTime(4.0, 1.0, 3.0, 2.0, exposed_share=0.5)
    assert step.exposed_seconds == 10.0 and step.overlapped_seconds == 5.0
    assert step.expected_seconds == 4.0 + 1.0 + 2.0 + 0.5 * 3.0
    for stage in range(4):
        for gpus in (1, 8, 1024):
            step = step_time(MODEL, stage, H100, gpus, 4096, 2)
            assert 0 < step.overlapped_seconds <= step.expected_seconds <= step.exposed_seconds
            assert step.exposed_seconds == pytest.approx(sum(step[:4]))


def test_compute_is_products_attention_and_traffic_counted_by_hand():
    model, tokens, sequence = Transformer(10**9, 10, 1000, 30_000), 500, 4096
    machine = H100._replace(matrix_share=0.5, attention_share=0.25, hidden_bytes=100.0)
    products = 6 * 10**9 * tokens / (989e12 * 0.5)
    attention = 6 * sequence * 1000 * 10 * tokens / (989e12 * 0.25)  # half of 12 s h L: the mask
    moved = (100 * 10 * 1000 + LOGIT_BYTES * 30_000) * tokens / 3350e9
    kept = compute_seconds(model, tokens, machine, sequence, recompute=False)
    assert kept == pytest.approx(products + attention + moved)
    again = compute_seconds(model, tokens, machine, sequence) - kept
    hidden = 100 * 10 * 1000 * tokens / 3350e9
    assert again == pytest.approx(RECOMPUTED_SHARE / 3 * (products + hidden) + 2 / 7 * attention)


def test_a_narrow_model_reaches_less_of_the_peak():
    def reached(model):
        return flops_per_token(model, 2048) / compute_seconds(model, 1, H100, recompute=False)

    shares = [reached(Transformer(12 * 24 * hidden**2, 24, hidden)) for hidden in (768, 1536, 3072, 12288)]
    assert shares == sorted(shares) and shares[0] < 0.6 * shares[-1]


def test_a_sum_in_fp32_is_added_to_in_every_micro_batch():
    machine = H100._replace(memory_bytes_per_second=1.0)
    assert accumulation_seconds(1, 0, 8, machine, 1) == 0, "in 16 bits the first gradient is the sum"
    assert accumulation_seconds(1, 1, 8, machine, 4) == 3 * (2 + 2 + 2)
    assert accumulation_seconds(1, 0, 8, machine, 4, sum_bytes=4) == 4 * (2 + 4 + 4)
    assert accumulation_seconds(1, 2, 8, machine, 4, sum_bytes=4) == 4 * (2 + 4 + 4) / 8, "a rank's part"


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_gradients_in_fp32_are_twice_the_bytes_and_parameters_stay(stage):
    rates = dict.fromkeys(COLLECTIVES, (0.0, 1.0))
    plain, wide = (ring_seconds(traffic(MODEL, stage, 2, reduce_bytes=each), 64, rates) for each in (2, 4))
    reductions = [each for each in traffic(MODEL, stage, 2) if each.collective != "all_gather"]
    assert wide - plain == pytest.approx(ring_seconds(reductions, 64, rates))


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_more_gpus_send_longer_and_more_tokens_compute_longer(stage):
    messages = [step_time(MODEL, stage, H100, 2**power, 4096).communication_seconds for power in range(11)]
    assert messages == sorted(messages) and len(set(messages)) == len(messages)
    compute = [step_time(MODEL, stage, H100, 8, tokens).compute_seconds for tokens in (1024, 2048, 4096)]
    assert compute == pytest.approx([compute[0], 2 * compute[0], 4 * compute[0]])


def test_the_break_even_is_where_messages_and_compute_are_equal():
    tokens = stage3_break_even_tokens(MODEL, H100, 64)
    step = step_time(MODEL, 3, H100, 64, tokens, deepspeed_default=False)
    assert step.communication_seconds == pytest.approx(step.compute_seconds)


def test_the_break_even_comes_to_flops_over_bytes_whatever_the_size():
    flops = H100.flops_per_second * H100.matrix_share
    slow = H100._replace(outer_bytes_per_second=1.0, low_latency_protocols=False)  # starts do not count
    for name in ("1.7B", "1008B"):
        model = GPT[name]._replace(hidden_size=0, vocabulary=0)  # no attention, no traffic
        for recompute, share in ((False, 1), (True, 9 / 11)):
            tokens = stage3_break_even_tokens(model, slow, 8 * 10**6, recompute=recompute)
            assert tokens == pytest.approx(share * flops / nccl.bus_rate(slow, 8 * 10**6), rel=1e-4)


def test_offload_moves_gradients_down_and_parameters_up():
    machine = H100._replace(
        host_bytes_per_second=1e9, link_share=1.0, host_memory_bytes_per_second=math.inf,
        host_adam_parameters_per_second=math.inf,
    )  # fmt: skip
    seconds = {stage: [offload_seconds(1e9, machine, 1, steps, stage=stage) for steps in (1, 4)] for stage in (1, 2, 3)}
    assert seconds[1] == pytest.approx([6, 6]), "4 bytes down in fp32, 2 up: once a step"
    assert seconds[2] == pytest.approx([6, 6 + 4 * 2 + 3 * 2]), "the sums down in each micro-batch, up before the next"
    assert seconds[3] == pytest.approx([6 + 4, 6 + 4 * 4]), "down and up in every micro-batch"
    assert offload_seconds(1e9, machine, 1, offload_param=True) == pytest.approx(12), "parameters up twice, not once"
    assert offload_seconds(1e9, machine, 4, stage=1) == pytest.approx(1.5), "a rank moves its part"
    slow = machine._replace(nvme_bytes_per_second=24e9)
    assert offload_seconds(1e9, slow, 1, device="nvme") == pytest.approx(11), "12 bytes read and 12 written"
    cores = machine._replace(host_adam_parameters_per_second=1e9)
    assert offload_seconds(1e9, cores, 4, stage=1) == pytest.approx(1.5 + 0.25), "each rank has cores for its part"
    shared = cores._replace(host_memory_bytes_per_second=28e9)
    assert offload_seconds(1e9, shared, 4, stage=1) == pytest.approx(1.5 + 1), "and all share the memory"
    assert step_time(MODEL, 3, H100, 8, 2048, offload="cpu").optimizer_seconds == 0


def test_what_fits_is_the_planners_answer():
    for stage in range(4):
        for gpus in (1, 8, 64):
            states = model_state_bytes(MODEL.parameters, stage, gpus)
            assert model_states_fit(MODEL, stage, H100, gpus) == (states <= H100.memory_bytes)
    trillion = weak_scaling(GPT["1008B"], 3, H100, [64, 1024], 2048)
    assert [point.fits for point in trillion] == [False, True]


def test_strong_scaling_keeps_the_batch_and_stops_at_one_sequence():
    points = strong_scaling(MODEL, 3, H100, [2**power for power in range(12)], 2**20, 8192)
    assert {point.tokens for point in points} == {2**20}
    assert points[-1].world_size == 512, "2^20 tokens are 512 sequences of 2,048"
    compute = [point.step.compute_seconds for point in points]
    halved = [before / after for before, after in zip(compute, compute[1:], strict=False)]
    assert halved == pytest.approx([2] * len(halved), rel=0.02), "but for adding up the micro-batches"


def test_weak_scaling_keeps_a_gpus_work():
    points = weak_scaling(MODEL, 1, H100, [1, 8, 512], 4096)
    assert len({point.step.compute_seconds for point in points}) == 1
    assert [point.tokens for point in points] == [4096, 8 * 4096, 512 * 4096]


# What was not tested


@pytest.mark.parametrize(
    ("step", "sentence"),
    [
        (lambda: step_time(MODEL, 1, cluster("V100-32GB", "HDR"), 8, 16384), "no published step on this card"),
        (lambda: step_time(PRESETS["7b"], 3, H100, 64, 16384), "stage 3 over several nodes"),
        (lambda: step_time(MODEL, 1, H100, 1024, 16384), "at most 512 GPUs"),
        (lambda: step_time(MODEL, 3, H100, 8, 16384, offload="nvme"), "with NVMe"),
        (lambda: step_time(shape_named("mixtral-8x7b"), 3, H100, 8, 16384), "model of experts"),
        (lambda: step_time(MODEL, 3, H100, 8, 512), "the messages take .* of the compute's time"),
    ],
)  # fmt: skip
def test_what_lies_outside_says_so_in_one_sentence(step, sentence):
    said = step().outside
    assert said.startswith("Outside") and said.count(".") == 1
    assert re.search(sentence, said)


def test_what_lies_within_says_nothing():
    step = step_time(MODEL, 3, H100, 8, 16384)
    assert step.communication_seconds < TRUSTED_MESSAGES * step.compute_seconds and step.outside is None


# Bad input


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: step_time(MODEL, 4, H100, 8, 2048), "ZeRO stage is 4: choose 0, 1, 2 or 3"),
        (lambda: step_time(MODEL, 1, H100, 0, 2048), "world_size is 0: give a number of at least 1"),
        (lambda: step_time(MODEL, 1, H100, 8, math.nan), "micro_batch_tokens is nan"),
        (lambda: step_time(MODEL._replace(parameters=math.inf), 1, H100, 8, 1), "parameters is inf"),
        (lambda: step_time(MODEL, 1, H100, 8, 2048, 0), "gradient_accumulation_steps is 0"),
        (lambda: step_time(MODEL, 0, H100, 8, 2048, offload="cpu"), "offload is 'cpu' at stage 0"),
        (lambda: step_time(MODEL, 2, H100, 8, 2048, offload="nvme"), "offload is 'nvme' at stage 2"),
        (lambda: step_time(MODEL, 3, H100, 8, 2048, offload="disk"), "offload is 'disk': choose 'cpu' or 'nvme'"),
        (lambda: step_time(MODEL, 2, H100, 8, 99, offload="cpu", offload_param=True), "offload_param is on at stage 2"),
        (lambda: collective_seconds("gossip", 1, 2, 0, 1), "no collective 'gossip' here: choose one of all_reduce"),
        (lambda: cluster("H100", "NDR", matrix_share=1.5), "matrix_share is 1.5: give a share"),
        (lambda: cluster("H100", "NDR", speed=1), "A cluster has no 'speed'"),
        (lambda: cluster("H100", "NDR", 0), "gpus_per_node is 0"),
        (lambda: cluster("H10", "NDR"), "the nearest is 'H100'"),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence(call, sentence):
    with pytest.raises(ConfigError, match=sentence) as caught:
        call()
    assert "\n" not in str(caught.value)
