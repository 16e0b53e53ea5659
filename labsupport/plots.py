"""The course's figures: data in, figure out, one theme; predicted and measured never share a colour.

In JupyterLab a figure is Plotly's own; on the book's pages `book/_static/figures.js` draws the same data, with
one copy of the library for the whole book.
"""

import html
import json

import plotly.graph_objects as go

# Okabe and Ito's palette, told apart with every common kind of colour blindness.
ROLE_COLOURS = {
    "parameters": "#0072B2",
    "gradients": "#E69F00",
    "master weights": "#56B4E9",
    "optimizer states": "#009E73",
    "other": "#999999",
}
MEASURED_COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"]
PREDICTED_COLOUR = "#8C6BB1"
MEASURED_COLOUR = "#0072B2"


class LabFigure:
    """A Plotly figure with alternative text: `figure` is Plotly's, `alt` says in words what it shows."""

    def __init__(self, figure, alt):
        self.figure, self.alt = figure, alt

    def _repr_mimebundle_(self, **_):
        data = json.loads(self.figure.to_json())
        text = json.dumps({"data": data["data"], "layout": data["layout"]}).replace("</", "<\\/")
        page = (
            f'<figure class="lab-figure" role="img" aria-label="{html.escape(self.alt, quote=True)}">'
            f'<div class="lab-figure-plot"></div><script type="application/json">{text}</script>'
            f"<figcaption>{html.escape(self.alt)}</figcaption></figure>"
        )
        return {
            "application/vnd.plotly.v1+json": data,
            "text/html": page,
            "text/plain": f"Figure: {self.alt}",
        }


def loss_curves(losses, title, alt, x_title="micro-batch"):
    """Return a figure with one line a run. losses: {name of the run: [loss in nats a step]}."""
    figure = _figure(title, x_title, "loss, nats per byte")
    for (name, values), colour in zip(losses.items(), _endless(MEASURED_COLOURS), strict=False):
        steps = list(range(1, len(values) + 1))
        figure.add_scatter(x=steps, y=values, name=name, mode="lines", line={"color": colour})
    return LabFigure(figure, alt)


def bytes_by_role(held, title, alt):
    """Return stacked bars of MiB by role. held: {label of the bar: {role: bytes}}, as the ledger counts them."""
    figure = _figure(title, "", "MiB per rank")
    roles = [role for role in ROLE_COLOURS if any(role in parts for parts in held.values())]
    for role in roles:
        heights = [parts.get(role, 0) / 2**20 for parts in held.values()]
        figure.add_bar(x=list(held), y=heights, name=role, marker={"color": ROLE_COLOURS[role]})
    figure.update_layout(barmode="stack")
    return LabFigure(figure, alt)


def predicted_and_measured(predicted, measured, title, alt, y_title="MiB per rank", scale=2**20):
    """Return paired bars. predicted, measured: {label: number}, the same labels; shown divided by `scale`."""
    figure = _figure(title, "", y_title)
    labels = list(measured)
    for name, numbers, colour in (
        ("predicted", predicted, PREDICTED_COLOUR),
        ("measured", measured, MEASURED_COLOUR),
    ):
        pattern = {"shape": "/"} if name == "predicted" else {}
        heights = [numbers[label] / scale for label in labels]
        figure.add_bar(x=labels, y=heights, name=name, marker={"color": colour, "pattern": pattern})
    figure.update_layout(barmode="group")
    return LabFigure(figure, alt)


def measured_bars(numbers, title, alt, y_title):
    """Return one bar a label, of measured numbers. numbers: {label: number}."""
    figure = _figure(title, "", y_title)
    figure.add_bar(x=list(numbers), y=list(numbers.values()), marker={"color": MEASURED_COLOUR}, showlegend=False)
    return LabFigure(figure, alt)


def _figure(title, x_title, y_title):
    figure = go.Figure()
    figure.update_layout(
        template="plotly_white",
        title={"text": title, "x": 0, "xanchor": "left"},
        xaxis_title=x_title,
        yaxis_title=y_title,
        yaxis_rangemode="tozero",
        height=380,
        margin={"l": 60, "r": 20, "t": 90, "b": 50},
        legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "traceorder": "normal"},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
    )
    return figure


def _endless(items):
    while True:
        yield from items
