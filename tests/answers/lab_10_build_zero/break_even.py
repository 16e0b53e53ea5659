"""Exercise 10-break-even: answers that are known to be wrong, by their mistake, and right ones."""


def _answer(share="parameters / ranks", adam="share / adam_rate", up="2 * share / link", down="2 * share / link"):
    return f"""
def break_even_tokens(parameters, ranks, flops, link, adam_rate, slowdown):
    share = {share}
    after = {adam} + {up}
    fast = after * flops / (6 * (slowdown - 1) * parameters)
    slow = (after + {down}) * flops / ((6 * slowdown - 2) * parameters)
    return max(fast, slow)"""


WRONG = {
    "every rank all": (
        """
def break_even_tokens(parameters, ranks, flops, link, adam_rate, slowdown):
    return (1 / adam_rate + 2 / link) * flops / (6 * (slowdown - 1))""",
    ),
    "no adam": (
        """
def break_even_tokens(parameters, ranks, flops, link, adam_rate, slowdown):
    return 2 / ranks / link * flops / (6 * (slowdown - 1))""",
    ),
    "no way up": (
        """
def break_even_tokens(parameters, ranks, flops, link, adam_rate, slowdown):
    return 1 / ranks / adam_rate * flops / (6 * (slowdown - 1))""",
    ),
    "nothing hidden": (
        """
def break_even_tokens(parameters, ranks, flops, link, adam_rate, slowdown):
    return (1 / adam_rate + 4 / link) / ranks * flops / (6 * (slowdown - 1))""",
    ),
    "fixed ratio": (
        """
def break_even_tokens(parameters, ranks, flops, link, adam_rate, slowdown):
    return (1 / adam_rate + 2 / link) / ranks * flops / (6 * (slowdown - 1))""",
    ),
    "another": (
        _answer(up="4 * share / link"),
        """
def break_even_tokens(parameters, ranks, flops, link, adam_rate, slowdown):
    return (1 / adam_rate + 2 / link) / ranks * flops / (2 * (slowdown - 1))""",
        _answer().replace("max(", "min("),
    ),
}

RIGHT = (
    _answer(),
    # By search.
    """
def break_even_tokens(parameters, ranks, flops, link, adam_rate, slowdown):
    share = parameters / ranks

    def seconds(tokens):
        backward = max(4 * parameters * tokens / flops, 2 * share / link)
        return 2 * parameters * tokens / flops + backward + share / adam_rate + 2 * share / link

    tokens = 1.0
    while seconds(tokens) > slowdown * 6 * parameters * tokens / flops:
        tokens *= 1.005
    return tokens""",
    # With the parameters cancelled, and a look at which lane is the longer one.
    """
def break_even_tokens(parameters, ranks, flops, link, adam_rate, slowdown):
    tokens = flops * (1 / adam_rate + 2 / link) / (6 * (slowdown - 1) * ranks)
    if 4 * tokens / flops < 2 / ranks / link:
        tokens = flops * (1 / adam_rate + 4 / link) / ((6 * slowdown - 2) * ranks)
    return int(round(tokens))""",
)
