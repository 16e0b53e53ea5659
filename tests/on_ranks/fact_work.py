"""What tests/facts runs on live ranks: one fact about DeepSpeed a function, for all the stages that matter."""

import contextlib
import io
from pathlib import Path
from unittest import mock

import torch

SIZE = 8
TORCH = {"torch_adam": True}


def engine_of(stage, model=None, client=None, adam=TORCH, **config):
    """DeepSpeed's own engine for a small model: the smallest config, then what `config` says."""
    import deepspeed

    model = model or torch.nn.Linear(SIZE, SIZE, bias=False)
    whole = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_clipping": 0.0,
        "zero_allow_untested_optimizer": True,
        "zero_optimization": {"stage": stage, "reduce_bucket_size": 1000, "stage3_param_persistence_threshold": 0},
    }
    if client is None and adam:
        whole["optimizer"] = {"type": "AdamW", "params": {"lr": 0.1} | adam}
    whole["zero_optimization"] |= config.pop("zero_optimization", {})
    parameters = None if client else list(model.parameters())
    return deepspeed.initialize(model=model, model_parameters=parameters, optimizer=client, config=whole | config)[0]


def step(engine, value=1.0):
    dtype = next(engine.module.parameters()).dtype
    engine.backward(engine(torch.full((1, SIZE), value, dtype=dtype)).float().sum())
    engine.step()


def weights(engine):
    import deepspeed

    parameters = list(engine.module.parameters())
    with deepspeed.zero.GatheredParameters([each for each in parameters if hasattr(each, "ds_id")]):
        return torch.cat([each.detach().double().flatten() for each in parameters])


def auto_outside_the_trainer():
    """What is in force where a block says "auto": the precision, the bucket, the stage."""
    engine = engine_of(2, bf16={"enabled": "auto"}, zero_optimization={"reduce_bucket_size": "auto"})
    found = [str(engine.get_data_types()[0]), engine.zero_reduce_bucket_size()]
    engine.destroy()
    engine = engine_of("auto")
    found.append(int(engine.zero_optimization_stage()))
    engine.destroy()
    return found


def no_precision_block(stages):
    """{stage: (dtype of the weights, what the engine says, dtype that the optimizer updates)} of a bf16 model."""
    found = {}
    for stage in stages:
        engine = engine_of(stage, torch.nn.Linear(SIZE, SIZE, bias=False).bfloat16())
        updated = engine.basic_optimizer.param_groups[0]["params"]
        masters = getattr(engine.optimizer, "fp32_partitioned_groups_flat", updated)
        found[stage] = tuple(
            str(each) for each in (next(engine.module.parameters()).dtype, engine.get_data_types()[0], masters[0].dtype)
        )
        engine.destroy()
    return found


def told_late():
    """The errors of an engine whose optimizer, and whose scheduler, has a mistyped type."""
    wrong = {"optimizer": {"type": "AdamWW", "params": {}}}, {"scheduler": {"type": "WarmupL", "params": {}}}
    return [sentence_of(engine_of, 1, **block) for block in wrong]


def checkpointing_after_initialize():
    """Whether deepspeed.checkpointing was set up by an engine whose config has the block for it."""
    import deepspeed

    engine = engine_of(1, activation_checkpointing={"partition_activations": True, "number_checkpoints": 2})
    found = bool(deepspeed.checkpointing.is_configured())
    engine.destroy()
    return found


def infinite_gradient(stages, precisions):
    """{(stage, precision): (whether the update was applied, whether the weights are still numbers)}."""
    found = {}
    for stage in stages:
        for precision in precisions:
            engine = engine_of(stage, **({} if precision == "fp32" else {precision: {"enabled": True}}))
            step(engine, float("inf"))
            found[stage, precision] = bool(engine.was_step_applied()), bool(weights(engine).isfinite().all())
            engine.destroy()
    return found


def gradient_norms(stages, precisions):
    """{(stage, precision): whether get_global_grad_norm gives a number} after one step without clipping."""
    found = {}
    for stage in stages:
        for precision in precisions:
            engine = engine_of(stage, **({} if precision == "fp32" else {precision: {"enabled": True}}))
            step(engine)
            found[stage, precision] = engine.get_global_grad_norm() is not None
            engine.destroy()
    return found


def buffers_after_initialize(stages):
    """{stage: (this rank's sum of the weights, of the buffers)} of a model that each rank seeds by itself."""
    import torch.distributed as dist

    found = {}
    for stage in stages:
        torch.manual_seed(dist.get_rank())
        model = torch.nn.Sequential(torch.nn.Linear(SIZE, SIZE), torch.nn.BatchNorm1d(SIZE))
        model[1].running_mean.fill_(dist.get_rank() + 1)
        engine = engine_of(stage, model)
        found[stage] = float(weights(engine).sum()), float(model[1].running_mean.sum())
        engine.destroy()
    return found


def without_optimizer(stages):
    """{stage: what comes of an engine without any optimizer: the kind of its own one, or the error}."""
    found = {}
    for stage in stages:
        try:
            engine = engine_of(stage, adam=None)
            engine(torch.ones(1, SIZE))
            found[stage] = type(engine.optimizer).__name__
            engine.destroy()
        except Exception as error:
            found[stage] = str(error)
    return found


@contextlib.contextmanager
def fp16_allowed():
    """A processor that is told to compute in fp16, although it is slow at it."""
    from deepspeed.accelerator import get_accelerator

    with mock.patch.object(get_accelerator(), "is_fp16_supported", lambda: True):
        yield


def sentence_of(function, *given, **named):
    """What a call returns, or its error's class and text."""
    try:
        return function(*given, **named)
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def direct_backward(stages, precision):
    """{stage: (what loss.backward() does, what engine.scale(loss).backward() does)}."""
    found = {}
    with fp16_allowed():
        for stage in stages:
            block = {} if precision == "fp32" else {precision: {"enabled": True}}
            outcomes = []
            for scaled in (False, True):
                engine = engine_of(stage, **block)
                dtype = next(engine.module.parameters()).dtype
                loss = engine(torch.ones(1, SIZE, dtype=dtype)).float().sum()
                outcomes.append(sentence_of((engine.scale(loss) if scaled else loss).backward) or "works")
                engine.destroy()
            found[stage] = tuple(outcomes)
    return found


def endless_overflow():
    """The error of fp16 training whose gradients overflow in every step."""
    with fp16_allowed():
        engine = engine_of(2, fp16={"enabled": True, "initial_scale_power": 1, "hysteresis": 1})
        try:
            for steps in range(10):
                error = sentence_of(step, engine, float("inf"))
                if error:
                    return steps, error
        finally:
            engine.destroy()


def pairs_of_stages(folder):
    """{(saved at, loaded at): "loads", or the error} of all pairs of two stages, with the weights compared."""
    saved = {}
    for stage in range(4):
        torch.manual_seed(stage)
        engine = engine_of(stage)
        step(engine)
        saved[stage] = weights(engine)
        engine.save_checkpoint(f"{folder}/{stage}")
        engine.destroy()
    found = {}
    for before in range(4):
        for after in range(4):
            torch.manual_seed(9)
            engine = engine_of(after)
            said = sentence_of(engine.load_checkpoint, f"{folder}/{before}")
            same = not isinstance(said, str) and torch.equal(weights(engine), saved[before])
            found[before, after] = "loads" if same else said
            engine.destroy()
    return found


def weights_of_a_tag(folder):
    """Which step's weights load_optimizer_states=False gives at stages 1 to 3, where the tag of step 1 is asked for.

    Returns ({stage: [steps]}, what the same call says at stage 3 once the file `latest` is gone).
    """
    found = {}
    for stage in (1, 2, 3):
        engine, sums = engine_of(stage), {}
        for number in (1, 2):
            step(engine)
            sums[number] = weights(engine)
            engine.save_checkpoint(f"{folder}/{stage}")
        engine.destroy()
        engine = engine_of(stage)
        engine.load_checkpoint(f"{folder}/{stage}", tag="global_step1", load_optimizer_states=False)
        found[stage] = [number for number in sums if torch.equal(sums[number], weights(engine))]
        if stage < 3:
            engine.destroy()
    torch.distributed.barrier()
    Path(folder, "3", "latest").unlink(missing_ok=True)
    torch.distributed.barrier()
    given = {"tag": "global_step1", "load_optimizer_states": False}
    without = sentence_of(engine.load_checkpoint, f"{folder}/3", **given)
    engine.destroy()
    return found, str(without)


def host_bytes_of_offload(stages, accumulations):
    """{(stage, accumulation): what CPU offload in bf16 keeps on the host beside masters, states and fp32 gradients}.

    "returning": bytes of the buffer for the parameters on their way back, and whether it equals this rank's 16-bit
    parameters; "summed": bytes of the sums of gradients; "sums", "fp32": how often a step copies the gradient of its
    one tensor to such a sum, and to fp32.
    """
    found = {}
    for stage in stages:
        for accumulation in accumulations:
            zero = {"offload_optimizer": {"device": "cpu"}}
            engine = engine_of(
                stage, bf16={"enabled": True}, gradient_accumulation_steps=accumulation, zero_optimization=zero
            )
            zero = engine.optimizer
            for _ in range(accumulation):
                step(engine)
            with (
                mock.patch.object(
                    zero, "async_accumulate_grad_in_cpu_via_gpu", wraps=zero.async_accumulate_grad_in_cpu_via_gpu
                ) as sums,
                mock.patch.object(
                    zero,
                    "async_inplace_copy_grad_to_fp32_buffer_from_gpu",
                    wraps=zero.async_inplace_copy_grad_to_fp32_buffer_from_gpu,
                ) as fp32,
            ):
                for _ in range(accumulation):
                    step(engine)
            buffer = zero.param_buffer_of_bit16_for_cpu_offload_groups[0]
            mine = zero.parallel_partitioned_bit16_groups[0][torch.distributed.get_rank()]
            found[stage, accumulation] = {
                "returning": (buffer.nbytes, bool(torch.equal(buffer, mine))),
                "summed": sum(each.nbytes for each in zero.accumulated_grads_in_cpu.values()),
                "sums": sums.call_count,
                "fp32": fp32.call_count,
            }
            engine.destroy()
    return found


def buckets(stages, configs):
    """{(stage, name): bytes of the gradients' buckets in the backward pass} for blocks of zero_optimization."""
    found = {}
    for stage in stages:
        for name, block in configs.items():
            layers = torch.nn.Sequential(torch.nn.Linear(SIZE, SIZE), torch.nn.Linear(SIZE, SIZE))
            engine = engine_of(stage, layers, zero_optimization=block)
            zero, seen = engine.optimizer, []

            def held(zero=zero):
                buffers = [each.buffer for each in zero.ipg_buckets.values() if each.buffer is not None]
                lists = [each if isinstance(each, list) else [each] for each in buffers]
                return sum(each.nbytes for several in lists for each in several)

            layers[0].weight.register_hook(lambda _, held=held, seen=seen: seen.append(held()))
            step(engine)
            found[stage, name] = max(seen)
            engine.destroy()
    return found


def gathers_after_the_step(stages, groups):
    """{(stage, number of parameter groups): all-gathers of a step} at stages 1 and 2."""
    from deepspeed.comm import comm
    from deepspeed.utils.comms_logging import CommsLogger

    found = {}
    for stage in stages:
        for count in groups:
            model = torch.nn.Sequential(*(torch.nn.Linear(SIZE, SIZE, bias=False) for _ in range(4)))
            every = list(model.parameters())
            optimizer = torch.optim.AdamW([{"params": every[number::count]} for number in range(count)], lr=1e-3)
            engine, names = engine_of(stage, model, optimizer), []
            logger = CommsLogger()
            logger.enabled = logger.prof_all = True
            logger.append = lambda _function, name, _seconds, _size, names=names: names.append(name)
            with mock.patch.object(comm, "comms_logger", logger):
                step(engine)
            found[stage, count] = sum("all_gather" in name for name in names)
            engine.destroy()
    return found


def client_optimizers_with_offload(stages):
    """{(stage, optimizer): "accepted" or the error} of optimizers of one's own together with CPU offload."""
    from deepspeed.ops.adam import DeepSpeedCPUAdam

    found = {}
    for stage in stages:
        for kind in (torch.optim.AdamW, DeepSpeedCPUAdam):
            model = torch.nn.Linear(SIZE, SIZE, bias=False)
            zero = {"offload_optimizer": {"device": "cpu"}}
            mine = kind(model.parameters(), lr=1e-3)
            made = sentence_of(engine_of, stage, model, mine, zero_optimization=zero)
            found[stage, kind.__name__] = made if isinstance(made, str) else "accepted"
            if not isinstance(made, str):
                made.destroy()
    return found


def adam_under(stages, blocks, torch_adam):
    """{(stage, name): the class of the Adam that steps} for offload blocks."""
    found = {}
    for stage in stages:
        for name, block in blocks.items():
            engine = engine_of(stage, adam={"torch_adam": torch_adam}, zero_optimization=block)
            found[stage, name] = type(engine.basic_optimizer).__name__
            engine.destroy()
    return found


def printed_by_steps(log_level):
    """What DeepSpeed's logger writes in two steps with steps_per_print 1."""
    import logging

    from deepspeed.utils import logger

    written = io.StringIO()
    handler = logging.StreamHandler(written)
    level = logger.level
    logger.addHandler(handler)
    try:
        engine = engine_of(1, steps_per_print=1, **({"log_level": log_level} if log_level else {}))
        for _ in range(2):
            step(engine)
        engine.destroy()
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    return written.getvalue()


def moved_by_a_window(stages):
    """{(stage, call): how far a weight with gradients 1 and 3 moves in a window of two micro-batches, SGD at lr 1}."""
    calls = {
        "engine.backward(loss)": lambda engine, loss: engine.backward(loss),
        "loss.backward()": lambda _, loss: loss.backward(),
        "(loss / 2).backward()": lambda _, loss: (loss / 2).backward(),
    }
    found = {}
    for stage in stages:
        for name, call in calls.items():
            model = torch.nn.Linear(1, 1, bias=False)
            torch.nn.init.zeros_(model.weight)
            client = torch.optim.SGD(model.parameters(), lr=1.0)
            engine = engine_of(stage, model, client, gradient_accumulation_steps=2)
            for gradient in (1.0, 3.0):
                call(engine, engine(torch.full((1, 1), gradient)).sum())
                engine.step()
            found[stage, name] = -float(weights(engine)[0])
            engine.destroy()
    return found
