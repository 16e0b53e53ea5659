"""The random states of a rank, saved and restored, so that dropout goes on where it was. Plain JSON, no pickle."""

import base64
import json
import random
from pathlib import Path

import numpy
import torch

from labsupport.machine.hardware import accelerator


def file_name(rank):
    """The file of a rank within a tag's folder."""
    return f"random_states_rank_{rank}.json"


def save_random_states(path):
    """Write the states of Python's, numpy's and torch's generators, and of the device's own; raises OSError."""
    algorithm, keys, position, has_gauss, gauss = numpy.random.get_state()
    version, words, next_gauss = random.getstate()
    states = {
        "python": [version, list(words), next_gauss],
        "numpy": [algorithm, keys.tolist(), position, has_gauss, gauss],
        "torch": _text(torch.get_rng_state()),
        "device": _text(accelerator().get_rng_state()) if accelerator().device_name() != "cpu" else None,
    }
    Path(path).write_text(json.dumps(states), encoding="utf-8")


def restore_random_states(path):
    """Set every generator to what `save_random_states` wrote; returns False where there is no such file."""
    if not Path(path).is_file():
        return False
    states = json.loads(Path(path).read_text(encoding="utf-8"))
    version, words, next_gauss = states["python"]
    random.setstate((version, tuple(words), next_gauss))
    numpy.random.set_state(tuple(states["numpy"]))
    torch.set_rng_state(_tensor(states["torch"]))
    if states["device"] is not None and accelerator().device_name() != "cpu":
        accelerator().set_rng_state(_tensor(states["device"]))
    return True


def _text(state):
    return base64.b64encode(bytes(state.tolist())).decode()


def _tensor(text):
    return torch.tensor(list(base64.b64decode(text)), dtype=torch.uint8)
