"""DeepSpeedTrainer: one model, one engine; train, evaluate, save and resume, on every rank alike.

    trainer = DeepSpeedTrainer(build_model("1m"), create_deepspeed_config(stage=2, train_batch_size=8))
    trainer.train_epoch(text_loader(8), max_steps=20)

labsupport/deepspeed_trainer.py is the program that trains with it from the command line.
"""

import itertools
import os
import warnings

import torch
from tqdm import tqdm

from labsupport.batches import ahead, call, cast, split, to_device
from labsupport.checkpoint.load import load, load_weights
from labsupport.checkpoint.save import save
from labsupport.engine import initialize_deepspeed, out_of_gpu_memory
from labsupport.errors import ConfigError, TrainingError
from labsupport.losses import loss_of

STEPS_BETWEEN_LOSS_CHECKS = 10


class DeepSpeedTrainer:
    """Train, evaluate, save and resume a model through a DeepSpeed engine.

    model: a torch module, with the config to initialise DeepSpeed from; or an engine that
    `initialize_deepspeed` returned, with no config. optimizer: as for `initialize_deepspeed`.
    loss_fn: for a model that returns no loss itself; called as loss_fn(output, target).

    A batch is a dict (given to the model by name), a tuple or list (by position), or one tensor; what is within them is
    moved to the device however deep. With a loss_fn the target is the dict's "labels", what follows the tuple's first
    item, or the tensor itself. What the model or the loss_fn returns is the loss, has it as "loss", or has it first.
    Raises TrainingError for a model, a batch or a loss that cannot be trained. All kinds, and what is refused:
    the section "What the trainer takes" of the book's reference.

    Every method is collective: every rank must call it, the same number of times.
    """

    def __init__(self, model, config=None, *, optimizer=None, loss_fn=None):
        if hasattr(model, "backward") and hasattr(model, "save_checkpoint"):
            if config is not None or optimizer is not None:
                raise ConfigError("The engine already has its config and its optimizer: pass the engine alone.")
            self.engine, self.lr_scheduler = model, model.lr_scheduler
        elif config is None:
            raise ConfigError("The trainer got a model without a config: pass create_deepspeed_config(...) too.")
        else:
            self.engine, _, _, self.lr_scheduler = initialize_deepspeed(model, config, optimizer)
        self.loss_fn = loss_fn
        self._dtype = next(p.dtype for p in self.engine.module.parameters() if p.is_floating_point())
        self._has_trained = False

    def train_step(self, batch):
        """Run one micro-batch forward, backward and step; return its loss, the mean over ranks, as a float.

        With gradient accumulation, DeepSpeed updates the weights on every gradient_accumulation_steps-th
        call. Raises TrainingError when the loss is not finite.
        """
        loss = self._forward_backward_step(batch)
        return self._finite(self._mean_over_ranks(loss), 1)

    def train_epoch(self, dataloader, max_steps=None, progress=True, on_step=None):
        """Train on every micro-batch of `dataloader` and return the mean loss over batches and ranks.

        max_steps: stop after that many micro-batches. progress: a bar on rank 0, with the loss. on_step:
        called on every rank with (step, loss) where the loss is read, every 10 micro-batches, because
        reading it waits for the device. An accumulation window that the loader leaves unfinished goes on
        with the next call. Raises TrainingError for an empty loader and for a loss that is not finite.
        """
        self.engine.train()
        total, steps, window, in_window = 0.0, 0, 0.0, 0
        length = _length(dataloader, max_steps)
        hidden = not progress or self.rank != 0 or "TQDM_DISABLE" in os.environ
        with tqdm(total=length, disable=hidden, unit="batch", desc="training") as bar:
            for batch in ahead(itertools.islice(dataloader, max_steps), self.engine.device):
                loss = self._forward_backward_step(batch)
                window, in_window, steps = window + loss, in_window + 1, steps + 1
                if in_window == STEPS_BETWEEN_LOSS_CHECKS or steps == length:
                    mean = self._finite(self._mean_over_ranks(window / in_window), in_window)
                    total, window, in_window = total + mean * in_window, 0.0, 0
                    bar.set_postfix(loss=f"{mean:.3f}", refresh=False)
                    if on_step is not None:
                        on_step(steps, mean)
                bar.update()
        if steps == 0:
            raise TrainingError(
                "The dataloader gave no batch: check that it holds at least one whole micro-batch per rank."
            )
        if in_window:
            total += self._finite(self._mean_over_ranks(window / in_window), in_window) * in_window
        return total / steps

    @torch.no_grad()
    def evaluate(self, dataloader, max_steps=None):
        """Return the mean loss over batches and ranks, without training; the model is left as it was.

        Each rank must give the same number of batches: under ZeRO-3 a forward pass is itself collective.
        """
        training = self.engine.module.training
        self.engine.eval()
        losses = []
        try:
            for batch in itertools.islice(dataloader, max_steps):
                losses.append(self._loss(batch).detach().float())
                if not self._has_trained:
                    _forget_order_of_modules(self.engine)
        finally:
            self.engine.train(training)
        if not losses:
            raise TrainingError("The dataloader gave no batch to evaluate: check that it holds at least one per rank.")
        return float(self._mean_over_ranks(torch.stack(losses).mean()))

    def save_checkpoint(self, path, client_state=None, tag=None, *, keep=None, options=None):
        """Save weights, optimizer, scheduler, counters, random states and the caller's own state; return the tag.

        The tag appears in `path` only when every rank's files are on the disk. client_state: any picklable dict, any
        keys; rank 0's is saved. tag: the folder inside `path`, by default global_step<N>. keep: remove all but so many
        of the newest. options: plain data for the manifest. Between the micro-batches of one step DeepSpeed saves no
        gradients: it warns. Raises CheckpointError on every rank, with what was there before left as it was.
        """
        engine = self.engine
        tag = str(tag if tag is not None else f"global_step{engine.global_steps}")
        pending = engine.micro_steps % engine.gradient_accumulation_steps()
        if pending and self.rank == 0:
            warnings.warn(
                "The checkpoint falls inside an accumulation window: the gradients of "
                f"{pending} micro-batches are not saved.",
                stacklevel=2,
            )
        save(engine, path, tag, client_state, keep, options)
        return tag

    def load_checkpoint(self, path, tag=None, *, fall_back=False):
        """Load everything that save_checkpoint saved and return the caller's own client state, and only that.

        It may have been saved at another stage or on other ranks. tag: the folder inside `path`, by default the one
        that the file `latest` names. fall_back: take the newest whole tag in place of a damaged one. A checkpoint is a
        pickle, which can run code: load only what you trust. Raises CheckpointError, before anything is changed, for
        one that is missing, damaged, or of another model, precision or optimizer.
        """
        return load(self.engine, path, tag, fall_back)

    def load_weights(self, path, tag=None):
        """Load the weights alone, saved at any stage and on any number of ranks; return the tag. Training begins anew.

        tag and what it raises: as for load_checkpoint; precision and optimizer may be others.
        """
        return load_weights(self.engine, path, tag)

    def _forward_backward_step(self, batch):
        """Train on one micro-batch and return its loss, on the device; waits for that only where DeepSpeed does."""
        self._has_trained = True
        try:
            loss = self._loss(batch)
            self.engine.backward(loss)
            self.engine.step()
        except torch.OutOfMemoryError as error:
            raise TrainingError(
                f"{out_of_gpu_memory()} at micro-batch {self.engine.micro_steps + 1}: take a smaller micro-batch, "
                "activation checkpointing, a higher stage or offload; the last saved checkpoint is untouched."
            ) from error
        return loss.detach().float()

    def _loss(self, batch):
        inputs, keywords, target = split(to_device(batch, self.engine.device), self.loss_fn is not None)
        forward = self.engine.module.forward
        output = call(self.engine, forward, cast(inputs, self._dtype), cast(keywords, self._dtype))
        if self.loss_fn is None:
            return loss_of(output)
        return loss_of(call(self.loss_fn, self.loss_fn, (output, *target), {}), "loss_fn")

    def _finite(self, mean, micro_batches):
        """A mean over ranks as a float; every rank sees the same number, so all stop together."""
        mean = float(mean)
        if mean != mean or mean in (float("inf"), float("-inf")):
            where = f"at micro-batch {self.engine.micro_steps}"
            if micro_batches > 1:
                where = f"within the {micro_batches} micro-batches up to {self.engine.micro_steps}"
            raise TrainingError(
                f"The loss became {mean} {where}: lower the learning rate, turn clipping on, or look at that data; "
                "the last saved checkpoint is untouched."
            )
        return mean

    def _mean_over_ranks(self, value):
        value = value.clone()
        torch.distributed.all_reduce(value)
        return value / torch.distributed.get_world_size()

    @property
    def rank(self):
        """This process's global rank."""
        return torch.distributed.get_rank()


def _forget_order_of_modules(engine):
    """Let stage 3 of DeepSpeed 0.19.8 not take a forward pass without a backward pass for a training step.

    Else it caches that a parameter is not used again in the backward pass, for good, and gathers it twice in every
    later step: runtime/zero/partitioned_param_coordinator.py, __params_to_release.
    """
    offload = getattr(engine.optimizer, "parameter_offload", None)
    coordinator = offload.get_param_coordinator() if offload is not None else None
    if coordinator is not None and not coordinator.is_invalid_trace():
        coordinator._invalidate_trace()


def _length(dataloader, max_steps):
    try:
        length = len(dataloader)
    except TypeError:  # a generator has no length
        return max_steps
    return length if max_steps is None else min(length, max_steps)
