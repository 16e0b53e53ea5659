"""Exercise 08-hostfile: A hostfile for two nodes."""

import re
from unittest import mock

from labsupport.exercises.answers import describe
from labsupport.exercises.exercise import Exercise, Mistake, Mistaken, Unusable

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


MISTAKES = {
    "another spelling": Mistake(
        "DeepSpeed refuses the line {line}. After the name and a space it wants slots=4, with an equals sign and "
        "no space around it."
    ),
    "no slots": Mistake(
        "DeepSpeed refuses the line {line}: it does not ask a node how many GPUs it has, so each line says it."
    ),
    "twice": Mistake(
        "A host may stand there once. The number of slots says how many ranks it gets, not the number of lines. "
        "{error}."
    ),
    "part of the name": Mistake(
        "DeepSpeed takes everything before the space for the name, so it would call {names} by ssh."
    ),
    "one line for both": Mistake(
        "Each node has a line of its own. DeepSpeed reads one host here, whose name is {name}."
    ),
    "rest of the line": Mistake("DeepSpeed stops reading a line after the number, and ignores {rest} without a word."),
    "slots": Mistake(
        "DeepSpeed reads {slots} slots on {host}, a world of {world} ranks. A line counts the GPUs of its own node."
    ),
    "order": Mistake("Rank 0 would live on {first}: the ranks are counted through the file from its first line."),
    "other nodes": Mistake("DeepSpeed reads the hosts {names}, and the job runs on worker-a and worker-b."),
}


EXERCISE = Exercise(
    id="08-hostfile",
    title="A hostfile for two nodes",
    difficulty=1,
    minutes=5,
    target="DeepSpeed's launcher reads worker-a and worker-b from it, in this order, with 4 slots each, and no word "
    "is lost",
    answer="hostfile_text",
    check=_hostfile,
    mistakes=MISTAKES,
)
