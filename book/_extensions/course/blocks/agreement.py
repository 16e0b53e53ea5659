"""What the {computed} blocks of book/agreement.md show: the planner beside recorded runs, every run, misses too.

PYTHONPATH=book/_extensions python -c "from course.blocks import agreement; print(agreement.agreement_summary())"
"""

import statistics

from course.blocks.block import block
from course.table import table
from labsupport.measure import agreement
from labsupport.memory import published
from labsupport.plots import MEASURED_COLOUR, PREDICTED_COLOUR, LabFigure, empty_figure
from labsupport.records import provenance, read_record
from labsupport.runs import Run
from labsupport.shapes import known_models
from labsupport.shapes.families import FAMILIES

MIB = 2**20


@block
def agreement_summary():
    """How many runs, and how far off the planner and DeepSpeed's estimators were."""
    rows = _rows()
    states = [abs(error) for _, compared, _ in rows for *_, error in compared["states"].values()]
    peaks = [abs(compared["peak"][2]) for _, compared, _ in rows]
    within = sum(error <= agreement.PEAK_TOLERANCE for error in peaks)
    exact = sum(
        predicted == measured for _, compared, _ in rows for predicted, measured, _ in compared["states"].values()
    )
    sent = [abs(there - here) for run, compared, _ in rows if run.world_size > 1 for there, here in [compared["sent"]]]
    estimates = [abs(error) for row in rows if (error := _estimate_error(row)) is not None]
    planner = table(
        ("Of the planner", "Runs or moments", "Median error", "Worst error"),
        [
            (
                "model states at three moments",
                f"{len(states)}, {exact} of them equal to the byte",
                *_median_and_worst(states, ".2%"),
            ),
            (
                "peak of a step",
                f"{len(peaks)}, {within} of them within {agreement.PEAK_TOLERANCE:.0%}",
                *_median_and_worst(peaks, ".1%"),
            ),
            ("bytes sent, as a multiple of DDP's", len(sent), *_median_and_worst(sent, ".2f")),
        ],
    )
    estimators = table(
        ("Of DeepSpeed's own estimators", "Runs", "Median error", "Worst error"),
        [("model states, against the peak of a step", len(estimates), *_median_and_worst(estimates, ".0%"))],
    )
    record = read_record("agreement")
    return f"{planner}\n\n{estimators}\n\nMeasured: `{record['command']}`, {provenance(record)}."


def _median_and_worst(errors, form):
    return f"{statistics.median(errors):{form}}", f"{max(errors):{form}}"


@block
def agreement_figure():
    """The peak of every run, predicted and measured, with DeepSpeed's estimates where there are any."""
    rows = _rows()
    measured = [compared["peak"][1] / MIB for _, compared, _ in rows]
    predicted = [compared["peak"][0] / MIB for _, compared, _ in rows]
    names = [run.in_words() for run, _, _ in rows]
    estimated = [(peak, entry["estimate"] / MIB, name) for peak, (_, _, entry), name in
                 zip(measured, rows, names, strict=True) if entry["estimate"]]  # fmt: skip
    worst = max(abs(compared["peak"][2]) for _, compared, _ in rows)
    apart = [abs(estimate / peak - 1) for peak, estimate, _ in estimated]
    title = f"The planner is at most {worst:.0%} from the measured peak, DeepSpeed's estimators up to {max(apart):.0%}"
    figure = empty_figure(title, "measured peak of a step, MiB", "predicted, MiB")
    ends = [min(measured), max(measured)]
    figure.add_scatter(x=ends, y=ends, mode="lines", name="equal", line={"color": MEASURED_COLOUR, "width": 1})
    for name, points, colour, symbol in (
        ("this course's planner", list(zip(measured, predicted, names, strict=True)), PREDICTED_COLOUR, "circle"),
        ("DeepSpeed's estimators", estimated, "#C06BD6", "x"),
    ):
        x, y, text = zip(*points, strict=True)
        figure.add_scatter(x=x, y=y, text=text, mode="markers", name=name, marker={"color": colour, "symbol": symbol})
    figure.update_xaxes(type="log")
    figure.update_yaxes(type="log", rangemode="normal")
    alt = (
        f"Peak of a training step on rank 0, predicted against measured, {len(rows)} runs from {min(measured):.0f} to "
        f"{max(measured):.0f} MiB. The planner's points lie on the line of equality, at most {worst:.1%} away; "
        f"DeepSpeed's {len(estimated)} estimates, without activations and buckets, are up to {max(apart):.0%} away."
    )
    return LabFigure(figure, alt)


@block
def agreement_on_one_rank():
    """Every run on one rank."""
    return _table(1)


@block
def agreement_on_two_ranks():
    """Every run on two ranks."""
    return _table(2)


@block
def agreement_on_four_ranks():
    """Every run on four ranks."""
    return _table(4)


@block
def agreement_misses():
    """The runs that are outside the tolerance, by the role that is furthest off; or a sentence that there are none."""
    lines = []
    for run, compared, _ in _rows():
        bad_states = [
            moment for moment, (*_, error) in compared["states"].items() if abs(error) > agreement.STATE_TOLERANCE
        ]
        if bad_states or abs(compared["peak"][2]) > agreement.PEAK_TOLERANCE:
            role, predicted, measured = compared["worst_role"]
            lines.append(
                f"- {run.in_words()}: peak {compared['peak'][2]:+.1%}, {role} {predicted / MIB:.2f} MiB predicted and "
                f"{measured / MIB:.2f} MiB measured."
            )
    return "\n".join(lines) or (
        f"No run is outside: model states within {agreement.STATE_TOLERANCE:.0%} at every moment, the peak within "
        f"{agreement.PEAK_TOLERANCE:.0%}."
    )


def _rows():
    """[(Run, compared, what was measured)] of the recorded runs, with today's planner."""
    entries = read_record("agreement")["measured"]["runs"]
    runs = [(Run.from_dict(entry["cell"]), entry["measured"]) for entry in entries]
    return [(run, agreement.compare(run, measured), measured) for run, measured in runs]


def _table(world_size):
    rows = []
    for row in _rows():
        run, compared, _ = row
        if run.world_size != world_size:
            continue
        _, rest, rest_error = compared["states"]["at rest"]
        _, peak, peak_error = compared["peak"]
        estimate = _estimate_error(row)
        miss = " **miss**" if abs(peak_error) > agreement.PEAK_TOLERANCE else ""
        predicted, sent = (f"{value:.2f}" if world_size > 1 else "-" for value in compared["sent"])
        estimate = "-" if estimate is None else f"{estimate:+.0%}"
        rows.append((
            run.in_words(), f"{rest / MIB:.2f}", _percent(rest_error), f"{peak / MIB:.2f}",
            f"{_percent(peak_error)}{miss}", estimate, f"{sent}, {predicted}",
        ))  # fmt: skip
    head = ("Run", "At rest, MiB", "Planner off by", "Peak, MiB", "Planner off by", "Estimator off by",
            "Sent and planned")  # fmt: skip
    return table(head, rows)


def _percent(error):
    return "0.0%" if abs(error) < 5e-4 else f"{error:+.1%}"


def _estimate_error(row):
    _, compared, measured = row
    return measured["estimate"] / compared["peak"][1] - 1 if measured["estimate"] else None


@block
def published_memory():
    """A table of each publication: what it states, and what the planner says."""
    parts = []
    for each in published.tables().values():
        rows = [
            (
                f"{row.name}, {row.moment}",
                f"{row.gibibytes:.2f}",
                row.counts,
                f"{row.planned_gibibytes:.2f}",
                f"{row.planned_gibibytes / row.gibibytes - 1:+.1%}" if row.counts != published.RAN else "fits",
            )
            for row in each.rows
        ]
        head = ("Run", "Published, GiB", "which is", "Planned, GiB", "Planned over published")
        parts += [
            f"**{each.title}.** Source: {each.source}.",
            table(head, rows, ["left", "right", "left", "right", "right"]),
        ]
    return "\n\n".join(parts)


@block
def architectures_summary():
    """How many runs of other architectures were recorded, and how far off the planner was."""
    return _summary("architectures", "each architecture at each stage, in bf16 and fp32, on small models")


@block
def adapters_summary():
    """How many runs in which not all is trained were recorded, and how far off the planner was."""
    return _summary(
        "adapters",
        "LoRA beside each architecture at three stages, and Llama and GPT-2 with frozen layers at all four",
    )


def _summary(name, what):
    record = read_record(name)
    compared = [
        (run, agreement.compare(run, entry["measured"]))
        for entry in record["measured"]["runs"]
        for run in [Run.from_dict(entry["cell"])]
    ]
    states = [pair for _, each in compared for pair in each["states"].values()]
    exact = sum(predicted == measured for predicted, measured, _ in states)
    rows = [
        (
            "model states at three moments",
            f"{len(states)}, {exact} of them equal to the byte",
            *_median_and_worst([abs(error) for *_, error in states], ".2%"),
        )
    ]
    for counted, of in ((True, "peaks, activations counted"), (False, "peaks, activations measured on a copy")):
        peaks = [abs(each["peak"][2]) for run, each in compared if run.shape.family.counted is counted]
        rows.append((of, len(peaks), *_median_and_worst(peaks, ".1%")))
    return (
        f"{len(compared)} runs on 2 and 4 CPU ranks: {what}.\n\n"
        f"{table(('Of the planner', 'Runs or moments', 'Median error', 'Worst error'), rows)}\n\n"
        f"Measured: {provenance(record)}."
    )


@block
def known_architectures():
    """The architectures that the planner reads, those whose activations it counts, and the models that it knows."""
    counted = ", ".join(f"`{name}`" for name, family in FAMILIES.items() if family.counted)
    others = ", ".join(f"`{name}`" for name, family in FAMILIES.items() if not family.counted)
    names = ", ".join(f"`{name}`" for name in known_models())
    return (
        f"- Architectures whose activations are counted: {counted}.\n"
        f"- Architectures whose tensors are known, and whose activations are measured on a copy: {others}.\n"
        f"- Models that it knows by name, with the sizes of [litgpt's table of configs]"
        f"(https://github.com/Lightning-AI/litgpt/blob/main/litgpt/config.py), June 2026: {names}."
    )
