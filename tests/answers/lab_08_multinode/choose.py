"""Exercise 08-choose: answers that are known to be wrong, by their mistake, and right ones."""

from labsupport.exercises.lab_08_multinode.choose import SITUATIONS


def _answer(**changes):
    """The source of a cell with the right choices, and these changes to them."""
    said = dict(zip(SITUATIONS, ("DDP", "FSDP2", "ZeRO", "ZeRO", "FSDP2", "ZeRO"), strict=True))
    return f"choice = {said | {name.replace('_', ' '): to for name, to in changes.items()}!r}"


WRONG = {
    "many cards: FSDP2": (_answer(many_cards="FSDP2"),),
    "many cards: ZeRO": (_answer(many_cards="ZeRO"),),
    "own tensors: DDP": (_answer(own_tensors="DDP"),),
    "own tensors: ZeRO": (_answer(own_tensors="ZeRO"),),
    "small workstation: DDP": (_answer(small_workstation="DDP"),),
    "small workstation: FSDP2": (_answer(small_workstation="FSDP2"),),
    "slow link: DDP": (_answer(slow_link="DDP"),),
    "slow link: FSDP2": (_answer(slow_link="FSDP2"),),
    "every week another size: DDP": (_answer(every_week_another_size="DDP"),),
    "every week another size: ZeRO": (_answer(every_week_another_size="ZeRO"),),
    "parameters stay: DDP": (_answer(parameters_stay="DDP"),),
    "parameters stay: FSDP2": (_answer(parameters_stay="FSDP2"),),
}

RIGHT = (
    """choice = dict.fromkeys(["small workstation", "slow link", "parameters stay"], "ZeRO")
choice |= {"many cards": "DDP", "own tensors": "FSDP2", "every week another size": "FSDP2"}""",
    """choice = {
    "parameters stay": "ZeRO", "every week another size": "FSDP2", "slow link": "ZeRO",
    "small workstation": "ZeRO", "own tensors": "FSDP2", "many cards": "DDP",
}""",
    """situations = "many cards,own tensors,small workstation,slow link,every week another size,parameters stay"
choice = dict(zip(situations.split(","), "DDP FSDP2 ZeRO ZeRO FSDP2 ZeRO".split()))""",
)
