"""Exercise 04-fewest-ranks: How many ranks does it take?."""

import math
from fractions import Fraction

from labsupport.exercises.answers import call, describe, require_number
from labsupport.exercises.exercise import Exercise, Mistake, Mistaken, Unusable
from labsupport.exercises.lab_04_stages.collectives import STAGES
from labsupport.exercises.lab_04_stages.paper import left_whole, paper_bytes

CARDS = (  # parameters, bytes that a card gives to model states
    (7_000_000_000, 24_000_000_000),
    (7_000_000_000, 80_000_000_000),
    (1_300_000_000, 24_000_000_000),
    (8_000_000_000, 16_000_000_000),  # stage 2 would need exactly all of it, and no end of ranks
    (3_000_000_000, 12_000_000_000),  # the same for stage 1; stage 3 fits four ranks to the byte
    (1_000_000_000, 16_000_000_000),  # stage 0 fills the card to the last byte
    (1_000_000_000, 4_000_061_000),  # stage 1 fits, on very many ranks, and not to the byte: floats would round there
)


def _fewest(parameters, stage, card_bytes):
    """The smallest number of ranks, exactly, or None."""
    whole = left_whole(stage) * parameters
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
    parameters, card = CARDS[0]
    needed = ", ".join(str(_fewest(parameters, stage, card)) for stage in STAGES)
    return (
        f"All {len(CARDS) * len(STAGES)} numbers are the smallest that fit. {parameters / 1e9:g} billion parameters on "
        f"cards of {card / 1e9:g} GB need, at stages 0 to 3: {needed}."
    )


def _explain_ranks(given, parameters, stage, card):
    case = {"stage": stage, "parameters": f"{parameters:,}", "card": f"{card:,}", "given": given}
    expected = _fewest(parameters, stage, card)
    if expected is None:
        floor = left_whole(stage)
        raise Mistaken("no number", **case, floor=floor, held=f"{floor * parameters:,}")
    if given is None:
        raise Mistaken("none", **case)
    if given > expected:
        raise Mistaken("fits on fewer", **case)
    held = f"{math.ceil(paper_bytes(parameters, stage, given)):,}"
    if stage < 3 and given == math.ceil(Fraction(16 * parameters, card)):
        raise Mistaken("divided the total", **case, held=held)
    raise Mistaken("does not fit" if given == expected - 1 else "too few", **case, held=held)


MISTAKES = {
    "divided the total": Mistake(
        "Stage {stage}, {parameters} parameters, {card} bytes: {given} ranks is 16 bytes a parameter divided by "
        "the card. Stage {stage} does not divide all 16; on {given} ranks each still holds {held} bytes.",
        "What stays whole takes its room first; the ranks divide the rest.",
    ),
    "does not fit": Mistake(
        "Stage {stage}, {parameters} parameters: on {given} ranks each holds {held} bytes, and the card gives "
        "{card}. A part of a rank does not exist, so the division is rounded up."
    ),
    "too few": Mistake(
        "Stage {stage}, {parameters} parameters: on {given} ranks each holds {held} bytes, and the card gives "
        "{card}. Usually a kind of model state is left out, or the search ends too early.",
        "2 + 2 + 12 bytes a parameter: which of them do you count?",
    ),
    "fits on fewer": Mistake(
        "Stage {stage}, {parameters} parameters, {card} bytes: {given} ranks are enough, and fewer are too. "
        "A rank may fill its card to the last byte, and one rank is a number of ranks as well."
    ),
    "no number": Mistake(
        "Stage {stage}, {parameters} parameters, {card} bytes: your function answers {given}. Stage {stage} leaves "
        "{floor} bytes a parameter whole on every rank, {held} in all, so no number of ranks is enough: None."
    ),
    "none": Mistake(
        "Stage {stage}, {parameters} parameters, {card} bytes: there is a number of ranks that is enough, and your "
        "function returns None.",
        "Decide by what stays whole, not by how long you have searched; a card may be filled to the last byte.",
    ),
    "hangs": Mistake(
        "Your function did not end. Stages 0, 1 and 2 leave a part whole on every rank; where that part alone "
        "fills the card, no number of ranks is enough, and a search never finds one."
    ),
}


EXERCISE = Exercise(
    id="04-fewest-ranks",
    title="How many ranks does it take?",
    difficulty=2,
    minutes=15,
    target="the smallest number of ranks for every stage, and None where no number is enough",
    answer="fewest_ranks",
    check=_fewest_ranks,
    seconds=6,
    mistakes=MISTAKES,
)
