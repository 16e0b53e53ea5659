"""Exercise 02-held-bytes: answers that are known to be wrong, by their mistake, and right ones."""

WRONG = {
    "weights divided": (
        """def bytes_per_parameter(precision, world_size):
    weight = 4 if precision == "fp32" else 2
    return (weight + 4) / world_size, (weight + 12) / world_size""",
    ),
    "nothing divided": (
        """def bytes_per_parameter(precision, world_size):
    weight = 4 if precision == "fp32" else 2
    return weight + 4, weight + 12""",
    ),
    "masters forgotten": (
        """def bytes_per_parameter(precision, world_size):
    weight = 4 if precision == "fp32" else 2
    return weight, weight + 8 / world_size""",
    ),
    "no masters in fp32": (
        """def bytes_per_parameter(precision, world_size):
    if precision == "fp32":
        return 4, 4 + 8 / world_size
    return 2 + 4 / world_size, 2 + 12 / world_size""",
    ),
    "everything halved": (
        """def bytes_per_parameter(precision, world_size):
    each = {"fp32": 4, "bf16": 2}[precision]
    return each + each / world_size, each + 3 * each / world_size""",
    ),
    "states at once": (
        """def bytes_per_parameter(precision, world_size):
    total = {"fp32": 4, "bf16": 2}[precision] + 12 / world_size
    return total, total""",
    ),
    "gradients kept": (
        """def bytes_per_parameter(precision, world_size):
    weight = {"fp32": 4, "bf16": 2}[precision]
    return weight + 4 / world_size, weight + (12 + weight) / world_size""",
    ),
    "one state": (
        """def bytes_per_parameter(precision, world_size):
    weight = {"fp32": 4, "bf16": 2}[precision]
    return weight + 4 / world_size, weight + 8 / world_size""",
    ),
    "another number": (
        """def bytes_per_parameter(precision, world_size):
    return (8, 16) if precision == "fp32" else (4, 8)""",
        """def bytes_per_parameter(precision, world_size):
    weight = {"fp32": 4, "bf16": 2}[precision]
    return weight + 12 / world_size, weight + 4 / world_size""",
    ),
}

RIGHT = (
    """def bytes_per_parameter(precision, world_size):
    start = (4 if precision == "fp32" else 2) + 4 / world_size
    return [start, start + 8 / world_size]""",
    """WEIGHTS = {"fp32": 4, "bf16": 2}

def bytes_per_parameter(precision, world_size):
    masters, adam = 4 / world_size, 2 * 4 / world_size
    return WEIGHTS[precision] + masters, WEIGHTS[precision] + masters + adam""",
    """def bytes_per_parameter(precision, n):
    w = 2
    if precision != "bf16":
        w *= 2
    return ((n * w + 4) / n, (n * w + 12) / n)""",
)
