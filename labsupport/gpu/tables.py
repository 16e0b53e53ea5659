"""What `make gpu` recorded, as tables and figures that name their hardware, beside this machine's own. No torch.

from labsupport.gpu.tables import speed_by_stage
speed_by_stage()                # a figure; or a note, where no GPU was measured yet
"""

import statistics

from tabulate import tabulate

from labsupport.config import config_precision
from labsupport.errors import LabError
from labsupport.gpu.cells import Cell
from labsupport.measure import agreement
from labsupport.memory.messages import total_wire_bytes
from labsupport.records import FOLDER, provenance, read_record
from labsupport.step_time.flops import H100_BF16_FLOPS, utilisation

GIB = 2**30
SXM_CARDS = ("NVIDIA H100 80GB HBM3", "NVIDIA H200")  # the cards of the data sheet's 989 TFLOP/s, as drivers name them


def gpu_record(suite, folder=FOLDER):
    """Return the record of a suite of `make gpu`, or None where no GPU was measured yet."""
    if not (folder / f"gpu_{suite}.json").exists():
        return None
    return read_record(f"gpu_{suite}", folder)


def not_measured(suites):
    """Return the sentence for suites without a record. suites: their names, with a space between."""
    value = f'"{suites}"' if " " in suites else suites
    where = "two or more" if suites == "scaling" else "one"
    command = f"run `make gpu SUITES={value}` on a machine with {where}, then `make book`"
    return f"No GPU has been measured for this yet: {command}."


def stamp(record):
    """Return one line that says where and when a record was measured, and with what."""
    counted = f"median of {record['counted']} after {record['warm_up']} of warm-up"
    return f"Measured: `{record['command']}`, {provenance(record)}; {counted}."


def gpu_name(record):
    """Return the GPU's name."""
    return record["measured"]["environment"]["device"]


def entries(record):
    """Return the cells of a record that were measured."""
    return [entry for entry in record["measured"]["cells"] if "measured" in entry]


def cell_of(entry):
    """Return the Cell of an entry."""
    return Cell.from_dict(entry["cell"])


def name_of(entry):
    """Return what tells a cell from its neighbours in a table, which trains one model or names it elsewhere."""
    return cell_of(entry).in_words(with_model=False)


def share_of_peak(entry, record):
    """Return (of this GPU's measured matrix rate, of the data sheet's 989 TFLOP/s for bf16 or None), 0 to 1."""
    run, result = cell_of(entry).run, entry["measured"]
    precision, ranks = config_precision(run.config), run.world_size
    rate = record["measured"]["environment"]["matmul_flops"].get(precision)
    args = run.shape, run.sequence_length, result["tokens_per_second"]
    on_sheet = gpu_name(record) in SXM_CARDS and precision != "fp32"
    sheet = utilisation(*args, ranks * H100_BF16_FLOPS) if on_sheet else None
    return (utilisation(*args, ranks * rate) if rate else None), sheet


def environment_table(record):
    """The machine: its rates as measured, and what DeepSpeed could compile."""
    found, ops = record["measured"]["environment"], record["measured"]["ops"]
    rows = [("GPU", f"{found['devices']} x {found['device']}, compute capability {found['compute_capability']}")]
    if found["memory_bytes"]:
        rows.append(("memory of one", f"{found['memory_bytes'] / GIB:.1f} GiB"))
    rows += [("driver, CUDA of torch", f"{found['driver']}, {found['cuda']}"),
             ("host", f"{found['cores']} cores, {found['host_memory_bytes'] / GIB:.0f} GiB")]  # fmt: skip
    rows += [(f"matrix product, {name}", f"{rate / 1e12:.1f} TFLOP/s") for name, rate in found["matmul_flops"].items()]
    rows += [(f"copy, {name}", f"{rate / 1e9:.1f} GB/s") for name, rate in found["copy_bytes_per_second"].items()]
    rows.append(("Adam", ops["optimizer"] + (f": {ops['reason']}" if ops["reason"] else "")))
    rows.append(("NVMe offload", "yes" if ops["nvme"] else ops["nvme_reason"]))
    return _table(("What", "Found"), rows)


def speed_table(record):
    """Every cell of a record with a speed: tokens and samples per second, utilisation, and the allocator's peak."""
    rows = []
    for entry in entries(record):
        cell, result = cell_of(entry), entry["measured"]
        if "tokens_per_second" not in result:
            continue
        measured, sheet = share_of_peak(entry, record)
        spread = [seconds / statistics.median(result["seconds_per_step"]) - 1 for seconds in result["seconds_per_step"]]
        rows.append((
            _breaking_at_commas(name_of(entry)), f"{cell.run.model_in_words}, {cell.micro_batch_size}",
            f"{result['tokens_per_second']:,.0f}", f"{result['samples_per_second']:,.1f}",
            _percent(measured), _percent(sheet), f"{max(spread):+.0%}",
            "-" if not result["peak_bytes"] else f"{result['peak_bytes'] / GIB:.2f}",
        ))  # fmt: skip
    head = ("Run", "Model, batch", "Tokens/s", "Samples/s", "MFU, measured rate", "MFU, 989 TFLOP/s", "Slowest",
            "Peak, GiB")  # fmt: skip
    return _table(head, rows) + _did_not_fit(record)


def memory_table(record):
    """The planner beside the ledger and the allocator, a line a cell."""
    rows = []
    for entry in entries(record):
        if "moments" not in entry["measured"]:
            continue
        cell, result = cell_of(entry), entry["measured"]
        compared = agreement.compare(cell.run, result, agreement.accelerator_of(result))
        states = max((error for *_, error in compared["states"].values()), key=abs)
        _, peak, error = compared["peak"]
        bad = abs(states) > agreement.STATE_TOLERANCE or abs(error) > agreement.PEAK_TOLERANCE
        role, predicted, measured = compared["worst_role"]
        worst = f"{role}: {predicted / GIB:.3f} for {measured / GIB:.3f} GiB"
        rows.append((
            _breaking_at_commas(cell.in_words()),
            f"{compared['states']['at rest'][1] / GIB:.3f}", f"{states:+.1%}",
            f"{peak / GIB:.3f}", f"{error:+.1%}" + (" **miss**" if bad else ""), compared["phases"][1], worst,
        ))  # fmt: skip
    head = ("Run", "Model states, GiB", "States off by", "Peak on the GPU, GiB", "Peak off by", "Peak is in",
            "Role furthest off")  # fmt: skip
    return _table(head, rows) + _did_not_fit(record)


def trainer_table(record):
    """The trainer's ways beside a loop written by hand: seconds a step."""
    found = {entry["cell"]["kind"]: entry["measured"] for entry in entries(record)}
    if "loops" not in found:
        return "The loops were not measured: the record holds their error."
    seconds = dict(found["loops"]["seconds_per_step"])
    hand = statistics.median(seconds["by hand"])
    if "hugging face" in found:
        seconds["Hugging Face Trainer, in a process of its own"] = found["hugging face"]["seconds_per_step"]
    ratios = found["loops"]["median_ratio_to_by_hand"]
    rows = [
        (name, f"{statistics.median(each) * 1e3:.1f}", f"{ratios.get(name, statistics.median(each) / hand):.3f}")
        for name, each in seconds.items()
    ]
    return _table(("Loop", "ms a step, median", "Of by hand"), rows)


def largest_table(record):
    """The largest model of each strategy that was trained, and how much of the GPU it was allowed."""
    rows = []
    for entry in entries(record):
        result, cell = entry["measured"], cell_of(entry)
        peak = f"{result['peak_bytes'] / GIB:.2f}" if result["peak_bytes"] else "-"
        known = "larger did not fit" if "did_not_fit" in entry else "the first size tried fitted: at least this"
        limit = f"{cell.gpu_memory_limit_bytes / GIB:.1f}"
        rows.append((name_of(entry), f"{result['parameters'] / 1e9:.2f}", str(cell.run.layers), limit, peak,
                     f"{result['tokens_per_second']:,.0f}", known))  # fmt: skip
    head = ("Strategy", "Parameters, billions", "Layers", "Allowed, GiB", "Peak, GiB", "Tokens/s", "Next size")
    return _table(head, rows)


def scaling_table(record):
    """Speed, message bytes and the share of NCCL, by number of GPUs."""
    rows = []
    for entry in entries(record):
        result = entry["measured"]
        share = result["nccl_share_of_step"]
        sent = total_wire_bytes(result["collectives"], cell_of(entry).world_size) / GIB
        rows.append((name_of(entry), f"{result['tokens_per_second']:,.0f}", f"{sent:.3f}", _percent(share)))
    return _table(("Run", "Tokens/s, all GPUs", "Sent by a GPU in a step, GiB", "NCCL's share of the step"), rows)


def _breaking_at_commas(name):
    """A name whose lines a narrow column breaks after a comma only: with no-break spaces elsewhere."""
    return name.replace(" ", "\u00a0").replace(",\u00a0", ", ")


def _percent(share):
    return "-" if share is None else f"{share:.1%}"


def _table(head, rows):
    if not rows:
        raise LabError("The record holds no cell that was measured: run make gpu again.")
    align = ["left", *["right"] * (len(head) - 1)]
    return tabulate(rows, head, "pipe", disable_numparse=True, colalign=align)


def _did_not_fit(record):
    """What was tried and did not fit, and what failed: lines below a table."""
    lines = []
    for entry in record["measured"]["cells"]:
        if "did_not_fit" in entry:
            wanted = Cell.from_dict(entry["wanted"])
            lines.append(f"- {wanted.in_words()}: {entry['did_not_fit']} The next size down is above.")
        if "error" in entry:
            lines.append(f"- {cell_of(entry).in_words()} failed: {entry['error']}")
    return "\n\n" + "\n".join(lines) if lines else ""
