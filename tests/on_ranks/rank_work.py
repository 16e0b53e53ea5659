"""What the tests run on live ranks: each function is called on every rank and returns plain numbers."""

import torch

SEQUENCE = 32


def fp32_config(stage, **options):
    """A config for exact comparisons: fp32, no clipping, 8 samples a step."""
    from labsupport import create_deepspeed_config

    options = {"train_batch_size": 8, "precision": "fp32", "gradient_clipping": 0.0, "lr": 1e-3} | options
    return create_deepspeed_config(stage, **options)


def make_trainer(stage, seed=0, **options):
    from labsupport import DeepSpeedTrainer
    from labsupport.models import build_model

    return DeepSpeedTrainer(build_model("tiny", seed), fp32_config(stage, **options))


def loader(micro_batch):
    from labsupport.corpus import text_loader

    rank, world_size = torch.distributed.get_rank(), torch.distributed.get_world_size()
    return text_loader(micro_batch, rank, world_size, SEQUENCE, samples=128)


def who():
    """This rank's process, number and group, and the sum of 1 + number over the ranks."""
    import os

    total = torch.ones(1) * (torch.distributed.get_rank() + 1)
    torch.distributed.all_reduce(total)
    return os.getpid(), torch.distributed.get_rank(), torch.distributed.get_world_size(), float(total)


def divide_by_zero():
    return 1 / 0


def losses(stage, steps=6, **options):
    """Train `steps` micro-batches and return the loss of each, and a checksum of the weights."""
    trainer = make_trainer(stage, **options)
    batches = iter(loader(trainer.engine.train_micro_batch_size_per_gpu()))
    values = [trainer.train_step(next(batches)) for _ in range(steps)]
    weights = full_weights(trainer.engine)
    trainer.engine.destroy()
    return values, weights


def full_weights(engine):
    """The sums of all parameters, whole also under ZeRO-3."""
    import deepspeed

    parameters = list(engine.module.parameters())
    partitioned = [p for p in parameters if hasattr(p, "ds_id")]
    with deepspeed.zero.GatheredParameters(partitioned):
        return [float(p.detach().double().sum()) for p in parameters]


def plain_torch_losses(steps, global_batch=8, accumulation=1, lr=1e-3):
    """The same training without DeepSpeed: one process, torch's AdamW, the whole global batch."""
    from labsupport.corpus import text_loader
    from labsupport.models import build_model

    model = build_model("tiny")
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.0)
    batches = iter(text_loader(global_batch, 0, 1, SEQUENCE, samples=128))
    values = []
    for _ in range(steps):
        loss = model(**next(batches)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        values.append(float(loss.detach()))
    return values


def milestone(folder, epochs=3):
    """ZeRO-2: train, save, go on; load in a fresh engine, go on; return what both saw."""
    trainer = make_trainer(2)
    micro_batch = trainer.engine.train_micro_batch_size_per_gpu()
    data = loader(micro_batch)
    before = trainer.evaluate(data)
    epoch_losses = []
    for epoch in range(epochs):
        data.sampler.set_epoch(epoch)
        epoch_losses.append(trainer.train_epoch(data, progress=False))
    trainer.save_checkpoint(folder, {"epoch": epochs, "module": "a key of DeepSpeed's own", "note": "mine"})
    data.sampler.set_epoch(epochs)
    went_on = [trainer.train_step(batch) for batch in data]
    trainer.engine.destroy()

    resumed = make_trainer(2, seed=1)
    state = resumed.load_checkpoint(folder)
    loaded_step = resumed.engine.global_steps
    again = [resumed.train_step(batch) for batch in data]
    resumed.engine.destroy()
    return {
        "world_size": torch.distributed.get_world_size(),
        "before": before,
        "epoch_losses": epoch_losses,
        "went_on": went_on,
        "again": again,
        "state": state,
        "loaded_step": loaded_step,
    }


def sentence_of(function, *arguments, **options):
    """Call a function of this module that must fail; return the error's class name and text."""
    try:
        globals()[function](*arguments, **options)
    except Exception as error:
        return type(error).__name__, str(error)
    return None, "nothing was raised"


def load(stage, folder, tag=None):
    trainer = make_trainer(stage)
    try:
        return trainer.load_checkpoint(folder, tag)
    finally:
        trainer.engine.destroy()


def save(stage, folder, steps=1, tag=None):
    trainer = make_trainer(stage)
    batches = iter(loader(trainer.engine.train_micro_batch_size_per_gpu()))
    for _ in range(steps):
        trainer.train_step(next(batches))
    written = trainer.save_checkpoint(folder, {"kept": [1, 2, 3]}, tag)
    trainer.engine.destroy()
    return written


def train_on_nan():
    """One rank's batch gives a loss that is not a number; both ranks must stop."""
    from labsupport import DeepSpeedTrainer

    model = torch.nn.Linear(2, 1)
    trainer = DeepSpeedTrainer(model, fp32_config(1), loss_fn=torch.nn.functional.mse_loss)
    value = float("nan") if torch.distributed.get_rank() == 1 else 1.0
    trainer.train_step((torch.full((4, 2), value), torch.zeros(4, 1)))


def initialize_sgd(stage, **options):
    from labsupport import initialize_deepspeed

    model = torch.nn.Linear(2, 1)
    initialize_deepspeed(model, fp32_config(stage, **options), torch.optim.SGD(model.parameters(), lr=1.0))


def initialize_precision(precision):
    from labsupport import create_deepspeed_config, initialize_deepspeed

    initialize_deepspeed(torch.nn.Linear(2, 1), create_deepspeed_config(precision=precision, train_batch_size=8))


def initialize_raw(config):
    from labsupport import initialize_deepspeed

    initialize_deepspeed(torch.nn.Linear(2, 1), config)


def said_of(config):
    """What a rank prints as it makes an engine of a config, the second time without the sentences said once."""
    import contextlib
    import io

    from labsupport import initialize_deepspeed

    texts = []
    for _ in range(2):
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            engine, *_rest = initialize_deepspeed(torch.nn.Linear(2, 1), config)
        engine.destroy()
        texts.append(printed.getvalue())
    return texts


def losses_with(config, steps=4):
    """Train on one and the same batch with a config and return the loss of each step."""
    from labsupport import DeepSpeedTrainer
    from labsupport.models import build_model

    trainer = DeepSpeedTrainer(build_model("tiny"), config)
    batch = next(iter(loader(trainer.engine.train_micro_batch_size_per_gpu())))
    return [trainer.train_step(batch) for _ in range(steps)]


def nvme_buffers_looked_at(config):
    """How many bytes of buffers the engine asks about, on a machine that refuses NVMe offload."""
    from unittest import mock

    from labsupport import engine
    from labsupport.errors import TrainingError

    try:
        with mock.patch.object(engine, "nvme_obstacle", lambda _, locked_bytes: f"{locked_bytes}"):
            engine.initialize_deepspeed(torch.nn.Linear(2, 1), config)
    except TrainingError as refused:
        return int(str(refused))


def accumulate(stage, style):
    """Two micro-batches with gradients 1 and 3, SGD with lr 1, accumulation 2; return the weight's change and
    how many updates DeepSpeed says that it applied."""
    from labsupport import DeepSpeedTrainer

    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(model.weight)
    config = fp32_config(stage, train_batch_size=4, gradient_accumulation_steps=2)
    config["zero_allow_untested_optimizer"] = True
    trainer = DeepSpeedTrainer(
        model, config, optimizer=torch.optim.SGD(model.parameters(), lr=1.0), loss_fn=lambda out, target: out.sum()
    )
    batches = [(torch.tensor([[gradient]]), torch.zeros(1)) for gradient in (1.0, 3.0)]
    if style == "train_step":
        for batch in batches:
            trainer.train_step(batch)
    else:
        trainer.train_epoch(batches, progress=False)
    change, steps = full_weights(trainer.engine)[0], trainer.engine.global_steps
    trainer.engine.destroy()
    return change, steps


def batch_kinds(stage):
    """Train one step on each kind of batch and model; return the losses."""
    from labsupport import DeepSpeedTrainer

    class OwnLoss(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(2, 1)

        def forward(self, inputs, labels=None):
            output = self.layer(inputs)
            return output if labels is None else (output - labels).square().mean()

    inputs, labels = torch.ones(4, 2), torch.zeros(4, 1)
    kinds = {
        "tuple": ((inputs, labels), None),
        "list": ([inputs, labels], None),
        "dict": ({"inputs": inputs, "labels": labels}, None),
        "tuple and loss_fn": ((inputs, labels), torch.nn.functional.mse_loss),
        "dict and loss_fn": ({"inputs": inputs, "labels": labels}, torch.nn.functional.mse_loss),
        "tensor and loss_fn": (inputs, lambda output, target: output.square().mean()),
    }
    values = {}
    for name, (batch, loss_fn) in kinds.items():
        torch.manual_seed(0)
        trainer = DeepSpeedTrainer(OwnLoss(), fp32_config(stage), loss_fn=loss_fn)
        values[name] = trainer.train_step(batch)
        trainer.engine.destroy()
    return values


def held_per_parameter(stage, precision):
    """Bytes of each role per parameter of a large linear layer, after two steps, as the ledger counts them."""
    from labsupport import DeepSpeedTrainer
    from labsupport.measure.ledger import held_bytes

    size = 512
    model = torch.nn.Linear(size, size, bias=False)
    config = fp32_config(stage, precision=precision, bucket_size=2)
    trainer = DeepSpeedTrainer(model, config, loss_fn=torch.nn.functional.mse_loss)
    for _ in range(2):
        trainer.train_step((torch.ones(4, size), torch.zeros(4, size)))
    held = {role: count / size**2 for role, count in held_bytes(trainer.engine).items()}
    trainer.engine.destroy()
    return held


def two_watched_steps():
    """The peak's roles of two steps in a row, the gathering of live parameters included."""
    from labsupport.measure.timeline import watch_step

    trainer = make_trainer(3)
    batch = next(iter(loader(2)))
    for _ in range(3):
        trainer.train_step(batch)
    peaks = [watch_step(trainer.engine, lambda: trainer.train_step(batch)).peak for _ in range(2)]
    trainer.engine.destroy()
    return peaks


def counted_quickly_and_wholly():
    """held_bytes without and with the tensors of unknown purpose; the quick one may not walk over objects."""
    from labsupport.measure import claims, ledger

    trainer = make_trainer(2)
    trainer.train_step(next(iter(loader(2))))
    walk, claims.live_tensors = claims.live_tensors, None
    try:
        quick = ledger.held_bytes(trainer.engine, everything=False)
    finally:
        claims.live_tensors = walk
    whole = ledger.held_bytes(trainer.engine)
    trainer.engine.destroy()
    return quick, whole


def save_mid_window(folder):
    """Save after one of two micro-batches; return rank 0's warning."""
    import warnings

    trainer = make_trainer(2, gradient_accumulation_steps=2)
    trainer.train_step(next(iter(loader(2))))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.save_checkpoint(folder)
    trainer.engine.destroy()
    return " ".join(str(warning.message) for warning in caught)


def trainer_mistakes():
    """Make each mistake and return [(name, sentence)]."""
    from labsupport import DeepSpeedTrainer, LabError

    trainer = DeepSpeedTrainer(torch.nn.Linear(2, 1), fp32_config(1))
    mistakes = {
        "no config": lambda: DeepSpeedTrainer(torch.nn.Linear(2, 1)),
        "engine and config": lambda: DeepSpeedTrainer(trainer.engine, fp32_config(1)),
        "empty loader": lambda: trainer.train_epoch([], progress=False),
        "no loss": lambda: trainer.train_step(torch.ones(4, 2)),
        "state of the wrong type": lambda: trainer.save_checkpoint("unused", [1]),
        "state that is no data": lambda: trainer.save_checkpoint("unused", {"file": lambda: 0}),
    }
    sentences = []
    for name, make in mistakes.items():
        try:
            make()
        except LabError as error:
            sentences.append((name, str(error)))
    trainer.engine.destroy()
    return sentences


def losses_of_loop(loop, steps, compiled=None):
    """This rank's loss of each step of one of labsupport.gpu.training_loops, in fp32 on the same samples."""
    import itertools

    import torch

    from labsupport.corpus import endless_batches, text_loader
    from labsupport.gpu.training_loops import LOOPS
    from labsupport.models import build_model, compile_layers

    rank, world_size = torch.distributed.get_rank(), torch.distributed.get_world_size()
    if loop == "plain PyTorch whole batch":  # the reference: both ranks' samples, in one process
        loop, loader = "plain PyTorch", text_loader(2 * world_size, sequence_length=32)
    else:
        loader = text_loader(2, rank, world_size, 32)
    model = build_model("tiny")
    if compiled:
        compile_layers(model, compiled)
    advance = LOOPS[loop](model, fp32_config(2), torch.device("cpu"))
    return [float(advance([batch])) for batch in itertools.islice(endless_batches(loader), steps)]


def step_on_a_full_gpu():
    """The error of a step whose forward pass ends as it does on a GPU that is full: (its class, its sentence)."""
    import types
    from unittest import mock

    import torch

    card = types.SimpleNamespace(name="a small card", total_memory=2**33)

    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore lines.")

    trainer = make_trainer(1)
    with (
        mock.patch.object(type(trainer.engine), "forward", full),
        mock.patch.object(torch.cuda, "current_device", return_value=0),
        mock.patch.object(torch.cuda, "get_device_properties", return_value=card),
        mock.patch.object(torch.cuda, "max_memory_allocated", return_value=2**32),
    ):
        try:
            trainer.train_step({"input_ids": torch.zeros(1, 8, dtype=torch.int64)})
        except Exception as error:
            return type(error).__name__, str(error)


def measured_with_fp16(run):
    """What agreement.measure finds, on a processor that is told to compute in fp16 although it is slow at it."""
    from deepspeed.accelerator import get_accelerator

    from labsupport.measure import agreement

    accelerator = get_accelerator()
    accelerator.is_fp16_supported = lambda: True
    if "fp16" in run.config:
        run.config["fp16"]["initial_scale_power"] = 8  # a skipped step makes no Adam states to count
    try:
        return agreement.measure(run)
    finally:
        del accelerator.is_fp16_supported
