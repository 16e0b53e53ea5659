"""Exercise 11-lora-layer: LoRA by hand."""

import contextlib

from labsupport.exercises.answers import call, describe
from labsupport.exercises.exercise import Exercise, Mistake, Mistaken, Unusable
from labsupport.exercises.lab_11_your_model.engines import apart, small_config, whole_weights
from labsupport.exercises.meeting import Meeting
from labsupport.wording import first_line

IN, HIDDEN, OUT = 12, 20, 6
RANK, ALPHA, STEPS = 4, 12, 3


def _lora_layer(answer):
    meeting = Meeting()
    meeting.WAIT_SECONDS = 20
    _judge_alone(meeting, answer)
    far = {}
    for stage in (2, 3):
        facts = meeting.facts(_trained(meeting, answer, stage))
        for fact in facts:
            if isinstance(fact, str):
                raise Unusable(f"Alone your layer runs; at stage {stage} training fails: {fact}.")
        if max(fact["base"] for fact in facts) > 1e-6:
            raise Mistaken("the base moves", stage=stage)
        far[stage] = max(fact["peft"] for fact in facts)
        if far[stage] > 1e-4:
            raise Mistaken("trains otherwise", stage=stage, off=f"{far[stage]:.2g}")
    return (
        f"After {STEPS} steps on two ranks no matrix is further from peft's than {far[2]:.1g} at stage 2 and "
        f"{far[3]:.1g} at stage 3."
    )


def _base():
    import torch

    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(IN, HIDDEN), torch.nn.Tanh(), torch.nn.Linear(HIDDEN, OUT))


def _with_answer(answer):
    """The small model with the reader's layers in it."""
    import torch

    model = _base()
    for number in (0, 2):
        torch.manual_seed(number)
        layer = call(answer, model[number], RANK, ALPHA)
        if not isinstance(layer, torch.nn.Module):
            raise Unusable(f"Your function returns {describe(layer)}: it has to be a torch.nn.Module.")
        model[number] = layer
    return model


def _shapes(number):
    wide, high = (IN, HIDDEN) if number == 0 else (HIDDEN, OUT)
    return {"lora_A": (RANK, wide), "lora_B": (high, RANK)}


def _matrices(model):
    """{peft's name: the reader's trained matrix}; raises where the trained parameters are not the two of each layer."""
    found = {}
    for number in (0, 2):
        trained = [p for p in model[number].parameters() if p.requires_grad]
        whole = [tuple(getattr(p, "ds_shape", p.shape)) for p in trained]
        base = tuple(_base()[number].weight.shape)
        if base in whole:
            raise Mistaken("the base is trained")
        if not trained:
            raise Mistaken("nothing to train")
        wanted = _shapes(number)
        if sorted(whole) != sorted(wanted.values()):
            raise Mistaken(
                "other shapes", shapes=" and ".join(map(str, whole)), wanted=" and ".join(map(str, wanted.values()))
            )
        for name, shape in wanted.items():
            found[f"base_model.model.{number}.{name}.default.weight"] = trained[whole.index(shape)]
    return found


def _judge_alone(meeting, answer):
    """Judge the layer without DeepSpeed: what is trained, where it starts, and what it computes."""
    import torch

    model, rows = _with_answer(answer), torch.randn(5, IN)
    matrices = _matrices(model)
    plain = _base()(rows)
    moved = apart(call(model, rows), plain)
    if not any(p.abs().max() > 0 for p in matrices.values()):
        raise Mistaken("both at zero")
    if moved > 1e-6:
        raise Mistaken("another start", moved=f"{moved:.2g}")
    with torch.no_grad():
        for p in matrices.values():
            p.normal_(std=0.3)
    right, unscaled = _by_peft(matrices, ALPHA)(rows), _by_peft(matrices, RANK)(rows)
    given = call(model, rows)
    if given.shape == right.shape and apart(given, right) < 1e-5:
        return
    if apart(given, plain) < 1e-6:
        raise Mistaken("has no part")
    if apart(given, unscaled) < 1e-5:
        raise Mistaken("no scale", ratio=ALPHA // RANK)
    if apart(given, _by_peft(matrices, ALPHA * RANK)(rows)) < 1e-5:
        raise Mistaken("alpha alone", ratio=ALPHA // RANK)
    raise Mistaken("another", off=f"{apart(given, right):.2g}")


def _by_peft(matrices, alpha):
    """peft's own model with these matrices."""
    import torch
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(_base(), LoraConfig(r=RANK, lora_alpha=alpha, target_modules=["0", "2"]))
    named = dict(model.named_parameters())
    with torch.no_grad():
        for name, p in matrices.items():
            named[name].copy_(p)
    return model


def _batch(step, ranks):
    import torch

    return torch.randn(2 * ranks, IN, generator=torch.Generator().manual_seed(step))


def _trained(meeting, answer, stage):
    """How far the matrices are from peft's after some steps at a stage, and how far the base has moved, or an error."""
    import deepspeed

    model = _with_answer(answer)
    matrices = _matrices(model)
    expected = _by_pytorch({name: p.detach().clone() for name, p in matrices.items()}, meeting.ranks)
    named = {id(p): name for name, p in model.named_parameters()}
    own_names = {name: named[id(p)] for name, p in matrices.items()}
    before = {name: p.detach().clone() for name, p in model.named_parameters() if not p.requires_grad}
    engine = deepspeed.initialize(model=model, config=small_config(stage))[0]
    try:
        for step in range(STEPS):
            engine.backward(engine(_batch(step, meeting.ranks).chunk(meeting.ranks)[meeting.rank]).pow(2).mean())
            engine.step()
        weights = whole_weights(engine)
        return {
            "peft": max(apart(weights[own], expected[name]) for name, own in own_names.items()),
            "base": max(apart(weights[name], old) for name, old in before.items()),
        }
    except Exception as error:
        return first_line(error)
    finally:
        with contextlib.suppress(Exception):
            engine.destroy()


def _by_pytorch(matrices, ranks):
    """peft's matrices after the same steps with plain PyTorch on the samples of all ranks."""
    import torch

    model = _by_peft(matrices, ALPHA)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01, weight_decay=0.0)
    for step in range(STEPS):
        model(_batch(step, ranks)).pow(2).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}


MISTAKES = {
    "the base is trained": Mistake(
        "The weight of `base` requires a gradient in your layer, so the optimizer keeps a master and two states of it: "
        "what LoRA is there to spare."
    ),
    "nothing to train": Mistake(
        "Your layer has no trained parameter. A tensor becomes a parameter when it is wrapped in `torch.nn.Parameter` "
        "and set as an attribute of the module; others no optimizer sees."
    ),
    "other shapes": Mistake(
        "The trained parameters have the shapes {shapes}; LoRA's two matrices have {wanted}. `Linear` keeps its weight "
        "as (out, in), and so do A and B."
    ),
    "both at zero": Mistake(
        "A and B are both zero at the start. The gradient of each is a multiple of the other, so neither ever moves."
    ),
    "another start": Mistake(
        "A new layer moves the output by {moved}. Training has to start at the base: one of the two matrices is zero.",
        "Which one may be random?",
    ),
    "has no part": Mistake("With other numbers in A and B the output is the base's: the matrices are not in it."),
    "no scale": Mistake("Your layer adds B A to the output. LoRA scales it by alpha / rank, which is {ratio} here."),
    "alpha alone": Mistake("Your layer scales by alpha. It is alpha / rank, which is {ratio} here."),
    "another": Mistake("With the same matrices the output is {off} off that of peft's layer."),
    "the base moves": Mistake("At stage {stage} the frozen weight has moved in training."),
    "trains otherwise": Mistake(
        "At stage {stage} a matrix is {off} off peft's after three steps, though it starts alike.",
        "Is what you train the parameter itself, or a copy that was made once?",
    ),
    "hangs": Mistake("One rank waits for the other. Your layer needs no collective: DeepSpeed makes them."),
}


EXERCISE = Exercise(
    id="11-lora-layer",
    title="LoRA by hand",
    difficulty=3,
    minutes=20,
    target="two ranks train it at stages 2 and 3 to the matrices that peft's layer gets from plain PyTorch, to 1e-4",
    answer="lora_linear",
    check=_lora_layer,
    ranks=2,
    seconds=60,
    mistakes=MISTAKES,
)
