"""The planner's figures: what is drawn is what was computed, and what is predicted is hatched."""

import pytest

from labsupport.memory import model_state_bytes
from labsupport.memory.figures import (
    across_cuts,
    card_and_host,
    flat_row,
    kept_for_a_piece,
    times_by_kind,
    times_saved,
    traffic,
)
from labsupport.palette import ROLE_COLOURS
from labsupport.settings import read_settings

ROW = {"a": 6, "b": 4, "c": 10, "d": 4}


def owners(sizes, piece):
    """Whose piece each element of each tensor lies in, element by element."""
    names = [name for name, size in sizes.items() for _ in range(size)]
    return [(name, place // piece) for place, name in enumerate(names)]


@pytest.mark.parametrize("piece", [5, 6, 8, 10, 12, 24])
def test_what_lies_across_a_cut_is_what_two_ranks_have_a_part_of(piece):
    pairs = set(owners(ROW, piece))
    assert across_cuts(ROW, piece) == [name for name in ROW if sum(owner == name for owner, _ in pairs) > 1]
    for rank in range(-(-24 // piece)):
        touched = {name for name, owner in pairs if owner == rank}
        assert kept_for_a_piece(ROW, piece, rank) == sum(ROW[name] for name in touched)


def test_the_flat_row_draws_every_element_once_and_its_padding():
    bars = flat_row(ROW, 7, 4).figure.data
    drawn = {bar.name: round(sum(bar.x) * 1000) for bar in bars}
    assert drawn["tensor in one piece"] + drawn["tensor across a cut"] == 24
    assert drawn["padding"] == 4 and drawn["a rank's piece"] == 28
    assert "across a cut: b, c, d" in flat_row(ROW, 7, 4).alt


def test_the_curves_are_the_formula_and_the_readers_numbers_stand_on_them():
    figure = times_saved((1, 4, 64), {0: 16, 1: 7, 2: None, 3: 4}).figure
    lines = {trace.name: trace for trace in figure.data}
    for stage in (1, 2, 3):
        line = lines[f"stage {stage}, by the formula"]
        assert list(line.y) == [16 / model_state_bytes(1, stage, count) for count in (1, 4, 64)] and line.line.dash
    assert list(lines["yours, on 4 ranks"].y) == [16 / 7, 4]


def test_reduced_and_gathered_add_up_to_what_is_sent():
    settings = read_settings({"train_micro_batch_size_per_gpu": 1, "bf16": {"enabled": True}}, 4)
    kinds = times_by_kind({"all_reduce": 200, "all_gather": 50}, 100, settings)
    assert kinds == {"reduce": 1.0, "gather": 0.5}
    figure = traffic({"measured": {1: kinds}, "4 ranks": {1: kinds}}, {"measured": {1: 1}, "4 ranks": {1: 1}}, "title")
    reduce, gather, paper = figure.figure.data
    assert list(reduce.y) == [1, 1] and list(gather.y) == [0.5, 0.5] and list(paper.y) == [1, 1]
    assert list(reduce.marker.pattern.shape) == ["", "/"]


def test_card_and_host_are_two_columns_and_what_was_measured_in_one_memory_is_one():
    predicted = {"plain": {"GPU": {"parameters": 3}, "host": {}, "pinned host": {"gradients": 2}}}
    measured = {"plain": {"GPU": {}, "host": {"parameters": 3, "gradients": 2}}}
    bars = {bar.name: bar for bar in card_and_host(predicted, "title", measured, unit="MiB").figure.data}
    columns, parameters = bars["parameters"].x[1], bars["parameters"]
    assert list(columns) == ["card", "host", "measured"]
    assert [round(height * 2**20) for height in parameters.y] == [3, 0, 3]
    assert [round(height * 2**20) for height in bars["gradients"].y] == [0, 2, 2]
    assert list(parameters.marker.pattern.shape) == ["/", "/", ""]
    assert parameters.marker.color == ROLE_COLOURS["parameters"]
    on_gpu = {"plain": {"GPU": {"parameters": 3}, "pinned host": {"gradients": 2}}}
    bars = card_and_host(predicted, "title", on_gpu).figure.data
    assert list(bars[0].x[1]) == ["card", "host", "card,<br>measured", "host,<br>measured"]
