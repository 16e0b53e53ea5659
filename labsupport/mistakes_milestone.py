"""What a reader's own trainer gets wrong at the milestone: the course's trainer, broken in one place each time."""

from labsupport.exercises.exercise import Mistake


def _ours(*changes):
    """The text of the course's own trainer with pairs of old and new text exchanged, as the cell of a reader."""
    lines = ["from pathlib import Path", "import labsupport.deepspeed_trainer as ours"]
    lines += ["my_trainer = Path(ours.__file__).read_text()"]
    for old, new in changes:
        lines += [f"assert {old!r} in my_trainer", f"my_trainer = my_trainer.replace({old!r}, {new!r})"]
    return "\n".join(lines)


def _config_builder(expression):
    line = "from labsupport.config import create_deepspeed_config, create_offload_config\n"
    return _ours((line, f"{line}create_deepspeed_config = lambda **_: {expression}\n"))


def _initializer(body):
    line = "from labsupport.engine import initialize_deepspeed, out_of_gpu_memory\n"
    new = f"from labsupport import engine\n{line}def initialize_deepspeed(model, config):\n    {body}\n"
    return _ours((line, new))


def _update(body):
    inside = " " * 12  # within a method's try
    return _ours((f"{inside}self.engine.backward(loss)\n{inside}self.engine.step()\n", f"{inside}{body}\n"))


def _save(statement):
    return _ours(
        ("            engine.save_checkpoint(path, tag=tag, client_state=state)\n", f"            {statement}\n")
    )


MEAN = "torch.distributed.all_reduce(value)\n        return value / torch.distributed.get_world_size()"

MILESTONE = {
    "hangs": Mistake(
        "Your module had not come to its end after a minute and was stopped: look for an endless loop, at its top "
        "level too, and for a collective that not every rank calls."
    ),
    "config": Mistake(
        "{begin} Asked for stage 2 and 8 samples an update, it makes DeepSpeed read stage {stage} and {batch} samples.",
        (
            _config_builder('{"train_batch_size": 8}'),
            _config_builder('{"train_micro_batch_size_per_gpu": 8, "zero_optimization": {"stage": 2}}'),
        ),
    ),
    "not four": Mistake(
        "{begin} It returns a {got}. deepspeed.initialize returns four objects, and so should it: the engine, the "
        "optimizer, the dataloader and the scheduler.",
        (_initializer("return engine.initialize_deepspeed(model, config)[0]"),),
    ),
    "another model": Mistake(
        "{begin} The first object that it returns is no engine around the model that was passed.",
        (
            _initializer("return engine.initialize_deepspeed(model, config)[::-1]"),
            _initializer("import copy; return engine.initialize_deepspeed(copy.deepcopy(model), config)"),
        ),
    ),
    "another stage": Mistake(
        "{begin} The engine runs stage {stage}, whatever the config says: pass the config on as it is.",
        (_initializer('return engine.initialize_deepspeed(model, config | {"zero_optimization": {"stage": 1}})'),),
    ),
    "loss of one rank": Mistake(
        "{begin} The two ranks report {first:.4f} and {second:.4f} for the same step: each shows the loss of its own "
        "half of the batch. Average it over the ranks.",
        (_ours((MEAN, "return value")),),
    ),
    "loss of the first step": Mistake(
        "{begin} The first loss is {got:.4f}, and plain PyTorch measures {wanted:.4f} on the same samples before any "
        "update. What is returned is not the mean over the ranks of the loss of this batch.",
        (
            _ours((" / torch.distributed.get_world_size()", "")),
            _ours(("self._mean_over_ranks(loss), 1)", "self._mean_over_ranks(self._loss(batch).detach().float()), 1)")),
        ),
    ),
    "other losses": Mistake(
        "{begin} Step {number} has a loss of {got:.4f}, and plain PyTorch one of {wanted:.4f}. Call backward and step "
        "of the engine once for each batch, and let the engine do the rest.",
        (_update("self.engine.backward(loss)"), _update("self.engine.backward(loss / 2); self.engine.step()")),
    ),
    "epoch steps": Mistake(
        "{begin} Three epochs made {got} updates, and their batches ask for {wanted}.",
        (_ours(("itertools.islice(dataloader, max_steps)", "itertools.islice(dataloader, 4)")),),
    ),
    "epoch losses": Mistake(
        "{begin} The three epochs report {losses}, which does not fall: return the mean loss of the epoch's batches.",
        (_ours(("return total / steps", "return 1.0")),),
    ),
    "rank 0 alone": Mistake(
        "{begin} Not every rank came to engine.save_checkpoint. Each rank writes its own part and waits for the "
        "others, so a save under `if rank == 0` hangs: call it on all ranks.",
        (_save("if self.rank == 0: engine.save_checkpoint(path, tag=tag, client_state=state)"),),
    ),
    "no checkpoint": Mistake(
        "{begin} The folder holds {files} optimizer files. Two ranks at stage 2 write two, and a file called latest "
        "beside the tag's folder. torch.save of the model keeps neither.",
        (_save('torch.save(engine.module.state_dict(), f"{path}/model.pt")'),),
    ),
    "client state": Mistake(
        "{begin} The dict that was saved, with an epoch and a note, did not come back: load_checkpoint returned {got}.",
        (
            _ours(("return state.get(CLIENT_STATE_KEY, {})", "return loaded")),
            _save("engine.save_checkpoint(path, tag=tag)"),
        ),
    ),
    "resumed run": Mistake(
        "{begin} Step {number} after the resume has a loss of {got:.6f}, and the run that never stopped {wanted:.6f}: "
        "something that training needs was not loaded.",
        (
            _ours(("load_checkpoint(path, tag=tag)\n        except", "load_checkpoint(path, tag=tag, "
                   "load_module_only=True)\n        except")),
        ),
        "engine.load_checkpoint(folder) brings weights, master weights, the optimizer's states and the counters.",
    ),
    "offload": Mistake(
        "{begin} Laid over a config of stage 2, its result gives an optimizer offload to {device} at stage {stage}. "
        'A fragment is {{"zero_optimization": {{"offload_optimizer": {{"device": "cpu"}}}}}} and names no stage.',
        (
            _ours(("class DeepSpeedTrainer:", "def create_offload_config(*_):\n    return {'offload_optimizer': "
                   "{'device': 'cpu'}}\n\n\nclass DeepSpeedTrainer:")),
        ),
    ),
}  # fmt: skip
