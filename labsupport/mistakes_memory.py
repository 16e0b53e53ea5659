"""What readers get wrong in exercises_memory.py: what they are told, and answers that must be told it."""

from labsupport.exercises.exercise import Mistake

BYTES = {
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
}

FEWEST_RANKS = {
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
}
