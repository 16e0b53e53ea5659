"""The computed blocks of book/selector.md."""

import itertools
import math

from course.blocks.block import block
from course.table import table
from labsupport.memory.room import fits, host_bytes_of_node, last_that_holds, loading_bytes_of_node
from labsupport.runs import strategy_in_words
from labsupport.shapes import config_of
from labsupport.widgets.selector.choices import DEFAULT, OWN, farthest, plan_of_choice, shape_of_choice, strategies
from labsupport.wording import gigabytes

SEVEN_BILLION = DEFAULT | {"model": "7b", "card": "RTX 4090", "world_size": 4, "micro_batch_size": 1}


@block
def seven_billion_on_four():
    """The answer to the page's question, worked out with the planner alone."""
    rows = []
    for strategy in strategies():
        plain, recomputed = (
            plan_of_choice(SEVEN_BILLION | strategy | {"checkpointing": checkpointing})
            for checkpointing in (False, True)
        )
        verdicts = [fits(planned, SEVEN_BILLION["card"]) for planned in (plain, recomputed)]
        words = "yes" if verdicts[0] else "with checkpointing" if verdicts[1] else "no"
        host = f"{gigabytes(host_bytes_of_node(recomputed, 4))} GB"
        rows.append((strategy_in_words(**strategy), _gib(plain), _gib(recomputed), words, host))
    head = ("strategy", "peak without checkpointing", "peak with checkpointing", "fits the GPU", "the host needs")
    hosts = "\n".join(f"- With {host} GB of host memory: {_cheapest(host * 1e9)}." for host in (128, 96, 64))
    return f"The cheapest that fits, the host included:\n\n{hosts}\n\n" + table(head, rows, ["left"] * 5)


def _cheapest(host_bytes):
    """The cheapest way that fits four cards and their host, in words; "cheap" as the selector orders its rows."""
    for far, checkpointing, strategy in itertools.product((0, 1, 2), (False, True), strategies()):
        choice = SEVEN_BILLION | strategy | {"checkpointing": checkpointing}
        if farthest(strategy) == far and _has_room(choice, host_bytes):
            how = ", with activation checkpointing" if checkpointing else ""
            planned = plan_of_choice(choice)
            on_host = gigabytes(host_bytes_of_node(planned, 4))
            return f"**{strategy_in_words(**strategy)}**{how}, {_gib(planned)} a GPU and {on_host} GB of the host"
    return "nothing on four cards in one machine"


ONE_CARD = DEFAULT | {"model": "7b", "card": "RTX 4090", "world_size": 1, "micro_batch_size": 1, "checkpointing": True}
SEVENTY_BILLION = DEFAULT | {"model": "llama-2-70b", "card": "H100", "world_size": 8, "micro_batch_size": 1,
                             "checkpointing": True}  # fmt: skip
WAYS = {
    "all on the GPU": {"stage": 0},
    "the optimizer on the host": {"stage": 3, "offload_optimizer": "cpu"},
    "optimizer and parameters on the host": {"stage": 3, "offload_optimizer": "cpu", "offload_param": "cpu"},
}


@block
def largest_on_one_card():
    """How many layers of the shape of 7b fit on one card, with any host and with one of 64 GB."""
    shape = shape_of_choice(ONE_CARD)
    rows = []
    for words, way in WAYS.items():
        limits = []
        for host in (math.inf, 64e9):
            layers = last_that_holds(lambda layers: _has_room(_with_layers(layers) | way, host), 1000)  # noqa: B023
            found = plan_of_choice(_with_layers(layers) | way)
            limits.append(f"{found.parameters / 1e9:.1f} billion ({layers} layers)")
        rows.append((words, *limits))
    offloaded = plan_of_choice(ONE_CARD | WAYS["the optimizer on the host"])
    each = offloaded.host_bytes("peak") / offloaded.parameters
    head = ("what lies where", "the card's limit", "with a host of 64 GB")
    return (
        f"Layers of the shape of `7b`, which has {shape.layers}, with checkpointing:\n\n"
        + table(head, rows, ["left"] * 3)
        + f"\n\nOnce the optimizer is on the host, its memory is the limit: {each:.0f} bytes a parameter lie there."
    )


def _with_layers(layers):
    config = config_of(shape_of_choice(ONE_CARD)._replace(layers=layers))
    return ONE_CARD | {"model": OWN, "config_json": config}


def _has_room(choice, host_bytes):
    planned = plan_of_choice(choice)
    return fits(planned, choice["card"]) and host_bytes_of_node(planned, choice["world_size"]) <= host_bytes


@block
def seventy_billion_on_eight():
    """What 70 billion parameters need on eight cards, and on how many nothing has to be offloaded."""
    alone = plan_of_choice(SEVENTY_BILLION | {"stage": 3})
    offloaded = plan_of_choice(SEVENTY_BILLION | {"stage": 3, "offload_optimizer": "cpu"})
    choice = SEVENTY_BILLION | {"stage": 3}
    fewest = next(n for n in range(8, 65) if fits(plan_of_choice(choice | {"world_size": n}), choice["card"]))
    verdict = "fits" if fits(offloaded, choice["card"]) else "does not fit"
    return (
        f"No: stage 3 with checkpointing needs {_gib(alone)} at the peak of a rank, and an H100 has 79.6 GiB. "
        f"All on the GPU takes {fewest} such cards.\n\n"
        f"On eight, with the optimizer on the host, stage 3 needs {_gib(offloaded)} and {verdict}. "
        f"The host of the eight then needs {gigabytes(host_bytes_of_node(offloaded, 8))} GB when a step peaks, and "
        f"up to {gigabytes(loading_bytes_of_node(offloaded, 8))} GB where each rank loads the whole model."
    )


def _gib(planned):
    return f"{planned.peak_bytes / 2**30:.1f} GiB"
