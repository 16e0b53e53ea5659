"""The small real training that is broken on purpose: a GPT-2 of 45,000 parameters, dropout and a frozen matrix in it.

Its losses are the same in every run, to the bit, so a run that was broken and went on can be held against one that
was not.
"""

import contextlib
import io
import itertools

import torch

from labsupport import DeepSpeedTrainer, create_deepspeed_config
from labsupport.checkpoint import save as saving
from labsupport.checkpoint.schedule import Saves
from labsupport.checkpoint.tags import has_checkpoint
from labsupport.corpus import endless_batches, text_loader
from labsupport.engine import start_distributed

SEQUENCE = 32


def small_model(seed=0, layers=2, dropout=0.1):
    """Return a GPT-2 with tied embeddings, dropout and a frozen matrix."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(seed)
    sizes = {"vocab_size": 256, "n_positions": SEQUENCE, "n_embd": 32, "n_layer": layers, "n_head": 2}
    sizes |= {"bos_token_id": 0, "eos_token_id": 0} | dict.fromkeys(
        ("resid_pdrop", "embd_pdrop", "attn_pdrop"), dropout
    )
    model = GPT2LMHeadModel(GPT2Config(**sizes, use_cache=False))
    model.transformer.h[0].mlp.c_fc.weight.requires_grad_(False)
    return model


def small_trainer(stage, precision="fp32", optimizer=None, **model):
    """Return a trainer of it on these ranks, with a batch of 12 samples."""
    config = create_deepspeed_config(
        stage=stage, precision=precision, world_size=torch.distributed.get_world_size(), train_batch_size=12,
        bucket_size=10_000, lr=1e-3, scheduler="WarmupDecayLR", warmup_steps=2, total_steps=1000,
    )  # fmt: skip
    if optimizer:
        config |= {"optimizer": {"type": optimizer, "params": {"lr": 1e-3}}, "zero_allow_untested_optimizer": True}
    with contextlib.redirect_stdout(io.StringIO()):
        return DeepSpeedTrainer(small_model(**model), config)


def validation_batch():
    """Return four samples that are not trained on."""
    return next(iter(text_loader(4, sequence_length=SEQUENCE, split="validation")))


def train(teller, folder, steps, stage=2, every=2, keep=2, tag=None, fall_back=False, **options):
    """Train up to `steps` steps and save every so many; go on from what is in the folder. Says each loss and save.

    options: as for small_trainer.
    """
    start_distributed()
    trainer = small_trainer(stage, **options)
    engine, rank, world_size = trainer.engine, trainer.rank, torch.distributed.get_world_size()
    batches = endless_batches(text_loader(12 // world_size, rank, world_size, SEQUENCE))
    teller.enter("load")
    if folder and has_checkpoint(folder):
        trainer.load_checkpoint(folder, tag, fall_back=fall_back)
        with torch.random.fork_rng(devices=[]):
            next(itertools.islice(batches, engine.global_steps - 1, None))
        teller.say("loaded", step=engine.global_steps)
    prune = saving.prune

    def watched_prune(*given):
        before = teller.enter("prune")
        prune(*given)
        teller.enter(before)

    saving.prune = watched_prune
    first = engine.global_steps + 1
    with Saves(trainer, folder, every, keep, say=lambda _: teller.say("saved", step=engine.global_steps)) as saves:
        for step in range(first, steps + 1):
            teller.enter("training")
            teller.say("loss", step=step, loss=trainer.train_step(next(batches)))
            teller.enter("save")
            saves.after_step(step, step == steps)
    teller.enter("done")
    teller.say("validation", loss=trainer.evaluate([validation_batch()]))
