"""What tests/test_kinds_of_models.py runs on live ranks: small models of every kind, and what the trainer refuses."""

import contextlib
import copy
import io
from collections import namedtuple

import rank_work
import torch
from torch import nn
from torch.nn import functional

STEPS_BEFORE, STEPS_AFTER = 2, 2  # the save
Pair = namedtuple("Pair", "inputs labels")
GRAPHS = []


class Dense(nn.Module):
    """Two layers; `outputs` is what it makes of the loss and the prediction."""

    def __init__(self, outputs=lambda loss, prediction: loss):
        super().__init__()
        self.first, self.second, self.outputs = nn.Linear(8, 16), nn.Linear(16, 4), outputs

    def forward(self, inputs, labels=None):
        prediction = self.second(functional.relu(self.first(inputs)))
        return prediction if labels is None else self.outputs(functional.mse_loss(prediction, labels), prediction)


class Nested(Dense):
    """A batch within a batch goes in, a plain dict with more than the loss comes out."""

    def forward(self, pairs, scale):
        losses = [super(Nested, self).forward(pair.inputs * scale["by"], pair.labels) for pair in pairs]
        return {"loss": sum(losses), "each": losses, "aside": {"scale": scale["by"]}}


class Images(nn.Module):
    """A convolution with batch normalisation."""

    def __init__(self):
        super().__init__()
        self.convolution, self.norm, self.last = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4 * 4 * 4, 5)

    def forward(self, pixels, labels):
        prediction = self.last(functional.relu(self.norm(self.convolution(pixels))).flatten(1))
        return {"prediction": prediction, "loss": functional.cross_entropy(prediction, labels)}


class NextToken(nn.Module):
    """Predicts the next token of sequences of any length; takes the ids alone, returns the loss alone."""

    def __init__(self):
        super().__init__()
        self.embedding, self.head = nn.Embedding(32, 8), nn.Linear(8, 32)

    def forward(self, ids):
        prediction = self.head(self.embedding(ids[:, :-1]))
        return functional.cross_entropy(prediction.flatten(0, 1), ids[:, 1:].flatten())


class Lengths(torch.utils.data.IterableDataset):
    """Sequences without a len(), of another length in each batch and on each rank."""

    def __init__(self, rank):
        self.rank = rank

    def __iter__(self):
        numbers = torch.Generator().manual_seed(self.rank)
        for step in range(STEPS_BEFORE + STEPS_AFTER):
            yield torch.randint(32, (4, 5 + 3 * step + self.rank), generator=numbers)


def encoder_decoder():
    """A T5 with one layer on each side."""
    from transformers import T5Config, T5ForConditionalGeneration

    sizes = {"vocab_size": 32, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    return T5ForConditionalGeneration(T5Config(**sizes, dropout_rate=0.0, decoder_start_token_id=0))


def low_rank():
    """A GPT-2 whose own weights are frozen beside adapters of peft."""
    from peft import LoraConfig, get_peft_model
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {
        "vocab_size": 32,
        "n_positions": 16,
        "n_embd": 16,
        "n_layer": 1,
        "n_head": 2,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    rates = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    adapters = LoraConfig(r=2, task_type="CAUSAL_LM", target_modules=["c_attn"], fan_in_fan_out=True)
    return get_peft_model(GPT2LMHeadModel(GPT2Config(**sizes, **rates)), adapters)


def frozen_below():
    """The first layer is frozen; the model returns a tuple."""
    model = Dense(lambda loss, prediction: (loss, prediction))
    model.first.weight.requires_grad_(False)
    return model


def counted(graph, _):
    """A backend of torch.compile that keeps the graphs which it is given, and runs them as they are."""
    GRAPHS.append(graph)
    return graph.forward


def compiled():
    """A layer within torch.compile's wrapper, in a model within another."""
    model = Dense()
    model.first = torch.compile(model.first, backend=counted)
    return torch.compile(model, backend=counted)


def two_groups(model):
    """An optimizer of the caller's own, with two groups."""
    groups = [
        {"params": [p for p in model.first.parameters() if p.requires_grad], "lr": 1e-2},
        {"params": model.second.parameters(), "lr": 1e-3, "weight_decay": 0.1},
    ]
    return torch.optim.AdamW(groups, lr=1e-3, weight_decay=0.0)


def pairs(rank):
    """Inputs and labels of Dense."""
    numbers = torch.Generator().manual_seed(7 + rank)
    steps = range(STEPS_BEFORE + STEPS_AFTER)
    return [(torch.randn(4, 8, generator=numbers), torch.randn(4, 4, generator=numbers)) for _ in steps]


def nested_pairs(rank):
    """Batches of Nested; what is in double precision must come in the model's own."""
    return [
        {"pairs": [Pair(*pair)], "scale": {"by": torch.full((1,), 0.5, dtype=torch.float64)}} for pair in pairs(rank)
    ]


def images(rank):
    """Batches of Images."""
    numbers = torch.Generator().manual_seed(7 + rank)
    pixels = [torch.randn(4, 3, 6, 6, generator=numbers) for _ in range(STEPS_BEFORE + STEPS_AFTER)]
    return [{"pixels": each, "labels": torch.arange(4) + rank} for each in pixels]


def tokens(rank):
    """Batches of a language model."""
    numbers = torch.Generator().manual_seed(7 + rank)
    ids = [torch.randint(32, (4, 7), generator=numbers) for _ in range(STEPS_BEFORE + STEPS_AFTER)]
    return [{"input_ids": each, "labels": each.flip(1)} for each in ids]


def unsized(rank):
    """A loader without a length."""
    return torch.utils.data.DataLoader(Lengths(rank), batch_size=None)


# name: (model, batches of a rank, how the trainer is made)
KINDS = {
    "a plain dict with a nested batch": (Nested, nested_pairs, {}),
    "images": (Images, images, {}),
    "lengths without a len": (NextToken, unsized, {}),
    "encoder-decoder": (encoder_decoder, tokens, {}),
    "two groups, the first half frozen": (frozen_below, pairs, {"optimizer": two_groups}),
    "a loss_fn": (Dense, pairs, {"loss_fn": functional.mse_loss}),
    "adapters of peft": (low_rank, tokens, {}),
    "torch.compile": (compiled, pairs, {}),
    "engine.compile": (Dense, pairs, {"compile": True}),
}
STAGES = dict.fromkeys(KINDS, (0, 1, 2, 3)) | {"engine.compile": (0, 3)}  # compiling takes seconds


def make(kind, stage, seed=0):
    """A trainer of a kind, in fp32."""
    from labsupport import DeepSpeedTrainer

    build, _, options = KINDS[kind]
    options = dict(options)
    compiles = options.pop("compile", False)
    torch.manual_seed(seed)
    model = build()
    if "optimizer" in options:
        options["optimizer"] = options["optimizer"](model)
    trainer = DeepSpeedTrainer(model, rank_work.fp32_config(stage), **options)
    if compiles:
        trainer.engine.compile(backend=counted)
    return trainer


def every_stage(kind, folder):
    """At each stage train, evaluate, save and go on; then resume from another start and go on again.

    Returns for each stage the losses of all steps, those after the save with a last evaluation, and the same resumed.
    """
    return [_one_stage(kind, stage, f"{folder}/{stage}") for stage in STAGES[kind]]


def _one_stage(kind, stage, folder):
    batches = list(KINDS[kind][1](torch.distributed.get_rank()))

    def go_on(trainer):
        losses = [trainer.train_step(batch) for batch in batches[STEPS_BEFORE:]]
        return [*losses, trainer.evaluate(batches)]

    torch._dynamo.reset()
    GRAPHS.clear()
    trainer = make(kind, stage)
    trainer.evaluate(batches[:1])
    before = [trainer.train_step(batch) for batch in batches[:STEPS_BEFORE]]
    trainer.save_checkpoint(folder)
    after = go_on(trainer)
    trainer.engine.destroy()
    trainer = make(kind, stage, seed=1)
    trainer.load_checkpoint(folder)
    again = go_on(trainer)
    trainer.engine.destroy()
    if "compile" in kind and not GRAPHS:
        raise AssertionError("nothing was compiled")
    return before + after[:-1], after, again


def plain_torch_losses(kind, ranks=2):
    """The same training in one process without DeepSpeed: the mean of the ranks' losses, torch's AdamW."""
    build, batches_of, options = KINDS[kind]
    torch.manual_seed(0)
    model = (Dense if build is compiled else build)()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = options.get("optimizer", lambda _: torch.optim.AdamW(trained, lr=1e-3, weight_decay=0.0))(model)
    losses = []
    for batches in zip(*map(batches_of, range(ranks)), strict=True):
        loss = sum(_plain_loss(model, batch, options.get("loss_fn")) for batch in batches) / ranks
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def _plain_loss(model, batch, loss_fn):
    if loss_fn is not None:
        return loss_fn(model(batch[0]), batch[1])
    if isinstance(batch, dict):
        if "scale" in batch:
            batch = batch | {"scale": {"by": batch["scale"]["by"].float()}}
        return model(**batch)["loss"]
    output = model(*batch) if isinstance(batch, tuple) else model(batch)
    return output[0] if isinstance(output, tuple) else output


def torch_style(stage):
    """The losses of a loop with loss.backward(), the loss made outside of the engine, and those of the trainer."""
    batches = pairs(torch.distributed.get_rank())
    trainer = make("a loss_fn", stage)
    losses = [trainer.train_step(batch) for batch in batches]
    trainer.engine.destroy()
    trainer = make("a loss_fn", stage)
    own = []
    for inputs, labels in batches:
        loss = functional.mse_loss(trainer.engine(inputs), labels)
        try:
            loss.backward()
        except RuntimeError as error:
            trainer.engine.destroy()
            return str(error)
        trainer.engine.step()
        own.append(float(trainer._mean_over_ranks(loss.detach())))
    trainer.engine.destroy()
    return own, losses


def without_a_block(dtype, stage):
    """What is said of a model in another dtype than fp32, and what the engine holds: dtypes by role."""
    from labsupport import DeepSpeedTrainer
    from labsupport.machine import hardware

    hardware.say_once.cache_clear()
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        trainer = DeepSpeedTrainer(Dense().to(dtype), rank_work.fp32_config(stage))
    engine = trainer.engine
    trainer.train_step(pairs(torch.distributed.get_rank())[0])
    base = getattr(engine.optimizer, "optimizer", engine.optimizer)
    masters = getattr(engine.optimizer, "fp32_partitioned_groups_flat", None) or base.param_groups[0]["params"]
    held = {
        "weights": next(engine.module.parameters()).dtype,
        "stepped on": masters[0].dtype,
        "moments": next(iter(base.state.values()))["exp_avg"].dtype,
        "reduced in": engine.communication_data_type,
        "optimizer": type(base).__name__,
    }
    engine.destroy()
    return printed.getvalue(), {role: str(what).removeprefix("torch.") for role, what in held.items()}


def _with(change, make=Dense):
    model = make()
    change(model)
    return model


def _on_meta():
    with torch.device("meta"):
        return Dense()


def _partitioned():
    import deepspeed

    with deepspeed.zero.Init(config_dict_or_path=rank_work.fp32_config(3)):
        return Dense()


def _fsdp():
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    return fully_shard(Dense(), mesh=init_device_mesh("cpu", (torch.distributed.get_world_size(),)))


def _pipeline():
    from deepspeed.pipe import PipelineModule

    return PipelineModule([nn.Linear(8, 8), nn.Linear(8, 8)], num_stages=2)


def _mixed():
    model = Dense()
    model.forward = lambda inputs, labels: functional.mse_loss(
        model.second(model.first(inputs.bfloat16()).float()), labels
    )
    model.first.bfloat16()
    return model


class WithScalar(Dense):
    """Has a parameter without dimensions."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))


def _complex():
    model = Dense()
    model.forward = lambda inputs, labels: (model.first.weight.abs() + inputs.mean()).mean()
    model.first.weight = nn.Parameter(torch.randn(16, 8, dtype=torch.complex64))
    return model


def not_in_order():
    """A layer whose weight is a transposed view."""
    return _with(lambda model: setattr(model.first, "weight", nn.Parameter(torch.randn(8, 16).t())))


# Each with what its sentence must say.
BAD_MODELS = {
    "a class": (lambda: Dense, "is the class Dense"),
    "a name": (lambda: "gpt2", "of type str"),
    "DDP": (
        lambda: nn.parallel.DistributedDataParallel(Dense()),
        "already a DistributedDataParallel: pass its .module",
    ),
    "FSDP": (_fsdp, "already a FSDPModule: pass the model as it was before fully_shard"),
    "a pipeline": (_pipeline, "already a PipelineModule: pass a plain module"),
    "all frozen": (lambda: Dense().requires_grad_(False), "all of its 4 parameters are frozen"),
    "no parameters": (nn.Identity, "it has no parameters"),
    "on meta": (_on_meta, "first.weight is on the device meta"),
    "a scalar": (WithScalar, "The parameter scale has no dimension"),
    "a frozen scalar": (lambda: _with(lambda m: m.scale.requires_grad_(False), WithScalar), "scale has no dimension"),
    "a transposed weight": (not_in_order, "first.weight do not lie in their order"),
    "channels_last": (lambda: Images().to(memory_format=torch.channels_last), "convolution.weight do not lie in"),
}
OF_ONE_STAGE = {  # stage: {what: what the sentence must say}; at the other it trains
    0: {
        "model: float64": "first.weight is in torch.float64",
        "model: by zero.Init": "first.weight is partitioned, which stage 0 does not know",
    },
    3: {
        "model: two dtypes": "first.weight and second.weight are trained in torch.bfloat16 and torch.float32",
        "model: in another engine": "already in an engine of ZeRO stage 3",
        "engine: around a wrapper": "made of a model within torch.compile's wrapper",
        "model: compiled whole": "torch.compile(fullgraph=True) does not get through",
    },
}
SOME, NONE = torch.ones(4, 8), torch.zeros(4, 4)
BAD_BATCHES = {
    "a text": ("abc", "A batch is of type str"),
    "None": (None, "A batch is None"),
    "a number": (3, "A batch is of type int"),
    "an array": (SOME.numpy(), "A batch is of type ndarray"),
    "nothing": ((), "A batch is an empty tuple"),
    "a name too many": ({"inputs": SOME, "labels": NONE, "mask": SOME}, "unexpected keyword argument 'mask'"),
    "an input too few": ({"labels": NONE}, "missing a required argument: 'inputs'"),
    "no labels": (SOME, "a tensor of shape [4, 4] where a scalar loss is due"),
}
BAD_OUTPUTS = {
    "None": (lambda loss, _: None, "returned None, without a scalar loss"),
    "a dict without one": (lambda loss, _: {"losses": loss}, "returned dict with losses, without a scalar loss"),
    "an empty tuple": (lambda loss, _: (), "returned tuple, without a scalar loss"),
    "one for each sample": (lambda _, prediction: {"loss": prediction.mean(1)}, "a tensor of shape [4] where"),
    "a whole number": (lambda loss, _: loss.long(), "a loss of torch.int64"),
    "a complex number": (lambda loss, _: loss * 1j, "a loss of torch.complex64"),
    "detached": (lambda loss, _: (loss.detach(),), "a loss without a gradient"),
}


def refusals(stage):
    """Return {what: (class, sentence)} of everything that is refused, "nothing was raised" where it is not."""
    import deepspeed

    from labsupport import DeepSpeedTrainer, initialize_deepspeed

    config = rank_work.fp32_config(stage)
    told = {}

    def tell(what, function):
        try:
            function()
            told[what] = None, "nothing was raised"
        except Exception as error:
            told[what] = type(error).__name__, str(error)

    for name, (build, _) in BAD_MODELS.items():
        tell(f"model: {name}", lambda build=build: DeepSpeedTrainer(build(), config))
    stranger = torch.optim.AdamW(Dense().parameters())
    tell("optimizer: of another model", lambda: DeepSpeedTrainer(Dense(), config, optimizer=stranger))
    tell("optimizer: a list", lambda: DeepSpeedTrainer(Dense(), config, optimizer=[stranger]))
    tell("model: two dtypes", lambda: DeepSpeedTrainer(_mixed(), config).engine.destroy())
    tell("model: float64", lambda: DeepSpeedTrainer(Dense().double(), config).engine.destroy())
    tell("model: by zero.Init", lambda: DeepSpeedTrainer(_partitioned(), config).engine.destroy())
    whole = torch.compile(Dense(), backend="eager", fullgraph=True)
    wrapped, own = torch.compile(Dense(), backend="eager"), copy.deepcopy(config)
    own["optimizer"]["params"]["torch_adam"] = True
    trained = list(wrapped.parameters())
    engine, *_ = deepspeed.initialize(model=wrapped, model_parameters=trained, config=own)
    tell("engine: around a wrapper", lambda: DeepSpeedTrainer(engine).train_step((SOME, NONE)))
    engine.destroy()
    tell("model: compiled whole", lambda: DeepSpeedTrainer(whole, config).train_step((SOME, NONE)))
    tell("model: complex", lambda: DeepSpeedTrainer(_complex(), config))
    trainer = DeepSpeedTrainer(Dense(), config)
    tell("model: in another engine", lambda: DeepSpeedTrainer(trainer.engine.module, config).engine.destroy())
    tell("model: an engine", lambda: initialize_deepspeed(trainer.engine, config))
    for name, (batch, _) in BAD_BATCHES.items():
        tell(f"batch: {name}", lambda batch=batch: trainer.train_step(batch))
    trainer.loss_fn = functional.mse_loss
    tell("batch: no target for loss_fn", lambda: trainer.train_step((SOME,)))
    trainer.loss_fn = lambda prediction, target: prediction - target
    tell("loss_fn: not one number", lambda: trainer.train_step((SOME, NONE)))
    trainer.loss_fn = None
    for name, (outputs, _) in BAD_OUTPUTS.items():
        trainer.engine.module.outputs = outputs
        tell(f"output: {name}", lambda: trainer.train_step((SOME, NONE)))
    trainer.engine.module.outputs = lambda loss, _: loss.item()
    tell("output: a number of Python's", lambda: trainer.train_step((SOME, NONE)))
    trainer.engine.destroy()
    return told


def deepspeed_alone(stage):
    """Return {bad model: whether DeepSpeed itself, without a look from us, makes a step of it and keeps all of it}."""
    import deepspeed

    config = rank_work.fp32_config(stage)
    config["optimizer"]["params"]["torch_adam"] = True
    bad = {
        name: BAD_MODELS[name][0] for name in ("a scalar", "a frozen scalar", "a transposed weight", "channels_last")
    }
    worked = {}
    for name, build in (bad | {"two dtypes": _mixed, "complex": _complex}).items():
        model = build()
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        try:
            engine, *_ = deepspeed.initialize(model=model, model_parameters=trained, config=config)
            engine.backward(engine(SOME, NONE))
            engine.step()
            with deepspeed.zero.GatheredParameters(trained):
                worked[name] = name != "complex" or bool(model.first.weight.imag.abs().max() > 0)
        except Exception as error:
            worked[name] = f"{type(error).__name__}: {error}"
    return worked
