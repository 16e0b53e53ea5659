"""The course's figures: data in, figure out, one theme. A role has one hue; predicted is hatched, measured is solid.

In JupyterLab a figure is Plotly's own; on the book's pages `book/_static/figures.js` draws the same data, with
one copy of the library for the whole book. The caption is the alternative text, for every reader.
"""

import html
import itertools
import json
import re

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from labsupport.palette import ROLE_COLOURS

MEASURED_COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"]
PREDICTED_COLOUR = "#8C6BB1"
MEASURED_COLOUR = "#0072B2"
HATCHED = {"shape": "/"}  # how a predicted bar is told from a measured one of the same hue
# The theme: greys that show on light and on dark ground. On the book's pages figures.js puts the page's own there.
TEXT, EDGE, GRID = "#757575", "#7F7F7F", "rgba(127,127,127,0.3)"
AXIS = {"gridcolor": GRID, "linecolor": EDGE, "zerolinecolor": EDGE, "automargin": True, "title": {"standoff": 15}}
THEME = {
    "layout": {
        "colorway": MEASURED_COLOURS,
        "font": {"color": TEXT},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "xaxis": AXIS,
        "yaxis": AXIS,
    },
    # A hatched bar is filled too: its hatching contrasts with the fill, which may be as dark as the ground.
    "data": {"bar": [{"marker": {"line": {"color": EDGE, "width": 1}, "pattern": {"fillmode": "overlay"}}}]},
}
# The tools of a figure: none that sends the chart to Plotly's own site.
CONFIG = {"displaylogo": False, "modeBarButtonsToRemove": ["select2d", "lasso2d", "sendChartToCloud"]}


class LabFigure:
    """A Plotly figure with alternative text: `figure` is Plotly's, `alt` says in words what it shows."""

    def __init__(self, figure, alt):
        self.figure, self.alt = figure, alt

    def _repr_mimebundle_(self, **_):
        drawing = json.loads(self.figure.to_json())
        data = {"data": drawing["data"], "layout": drawing["layout"], "config": CONFIG}
        text = json.dumps(data).replace("</", "<\\/")
        title = re.sub(r"<[^>]+>", " ", self.figure.layout.title.text)
        page = (
            f'<figure class="lab-figure"><p class="lab-figure-title">{html.escape(title)}</p>'
            f'<div class="lab-figure-plot" style="height: {self.figure.layout.height}px"></div>'
            f'<script type="application/json">{text}</script>'
            f"<figcaption>{html.escape(self.alt)}</figcaption></figure>"
        )
        return {
            "application/vnd.plotly.v1+json": data,
            "text/html": page,
            "text/plain": f"Figure: {self.alt}",
        }


def loss_curves(losses, title, alt, x_title="micro-batch"):
    """Return a figure with one line a run. losses: {name of the run: [loss in nats a step]}."""
    figure = empty_figure(title, x_title, "loss, nats per byte")
    for (name, values), colour in zip(losses.items(), _endless(MEASURED_COLOURS), strict=False):
        steps = list(range(1, len(values) + 1))
        figure.add_scatter(x=steps, y=values, name=name, mode="lines", line={"color": colour})
    return LabFigure(figure, alt)


def bytes_by_role(held, title, alt):
    """Return stacked bars of MiB by role. held: {label of the bar: {role: bytes}}, as the ledger counts them."""
    figure = empty_figure(title, "", "MiB per rank")
    for role in present_roles(held.values()):
        heights = [parts.get(role, 0) / 2**20 for parts in held.values()]
        figure.add_bar(x=list(held), y=heights, name=role, marker={"color": ROLE_COLOURS[role]})
    figure.update_layout(barmode="stack")
    return LabFigure(figure, alt)


def predicted_and_measured(
    predicted, measured, title, alt, y_title="MiB per rank", scale=2**20, predicted_name="predicted"
):
    """Return paired bars. predicted, measured: {label: number}, the same labels; shown divided by `scale`."""
    figure = empty_figure(title, "", y_title)
    labels = list(measured)
    for name, numbers, colour in (
        (predicted_name, predicted, PREDICTED_COLOUR),
        ("measured", measured, MEASURED_COLOUR),
    ):
        pattern = HATCHED if name == predicted_name else {}
        heights = [numbers[label] / scale for label in labels]
        figure.add_bar(x=labels, y=heights, name=name, marker={"color": colour, "pattern": pattern})
    figure.update_layout(barmode="group")
    return LabFigure(figure, alt)


UNITS = {"MiB": 2**20, "GiB": 2**30, "GB": 10**9}


def roles_side_by_side(predicted, measured, title, alt, unit="MiB"):
    """Return two stacked bars by role for each label. predicted, measured: {label: {role: bytes}}; unit: of UNITS."""
    figure = empty_figure(title, "", f"{unit} per rank")
    for name, held, pattern in (("predicted", predicted, HATCHED), ("measured", measured, {})):
        for role in present_roles([*predicted.values(), *measured.values()]):
            figure.add_bar(
                x=[list(held), [name] * len(held)],
                y=[parts.get(role, 0) / UNITS[unit] for parts in held.values()],
                name=role,
                showlegend=name == "measured",
                legendgroup=role,
                marker={"color": ROLE_COLOURS[role], "pattern": pattern},
                hovertemplate=f"{name}, {role}: %{{y:.2f}} {unit}<extra></extra>",
            )
    figure.update_layout(barmode="relative", height=500)
    return LabFigure(figure, alt)


def live_bytes(steps, title, alt):
    """Return the live bytes through one step as stacked areas, a panel a run, every phase equally wide.

    steps: {label: timeline}, a timeline being [(phase, {role: bytes})] as labsupport.measure.timeline's Step has it.
    """
    figure = make_subplots(
        rows=len(steps), cols=1, shared_yaxes="all", vertical_spacing=0.09, subplot_titles=list(steps)
    )
    roles = present_roles(held for timeline in steps.values() for _, held in timeline)
    for row, timeline in enumerate(steps.values(), 1):
        places, starts = _places_in_phases([phase for phase, _ in timeline])
        held_at = [held for _, held in timeline] + [timeline[-1][1]]  # the last moment too lasts until the end
        for role in roles:
            figure.add_scatter(
                x=[*places, len(starts)],
                y=[held.get(role, 0) / 2**20 for held in held_at],
                name=role,
                legendgroup=role,
                showlegend=row == 1,
                stackgroup=str(row),
                mode="lines",
                line={"width": 1, "color": EDGE, "shape": "hv"},
                fillcolor=ROLE_COLOURS[role],
                hovertemplate=f"{role}: %{{y:.2f}} MiB<extra></extra>",
                row=row,
                col=1,
            )
        for start in range(1, len(starts)):
            figure.add_vline(start, line={"width": 1, "dash": "dot", "color": EDGE}, row=row, col=1)
        ticks = [start + 0.5 for start in range(len(starts))]
        figure.update_xaxes(tickvals=ticks, ticktext=starts, range=[0, len(starts)], showgrid=False, row=row, col=1)
    dressed(figure, title, "", "MiB")
    figure.update_layout(height=190 * len(steps) + 120)
    return LabFigure(figure, alt)


def _places_in_phases(phases):
    """(a place for each moment, the phases in order): the nth phase stretches from n to n + 1."""
    places, starts = [], []
    for phase, stretch in itertools.groupby(phases):
        count = len(list(stretch))
        places += [len(starts) + number / count for number in range(count)]
        starts.append(phase)
    return places, starts


def measured_bars(numbers, title, alt, y_title):
    """Return one bar a label, of measured numbers. numbers: {label: number}."""
    figure = empty_figure(title, "", y_title)
    figure.add_bar(x=list(numbers), y=list(numbers.values()), marker={"color": MEASURED_COLOUR}, showlegend=False)
    return LabFigure(figure, alt)


def grouped_bars(series, title, alt, y_title):
    """Return bars of measured numbers, side by side for labels that series share. series: {name: {label: number}}."""
    figure = empty_figure(title, "", y_title)
    for (name, numbers), colour in zip(series.items(), _endless(MEASURED_COLOURS), strict=False):
        figure.add_bar(x=list(numbers), y=list(numbers.values()), name=name, marker={"color": colour}, showlegend=True)
    figure.update_layout(barmode="group", height=460)
    return LabFigure(figure, alt)


def empty_figure(title, x_title, y_title):
    """Return a Plotly figure with the course's look, to be filled."""
    return dressed(go.Figure(), title, x_title, y_title)


def dressed(figure, title, x_title, y_title):
    """Give a Plotly figure the course's look; return it."""
    figure.update_layout(
        template=THEME,
        title={"text": title, "x": 0, "xanchor": "left"},
        height=380,
        margin={"l": 60, "r": 20, "t": 90, "b": 50},
        legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "traceorder": "normal"},
    )
    figure.update_yaxes(title=y_title, rangemode="tozero")
    if x_title:
        figure.update_xaxes(title=x_title)
    return figure


def present_roles(held):
    """The roles of which somebody holds something, in the order of ROLE_COLOURS."""
    held = list(held)
    return [role for role in ROLE_COLOURS if any(parts.get(role) for parts in held)]


def _endless(items):
    while True:
        yield from items
