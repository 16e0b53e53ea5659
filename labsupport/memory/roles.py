"""What bytes are for, and where they can lie: the words that prediction and measurement share. No torch."""

MODEL_STATES = ("parameters", "gradients", "master weights", "optimizer states")
ROLES = (*MODEL_STATES, "communication buckets", "gathered parameters", "activations", "other")


def memory_held(places):
    """Return {role: bytes} of {place: {role: bytes}}, over all places but NVMe, which is no memory."""
    held = dict.fromkeys(ROLES, 0)
    for place, roles in places.items():
        for role, count in roles.items() if place != "NVMe" else ():
            held[role] += count
    return held


PLACES = ("GPU", "host", "pinned host", "NVMe")
