"""Exercise 08-choose: DDP, FSDP2 or ZeRO?."""

from labsupport.exercises.answers import describe, require_dict
from labsupport.exercises.exercise import Exercise, Mistake, Mistaken, Unusable

# A situation: how many parameters and cards, the free bytes on a card and on the host, whether there is a drive, and
# what else is asked for.
SITUATIONS = {
    "many cards": {"parameters": 1.3e9, "cards": 64, "card": 60e9},
    "own tensors": {"parameters": 13e9, "cards": 8, "card": 60e9, "asks": "DTensor"},
    "small workstation": {"parameters": 30e9, "cards": 4, "card": 20e9, "host": 240e9, "drive": True},
    "slow link": {"parameters": 1.5e9, "cards": 8, "card": 16e9, "asks": "whole parameters"},
    "every week another size": {"parameters": 7e9, "cards": 8, "card": 60e9, "asks": "resharding"},
    "parameters stay": {"parameters": 7e9, "cards": 2, "card": 20e9, "host": 200e9, "asks": "optimizer alone"},
}


_TOO_LARGE = "the planner counts {whole} GB for the whole model states, and a card has {free} GB free."

_FITS_WHOLE = (
    "The whole model states are {whole} GB, and every card has {free} GB free. The number of cards is no reason to "
    "partition: DDP does the job, with the fewest messages."
)

CHOICES = ("DDP", "FSDP2", "ZeRO")
# What the page on FSDP2 says that each has for a model that does not fit whole.
HAS = {"FSDP2": {"DTensor", "resharding"}, "ZeRO": {"optimizer alone", "whole parameters"}}
# Ways to hold the model states: stage, place of the optimizer's states, place of the parameters.
WAYS = {
    "DDP": ((0, "none", "none"),),
    "FSDP2": ((3, "none", "none"), (3, "cpu", "cpu")),
    "ZeRO": (
        (1, "none", "none"),
        (2, "none", "none"),
        (3, "none", "none"),
        (3, "cpu", "none"),
        (3, "cpu", "cpu"),
        (3, "nvme", "nvme"),
    ),
}


def _choose(answer):
    answer = require_dict(answer, "The answer")
    for name, situation in SITUATIONS.items():
        said = answer.get(name)
        if said not in CHOICES:
            raise Unusable(f"For {name!r} the answer has {describe(said)}: write one of {', '.join(CHOICES)}.")
        right = first_that_does(situation)
        if said != right:
            raise Mistaken(f"{name}: {said}", **_facts(situation))
    whole = ", ".join(f"{_facts(each)['whole']} of {_facts(each)['free']}" for each in SITUATIONS.values())
    return f"The planner counts for the whole model states, in GB of those that a card has free: {whole}."


def first_that_does(situation):
    """Return the first of CHOICES that has room for a situation's model states and what else is asked for."""
    return next(choice for choice in CHOICES if any(_does(choice, way, situation) for way in WAYS[choice]))


def _does(choice, way, situation):
    stage, optimizer, parameters = way
    asks = situation.get("asks")
    if stage and asks and asks not in HAS[choice]:
        return False
    if (asks == "optimizer alone" and parameters != "none") or (asks == "whole parameters" and stage == 3):
        return False
    if optimizer == "nvme" and not situation.get("drive"):
        return False
    on_card, on_host = _bytes(situation, way)
    return on_card <= situation["card"] and on_host <= situation.get("host", 0)


def _bytes(situation, way):
    """What the planner counts on one card, and on the host that all cards share."""
    from labsupport.memory.planner import plan

    stage, optimizer, parameters = way
    cards = situation["cards"]
    choices = {"stage": stage, "offload_optimizer": optimizer, "offload_param": parameters}
    planned = plan(situation["parameters"], world_size=cards, **choices)
    return planned.peak_bytes, planned.host_bytes("peak") * cards


def _facts(situation):
    return {
        "free": f"{situation['card'] / 1e9:.0f}",
        "host": f"{situation.get('host', 0) / 1e9:.0f}",
        "whole": f"{_bytes(situation, (0, 'none', 'none'))[0] / 1e9:.0f}",
        "split": f"{_bytes(situation, (1, 'none', 'none'))[0] / 1e9:.0f}",
        "parts": f"{_bytes(situation, (3, 'none', 'none'))[0] / 1e9:.0f}",
        "needs": f"{_bytes(situation, (3, 'cpu', 'cpu'))[1] / 1e9:.0f}",
    }


MISTAKES = {
    "many cards: FSDP2": Mistake(_FITS_WHOLE),
    "many cards: ZeRO": Mistake(_FITS_WHOLE + " ZeRO would do it too, and comes later."),
    "own tensors: DDP": Mistake(f"Own tensors: {_TOO_LARGE}"),
    "own tensors: ZeRO": Mistake(
        "Own tensors: partitioned over the cards the states take {parts} GB of {free}, so nothing has to be "
        "offloaded. That every parameter stays a DTensor is what FSDP2 has and DeepSpeed's engine has not."
    ),
    "small workstation: DDP": Mistake(f"Small workstation: {_TOO_LARGE}"),
    "small workstation: FSDP2": Mistake(
        "Small workstation: partitioned over the cards the states take {parts} GB of {free}, and on the host they "
        "would take {needs} GB of {host}. Only the drive is left, and FSDP2 offloads to the host alone."
    ),
    "slow link: DDP": Mistake(f"Slow link: {_TOO_LARGE}"),
    "slow link: FSDP2": Mistake(
        "Slow link: at its default settings FSDP2 partitions the parameters too, and keeps them so between the steps. "
        "A rank that evaluates alone has only its part. Stage 1 splits the optimizer's states and nothing else, "
        "{split} GB of {free}, and FSDP2 has no counterpart to it.",
        "Which states do not fit, and which stage partitions just those?",
    ),
    "every week another size: DDP": Mistake(f"Every week another size: {_TOO_LARGE}"),
    "every week another size: ZeRO": Mistake(
        "Every week another size: partitioning makes it fit, {parts} GB of {free}. A checkpoint of DeepSpeed has "
        "to be converted for another number of ranks; one of torch.distributed.checkpoint is resharded as it "
        "loads."
    ),
    "parameters stay: DDP": Mistake(f"Parameters stay: {_TOO_LARGE}"),
    "parameters stay: FSDP2": Mistake(
        "Parameters stay: without offload the states take {parts} GB of {free} on a card. FSDP2's offload policy "
        "moves parameters and optimizer states together, and here the parameters must stay."
    ),
}


EXERCISE = Exercise(
    id="08-choose",
    title="DDP, FSDP2 or ZeRO?",
    difficulty=4,
    minutes=30,
    target="in all six situations, the choice is the first of DDP, FSDP2, ZeRO that the facts allow",
    answer="choice",
    check=_choose,
    mistakes=MISTAKES,
)
