"""What DeepSpeed 0.19.8 holds on rank 0 at each stage, term by term, in bytes: the planner's arithmetic. No torch.

Every function takes the Shares of a model and the Settings of a config, and names the code that it describes
in the installed package. moments.py adds the terms up; labsupport.measure measures the same roles.
"""

import itertools
import math
from collections import Counter
from typing import NamedTuple

from labsupport.memory.gathering import equal_pieces, gathering_of, unreached_tensors
from labsupport.settings import FP32


class Shares(NamedTuple):
    """How a model's elements divide over the ranks; all in elements, of rank 0.

    whole, share, cut and largest are of the tensors that are trained: masters, states and gradients are theirs alone.
    """

    parameters: int  # the model
    whole: int  # what is trained, with the padding that makes equal shares
    share: int  # one rank's part
    cut: int  # the tensors that lie in that part at least in part, each counted whole
    largest: int  # the largest tensor
    persistent: int = 0  # at stage 3: the tensors that every rank keeps whole, because they are small
    tensors: int = 1  # how many are trained, at stage 0
    window: int = 0  # at stage 3: the tensors gathered at one time when everything is released after use
    kept: int = 0  # at stage 3: the partitioned tensors that are whole when a forward pass ends
    frozen: int = 0  # what this rank holds of the tensors that are not trained: all below stage 3, a share there


def shares_of(sizes, settings, trained=None):
    """Return the Shares of a model with tensors of `sizes` elements, in the order of its parameters.

    trained: whether each of them is, by default all. Stages 1 and 2 lay the trained tensors end to end and cut the row
    into world_size equal parts, of an even number of elements (runtime/zero/stage_1_and_2.py,
    flatten_dense_tensors_aligned). Stage 3 cuts every tensor by itself (runtime/zero/partition_parameters.py,
    _partition_param).
    """
    ranks, total = settings.world_size, sum(sizes)
    row = sizes if trained is None else [size for size, is_trained in zip(sizes, trained, strict=True) if is_trained]
    in_row, largest = sum(row), max(row)
    frozen = total - in_row
    if settings.stage == 0:
        return Shares(total, in_row, in_row, in_row, largest, tensors=len(row), frozen=frozen)
    if settings.stage == 3:
        share, share_of_all = _cut_alone(row, ranks), _cut_alone(sizes, ranks)
        small = {size: count for size, count in Counter(sizes).items() if size <= settings.persistence_threshold}
        return Shares(
            parameters=total,
            whole=in_row,
            share=share,
            cut=share,
            largest=largest,
            persistent=sum(size * count for size, count in small.items()),
            window=_window(sizes, settings),
            kept=gathering_of(
                [size for size in sizes if size > settings.persistence_threshold],
                settings,
                unreached=unreached_tensors(sizes, trained, settings),
            ).whole,
            frozen=share_of_all - share,
        )
    share = math.ceil(in_row / (2 * ranks)) * 2
    laid = cut = 0
    for size in row:
        if laid >= share:
            break
        laid, cut = laid + size, cut + size
    return Shares(total, share * ranks, share, cut, largest, frozen=frozen)


def _cut_alone(sizes, ranks):
    """The elements of one rank's parts, where every tensor is cut by itself and padded."""
    return sum(-(-size // ranks) * count for size, count in Counter(sizes).items())


def shares_of_number(parameters, settings):
    """Return the Shares of a model of which only the number of parameters is known: no tensor is small or large."""
    share = parameters if settings.stage == 0 else -(-parameters // settings.world_size)
    kept = round(gathering_of(equal_pieces(parameters), settings).whole) if settings.stage == 3 else 0
    return Shares(parameters, parameters, share, share, 0, kept=kept)


def _window(sizes, settings):
    """The partitioned tensors that are whole at one time when none is kept: the one in use and the next two."""
    cut = [size for size in sizes if size > settings.persistence_threshold] or [0]
    return max(map(sum, itertools.zip_longest(cut, cut[1:], cut[2:], fillvalue=0)))


def parameter_bytes(shares, s):
    """Return the bytes of the parameters that the model computes with: whole below stage 3, a share there."""
    return ((shares.share if s.stage == 3 else shares.whole) + shares.frozen) * s.parameter_bytes


def persistent_bytes(shares, s, on_gpu):
    """Return the small parameters that stage 3 keeps whole on every rank, beside their shares.

    runtime/zero/parameter_offload.py, mark_persistent_parameters: all of at most
    stage3_param_persistence_threshold elements.
    """
    return shares.persistent * s.parameter_bytes if is_gathered(s, on_gpu) else 0


def is_gathered(s, on_gpu):
    """Whether a whole parameter is another tensor than this rank's share of it.

    On one rank the share is the whole, and is used in its place (partition_parameters.py, NoGatherHandle), unless it
    lies in the host's memory and is copied to the GPU.
    """
    return s.world_size > 1 or (on_gpu and s.offload_param != "none")


def master_bytes(shares, s):
    """Return the master weights: fp32 copies of what this rank updates; fp32 at stage 0 needs none.

    ZeRO makes them in fp32 too (stage_1_and_2.py, single_partition_of_fp32_groups).
    """
    return 0 if s.stage == 0 and s.precision == "fp32" else shares.share * s.master_bytes


def optimizer_state_bytes(shares, s):
    """Return the optimizer's states: Adam's momentum and variance are two.

    Made in the first step; at stage 0 in 16 bits in `initialize` (runtime/fp16/unfused_optimizer.py,
    initialize_optimizer_states).
    """
    return shares.share * s.states * s.state_bytes


def step_counter_bytes(shares, s, fused):
    """Return the count of steps that PyTorch's Adam keeps in a 4-byte tensor for each tensor it updates.

    Stage 0 gives it the model's tensors, ZeRO one flat part, or one a sub-group. Fused and CPU Adam count in Python.
    """
    if fused or s.offloads_on_cpu:
        return 0
    return 4 * (shares.tensors if s.stage == 0 else -(-shares.share // step_gradient_elements(shares, s)))


def resting_gradient_bytes(shares, s):
    """Return the gradients that stay between two steps.

    Stage 3 allocates this rank's part once (stage3.py, grad_partitions_flat_buffer); stage 1 with fp32
    accumulation of 16-bit gradients goes through BF16_Optimizer, which keeps whole fp32 gradients
    (runtime/bf16_optimizer.py, fp32_groups_gradients_flat); with the optimizer on the CPU the fp32 gradient of
    the share stays there.
    """
    fp32_on_cpu = shares.share * s.master_bytes if s.offload_optimizer == "cpu" else 0
    if s.stage == 3:
        return shares.share * s.accumulation_bytes + fp32_on_cpu
    return shares.whole * FP32 if through_bf16_optimizer(s) else fp32_on_cpu


def accumulated_on_cpu_bytes(shares, s):
    """Return the 16-bit gradients that stage 2 keeps on the CPU to add up the micro-batches of a step.

    They are made in the first step and stay (stage_1_and_2.py, async_accumulate_grad_in_cpu_via_gpu). Stage 1
    adds up on the device.
    """
    if s.stage != 2 or s.offload_optimizer != "cpu" or s.accumulation_steps == 1 or accumulates_apart(s):
        return 0
    return shares.cut * s.parameter_bytes


def through_bf16_optimizer(s):
    """Whether DeepSpeed picks BF16_Optimizer (runtime/engine.py, _do_optimizer_sanity_check)."""
    return s.stage == 1 and accumulates_apart(s) and s.precision == "bf16" and not s.offloads_on_cpu


def accumulates_apart(s):
    """Whether gradients are added up in fp32 while the model computes in 16 bits."""
    return s.accumulation_bytes > s.parameter_bytes


def backward_gradient_bytes(shares, s):
    """Return the gradients that are held after the last backward pass, on top of the resting ones.

    Stage 0 and BF16_Optimizer: all. Stages 1 and 2: the tensors of this rank's part, each whole, and in fp32
    exactly the part (stage_1_and_2.py, copy_grads_in_partition, _build_compact_grad_partition_buffer), the
    latter also where the optimizer is on the CPU. Stage 3 and other offloaded optimizers put them where they
    already have room.
    """
    if s.stage == 0 or through_bf16_optimizer(s):
        return shares.whole * s.parameter_bytes
    if s.stage == 3:
        return 0
    if accumulates_apart(s):
        # At stage 1 the gradients that went through the bucket keep it alive until the next forward pass.
        return shares.share * FP32 + (bucket_bytes(shares, s) if s.stage == 1 else 0)
    return 0 if s.offload_optimizer == "cpu" else shares.cut * s.parameter_bytes


def collected_gradient_bytes(shares, s):
    """Return the gradients of the whole model, which stages 0 and 1 have when a backward pass ends.

    BF16_Optimizer adds them to its fp32 ones; ZeRO-1 itself adds up in the accumulation's own dtype.
    """
    if s.stage > 1:
        return 0
    apart = s.stage == 1 and not through_bf16_optimizer(s)
    return shares.whole * (max(s.accumulation_bytes, s.parameter_bytes) if apart else s.parameter_bytes)


def window_gradient_bytes(shares, s):
    """Return the gradients held between the micro-batches of one step, on top of the resting ones.

    Stage 1 keeps all of them until the boundary; stage 2 keeps this rank's after every micro-batch.
    """
    if s.accumulation_steps == 1:
        return 0
    if s.stage == 1 and not through_bf16_optimizer(s):
        return collected_gradient_bytes(shares, s)
    return backward_gradient_bytes(shares, s)


def bucket_bytes(shares, s):
    """Return the buffer in which stages 1 to 3 collect gradients before they send them; whole from the start.

    reduce_bucket_size elements however small the model is; two of them at stages 1 and 2 with overlap_comm
    (stage_1_and_2.py, setup_buckets). Stage 3 makes it at initialisation and keeps it (stage3.py,
    _setup_for_real_optimizer), stages 1 and 2 for the time of a backward pass.
    """
    if s.stage == 0 or through_bf16_optimizer(s):
        return 0
    each = s.accumulation_bytes if s.stage == 1 else s.parameter_bytes
    return s.reduce_bucket_size * each * (2 if s.overlap_comm and s.stage != 3 else 1)


def staging_bytes(shares, s):
    """Return what CPU offload at stages 1 and 2 keeps to carry data: (on the device, on the host).

    A buffer for the largest gradient on each side, and this rank's 16-bit parameters on their way back
    (stage_1_and_2.py, temp_grad_buffer_for_*, param_buffer_of_bit16_for_cpu_offload_groups).
    """
    if s.stage not in (1, 2) or s.offload_optimizer != "cpu":
        return 0, 0
    largest = shares.largest * s.parameter_bytes
    return largest, largest + shares.share * s.parameter_bytes


def gathered_bytes(shares, s, on_gpu):
    """Return the stage 3 parameters that are whole, or on their way, at the end of a forward pass.

    gathering.py has the rule. With a prefetch bucket of several tensors it comes to the larger of
    stage3_max_live_parameters and half of stage3_max_reuse_distance: only both together make it small.
    """
    if s.stage != 3 or not is_gathered(s, on_gpu):
        return 0
    return min(shares.parameters, shares.persistent + max(shares.kept, shares.window)) * s.parameter_bytes


def prefetch_bytes(shares, s):
    """Return the second copy of the stage 3 parameters that are fetched ahead together, up to the prefetch bucket.

    They arrive in one flat tensor, are copied into their shapes, and the flat one stays until the last of them
    has been used (partition_parameters.py, AllGatherCoalescedHandle).
    """
    if s.stage != 3 or s.world_size == 1:
        return 0
    return min(shares.parameters - shares.persistent, s.prefetch_bucket_size) * s.parameter_bytes


def reduction_bytes(shares, s):
    """Return the copies made while the gradients are summed over the ranks, beside the bucket.

    Stage 0 flattens up to 5e8 elements, on one rank too (runtime/engine.py, buffered_allreduce_fallback), stages 1
    and 2 what is in the bucket (stage_1_and_2.py, allreduce_bucket); BF16_Optimizer's gradients are flat already.
    """
    if s.stage == 0:
        return min(shares.whole, 500_000_000) * s.parameter_bytes
    if s.world_size == 1 or s.stage == 3 or through_bf16_optimizer(s):
        return 0
    return min(shares.whole, s.reduce_bucket_size) * s.parameter_bytes


def flattened_gradient_bytes(shares, s, fused):
    """Return the gradients when the optimizer's step has just put this rank's into one flat fp32 tensor.

    Stage 0 in 16 bits with FusedAdam: the 16-bit ones, an fp32 copy of each and the flat tensor (runtime/fp16/
    fused_optimizer.py, step). Stages 1 and 2: the ones that arrived, the flat tensor in their own dtype, and its fp32
    copy (stage_1_and_2.py, step); fp32 sums are flat from the start. Stage 3: the last two of a sub-group (stage3.py,
    _prepare_fp32_grad_for_sub_group). An optimizer on the CPU has its gradients there.
    """
    if s.stage == 0:
        return shares.whole * (s.parameter_bytes + 2 * FP32) if fused and s.precision != "fp32" else 0
    if through_bf16_optimizer(s) or s.offloads_on_cpu or (s.stage < 3 and accumulates_apart(s)):
        return 0
    arrived = shares.cut * s.accumulation_bytes if s.stage < 3 else 0
    copy = s.master_bytes if s.master_bytes != s.accumulation_bytes else 0
    return arrived + step_gradient_elements(shares, s) * (s.accumulation_bytes + copy)


def step_gradient_bytes(shares, s):
    """Return the gradients during the optimizer's arithmetic, beside the resting ones: this rank's part in fp32.

    Stage 0 in 16 bits keeps the 16-bit ones beside the copy (runtime/fp16/unfused_optimizer.py), stages 1 and
    2 have freed them by then; stage 3 copies one sub_group_size at a time.
    """
    if s.stage == 0:
        return shares.whole * (s.parameter_bytes + (FP32 if s.precision != "fp32" else 0))
    if through_bf16_optimizer(s):
        return shares.whole * s.parameter_bytes
    if s.offloads_on_cpu:
        return 0
    return step_gradient_elements(shares, s) * s.master_bytes


def optimizer_working_bytes(shares, s, fused, on_gpu):
    """Return what the optimizer's arithmetic needs: nothing where it is one fused kernel.

    PyTorch's own Adam makes the root of the variance and its quotient, each as large as the tensor in hand:
    stage 0 updates tensor by tensor, ZeRO a whole part at once. On a GPU it takes all tensors together, and makes
    the quotient in place (torch/optim/adam.py, _multi_tensor_adam).
    """
    if fused or s.offloads_on_cpu:
        return 0
    if on_gpu:
        return step_gradient_elements(shares, s) * s.master_bytes
    in_hand = shares.largest if s.stage == 0 else step_gradient_elements(shares, s)
    return 2 * in_hand * s.master_bytes


def step_gradient_elements(shares, s):
    """Return how many elements one call of the optimizer updates."""
    return min(shares.share, s.sub_group_size) if s.stage == 3 else shares.share


def gloo_workspace_bytes(shares, s):
    """Return what gloo, the CPU's backend, needs to gather the updated parameters: a copy; NCCL needs none."""
    if s.stage not in (1, 2) or s.world_size == 1:
        return 0
    return shares.whole * s.parameter_bytes
