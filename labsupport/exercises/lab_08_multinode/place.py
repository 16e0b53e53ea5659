"""Exercise 08-place: Where does this rank live?."""

import io
import sys
from contextlib import redirect_stdout
from unittest import mock

from labsupport.exercises.answers import call_unchanged, describe, is_number
from labsupport.exercises.exercise import Exercise, Mistake, Mistaken, Unusable

CLUSTERS = ([4, 4], [1, 1, 1], [3, 2], [2, 4, 3], [1, 3], [6, 2, 2])


def _place(answer):
    said, true = {}, {}
    for slots in CLUSTERS:
        for rank, place in numbered_by_deepspeed(slots).items():
            true[tuple(slots), rank] = place
            said[tuple(slots), rank] = _said(answer, rank, slots)
    if said == true:
        places = ", ".join(f"rank {rank} at {place}" for rank, place in numbered_by_deepspeed([3, 2]).items())
        return f"All {len(true)} places are the launcher's; with slots [3, 2] it has {places}."
    slots, rank = wrong = next(each for each in true if said[each] != true[each])
    by_rule = (name for name, rule in RULES if all(rule(rank, slots) == said[slots, rank] for slots, rank in true))
    raise Mistaken(next(by_rule, "another rank"), slots=list(slots), rank=rank, said=said[wrong], true=true[wrong])


def _said(answer, rank, slots):
    place = call_unchanged(answer, rank, list(slots))
    if not isinstance(place, tuple | list) or len(place) != 2 or not all(map(_is_whole, place)):
        raise Unusable(f"For rank {rank} of {slots} it returned {describe(place)}: return two whole numbers.")
    return tuple(map(int, place))


def _is_whole(number):
    return is_number(number) and float(number).is_integer()


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


MISTAKES = {
    "local is global": Mistake(
        "With slots {slots}, rank {rank} has RANK {rank}, and as LOCAL_RANK you gave it the same number: {said}, "
        "and the launcher says {true}. A node counts its own ranks from 0, as it counts its GPUs."
    ),
    "equal nodes": Mistake(
        "This divides by one number for all nodes. With slots {slots} it places rank {rank} at {said}, and the "
        "launcher at {true}: a hostfile may give each node another number of slots.",
        "Walk through the nodes and count how many ranks are on those before.",
    ),
    "from one": Mistake(
        "Nodes, ranks and local ranks are counted from 0: with slots {slots}, rank {rank} is at {true}, and you "
        "said {said}."
    ),
    "round-robin": Mistake(
        "This deals the ranks out like cards. The launcher fills one node before it begins the next: with slots "
        "{slots}, rank {rank} is at {true}, and you said {said}."
    ),
    "place in the node": Mistake(
        "The node is right. As local rank you gave the rank's place in its node, as torchrun does. With slots "
        "{slots} that is {said} for rank {rank}, and DeepSpeed 0.19.8 says {true}.",
        "Both numberings give each rank of a node a GPU of its own. Search launch.py for the line that begins "
        "with local_rank =.",
    ),
    "another rank": Mistake(
        "With slots {slots}, rank {rank} is at {true} for DeepSpeed's launcher, and you said {said}."
    ),
}


EXERCISE = Exercise(
    id="08-place",
    title="Where does this rank live?",
    difficulty=3,
    minutes=15,
    target="for equal and for unequal nodes, every rank gets the node and the local rank that DeepSpeed's launcher "
    "gives it",
    answer="place",
    check=_place,
    mistakes=MISTAKES,
)
