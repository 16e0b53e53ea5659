"""Figures of what `make gpu` recorded, and a sentence where nothing was recorded yet."""

from labsupport.config import config_precision
from labsupport.gpu.tables import (
    GIB,
    cell_of,
    entries,
    gpu_name,
    gpu_record,
    name_of,
    not_measured,
    stamp,
)
from labsupport.measure import agreement
from labsupport.memory.planner import plan_of
from labsupport.memory.roles import ROLES
from labsupport.plots import grouped_bars, roles_side_by_side
from labsupport.records import FOLDER


class Note:
    """A sentence in place of a figure, for the page and for JupyterLab."""

    def __init__(self, text):
        self.text = text

    def _repr_mimebundle_(self, **_):
        return {"text/markdown": self.text, "text/plain": self.text}


def memory_by_stage(suite="grid", folder=FOLDER):
    """Return the figure of the peak by role, predicted and measured, of a suite's 16-bit cells; or a Note."""
    record = gpu_record(suite, folder)
    cells = [] if record is None else entries(record)
    cells = _alike([entry for entry in cells if config_precision(cell_of(entry).run.config) != "fp32"])
    if not cells:
        return Note(not_measured(suite))
    predicted, measured = {}, {}
    for entry in cells:
        result = entry["measured"]
        accelerator = agreement.accelerator_of(result)
        place = "GPU" if accelerator == "cuda" else "host"
        name = name_of(entry).replace(", ", "<br>")
        measured[name] = {role: result["moments"]["peak"][place].get(role, 0) for role in ROLES}
        predicted[name] = plan_of(cell_of(entry).run, accelerator).moments["peak"][place]
    totals = {name: sum(roles.values()) for name, roles in measured.items()}
    least, most = min(totals, key=totals.get), max(totals, key=totals.get)
    title = f"{_plain(least)} peaks at {totals[least] / GIB:.2f} GiB, {_plain(most)} at {totals[most] / GIB:.2f} GiB"
    alt = f"Peak of a training step by role, predicted beside measured, {_trained(cells[0])}: " + "; ".join(
        f"{_plain(name)} {total / GIB:.2f} GiB" for name, total in totals.items()
    )
    return roles_side_by_side(predicted, measured, title, f"{alt}. {_plain(stamp(record))}", unit="GiB")


def speed_by_stage(suite="grid", own=None, folder=FOLDER):
    """Return the figure of tokens per second of a suite's cells; or a Note. own: what run_here gave, beside it."""
    record = gpu_record(suite, folder)
    if record is None and not own:
        return Note(not_measured(suite))
    series, stamps = {}, []
    if record is not None:
        series[f"recorded, {gpu_name(record)}, {_trained(entries(record)[0])}"] = _speeds(entries(record))
        stamps.append(stamp(record))
    if own:
        series[f"measured here, {own['device']}, {_trained(own['cells'][0])}"] = _speeds(own["cells"])
        stamps.append(f"Measured here: {own['machine']}.")
    name, speeds = next(iter(series.items()))
    fastest = max(speeds, key=speeds.get)
    title = f"{_plain(fastest)} trains fastest: {speeds[fastest]:,.0f} tokens a second ({name})"
    alt = "Tokens per second: " + "; ".join(
        f"{name}: " + ", ".join(f"{_plain(label)} {speed:,.0f}" for label, speed in speeds.items())
        for name, speeds in series.items()
    )
    return grouped_bars(series, title, f"{alt}. {_plain(' '.join(stamps))}", "tokens per second")


def _speeds(cells):
    return {name_of(entry).replace(", ", "<br>"): entry["measured"]["tokens_per_second"] for entry in _alike(cells)}


def _alike(cells):
    """The cells that train what the first one trains, in as large batches: others are no comparison."""
    return [entry for entry in cells if _trained(entry) == _trained(cells[0])]


def _trained(entry):
    return cell_of(entry).model_in_words


def _plain(label):
    return label.replace("<br>", ", ").replace("`", "")
