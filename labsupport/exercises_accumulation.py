"""The exercises of lab 03 on accumulated and clipped gradients: when they are applied, added up, and cut."""

import copy
import re
from functools import cache, partial

from labsupport import mistakes_accumulation as mistakes
from labsupport.exercises.answers import call, describe, parsed_by_deepspeed, require_dict, require_number
from labsupport.exercises.exercise import Exercise, Mistaken, Unusable
from labsupport.training_checks import all_near, near, running_engine, sgd_config, watch_calls, zero_block
from labsupport.wording import first_line

GRADIENTS = (((3.0, 7.0), (5.0, 13.0)), ((1.0, 4.0), (2.0, 1.0)))  # of two windows, each for rank 0 and for rank 1


def _one_weight():
    """Return the lab's model: a weight that starts at 0, and whose gradient is the number that it is given."""
    import torch

    class OneWeight(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def forward(self, gradient):
            return (self.weight * gradient).sum()

    return OneWeight()


def _moved(engine):
    """Return how far the weight is from 0, in the direction of a positive gradient."""
    import deepspeed

    with deepspeed.zero.GatheredParameters([engine.module.weight]):
        return 0.0 - engine.module.weight.item()


def _losses(engine, gradients, calls):
    """Yield one loss after another: each forward pass runs when its loss is asked for."""
    import torch

    for gradient in gradients:
        calls.append("forward")
        yield engine(torch.tensor([gradient]))


def _accumulate(answer):
    for stage in (2, 0, 1, 3):
        with running_engine(_one_weight(), sgd_config(stage, accumulation=2)) as engine:
            calls, before = watch_calls(engine), 0.0
            for window in GRADIENTS:
                calls.clear()
                try:
                    call(answer, engine, _losses(engine, window[engine.global_rank], calls))
                except Unusable as problem:
                    _explain_window(problem, calls)
                now, updates = _moved(engine), engine.global_steps
                _judge_window(stage, window, now - before, calls)
                before = now
            if updates != len(GRADIENTS):
                raise Mistaken("an update each", updates=updates)


def _explain_window(problem, calls):
    if "no_sync" in str(problem.error):
        raise Mistaken("no_sync") from problem
    if calls[-2:] == ["step", "step"]:
        raise Mistaken("steps afterwards") from problem
    if "Direct calls to tensor.backward()" in str(problem.error):
        raise Mistaken("plain backward") from problem
    raise problem


def _judge_window(stage, window, moved, calls):
    """Raise unless the weight moved by the mean of the gradients of both ranks."""
    mean = sum(map(sum, window)) / 4
    if near(moved, mean):
        return
    if moved == 0:
        raise Mistaken(_why_nothing_moved([each for each in calls if each in ("backward", "step", "boundary?")]))
    if near(moved, mean / 2):
        raise Mistaken("divided twice", said=f"{moved:g}", mean=f"{mean:g}")
    if calls[:2] == ["forward", "forward"] and stage == 3:
        raise Mistaken("all forward passes first", said=f"{moved:g}", mean=f"{mean:g}")
    if "boundary" in calls and near(moved, sum(of_rank[-1] for of_rank in window) / 4):
        raise Mistaken("every backward a boundary", stage=stage)
    if near(moved, mean * 2):
        raise Mistaken("not divided", stage=stage, said=f"{moved:g}", mean=f"{mean:g}")
    raise Unusable(f"At stage {stage} the weight moved by {moved:.4g}; the mean of the gradients is {mean:g}.")


def _why_nothing_moved(calls):
    if "step" not in calls:
        return "asks the boundary" if "boundary?" in calls else "no step"
    if calls.count("backward") == 1:
        return "one backward"
    return "one step at the end" if calls[-1] == "step" else "one step at the start"


ACCUMULATE = Exercise(
    id="03-accumulate",
    title="Mend the loop",
    difficulty=2,
    minutes=6,
    target="the weight moves by the mean of all gradients at stages 0, 1, 2 and 3, in one update for each window",
    answer="accumulate",
    check=_accumulate,
    ranks=2,
    seconds=30,
    mistakes=mistakes.ACCUMULATE,
)

PATTERNS = ("step every time", "step at the end", "accumulation 1", "unmanaged")
PREDICTED = (3.0, 7.0)  # the gradients of the two micro-batches, on both ranks
ON_AVERAGE, SUM = [5.0] * 4, [10.0] * 4
# What is believed of a pattern, by the misunderstanding: the distances at stages 0 to 3.
PATTERN_BELIEFS = (
    ("step every time", "nobody divides", SUM),
    ("accumulation 1", "divided without being asked", ON_AVERAGE),
    ("accumulation 1", "added at every stage", SUM),
    ("accumulation 1", "lost at every stage", [7.0] * 4),
    ("accumulation 1", "stages exchanged", [7.0, 10.0, 10.0, 7.0]),
    ("unmanaged", "unmanaged divides twice", [2.5] * 4),
    ("unmanaged", "unmanaged does not divide", SUM),
    ("unmanaged", "unmanaged waits", [0.0] * 4),
)


def _four_patterns(answer):
    said = {pattern: _four_numbers(answer, pattern) for pattern in PATTERNS}
    measured = _measured_patterns()
    for pattern in PATTERNS:
        if all_near(said[pattern], measured[pattern]):
            continue
        for of_pattern, name, distances in PATTERN_BELIEFS:
            if of_pattern == pattern and all_near(said[pattern], distances):
                raise Mistaken(name)
        stage = next(s for s in range(4) if not near(said[pattern][s], measured[pattern][s]))
        name = "window never closed" if pattern == "step at the end" else "another number"
        values = {"said": f"{said[pattern][stage]:g}", "moved": f"{measured[pattern][stage]:g}"}
        raise Mistaken(name, pattern=pattern, stage=stage, **values)
    return "Measured: " + "; ".join(f"{name} {_written(measured[name])}" for name in PATTERNS) + "."


def _written(distances):
    return ", ".join(f"{distance:g}" for distance in distances)


def _four_numbers(answer, pattern):
    require_dict(answer, "The table")
    row = answer.get(pattern)
    if not isinstance(row, list | tuple) or len(row) != 4:
        raise Unusable(f'The row "{pattern}" is {describe(row)}: give a list of four numbers, for stages 0 to 3.')
    return [require_number(each, f'A number in the row "{pattern}"') for each in row]


@cache
def _measured_patterns():
    """Return how far the weight really moves: {pattern: distances at stages 0 to 3}, measured on live engines."""
    unmanaged = {"managed_gradient_accumulation": False}
    loops = {
        "step every time": ({"accumulation": 2}, partial(_run_loop, step_each=True)),
        "step at the end": ({"accumulation": 2}, _run_loop),
        "accumulation 1": ({"accumulation": 1}, _run_loop),
        "unmanaged": ({"accumulation": 1} | unmanaged, partial(_run_loop, divisor=2, scale_wrt_gas=False)),
    }
    return {
        pattern: [_distance(sgd_config(stage, **settings), loop) for stage in range(4)]
        for pattern, (settings, loop) in loops.items()
    }


def _run_loop(engine, losses, step_each=False, divisor=1, **named):
    for loss in losses:
        engine.backward(loss / divisor, **named)
        if step_each:
            engine.step()
    if not step_each:
        engine.step()


def _distance(config, loop):
    with running_engine(_one_weight(), config) as engine:
        loop(engine, _losses(engine, PREDICTED, []))
        return _moved(engine)


FOUR_PATTERNS = Exercise(
    id="03-four-patterns",
    title="Four loops, four stages",
    difficulty=3,
    minutes=8,
    target="your sixteen numbers are those that engines of two ranks give",
    answer="moved",
    check=_four_patterns,
    ranks=2,
    seconds=30,
    mistakes=mistakes.FOUR_PATTERNS,
)

CLIPPING = {"left out": {}, "0.0": {"gradient_clipping": 0.0}} | {
    str(limit): {"gradient_clipping": limit} for limit in (1.0, 0.5, 5.0)
}
NORMS = (0.25, 3.0, 20.0)


def _limit(config):
    return config.get("gradient_clipping", 1.0)


# What the update's length is believed to be, by the misunderstanding: from the gradient's norm and the config.
CLIPPING_BELIEFS = {
    "left out means off": lambda norm, config: min(norm, config.get("gradient_clipping") or float("inf")),
    "zero means left out": lambda norm, config: min(norm, config.get("gradient_clipping") or 1.0),
    "always one": lambda norm, config: min(norm, 1.0),
    "no clipping": lambda norm, config: norm,
    "zero stops": lambda norm, config: min(norm, _limit(config)),
    "always as long as the limit": lambda norm, config: _limit(config) or norm,
    "the factor": lambda norm, config: min(1.0, _limit(config) / norm) if _limit(config) else 1.0,
}


def _clipping(answer):
    measured = {(norm, name): _measured_update(name)[norm] for name in CLIPPING for norm in NORMS}
    said = {
        (norm, name): require_number(call(answer, norm, _clipping_config(name)), "What your function returned")
        for norm, name in measured
    }
    if all_near(said.values(), measured.values()):
        return
    for belief, length in CLIPPING_BELIEFS.items():
        if all_near(said.values(), [length(norm, CLIPPING[name]) for norm, name in measured]):
            raise Mistaken(belief)
    norm, name = next(case for case in measured if not near(said[case], measured[case]))
    values = {"said": f"{said[norm, name]:.4g}", "measured": f"{measured[norm, name]:.4g}"}
    raise Mistaken("another length", norm=f"{norm:g}", limit=name, **values)


def _clipping_config(name):
    config = sgd_config(2)
    del config["gradient_clipping"]
    return config | CLIPPING[name]


@cache
def _measured_update(name):
    """Return how long the update of a real engine is, for each of NORMS, under that way of clipping."""
    import torch

    updates = {}
    with running_engine(torch.nn.Linear(2, 1, bias=False), _clipping_config(name)) as engine:
        for norm in NORMS:
            before = engine.module.weight.detach().clone()
            engine.backward(engine(torch.tensor([[0.6 * norm, 0.8 * norm]])).sum())
            engine.step()
            updates[norm] = float((engine.module.weight.detach() - before).norm())
    return updates


CLIPPING_EXERCISE = Exercise(
    id="03-clipping",
    title="How long the update is",
    difficulty=2,
    minutes=6,
    target="your lengths are those of a real engine, for five ways to write the config and three norms",
    answer="update_norm",
    check=_clipping,
    seconds=30,
    mistakes=mistakes.CLIPPING_EXERCISE,
)

ACCUMULATION = 16
SMALL = 2.0**-9  # a gradient that bf16 loses beside 1: its steps there are 2**-7


def _bf16_accumulation(config):
    try:
        values = parsed_by_deepspeed(config, world_size=2)
    except Unusable as refused:
        if "Extra inputs are not permitted" in str(refused) and "accum" in str(config):
            raise Mistaken("in a block that refuses it", error=refused) from refused
        raise
    if not values.bfloat16_config.enabled:
        raise Mistaken("weights not in bf16")
    if int(values.zero_optimization_stage) != 2:
        raise Mistaken("another stage", stage=int(values.zero_optimization_stage))
    if values.gradient_accumulation_steps != ACCUMULATION:
        raise Mistaken("another window", steps=values.gradient_accumulation_steps)
    total = _added_up(config)
    exact = 1 + (ACCUMULATION - 1) * SMALL
    if near(total, exact):
        return f"The engine's sum of 1 and 15 times 1/512 was {total:.4f}; added up in bf16 it is 1.0000."
    lost = {"total": f"{total:.4f}", "exact": f"{exact:.4f}"}
    block = config.get("data_types") or {}
    if "grad_accum_dtype" in block:
        raise Mistaken("another format", said=str(block["grad_accum_dtype"]), **lost)
    if "communication_data_type" in config:
        raise Mistaken("the format of communication", **lost)
    if _keys_about_gradients(config):
        raise Mistaken("ignored", key=_keys_about_gradients(config)[0], **lost)
    raise Mistaken("the model's format", **lost)


def _keys_about_gradients(config):
    """Return the names, at the top level or in data_types, that look as if they said how gradients are added up."""
    names = [*config, *(config.get("data_types") or {})]
    known = ("gradient_accumulation_steps", "gradient_clipping", "gradient_predivide_factor", "prescale_gradients")
    return [name for name in names if name not in (*known, "data_types") and re.search("grad|accum|type", str(name))]


def _added_up(config):
    """Return the sum of 1 and 15 small gradients, as an engine with this config adds them up."""
    from deepspeed.utils import safe_get_full_fp32_param

    config = copy.deepcopy(config) | {"gradient_clipping": 0.0, "zero_allow_untested_optimizer": True}
    config |= {"optimizer": {"type": "SGD", "params": {"lr": 1.0}}}
    config.pop("scheduler", None)
    zero = config["zero_optimization"]
    zero |= zero_block(2)  # DeepSpeed's own buckets take a gigabyte
    for device in ("offload_optimizer", "offload_param"):
        zero.pop(device, None)
    try:
        with running_engine(_one_weight(), config) as engine:
            for gradient in [1.0] + [SMALL] * (ACCUMULATION - 1):
                engine.backward(engine(_bf16(gradient)))
                engine.step()
            return -ACCUMULATION * safe_get_full_fp32_param(engine.module.weight).item()
    except Exception as error:
        raise Unusable(f"deepspeed.initialize refuses this config: {first_line(error)}", error) from error


def _bf16(number):
    import torch

    return torch.tensor([number], dtype=torch.bfloat16)


BF16_ACCUMULATION = Exercise(
    id="03-bf16-accumulation",
    title="Small gradients over 16 micro-batches",
    difficulty=3,
    minutes=6,
    target="on two ranks at stage 2, with weights in bf16, 15 small gradients beside a large one are not lost",
    answer="bf16_config",
    check=_bf16_accumulation,
    ranks=2,
    seconds=30,
    mistakes=mistakes.BF16_ACCUMULATION,
)
