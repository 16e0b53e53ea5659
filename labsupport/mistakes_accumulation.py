"""What readers get wrong in exercises_accumulation.py: what they are told, and answers that must be told it."""

from labsupport.exercises.exercise import Mistake

LOOP = "def accumulate(engine, losses):\n"

ACCUMULATE = {
    "one step at the end": Mistake(
        "Nothing moved. The engine counts the calls of `step`: after one call of two, the window is still open for it.",
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
        (LOOP + "    for loss in losses:\n        engine.backward(loss, scale_wrt_gas=False)\n        engine.step()",),
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
}


def _table(first="[5, 5, 5, 5]", end="[0, 0, 0, 0]", one="[10, 7, 7, 10]", unmanaged="[5, 5, 5, 5]"):
    """Return the source of a table in which all rows that are not named are right."""
    return (
        f'moved = {{"step every time": {first}, "step at the end": {end}, '
        f'"accumulation 1": {one}, "unmanaged": {unmanaged}}}'
    )


FOUR_PATTERNS = {
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
}


def _update_norm(body):
    return f"def update_norm(gradient_norm, config):\n    {body}"


CLIPPING_EXERCISE = {
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
        "You make every gradient as long as the limit. Clipping shortens what is longer, and leaves the rest as it is.",
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
}


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

BF16_ACCUMULATION = {
    "the model's format": Mistake(
        "DeepSpeed adds gradients up in the format of the model where nothing else is said. In bf16 one gradient "
        "of 1 and 15 of 1/512 gave {total}; exact is {exact}.",
        (_bf16_source(), _bf16_source(gradient_clipping=0.0)),
    ),
    "another format": Mistake(
        'grad_accum_dtype "{said}" is not enough: one gradient of 1 and 15 of 1/512 gave {total}; exact is {exact}.',
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
}
