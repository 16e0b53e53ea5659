"""Trainers that reach the milestone, each written differently from the course's own."""

CLASS = """import deepspeed
import torch


def create_deepspeed_config(stage=2, fp16=True, gradient_accumulation_steps=1, train_batch_size=32, **_):
    config = {"train_batch_size": train_batch_size, "gradient_accumulation_steps": gradient_accumulation_steps,
              "optimizer": {"type": "AdamW", "params": {"lr": 3e-4}}, "zero_optimization": {"stage": stage}}
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


def create_offload_config(optimizer_offload=True, param_offload=False, offload_device="cpu"):
    wanted = {"offload_optimizer": optimizer_offload, "offload_param": param_offload}
    return {"zero_optimization": {name: {"device": offload_device} for name, yes in wanted.items() if yes}}
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

RIGHT = {"09-milestone": tuple(f"my_trainer = {text!r}" for text in (CLASS, FUNCTIONS, COURSE))}
