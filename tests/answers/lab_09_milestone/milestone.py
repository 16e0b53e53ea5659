"""Exercise 09-milestone: the course's own trainer, broken in one place each time, and trainers that reach it."""


def _ours(*changes):
    """The text of the course's own trainer with pairs of old and new text exchanged, as the cell of a reader."""
    lines = ["from pathlib import Path", "import labsupport.trainer as ours"]
    builders = "from labsupport.config import create_deepspeed_config, create_offload_config\n"
    lines += [f"my_trainer = {builders!r} + Path(ours.__file__).read_text()"]
    for old, new in changes:
        lines += [f"assert {old!r} in my_trainer", f"my_trainer = my_trainer.replace({old!r}, {new!r})"]
    return "\n".join(lines)


def _config_builder(expression):
    line = "from labsupport.config import create_deepspeed_config, create_offload_config\n"
    return _ours((line, f"{line}create_deepspeed_config = lambda **_: {expression}\n"))


def _initializer(body):
    line = "from labsupport.engine import initialize_deepspeed, out_of_gpu_memory\n"
    new = f"from labsupport import engine\n{line}def initialize_deepspeed(model, config, *optimizer):\n    {body}\n"
    return _ours((line, new))


def _update(body):
    inside = " " * 12  # within a method's try
    return _ours((f"{inside}self.engine.backward(loss)\n{inside}self.engine.step()\n", f"{inside}{body}\n"))


def _save(statement):
    return _ours(("        save(engine, path, tag, client_state, keep, options)\n", f"        {statement}\n"))


def _load(expression):
    return _ours(("return load(self.engine, path, tag, fall_back)", f"return {expression}"))


MEAN = "torch.distributed.all_reduce(value)\n        return value / torch.distributed.get_world_size()"


CLASS = """import deepspeed
import torch


def create_deepspeed_config(stage=2, fp16=True, gradient_accumulation_steps=1, train_batch_size=32,
                            offload_optimizer=False, offload_param=False):
    zero = {"stage": stage} | create_offload_config(offload_optimizer, offload_param)["zero_optimization"]
    config = {"train_batch_size": train_batch_size, "gradient_accumulation_steps": gradient_accumulation_steps,
              "optimizer": {"type": "AdamW", "params": {"lr": 3e-4}}, "zero_optimization": zero}
    return config | ({"fp16": {"enabled": True, "loss_scale": 0}} if fp16 else {"bf16": {"enabled": True}})


def initialize_deepspeed(model, config, optimizer=None):
    return deepspeed.initialize(model=model, model_parameters=model.parameters(), optimizer=optimizer, config=config)


class DeepSpeedTrainer:
    def __init__(self, engine):
        self.engine = engine

    def train_step(self, batch):
        loss = self.engine(**{name: value.to(self.engine.device) for name, value in batch.items()}).loss
        self.engine.backward(loss)
        self.engine.step()
        mean = loss.detach().clone()
        torch.distributed.all_reduce(mean)
        return mean.item() / torch.distributed.get_world_size()

    def train_epoch(self, loader):
        losses = [self.train_step(batch) for batch in loader]
        return sum(losses) / len(losses)

    def save_checkpoint(self, folder, client_state=None):
        self.engine.save_checkpoint(folder, client_state={"mine": client_state})

    def load_checkpoint(self, folder):
        path, state = self.engine.load_checkpoint(folder)
        if path is None:
            raise FileNotFoundError(folder)
        return state["mine"]


def create_offload_config(optimizer_offload=True, param_offload=False, offload_device="cpu", nvme_path=None):
    target = {"device": offload_device} | ({"nvme_path": nvme_path} if offload_device == "nvme" else {})
    wanted = {"offload_optimizer": optimizer_offload, "offload_param": param_offload}
    return {"zero_optimization": {name: dict(target) for name, yes in wanted.items() if yes}}
"""
METHODS = CLASS[CLASS.index("    def train_step") : CLASS.index("\n\ndef create_offload_config")]
FUNCTIONS = CLASS.replace(
    CLASS[CLASS.index("class DeepSpeedTrainer") : CLASS.index("    def train_step")] + METHODS,
    METHODS.replace("    def ", "def ")
    .replace("\n    ", "\n")
    .replace("(self, ", "(engine, ")
    .replace("self.engine", "engine")
    .replace("self.train_step(", "train_step(engine, "),
)
COURSE = """from labsupport.config import create_deepspeed_config, create_offload_config
from labsupport.deepspeed_trainer import DeepSpeedTrainer
from labsupport.engine import initialize_deepspeed

print("a module may print")
if __name__ == "__main__":
    raise SystemExit("and have a main part")
"""

WRONG = {
    "config": (
        _config_builder('{"train_batch_size": 8}'),
        _config_builder('{"train_micro_batch_size_per_gpu": 8, "zero_optimization": {"stage": 2}}'),
    ),
    "not four": (_initializer("return engine.initialize_deepspeed(model, config, *optimizer)[0]"),),
    "another model": (
        _initializer("return engine.initialize_deepspeed(model, config, *optimizer)[::-1]"),
        _initializer("import copy; return engine.initialize_deepspeed(copy.deepcopy(model), config)"),
    ),
    "another stage": (
        _initializer(
            'return engine.initialize_deepspeed(model, config | {"zero_optimization": {"stage": 1}}, *optimizer)'
        ),
    ),
    "loss of one rank": (_ours((MEAN, "return value")),),
    "loss of the first step": (
        _ours((" / torch.distributed.get_world_size()", "")),
        _ours(("self._mean_over_ranks(loss), 1)", "self._mean_over_ranks(self._loss(batch).detach().float()), 1)")),
    ),
    "other losses": (
        _update("self.engine.backward(loss)"),
        _update("self.engine.backward(loss / 2); self.engine.step()"),
    ),
    "epoch steps": (_ours(("itertools.islice(dataloader, max_steps)", "itertools.islice(dataloader, 4)")),),
    "epoch losses": (_ours(("return total / steps", "return 1.0")),),
    "rank 0 alone": (_save("if self.rank == 0: engine.save_checkpoint(path, tag=tag)"),),
    "no checkpoint": (_save('torch.save(engine.module.state_dict(), f"{path}/model.pt")'),),
    "client state": (
        _load("load(self.engine, path, tag, fall_back) and None"),
        _save("save(engine, path, tag, None, keep, options)"),
    ),
    "resumed run": (_load('load_weights(self.engine, path, tag) and {"epoch": 3, "note": "mine"}'),),
    "offload": (
        _ours(
            (
                "class DeepSpeedTrainer:",
                "def create_offload_config(*_):\n    return {'offload_optimizer': "
                "{'device': 'cpu'}}\n\n\nclass DeepSpeedTrainer:",
            )
        ),
    ),
}

# Each of these trainers is right but for one part, which its own lab's check finds.
WRONG["as in the lab"] = tuple(
    f"my_trainer = {CLASS.replace(old, new)!r}"
    for old, new in (
        ('({"fp16": {"enabled": True, "loss_scale": 0}} if fp16 else {"bf16": {"enabled": True}})', "{}"),
        ("create_offload_config(offload_optimizer, offload_param)", "create_offload_config(False)"),
        ("return sum(losses) / len(losses)", "return sum(losses)"),
        (
            "losses = [self.train_step(batch) for batch in loader]",
            "losses = [self.train_step(batch) for batch in loader]\n        self.engine.optimizer.zero_grad()",
        ),
        (
            "mean.item() / torch.distributed.get_world_size()",
            "mean.item() / 2",
        ),
        ("        if path is None:\n            raise FileNotFoundError(folder)\n", ""),
        ('({"nvme_path": nvme_path} if offload_device == "nvme" else {})', "{}"),
    )
)
WRONG["client ignored"] = (f"my_trainer = {CLASS.replace('optimizer=optimizer, config', 'config')!r}",)

RIGHT = tuple(f"my_trainer = {text!r}" for text in (CLASS, FUNCTIONS, COURSE))
