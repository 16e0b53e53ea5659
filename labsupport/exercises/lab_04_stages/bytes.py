"""Exercise 04-bytes: Model states on one rank."""

import math

from labsupport.exercises.answers import call, require_number
from labsupport.exercises.exercise import Exercise, Mistake, Mistaken
from labsupport.exercises.lab_04_stages.collectives import STAGES
from labsupport.exercises.lab_04_stages.paper import paper_bytes


def _same(given, expected):
    return math.isclose(given, expected, rel_tol=1e-6)


def _bytes(answer):
    points = [(size, stage, ranks) for size in (124_000_000, 7_500_000_000) for stage in STAGES for ranks in (2, 3, 64)]
    points += [(1_300_000_000, stage, 1) for stage in STAGES]
    given = {at: require_number(call(answer, *at), f"What your function returns for {at}") for at in points}
    if all(_same(given[at], paper_bytes(*at)) for at in points):
        of_64 = ", ".join(f"{given[7_500_000_000, stage, 64] / 1e9:.1f}" for stage in STAGES)
        return f"For 7.5 billion parameters on 64 ranks your function counts {of_64} GB at the stages 0 to 3."
    _know_whole_formula(given)
    _know_one_stage(given)
    size, stage, ranks = next(at for at in points if not _same(given[at], paper_bytes(*at)))
    a_parameter = given[size, stage, ranks] / size
    raise Mistaken("another number", stage=stage, ranks=ranks, parameters=f"{size:,}", bytes=f"{a_parameter:.4g}")


def _know_whole_formula(given):
    for unit in (2**30, 2**20, 2**10, 1e9, 1e6, 1e3):
        if all(_same(value * unit, paper_bytes(*at)) for at, value in given.items()):
            raise Mistaken("unit")
    if all(_same(value, paper_bytes(*at, optimizer_bytes=8)) for at, value in given.items()):
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
    if _same(bytes_a_parameter(2, 64), paper_bytes(1, 1, 64)):
        raise Mistaken("gradients whole")
    if _same(bytes_a_parameter(3, 64), paper_bytes(1, 2, 64)):
        raise Mistaken("parameters whole")


MISTAKES = {
    "everything too early": Mistake(
        "At stage {stage} your function counts 16 bytes divided by the ranks. A stage divides one kind more than the "
        "one before it, and only stage 3 divides all three.",
        "Which of the 2, the 2 and the 12 does stage 1 leave whole on every rank?",
    ),
    "no master": Mistake(
        "Your numbers are those of optimizer states of 8 bytes a parameter: momentum and variance. In mixed precision "
        "the optimizer also keeps the master weight in fp32, 4 bytes more."
    ),
    "gradients whole": Mistake(
        "Your stage 2 holds what stage 1 holds. From stage 2 on a rank keeps only its part of the gradients."
    ),
    "parameters whole": Mistake(
        "Your stage 3 holds what stage 2 holds. At stage 3 the parameters are partitioned as well."
    ),
    "limit": Mistake(
        "Your stage {stage} needs {limit} bytes a parameter on {ranks} ranks. That is the limit for very many "
        "ranks, where the divided part has become too thin to count; on few ranks it counts.",
        "Compute the whole part and the divided part one by one, and add them.",
    ),
    "fixed share": Mistake(
        "Your stage {stage} needs {bytes} bytes a parameter on 2 ranks and on 64. What a stage divides, it divides "
        "by the number of ranks."
    ),
    "unit": Mistake("The formula is right and the unit is not: return bytes, neither MiB nor GB nor GiB."),
    "another number": Mistake(
        "Stage {stage}, {ranks} ranks, {parameters} parameters: your function counts {bytes} bytes a parameter, "
        "and the paper does not.",
        "Start from 2 + 2 + 12 and ask of each of the three whether this stage divides it.",
    ),
}


EXERCISE = Exercise(
    id="04-bytes",
    title="Model states on one rank",
    difficulty=1,
    minutes=5,
    target="the paper's bytes, for every stage, on 1, 2, 3 and 64 ranks",
    answer="bytes_on_a_rank",
    check=_bytes,
    mistakes=MISTAKES,
)
