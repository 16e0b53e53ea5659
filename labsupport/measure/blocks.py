"""Which block of a small Llama each byte on this rank belongs to, at every ZeRO stage: the ledger, block by block.

    held_by_block(engine, block_of)                 # {role: [bytes of each of BLOCKS]} now

labsupport.measure.claims says which attributes of DeepSpeed 0.19.8 hold what; here they are taken apart by parameter.
"""

from labsupport.measure.claims import address, buckets, storages

BLOCKS = ("embedding", "layer 1", "layer 2", "layer 3", "layer 4", "head")
ROLES = ("parameters", "gathered parameters", "gradients", "master weights", "optimizer states")


def block_modules(model):
    """Return the modules of BLOCKS in their order; the last norm is counted with the head that follows it."""
    return [model.model.embed_tokens, *model.model.layers, model.lm_head]


def block_parameters(model):
    """Return the parameters of each of BLOCKS."""
    *body, head = block_modules(model)
    return [list(module.parameters()) for module in body] + [[*model.model.norm.parameters(), *head.parameters()]]


def bucket_parameters(optimizer):
    """Return the parameters whose gradients wait in the bucket, at stages 1 to 3."""
    groups = getattr(optimizer, "bit16_groups", None)
    waiting = [entry for bucket in getattr(optimizer, "ipg_buckets", {}).values() for entry in bucket.params]
    return [groups[entry[0]][entry[1]] for entry in waiting] if groups else waiting


def held_by_block(engine, block_of):
    """Return {role: [bytes of each block]} that this rank holds now."""
    held = {role: [0] * len(BLOCKS) for role in ROLES}
    for role, parameter, count in _pieces(engine):
        held[role][block_of[id(parameter)]] += count
    return held


def _pieces(engine):
    """Yield (role, parameter, bytes) of everything that this rank holds of a parameter."""
    for parameter in engine.module.parameters():
        if hasattr(parameter, "ds_tensor"):
            yield "parameters", parameter, tensor_bytes(parameter.ds_tensor)
            yield "gathered parameters", parameter, tensor_bytes(parameter.data)
        else:
            yield "parameters", parameter, tensor_bytes(parameter.data)
    yield from (("gradients", *piece) for piece in _gradients(engine))
    for master, parts in shards(engine.optimizer):
        states = [state for state in engine.basic_optimizer.state[master].values() if is_state(state)]
        for parameter, elements in parts:
            yield "master weights", parameter, elements * master.element_size()
            yield "optimizer states", parameter, sum(elements * state.element_size() for state in states)


def is_state(value):
    """Whether an entry of the optimizer's state is a state of its parameters, not the count of steps."""
    return hasattr(value, "numel") and value.numel() > 1


def shards(optimizer):
    """Return [(master weights, [(parameter, its elements in them)])] of what this rank updates."""
    if hasattr(optimizer, "fp32_partitioned_groups_flat"):  # stage 3 cuts every tensor by itself
        groups = zip(optimizer.fp32_partitioned_groups_flat, optimizer.fp16_groups, strict=True)
        return [(flat, [(p, p.ds_tensor.numel()) for p in group]) for flat, group in groups]
    if hasattr(optimizer, "single_partition_of_fp32_groups"):  # stages 1 and 2 cut the row of all tensors
        groups = zip(optimizer.single_partition_of_fp32_groups, optimizer.bit16_groups, strict=True)
        return [(flat, _cut(group, flat.numel(), optimizer)) for flat, group in groups]
    groups = zip(optimizer.fp32_groups, optimizer.fp16_groups, strict=True)
    return [(master, [(p, p.numel())]) for pair in groups for master, p in zip(*pair, strict=True)]


def _cut(group, share, optimizer):
    import torch

    first = torch.distributed.get_rank(group=optimizer.dp_process_group) * share
    parts, offset = [], 0
    for parameter in group:
        elements = min(offset + parameter.numel(), first + share) - max(offset, first)
        if elements > 0:
            parts.append((parameter, elements))
        offset += parameter.numel()
    return parts


def _gradients(engine):
    """Yield (parameter, bytes) of the gradients on this rank; one that the bucket has overwritten is gone."""
    optimizer, parameters = engine.optimizer, list(engine.module.parameters())
    waiting = set(map(id, bucket_parameters(optimizer)))
    buffers = {address(storage) for tensor in buckets(optimizer, parameters) for storage in storages(tensor)}
    for parameter in parameters:
        if parameter.grad is not None:
            in_bucket = address(parameter.grad.untyped_storage()) in buffers
            if id(parameter) in waiting or not in_bucket:
                yield parameter, tensor_bytes(parameter.grad)
    if hasattr(optimizer, "grad_partitions_flat_buffer"):  # stage 3 keeps the room for its shard
        size = optimizer.grad_partitions_flat_buffer.element_size()
        yield from ((parameter, parameter.ds_tensor.numel() * size) for parameter in parameters)
    elif hasattr(optimizer, "averaged_gradients"):  # stages 1 and 2, from the end of the backward pass to the step
        for number, averaged in optimizer.averaged_gradients.items():
            pieces = zip(optimizer.params_in_partition[number], averaged or (), strict=averaged is not None)
            yield from ((parameter, tensor_bytes(gradient)) for parameter, gradient in pieces)


def tensor_bytes(tensor):
    """Return the bytes of the elements that a tensor shows."""
    return tensor.numel() * tensor.element_size()
