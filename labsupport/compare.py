"""The stage comparison behind `--compare`: real runs of stages 0 to 3, side by side."""

from tabulate import tabulate

from labsupport.command_line import write_json
from labsupport.errors import LabError
from labsupport.launch.launcher import run_program
from labsupport.wording import mebibytes

BEST_FOR = {
    0: "models that fit whole on every rank",
    1: "large optimizer states, DDP's speed",
    2: "one step further: gradients are split too",
    3: "models that fit on no single GPU",
}


def compare_stages(options):
    """Run stages 0 to 3 with the same model, data and seed; print the table; return the exit status."""
    if options.config or options.resume or options.save:
        raise LabError("--compare builds its own four configs: leave out --config, --resume and --save.")
    ranks = options.ranks or default_ranks()
    arguments = ["--precision", options.precision, "--steps", options.steps, "--micro-batch", options.micro_batch,
                 "--accumulation", options.accumulation, "--sequence-length", options.sequence_length,
                 "--lr", options.lr, "--seed", options.seed]  # fmt: skip
    if options.model:
        arguments += ["--model", options.model]
    if options.compile:
        arguments += ["--compile"]
    results = []
    for stage in range(4):
        print(f"Stage {stage}: training {options.steps} steps on {ranks} ranks ...", flush=True)
        results.append(run_program(["--stage", stage, *arguments], ranks))
    print(table(results), flush=True)
    if options.json:
        write_json(options.json, {"runs": results})
    return 0


def default_ranks():
    """Return how many ranks a comparison gets here: one a GPU, at least two ranks on a CPU."""
    from labsupport.machine.hardware import describe_machine

    machine = describe_machine()
    return machine.devices if machine.accelerator == "cuda" else 2


def table(results):
    """Return the comparison as text: bytes and speed as measured, and as a share of stage 0's."""
    base = results[0]
    place = "GPU" if base["accelerator"] == "cuda" else "rank"
    rows = []
    for result in results:
        memory, speed = result["model_state_bytes_per_rank"], result["samples_per_second"]
        rows.append((
            str(result["stage"]),
            f"{mebibytes(memory)} ({memory / base['model_state_bytes_per_rank']:.0%})",
            f"{speed:.1f} samples/s ({speed / base['samples_per_second']:.0%})",
            BEST_FOR[result["stage"]],
        ))  # fmt: skip
    head = ("Stage", f"Memory per {place}", "Speed", "Best for")
    text = tabulate(rows, head, "simple", disable_numparse=True, colalign=["left"] * len(head))
    note = (
        f"Measured: {base['model']} model, {base['parameters']:,} parameters, {base['precision']}, "
        f"{base['world_size']} ranks, {base['hardware']}. "
        "Memory is model states: parameters, gradients, master weights, optimizer states; "
        f"speed is the median of {len(base['step_seconds'])} steps. Shares are of stage 0 in this run."
    )
    if base["world_size"] == 1:
        note += " On one rank nothing is partitioned, so the stages differ by their buffers alone."
    return f"{text}\n{note}"
