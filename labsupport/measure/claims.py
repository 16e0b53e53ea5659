"""What each tensor of a DeepSpeed engine is for: the roles by which the ledger counts and the planner predicts.

DeepSpeed 0.19.8 keeps each state in other attributes at each stage. Here every one of them is named once;
labsupport.measure.ledger adds up their storages at rest, labsupport.measure.timeline follows them through a step.
"""

import gc

import torch


def claims(engine):
    """Yield (role, tensor) for every tensor whose purpose is known; of two claims to one storage the first counts."""
    parameters, optimizer = list(engine.module.parameters()), engine.optimizer
    for parameter in parameters:
        if hasattr(parameter, "ds_tensor"):  # ZeRO-3: the shard, and the whole while it is gathered
            yield "parameters", parameter.ds_tensor
            yield "gathered parameters", parameter.data
        else:
            yield "parameters", parameter.data
    basic = getattr(engine, "basic_optimizer", None)
    groups = basic.param_groups if basic else []
    masters = [p for group in groups for p in group["params"] if id(p) not in set(map(id, parameters))]
    masters += getattr(optimizer, "fp32_partitioned_groups_flat", [])  # stage 3
    masters += getattr(optimizer, "single_partition_of_fp32_groups", [])  # stages 1 and 2
    yield from (("gradients", tensor) for tensor in _gradients(optimizer, [*parameters, *masters]))
    yield from (("master weights", master) for master in masters)
    states = [value for state in (basic.state.values() if basic else []) for value in state.values()]
    yield from (("optimizer states", state) for state in states)
    yield from (("communication buckets", tensor) for tensor in buckets(optimizer, parameters))


def _gradients(optimizer, parameters):
    yield from (p.grad for p in parameters)
    yield from (getattr(p, "grad_accum", None) for p in parameters)
    for name in ("averaged_gradients", "all_grad_tensors", "accumulated_grads_in_cpu"):  # stages 1 and 2
        yield from (getattr(optimizer, name, None) or {}).values()
    yield getattr(optimizer, "grads_in_partition", None)
    yield getattr(optimizer, "grad_partitions_flat_buffer", None)  # stage 3
    yield getattr(optimizer, "fp32_groups_gradients_flat", None)  # BF16_Optimizer


def buckets(optimizer, parameters):
    """Yield the tensors through which gradients, states and parameters travel between ranks or places."""
    yield from (bucket.buffer for bucket in (getattr(optimizer, "ipg_buckets", None) or {}).values())
    for name in (
        "temp_grad_buffer_for_cpu_offload",
        "temp_grad_buffer_for_gpu_offload",
        "param_buffer_of_bit16_for_cpu_offload_groups",
    ):
        yield getattr(optimizer, name, None)
    yield from (getattr(swapper, "buffers", None) for swapper in _parameter_swappers(parameters))
    manager = getattr(getattr(optimizer, "optimizer_swapper", None), "swap_buffer_manager", None)
    yield getattr(manager, "all_buffers", None)


def _parameter_swappers(parameters):
    return {id(s): s for s in (getattr(p, "nvme_swapper", None) for p in parameters) if s is not None}.values()


def swap_files(engine):
    """Yield (role, paths) of what DeepSpeed keeps on NVMe for this rank."""
    for swapper in _parameter_swappers(engine.module.parameters()):
        yield "parameters", list(swapper.id_to_path.values())
    optimizer_swapper = getattr(engine.optimizer, "optimizer_swapper", None)
    for info in getattr(optimizer_swapper, "swap_params_info", {}).values():
        yield "master weights", [info.tensors[0].swap_path]
        yield "optimizer states", [tensor.swap_path for tensor in info.tensors[1:]]
        yield "gradients", [gradient.path for gradient in info.swapped_gradients.values()]


def storages_by_role(engine, everything=True):
    """Return {(device, address): (storage, role)} of every tensor that is alive, the unclaimed ones as "other"."""
    found = {}
    if everything:
        gc.collect()
    for role, tensor in claims(engine):
        for storage in storages(tensor):
            found.setdefault(address(storage), (storage, role))
    for tensor in live_tensors() if everything else ():
        for storage in storages(tensor):
            found.setdefault(address(storage), (storage, "other"))
    return found


def storages(tensor):
    """Yield the storages of a tensor, or of every tensor in a list, without empty ones."""
    if isinstance(tensor, list | tuple):
        for item in tensor:
            yield from storages(item)
    elif isinstance(tensor, torch.Tensor) and tensor.layout == torch.strided and tensor.device.type != "meta":
        storage = tensor.untyped_storage()
        if storage.nbytes():
            yield storage


def address(storage):
    """Return what tells a storage from all others that are alive now."""
    return storage.device.type, storage.data_ptr()


def live_tensors():
    """Return every tensor that Python knows of; those that only autograd keeps are not among them."""
    # type(), not isinstance: isinstance asks the object for its __class__, which dead weak proxies and torch's
    # deprecated aliases answer with an error or a warning. Of half a million objects, the few types are asked.
    # The tensors that torch.compile traces with (torch._subclasses) have no memory at all.
    objects = gc.get_objects()
    kinds = {
        kind
        for kind in set(map(type, objects))
        if issubclass(kind, torch.Tensor) and not kind.__module__.startswith("torch._subclasses")
    }
    return [item for item in objects if type(item) in kinds]
