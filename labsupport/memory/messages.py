"""What one rank will send in an optimizer step, from the tensors' sizes and the config. No torch.

    predicted_collectives(sizes, settings)            # {collective: message bytes}, as DeepSpeed counts them
    times_ddp(collectives, parameters, settings)      # 1.0 is what plain data parallelism sends

A message has the size of the tensor that DeepSpeed hands over, which for an all-gather is one rank's part.
Paper: Rajbhandari et al., "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models", SC 2020,
arXiv 1910.02054, section 7. What is described of DeepSpeed stands in 0.19.8's folder runtime/.
"""

from collections import Counter

from labsupport.arguments import require_positive_integer, require_stage
from labsupport.errors import ConfigError
from labsupport.memory.gathering import equal_pieces, gathering_of, unreached_tensors

# Bytes that one of n ranks sends for each byte of the message.
_SENT_PER_BYTE = {
    "all_reduce": lambda n: 2 * (n - 1) / n,
    "reduce_scatter": lambda n: (n - 1) / n,
    "all_gather": lambda n: n - 1,
    "reduce": lambda n: (n - 1) / n,
    "broadcast": lambda n: (n - 1) / n,
    "gather": lambda n: (n - 1) / n,
    "scatter": lambda n: (n - 1) / n,
    "all_to_all": lambda n: (n - 1) / n,
    "send": lambda n: 1,
}


def wire_bytes(collective, message_bytes, world_size):
    """Return the bytes that one rank sends for a message of that size, on a ring; 0 on one rank.

    The ring moves the least that is possible (Patarasuk and Yuan 2009, doi 10.1016/j.jpdc.2008.09.002). A
    reduce or broadcast is a chain in which every rank but one sends the message once: (N - 1) / N of it on
    average, and for every rank where each is the root of an equal part, as in ZeRO; so are gather and scatter of
    one rank's part. Other algorithms, and gloo's, may send more. DeepSpeed's names are understood:
    all_gather_into_tensor is an all_gather. Raises ConfigError for another collective.
    """
    require_positive_integer("world_size", world_size)
    name = plain_name(collective)
    if name not in _SENT_PER_BYTE:
        raise ConfigError(f"There is no collective {collective!r} here: choose one of {', '.join(_SENT_PER_BYTE)}.")
    return message_bytes * _SENT_PER_BYTE[name](world_size)


def total_wire_bytes(collectives, world_size):
    """Return the bytes that one rank sends for {collective: message bytes}; raises as wire_bytes does."""
    return sum(wire_bytes(name, size, world_size) for name, size in collectives.items())


def times_ddp(collectives, parameters, settings):
    """Return what {collective: message bytes} sends, as a multiple of plain data parallelism; 0 on one rank.

    That is one all-reduce of the gradients of all `parameters` (a count) in the precision of `settings`, in
    one optimizer step: data parallelism adds its micro-batches up before it sends.
    """
    plain = wire_bytes("all_reduce", parameters * settings.parameter_bytes, settings.world_size)
    return total_wire_bytes(collectives, settings.world_size) / plain if plain else 0.0


def predicted_collectives(parameter_sizes, settings, *, trained=None, checkpointed_layers=0, tied_embedding=False):
    """Return {collective: message bytes} of one optimizer step of DeepSpeed 0.19.8, all micro-batches together.

    parameter_sizes: elements of each tensor in the model's order, or [total], which is taken as many equal
    tensors; settings: a Settings. trained: whether each tensor is, by default all: what is frozen has no gradient.
    checkpointed_layers: how many equal blocks are recomputed in the backward pass. tied_embedding: the first
    tensor is used again at the end. Left out are the few bytes that agree on the gradient norm and on
    overflow. Offload changes nothing here: states and parameters travel between host and device, not between
    ranks.

    Exact at stages 0 to 2, with all parameters in one group of the optimizer. At stage 3 exact where every tensor is
    used by a module of its own, else near it: see gathering.py. The blocks are found by their tensors' sizes, and
    recomputed as transformers does it, without re-entering autograd.
    Raises ConfigError for sizes below 1.
    """
    if not parameter_sizes or min(parameter_sizes) < 1:
        raise ConfigError("parameter_sizes must name at least one tensor, and each must have at least one element.")
    require_stage(settings.stage)
    row = parameter_sizes
    if trained is not None:
        row = [size for size, is_trained in zip(parameter_sizes, trained, strict=True) if is_trained]
    if settings.stage == 3:
        unreached = unreached_tensors(parameter_sizes, trained, settings)
        elements = _stage_3(parameter_sizes, row, settings, checkpointed_layers, tied_embedding, unreached)
    else:
        elements = _stages_0_to_2(sum(row), settings)
    return {name: count * settings.parameter_bytes for name, count in elements.items() if count}


def plain_name(name):
    return name.removesuffix("_into_tensor").removesuffix("_tensor")


def _stages_0_to_2(parameters, s):
    """Elements by collective. Gradients travel in the precision, in whatever dtype they are added up.

    Stage 0: engine.py, allreduce_gradients. Stages 1 and 2: zero/stage_1_and_2.py, average_tensor, which
    all-reduces unless use_multi_rank_bucket_allreduce is off; utils.py, all_gather_dp_groups.
    """
    # Equal shares of an even number of elements.
    whole = -(-parameters // (2 * s.world_size)) * 2 * s.world_size
    # Stage 1 in bf16 with fp32 gradients is another class, BF16_Optimizer, which all-reduces with the padding.
    other_class = s.stage == 1 and s.precision == "bf16" and s.accumulation_dtype == "fp32" and not s.offloads_on_cpu
    by_owner = s.stage and s.reduce_scatter and not s.multi_rank_allreduce and not other_class
    return {
        "reduce" if by_owner else "all_reduce": (whole if other_class else parameters) * _reductions(s),
        "all_gather": whole // s.world_size if s.stage and s.world_size > 1 else 0,
    }


def _reductions(s):
    """How often a step reduces the gradients: stages 2 and 3 keep only parts, so they reduce every micro-batch."""
    return s.accumulation_steps if s.stage >= 2 else 1


def _stage_3(sizes, trained_sizes, s, *of_the_passes):
    """Elements by collective: zero/stage3.py, __add_grad_to_ipg_bucket and __reduce_and_partition_ipg_grads.

    With reduce_scatter off, a gradient that fits into the bucket is all-reduced and a larger one is not.
    """
    count, ranks = Counter(trained_sizes), s.world_size  # few sizes, many tensors
    summed = {size for size in count if not s.reduce_scatter and size <= s.reduce_bucket_size}
    scattered = sum(-(-size // ranks) * times for size, times in count.items() if size not in summed)
    gathered = _gathered_elements(sizes, Counter(sizes), s, *of_the_passes) if ranks > 1 else 0
    return {
        "all_reduce": sum(size * count[size] for size in summed) * _reductions(s),
        "reduce_scatter": scattered * ranks * _reductions(s),
        "all_gather": gathered,
    }


def _gathered_elements(sizes, count, s, layers, tied, unreached):
    """Elements of one rank's parts in all the all-gathers of a stage 3 step.

    Parameters up to the persistence threshold are gathered once, after the optimizer has changed them
    (zero/stage3.py, _post_step). A larger one is gathered in every micro-batch as often as gathering.py says.
    """
    parts = {size: -(-size // s.world_size) for size in count}
    once = sum(parts[size] * times for size, times in count.items() if size <= s.persistence_threshold)
    large = [size for size in sizes if size > s.persistence_threshold]
    if len(sizes) == 1 and large:
        large, tied = equal_pieces(sizes[0], layers), False
        parts = {large[0]: -(-sizes[0] // (s.world_size * len(large)))}
    times = gathering_of(large, s, layers, tied and large[:1] == sizes[:1], unreached).times
    return once + s.accumulation_steps * sum(parts[size] * count for size, count in zip(large, times, strict=True))
