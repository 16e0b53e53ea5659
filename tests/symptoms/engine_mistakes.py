"""The mistakes that need a running engine, each made once: one process, one rank, run by test_reproduced.py.

python -m symptoms.engine_mistakes FILE      # in tests/; writes {entry: what happened} to the file, as JSON
"""

import contextlib
import io
import json
import logging
import os
import shutil
import sys
import tempfile
import traceback
import warnings
from pathlib import Path


def happened():
    """Return {entry: what the mistake printed, logged, raised or returned, as text}."""
    warnings.simplefilter("ignore")  # DeepSpeed's own, about torch's coming names; none is the point here
    from deepspeed.utils import logger

    from labsupport.engine import start_distributed

    start_distributed()
    heard = []
    handler = logging.Handler()
    handler.emit = lambda record: heard.append(record.getMessage())
    logger.addHandler(handler)
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for entry, mistake in {**_training(), **_checkpoints(folder), **_hugging_face(folder)}.items():
            heard.clear()
            printed = io.StringIO()
            try:
                with contextlib.redirect_stdout(printed):
                    told = str(mistake())
            except Exception as error:
                told = str(error) or traceback.extract_tb(error.__traceback__)[-1].line  # an assert without a text
            results[entry] = "\n".join([told, *heard, printed.getvalue()])
    return results


def _training():
    import deepspeed
    import torch
    from torch.utils.checkpoint import checkpoint

    sgd, gathered = torch.optim.SGD, deepspeed.zero.GatheredParameters

    class Recomputed(torch.nn.Module):
        """One layer under reentrant checkpointing, one time or two."""

        def __init__(self, times):
            super().__init__()
            self.layer, self.times = torch.nn.Linear(4, 4), times

        def forward(self, x):
            for _ in range(self.times):
                x = checkpoint(self.layer, x, use_reentrant=True)
            return x

    class Scaled(torch.nn.Module):
        """A model with a parameter without dimensions."""

        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.tensor(1.0))

    class Changing(torch.nn.Module):
        """A model that leaves its first layer out when it is told to."""

        def __init__(self):
            super().__init__()
            self.first, self.second, self.short = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4), False

        def forward(self, x):
            return self.second(x if self.short else self.first(x))

    def loss_of(engine, requires_grad=False):
        return engine(torch.ones(1, 4, requires_grad=requires_grad)).sum()

    def empty_parameter_list():
        model = torch.nn.Linear(4, 4).requires_grad_(False)
        _engine(2, model=model, parameters=[each for each in model.parameters() if each.requires_grad])

    def clipping_text():
        engine = _engine(2, {"gradient_clipping": "1.0"})
        engine.backward(loss_of(engine))
        engine.step()

    def no_sync(stage):
        engine = _engine(stage)
        with engine.no_sync():
            engine.step()

    def loss_not_scalar():
        engine = _engine(2, model=Recomputed(1))
        engine.backward(loss_of(engine))

    def already_reduced(stage):
        engine = _engine(stage, model=Recomputed(2))
        engine.backward(loss_of(engine, requires_grad=True))

    def empty_parameter():
        engine = _engine(3, model=torch.nn.Embedding(4, 4))
        torch.nn.functional.embedding(torch.tensor([1]), engine.module.weight)

    def gathered_modified():
        engine = _engine(3, {"zero_optimization": {"stage": 3, "enable_sanity_checks": True}})
        with gathered([engine.module.weight]), torch.no_grad():
            engine.module.weight.fill_(7.0)

    def gathered_nested():
        weights = [_engine(3).module.weight]
        with gathered(weights), gathered(weights):
            pass

    def trace_cache():
        settings = {"stage": 3, "stage3_param_persistence_threshold": 0, "log_trace_cache_warnings": True}
        engine = _engine(3, {"zero_optimization": settings}, model=Changing())
        for engine.module.short in (False, False, True):
            engine.backward(loss_of(engine))
            engine.step()

    def no_update():
        engine = _engine(2, {"gradient_accumulation_steps": 2})
        before = engine.module.weight.detach().clone()
        for _ in range(2):
            engine.backward(loss_of(engine))
        engine.step()
        return "the weights did not change" if torch.equal(before, engine.module.weight) else "they changed"

    def no_saving():
        optimizer = _engine(1).optimizer
        parts = sum(part.numel() for part in optimizer.single_partition_of_fp32_groups)
        whole = sum(group.numel() for groups in optimizer.bit16_groups for group in groups)
        return "the only rank holds the whole" if parts >= whole else "it holds a part"

    def local_rank_variable():
        set_to = os.environ.pop("LOCAL_RANK")
        try:
            _engine(2)
        finally:
            os.environ["LOCAL_RANK"] = set_to

    def tag_differs():
        from deepspeed.runtime import engine as module

        engine, all_reduce = _engine(2), module.dist.all_reduce
        module.dist.all_reduce = lambda tensor, **_: tensor.zero_()  # as if another rank had another tag
        try:
            engine._checkpoint_tag_validation("step1")
        finally:
            module.dist.all_reduce = all_reduce

    nvme, decay = {"device": "nvme"}, {"type": "WarmupDecayLR", "params": {}}
    return {
        "fp16-cpu": lambda: _engine(2, {"fp16": {"enabled": True}}) and "",
        "batch-divisible": lambda: _engine(2, {"train_micro_batch_size_per_gpu": 2}).set_train_batch_size(3),
        "clipping-text": clipping_text,
        "unknown-scheduler": lambda: _engine(2, {"scheduler": {"type": "cosine", "params": {}}}),
        "scheduler-parameters": lambda: _engine(2, {"scheduler": decay}),
        "unsupported-mix": lambda: _engine(0, {"bf16": {"enabled": True}, "data_types": {"grad_accum_dtype": "fp32"}}),
        "nvme-path": lambda: _engine(3, {"zero_optimization": {"stage": 3, "offload_param": nvme}}),
        "nvme-path, optimizer": lambda: _engine(3, {"zero_optimization": {"stage": 3, "offload_optimizer": nvme}}),
        "unknown-optimizer": lambda: _engine(0, {"optimizer": {"type": "OneBitAdam", "params": {"lr": 0.1}}}),
        "no-optimizer": lambda: _engine(2, {"optimizer": None}),
        "empty-parameter-list": empty_parameter_list,
        "max-grad-norm": lambda: _engine(2, {"optimizer": {"type": "AdamW", "params": {"max_grad_norm": 1.0}}}),
        "untested-optimizer": lambda: _engine(2, own=lambda p: sgd(p, lr=0.1)),
        "client-optimizer": lambda: _engine(2, offload=True, own=lambda p: torch.optim.AdamW(p, lr=0.1)),
        "direct-backward": lambda: loss_of(_engine(0)).backward(),
        "loss-not-scalar": loss_not_scalar,
        "no-sync": lambda: no_sync(2),
        "no-sync-step": lambda: no_sync(1),
        "already-reduced": lambda: already_reduced(2),
        "already-reduced, stage 3": lambda: already_reduced(3),
        "input-dtype": lambda: _engine(2, {"bf16": {"enabled": True}})(torch.ones(1, 4)),
        "empty-parameter": empty_parameter,
        "gathered-modified": gathered_modified,
        "gathered-nested": gathered_nested,
        "scalar-parameter": lambda: _engine(1, model=Scaled()),
        "meta-tensor": lambda: _engine(2, model=torch.nn.Linear(4, 4, device="meta")),
        "trace-cache": trace_cache,
        "no-update": no_update,
        "no-saving": no_saving,
        "local-rank-variable": local_rank_variable,
        "tag-differs": tag_differs,
    }


def _checkpoints(folder):
    """The order matters: some save what the next ones load."""
    import deepspeed
    import torch
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    saved = f"{folder}/saved"

    def save():
        for stage in range(4):
            engine = _engine(stage)
            engine.backward(engine(torch.ones(1, 4)).sum())
            engine.step()
            engine.save_checkpoint(f"{saved}{stage}", tag="first")

    def shards(change):
        """A copy of the checkpoint of stage 2 whose shards were changed."""
        copy = tempfile.mkdtemp(dir=folder)
        shutil.copytree(f"{saved}2", copy, dirs_exist_ok=True)
        for path in Path(copy, "first").glob("*_optim_states.pt"):
            change(path)
        return copy

    def of_two_ranks(path):
        state = torch.load(path, weights_only=False)
        state["optimizer_state_dict"]["partition_count"] = [2]
        torch.save(state, path)

    def world_size():
        copy = shards(lambda path: None)
        path = f"{copy}/first/mp_rank_00_model_states.pt"
        torch.save({**torch.load(path, weights_only=False), "dp_world_size": 2}, path)  # as if two ranks had saved it
        _engine(2).load_checkpoint(copy)

    def module_only():
        engine = _engine(3)
        with deepspeed.zero.GatheredParameters([engine.module.weight], modifier_rank=0):
            engine.module.weight.data.fill_(7.0)
            before = engine.module.weight.detach().clone()
        engine.load_checkpoint(f"{saved}3", load_module_only=True)
        with deepspeed.zero.GatheredParameters([engine.module.weight]):
            kept = torch.equal(before, engine.module.weight)
        return "the initial weights stayed" if kept else "the saved weights came"

    def universal_information():
        from deepspeed.checkpoint import ds_to_universal

        checkpoint = ds_to_universal.DeepSpeedCheckpoint(f"{saved}2/first")
        ds_to_universal._check_for_required_state(checkpoint)

    def load(here, there):
        return _engine(here).load_checkpoint(f"{saved}{there}")

    return {
        "saving": save,
        "no-latest": lambda: _engine(2).load_checkpoint(f"{folder}/nothing"),
        "wrong-tag": lambda: _engine(2).load_checkpoint(f"{saved}2", tag="second"),
        "other-stage": lambda: load(3, 2),
        "other-stage, to 0": lambda: load(0, 1),
        "other-stage, 1 to 2": lambda: bool(load(2, 1)[0]),
        "no-optimizer-file": lambda: load(1, 0),
        "missing-shards": lambda: get_fp32_state_dict_from_zero_checkpoint(shards(of_two_ranks)),
        "missing-shards, all": lambda: get_fp32_state_dict_from_zero_checkpoint(shards(Path.unlink)),
        "other-model": lambda: _engine(2, model=torch.nn.Sequential(torch.nn.Linear(4, 4))).load_checkpoint(
            f"{saved}2"
        ),
        "world-size": world_size,
        "no-universal": lambda: _engine(2, {"checkpoint": {"load_universal": True}}).load_checkpoint(f"{saved}2"),
        "universal-information": universal_information,
        "empty-state-dict": lambda: _engine(3).module.load_state_dict(torch.nn.Linear(4, 4).state_dict()),
        "module-only": module_only,
        "nothing-saved": lambda: _engine(3).save_16bit_model(f"{folder}/weights"),
        "weights-only": lambda: torch.load(f"{saved}2/first/zero_pp_rank_0_mp_rank_00_optim_states.pt"),
    }


def _hugging_face(folder):
    """What accelerate and transformers say; last, since they keep their state."""
    import torch

    minimal = {"train_micro_batch_size_per_gpu": 2, "optimizer": {"type": "AdamW", "params": {"lr": 1e-3}}}
    stage_2 = {"zero_optimization": {"stage": 2}}

    def arguments(config):
        from transformers import TrainingArguments

        return TrainingArguments(folder, use_cpu=True, per_device_train_batch_size=4, deepspeed=config, report_to=[])

    def trainer_mismatch():
        made = arguments({**minimal, **stage_2})
        made.hf_deepspeed_config.trainer_config_finalize(made, torch.nn.Linear(4, 4), 10)

    def prepare(config):
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState
        from accelerate.utils import DeepSpeedPlugin

        AcceleratorState._reset_state(reset_partial_state=True)
        accelerator = Accelerator(deepspeed_plugin=DeepSpeedPlugin(hf_ds_config={**config, **stage_2}))
        model = torch.nn.Linear(4, 4)
        accelerator.prepare(model, torch.optim.AdamW(model.parameters()))

    def device_map():
        from transformers import GPT2Config, GPT2LMHeadModel
        from transformers.integrations import HfDeepSpeedConfig

        small = {"n_layer": 1, "n_head": 1, "n_embd": 8, "vocab_size": 8, "n_positions": 8}
        GPT2LMHeadModel(GPT2Config(**small, bos_token_id=0, eos_token_id=0)).save_pretrained(f"{folder}/model")
        kept = HfDeepSpeedConfig({**minimal, "zero_optimization": {"stage": 3}})
        return kept and GPT2LMHeadModel.from_pretrained(f"{folder}/model", device_map="auto")

    batches = {"train_batch_size": "auto", "gradient_accumulation_steps": 1}
    return {
        "no-zero-block": lambda: arguments(dict(minimal)),
        "trainer-mismatch": trainer_mismatch,
        "prepare-batch-size": lambda: prepare({**batches, "train_micro_batch_size_per_gpu": "auto"}),
        "two-optimizers": lambda: prepare({**minimal, **batches}),
        "device-map": device_map,
    }


def _engine(stage, settings=None, *, model=None, own=None, offload=False, parameters=None):
    """A small engine at a ZeRO stage; own makes an optimizer from the parameters."""
    import deepspeed
    import torch

    zero = {"stage": stage, "reduce_bucket_size": 1000, "allgather_bucket_size": 1000}
    zero |= {"stage3_param_persistence_threshold": 0} if stage == 3 else {}
    zero |= {"offload_optimizer": {"device": "cpu"}} if offload else {}
    config = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_clipping": 0.0,
        "optimizer": {"type": "AdamW", "params": {"lr": 1e-3, "torch_adam": True}},
        "zero_optimization": zero,
        **(settings or {}),
    }
    if own or config["optimizer"] is None:
        del config["optimizer"]
    model = model or torch.nn.Linear(4, 4)
    return deepspeed.initialize(
        model=model,
        model_parameters=list(model.parameters()) if parameters is None else parameters,
        optimizer=own(model.parameters()) if own else None,
        config=config,
    )[0]


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(happened()))
