"""The figures: what was given is drawn, said in words, and predicted never looks measured."""

import json
import re

import pytest
from conftest import ROOT

from labsupport.palette import ROLE_COLOURS, contrast
from labsupport.plots import (
    EDGE,
    MEASURED_COLOUR,
    MEASURED_COLOURS,
    PREDICTED_COLOUR,
    bytes_by_role,
    live_bytes,
    loss_curves,
    predicted_and_measured,
    roles_side_by_side,
)


def test_predicted_and_measured_differ_in_colour_and_pattern():
    figure = predicted_and_measured({"a": 2**20}, {"a": 2**21}, "title", "alt").figure
    predicted, measured = figure.data
    assert (list(predicted.y), list(measured.y)) == ([1.0], [2.0])
    assert predicted.marker.color == PREDICTED_COLOUR != measured.marker.color == MEASURED_COLOUR
    assert predicted.marker.pattern.shape and not measured.marker.pattern.shape
    assert PREDICTED_COLOUR not in MEASURED_COLOURS


def test_every_byte_given_is_drawn():
    held = {"stage 0": {"parameters": 2**20, "other": 3 * 2**20}, "stage 1": {"parameters": 2**19}}
    figure = bytes_by_role(held, "title", "alt").figure
    assert sum(sum(bar.y) for bar in figure.data) == 4.5
    assert figure.layout.yaxis.title.text == "MiB per rank"


def test_the_page_form_carries_the_data_and_the_words():
    alt = 'losses of "two" runs </figure> & more'
    bundle = loss_curves({"one": [3.0, 2.0]}, "falls </script>", alt)._repr_mimebundle_()
    page = bundle["text/html"]
    data = json.loads(re.search(r'<script type="application/json">(.*?)</script>', page)[1])
    assert data["data"][0]["x"] == [1, 2] and data["data"][0]["y"] == [3.0, 2.0]
    assert data["layout"]["title"]["text"] == "falls </script>"
    assert "&lt;/figure&gt;" in page and page.count("</figure>") == 1
    assert alt in bundle["text/plain"]
    assert "application/vnd.plotly.v1+json" in bundle


def test_stacked_predictions_are_hatched_in_the_colours_of_the_measurements():
    held = {"stage 0": {"parameters": 2**20, "activations": 2**21, "gradients": 0}}
    bars = roles_side_by_side(held, held, "title", "alt").figure.data
    predicted, measured = ([bar for bar in bars if bar.x[1][0] == name] for name in ("predicted", "measured"))
    assert sum(sum(bar.y) for bar in predicted) == sum(sum(bar.y) for bar in measured) == 3
    assert [bar.name for bar in predicted] == [bar.name for bar in measured] == ["parameters", "activations"]
    assert all(bar.marker.pattern.shape for bar in predicted) and not any(bar.marker.pattern.shape for bar in measured)
    for each in (predicted, measured):
        assert [bar.marker.color for bar in each] == [ROLE_COLOURS["parameters"], ROLE_COLOURS["activations"]]


@pytest.mark.parametrize("ground", ["#ffffff", "#121212"], ids=["light", "dark"])
def test_the_edge_of_a_bar_shows_on_the_ground(ground):
    bar = bytes_by_role({"a": {"activations": 1}}, "title", "alt").figure.layout.template.data.bar[0]
    assert bar.marker.line.color == EDGE and bar.marker.line.width >= 1
    assert contrast(EDGE, ground) >= 3
    assert round(contrast("#000000", "#ffffff")) == 21 and contrast("#777777", "#777777") == 1


def test_the_picture_of_the_zero_page_has_the_colours_of_the_roles():
    svg = (ROOT / "book" / "_static" / "who-holds-what.svg").read_text()
    roles = ("parameters", "gradients", "optimizer states")
    assert set(re.findall(r'fill="(#\w+)"', svg)) == {ROLE_COLOURS[role] for role in roles}


def test_a_timeline_keeps_every_moment_in_its_phase():
    line = [
        ("forward", {"activations": 2**20}),
        ("forward", {"activations": 2**21}),
        ("backward", {"activations": 2**20}),
    ]
    figure = live_bytes({"stage 0": line, "stage 3": line[:2]}, "title", "alt").figure
    first, second = figure.data
    assert list(first.x) == [0, 0.5, 1, 2] and list(first.y) == [1, 2, 1, 1]
    assert list(figure.layout.xaxis.ticktext) == ["forward", "backward"]
    assert list(second.y) == [1, 2, 2] and second.showlegend is False
