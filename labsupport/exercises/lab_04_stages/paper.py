"""What the paper's formula gives, and which part of it a wrong number left out."""

from fractions import Fraction

STAGES = (0, 1, 2, 3)

SIZES = {"optimizer states": 12, "gradients": 2, "parameters": 2}  # bytes a parameter, mixed precision, Adam
FIRST_SPLIT = {"optimizer states": 1, "gradients": 2, "parameters": 3}  # the stage that divides them first


def left_whole(stage, sizes=SIZES):
    """Bytes a parameter that every rank holds whatever their number."""
    return sum(size for kind, size in sizes.items() if stage < FIRST_SPLIT[kind])


def paper_bytes(parameters, stage, ranks, optimizer_bytes=12):
    """Bytes of model states on each rank, exactly: ZeRO, arXiv 1910.02054, section 5."""
    sizes = SIZES | {"optimizer states": optimizer_bytes}
    whole = left_whole(stage, sizes)
    return parameters * (whole + Fraction(sum(sizes.values()) - whole, ranks))
