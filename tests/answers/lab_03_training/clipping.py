"""Exercise 03-clipping: answers that are known to be wrong, by their mistake, and right ones."""


def _update_norm(body):
    return f"def update_norm(gradient_norm, config):\n    {body}"


WRONG = {
    "left out means off": (
        _update_norm(
            'limit = config.get("gradient_clipping", 0.0)\n'
            "    return min(gradient_norm, limit) if limit else gradient_norm"
        ),
    ),
    "zero means left out": (_update_norm('return min(gradient_norm, config.get("gradient_clipping") or 1.0)'),),
    "zero stops": (_update_norm('return min(gradient_norm, config.get("gradient_clipping", 1.0))'),),
    "always one": (_update_norm("return min(gradient_norm, 1.0)"),),
    "no clipping": (_update_norm("return gradient_norm"),),
    "always as long as the limit": (_update_norm('return config.get("gradient_clipping", 1.0) or gradient_norm'),),
    "the factor": (
        _update_norm(
            'limit = config.get("gradient_clipping", 1.0)\n    return min(1.0, limit / gradient_norm) if limit else 1.0'
        ),
    ),
    "changes the config": (
        _update_norm(
            'limit = config.pop("gradient_clipping", 1.0)\n    return min(gradient_norm, limit or float("inf"))'
        ),
        _update_norm(
            'limit = config.setdefault("gradient_clipping", 1.0)\n    return min(gradient_norm, limit or float("inf"))'
        ),
    ),
    "another length": (
        _update_norm('return gradient_norm / max(1.0, config.get("gradient_clipping", 1.0))'),
        _update_norm(
            'limit = config.get("gradient_clipping", 1.0)\n    return gradient_norm if gradient_norm < limit else 0.0'
        ),
    ),
}

RIGHT = (
    """def update_norm(gradient_norm, config):
    limit = config.get("gradient_clipping", 1.0)
    factor = min(1.0, limit / gradient_norm) if limit > 0 else 1.0
    return factor * gradient_norm""",
    """def update_norm(gradient_norm, config):
    if "gradient_clipping" not in config:
        return min(1.0, gradient_norm)
    return min(config["gradient_clipping"] or float("inf"), gradient_norm)""",
    """def update_norm(gradient_norm, config):
    limit = {"gradient_clipping": 1.0, **config}["gradient_clipping"]
    if limit == 0 or gradient_norm <= limit:
        return gradient_norm
    return limit""",
)
