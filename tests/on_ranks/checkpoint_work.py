"""What the tests of checkpoints run on live ranks: train, save, go on; load into a new engine, go on; compare."""

import contextlib
import io
import itertools

import torch

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


def make_trainer(stage, seed=0, precision="fp32", accumulation=1, offload=None, batch=4, dropout=0.1, nvme_path=None):
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
    with contextlib.redirect_stdout(io.StringIO()):
        # A row goes to the drive from 1 MiB a rank on.
        return DeepSpeedTrainer(small_model(seed, dropout, width=192 if nvme_path else 32), config)


def train(trainer, first, last):
    """Train the micro-batches from `first` up to, not including, `last`; return their losses."""
    from labsupport.corpus import endless_batches, text_loader

    rank, world_size = torch.distributed.get_rank(), torch.distributed.get_world_size()
    size = trainer.engine.train_micro_batch_size_per_gpu()
    batches = endless_batches(text_loader(size, rank, world_size, SEQUENCE))
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
