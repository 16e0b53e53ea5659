"""Exercise 10-break-even: A step on three lanes."""

import functools
import math

from labsupport.exercises.answers import call, describe, is_number
from labsupport.exercises.exercise import Exercise, Mistake, Mistaken, Unusable
from labsupport.exercises.lab_10_build_zero.worlds import RANKS
from labsupport.wording import ranks_in_words

PIECES = 400  # into which the simulation cuts the backward pass
# Parameters, ranks, FLOP/s, bytes/s of the link, parameters/s of Adam on the host, and the slowdown that is allowed.
CASES = (
    (7e9, 1, 150e12, 20e9, 1.5e9, 1.25),
    (7e9, 8, 150e12, 20e9, 1.5e9, 1.25),
    (1.3e9, 1, 400e12, 50e9, 1e9, 1.1),
    (1.3e9, 4, 60e12, 12e9, 0.2e9, 1.5),
    (13e9, 2, 400e12, 4e9, 20e9, 2.5),  # a slow link: the gradients are still travelling when the backward pass ends
    (13e9, 16, 300e12, 2e9, 50e9, 3.0),
    (124e6, 1, 30e12, 8e9, 1e9, 1.05),
)


def _break_even(answer):
    given = [_tokens(call(answer, *case)) for case in CASES]
    simulated = [_simulated(*case) for case in CASES]
    apart = [abs(mine / tokens - 1) for mine, tokens in zip(given, simulated, strict=True)]
    if max(apart) <= 0.05:
        return (
            f"Simulated, piece by piece: 7 billion parameters on one rank pay from {simulated[0]:,.0f} tokens a step "
            f"on "
            f"(yours: {given[0]:,.0f}), on each of 8 ranks from {simulated[1]:,.0f}; your farthest case is "
            f"{100 * max(apart):.1f} % off."
        )
    _explain(given, simulated, apart)


def _tokens(value):
    if not is_number(value) or not math.isfinite(value) or value <= 0:
        raise Unusable(f"Your function returned {describe(value)}: the tokens of a step are a number above 0.")
    return float(value)


def step_seconds(tokens, parameters, ranks, flops, link, adam):
    """Return the seconds of one step on three lanes, simulated event by event.

    The backward pass produces the gradients of one piece after the other; each joins the queue of the link when it is
    there. Adam on the host begins when the last has arrived, and the new weights go up when Adam has ended.
    """
    share, gpu = parameters / ranks, 2 * parameters * tokens / flops  # the forward pass
    link_free = gpu
    for _ in range(PIECES):
        gpu += 4 * parameters * tokens / flops / PIECES
        link_free = max(link_free, gpu) + 2 * share / PIECES / link
    adam_done = link_free + share / adam
    return adam_done + 2 * share / link


@functools.cache
def _simulated(parameters, ranks, flops, link, adam, slowdown):
    """Return the tokens at which the simulated step takes `slowdown` times what the GPU alone would take."""
    low, high = 1.0, 1e12
    for _ in range(100):
        tokens = math.sqrt(low * high)
        alone = 6 * parameters * tokens / flops
        if step_seconds(tokens, parameters, ranks, flops, link, adam) > slowdown * alone:
            low = tokens
        else:
            high = tokens
    return high


def _formula(parameters, ranks, flops, link, adam, slowdown, *, slow_link=False, travels=1, updates=1):
    """Return the break-even tokens by hand; travels, updates: how often weights go up and Adam runs, 0 where forgotten.

    slow_link: whether the link, and not the GPU, is the longer lane of the backward pass.
    """
    fixed = parameters / ranks * (updates / adam + 2 * travels / link)
    if slow_link:
        return (fixed + 2 * parameters / ranks / link) * flops / ((6 * slowdown - 2) * parameters)
    return fixed * flops / (6 * (slowdown - 1) * parameters)


def _near(given, others):
    return all(abs(mine / other - 1) < 0.01 for mine, other in zip(given, others, strict=True))


def _explain(given, simulated, apart):
    beliefs = {
        "every rank all": [_formula(p, 1, *rest) for p, _, *rest in CASES],
        "no adam": [_formula(*case, updates=0) for case in CASES],
        "no way up": [_formula(*case, travels=0) for case in CASES],
        "nothing hidden": [_formula(*case, travels=2) for case in CASES],
        "fixed ratio": [_formula(*case) for case in CASES],
    }
    for name, tokens in beliefs.items():
        if _near(given, tokens):
            worst = apart.index(max(apart))
            raise Mistaken(name, **_told(worst, given, simulated))
    worst = next(n for n, off in enumerate(apart) if off > 0.05)
    raise Mistaken("another", **_told(worst, given, simulated))


def _told(case, given, simulated):
    parameters, ranks, flops, link, adam, slowdown = CASES[case]
    words = (
        f"{parameters / 1e9:g}e9 parameters on {ranks_in_words(ranks)}, {flops / 1e12:g}e12 FLOP/s, "
        f"a link of {link / 1e9:g}e9 bytes/s, Adam at {adam / 1e9:g}e9 parameters/s, slowdown {slowdown:g}"
    )
    return {"case": words, "worst": f"{given[case]:,.0f}", "best": f"{simulated[case]:,.0f}"}


MISTAKES = {
    "every rank all": Mistake(
        "On one rank you are right. {case}: you say {worst} tokens, and the simulation {best}. A rank offloads only "
        "its "
        "share of the optimizer: its link carries that share, and its Adam updates it."
    ),
    "no adam": Mistake(
        "{case}: you say {worst} tokens, and the simulation {best}. In your step Adam takes no time. On the host's "
        "lane "
        "it runs after the last gradient has come, and nothing else runs then.",
    ),
    "no way up": Mistake(
        "{case}: you say {worst} tokens, and the simulation {best}. In your step the new weights are on the card at "
        "once. "
        "They have to go up the link before the next forward pass."
    ),
    "nothing hidden": Mistake(
        "{case}: you say {worst} tokens, and the simulation {best}. You let the gradients travel after the backward "
        "pass. "
        "They go down while it still computes the others, so with a fast link they cost nothing.",
        "Which two lanes are busy in the backward pass?",
    ),
    "fixed ratio": Mistake(
        "Where the link is fast you are right. {case}: you say {worst} tokens, and the simulation {best}. There the "
        "backward pass ends before its gradients have gone down, and the link's lane is the longer one.",
        "The backward pass takes the longer of two times. Compute both answers: which of them may you believe?",
    ),
    "another": Mistake(
        "{case}: you say {worst} tokens, and the simulation {best}.",
        "Write the step as a sum of its stretches, forward, backward, Adam, weights up, and set it equal to slowdown "
        "times the GPU's own time.",
    ),
}


EXERCISE = Exercise(
    id="10-break-even",
    title="A step on three lanes",
    difficulty=4,
    minutes=20,
    target="within 5 % of a simulated step, for fast and slow links, on 1 to 16 ranks",
    answer="break_even_tokens",
    check=_break_even,
    ranks=RANKS,
    mistakes=MISTAKES,
)
