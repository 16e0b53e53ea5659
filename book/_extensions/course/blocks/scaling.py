"""What the pages' {computed} blocks show: functions without arguments that return Markdown, or a LabFigure.

    PYTHONPATH=book/_extensions python -c "from course.blocks import scaling; print(scaling.ranks_prediction())"

Numbers come from the recorded measurements, from the cited tables and from the model; none is written here.
"""

import statistics

from course.blocks.block import block
from course.table import table
from labsupport.machine.cards import MEASURED_LINKS
from labsupport.records import provenance, read_record
from labsupport.step_time import nccl, published, report
from labsupport.step_time.collectives import collective_seconds
from labsupport.step_time.figures import errors_over_messages, fitted_lines, modelled_lines, modelled_ranges
from labsupport.step_time.fit import errors_of_other_rules
from labsupport.step_time.machines import REACHED, cluster
from labsupport.step_time.model import TRUSTED_MESSAGES
from labsupport.step_time.ranks import predicted_steps
from labsupport.step_time.scaling import stage3_break_even_tokens, strong_scaling, weak_scaling
from labsupport.step_time.transformer import GPT, Transformer

GPU_COUNTS = [2**exponent for exponent in range(11)]
MODEL, CARD, LINK, MICRO_BATCH_TOKENS, BATCH_TOKENS = "7.5B", "H100", "NDR", 8192, 2**22


# The course's own ranks


@block
def ranks_rates():
    """The fitted alpha and beta of each collective, with the fit's error and where it was measured."""
    rows = []
    for ranks, world in _worlds().items():
        for name, fit in world["collectives"].items():
            errors = [abs(error) for error in fit["relative_error"].values()]
            rows.append((
                ranks, _words(name), f"{fit['alpha_seconds'] * 1e6:,.0f}", f"{fit['bytes_per_second'] / 1e9:.2f}",
                f"{statistics.median(errors):.0%}", f"{max(errors):.0%}",
            ))  # fmt: skip
    head = ("Ranks", "Collective", "alpha, us a hop", "B, GB/s", "Error of the fit, median", "worst")
    rates = table(head, rows, ["right", "left"] + ["right"] * 4)
    return f"{rates}\n\nMeasured: {_measured_by(read_record('step_time'))}"


@block
def ranks_figure():
    """Measured times of the collectives on the most ranks, with the fitted lines."""
    ranks, world = list(_worlds().items())[-1]
    measured, modelled = {}, {}
    for name, fit in world["collectives"].items():
        rate = fit["alpha_seconds"], fit["bytes_per_second"]
        points = {int(size) / 1024: seconds * 1e3 for size, seconds in fit["seconds"].items()}
        measured[_words(name)] = points
        modelled[_words(name)] = {kib: collective_seconds(name, kib * 1024, int(ranks), *rate) * 1e3 for kib in points}
    smallest, largest = (edge(measured["all-reduce"]) for edge in (min, max))
    growth = measured["all-reduce"][largest] / measured["all-reduce"][smallest]
    times_as_large = f"{largest / smallest:,.0f} times as large"
    title = f"A message {times_as_large} takes {growth:,.0f} times as long: small ones cost their start"
    alt = (
        f"On {ranks} CPU ranks an all-reduce of {smallest:,.0f} KiB took {measured['all-reduce'][smallest]:.1f} ms and "
        f"one of {largest:,.0f} KiB {measured['all-reduce'][largest]:.0f} ms, medians; the fitted lines are flat for "
        "small messages and rise in proportion for large ones."
    )
    return fitted_lines(measured, modelled, title, alt, "message, KiB", "time of one collective, ms")


@block
def ranks_prediction():
    """The step of DeepSpeed on the course's ranks, predicted twice and measured, with both errors."""
    rows = []
    errors = {"from_pytorch": [], "from_one_rank": []}
    for ranks, world in _worlds().items():
        for stage, step in _predicted(int(ranks), world).items():
            cells = [f"{step['communication'] * 1e3:.0f}"]
            for name, kept in errors.items():
                kept.append(step[name] / step["measured"] - 1)
                cells += [f"{step[name] * 1e3:.0f}", f"{kept[-1]:+.0%}"]
            rows.append((ranks, stage, *cells, f"{step['measured'] * 1e3:.0f}"))
    head = ("Ranks", "Stage", "Messages, ms", "From PyTorch, ms", "error", "From one rank, ms", "error",
            "Measured, ms")  # fmt: skip
    lines = [table(head, rows, ["right"] * len(head))]
    for name, kept in errors.items():
        span = f"{min(kept):+.0%} to {max(kept):+.0%}, median {statistics.median(kept):+.0%}"
        lines += ["", f"Error of the prediction {_spoken(name)}: {span}."]
    return "\n".join(lines)


# Published tables


@block
def reached_shares():
    """The constants that were fitted, once a card, and on how many published rows."""
    rows_of = {"A100-40GB": "a100-40gb", "H100": "h100", "H200": "h200", "B200": "b200"}
    rows = []
    for card, name in rows_of.items():
        reached, fitted = REACHED[card], len(published.table(name).fitted)
        rows.append((card, f"{reached.matrix_share:.2f}", f"{reached.attention_share:.2f}", fitted))
    return table(("Card", "Products of matrices, of the peak", "Causal attention, of the peak", "Rows fitted"), rows)


@block
def other_rules():
    """What other choices of fitted rows would have given, and the errors on the rows that are left."""
    rows = []
    for every, (constants, errors) in errors_of_other_rules().items():
        rows.append((
            every, f"{constants['matrix_share']:.2f}", f"{constants['attention_share']:.3f}",
            f"{constants['hidden_bytes']:.0f}", f"{constants['exposed_share']:.2f}",
            f"{statistics.median(map(abs, errors)):.1%}", sum(abs(error) > 0.25 for error in errors),
        ))  # fmt: skip
    head = ("Every", "Matrices", "Attention", "Bytes", "Exposed", "Median", "> 25 %")
    return table(head, rows, ["right"] * len(head))


@block
def published_errors():
    """One line a published table: the errors on the rows that no constant was fitted on, within what is trusted."""
    rows = []
    for cited_table in published.tables().values():
        unseen = [row for row in published.compare(cited_table) if not row.fitted]
        within = [row for row in unseen if row.step.outside is None]
        rows.append((
            cited_table.title, len(cited_table.fitted), len(unseen), _median_and_worst(unseen), len(within) or "none",
            _median_and_worst(within) if within else "",
        ))  # fmt: skip
    head = ("Published steps", "Fitted", "Unseen", "Median, worst", "Within", "Median, worst")
    sources = dict.fromkeys(each.source for each in published.tables().values())
    cited = "".join(f"\n- {source}" for source in [*sources, *published.OTHER_SOURCES])
    return f"{table(head, rows)}\n\nCited, retrieved {published.RETRIEVED}:\n{cited}"


def _median_and_worst(rows):
    median, worst = published.median_and_worst(rows)
    return f"{median:.1%}, {worst:+.0%}"


@block
def published_figure():
    """Expected over published time of every unseen step, over the share that messages have of the compute."""
    points, unseen = {}, []
    for name, words in _DRAWN.items():
        for row in published.compare(published.table(name)):
            if not row.fitted:
                step = row.step
                point = (step.communication_seconds / step.compute_seconds, 1 + row.error, str(row.row))
                points.setdefault(words, []).append(point)
                unseen.append(row)
    within = [row for row in unseen if row.step.outside is None]
    near = sum(abs(row.error) <= 0.1 for row in within)
    title = f"{near} of {len(within)} unseen steps within the region are met within 10 %"
    beyond = [row for row in unseen if row.step.communication_seconds > TRUSTED_MESSAGES * row.step.compute_seconds]
    alt = (
        f"Expected over published seconds of {len(unseen)} steps that no constant was fitted on. The region ends where "
        f"messages take half of the compute's time. Within it the median error is "
        f"{published.median_and_worst(within)[0]:.1%}; of the {len(beyond)} steps beyond, "
        f"{sum(abs(row.error) > 0.25 for row in beyond)} are missed by more than a quarter."
    )
    return errors_over_messages(points, TRUSTED_MESSAGES, title, alt)


_DRAWN = {
    "h100": "FSDP, H100", "a100-40gb": "FSDP, A100-40GB", "a100-80gb": "FSDP, A100-80GB",
    "ultrascale": "nanotron, H100", "h200": "DeepSpeed, H200", "b200": "DeepSpeed, B200",
    "example": "DeepSpeed's example",
}  # fmt: skip


@block
def rows_h100():
    """Every step of llm-foundry's table of H100s."""
    return _rows("h100", tokens=True)


@block
def rows_ultrascale():
    """Every step of the Ultra-Scale Playbook that is ZeRO alone."""
    return _rows("ultrascale")


@block
def rows_deepspeed():
    """Every step of DeepSpeed that was found: Bekman's on H200 and B200, DeepSpeed's example, and those of 2021."""
    return _rows("h200", "b200", "example", "zero3")


def _rows(*names, tokens=False):
    rows = []
    for name in names:
        card = published.table(name).title.split(" on ")[-1]
        for each in published.compare(published.table(name)):
            row = each.row
            mark = "fitted" if each.fitted else "outside" if each.step.outside else "unseen"
            rows.append((
                f"{row}, {card}".replace(f"GPUs, {card}", card) if len(names) > 1 else str(row),
                *([f"{row.micro_batch_tokens:,} x {row.gradient_accumulation_steps}"] if tokens else []),
                _three_digits(row.step_seconds), _three_digits(each.step.expected_seconds), f"{each.error:+.0%}", mark,
            ))  # fmt: skip
    head = ("Run", *(["Tokens of a GPU"] if tokens else []), "Published, s", "Expected, s", "Error", "")
    return table(head, rows, ["left"] + ["right"] * (len(head) - 2) + ["left"])


def _three_digits(seconds):
    return f"{seconds:#.3g}".rstrip(".")


@block
def measured_links():
    """What others measured on nodes of H100s, beside what the model takes from data sheets."""
    seen, machine = MEASURED_LINKS, cluster(MEASURED_LINKS.card, MEASURED_LINKS.link)
    rows = [
        ("all-reduce between nodes", nccl.bus_rate(machine, 128), seen.outer_all_reduce_bytes_per_second),
        ("all-reduce in a node", nccl.bus_rate(machine, 8), seen.inner_all_reduce_bytes_per_second),
        ("GPU to host", machine.host_bytes_per_second * machine.link_share, seen.host_bytes_per_second),
    ]
    rows = [(name, f"{ours / 1e9:.0f}", f"{theirs / 1e9:.4g}") for name, ours, theirs in rows]
    head = ("Link", "The model, from the data sheet, GB/s", "Measured by others, GB/s")
    return f"{table(head, rows)}\n\nCited: {seen.source}; {seen.card}, {seen.link}."


@block
def zero3_figure():
    """Narayanan's ZeRO-3 runs beside the model, at the rate of one adapter of a node."""
    rows = published.compare(published.table("zero3, one adapter"))
    inside = f"{sum(row.inside for row in rows)} of the {len(rows)} steps"
    title = f"If a collective gets one network adapter, {inside} lie between the two bounds"
    alt = "Seconds a step, modelled bounds and published: " + "; ".join(
        f"{row.row}: {row.step.overlapped_seconds:.0f} to {row.step.exposed_seconds:.0f}, "
        f"published {row.row.step_seconds:.0f}"
        for row in rows
    )
    ranges = {str(row.row): (row.step.overlapped_seconds, row.step.exposed_seconds) for row in rows}
    return modelled_ranges(
        ranges, {str(row.row): row.row.step_seconds for row in rows}, title, f"{alt}.", "seconds a step"
    )


@block
def training_example():
    """What the program prints for one run."""
    arguments = "--model 7b --stage 1 --world-size 64 --gpu H100 --micro-batch-size 4 --tokens 1e12 --price 2.5"
    printed = report.report(report.parse(arguments.split()))
    return f"```text\n$ python -m labsupport.step_time {arguments}\n{printed}\n```\n"


@block
def all_reduce_figure():
    """The published all-reduce on one and four nodes of B200, with the model that nothing was fitted for."""
    measured, modelled = {}, {}
    for size, gpus, seconds, prediction in published.all_reduce_rows():
        measured.setdefault(f"{gpus} GPUs", {})[size / 2**20] = seconds * 1e3
        modelled.setdefault(f"{gpus} GPUs", {})[size / 2**20] = prediction * 1e3
    worst = {name: min(modelled[name][size] / measured[name][size] for size in measured[name]) for name in measured}
    title = (
        f"In a node the model is never below {worst['8 GPUs']:.0%} of the published time, "
        f"between nodes it falls to {worst['32 GPUs']:.0%} for small messages"
    )
    alt = (
        "Published all-reduce times on 8 and 32 B200 GPUs from 32 KiB to 16 GiB, with the modelled lines. "
        + "; ".join(
            f"{name}: the lowest ratio of modelled to published is {ratio:.2f}" for name, ratio in worst.items()
        )
    )
    return fitted_lines(measured, modelled, title, f"{alt}.", "message, MiB", "time of one all-reduce, ms", "published")


# Scaling


@block
def weak_figure():
    """Weak scaling of stages 0, 1 and 3."""
    lines = {
        f"stage {stage}": _shares(weak_scaling(GPT[MODEL], stage, cluster(CARD, LINK), GPU_COUNTS, MICRO_BATCH_TOKENS))
        for stage in (0, 1, 3)
    }
    last = {name: points[-1][1] for name, points in lines.items()}
    title = (
        f"Modelled weak scaling: at {GPU_COUNTS[-1]:,} GPUs stage 1 computes {last['stage 1']:.0f} % of the step, "
        f"stage 3 {last['stage 3']:.0f} %"
    )
    return _share_figure(
        lines, title, f"Weak scaling, {MODEL} parameters, {MICRO_BATCH_TOKENS:,} tokens a GPU and step"
    )


@block
def strong_figure():
    """Strong scaling of stages 1, 2 and 3: one batch over ever more GPUs."""
    lines = {
        f"stage {stage}": _shares(
            strong_scaling(GPT[MODEL], stage, cluster(CARD, LINK), GPU_COUNTS, BATCH_TOKENS, MICRO_BATCH_TOKENS)
        )
        for stage in (1, 2, 3)
    }
    last = {name: points[-1][1] for name, points in lines.items()}
    title = (
        f"Modelled strong scaling: with one batch over {GPU_COUNTS[-1]:,} GPUs stage 1 computes "
        f"{last['stage 1']:.0f} % of the step, stage 3 {last['stage 3']:.0f} %"
    )
    return _share_figure(
        lines, title, f"Strong scaling, {MODEL} parameters, {BATCH_TOKENS:,} tokens a step over all GPUs"
    )


@block
def sizes_figure():
    """Stage 3 from 1.7 billion to a trillion parameters, on 64, 256 and 1,024 GPUs."""
    machine, sizes = cluster(CARD, LINK), [name for name in GPT if name != "174.6B"]
    lines = {}
    for gpus in (64, 256, 1024):
        points = [(GPT[name], weak_scaling(GPT[name], 3, machine, [gpus], MICRO_BATCH_TOKENS)[0]) for name in sizes]
        lines[f"{gpus:,} GPUs"] = [(model.parameters / 1e9, _share(point), point.fits) for model, point in points]
    small, large = (lines["1,024 GPUs"][position][1] for position in (0, -1))
    title = (
        f"Modelled stage 3 on 1,024 GPUs: {sizes[0]} parameters compute {small:.0f} % of the step, "
        f"a trillion {large:.0f} %"
    )
    ticks = [round(GPT[name].parameters / 1e9, 1) for name in sizes[::2]]
    return _share_figure(
        lines, title, f"Stage 3, {MICRO_BATCH_TOKENS:,} tokens a GPU and step", "parameters, billion", ticks
    )


@block
def break_even():
    """The tokens a GPU below which stage 3's messages take longer than its compute, for cards and networks."""
    links, machines = ("25 GbE", "100 GbE", "HDR", "NDR"), ("A100-80GB", "H100", "B200")
    rows = []
    for card in machines:
        inside = stage3_break_even_tokens(GPT[MODEL], cluster(card, LINK), 8)
        outside = [stage3_break_even_tokens(GPT[MODEL], cluster(card, link), 64) for link in links]
        many = stage3_break_even_tokens(GPT[MODEL], cluster(card, LINK), 1024)
        rows.append((card, *(f"{tokens:,.0f}" for tokens in (inside, *outside, many))))
    return table(("GPU", "8 in one node", *(f"64 over {link}" for link in links), f"1,024 over {LINK}"), rows)


def _shares(points):
    return [(point.world_size, _share(point), point.fits) for point in points]


def _share(point):
    """Percent of the expected step that computes."""
    return 100 * point.step.compute_seconds / point.step.expected_seconds


def _share_figure(lines, title, what, x_title="GPUs", ticks=None):
    ends = "; ".join(
        f"{name}: {points[0][1]:.0f} % at {points[0][0]:,.2g}, {points[-1][1]:.0f} % at {points[-1][0]:,.4g}"
        for name, points in lines.items()
    )
    alt = (
        f"{what}, {CARD} with {LINK}, modelled. Share of the step that computes: {ends}. "
        "Hollow marks: the model states do not fit."
    )
    return modelled_lines(lines, title, alt, x_title, "share of the step that computes, %", ticks or GPU_COUNTS[::2])


def _worlds():
    """{number of ranks: what was measured and fitted there}, for the numbers with messages."""
    worlds = read_record("step_time")["measured"]["worlds"]
    return {ranks: world for ranks, world in worlds.items() if "collectives" in world}


def _predicted(ranks, world):
    """Today's prediction of the recorded steps, made from the recorded times."""
    recorded = read_record("step_time")
    seconds, alone = (
        {task: statistics.median(taken) for task, taken in each["samples"].items()}
        for each in (world, recorded["measured"]["worlds"]["1"])
    )
    rates = {name: (fit["alpha_seconds"], fit["bytes_per_second"]) for name, fit in world["collectives"].items()}
    zero = recorded["config"][str(ranks)][3]["zero_optimization"]
    model = Transformer(world["parameters"], world["layers"], 0)
    return predicted_steps(
        model, ranks, seconds, alone, rates, element_bytes=4, bucket_elements=zero["stage3_prefetch_bucket_size"]
    )  # the runs are in fp32


def _measured_by(record):
    return f"`{record['command']}`, {provenance(record)}; medians of {record['counted']} rounds."


def _words(collective):
    return collective.replace("_", "-")


def _spoken(name):
    return name.replace("_", " ").replace("pytorch", "PyTorch")
