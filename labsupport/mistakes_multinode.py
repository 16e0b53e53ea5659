"""What readers get wrong in exercises_multinode.py: what they are told, and answers that must be told it."""

from labsupport.exercises.exercise import Mistake

HOSTFILE = {
    "another spelling": Mistake(
        "DeepSpeed refuses the line {line}. After the name and a space it wants slots=4, with an equals sign and "
        "no space around it.",
        (
            'hostfile_text = "worker-a slots:4\\nworker-b slots:4"',
            'hostfile_text = "worker-a slots = 4\\nworker-b slots = 4"',
            'hostfile_text = "worker-a,slots=4\\nworker-b,slots=4"',
        ),
    ),
    "no slots": Mistake(
        "DeepSpeed refuses the line {line}: it does not ask a node how many GPUs it has, so each line says it.",
        ('hostfile_text = "worker-a\\nworker-b"', 'hostfile_text = "worker-a:4\\nworker-b:4"'),
    ),
    "twice": Mistake(
        "A host may stand there once. The number of slots says how many ranks it gets, not the number of lines. "
        "{error}.",
        (
            'hostfile_text = "worker-a slots=2\\nworker-a slots=2\\nworker-b slots=4"',
            'hostfile_text = "worker-a slots=1\\n" * 4 + "worker-b slots=1\\n" * 4',
        ),
    ),
    "part of the name": Mistake(
        "DeepSpeed takes everything before the space for the name, so it would call {names} by ssh.",
        ('hostfile_text = "worker-a, slots=4\\nworker-b, slots=4"',),
    ),
    "one line for both": Mistake(
        "Each node has a line of its own. DeepSpeed reads one host here, whose name is {name}.",
        ('hostfile_text = "worker-a,worker-b slots=4,4"', 'hostfile_text = "worker-a,worker-b slots=8"'),
    ),
    "rest of the line": Mistake(
        "DeepSpeed stops reading a line after the number, and ignores {rest} without a word.",
        (
            'hostfile_text = "worker-a slots=4,8\\nworker-b slots=4,8"',
            'hostfile_text = "worker-a slots=4 worker-b slots=4"',
            'hostfile_text = "worker-a slots=4 gpus=4\\nworker-b slots=4 gpus=4"',
        ),
    ),
    "slots": Mistake(
        "DeepSpeed reads {slots} slots on {host}, a world of {world} ranks. A line counts the GPUs of its own node.",
        (
            'hostfile_text = "worker-a slots=8\\nworker-b slots=8"',
            'hostfile_text = "worker-a slots=0\\nworker-b slots=1"',
        ),
    ),
    "order": Mistake(
        "Rank 0 would live on {first}: the ranks are counted through the file from its first line.",
        ('hostfile_text = "worker-b slots=4\\nworker-a slots=4"',),
    ),
    "other nodes": Mistake(
        "DeepSpeed reads the hosts {names}, and the job runs on worker-a and worker-b.",
        (
            'hostfile_text = "worker-a slots=4"',
            'hostfile_text = "node0 slots=4\\nnode1 slots=4"',
        ),
    ),
}

PLACE = {
    "local is global": Mistake(
        "With slots {slots}, rank {rank} has RANK {rank}, and as LOCAL_RANK you gave it the same number: {said}, "
        "and the launcher says {true}. A node counts its own ranks from 0, as it counts its GPUs.",
        (
            """def place(rank, slots):
    first = 0
    for node, count in enumerate(slots):
        if rank < first + count:
            return node, rank
        first += count""",
        ),
    ),
    "equal nodes": Mistake(
        "This divides by one number for all nodes. With slots {slots} it places rank {rank} at {said}, and the "
        "launcher at {true}: a hostfile may give each node another number of slots.",
        (
            """def place(rank, slots):
    return rank // slots[0], rank % slots[0]""",
            """def place(rank, slots):
    return divmod(rank, sum(slots) // len(slots))""",
        ),
        "Walk through the nodes and count how many ranks are on those before.",
    ),
    "from one": Mistake(
        "Nodes, ranks and local ranks are counted from 0: with slots {slots}, rank {rank} is at {true}, and you "
        "said {said}.",
        (
            """def place(rank, slots):
    before = 0
    for node, count in enumerate(slots):
        if rank < before + count:
            return node + 1, rank % count + 1
        before += count""",
            """def place(rank, slots):
    before = 0
    for node, count in enumerate(slots):
        if rank < before + count:
            return node, rank % count + 1
        before += count""",
        ),
    ),
    "round-robin": Mistake(
        "This deals the ranks out like cards. The launcher fills one node before it begins the next: with slots "
        "{slots}, rank {rank} is at {true}, and you said {said}.",
        (
            """def place(rank, slots):
    return rank % len(slots), rank // len(slots)""",
        ),
    ),
    "place in the node": Mistake(
        "The node is right. As local rank you gave the rank's place in its node, as torchrun does. With slots "
        "{slots} that is {said} for rank {rank}, and DeepSpeed 0.19.8 says {true}.",
        (
            """def place(rank, slots):
    node = 0
    while rank >= slots[node]:
        rank -= slots[node]
        node += 1
    return node, rank""",
        ),
        "Both numberings give each rank of a node a GPU of its own. Search launch.py for the line that begins "
        "with local_rank =.",
    ),
    "another rank": Mistake(
        "With slots {slots}, rank {rank} is at {true} for DeepSpeed's launcher, and you said {said}.",
        (
            """def place(rank, slots):
    return 0, rank % slots[0]""",
        ),
    ),
}

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


def _answer(**changes):
    """The source of a cell with the right choices, and these changes to them."""
    said = dict(zip(SITUATIONS, ("DDP", "FSDP2", "ZeRO", "ZeRO", "FSDP2", "ZeRO"), strict=True))
    return f"choice = {said | {name.replace('_', ' '): to for name, to in changes.items()}!r}"


_TOO_LARGE = "the planner counts {whole} GB for the whole model states, and a card has {free} GB free."

_FITS_WHOLE = (
    "The whole model states are {whole} GB, and every card has {free} GB free. The number of cards is no reason to "
    "partition: DDP does the job, with the fewest messages."
)

CHOOSE = {
    "many cards: FSDP2": Mistake(_FITS_WHOLE, (_answer(many_cards="FSDP2"),)),
    "many cards: ZeRO": Mistake(_FITS_WHOLE + " ZeRO would do it too, and comes later.", (_answer(many_cards="ZeRO"),)),
    "own tensors: DDP": Mistake(f"Own tensors: {_TOO_LARGE}", (_answer(own_tensors="DDP"),)),
    "own tensors: ZeRO": Mistake(
        "Own tensors: partitioned over the cards the states take {parts} GB of {free}, so nothing has to be "
        "offloaded. That every parameter stays a DTensor is what FSDP2 has and DeepSpeed's engine has not.",
        (_answer(own_tensors="ZeRO"),),
    ),
    "small workstation: DDP": Mistake(f"Small workstation: {_TOO_LARGE}", (_answer(small_workstation="DDP"),)),
    "small workstation: FSDP2": Mistake(
        "Small workstation: partitioned over the cards the states take {parts} GB of {free}, and on the host they "
        "would take {needs} GB of {host}. Only the drive is left, and FSDP2 offloads to the host alone.",
        (_answer(small_workstation="FSDP2"),),
    ),
    "slow link: DDP": Mistake(f"Slow link: {_TOO_LARGE}", (_answer(slow_link="DDP"),)),
    "slow link: FSDP2": Mistake(
        "Slow link: FSDP2 partitions the parameters too, and keeps them so between the steps. A rank that "
        "evaluates alone has only its part. Stage 1 splits the optimizer's states and nothing else, {split} GB of "
        "{free}, and FSDP2 has no counterpart to it.",
        (_answer(slow_link="FSDP2"),),
        "Which states do not fit, and which stage partitions just those?",
    ),
    "every week another size: DDP": Mistake(
        f"Every week another size: {_TOO_LARGE}", (_answer(every_week_another_size="DDP"),)
    ),
    "every week another size: ZeRO": Mistake(
        "Every week another size: partitioning makes it fit, {parts} GB of {free}. A checkpoint of DeepSpeed has "
        "to be converted for another number of ranks; one of torch.distributed.checkpoint is resharded as it "
        "loads.",
        (_answer(every_week_another_size="ZeRO"),),
    ),
    "parameters stay: DDP": Mistake(f"Parameters stay: {_TOO_LARGE}", (_answer(parameters_stay="DDP"),)),
    "parameters stay: FSDP2": Mistake(
        "Parameters stay: without offload the states take {parts} GB of {free} on a card. FSDP2's offload policy "
        "moves parameters and optimizer states together, and here the parameters must stay.",
        (_answer(parameters_stay="FSDP2"),),
    ),
}
