"""The exercises of lab 04 on bytes: what a rank holds at each stage, and how many ranks a model needs."""

import math
from fractions import Fraction

from labsupport import mistakes_memory as mistakes
from labsupport.exercises.answers import call, describe, require_number
from labsupport.exercises.exercise import Exercise, Mistaken, Unusable

STAGES = (0, 1, 2, 3)

SIZES = {"optimizer states": 12, "gradients": 2, "parameters": 2}  # bytes a parameter, mixed precision, Adam
FIRST_SPLIT = {"optimizer states": 1, "gradients": 2, "parameters": 3}  # the stage that divides them first


def _left_whole(stage, sizes=SIZES):
    """Bytes a parameter that every rank holds whatever their number."""
    return sum(size for kind, size in sizes.items() if stage < FIRST_SPLIT[kind])


def _paper(parameters, stage, ranks, optimizer_bytes=12):
    """Bytes of model states on each rank, exactly: ZeRO, arXiv 1910.02054, section 5."""
    sizes = SIZES | {"optimizer states": optimizer_bytes}
    whole = _left_whole(stage, sizes)
    return parameters * (whole + Fraction(sum(sizes.values()) - whole, ranks))


def _same(given, expected):
    return math.isclose(given, expected, rel_tol=1e-6)


def _bytes(answer):
    points = [(size, stage, ranks) for size in (124_000_000, 7_500_000_000) for stage in STAGES for ranks in (2, 3, 64)]
    points += [(1_300_000_000, stage, 1) for stage in STAGES]
    given = {at: require_number(call(answer, *at), f"What your function returns for {at}") for at in points}
    if all(_same(given[at], _paper(*at)) for at in points):
        return
    _know_whole_formula(given)
    _know_one_stage(given)
    size, stage, ranks = next(at for at in points if not _same(given[at], _paper(*at)))
    a_parameter = given[size, stage, ranks] / size
    raise Mistaken("another number", stage=stage, ranks=ranks, parameters=f"{size:,}", bytes=f"{a_parameter:.4g}")


def _know_whole_formula(given):
    for unit in (2**30, 2**20, 1e9):
        if all(_same(value * unit, _paper(*at)) for at, value in given.items()):
            raise Mistaken("unit")
    if all(_same(value, _paper(*at, optimizer_bytes=8)) for at, value in given.items()):
        raise Mistaken("no master")


def _know_one_stage(given):
    size = 7_500_000_000

    def bytes_a_parameter(stage, ranks):
        return given[size, stage, ranks] / size

    for stage, limit in ((1, 4), (2, 2)):
        if _same(bytes_a_parameter(stage, 2), limit):
            raise Mistaken("limit", stage=stage, limit=limit, ranks=2)
    for stage in (1, 2, 3):
        if bytes_a_parameter(stage, 2) == bytes_a_parameter(stage, 64):
            raise Mistaken("fixed share", stage=stage, bytes=f"{bytes_a_parameter(stage, 2):.4g}")
    for stage in (1, 2):
        if _same(bytes_a_parameter(stage, 64), 16 / 64):
            raise Mistaken("everything too early", stage=stage)
    if _same(bytes_a_parameter(2, 64), _paper(1, 1, 64)):
        raise Mistaken("gradients whole")
    if _same(bytes_a_parameter(3, 64), _paper(1, 2, 64)):
        raise Mistaken("parameters whole")


BYTES = Exercise(
    id="04-bytes",
    title="Model states on one rank",
    difficulty=1,
    minutes=5,
    target="the paper's bytes, for every stage, on 1, 2, 3 and 64 ranks",
    answer="bytes_on_a_rank",
    check=_bytes,
    mistakes=mistakes.BYTES,
)


CARDS = (  # parameters, bytes that a card gives to model states
    (7_000_000_000, 24_000_000_000),
    (7_000_000_000, 80_000_000_000),
    (1_300_000_000, 24_000_000_000),
    (8_000_000_000, 16_000_000_000),  # stage 2 would need exactly all of it, and no end of ranks
    (3_000_000_000, 12_000_000_000),  # the same for stage 1; stage 3 fits four ranks to the byte
    (1_000_000_000, 4_000_061_000),  # stage 1 fits, on very many ranks, and not to the byte: floats would round there
)


def _fewest(parameters, stage, card_bytes):
    """The smallest number of ranks, exactly, or None."""
    whole = _left_whole(stage) * parameters
    divided = 16 * parameters - whole
    if divided == 0:
        return 1 if whole <= card_bytes else None
    return max(1, math.ceil(Fraction(divided, card_bytes - whole))) if whole < card_bytes else None


def _fewest_ranks(answer):
    for parameters, card in CARDS:
        for stage in STAGES:
            given = call(answer, parameters, stage, card)
            if given is not None:
                number = require_number(given, f"What your function returns for {(parameters, stage, card)}")
                if not math.isfinite(number) or number != int(number) or number < 1:
                    raise Unusable(f"Your function returns {describe(given)}: ranks are whole, from 1 on, or None.")
                given = int(number)
            if given != _fewest(parameters, stage, card):
                _explain_ranks(given, parameters, stage, card)


def _explain_ranks(given, parameters, stage, card):
    case = {"stage": stage, "parameters": f"{parameters:,}", "card": f"{card:,}", "given": given}
    expected = _fewest(parameters, stage, card)
    if expected is None:
        floor = _left_whole(stage)
        raise Mistaken("no number", **case, floor=floor, held=f"{floor * parameters:,}")
    if given is None:
        raise Mistaken("none", **case)
    if given > expected:
        raise Mistaken("fits on fewer", **case)
    held = f"{math.ceil(_paper(parameters, stage, given)):,}"
    if stage < 3 and given == math.ceil(Fraction(16 * parameters, card)):
        raise Mistaken("divided the total", **case, held=held)
    raise Mistaken("does not fit", **case, held=held)


FEWEST_RANKS = Exercise(
    id="04-fewest-ranks",
    title="How many ranks does it take?",
    difficulty=2,
    minutes=8,
    target="the smallest number of ranks for every stage, and None where no number is enough",
    answer="fewest_ranks",
    check=_fewest_ranks,
    seconds=6,
    mistakes=mistakes.FEWEST_RANKS,
)
