"""The exercises of lab 08: write the hostfile, number the ranks, and choose what to train with."""

import io
import re
import sys
from contextlib import redirect_stdout
from unittest import mock

from labsupport.judging import (
    Exercise,
    Mistake,
    Mistaken,
    Unusable,
    call,
    describe,
    is_number,
    require_dict,
)

HOSTS = {"worker-a": 4, "worker-b": 4}


def _hostfile(answer):
    if not isinstance(answer, str):
        raise Unusable(f"The answer is {describe(answer)}: give the text of the file, each node on its line.")
    hosts = _read_by_deepspeed(answer)
    names = " and ".join(map(repr, hosts))
    if set(hosts) != set(HOSTS) == {host.rstrip(",;:") for host in hosts}:
        raise Mistaken("part of the name", names=names)
    if any("," in host for host in hosts):
        raise Mistaken("one line for both", name=names)
    for line in answer.splitlines():
        ignored = re.sub(r"^\s*\S+\s+slots=\d+", "", line.partition("#")[0]).strip()
        if ignored:
            raise Mistaken("rest of the line", rest=repr(ignored))
    if set(hosts) != set(HOSTS):
        raise Mistaken("other nodes", names=names)
    for host, slots in hosts.items():
        if slots != HOSTS[host]:
            raise Mistaken("slots", host=host, slots=slots, world=sum(hosts.values()))
    if list(hosts) != list(HOSTS):
        raise Mistaken("order", first=next(iter(hosts)))


def _read_by_deepspeed(text):
    """What DeepSpeed's launcher reads from a hostfile with this text: {host: slots}, in its order."""
    from deepspeed.launcher import runner

    try:
        with mock.patch.object(runner.logger, "error"):
            return runner._parse_hostfile(text.splitlines(keepends=True))
    except ValueError as refused:
        if "multiple entries" in str(refused):
            raise Mistaken("twice", error=refused) from refused
        bad = str(refused).partition("bad entry: ")[2].partition(", unable")[0]
        if bad:
            name = "another spelling" if "slots" in bad.lower() or "=" in bad else "no slots"
            raise Mistaken(name, line=repr(bad)) from refused
        raise Unusable(f"DeepSpeed refuses this text: {refused}", refused) from refused


HOSTFILE = Exercise(
    id="08-hostfile",
    title="A hostfile for two nodes",
    difficulty=1,
    minutes=5,
    target="DeepSpeed's launcher reads worker-a and worker-b from it, in this order, with 4 slots each, and no word "
    "is lost",
    answer="hostfile_text",
    check=_hostfile,
    mistakes={
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
            "DeepSpeed reads {slots} slots on {host}, a world of {world} ranks. A line counts the GPUs of its own "
            "node.",
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
    },
)

CLUSTERS = ([4, 4], [1, 1, 1], [3, 2], [2, 4, 3], [1, 3], [6, 2, 2])


def _place(answer):
    said, true = {}, {}
    for slots in CLUSTERS:
        for rank, place in numbered_by_deepspeed(slots).items():
            true[tuple(slots), rank] = place
            said[tuple(slots), rank] = _said(answer, rank, slots)
    if said == true:
        return
    slots, rank = wrong = next(each for each in true if said[each] != true[each])
    by_rule = (name for name, rule in RULES if all(rule(rank, slots) == said[slots, rank] for slots, rank in true))
    raise Mistaken(next(by_rule, "another rank"), slots=list(slots), rank=rank, said=said[wrong], true=true[wrong])


def _said(answer, rank, slots):
    given = list(slots)
    place = call(answer, rank, given)
    if given != slots:
        raise Unusable("The function changes the list that it is given: let it work on a copy.")
    if not isinstance(place, tuple | list) or len(place) != 2 or not all(map(_is_whole, place)):
        raise Unusable(f"For rank {rank} of {slots} it returned {describe(place)}: return two whole numbers.")
    return tuple(map(int, place))


def _is_whole(number):
    return is_number(number) and number == int(number)


def numbered_by_deepspeed(slots):
    """Return {rank: (node, local rank)}, as DeepSpeed's own launcher hands them out; it starts no process here."""
    from deepspeed.launcher import launch
    from deepspeed.launcher.runner import encode_world_info

    world = encode_world_info({f"node{number}": list(range(count)) for number, count in enumerate(slots)})
    found = {}
    for node in range(len(slots)):

        class Started:
            pid = returncode = 0

            def __init__(self, command, env, node=node):
                found[int(env["RANK"])] = (node, int(env["LOCAL_RANK"]))

            def poll(self):
                return 0

        arguments = ["launch", f"--node_rank={node}", f"--world_info={world}", "--log_level=error", "program.py"]
        with (
            mock.patch.object(sys, "argv", arguments),
            mock.patch.object(launch.subprocess, "Popen", Started),
            mock.patch.object(launch.signal, "signal"),
            mock.patch.object(launch.time, "sleep"),
            redirect_stdout(io.StringIO()),
        ):
            launch.main()
    return dict(sorted(found.items()))


def _node(rank, slots):
    """The node of a rank where the nodes are filled one after the other."""
    return next(node for node in range(len(slots)) if rank < sum(slots[: node + 1]))


def _place_in_node(rank, slots):
    return rank - sum(slots[: _node(rank, slots)])


# What people take for the numbering: the name of the mistake, and the rule.
RULES = (
    ("place in the node", lambda rank, slots: (_node(rank, slots), _place_in_node(rank, slots))),
    ("local is global", lambda rank, slots: (_node(rank, slots), rank)),
    ("from one", lambda rank, slots: (_node(rank, slots) + 1, rank % slots[_node(rank, slots)] + 1)),
    ("from one", lambda rank, slots: (_node(rank, slots), rank % slots[_node(rank, slots)] + 1)),
    ("from one", lambda rank, slots: (_node(rank, slots) + 1, _place_in_node(rank, slots) + 1)),
    ("from one", lambda rank, slots: (_node(rank, slots), _place_in_node(rank, slots) + 1)),
    ("round-robin", lambda rank, slots: (rank % len(slots), rank // len(slots))),
    ("equal nodes", lambda rank, slots: divmod(rank, slots[0])),
    ("equal nodes", lambda rank, slots: (_node(rank, slots), rank % slots[0])),
    ("equal nodes", lambda rank, slots: divmod(rank, sum(slots) // len(slots))),
    ("equal nodes", lambda rank, slots: divmod(rank, max(slots))),
)


PLACE = Exercise(
    id="08-place",
    title="Where does this rank live?",
    difficulty=3,
    minutes=15,
    target="for equal and for unequal nodes, every rank gets the node and the local rank that DeepSpeed's launcher "
    "gives it",
    answer="place",
    check=_place,
    mistakes={
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
    },
)

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
    require_dict(answer, "The answer")
    for name, situation in SITUATIONS.items():
        said = answer.get(name)
        if said not in CHOICES:
            raise Unusable(f"For {name!r} the answer has {describe(said)}: write one of {', '.join(CHOICES)}.")
        right = first_that_does(situation)
        if said != right:
            raise Mistaken(f"{name}: {said}", **_facts(situation))


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
    from labsupport.memory import plan

    stage, optimizer, parameters = way
    cards = situation["cards"]
    choices = {"stage": stage, "offload_optimizer": optimizer, "offload_param": parameters}
    planned = plan(situation["parameters"], world_size=cards, **choices)
    return planned.peak_bytes, planned.place_bytes("peak", "pinned host") * cards


def _facts(situation):
    return {
        "free": f"{situation['card'] / 1e9:.0f}",
        "host": f"{situation.get('host', 0) / 1e9:.0f}",
        "whole": f"{_bytes(situation, (0, 'none', 'none'))[0] / 1e9:.0f}",
        "split": f"{_bytes(situation, (1, 'none', 'none'))[0] / 1e9:.0f}",
        "parts": f"{_bytes(situation, (3, 'none', 'none'))[0] / 1e9:.0f}",
        "needs": f"{_bytes(situation, (3, 'cpu', 'cpu'))[1] / 1e9:.0f}",
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

CHOOSE = Exercise(
    id="08-choose",
    title="DDP, FSDP2 or ZeRO?",
    difficulty=4,
    minutes=15,
    target="in all six situations, the choice is the first of DDP, FSDP2, ZeRO that the facts allow",
    answer="choice",
    check=_choose,
    mistakes={
        "many cards: FSDP2": Mistake(_FITS_WHOLE, (_answer(many_cards="FSDP2"),)),
        "many cards: ZeRO": Mistake(
            _FITS_WHOLE + " ZeRO would do it too, and comes later.", (_answer(many_cards="ZeRO"),)
        ),
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
    },
)

EXERCISES = (HOSTFILE, PLACE, CHOOSE)
