"""What tests/memory/test_gathering.py runs on live ranks: what stage 3 gathers, and what is whole when."""

from unittest import mock

import torch


def gathered_under(widths, settings, steps=2):
    """Train a stack of square layers under each (max_live, max_reuse, prefetch) of `settings`.

    Returns for each setting a list with a dict for each step: the elements that are whole or on their way at the end of
    the forward pass, the gatherings of the step, and the elements that they gathered.
    """
    return [_gathered(widths, *each, steps) for each in settings]


def _gathered(widths, max_live, max_reuse, prefetch, steps):
    import deepspeed
    from deepspeed.runtime.zero import partition_parameters

    model = torch.nn.Sequential(*(torch.nn.Linear(width, width, bias=False) for width in widths))
    config = {
        "train_micro_batch_size_per_gpu": 1,
        "optimizer": {"type": "AdamW", "params": {"lr": 1e-3, "torch_adam": True}},
        "zero_optimization": {
            "stage": 3,
            "reduce_bucket_size": 10_000,
            "stage3_param_persistence_threshold": 0,
            "stage3_max_live_parameters": max_live,
            "stage3_max_reuse_distance": max_reuse,
            "stage3_prefetch_bucket_size": prefetch,
        },
    }
    engine, *_ = deepspeed.initialize(model=model, model_parameters=list(model.parameters()), config=config)
    gather, seen = partition_parameters._dist_allgather_fn, []

    def counted(part, whole, *others, **named):
        messages.append(whole.numel())
        return gather(part, whole, *others, **named)

    with mock.patch.object(partition_parameters, "_dist_allgather_fn", counted):
        for _ in range(steps):
            messages = []
            loss = engine(torch.ones(1, widths[0])).sum()
            whole = sum(p.ds_numel for p in model.parameters() if p.ds_status.name != "NOT_AVAILABLE")
            engine.backward(loss)
            engine.step()
            seen.append({"whole": whole, "messages": len(messages), "gathered": sum(messages)})
    engine.destroy()
    return seen


def gatherings_of_a_step(preset, prefetch):
    """The all-gathers of a stage 3 step of a preset: (in forward and backward, after the optimizer), and its layers."""
    from deepspeed.comm import comm
    from deepspeed.utils.comms_logging import CommsLogger

    from labsupport import DeepSpeedTrainer, create_deepspeed_config
    from labsupport.config import merge_configs
    from labsupport.models import build_model, count_parameters

    config = create_deepspeed_config(3, precision="fp32", train_batch_size=torch.distributed.get_world_size())
    zero = {"stage3_prefetch_bucket_size": prefetch, "stage3_param_persistence_threshold": 10_000}
    engine = DeepSpeedTrainer(build_model(preset), merge_configs(config, {"zero_optimization": zero})).engine
    logger, ids, counts = CommsLogger(), torch.arange(16).reshape(1, 16), []
    logger.enabled = logger.prof_all = True
    logger.append = lambda _function, name, _seconds, _size: names.append(name)
    with mock.patch.object(comm, "comms_logger", logger):
        for _ in range(3):
            names = []
            engine.backward(engine(input_ids=ids, labels=ids).loss)
            passes = sum("all_gather" in name for name in names)
            engine.step()
            counts.append((passes, sum("all_gather" in name for name in names) - passes))
    size = count_parameters(engine.module), engine.module.config.num_hidden_layers
    engine.destroy()
    return counts, size
