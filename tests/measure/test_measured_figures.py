"""The figures of what was measured: every number given is drawn, and an arrow stands where a value was copied."""

from labsupport.measure.figures import edits_of_a_weight, formula_and_moments, messages_by_phase, step_in_bytes
from labsupport.measure.timeline import Step


def test_a_prediction_stands_hatched_before_what_was_measured():
    formula, *moments = formula_and_moments(
        {"a": 2.0}, {"at rest": {"a": 1.0}, "later": {"a": 2.0}}, "title"
    ).figure.data
    assert formula.marker.pattern.shape and not any(bar.marker.pattern.shape for bar in moments)
    assert [bar.y[0] for bar in (formula, *moments)] == [2, 1, 2]


def test_the_title_names_the_phase_of_each_peak():
    line = [("forward", {"activations": 1}), ("backward", {"activations": 3}), ("step", {"other": 2})]
    watched = {"stage 0": Step(line, "cpu"), "stage 1": Step(line[::2], "cpu")}
    title = step_in_bytes(watched).figure.layout.title.text
    assert title == "Most is held in the backward pass at stage 0; in the optimizer's step at stage 1"


def test_each_stage_has_a_lane_with_its_messages():
    silent = {"forward": {}, "backward": {}, "step": {}}
    sent = {0: silent | {"backward": {"all_reduce": 2**20}}, 1: silent | {"step": {"all_gather": 2**19}}}
    figure = messages_by_phase(sent).figure
    drawn = {(bar.name, bar.yaxis, phase): y for bar in figure.data for phase, y in zip(bar.x, bar.y, strict=True) if y}
    assert drawn == {("all_reduce", "y", "backward"): 1.0, ("all_gather", "y2", "step"): 0.5}
    assert figure.layout.title.text.endswith("in the backward pass 0; in the optimizer's step 1")


def test_an_arrow_stands_where_a_copy_took_over_a_value():
    lost = {"gathered whole": [None, 7, None, None], "shard": [0, None, 0, 0], "master, fp32": [0, None, 0, 0]}
    kept = {"gathered whole": [None] * 4, "shard": [0, None, 0, 7], "master, fp32": [0, None, 7, 7]}
    figure = edits_of_a_weight({"lost": lost, "kept": kept}, 7).figure
    arrows = [((mark.ax, mark.ay), (mark.x, mark.y), mark.xref) for mark in figure.layout.annotations if mark.showarrow]
    steps = ((2, "master, fp32"), (3, "shard"))
    assert arrows == [(*steps, "x"), ((1, "master, fp32"), (2, "master, fp32"), "x2"), (*steps, "x2")]
    assert figure.layout.title.text == "After a step 7 is left by: kept"
