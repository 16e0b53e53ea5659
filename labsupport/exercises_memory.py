"""The exercises of lab 04 on bytes: what a rank holds at each stage, and how many ranks a model needs."""

import math
from fractions import Fraction

from labsupport.judging import Exercise, Mistake, Mistaken, Unusable, call, describe, require_number

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
    mistakes={
        "everything too early": Mistake(
            "Your stage {stage} divides everything by the number of ranks. A stage divides one kind more than the one "
            "before it, and only stage 3 divides all three.",
            (
                """def bytes_on_a_rank(parameters, stage, world_size):
    return 16 * parameters / (world_size if stage else 1)""",
            ),
            "Which of the 2, the 2 and the 12 does stage 1 leave whole on every rank?",
        ),
        "no master": Mistake(
            "Your optimizer states take 8 bytes a parameter: momentum and variance. In mixed precision the optimizer "
            "also keeps the master weight in fp32, 4 bytes more.",
            (
                """def bytes_on_a_rank(parameters, stage, world_size):
    optimizer = 8 * parameters / (world_size if stage >= 1 else 1)
    gradients = 2 * parameters / (world_size if stage >= 2 else 1)
    return optimizer + gradients + 2 * parameters / (world_size if stage >= 3 else 1)""",
            ),
        ),
        "gradients whole": Mistake(
            "Your stage 2 holds what stage 1 holds. From stage 2 on a rank keeps only its part of the gradients.",
            (
                """def bytes_on_a_rank(parameters, stage, world_size):
    per_rank = {0: 16, 1: 4 + 12 / world_size, 2: 4 + 12 / world_size, 3: 16 / world_size}
    return parameters * per_rank[stage]""",
            ),
        ),
        "parameters whole": Mistake(
            "Your stage 3 holds what stage 2 holds. At stage 3 the parameters are partitioned as well.",
            (
                """def bytes_on_a_rank(parameters, stage, world_size):
    whole = {0: 16, 1: 4, 2: 2, 3: 2}[stage]
    return parameters * (whole + (16 - whole) / world_size)""",
            ),
        ),
        "limit": Mistake(
            "Your stage {stage} needs {limit} bytes a parameter on {ranks} ranks. That is the limit for very many "
            "ranks, where the divided part has become too thin to count; on few ranks it counts.",
            (
                """def bytes_on_a_rank(parameters, stage, world_size):
    return 16 * parameters / {0: 1, 1: 4, 2: 8, 3: world_size}[stage]""",
            ),
            "Compute the whole part and the divided part one by one, and add them.",
        ),
        "fixed share": Mistake(
            "Your stage {stage} needs {bytes} bytes a parameter on 2 ranks and on 64. What a stage divides, it divides "
            "by the number of ranks, not by the number of the stage.",
            (
                """def bytes_on_a_rank(parameters, stage, world_size):
    return 16 * parameters * (1 - stage / 4)""",
                "def bytes_on_a_rank(parameters, stage, world_size):\n    return 16 * parameters / (stage + 1)",
            ),
        ),
        "unit": Mistake(
            "The formula is right and the unit is not: return bytes, neither MiB nor GB nor GiB.",
            (
                """def bytes_on_a_rank(parameters, stage, world_size):
    whole = {0: 16, 1: 4, 2: 2, 3: 0}[stage]
    return parameters * (whole + (16 - whole) / world_size) / 2**30""",
            ),
        ),
        "another number": Mistake(
            "Stage {stage}, {ranks} ranks, {parameters} parameters: your function counts {bytes} bytes a parameter, "
            "and the paper does not.",
            (
                """def bytes_on_a_rank(parameters, stage, world_size):
    whole = {0: 20, 1: 4, 2: 2, 3: 0}[stage]
    return parameters * (whole + (20 - whole) / world_size)""",
            ),
            "Start from 2 + 2 + 12 and ask of each of the three whether this stage divides it.",
        ),
    },
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
    mistakes={
        "divided the total": Mistake(
            "Stage {stage}, {parameters} parameters, {card} bytes: {given} ranks is 16 bytes a parameter divided by "
            "the card. Stage {stage} does not divide all 16; on {given} ranks each still holds {held} bytes.",
            (
                """import math

def fewest_ranks(parameters, stage, card_bytes):
    whole = {0: 16, 1: 4, 2: 2, 3: 0}[stage] * parameters
    if stage and whole >= card_bytes or not stage and whole > card_bytes:
        return None
    return math.ceil(16 * parameters / card_bytes)""",
            ),
            "What stays whole takes its room first; the ranks divide the rest.",
        ),
        "does not fit": Mistake(
            "Stage {stage}, {parameters} parameters: on {given} ranks each holds {held} bytes, and the card gives "
            "{card}. A part of a rank does not exist, so the division is rounded up.",
            (
                """def fewest_ranks(parameters, stage, card_bytes):
    if stage == 0:
        return 1 if 16 * parameters <= card_bytes else None
    whole = {1: 4, 2: 2, 3: 0}[stage] * parameters
    if whole >= card_bytes:
        return None
    return max(1, (16 * parameters - whole) // (card_bytes - whole))""",
            ),
        ),
        "fits on fewer": Mistake(
            "Stage {stage}, {parameters} parameters, {card} bytes: {given} ranks are enough, and fewer are too. "
            "A rank may fill its card to the last byte, and one rank is a number of ranks as well.",
            (
                """def fewest_ranks(parameters, stage, card_bytes):
    if stage == 0:
        return 1 if 16 * parameters <= card_bytes else None
    whole = {1: 4, 2: 2, 3: 0}[stage] * parameters
    if whole >= card_bytes:
        return None
    return (16 * parameters - whole) // (card_bytes - whole) + 1""",
            ),
        ),
        "no number": Mistake(
            "Stage {stage}, {parameters} parameters, {card} bytes: your function answers {given}. Stage {stage} leaves "
            "{floor} bytes a parameter whole on every rank, {held} in all, so no number of ranks is enough: None.",
            (
                """import math

def fewest_ranks(parameters, stage, card_bytes):
    return math.ceil(16 * parameters / card_bytes)""",
                """def fewest_ranks(parameters, stage, card_bytes):
    whole = {0: 16, 1: 4, 2: 2, 3: 0}[stage] * parameters
    ranks = 1
    while ranks < 500_000 and whole + (16 * parameters - whole) / ranks > card_bytes:
        ranks += 1
    return ranks""",
            ),
        ),
        "none": Mistake(
            "Stage {stage}, {parameters} parameters, {card} bytes: there is a number of ranks that is enough, and your "
            "function returns None.",
            (
                """def fewest_ranks(parameters, stage, card_bytes):
    whole = {0: 16, 1: 4, 2: 2, 3: 0}[stage] * parameters
    for ranks in range(1, 1025):
        if whole + (16 * parameters - whole) / ranks <= card_bytes:
            return ranks""",
            ),
            "Decide by what stays whole, not by how long you have searched.",
        ),
        "hangs": Mistake(
            "Your function did not end. Stages 0, 1 and 2 leave a part whole on every rank; where that part alone "
            "fills the card, no number of ranks is enough, and a search never finds one.",
            (
                """def fewest_ranks(parameters, stage, card_bytes):
    whole = {0: 16, 1: 4, 2: 2, 3: 0}[stage] * parameters
    ranks = 1
    while whole + (16 * parameters - whole) / ranks > card_bytes:
        ranks += 1
    return ranks""",
            ),
        ),
    },
)
