"""Exercise 10-cut: Who owns what."""

import functools

from labsupport.exercises.answers import call_unchanged, describe, is_integer
from labsupport.exercises.exercise import Exercise, Mistake, Mistaken, Unusable
from labsupport.exercises.lab_10_build_zero.by_deepspeed import small_config, with_gradients
from labsupport.exercises.lab_10_build_zero.worlds import RANKS
from labsupport.wording import ranks_in_words

LIVE = (10, 3, 33, 1, 6)  # the sizes that a live engine cuts: 53 elements, padded to 56 on four ranks


def _cut(answer):
    live = _shares_of_engine()
    cases = [(LIVE, RANKS), ((8, 8), 2), ((8, 8), 4), ((5,), 1), ((7, 2, 9), 3), ((3,), 4), ((1, 1, 1), 8)]
    cases += [(tuple(sizes), ranks) for sizes, ranks in _drawn(20)]
    for sizes, ranks in cases:
        given = [_parts(call_unchanged(answer, list(sizes), rank, ranks), sizes) for rank in range(ranks)]
        row, expected = [part for part, _ in given], _shares(sizes, ranks)
        if row != expected:
            _explain(sizes, ranks, given, expected)
    mine = [
        part for part, _ in (_parts(call_unchanged(answer, list(LIVE), rank, RANKS), LIVE) for rank in range(RANKS))
    ]
    if mine != live:
        raise Unusable("Your shares are not those of the live engine.")
    largest = max(len({number for number, _ in share if number >= 0}) for share in live)
    return (
        f"Measured on 4 live ranks at stage 1: {sum(LIVE)} weights become a row of {sum(map(len, live))}, "
        f"{len(live[0])} on each rank; one rank has pieces of {largest} tensors. {len(cases)} other rows agree as well."
    )


def _drawn(count):
    import random

    draw = random.Random(10)
    for _ in range(count):
        yield [draw.randint(1, 40) for _ in range(draw.randint(1, 6))], draw.randint(1, 9)


def _parts(returned, sizes):
    """Return ([(tensor, element)] of a share with (-1, -1) for padding, the padding) or raise Unusable."""
    if not isinstance(returned, tuple | list) or len(returned) != 2 or not isinstance(returned[0], tuple | list):
        raise Unusable(f"Your function returned {describe(returned)}: return the pair (pieces, padding).")
    pieces, padding = returned
    if not is_integer(padding):
        raise Unusable(f"The padding is {describe(padding)}: it has to be a whole number of elements.")
    share = []
    for piece in pieces:
        if not isinstance(piece, tuple | list) or len(piece) != 3 or not all(map(is_integer, piece)):
            raise Unusable(f"One of the pieces is {describe(piece)}: each has to be (tensor, start, stop).")
        number, start, stop = map(int, piece)
        if not 0 <= number < len(sizes):
            raise Unusable(f"A piece is of tensor {number}, and there are {len(sizes)} tensors, counted from 0.")
        if not 0 <= start <= stop:
            values = {"sizes": " + ".join(map(str, sizes)), "number": number, "start": start, "stop": stop}
            raise Mistaken("no stretch", **values)
        share += [(number, element) for element in range(start, min(stop, start + 1000))]
    return share + [(-1, -1)] * min(int(padding), 1000), int(padding)


def _shares(sizes, ranks):
    """Return each rank's share, as _parts does, from the row that DeepSpeed's own function aligns."""
    import torch
    from deepspeed.runtime.utils import align_dense_tensors

    marked = [torch.arange(size) * 1000 + number + 1 for number, size in enumerate(sizes)]
    row = torch.cat(align_dense_tensors(marked, 2 * ranks))
    return [[_element(int(value)) for value in share] for share in row.chunk(ranks)]


def _element(mark):
    return (mark % 1000 - 1, mark // 1000) if mark else (-1, -1)


@functools.cache
def _shares_of_engine():
    """Return each rank's share of LIVE, read from the masters of an engine at stage 1 on all ranks."""
    import deepspeed
    import torch

    marked = [torch.arange(size) * 1000.0 + number + 1 for number, size in enumerate(LIVE)]
    optimizer = {"type": "Adam", "params": {"torch_adam": True}}
    engine = deepspeed.initialize(model=with_gradients(marked), config=small_config(1, optimizer))[0]
    mine = [_element(int(value)) for value in engine.optimizer.single_partition_of_fp32_groups[0]]
    engine.destroy()
    shares = [None] * RANKS
    torch.distributed.all_gather_object(shares, mine)
    return shares


def _explain(sizes, ranks, given, expected):
    rank = next(rank for rank in range(ranks) if given[rank][0] != expected[rank])
    lengths, right = [len(share) for share, _ in given], len(expected[0])
    values = {
        "sizes": " + ".join(map(str, sizes)),
        "ranks": ranks_in_words(ranks),
        "rank": rank,
        "right": right,
        "has": lengths[rank],
    }
    values["lengths"] = ", ".join(map(str, lengths))
    covered = sorted(each for share, _ in given for each in share if each[0] >= 0)
    every = [(number, element) for number, size in enumerate(sizes) for element in range(size)]
    if any(padding < 0 for _, padding in given):
        raise Mistaken("negative padding", **values)
    if any(element >= sizes[number] for number, element in covered):
        raise Mistaken("places in the row", **values)
    if covered != every:
        lost, twice = len(set(every) - set(covered)), len(covered) - len(set(covered))
        raise Mistaken("not every weight once", lost=lost, twice=twice, **values)
    if len(set(lengths)) > 1:
        raise Mistaken("unequal", **values)
    if lengths[0] != right:
        raise Mistaken("not even" if lengths[0] % 2 else "another length", **values)
    raise Mistaken("another order", **values)


MISTAKES = {
    "not every weight once": Mistake(
        "Sizes {sizes} on {ranks}: {lost} elements are on no rank, and {twice} are on one rank too many. Usually "
        "a tensor that reaches over a border between two ranks is given to one of them, or to neither.",
        "A tensor's piece on a rank is where the tensor's stretch of the row and the rank's stretch overlap.",
    ),
    "no stretch": Mistake(
        "Sizes {sizes}: a piece of tensor {number} goes from {start} to {stop}. Usually a tensor got a piece that the "
        "rank's stretch of the row does not reach, or a piece begins before its tensor."
    ),
    "unequal": Mistake(
        "Sizes {sizes} on {ranks}: the shares have {lengths} elements, padding counted. All have to be equally "
        "long: a reduce-scatter and an all-gather give every rank the same number."
    ),
    "not even": Mistake(
        "Sizes {sizes} on {ranks}: your shares have {lengths} elements. They are equal, and DeepSpeed's have "
        "{right}: every share begins at an even element, so the row is a multiple of twice the number of ranks."
    ),
    "another length": Mistake(
        "Sizes {sizes} on {ranks}: your shares have {lengths} elements, DeepSpeed's {right}: as few as are "
        "needed "
        "for equal and even shares."
    ),
    "places in the row": Mistake(
        "Sizes {sizes} on {ranks}: a piece reaches past the end of its tensor. Usually start and stop are "
        "counted from the beginning of the row; they are counted from the beginning of the tensor."
    ),
    "negative padding": Mistake(
        "Sizes {sizes} on {ranks}: a rank is told a padding below 0. The padding may be longer than one share, "
        "and then more than one rank has some."
    ),
    "another order": Mistake(
        "Sizes {sizes} on {ranks}: every weight is there once, and rank {rank} has others than in DeepSpeed. The "
        "row is the tensors one after the other in their order, and rank 0 has its first stretch. Usually each tensor "
        "was cut by itself: that is stage 3's way."
    ),
}


EXERCISE = Exercise(
    id="10-cut",
    title="Who owns what",
    difficulty=3,
    minutes=12,
    target="the shares are those of DeepSpeed's stage 1, for 27 rows on 1 to 9 ranks and on a live engine",
    answer="cut",
    check=_cut,
    ranks=RANKS,
    seconds=30,
    mistakes=MISTAKES,
)
