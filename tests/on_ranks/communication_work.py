"""What tests/memory/test_messages.py runs on live ranks: engines whose messages DeepSpeed's comms_logger counts."""

import contextlib
import io

import torch


def count_messages(model, options, changes, checkpointing=False):
    """Train two steps, count the third one's messages; return them with the config, the tensors' sizes and the output.

    model: a preset, "layers" for four bias-free linear layers that share nothing, or "odd" for two layers whose
    sizes divide by no number of ranks. options: those of create_deepspeed_config; changes: keys of
    zero_optimization.
    """
    from labsupport import DeepSpeedTrainer, create_deepspeed_config
    from labsupport.config import merge_configs
    from labsupport.measure.collectives import measured_collectives

    ranks = torch.distributed.get_world_size()
    steps = options.get("gradient_accumulation_steps", 1)
    options = {"precision": "bf16", "bucket_size": 10_000, "world_size": ranks, "micro_batch_size": 1} | options
    config = merge_configs(
        create_deepspeed_config(train_batch_size=ranks * steps, **options), {"zero_optimization": changes}
    )
    module, batch = _model_and_batch(model, checkpointing)
    sizes = [parameter.numel() for parameter in module.parameters()]
    loss_fn = torch.nn.functional.mse_loss if isinstance(module, torch.nn.Sequential) else None
    printed = io.StringIO()
    trainer = DeepSpeedTrainer(module, config, loss_fn=loss_fn)
    trainer.engine.train()

    def step():
        for _ in range(steps):
            trainer.train_step(batch)

    step()
    step()
    with contextlib.redirect_stdout(printed):
        measured = measured_collectives(trainer.engine, step)
    trainer.engine.destroy()
    return {"measured": measured, "config": config, "sizes": sizes, "printed": printed.getvalue()}


def _model_and_batch(model, checkpointing):
    if model == "layers":
        layers = [torch.nn.Linear(64, 64, bias=False) for _ in range(4)]
        return torch.nn.Sequential(*layers), (torch.ones(1, 64), torch.zeros(1, 64))
    if model == "odd":
        return torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Linear(7, 3)), (torch.ones(1, 5), torch.zeros(1, 3))
    from labsupport.models import build_model

    module = build_model(model)
    if checkpointing:
        module.activation_checkpointing_enable()
    tokens = torch.arange(16).reshape(1, 16)
    return module, {"input_ids": tokens, "labels": tokens}


def count_by_hand():
    """Send known rows in several ways; return {what: (messages, peak, kept)} in bytes, and what is left of many."""
    import torch.distributed as dist

    from labsupport.measure.counted import count

    ranks, rank = dist.get_world_size(), dist.get_rank()

    def in_parts():
        row, mine = torch.ones(3000 * ranks), torch.empty(3000)
        dist.reduce_scatter_tensor(mine, row)
        del row
        return mine

    def in_lists():
        mine, whole = torch.empty(500), [torch.empty(500) for _ in range(ranks)]
        dist.reduce_scatter(mine, [torch.ones(500) for _ in range(ranks)])
        dist.all_gather(whole, mine)

    def one_by_one():
        part = torch.ones(100, dtype=torch.bfloat16)
        dist.reduce(part, 0)
        dist.broadcast(part, 1)
        dist.all_reduce(part)
        dist.all_to_all_single(torch.empty_like(part), part)

    def through_autograd():
        weight = torch.ones(1000, requires_grad=True)
        whole = torch.empty(1000 * ranks)
        dist.all_gather_into_tensor(whole, weight.detach())
        return (weight * whole[:1000]).sum()

    counted = {each.__name__: count(each) for each in (in_parts, in_lists, one_by_one, through_autograd)}
    own_threads = count(lambda: [in_parts() for _ in range(30)] and None)  # freed on another thread, now and then
    wire = counted["in_parts"].wire_bytes()
    return rank, {name: each[1:] for name, each in counted.items()}, wire, own_threads.kept_bytes


def count_by_phase(stage):
    """Count a step's messages by phase, and another step's all together; return both and the tensors' sizes."""
    from labsupport import DeepSpeedTrainer, create_deepspeed_config
    from labsupport.measure.collectives import measured_by_phase, measured_collectives

    ranks = torch.distributed.get_world_size()
    config = create_deepspeed_config(
        stage, precision="bf16", bucket_size=1_000_000, world_size=ranks, train_batch_size=ranks, micro_batch_size=1
    )
    module, batch = _model_and_batch("tiny", False)
    sizes = [parameter.numel() for parameter in module.parameters()]
    with contextlib.redirect_stdout(io.StringIO()):
        trainer = DeepSpeedTrainer(module, config)
    for _ in range(2):  # stage 3 learns the order of the modules first
        trainer.train_step(batch)
    by_phase = measured_by_phase(trainer.engine, batch)
    together = measured_collectives(trainer.engine, lambda: trainer.train_step(batch))
    trainer.engine.destroy()
    return by_phase, together, sizes
