"""The recorded training steps, frame by frame, for the tests of the record and of its picture."""

from labsupport.measure.blocks import BLOCKS, ROLES
from labsupport.records import read_record

RECORD = read_record("walkthrough")
RECORDED = RECORD["measured"]["runs"]


def name(run):
    return f"stage {run['stage']}, {run['world_size']} ranks{', to owners' if run['to_owners'] else ''}"


def unfold(run):
    """Return the frames with everything that is held at the end of each, as {(role, block): [bytes by rank]}."""
    nothing = [0] * run["world_size"]
    held, live = {(role, n): nothing for role in ROLES for n in range(len(BLOCKS))}, {}
    frames = []
    for frame in run["frames"]:
        changed = {(role, int(n)): by for role, rows in frame["held"].items() for n, by in rows.items()}
        held, live = held | changed, live | frame["live"]
        frames.append({"blocks": [], "sent": {}} | frame | {"held": held, "live": live})
    return frames
