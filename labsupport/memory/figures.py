"""PREDICTED, as figures: bytes by stage and ranks, who owns what, what is sent, and what lies on the card and the host.

python -c "from labsupport.memory.figures import times_saved; print(times_saved((4, 8)).alt)"
"""

import itertools

from labsupport.memory.messages import times_ddp
from labsupport.memory.paper import model_state_bytes
from labsupport.plots import (
    EDGE,
    HATCHED,
    MEASURED_COLOURS,
    PREDICTED_COLOUR,
    ROLE_COLOURS,
    UNITS,
    LabFigure,
    empty_figure,
    present_roles,
)

DASHES = {1: "dash", 2: "dot", 3: "dashdot"}
LIMITS = {1: 4, 2: 8}  # the factors that one reads of: 16 bytes over the 4 or the 2 that stay whole
PLACES_OF_COLUMNS = {"card": ("GPU",), "host": ("host", "pinned host"), "drive": ("NVMe",)}


def times_saved(world_sizes, mine=None):
    """Return how many times less than stage 0 each stage holds, by the paper, over the number of ranks.

    mine: {stage: bytes a parameter on 4 ranks} as a reader worked it out, shown as crosses; None is left out.
    """
    figure = empty_figure(
        "4 times and 8 times are limits for many ranks; only stage 3 goes on", "ranks", "stage 0's bytes over these"
    )
    for stage, dash in DASHES.items():
        saved = [16 / model_state_bytes(1, stage, count) for count in world_sizes]
        line = {"dash": dash, "color": MEASURED_COLOURS[stage], "width": 3}
        figure.add_scatter(x=list(world_sizes), y=saved, name=f"stage {stage}, by the formula", mode="lines", line=line)
    for stage, limit in LIMITS.items():
        ends = [min(world_sizes), max(world_sizes)]
        words = f"{limit} times, the limit of stage {stage}"
        line = {"color": MEASURED_COLOURS[stage], "width": 1}
        figure.add_scatter(x=ends, y=[limit, limit], name=words, mode="lines", line=line)
    guesses = {stage: given for stage, given in (mine or {}).items() if stage and given}
    if guesses:
        figure.add_scatter(
            x=[4] * len(guesses), y=[16 / given for given in guesses.values()], name="yours, on 4 ranks",
            mode="markers", marker={"symbol": "x", "size": 11, "color": EDGE},
        )  # fmt: skip
    figure.update_xaxes(type="log", tickvals=list(world_sizes))
    figure.update_yaxes(type="log", tickvals=[1, 2, 4, 8, 16, 64], range=[-0.05, 2])
    said = "; ".join(
        f"stage {stage} " + ", ".join(f"{16 / model_state_bytes(1, stage, count):.2f}" for count in (2, 4, 64))
        for stage in DASHES
    )
    return LabFigure(figure, f"Computed: how many times less than stage 0 is held on 2, 4 and 64 ranks: {said}.")


def across_cuts(sizes, piece):
    """Return the names of the tensors that lie in more than one piece of the flat row.

    sizes: {name: elements} in the row's order; piece: elements of one rank's piece.
    """
    ends = list(itertools.accumulate(sizes.values()))
    return [name for name, end in zip(sizes, ends, strict=True) if (end - sizes[name]) // piece != (end - 1) // piece]


def kept_for_a_piece(sizes, piece, rank):
    """Return the elements of all tensors, whole, of which this rank's piece has a part."""
    ends = itertools.accumulate(sizes.values())
    begin, stop = rank * piece, (rank + 1) * piece
    return sum(size for size, end in zip(sizes.values(), ends, strict=True) if end > begin and end - size < stop)


def flat_row(sizes, piece, world_size):
    """Return the flat row of all tensors above the pieces that the ranks update; arguments as for across_cuts."""
    crossing = across_cuts(sizes, piece)
    padding = piece * world_size - sum(sizes.values())
    title = (
        f"{world_size} equal pieces, and {len(crossing)} tensors that lie across a cut"
        if crossing
        else f"{world_size} equal pieces, and every cut between two tensors"
    )
    figure = empty_figure(title, "thousand elements, in the row's order", "")
    ends = list(itertools.accumulate(sizes.values()))
    blocks = [(name, size, end - size) for (name, size), end in zip(sizes.items(), ends, strict=True)]
    for words, colour, chosen in (
        ("tensor in one piece", ROLE_COLOURS["parameters"], [block for block in blocks if block[0] not in crossing]),
        ("tensor across a cut", ROLE_COLOURS["gradients"], [block for block in blocks if block[0] in crossing]),
        ("padding", EDGE, [("padding", padding, ends[-1])] if padding else []),
        (
            "a rank's piece",
            ROLE_COLOURS["master weights"],
            [(f"rank {r}", piece, r * piece) for r in range(world_size)],
        ),
    ):
        row = "who updates" if words == "a rank's piece" else "tensors"
        figure.add_bar(
            y=[row] * len(chosen), x=[size / 1000 for _, size, _ in chosen], base=[at / 1000 for *_, at in chosen],
            orientation="h", name=words, marker={"color": colour}, showlegend=bool(chosen),
            text=[name for name, *_ in chosen] if row == "who updates" else None, textposition="inside",
            insidetextanchor="middle", hovertext=[f"{name}: {size:,} elements" for name, size, _ in chosen],
            hoverinfo="text",
        )  # fmt: skip
    for rank in range(1, world_size):
        figure.add_vline(rank * piece / 1000, line={"color": EDGE, "width": 2, "dash": "dot"})
    figure.update_layout(barmode="overlay", height=300)
    figure.update_yaxes(title="row", categoryorder="array", categoryarray=["who updates", "tensors"])
    words = f"{len(sizes)} tensors with {sum(sizes.values()):,} elements in a row, cut into {world_size} pieces of "
    cut = f"across a cut: {', '.join(crossing) or 'none'}"
    return LabFigure(figure, f"{words}{piece:,}; {cut}; padding at the end: {padding:,} elements.")


def times_by_kind(collectives, parameters, settings):
    """Return {"reduce": times, "gather": times}: what is sent for gradients and for parameters, in multiples of DDP."""
    gathers = {name: size for name, size in collectives.items() if name == "all_gather"}
    reduces = {name: size for name, size in collectives.items() if name != "all_gather"}
    return {
        "reduce": times_ddp(reduces, parameters, settings),
        "gather": times_ddp(gathers, parameters, settings),
    }


def traffic(sent, paper, title):
    """Return what one rank sends in a step, a bar a stage, in groups, with the paper's volume as a line.

    sent: {group: {stage: as times_by_kind gives it}}; a group whose name says "measured" is solid, the others are
    hatched. paper: {group: {stage: times}}.
    """
    figure = empty_figure(title, "stage", "times what DDP sends")
    stages = [(group, stage) for group, by_stage in sent.items() for stage in by_stage]
    places = [[group for group, _ in stages], [str(stage) for _, stage in stages]]
    patterns = ["" if "measured" in group else HATCHED["shape"] for group, _ in stages]
    for kind, words, role in (
        ("reduce", "gradients, reduced", "gradients"),
        ("gather", "parameters, gathered", "gathered parameters"),
    ):
        figure.add_bar(
            x=places, y=[sent[group][stage][kind] for group, stage in stages], name=words,
            marker={"color": ROLE_COLOURS[role], "pattern": {"shape": patterns}},
        )  # fmt: skip
    stroke = {"width": 4, "color": PREDICTED_COLOUR}
    figure.add_scatter(
        x=places, y=[paper[group][stage] for group, stage in stages], name="the paper's formula", mode="markers",
        marker={"symbol": "line-ew", "size": 18, "color": PREDICTED_COLOUR, "line": stroke},
    )  # fmt: skip
    figure.update_layout(barmode="stack", height=460)
    said = "; ".join(
        f"{group.replace('<br>', ' ')}: "
        + ", ".join(
            f"stage {stage} {sum(kinds.values()):.2f} (paper {paper[group][stage]:.2f})"
            for stage, kinds in by_stage.items()
        )
        for group, by_stage in sent.items()
    )
    return LabFigure(figure, f"What one rank sends in a step, as a multiple of one DDP all-reduce. {said}.")


def card_and_host(predicted, title, measured=None, room=None, unit="GiB"):
    """Return stacked bars by role, a column for the card and one for the host, in groups.

    predicted, measured: {label: {place: {role: bytes}}}, by PLACES; a drive has a column where something lies there.
    Where the processor is the accelerator, what was measured lies in one memory and has one column.
    room: {"card": bytes, "host": bytes}, drawn as lines; unit: of UNITS.
    """
    bars = [(label, *column) for label in predicted for column in _columns(label, predicted, measured or {})]
    figure = empty_figure(title, "", f"{unit} per rank")
    places = [[label for label, *_ in bars], [column for _, column, _, _ in bars]]
    for role in present_roles(roles for *_, roles, _ in bars):
        figure.add_bar(
            x=places, y=[roles.get(role, 0) / UNITS[unit] for *_, roles, _ in bars], name=role,
            marker={"color": ROLE_COLOURS[role], "pattern": {"shape": [pattern for *_, pattern in bars]}},
        )  # fmt: skip
    for (place, count), dash in zip((room or {}).items(), ("dash", "dot", "dashdot"), strict=False):
        limit = [count / UNITS[unit]] * len(bars)
        words = f"the {place} has {limit[0]:.0f} {unit}"
        figure.add_scatter(x=places, y=limit, name=words, mode="lines", line={"color": EDGE, "dash": dash, "width": 3})
    figure.update_layout(barmode="stack", height=500)
    totals = "; ".join(
        f"{label.replace('<br>', ' ')}, {column.replace('<br>', ' ')} {sum(roles.values()) / UNITS[unit]:.1f}"
        for label, column, roles, _ in bars
    )
    return LabFigure(figure, f"{unit} per rank by role; hatched is predicted, solid is measured. {totals}.")


def _columns(label, predicted, measured):
    """[(column's name, {role: bytes}, pattern)] of one label."""
    with_drive = any(sum(places.get("NVMe", {}).values()) for places in predicted.values())
    chosen = [column for column in PLACES_OF_COLUMNS if column != "drive" or with_drive]
    columns = [(column, _in_column(predicted[label], column), HATCHED["shape"]) for column in chosen]
    if label in measured:
        found = measured[label]
        if sum(found.get("GPU", {}).values()):
            columns += [(f"{column},<br>measured", _in_column(found, column), "") for column in chosen]
        else:
            here = _in_column(found, "host")
            columns.append(("measured", here, ""))
    return columns


def _in_column(places, column):
    found = [places.get(place, {}) for place in PLACES_OF_COLUMNS[column]]
    return {role: sum(roles.get(role, 0) for roles in found) for role in ROLE_COLOURS}
