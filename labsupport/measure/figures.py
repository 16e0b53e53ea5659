"""MEASURED, as figures: the bytes of a step, the copies of a weight, and the messages of each pass."""

from plotly.subplots import make_subplots

from labsupport.measure.timeline import PHASES
from labsupport.plots import (
    EDGE,
    HATCHED,
    MEASURED_COLOURS,
    PREDICTED_COLOUR,
    ROLE_COLOURS,
    LabFigure,
    dressed,
    empty_figure,
    live_bytes,
)

PHASES_IN_WORDS = {"forward": "the forward pass", "backward": "the backward pass", "step": "the optimizer's step"}
# Which collective carries gradients and which parameters, by hue.
COLLECTIVE_COLOURS = {
    "all_reduce": ROLE_COLOURS["gradients"],
    "reduce_scatter": ROLE_COLOURS["communication buckets"],
    "reduce": ROLE_COLOURS["optimizer states"],
    "all_gather": ROLE_COLOURS["gathered parameters"],
}
MOMENTS_OF_AN_EDIT = ("before", "at the edit", "right after", "after a step")
COPIES = ("master, fp32", "shard", "gathered whole")  # from the bottom up


def formula_and_moments(formula, moments, title):
    """Return bars for each label: the formula, hatched, and what was measured at several moments.

    formula: {label: bytes a parameter}; moments: {name of the moment: {label: bytes a parameter}}.
    """
    figure = empty_figure(title, "", "bytes a parameter")
    marker = {"color": PREDICTED_COLOUR, "pattern": HATCHED}
    figure.add_bar(x=list(formula), y=list(formula.values()), name="the paper's formula", marker=marker)
    for (name, found), colour in zip(moments.items(), MEASURED_COLOURS, strict=False):
        bars = {"x": list(found), "y": list(found.values())}
        figure.add_bar(**bars, name=f"measured {name}", marker={"color": colour})
    figure.update_layout(barmode="group")
    said = "; ".join(
        f"{label}: formula {count:.2f}, " + ", ".join(f"{name} {found[label]:.2f}" for name, found in moments.items())
        for label, count in formula.items()
    )
    return LabFigure(figure, f"Bytes of model states a parameter on rank 0. {said}.")


def step_in_bytes(watched):
    """Return the live bytes of one step, a panel a stage. watched: {label: a Step of watch_step}."""
    phases = {}
    for label, step in watched.items():
        phases.setdefault(PHASES_IN_WORDS[step.peak_phase], []).append(label)
    title = "Most is held " + "; ".join(f"in {phase} at {', '.join(labels)}" for phase, labels in phases.items())
    peaks = ", ".join(f"{label} {step.peak_bytes / 2**20:.1f}" for label, step in watched.items())
    return live_bytes(
        {label: step.thinned() for label, step in watched.items()},
        title,
        f"Measured live bytes by role through one training step, a panel a stage. The most at once, in MiB: {peaks}.",
    )


def messages_by_phase(sent):
    """Return a lane a stage with the bytes of each collective in the forward pass, the backward pass and the step.

    sent: {stage: {phase: {collective: message bytes}}}, as measured_by_phase gives it.
    """
    lanes = [f"stage {stage}" for stage in sent]
    figure = make_subplots(rows=len(sent), cols=1, shared_xaxes=True, vertical_spacing=0.07, subplot_titles=lanes)
    found = {name for phases in sent.values() for messages in phases.values() for name in messages}
    for row, phases in enumerate(sent.values(), 1):
        for name in (name for name in COLLECTIVE_COLOURS if name in found):
            figure.add_bar(
                x=list(PHASES), y=[phases[phase].get(name, 0) / 2**20 for phase in PHASES], name=name,
                legendgroup=name, showlegend=row == 1, marker={"color": COLLECTIVE_COLOURS[name]}, row=row, col=1,
            )  # fmt: skip
    senders = {phase: [str(stage) for stage, phases in sent.items() if phases[phase]] for phase in PHASES}
    title = "Stages that send: " + "; ".join(
        f"in {PHASES_IN_WORDS[phase]} {', '.join(stages) or 'none'}" for phase, stages in senders.items()
    )
    dressed(figure, title, "", "MiB")
    figure.update_layout(barmode="stack", height=130 * len(sent) + 140, legend={"y": 1.06})
    said = "; ".join(
        f"stage {stage}: "
        + (
            ", ".join(
                f"{name} {size / 2**20:.2f} in {PHASES_IN_WORDS[phase]}"
                for phase, messages in phases.items()
                for name, size in messages.items()
            )
            or "none"
        )
        for stage, phases in sent.items()
    )
    return LabFigure(figure, f"Measured messages of one step in MiB, as DeepSpeed counts them. {said}.")


def edits_of_a_weight(histories, value):
    """Return what each edit did to the copies of a weight, a panel an edit, with arrows where a copy was made.

    histories: {edit: {copy of COPIES: [a value or None, at each of MOMENTS_OF_AN_EDIT]}}; value: what was written.
    """
    figure = make_subplots(rows=len(histories), cols=1, vertical_spacing=0.11, subplot_titles=list(histories))
    for row, copies in enumerate(histories.values(), 1):
        seen = [
            (moment, copy, held)
            for copy in COPIES
            for moment, held in enumerate(copies.get(copy, ()))
            if held is not None
        ]
        for words, colour, chosen in (
            (f"holds {value:g}", ROLE_COLOURS["gradients"], [each for each in seen if abs(each[2] - value) < 0.1]),
            ("holds what was trained", EDGE, [each for each in seen if abs(each[2] - value) >= 0.1]),
        ):
            figure.add_scatter(
                x=[moment for moment, *_ in chosen], y=[copy for _, copy, _ in chosen], mode="markers+text",
                text=[f"{held:.2f}" for *_, held in chosen], textposition="top center", name=words, legendgroup=words,
                showlegend=row == 1, marker={"color": colour, "size": 16, "symbol": "square"}, row=row, col=1,
            )  # fmt: skip
        for (start, source), (end, target) in _copied(copies, value):
            figure.add_annotation(
                x=end, y=target, ax=start, ay=source, axref=f"x{row}", ayref=f"y{row}", showarrow=True, arrowhead=2,
                arrowwidth=2, arrowcolor=EDGE, standoff=10, startstandoff=10, text="", row=row, col=1,
            )  # fmt: skip
        figure.update_xaxes(
            tickvals=list(range(4)),
            ticktext=list(MOMENTS_OF_AN_EDIT),
            range=[-0.5, 3.5],
            zeroline=False,
            row=row,
            col=1,
        )
        figure.update_yaxes(categoryorder="array", categoryarray=list(COPIES), range=[-0.5, 2.8], row=row, col=1)
    last = [name for name, copies in histories.items() if abs(copies["shard"][-1] - value) < 0.1]
    title = f"After a step {value:g} is left by: {', '.join(last) or 'none of the edits'}"
    dressed(figure, title, "", "copy")
    figure.update_layout(height=200 * len(histories) + 130, legend={"y": 1.06})
    said = "; ".join(
        f"{edit}: right after, shard {copies['shard'][2]:.2f} and master {copies[COPIES[0]][2]:.2f}, after a step "
        f"{copies['shard'][3]:.2f} and {copies[COPIES[0]][3]:.2f}"
        for edit, copies in histories.items()
    )
    return LabFigure(figure, f"One element of a weight in its copies on rank 0, measured. {said}.")


def _copied(copies, value):
    """The arrows of one panel: where the written value went, and the step's rounding of the master into the shard."""
    written = "gathered whole" if any(held is not None for held in copies["gathered whole"]) else COPIES[0]
    changed = [copy for copy in COPIES[:2] if abs(copies[copy][2] - value) < 0.1 <= abs(copies[copy][0] - value)]
    return [((1, written), (2, copy)) for copy in changed] + [((2, COPIES[0]), (3, "shard"))]
