"""The exercises of lab 03 on accumulated and clipped gradients: when they are applied, added up, and cut."""

import copy
import re
from functools import cache, partial

from labsupport.judging import (
    Exercise,
    Mistake,
    Mistaken,
    Unusable,
    call,
    describe,
    first_line,
    parsed_by_deepspeed,
    require_dict,
    require_number,
)
from labsupport.training_checks import all_near, near, running_engine, sgd_config, watch_calls, zero_block

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


LOOP = "def accumulate(engine, losses):\n"

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
    mistakes={
        "one step at the end": Mistake(
            "Nothing moved. The engine counts the calls of `step`: after one call of two, the window is still open "
            "for it.",
            (LOOP + "    for loss in losses:\n        engine.backward(loss)\n    engine.step()",),
            "Which call has to run twice?",
        ),
        "one step at the start": Mistake(
            "Nothing moved. You call `step` after the first backward pass only: the engine takes it for the first of "
            "two micro-batches, and the second is not reported to it.",
            (
                LOOP + "    for number, loss in enumerate(losses):\n        engine.backward(loss)\n"
                "        if number == 0:\n            engine.step()",
            ),
        ),
        "asks the boundary": Mistake(
            "Nothing moved: `engine.step` was never called. The engine counts micro-batches in `step`, so a loop that "
            "calls it only where `is_gradient_accumulation_boundary()` is true waits for a count that it stops itself.",
            (
                LOOP
                + """    for loss in losses:
        engine.backward(loss)
        if engine.is_gradient_accumulation_boundary():
            engine.step()""",
            ),
        ),
        "no step": Mistake(
            "Nothing moved, because `engine.step` was not called: `backward` updates nothing.",
            (LOOP + "    for loss in losses:\n        engine.backward(loss)",),
        ),
        "one backward": Mistake(
            "Nothing moved. One backward pass on all the losses together is one micro-batch for the engine, and the "
            "config asks for two. It would also keep every forward pass in memory, which accumulation is there to "
            "avoid.",
            (
                LOOP + "    engine.backward(sum(losses))\n    engine.step()",
                LOOP + "    engine.backward(sum(losses) / 2)\n    engine.step()",
            ),
        ),
        "steps afterwards": Mistake(
            "Calling `step` twice after the last backward pass makes the count right, and comes too late: stages 1 "
            "and 2 prepare the update in the backward pass that closes the window, and no backward pass did.",
            (LOOP + "    for loss in losses:\n        engine.backward(loss)\n    engine.step()\n    engine.step()",),
        ),
        "divided twice": Mistake(
            "The weight moved by {said}, half of the mean {mean}: `engine.backward` divides by the accumulation steps "
            "of the config, and you do it once more.",
            (LOOP + "    for loss in losses:\n        engine.backward(loss / 2)\n        engine.step()",),
        ),
        "not divided": Mistake(
            "At stage {stage} the weight moved by {said}, the sum over the micro-batches; the mean is {mean}. With "
            "`scale_wrt_gas=False` the engine does not divide by the accumulation steps.",
            (
                LOOP + "    for loss in losses:\n        engine.backward(loss, scale_wrt_gas=False)\n"
                "        engine.step()",
            ),
        ),
        "an update each": Mistake(
            "Two windows made {updates} updates: every micro-batch was declared the last of its window. With plain "
            "SGD the sum of two half updates is the same; with Adam, or with a scheduler, it is not.",
            (
                LOOP + "    engine.set_gradient_accumulation_boundary(True)\n    for loss in losses:\n"
                "        engine.backward(loss)\n        engine.step()",
            ),
        ),
        "every backward a boundary": Mistake(
            "At stage {stage} the first gradient was lost: you declared every backward pass the last of its window, "
            "and stages 1 and 2 begin a new window with empty gradients.",
            (
                LOOP + "    engine.set_gradient_accumulation_boundary(True)\n    for loss in losses:\n"
                "        engine.backward(loss)\n    engine.step()",
            ),
            "The override has to be False for all but the last; the loop that needs no override is shorter.",
        ),
        "all forward passes first": Mistake(
            "At stage 3 the weight moved by {said} instead of {mean}: you ran both forward passes before the first "
            "backward pass, and one gradient was lost. Take one loss at a time, as the generator gives them.",
            (
                LOOP + "    for loss in list(losses):\n        engine.backward(loss)\n        engine.step()",
                LOOP + "    first, second = losses\n    engine.set_gradient_accumulation_boundary(False)\n"
                "    engine.backward(first)\n    engine.set_gradient_accumulation_boundary(True)\n"
                "    engine.backward(second)\n    engine.step()",
            ),
        ),
        "no_sync": Mistake(
            "`no_sync` puts off the averaging of gradients, and stages 2 and 3 refuse it: they give each gradient "
            "away as soon as it is there.",
            (
                LOOP + "    with engine.no_sync():\n        for loss in losses:\n            engine.backward(loss)\n"
                "    engine.step()",
            ),
        ),
        "plain backward": Mistake(
            "At stage 0 DeepSpeed refuses `loss.backward()`: call `engine.backward(loss)`.",
            (LOOP + "    for loss in losses:\n        loss.backward()\n        engine.step()",),
        ),
    },
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


def _table(first="[5, 5, 5, 5]", end="[0, 0, 0, 0]", one="[10, 7, 7, 10]", unmanaged="[5, 5, 5, 5]"):
    """Return the source of a table in which all rows that are not named are right."""
    return (
        f'moved = {{"step every time": {first}, "step at the end": {end}, '
        f'"accumulation 1": {one}, "unmanaged": {unmanaged}}}'
    )


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
    mistakes={
        "nobody divides": Mistake(
            '"step every time": you take the sum. With accumulation 2 in the config, `engine.backward` divides each '
            "loss "
            "by 2, so that the weight moves by the mean.",
            (_table(first="[10, 10, 10, 10]"),),
        ),
        "window never closed": Mistake(
            '"step at the end", stage {stage}: you say {said}, and the weight moves by {moved}. The engine counts the '
            "calls "
            "of `step`: after one of two the window is open, whatever the number of backward passes.",
            (_table(end="[5, 5, 5, 5]"), _table(end="[10, 7, 7, 10]"), _table(end="[7, 7, 7, 7]")),
        ),
        "divided without being asked": Mistake(
            '"accumulation 1": you take the mean. The engine divides by the accumulation steps of the config, and '
            "they are "
            "1 here: nobody divides by the number of your backward passes.",
            (_table(one="[5, 5, 5, 5]"),),
        ),
        "added at every stage": Mistake(
            '"accumulation 1": you take the sum at every stage. Stages 1 and 2 keep gradients apart from the '
            "parameters, "
            "and begin every window with empty ones: with accumulation 1 every backward pass is a window.",
            (_table(one="[10, 10, 10, 10]"),),
        ),
        "lost at every stage": Mistake(
            '"accumulation 1": you lose the first gradient at every stage. Only stages 1 and 2 begin each window with '
            "empty gradients; stages 0 and 3 add to what is there.",
            (_table(one="[7, 7, 7, 7]"),),
        ),
        "stages exchanged": Mistake(
            '"accumulation 1": you have exchanged the stages. 1 and 2 share a class, and that class begins each window '
            "with empty gradients; 0 and 3 add to what is there.",
            (_table(one="[7, 10, 10, 7]"),),
        ),
        "unmanaged divides twice": Mistake(
            '"unmanaged": you divide twice. With managed_gradient_accumulation false and `scale_wrt_gas=False` the '
            "engine "
            "does not divide, so that only the `loss / 2` of the loop counts.",
            (_table(unmanaged="[2.5, 2.5, 2.5, 2.5]"),),
        ),
        "unmanaged does not divide": Mistake(
            '"unmanaged": you take the sum. The engine indeed does not divide, but the loop does: `loss / 2`.',
            (_table(unmanaged="[10, 10, 10, 10]"),),
        ),
        "unmanaged waits": Mistake(
            '"unmanaged": you expect no update. With managed_gradient_accumulation false the engine counts nothing, '
            "and "
            "every `step` updates.",
            (_table(unmanaged="[0, 0, 0, 0]"),),
        ),
        "another number": Mistake(
            '"{pattern}", stage {stage}: you say {said}, and the weight moves by {moved}.',
            (
                _table(first="[5, 5, 5, 10]"),
                _table(one="[5, 3.5, 3.5, 5]"),
                _table(unmanaged="[5, 3.5, 3.5, 5]"),
            ),
            "Ask for each pattern: who divides, and how many windows does the engine see?",
        ),
    },
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


def _update_norm(body):
    return f"def update_norm(gradient_norm, config):\n    {body}"


CLIPPING_EXERCISE = Exercise(
    id="03-clipping",
    title="How long the update is",
    difficulty=2,
    minutes=6,
    target="your lengths are those of a real engine, for five ways to write the config and three norms",
    answer="update_norm",
    check=_clipping,
    seconds=30,
    mistakes={
        "left out means off": Mistake(
            "You take a config without `gradient_clipping` for one without clipping. DeepSpeed 0.19.8 clips at 1.0 "
            "where the key is left out.",
            (
                _update_norm(
                    'limit = config.get("gradient_clipping", 0.0)\n'
                    "    return min(gradient_norm, limit) if limit else gradient_norm"
                ),
            ),
            "Lab 01 measured this.",
        ),
        "zero means left out": Mistake(
            "You take 0.0 for a key that was left out. 0.0 turns clipping off; left out means 1.0.",
            (_update_norm('return min(gradient_norm, config.get("gradient_clipping") or 1.0)'),),
            "`or` takes 0.0 for nothing.",
        ),
        "zero stops": Mistake(
            "You clip at 0.0 as at any other limit, and nothing would ever move. In DeepSpeed 0.0 turns clipping off.",
            (_update_norm('return min(gradient_norm, config.get("gradient_clipping", 1.0))'),),
        ),
        "always one": Mistake(
            "You clip at 1.0 whatever the config says: that is the value where it says nothing.",
            (_update_norm("return min(gradient_norm, 1.0)"),),
        ),
        "no clipping": Mistake(
            "You return the norm before clipping. `engine.get_global_grad_norm()` reports that one; the update is made "
            "with the clipped gradient.",
            (_update_norm("return gradient_norm"),),
        ),
        "always as long as the limit": Mistake(
            "You make every gradient as long as the limit. Clipping shortens what is longer, and leaves the rest as "
            "it is.",
            (_update_norm('return config.get("gradient_clipping", 1.0) or gradient_norm'),),
        ),
        "the factor": Mistake(
            "You return the factor that the gradient is multiplied by. The update is that factor times the norm.",
            (
                _update_norm(
                    'limit = config.get("gradient_clipping", 1.0)\n'
                    "    return min(1.0, limit / gradient_norm) if limit else 1.0"
                ),
            ),
        ),
        "another length": Mistake(
            "Gradient norm {norm}, gradient_clipping {limit}: you return {said}, and the engine's update is "
            "{measured} long.",
            (
                _update_norm('return gradient_norm / max(1.0, config.get("gradient_clipping", 1.0))'),
                _update_norm(
                    'limit = config.get("gradient_clipping", 1.0)\n'
                    "    return gradient_norm if gradient_norm < limit else 0.0"
                ),
            ),
        ),
    },
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


def _bf16_source(**more):
    """Return the source of a wrong config: the right one without data_types, and with what is given."""
    config = {
        "train_micro_batch_size_per_gpu": 2,
        "gradient_accumulation_steps": 16,
        "bf16": {"enabled": True},
        "zero_optimization": {"stage": 2},
    } | more
    return f"bf16_config = {config!r}"


FP32_SUM = {"grad_accum_dtype": "fp32"}
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
    mistakes={
        "the model's format": Mistake(
            "DeepSpeed adds gradients up in the format of the model where nothing else is said. In bf16 one gradient "
            "of 1 and 15 of 1/512 gave {total}; exact is {exact}.",
            (_bf16_source(), _bf16_source(gradient_clipping=0.0)),
        ),
        "another format": Mistake(
            'grad_accum_dtype "{said}" is not enough: one gradient of 1 and 15 of 1/512 gave {total}; exact is '
            "{exact}.",
            (_bf16_source(data_types={"grad_accum_dtype": "bf16"}),),
        ),
        "in a block that refuses it": Mistake(
            'The key stands in a block that does not know it. DeepSpeed reads it in a block of its own, "data_types", '
            "at "
            "the top level. {error}",
            (
                _bf16_source(zero_optimization={"stage": 2} | FP32_SUM),
                _bf16_source(zero_optimization={"stage": 2, "data_types": FP32_SUM}),
                _bf16_source(bf16={"enabled": True} | FP32_SUM),
            ),
        ),
        "ignored": Mistake(
            'DeepSpeed ignores "{key}" without a word: it knows no such key in that place. One gradient of 1 and 15 of '
            "1/512 still gave {total}; exact is {exact}.",
            (
                _bf16_source(grad_accum_dtype="fp32"),
                _bf16_source(data_types={"grad_accumulation_dtype": "fp32"}),
                _bf16_source(data_types={"grad_dtype": "fp32"}),
                _bf16_source(data_type=FP32_SUM),
            ),
        ),
        "the format of communication": Mistake(
            "communication_data_type is the format in which gradients travel between the ranks. Between the "
            "micro-batches they are still added up in bf16: {total} instead of {exact}.",
            (_bf16_source(communication_data_type="fp32"),),
        ),
        "weights not in bf16": Mistake(
            "The weights are not in bf16 under this config. Without it everything is added up in fp32, at twice the "
            "memory for weights; the task is to keep bf16 and change the sum alone.",
            (
                _bf16_source(bf16={"enabled": False}, data_types=FP32_SUM),
                _bf16_source(bf16={}),
            ),
        ),
        "another stage": Mistake(
            "DeepSpeed reads stage {stage} in this config; the task is stage 2.",
            (_bf16_source(zero_optimization={"stage": 1}, data_types=FP32_SUM),),
        ),
        "another window": Mistake(
            "DeepSpeed reads {steps} accumulation steps in this config; the task is 16.",
            (
                _bf16_source(gradient_accumulation_steps=1, data_types=FP32_SUM),
                """bf16_config = {
    "train_batch_size": 16, "bf16": {"enabled": True}, "zero_optimization": {"stage": 2},
    "data_types": {"grad_accum_dtype": "fp32"},
}""",
            ),
        ),
    },
)
