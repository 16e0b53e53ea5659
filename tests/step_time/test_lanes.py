"""A step on three lanes moves what host_link counts, computes every token, and waits for what it needs."""

import pytest

from labsupport.errors import ConfigError
from labsupport.memory.host_link import host_link_bytes
from labsupport.step_time.figures import offload_steps
from labsupport.step_time.lanes import Machine, offload_lanes

MACHINE = Machine(flops=150e12, link_bytes=30e9, host_memory_bytes=90e9)
P = 7e9


@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize("micro_batches", [1, 2, 4])
def test_each_lane_does_its_work_and_no_two_pieces_of_a_lane_at_once(stage, micro_batches):
    step = offload_lanes(P, 4096, micro_batches, MACHINE, stage)
    assert step.busy_seconds("GPU") == pytest.approx(6 * P * 4096 * micro_batches / MACHINE.flops)
    moved = step.busy_seconds("link") * MACHINE.link_bytes / P
    assert moved == pytest.approx(host_link_bytes(stage, micro_batches))
    for lane in ("GPU", "link", "CPU Adam"):
        pieces = [piece for piece in step.pieces if piece.lane == lane]
        assert all(first.end <= second.start + 1e-9 for first, second in zip(pieces, pieces[1:], strict=False))


@pytest.mark.parametrize("stage", [1, 2])
def test_adam_waits_for_all_gradients_and_the_parameters_for_adam(stage):
    step = offload_lanes(P, 4096, 4, MACHINE, stage)
    (adam,) = (piece for piece in step.pieces if piece.work == "Adam")
    before = [piece.end for piece in step.pieces if piece.work in ("backward", "gradients down", "sum up")]
    (up,) = (piece for piece in step.pieces if piece.work == "parameters up")
    assert adam.start == max(before) and up.start == adam.end == pytest.approx(step.seconds - 2 * P / 30e9)


def test_more_tokens_and_micro_batches_make_the_gpu_wait_less():
    waits = [offload_lanes(P, tokens, 1, MACHINE).waiting for tokens in (1000, 4000, 64000)]
    assert waits == sorted(waits, reverse=True)
    assert offload_lanes(P, 4096, 4, MACHINE, 1).waiting < offload_lanes(P, 4096, 4, MACHINE, 2).waiting < waits[1]


def test_without_a_link_to_wait_for_it_is_compute_and_adam():
    step = offload_lanes(P, 4096, 1, MACHINE._replace(link_bytes=1e30))
    assert step.seconds == pytest.approx(6 * P * 4096 / 150e12 + 28 * P / 90e9)


def test_stage_3_is_refused():
    with pytest.raises(ConfigError, match="stages 1 and 2"):
        offload_lanes(P, 4096, 1, MACHINE, stage=3)


def test_the_figure_draws_every_second_of_every_lane_hatched():
    step = offload_lanes(P, 4096, 4, MACHINE)
    figure = offload_steps({"four": step})
    drawn = sum(sum(bar.x) for bar in figure.figure.data)
    assert drawn == pytest.approx(sum(step.busy_seconds(lane) for lane in ("GPU", "link", "CPU Adam")))
    assert all(bar.marker.pattern.shape for bar in figure.figure.data) and "not measured" in figure.alt
