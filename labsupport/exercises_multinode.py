"""The exercises of lab 08: write the hostfile, number the ranks, and choose what to train with."""

import io
import re
import sys
from contextlib import redirect_stdout
from unittest import mock

from labsupport import mistakes_multinode as mistakes
from labsupport.exercises.answers import call, describe, is_number, require_dict
from labsupport.exercises.exercise import Exercise, Mistaken, Unusable
from labsupport.mistakes_multinode import SITUATIONS

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
    mistakes=mistakes.HOSTFILE,
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
    mistakes=mistakes.PLACE,
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


CHOOSE = Exercise(
    id="08-choose",
    title="DDP, FSDP2 or ZeRO?",
    difficulty=4,
    minutes=15,
    target="in all six situations, the choice is the first of DDP, FSDP2, ZeRO that the facts allow",
    answer="choice",
    check=_choose,
    mistakes=mistakes.CHOOSE,
)

EXERCISES = (HOSTFILE, PLACE, CHOOSE)
