"""The figures of the scaling page: modelled lines and ranges, dashed and violet, beside what was measured or published.

python -c "from labsupport.step_time.figures import modelled_lines; help(modelled_lines)"
"""

from plotly.subplots import make_subplots

from labsupport.plots import (
    HATCHED,
    MEASURED_COLOURS,
    PREDICTED_COLOUR,
    ROLE_COLOURS,
    TEXT,
    LabFigure,
    dressed,
    empty_figure,
)
from labsupport.step_time.lanes import LANES

PUBLISHED_COLOUR = "#D55E00"  # measured too, but by others
# One family of violets for everything modelled; dash and symbol tell its lines apart without the colour.
MODELLED_STYLES = [
    (PREDICTED_COLOUR, "dash", "circle"),
    ("#C06BD6", "dot", "square"),
    ("#6E7BD9", "dashdot", "diamond"),
    ("#A99AD0", "longdash", "triangle-up"),
]


def fitted_lines(measured, modelled, title, alt, x_title, y_title, measured_name="measured"):
    """Return measured points with modelled lines through them, both axes logarithmic.

    measured, modelled: {name: {x: y}}. measured_name: "published" where others measured.
    """
    figure = empty_figure(title, x_title, y_title)
    for number, (name, points) in enumerate(measured.items()):
        colour, symbol = MEASURED_COLOURS[number % len(MEASURED_COLOURS)], _style(number)[2]
        figure.add_scatter(
            x=list(points), y=list(points.values()), name=f"{name}, {measured_name}", mode="markers",
            marker={"color": colour, "symbol": symbol, "size": 9},
        )  # fmt: skip
    for number, (name, points) in enumerate(modelled.items()):
        colour, dash, _ = _style(number)
        figure.add_scatter(
            x=list(points), y=list(points.values()), name=f"{name}, modelled", mode="lines",
            line={"color": colour, "dash": dash},
        )  # fmt: skip
    figure.update_xaxes(type="log")
    figure.update_yaxes(type="log", rangemode="normal")
    return LabFigure(figure, alt)


def modelled_ranges(ranges, published, title, alt, y_title, published_name="published"):
    """Return a bar from lower to upper bound for each label, with the published values as diamonds.

    ranges: {label: (low, high)}; published: {label: value}, the same labels.
    """
    figure = empty_figure(title, "", y_title)
    labels, lows = list(ranges), [low for low, _ in ranges.values()]
    spans = [high - low for low, high in ranges.values()]
    figure.add_bar(
        x=labels, y=spans, base=lows, width=0.35, name="modelled, between the two bounds",
        marker={"color": PREDICTED_COLOUR, "pattern": {"shape": "/"}},
    )  # fmt: skip
    figure.add_scatter(
        x=labels, y=[published[label] for label in labels], name=published_name, mode="markers",
        marker={"color": PUBLISHED_COLOUR, "symbol": "diamond", "size": 11},
    )  # fmt: skip
    return LabFigure(figure, alt)


def errors_over_messages(points, limit, title, alt):
    """Return expected over published time over the share that messages have of the compute, a mark a published step.

    points: {name: [(messages over compute, expected over published, words)]}. limit: how far the model is trusted.
    """
    figure = empty_figure(title, "messages over compute, seconds by seconds", "expected over published time")
    for number, (name, marks) in enumerate(points.items()):
        colour, _, symbol = _style(number)
        figure.add_scatter(
            x=[x for x, _, _ in marks], y=[y for _, y, _ in marks], text=[words for _, _, words in marks], name=name,
            mode="markers", hovertemplate="%{text}<br>%{y:.2f}<extra></extra>",
            marker={"color": colour, "symbol": symbol + ("-open" if number >= len(MODELLED_STYLES) else ""), "size": 8},
        )  # fmt: skip
    figure.add_hline(y=1, line={"color": PUBLISHED_COLOUR, "width": 1})
    figure.add_vline(x=limit, line={"color": TEXT, "dash": "dash", "width": 1})
    figure.update_xaxes(type="log")
    figure.update_layout(height=440)
    return LabFigure(figure, alt)


def modelled_lines(lines, title, alt, x_title, y_title, x_ticks=None):
    """Return modelled lines over a logarithmic x axis. lines: {name: [(x, y, fits)]}; hollow marks do not fit."""
    figure = empty_figure(title, x_title, y_title)
    for number, (name, points) in enumerate(lines.items()):
        colour, dash, symbol = _style(number)
        symbols = [symbol if fits else f"{symbol}-open" for _, _, fits in points]
        figure.add_scatter(
            x=[x for x, _, _ in points], y=[y for _, y, _ in points], name=name, mode="lines+markers",
            line={"color": colour, "dash": dash}, marker={"symbol": symbols, "size": 9, "color": colour},
        )  # fmt: skip
    figure.update_xaxes(type="log", tickvals=x_ticks, ticktext=x_ticks and [f"{x:,.4g}" for x in x_ticks])
    return LabFigure(figure, alt)


# Each kind of work has the hue of the role that it moves or makes.
WORK_COLOURS = {
    "forward": ROLE_COLOURS["activations"],
    "backward": ROLE_COLOURS["gathered parameters"],
    "gradients down": ROLE_COLOURS["gradients"],
    "sum up": ROLE_COLOURS["communication buckets"],
    "Adam": ROLE_COLOURS["optimizer states"],
    "parameters up": ROLE_COLOURS["parameters"],
}


def offload_steps(steps):
    """Return modelled steps on three lanes, a panel a step. steps: {label: Lanes of offload_lanes}."""
    figure = make_subplots(
        rows=len(steps), cols=1, shared_xaxes=True, vertical_spacing=0.09, subplot_titles=list(steps)
    )
    shown = set()
    for row, lanes in enumerate(steps.values(), 1):
        for work, colour in WORK_COLOURS.items():
            pieces = [piece for piece in lanes.pieces if piece.work == work]
            figure.add_bar(
                y=[piece.lane for piece in pieces], x=[piece.end - piece.start for piece in pieces],
                base=[piece.start for piece in pieces], orientation="h", name=f"{work}, modelled", legendgroup=work,
                showlegend=bool(pieces) and work not in shown, marker={"color": colour, "pattern": HATCHED},
                row=row, col=1,
            )  # fmt: skip
            shown |= {work} if pieces else set()
        figure.update_yaxes(categoryorder="array", categoryarray=list(reversed(LANES)), row=row, col=1)
    waits = {label: f"{lanes.waiting:.0%}" for label, lanes in steps.items()}
    title = "The GPU waits: " + "; ".join(f"{label}, {share} of the step" for label, share in waits.items())
    dressed(figure, title, "", "lane")
    figure.update_xaxes(title="seconds from the step's begin", row=len(steps), col=1)
    figure.update_layout(barmode="overlay", height=150 * len(steps) + 180, legend={"y": 1.06})
    said = "; ".join(
        f"{label}: {lanes.seconds:.2f} s, of them "
        + ", ".join(f"{lane} {lanes.busy_seconds(lane):.2f}" for lane in LANES)
        for label, lanes in steps.items()
    )
    return LabFigure(figure, f"Modelled, not measured: one step with the optimizer on the host. {said}.")


def _style(number):
    return MODELLED_STYLES[number % len(MODELLED_STYLES)]
