"""Exercise 03-clipping: How long the update is."""

from functools import cache

from labsupport.exercises.answers import call, require_number
from labsupport.exercises.exercise import Exercise, Mistake, Mistaken
from labsupport.exercises.lab_03_training.engines import all_near, near, running_engine, sgd_config

CLIPPING = {"left out": {}, "0.0": {"gradient_clipping": 0.0}} | {
    str(limit): {"gradient_clipping": limit} for limit in (1.0, 0.5, 5.0)
}
NORMS = (0.25, 3.0, 20.0)


def _limit(config):
    return config.get("gradient_clipping", 1.0)


# What the update's length is believed to be, by the misunderstanding: from the gradient's norm and the config.
CLIPPING_BELIEFS = {
    "left out means off": lambda norm, config: min(norm, config.get("gradient_clipping") or float("inf")),
    "zero means left out": lambda norm, config: min(norm, config.get("gradient_clipping") or 1.0),
    "always one": lambda norm, config: min(norm, 1.0),
    "no clipping": lambda norm, config: norm,
    "zero stops": lambda norm, config: min(norm, _limit(config)),
    "always as long as the limit": lambda norm, config: _limit(config) or norm,
    "the factor": lambda norm, config: min(1.0, _limit(config) / norm) if _limit(config) else 1.0,
}


def _clipping(answer):
    measured = {(norm, name): _measured_update(name)[norm] for name in CLIPPING for norm in NORMS}
    said = {(norm, name): _said(answer, norm, name) for norm, name in measured}
    if all_near(said.values(), measured.values()):
        of_three = {name: f"{measured[3.0, name]:g}" for name in CLIPPING}
        return (
            "A gradient of norm 3 became an update of "
            + ", ".join(
                f"{length} with {name}" if name != "left out" else f"{length} where the key is left out"
                for name, length in of_three.items()
            )
            + "; the other lengths are those of the engine too."
        )
    for belief, length in CLIPPING_BELIEFS.items():
        if all_near(said.values(), [length(norm, CLIPPING[name]) for norm, name in measured]):
            raise Mistaken(belief)
    norm, name = next(case for case in measured if not near(said[case], measured[case]))
    values = {"said": f"{said[norm, name]:.4g}", "measured": f"{measured[norm, name]:.4g}"}
    raise Mistaken("another length", norm=f"{norm:g}", limit=name, **values)


def _said(answer, norm, name):
    config = _clipping_config(name)
    length = require_number(call(answer, norm, config), "What your function returned")
    before, after = (each.get("gradient_clipping", "no value") for each in (_clipping_config(name), config))
    if before != after:
        raise Mistaken("changes the config", before=before, after=after)
    return length


def _clipping_config(name):
    config = sgd_config(2)
    del config["gradient_clipping"]
    return config | CLIPPING[name]


@cache
def _measured_update(name):
    """Return how long the update of a real engine is, for each of NORMS, under that way of clipping."""
    import torch

    updates = {}
    with running_engine(torch.nn.Linear(2, 1, bias=False), _clipping_config(name)) as engine:
        for norm in NORMS:
            before = engine.module.weight.detach().clone()
            engine.backward(engine(torch.tensor([[0.6 * norm, 0.8 * norm]])).sum())
            engine.step()
            updates[norm] = float((engine.module.weight.detach() - before).norm())
    return updates


MISTAKES = {
    "left out means off": Mistake(
        "Where `gradient_clipping` is left out you return the whole norm. DeepSpeed 0.19.8 clips at 1.0 "
        "where the key is left out.",
        "Lab 01 measured this.",
    ),
    "zero means left out": Mistake(
        "With 0.0 you return what a limit of 1.0 gives. 0.0 turns clipping off; left out means 1.0.",
        "In Python `or` takes 0.0 for nothing.",
    ),
    "zero stops": Mistake(
        "You clip at 0.0 as at any other limit, and nothing would ever move. In DeepSpeed a limit of 0.0 "
        "turns clipping off."
    ),
    "always one": Mistake("You clip at 1.0 whatever the config says: that is the value where it says nothing."),
    "no clipping": Mistake(
        "You return the norm before clipping. `engine.get_global_grad_norm()` reports that one; the update is made "
        "with the clipped gradient."
    ),
    "always as long as the limit": Mistake(
        "You make every gradient as long as the limit. Clipping shortens what is longer, and leaves the rest as it is."
    ),
    "the factor": Mistake(
        "You return the factor that the gradient is multiplied by. The update is that factor times the norm."
    ),
    "changes the config": Mistake(
        "The config came with {before} for gradient_clipping, and your function leaves it with {after}: whoever reads "
        "it next reads another config. Look the value up, and leave it where it is."
    ),
    "another length": Mistake(
        "Gradient norm {norm}, gradient_clipping {limit}: you return {said}, and the engine's update is "
        "{measured} long."
    ),
}


EXERCISE = Exercise(
    id="03-clipping",
    title="How long the update is",
    difficulty=2,
    minutes=6,
    target="your lengths are those of a real engine, for five ways to write the config and three norms",
    answer="update_norm",
    check=_clipping,
    seconds=30,
    mistakes=MISTAKES,
)
