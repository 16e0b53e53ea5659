"""What tests/book/test_fsdp.py runs on two live ranks: what FSDP2 and ZeRO do, option beside option."""

import warnings
from unittest import mock

import torch

SIZE = 16


def model_of(seed=0, dtype=torch.float32):
    torch.manual_seed(seed)
    layers = [torch.nn.Linear(SIZE, SIZE, bias=False) for _ in range(2)]
    return torch.nn.Sequential(*layers).to(dtype)


def inputs(seed=0):
    """Other samples on each rank."""
    generator = torch.Generator().manual_seed(10 * seed + torch.distributed.get_rank())
    return torch.randn(4, SIZE, generator=generator)


def sharded(model=None, **options):
    from torch.distributed.fsdp import fully_shard

    warnings.simplefilter("ignore")
    model = model or model_of()
    for layer in model:
        fully_shard(layer, **options)
    return fully_shard(model, **options)


def local(model):
    """Elements of this rank's parameters, whole or not."""
    from torch.distributed.tensor import DTensor

    return sum((p.to_local() if isinstance(p, DTensor) else p).numel() for p in model.parameters())


def gradients(model):
    return [p.grad for p in model.parameters()]


def placement():
    """Elements after the forward pass, after the backward pass: for each way to shard again, and for ZeRO-2's."""
    found = {}
    for name, options, after_backward in (
        ("True", {"reshard_after_forward": True}, None),
        ("False", {"reshard_after_forward": False}, None),
        ("whole between steps", {"reshard_after_forward": False}, False),
    ):
        model = sharded(**options)
        if after_backward is not None:
            model.set_reshard_after_backward(after_backward)
        loss = model(inputs()).square().sum()
        # The root keeps its own layers' parameters; look at a layer.
        forward = local(model[0])
        loss.backward()
        found[name] = forward, local(model[0])
    return found


def replicated():
    """A mesh of two dimensions (ranks, 1): elements of each state on this rank, and the weights after two steps."""
    from torch.distributed.device_mesh import init_device_mesh

    mesh = init_device_mesh("cpu", (torch.distributed.get_world_size(), 1), mesh_dim_names=("replicate", "shard"))
    model = sharded(mesh=mesh)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for seed in range(2):
        model(inputs(seed)).square().sum().backward()
        kept = sum(each.to_local().numel() for each in gradients(model))
        optimizer.step()
        optimizer.zero_grad()
    states = sum(state["exp_avg"].to_local().numel() for state in optimizer.state.values())
    return {
        "placements": [str(each) for each in next(model.parameters()).placements],
        "elements": (local(model), kept, states, sum(p.numel() for p in model.parameters())),
        "weights": torch.cat([p.to_local().detach().flatten() for p in model.parameters()]),
    }


def accumulation():
    """The sums of two micro-batches' gradients with and without a reduction in the first, and what was held between."""
    from torch.distributed.tensor import DTensor

    found = {}
    for name, sync in (("sync", True), ("no sync", False)):
        model = sharded()
        model.set_requires_gradient_sync(sync)
        model(inputs(0)).square().sum().backward()
        held = [
            group._fsdp_param_group.fsdp_params
            for group in (module._get_fsdp_state() for module in model.modules() if hasattr(module, "_get_fsdp_state"))
            if group._fsdp_param_group
        ]
        whole = sum(
            each.unsharded_param.grad.numel()
            for params in held
            for each in params
            if hasattr(each, "_unsharded_param") and each.unsharded_param.grad is not None
        )
        cut = sum(each.to_local().numel() for each in gradients(model) if isinstance(each, DTensor))
        model.set_requires_gradient_sync(True)
        model(inputs(1)).square().sum().backward()
        found[name] = {"held": whole + cut, "sum": torch.cat([each.to_local().flatten() for each in gradients(model)])}
    return found


def clipping():
    """The norm that clip_grad_norm_ gives: its class, its value over the ranks, and that of the whole model."""
    model = sharded()
    model(inputs()).square().sum().backward()
    whole = torch.cat([each.full_tensor().flatten() for each in gradients(model)]).norm()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    return type(norm).__name__, float(norm.full_tensor()), float(whole)


def objects_are_replaced():
    model = model_of()
    before = {id(each) for each in model.parameters()}
    return not before & {id(each) for each in sharded(model).parameters()}


def masters():
    """Whether the fp32 weights that are updated equal the model's own, and its bf16-rounded ones: ZeRO and FSDP2."""
    import deepspeed
    from deepspeed.utils import safe_get_full_fp32_param
    from torch.distributed.fsdp import MixedPrecisionPolicy

    own = next(model_of().parameters()).detach().clone()
    rounded, found = own.bfloat16().float(), {}
    for stage in (1, 2, 3):
        model = model_of()
        config = {
            "train_micro_batch_size_per_gpu": 1,
            "bf16": {"enabled": True},
            "optimizer": {"type": "AdamW", "params": {"lr": 1e-3, "torch_adam": True}},
            "zero_optimization": {"stage": stage, "reduce_bucket_size": 1000},
        }
        engine, *_ = deepspeed.initialize(model=model, model_parameters=model.parameters(), config=config)
        master = safe_get_full_fp32_param(next(model.parameters()))
        found[f"stage {stage}"] = torch.equal(master, own), torch.equal(master, rounded)
        engine.destroy()
    model = sharded(mp_policy=MixedPrecisionPolicy(param_dtype=torch.bfloat16))
    kept = next(model.parameters()).full_tensor()
    found["FSDP2"] = torch.equal(kept, own), torch.equal(kept, rounded)
    return found


def reduction_dtypes():
    """The dtypes in which gradients are reduced: FSDP2's reduce_dtype, DeepSpeed's communication_data_type."""
    import deepspeed
    from torch.distributed.fsdp import MixedPrecisionPolicy

    from labsupport.measure.collectives import measured_collectives

    found = {}
    for name, reduce_dtype in (("FSDP2", None), ("FSDP2, fp32", torch.float32)):
        model = sharded(mp_policy=MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=reduce_dtype))
        dtypes, reduce = set(), torch.distributed.reduce_scatter_single

        def seen(*given, dtypes=dtypes, reduce=reduce, **named):
            dtypes |= {str(each.dtype) for each in (*given, *named.values()) if isinstance(each, torch.Tensor)}
            return reduce(*given, **named)

        with mock.patch.object(torch.distributed, "reduce_scatter_single", seen):
            model(inputs()).float().square().sum().backward()
        found[name] = sorted(dtypes)
    for name, extra in (("stage 1", {}), ("stage 1, fp32", {"communication_data_type": "fp32"})):
        model = model_of()
        config = {
            "train_micro_batch_size_per_gpu": 4,
            "bf16": {"enabled": True},
            "optimizer": {"type": "AdamW", "params": {"lr": 1e-3, "torch_adam": True}},
            "zero_optimization": {"stage": 1, "reduce_bucket_size": 1000},
        }
        engine, *_ = deepspeed.initialize(model=model, model_parameters=model.parameters(), config=config | extra)

        def step(engine=engine):
            engine.backward(engine(inputs().bfloat16()).float().square().sum())
            engine.step()

        step()
        sent = measured_collectives(engine, step)["all_reduce"]
        found[name] = round(sent / (2 * SIZE**2))  # bytes an element; the norm's few bytes are rounded off
        engine.destroy()
    return found


def checkpoint(folder):
    """Save with torch.distributed.checkpoint; return what get_model_state_dict gives, whole."""
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    model = sharded()
    dcp.save(get_model_state_dict(model), checkpoint_id=folder)
    whole = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    return {name: (type(value).__name__, value) for name, value in whole.items()}


def deepspeed_files(folder):
    """{stage: the files that save_checkpoint writes into the folder of the tag}."""
    from pathlib import Path

    import fact_work

    found = {}
    for stage in range(4):
        engine = fact_work.engine_of(stage)
        fact_work.step(engine)
        engine.save_checkpoint(f"{folder}/{stage}")
        torch.distributed.barrier()
        found[stage] = sorted(path.name for path in Path(folder, str(stage), "global_step1").iterdir())
        engine.destroy()
    return found


def compiled():
    """The loss of a sharded model, plain and through torch.compile with the backend that compiles nothing."""
    plain, through = sharded(), torch.compile(sharded(), backend="eager")
    return [float(model(inputs()).square().sum()) for model in (plain, through)]


def offloaded():
    """Where parameters, gradients and states are with CPUOffloadPolicy, and what can be said in it."""
    import inspect

    from torch.distributed.fsdp import CPUOffloadPolicy

    model = sharded(offload_policy=CPUOffloadPolicy(pin_memory=False))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    model(inputs()).square().sum().backward()
    optimizer.step()
    state = next(iter(optimizer.state.values()))["exp_avg"]
    places = [next(model.parameters()).device.type, gradients(model)[0].device.type, state.device.type]
    return places, sorted(inspect.signature(CPUOffloadPolicy).parameters)
