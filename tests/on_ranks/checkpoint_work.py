"""What the tests of checkpoints run on live ranks: train, save, go on; load into a new engine, go on; compare."""

import contextlib
import io
import itertools

import torch
from fact_work import fp16_allowed

SEQUENCE = 32


def small_model(seed, dropout, width=32):
    """A GPT-2 of 45k parameters, or more, with tied embeddings and a frozen matrix."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(seed)
    rates = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), dropout)
    sizes = {"vocab_size": 256, "n_positions": SEQUENCE, "n_embd": width, "n_layer": 2, "n_head": 2}
    model = GPT2LMHeadModel(GPT2Config(**sizes, **rates, use_cache=False))
    model.transformer.h[0].mlp.c_fc.weight.requires_grad_(False)
    return model


def make_trainer(stage, seed=0, precision="fp32", accumulation=1, offload=None, batch=4, dropout=0.1, nvme_path=None,
                 optimizer=None, pipelined=False):  # fmt: skip
    """optimizer: a name of OPTIMIZERS; None for the one of the config. pipelined: NVMe reads and writes ahead."""
    from labsupport import DeepSpeedTrainer, create_deepspeed_config

    config = create_deepspeed_config(
        stage=stage,
        precision=precision,
        world_size=torch.distributed.get_world_size(),
        train_batch_size=batch * accumulation,
        gradient_accumulation_steps=accumulation,
        offload_optimizer=offload or False,
        nvme_path=nvme_path,
        offload_param=offload if offload and stage == 3 else False,
        bucket_size=10_000,
        lr=1e-3,
        scheduler="WarmupDecayLR",
        warmup_steps=2,
        total_steps=50,
    )
    if pipelined:
        # Three rows on the drive; with fewer buffers DeepSpeed's swapper ends at an assertion in the first step.
        config["zero_optimization"]["sub_group_size"] = 300_000
        config["zero_optimization"]["offload_optimizer"] |= {
            "pipeline_read": True,
            "pipeline_write": True,
            "buffer_count": 16,
        }
    if precision == "fp16":
        # Both overflow and growth within six steps.
        config["fp16"] |= {"initial_scale_power": 20, "loss_scale_window": 2, "hysteresis": 2}
    width = 320 if pipelined else 192 if nvme_path else 32
    model = small_model(seed, dropout, width)  # a row goes to the drive from 1 MiB a rank on
    if optimizer:
        del config["optimizer"]
        optimizer = OPTIMIZERS[optimizer](model)
    # torch computes in fp16 on every processor; DeepSpeed wants one that does so in hardware.
    with contextlib.redirect_stdout(io.StringIO()), fp16_allowed():
        return DeepSpeedTrainer(model, config, optimizer=optimizer)


def in_groups(model, frozen_too=False, backwards=False):
    """AdamW with two parameter groups: weight decay for matrices alone."""
    parameters = [p for p in model.parameters() if p.requires_grad or frozen_too][:: -1 if backwards else 1]
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": 0.5},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=1e-3)


def exchanged(model):
    optimizer = in_groups(model)
    optimizer.param_groups.reverse()
    return optimizer


def with_more_frozen(model):
    model.transformer.h[1].mlp.c_fc.weight.requires_grad_(False)
    return in_groups(model)


def fused(model):
    """DeepSpeed's FusedAdam, whose op is torch's arithmetic here: it need not be compiled."""
    from deepspeed.ops.adam import FusedAdam
    from deepspeed.ops.op_builder import FusedAdamBuilder

    FusedAdamBuilder.load = lambda self: type("Op", (), {"multi_tensor_adam": staticmethod(adam_of_lists)})
    return FusedAdam([p for p in model.parameters() if p.requires_grad], lr=1e-3)


def adam_of_lists(_size, _overflow, lists, lr, beta1, beta2, eps, step, _decoupled, _correct, decay):
    for gradient, parameter, mean, square in zip(*lists, strict=True):
        mean.lerp_(gradient, 1 - beta1)
        square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        update = (mean / (1 - beta1**step)) / ((square / (1 - beta2**step)).sqrt() + eps)
        parameter.sub_(lr * (update + decay * parameter))


OPTIMIZERS = {
    "groups": in_groups,
    "groups in another order": lambda model: in_groups(model, backwards=True),
    "groups with the frozen": lambda model: in_groups(model, frozen_too=True),
    "one group": lambda model: torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3),
    "groups exchanged": exchanged,
    "more frozen": with_more_frozen,
    "fused": fused,
}


def train(trainer, first, last):
    """Train the micro-batches from `first` up to, not including, `last`; return their losses."""
    from labsupport.corpus import endless_batches, text_loader

    rank, world_size = torch.distributed.get_rank(), torch.distributed.get_world_size()
    size = trainer.engine.train_micro_batch_size_per_gpu()
    batches = endless_batches(text_loader(size, rank, world_size, SEQUENCE))
    with fp16_allowed():
        return [trainer.train_step(batch) for batch in itertools.islice(batches, first, last)]


def save_and_go_on(folder, stage, accumulation=1, **options):
    """Train 3 steps, save, train 3 more; return the losses of those, which a resumed run must have too."""
    from labsupport.checkpoint.save import save

    trainer = make_trainer(stage, accumulation=accumulation, **options)
    train(trainer, 0, 3 * accumulation)
    for mine in (0, 1):  # the second time over the first one's tag
        save(trainer.engine, folder, "global_step3", {"mine": mine})
    losses = train(trainer, 3 * accumulation, 6 * accumulation)
    trainer.engine.destroy()
    return losses


def resume(folder, stage, accumulation=1, tag=None, **options):
    """Load into a new engine that began with other weights, train 3 more steps and return (losses, what was said)."""
    from labsupport.checkpoint.load import load

    said = io.StringIO()
    trainer = make_trainer(stage, seed=9, accumulation=accumulation, **options)
    with contextlib.redirect_stdout(said):
        state = load(trainer.engine, folder, tag)
    assert state == {"mine": 1} and trainer.engine.global_steps == 3
    losses = train(trainer, 3 * accumulation, 6 * accumulation)
    trainer.engine.destroy()
    return losses, said.getvalue()


def refusal(folder, stage, **options):
    """The sentence that loading into such a trainer ends with, after nothing was changed; None where it loads."""
    from labsupport.checkpoint.load import load
    from labsupport.errors import CheckpointError

    trainer = make_trainer(stage, seed=9, **options)
    before = [parameter.detach().clone() for parameter in trainer.engine.module.parameters()]
    try:
        load(trainer.engine, folder)
    except CheckpointError as error:
        assert all(map(torch.equal, before, trainer.engine.module.parameters()))
        return str(error)
    finally:
        trainer.engine.destroy()


def loss_scaler(folder, stage, resumed):
    """What the loss scaler of fp16 has reached at step 3, where it is saved or resumed, and at step 6."""
    from labsupport.checkpoint.load import load
    from labsupport.checkpoint.save import save

    trainer = make_trainer(stage, precision="fp16")
    if resumed:
        load(trainer.engine, folder)
    else:
        train(trainer, 0, 3)
        save(trainer.engine, folder, "global_step3")
    reached = [vars(trainer.engine.optimizer.loss_scaler).copy()]
    train(trainer, 3, 6)
    reached.append(vars(trainer.engine.optimizer.loss_scaler).copy())
    trainer.engine.destroy()
    return reached


def save_at_once(folder, stage, resumed=False):
    """Save, or load, before the first step, and return the losses of three."""
    from labsupport.checkpoint.load import load
    from labsupport.checkpoint.save import save

    trainer = make_trainer(stage, seed=9 if resumed else 0, dropout=0.0)
    load(trainer.engine, folder) if resumed else save(trainer.engine, folder, "global_step0")
    losses = train(trainer, 0, 3)
    trainer.engine.destroy()
    return losses


def save_both_ways(top, stage):
    """Train 3 steps; save with the package and with DeepSpeed alone, and the whole weights with torch."""
    import deepspeed

    from labsupport.checkpoint.save import save

    trainer = make_trainer(stage, dropout=0.0)
    train(trainer, 0, 3)
    save(trainer.engine, f"{top}/ours{stage}", "global_step3")
    trainer.engine.save_checkpoint(f"{top}/plain{stage}")
    parameters = dict(trainer.engine.module.named_parameters())
    partitioned = [parameter for parameter in parameters.values() if hasattr(parameter, "ds_id")]
    with deepspeed.zero.GatheredParameters(partitioned):
        weights = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    if torch.distributed.get_rank() == 0:
        torch.save(weights, f"{top}/weights{stage}.pt")
    trainer.engine.destroy()
