"""Exercise 03-accumulate: answers that are known to be wrong, by their mistake, and right ones."""

LOOP = "def accumulate(engine, losses):\n"

WRONG = {
    "one step at the end": (LOOP + "    for loss in losses:\n        engine.backward(loss)\n    engine.step()",),
    "one step at the start": (
        LOOP + "    for number, loss in enumerate(losses):\n        engine.backward(loss)\n"
        "        if number == 0:\n            engine.step()",
    ),
    "asks the boundary": (
        LOOP
        + """    for loss in losses:
        engine.backward(loss)
        if engine.is_gradient_accumulation_boundary():
            engine.step()""",
    ),
    "no step": (LOOP + "    for loss in losses:\n        engine.backward(loss)",),
    "one backward": (
        LOOP + "    engine.backward(sum(losses))\n    engine.step()",
        LOOP + "    engine.backward(sum(losses) / 2)\n    engine.step()",
    ),
    "steps afterwards": (
        LOOP + "    for loss in losses:\n        engine.backward(loss)\n    engine.step()\n    engine.step()",
    ),
    "divided twice": (LOOP + "    for loss in losses:\n        engine.backward(loss / 2)\n        engine.step()",),
    "not divided": (
        LOOP + "    for loss in losses:\n        engine.backward(loss, scale_wrt_gas=False)\n        engine.step()",
    ),
    "an update each": (
        LOOP + "    engine.set_gradient_accumulation_boundary(True)\n    for loss in losses:\n"
        "        engine.backward(loss)\n        engine.step()",
    ),
    "every backward a boundary": (
        LOOP + "    engine.set_gradient_accumulation_boundary(True)\n    for loss in losses:\n"
        "        engine.backward(loss)\n    engine.step()",
    ),
    "all forward passes first": (
        LOOP + "    for loss in list(losses):\n        engine.backward(loss)\n        engine.step()",
        LOOP + "    first, second = losses\n    engine.set_gradient_accumulation_boundary(False)\n"
        "    engine.backward(first)\n    engine.set_gradient_accumulation_boundary(True)\n"
        "    engine.backward(second)\n    engine.step()",
    ),
    "no_sync": (
        LOOP + "    with engine.no_sync():\n        for loss in losses:\n            engine.backward(loss)\n"
        "    engine.step()",
    ),
    "plain backward": (LOOP + "    for loss in losses:\n        loss.backward()\n        engine.step()",),
}

RIGHT = (
    """def accumulate(engine, losses):
    for number, loss in enumerate(losses):
        engine.set_gradient_accumulation_boundary(number == 1)
        engine.backward(loss)
    engine.step()""",
    """def accumulate(engine, losses):
    while (loss := next(losses, None)) is not None:
        engine.backward(loss)
        engine.step()""",
    """def accumulate(engine, losses):
    steps = engine.gradient_accumulation_steps()
    for loss in losses:
        engine.backward(loss / steps * 2)
        engine.step()""",
)
