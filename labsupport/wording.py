"""How results, counts and errors are put into words. No torch."""

BANNER_WIDTH = 64


def banner(result):
    """Return the lab's closing banner for a result, as text."""
    place = "GPU" if result["accelerator"] == "cuda" else "rank (CPU)"
    offload = ", ".join(f"{what} to {where}" for what, where in result["offload"].items() if where != "none") or "none"
    rows = [
        ("ZeRO stage", f"{result['stage']} on {ranks_in_words(result['world_size'])}, {result['precision']}"),
        ("Offload", offload),
        ("Initial loss", f"{result['initial_loss']:.4f}"),
        ("Final loss", f"{result['final_loss']:.4f}"),
        (f"Memory per {place}", f"{mebibytes(result['model_state_bytes_per_rank'])} model states, "
                                f"{mebibytes(result['peak_bytes_per_rank'])} peak"),
        ("Samples per second", f"{result['samples_per_second']:.1f}"),
    ]  # fmt: skip
    lines = [f"{name + ':':24}{value}" for name, value in rows]
    if result["world_size"] == 1 and result["stage"] > 0:
        lines.append("One rank: nothing is partitioned. Start two with: deepspeed --num_gpus 2 ...")
    return framed(lines)


def framed(lines):
    """Return lines of text under the milestone's title."""
    bar = "=" * BANNER_WIDTH
    return "\n".join([bar, "Lab 05 Milestone: DeepSpeed Training Complete!", bar, *lines, bar])


def ranks_in_words(count):
    """Return "1 rank", "2 ranks" and so on."""
    return "1 rank" if count == 1 else f"{count} ranks"


def mebibytes(count):
    """Return a number of bytes as text in MiB."""
    return f"{count / 2**20:.1f} MiB"


def gigabytes(count):
    """Return a number of bytes as text in GB of 1e9, with as many digits as say something."""
    if not count:
        return "-"
    value = count / 1e9
    return f"{value:,.1f}" if value >= 100 else f"{value:.2f}" if value >= 1 else f"{value:.4f}"


def gibibytes(count):
    """Return a number of bytes as text in GiB."""
    return f"{count / 2**30:.1f} GiB"


def first_line(error):
    """Return an error's class and the telling line of its text."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if len(lines) > 2 and "validation error" in lines[0]:  # pydantic: what, where, why
        lines = [f"{lines[1]}: {lines[2].partition(' [type=')[0]}"]
    text = lines[0] if lines else "no message"
    return f"{type(error).__name__}: {text[:300]}"
