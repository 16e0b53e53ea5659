"""Exercise 05-save-load: answers that are known to be wrong, by their mistake, and right ones."""

_SAVE = """def save(engine, folder, batches_read):
    engine.save_checkpoint(folder, client_state={"batches_read": batches_read})
"""

_LOAD = """def load(engine, folder):
    path, state = engine.load_checkpoint(folder)
    if path is None:
        raise FileNotFoundError(folder)
    return state["batches_read"]
"""


def _pair(save=_SAVE, load=_LOAD):
    return f"{save}\n{load}\nsave_and_load = (save, load)"


WRONG = {
    "position lost": (
        _pair(
            "def save(engine, folder, batches_read):\n    engine.save_checkpoint(folder)\n",
            _LOAD.replace('["batches_read"]', '.get("batches_read", 0)'),
        ),
        _pair(load=_LOAD.replace('state["batches_read"]', "engine.global_steps")),
        _pair("def save(engine, folder, batches_read):\n    engine.save_checkpoint(folder)\n"),
    ),
    "the older one": (
        _pair(
            load="""import os

def load(engine, folder):
    tags = sorted(tag for tag in os.listdir(folder) if tag != "latest" and os.path.isdir(f"{folder}/{tag}"))
    path, state = engine.load_checkpoint(folder, tag=tags[0])
    return state["batches_read"]
"""
        ),
        _pair(
            load="""import os

def load(engine, folder):
    if not os.path.isdir(folder):
        raise FileNotFoundError(folder)
    tags = sorted(tag for tag in os.listdir(folder) if os.path.isdir(f"{folder}/{tag}"))
    return engine.load_checkpoint(folder, tag=tags[-1])[1]["batches_read"]
"""
        ),
        _pair(
            """import os

def save(engine, folder, batches_read):
    new = not os.path.exists(folder)
    engine.save_checkpoint(folder, client_state={"batches_read": batches_read}, save_latest=new)
"""
        ),
    ),
    "counter": (
        _pair(
            _SAVE.replace('"batches_read"', '"global_steps"'),
            _LOAD.replace('state["batches_read"]', "engine.global_steps"),
        ),
        _pair(
            _SAVE.replace('"batches_read"', '"global_steps"'),
            _LOAD.replace('"batches_read"', '"global_steps"'),
        ),
    ),
    "engine not restored": (
        _pair(load=_LOAD.replace("(folder)\n    if", "(folder, load_module_only=True)\n    if")),
        """import json, os
import torch

def save(engine, folder, batches_read):
    os.makedirs(folder, exist_ok=True)
    torch.save([engine.module.state_dict(), batches_read], f"{folder}/{torch.distributed.get_rank()}.pt")

def load(engine, folder):
    weights, batches_read = torch.load(f"{folder}/{torch.distributed.get_rank()}.pt")
    engine.module.load_state_dict(weights)
    return batches_read

save_and_load = (save, load)""",
    ),
    "other training": (
        _pair(load=_LOAD.replace("(folder)\n    if", "(folder, load_optimizer_states=False)\n    if")),
        _pair(load=_LOAD.replace("(folder)\n    if", "(folder, load_lr_scheduler_states=False)\n    if")),
    ),
    "missing tag": (
        _pair(
            "def save(engine, folder, batches_read):\n"
            '    engine.save_checkpoint(folder, tag="mine", client_state={"batches_read": batches_read})\n',
            _LOAD.replace("load_checkpoint(folder)", 'load_checkpoint(folder, tag="mine")'),
        ),
    ),
    "missing folder": (
        _pair(load=_LOAD.replace("    if path is None:\n        raise FileNotFoundError(folder)\n", "")),
        _pair(load=_LOAD.replace("raise FileNotFoundError(folder)", "return 0")),
    ),
    "hangs": (
        _pair(
            """import torch

def save(engine, folder, batches_read):
    if torch.distributed.get_rank() == 0:
        engine.save_checkpoint(folder, client_state={"batches_read": batches_read})
"""
        ),
    ),
}

RIGHT = (
    """def save(engine, folder, batches_read):
    engine.save_checkpoint(folder, tag="resume", client_state={"mine": {"position": batches_read}})

def load(engine, folder):
    path, state = engine.load_checkpoint(folder)
    if path is None:
        raise FileNotFoundError(f"no checkpoint in {folder}")
    return state["mine"]["position"]

save_and_load = [save, load]""",
    """import json
from pathlib import Path

import torch

def save(engine, folder, batches_read):
    engine.save_checkpoint(folder)
    if torch.distributed.get_rank() == 0:
        Path(folder, "position.json").write_text(json.dumps(batches_read))
    torch.distributed.barrier()

def load(engine, folder):
    position = json.loads(Path(folder, "position.json").read_text())
    engine.load_checkpoint(folder)
    return position

save_and_load = save, load""",
    """import os

class Run:
    @staticmethod
    def save(engine, folder, batches_read):
        return engine.save_checkpoint(folder, client_state=dict(position=batches_read))

    @staticmethod
    def load(engine, folder):
        if not os.path.isfile(os.path.join(folder, "latest")):
            raise FileNotFoundError
        return engine.load_checkpoint(load_dir=folder)[1]["position"]

save_and_load = (Run.save, Run.load)""",
)
