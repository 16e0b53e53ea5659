"""Exercise 04-bytes: answers that are known to be wrong, by their mistake, and right ones."""

WRONG = {
    "everything too early": (
        """def bytes_on_a_rank(parameters, stage, world_size):
    return 16 * parameters / (world_size if stage else 1)""",
    ),
    "no master": (
        """def bytes_on_a_rank(parameters, stage, world_size):
    optimizer = 8 * parameters / (world_size if stage >= 1 else 1)
    gradients = 2 * parameters / (world_size if stage >= 2 else 1)
    return optimizer + gradients + 2 * parameters / (world_size if stage >= 3 else 1)""",
    ),
    "gradients whole": (
        """def bytes_on_a_rank(parameters, stage, world_size):
    per_rank = {0: 16, 1: 4 + 12 / world_size, 2: 4 + 12 / world_size, 3: 16 / world_size}
    return parameters * per_rank[stage]""",
    ),
    "parameters whole": (
        """def bytes_on_a_rank(parameters, stage, world_size):
    whole = {0: 16, 1: 4, 2: 2, 3: 2}[stage]
    return parameters * (whole + (16 - whole) / world_size)""",
    ),
    "limit": (
        """def bytes_on_a_rank(parameters, stage, world_size):
    return 16 * parameters / {0: 1, 1: 4, 2: 8, 3: world_size}[stage]""",
    ),
    "fixed share": (
        """def bytes_on_a_rank(parameters, stage, world_size):
    return 16 * parameters * (1 - stage / 4)""",
        "def bytes_on_a_rank(parameters, stage, world_size):\n    return 16 * parameters / (stage + 1)",
    ),
    "unit": (
        """def bytes_on_a_rank(parameters, stage, world_size):
    whole = {0: 16, 1: 4, 2: 2, 3: 0}[stage]
    return parameters * (whole + (16 - whole) / world_size) / 2**30""",
        """def bytes_on_a_rank(parameters, stage, world_size):
    whole = {0: 16, 1: 4, 2: 2, 3: 0}[stage]
    return parameters * (whole + (16 - whole) / world_size) / 1e6""",
    ),
    "another number": (
        """def bytes_on_a_rank(parameters, stage, world_size):
    whole = {0: 20, 1: 4, 2: 2, 3: 0}[stage]
    return parameters * (whole + (20 - whole) / world_size)""",
    ),
}

RIGHT = (
    """def bytes_on_a_rank(parameters, stage, world_size):
    whole = {0: 16, 1: 4, 2: 2, 3: 0}[stage]
    return parameters * (whole + (16 - whole) / world_size)""",
    """def bytes_on_a_rank(parameters, stage, world_size):
    if stage == 0:
        return 16 * parameters
    if stage == 1:
        return 4 * parameters + 12 * parameters // world_size
    return (2 * parameters if stage == 2 else 2 * parameters // world_size) + 14 * parameters // world_size""",
    """from labsupport.memory import model_state_bytes

bytes_on_a_rank = model_state_bytes""",
)
