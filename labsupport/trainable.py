"""What a model must be before DeepSpeed gets it, and in which dtype it will train; told in one sentence.

DeepSpeed finds most of this itself, deep in its set-up or in the first step, or not at all.
"""

import torch

from labsupport.errors import TrainingError
from labsupport.machine.hardware import accelerator

# By the name of the class, which need not be imported to be known.
NOT_A_PLAIN_MODEL = {
    "DeepSpeedEngine": "pass it to DeepSpeedTrainer alone, without a config",
    "DistributedDataParallel": "pass its .module, because DeepSpeed averages the gradients itself",
    "DataParallel": "pass its .module, and start a rank for each GPU",
    "FullyShardedDataParallel": "pass the model as it was before, because ZeRO stage 3 partitions it itself",
    "FSDPModule": "pass the model as it was before fully_shard, because ZeRO stage 3 partitions it itself",
    "PipelineModule": "pass a plain module, because DeepSpeed's pipeline has a training loop of its own",
}
OF_STAGE_3 = "deepspeed.runtime.zero.parameter_offload"  # where the hooks of a living engine are from


def require_model(model):
    """Raise TrainingError for what is no torch module, or is one that something else already wraps."""
    if not isinstance(model, torch.nn.Module):
        what = f"the class {model.__name__}" if isinstance(model, type) else f"of type {type(model).__name__}"
        raise TrainingError(f"The model is {what}: pass an object of torch.nn.Module.")
    for kind in type(getattr(model, "_orig_mod", model)).__mro__:
        if kind.__name__ in NOT_A_PLAIN_MODEL:
            raise TrainingError(f"The model is already a {kind.__name__}: {NOT_A_PLAIN_MODEL[kind.__name__]}.")
    hooks = [hook for module in model.modules() for hook in module._forward_pre_hooks.values()]
    if any(getattr(hook, "__module__", None) == OF_STAGE_3 for hook in hooks):
        raise TrainingError(
            "The model is already in an engine of ZeRO stage 3: go on with that one, or make the model anew."
        )


def require_parameters(model, stage, optimizer=None):
    """Raise TrainingError for parameters that DeepSpeed cannot send, partition or train; names the first."""
    named = list(model.named_parameters())
    trained = {name: parameter for name, parameter in named if parameter.requires_grad}
    if not trained:
        found = f"all of its {len(named)} parameters are frozen" if named else "it has no parameters"
        raise TrainingError(
            f"There is nothing to train in the model, because {found}: set requires_grad_(True) on what is to learn."
        )
    for name, parameter in named:
        if parameter.is_meta:
            raise TrainingError(
                f"The parameter {name} is on the device meta, which has shapes and no numbers: load its weights, or "
                "make the model without the device meta."
            )
        if parameter.shape != getattr(parameter, "ds_shape", parameter.shape):  # by zero.Init, or an engine before
            if stage != 3:
                raise TrainingError(
                    f"The parameter {name} is partitioned, which stage {stage} does not know: make the model anew, "
                    "without deepspeed.zero.Init."
                )
            continue
        if parameter.dim() == 0:  # runtime/engine.py, _broadcast_model, views it as bytes
            raise TrainingError(
                f"The parameter {name} has no dimension, and DeepSpeed sends none of those to the other ranks, at any "
                "stage: give it the shape (1,), as torch.nn.Parameter(torch.ones(1)) has."
            )
        if parameter.stride(-1) != 1 or not parameter.is_contiguous():
            raise TrainingError(
                f"The numbers of the parameter {name} do not lie in their order in memory (channels_last, or a view), "
                "and DeepSpeed sends none of those to the other ranks: p.data = "
                "p.data.clone(memory_format=torch.contiguous_format) puts them in order."
            )
    if optimizer is not None:
        _require_of_model(optimizer, named)


def require_dtypes(model, stage, optimizer=None):
    """Raise TrainingError for dtypes that a stage does not train, or not together, where the config casts nothing."""
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    known = {*accelerator().supported_dtypes(), *((torch.float16, torch.float64) if stage else ())}
    for name, parameter in trained.items():
        if parameter.dtype not in known:  # runtime/engine.py, split_half_float_double_sparse
            raise TrainingError(
                f"The parameter {name} is in {parameter.dtype}, which DeepSpeed does not train at stage {stage} on "
                "this accelerator: call model.float()."
            )
    for group in _rows(trained, stage, optimizer):
        first = next(iter(group), None)
        for name in group:
            if trained[name].dtype != trained[first].dtype:
                raise TrainingError(
                    f"The parameters {first} and {name} are trained in {trained[first].dtype} and "
                    f"{trained[name].dtype}, which stage {stage} lays into one row: bring them to one dtype, as "
                    "model.float() does, or freeze one of them."
                )


def _rows(trained, stage, optimizer):
    """The names of the trained parameters that a stage flattens together: by the optimizer's groups; at stage 3 all."""
    if stage == 0:
        return []
    if optimizer is None or stage == 3:
        return [list(trained)]
    names = {id(parameter): name for name, parameter in trained.items()}
    return [[names[id(p)] for p in group["params"] if id(p) in names] for group in optimizer.param_groups]


def _require_of_model(optimizer, named):
    """Raise TrainingError for an optimizer over parameters that are not the model's, which would train for nothing."""
    known = {id(parameter) for _, parameter in named}
    strangers = [p for group in optimizer.param_groups for p in group["params"] if id(p) not in known]
    if strangers:
        raise TrainingError(
            f"The optimizer has a parameter of shape {list(strangers[0].shape)} that the model lacks: make it from "
            "model.parameters() of this model, after the last change to it."
        )


def compiled_inside(model):
    """Return the model without the wrappers of torch.compile, each wrapped module's forward compiled in their place.

    Stage 3 of DeepSpeed 0.19.8 fails on the wrapper, and the wrapper changes the names of the parameters: a checkpoint
    would fit only models that are compiled too.
    """
    holder = torch.nn.Module()
    holder.add_module("model", model)
    for parent in list(holder.modules()):
        for name, child in list(parent._modules.items()):
            wrapped = child._modules.get("_orig_mod") if child is not None else None
            if wrapped is not None:
                wrapped.forward = child.dynamo_ctx(wrapped.forward)
                parent._modules[name] = wrapped
    return holder.model


def dtype_in_force(engine, settings):
    """Return in one sentence how a model trains whose dtype the config does not name; None for one in fp32.

    Read in runtime/engine.py, _configure_zero_optimizer: whatever they train, stages 1 to 3 keep fp32 masters of it.
    """
    dtypes = {p.dtype for p in engine.module.parameters() if p.requires_grad} - {torch.float32}
    if settings.precision != "fp32" or "torch_autocast" in settings.not_described or not dtypes:
        return None
    name, reduced = _word(dtypes.pop()), _word(engine.communication_data_type)
    block = {"bfloat16": "bf16", "float16": "fp16"}.get(name)
    optimizer = type(engine.basic_optimizer).__name__
    if settings.stage == 0:
        held, gain = f"on the {name} weights themselves, with moments in {name} and no fp32 masters", "for such masters"
    else:
        held, gain = "on fp32 masters, with moments in fp32", f"to reduce in {name} too"
    way_out = f"add a {block} block to the config {gain}, or call model.float()" if block else "call model.float()"
    return (
        f"The model is in {name}, and the config has no block for that: stage {settings.stage} computes in {name}, "
        f"reduces the gradients in {reduced}, and {optimizer} steps {held}; {way_out}."
    )


def _word(dtype):
    return str(dtype).removeprefix("torch.")
