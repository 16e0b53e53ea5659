"""Exercise 04-fewest-ranks: answers that are known to be wrong, by their mistake, and right ones."""

WRONG = {
    "divided the total": (
        """import math

def fewest_ranks(parameters, stage, card_bytes):
    whole = {0: 16, 1: 4, 2: 2, 3: 0}[stage] * parameters
    if stage and whole >= card_bytes or not stage and whole > card_bytes:
        return None
    return math.ceil(16 * parameters / card_bytes)""",
    ),
    "does not fit": (
        """def fewest_ranks(parameters, stage, card_bytes):
    if stage == 0:
        return 1 if 16 * parameters <= card_bytes else None
    whole = {1: 4, 2: 2, 3: 0}[stage] * parameters
    if whole >= card_bytes:
        return None
    return max(1, (16 * parameters - whole) // (card_bytes - whole))""",
    ),
    "too few": (
        """def fewest_ranks(parameters, stage, card_bytes):
    whole = {0: 12, 1: 4, 2: 2, 3: 0}[stage] * parameters
    if stage == 0:
        return 1 if 16 * parameters <= card_bytes else None
    return max(1, -(-(12 * parameters - whole) // (card_bytes - whole))) if whole < card_bytes else None""",
        """def fewest_ranks(parameters, stage, card_bytes):
    whole = {0: 16, 1: 4, 2: 2, 3: 0}[stage] * parameters
    if stage == 0:
        return 1 if whole <= card_bytes else None
    if whole >= card_bytes:
        return None
    return min(1024, max(1, -(-(16 * parameters - whole) // (card_bytes - whole))))""",
    ),
    "fits on fewer": (
        """def fewest_ranks(parameters, stage, card_bytes):
    if stage == 0:
        return 1 if 16 * parameters <= card_bytes else None
    whole = {1: 4, 2: 2, 3: 0}[stage] * parameters
    if whole >= card_bytes:
        return None
    return (16 * parameters - whole) // (card_bytes - whole) + 1""",
    ),
    "no number": (
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
    "none": (
        """import math

def fewest_ranks(parameters, stage, card_bytes):
    whole = {0: 16, 1: 4, 2: 2, 3: 0}[stage] * parameters
    return None if whole >= card_bytes else max(1, -(-(16 * parameters - whole) // (card_bytes - whole)))""",
        """def fewest_ranks(parameters, stage, card_bytes):
    whole = {0: 16, 1: 4, 2: 2, 3: 0}[stage] * parameters
    for ranks in range(1, 1025):
        if whole + (16 * parameters - whole) / ranks <= card_bytes:
            return ranks""",
    ),
    "hangs": (
        """def fewest_ranks(parameters, stage, card_bytes):
    whole = {0: 16, 1: 4, 2: 2, 3: 0}[stage] * parameters
    ranks = 1
    while whole + (16 * parameters - whole) / ranks > card_bytes:
        ranks += 1
    return ranks""",
    ),
}

RIGHT = (
    """import math

def fewest_ranks(parameters, stage, card_bytes):
    whole = {0: 16, 1: 4, 2: 2, 3: 0}[stage] * parameters
    if stage == 0:
        return 1 if whole <= card_bytes else None
    if whole >= card_bytes:
        return None
    return max(1, math.ceil((16 * parameters - whole) / (card_bytes - whole)))""",
    """from labsupport.memory import model_state_bytes

def fewest_ranks(parameters, stage, card_bytes):
    if model_state_bytes(parameters, stage, 10**15) > card_bytes:
        return None
    ranks = 1
    while model_state_bytes(parameters, stage, ranks) > card_bytes:
        ranks += 1
    return ranks""",
    """def fewest_ranks(parameters, stage, card_bytes):
    kept = (16, 4, 2, 0)[stage] * parameters
    left, divided = card_bytes - kept, 16 * parameters - kept
    if left < 0 or left == 0 and divided:
        return None
    return -(-divided // left) or 1 if left else 1""",
)
