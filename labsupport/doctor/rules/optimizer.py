"""The optimizer block: its name, the parameters that the optimizer of that name takes, and gradient clipping."""

from labsupport.doctor.findings import COST, ERROR, INITIALIZE, NOTE, SILENT, STEP, rule
from labsupport.doctor.known import known
from labsupport.doctor.rules.names import nearest, shown

BASIC = "runtime/engine.py, DeepSpeedEngine._configure_basic_optimizer"
# Names that older DeepSpeed had; the first two lie in configs of its own examples.
REMOVED = ("onebitadam", "onebitlamb", "zerooneadam")
MUP = ("muadam", "muadamw", "musgd")
# What the engine takes out of the parameters before the optimizer sees them.
TAKEN_OUT = ("torch_adam", "adam_w_mode", "fp32_optimizer_states")


def kind(case):
    """Return which optimizer the engine makes of a name of its own: "fused", "cpu", "torch" or "muon"; else None."""
    kinds = known()["optimizers"].get(case.optimizer, {})
    if not kinds:
        return None
    if case.optimizer in ("adam", "adamw") and case.optimizer_params.get("torch_adam"):
        return "torch"
    if case.offload[0] != "none" and "cpu" in kinds:
        return "cpu"
    return next(each for each in ("fused", "torch", "muon") if each in kinds)


def _is_known(case):
    return case.optimizer in known()["optimizers"] or case.optimizer in known()["torch_optimizers"]


@rule("removed-optimizer", ERROR, "runtime/engine.py, DeepSpeedEngine._do_sanity_check", INITIALIZE)
def removed(case):
    if isinstance(case.optimizer, str) and case.optimizer.lower() in REMOVED:
        yield (
            ("optimizer", "type"),
            f"{case.optimizer} was removed from DeepSpeed, which refuses the name",
            "write AdamW",
        )


@rule("unknown-optimizer", ERROR, "runtime/engine.py, DeepSpeedEngine._do_sanity_check", INITIALIZE)
def unknown(case):
    name = case.optimizer
    if not isinstance(name, str) or _is_known(case) or name.lower() in REMOVED:
        return
    torch = {each.lower(): each for each in known()["torch_optimizers"]}
    names = {each: each for each in known()["optimizers"]} | torch
    close = nearest(name, list(names))
    spelled = "adamw" if close == "adamw" else names.get(close)
    fix = (
        f"did you mean {'AdamW' if spelled == 'adamw' else spelled!r}?"
        if close
        else "write AdamW, or another name of torch.optim"
    )
    why = (
        "torch's names are taken in their own spelling alone"
        if name.lower() in torch
        else "neither DeepSpeed nor torch.optim has an optimizer of that name"
    )
    yield ("optimizer", "type"), f"DeepSpeed refuses the optimizer {name!r}: {why}", fix


@rule("optimizer-without-type", SILENT, "runtime/config.py, get_optimizer_name")
def without_type(case):
    block = case.block("optimizer")
    if block and block.get("type") is None:
        yield (
            ("optimizer",),
            "the block optimizer has no type, so DeepSpeed makes no optimizer of it",
            'add "type": "AdamW"',
        )


@rule("max-grad-norm", ERROR, BASIC, INITIALIZE)
def max_grad_norm(case):
    if _is_known(case) and "max_grad_norm" in case.optimizer_params:
        yield (
            ("optimizer", "params", "max_grad_norm"),
            "max_grad_norm is no parameter of an optimizer to DeepSpeed, which refuses it",
            f'write "gradient_clipping": {case.optimizer_params["max_grad_norm"]} at the top level',
        )


@rule("optimizer-parameter", ERROR, BASIC, INITIALIZE)
def parameter(case):
    made = kind(case)
    if made in (None, "muon") and case.optimizer not in known()["torch_optimizers"]:
        return
    takes = known()["optimizers"][case.optimizer][made] if made else known()["torch_optimizers"][case.optimizer]
    adam = case.optimizer in ("adam", "adamw")
    for key in case.optimizer_params:
        if key == "max_grad_norm" or (adam and key in TAKEN_OUT):
            continue
        if key not in takes or (adam and made == "cpu" and key == "adamw_mode"):
            close = nearest(key, takes)
            who = {"fused": "DeepSpeed's fused", "cpu": "DeepSpeed's CPU", "torch": "torch's"}.get(made, "torch's")
            yield (
                ("optimizer", "params", key),
                f"{who} {case.block('optimizer')['type']} takes no parameter {key!r}, which ends in a TypeError",
                f"did you mean {close!r}?" if close else "delete it",
            )


@rule("muon-parameter-ignored", SILENT, "runtime/engine.py, DeepSpeedEngine._muon_half_defaults")
def muon_parameter(case):
    if case.optimizer == "muon":
        takes = known()["optimizers"]["muon"]["muon"]
        for key in case.optimizer_params:
            if key not in takes and key not in (*TAKEN_OUT, "foreach", "max_grad_norm"):
                close = nearest(key, takes)
                yield (
                    ("optimizer", "params", key),
                    f"Muon picks the parameters that it knows, and ignores {key!r}",
                    f"did you mean {close!r}?" if close else "delete it",
                )


@rule("optimizer-parameter-type", ERROR, BASIC, STEP)
def parameter_type(case):
    if not _is_known(case):
        return
    for key in ("lr", "weight_decay", "eps", "betas", "momentum"):
        value = case.optimizer_params.get(key, 0)
        whole = isinstance(value, list | tuple) and len(value) == 2 and all(_is_number(each) for each in value)
        if not (whole if key == "betas" and value != 0 else _is_number(value)):
            text = (
                '"auto", which the Hugging Face Trainer alone fills in'
                if value == "auto"
                else f"{shown(value)}, which is {'no pair of numbers' if key == 'betas' else 'no number'}"
            )
            fix = "write two numbers" if key == "betas" else "write the number"
            yield ("optimizer", "params", key), f"{key} is {text}, and the optimizer ends in an error of Python's", fix


def _is_number(value):
    return isinstance(value, int | float)


@rule("default-learning-rate", NOTE, BASIC)
def default_lr(case):
    made = kind(case)
    if made and made != "muon" and "lr" not in case.optimizer_params and not case.hugging_face:
        lr = known()["optimizers"][case.optimizer][made]["lr"]
        yield ("optimizer",), f"the optimizer's params name no lr, so that it is {lr:g}", "name it"


@rule("adam-is-adamw", NOTE, BASIC)
def adam_is_adamw(case):
    if (
        case.optimizer == "adam"
        and "adam_w_mode" not in case.optimizer_params
        and case.optimizer_params.get("weight_decay")
    ):
        yield (
            ("optimizer", "type"),
            "DeepSpeed makes AdamW of the name Adam: the weight decay is decoupled",
            'add "adam_w_mode": false to params for Adam with L2',
        )


@rule("adam-w-mode-ignored", SILENT, BASIC)
def adam_w_mode(case):
    if case.optimizer == "adamw" and case.optimizer_params.get("adam_w_mode") is False:
        yield (
            ("optimizer", "params", "adam_w_mode"),
            "adam_w_mode is false beside AdamW, which stays AdamW",
            "write the type Adam, or delete it",
        )


@rule("untested-optimizer", ERROR, "runtime/engine.py, DeepSpeedEngine._do_optimizer_sanity_check", INITIALIZE)
def untested(case):
    if not case.stage or case.value("zero_allow_untested_optimizer") or not _is_known(case):
        return
    if (
        case.optimizer == "lamb"
        or case.optimizer in known()["torch_optimizers"]
        and case.optimizer not in known()["zero_optimizers"]
    ):
        yield (
            ("optimizer", "type"),
            f"DeepSpeed has not tested ZeRO with the optimizer {case.optimizer}, and refuses it",
            "use AdamW, or add 'zero_allow_untested_optimizer': true",
        )


@rule("optimizer-needs-gpu", ERROR, "op_builder/cpu: NotImplementedBuilder", INITIALIZE)
def needs_gpu(case):
    if case.accelerator == "cpu" and case.optimizer in ("lamb", "lion") and kind(case) == "fused":
        yield (
            ("optimizer", "type"),
            f"DeepSpeed's {case.optimizer} is an op for GPUs, and ends in a ValueError on a processor",
            "use AdamW",
        )


@rule("optimizer-needs-closure", ERROR, "runtime/engine.py, DeepSpeedEngine._take_model_step", STEP)
def needs_closure(case):
    if case.optimizer == "LBFGS":
        yield (
            ("optimizer", "type"),
            "LBFGS steps with a closure, which DeepSpeed does not pass, and the step ends in a TypeError",
            "use AdamW",
        )


@rule("lamb-needs-dynamic-scale", ERROR, "runtime/engine.py, DeepSpeedEngine._do_sanity_check", INITIALIZE)
def lamb(case):
    if case.optimizer == "lamb" and case.fp16.loss_scale != 0:
        yield ("fp16", "loss_scale"), "Lamb needs a dynamic loss scale, and loss_scale is a fixed one", "write 0"


@rule("needs-mup", NOTE, BASIC)
def needs_mup(case):
    if case.optimizer in MUP:
        yield (
            ("optimizer", "type"),
            f"{case.optimizer} comes from the package mup, without which DeepSpeed ends in an UnboundLocalError",
            "install mup",
        )


@rule("muon-at-stage-3", ERROR, "runtime/zero/stage3.py, DeepSpeedZeroOptimizer_Stage3.__init__", INITIALIZE)
def muon_at_3(case):
    if case.optimizer == "muon" and case.stage == 3 and case.zero.reduce_scatter:
        yield (
            ("zero_optimization", "reduce_scatter"),
            "Muon at stage 3 cannot go with reduce_scatter, which is on by default",
            'write "reduce_scatter": false',
        )


@rule("clipping-type", ERROR, "runtime/engine.py, DeepSpeedEngine._take_model_step", STEP)
def clipping_type(case):
    value = case.value("gradient_clipping")
    if not isinstance(value, int | float):
        text = (
            '"auto", which the Hugging Face Trainer alone fills in'
            if value == "auto"
            else f"{shown(value)}, which is no number"
        )
        yield (
            ("gradient_clipping",),
            f"gradient_clipping is {text}, and the first step ends in a TypeError",
            "write the number, or 0 for none",
        )


@rule("negative-clipping", SILENT, "runtime/engine.py, DeepSpeedEngine._take_model_step")
def negative_clipping(case):
    value = case.value("gradient_clipping")
    if isinstance(value, int | float) and value < 0:
        yield (
            ("gradient_clipping",),
            f"gradient_clipping is {value:g}, and DeepSpeed clips for what is above 0 alone",
            "write 0 for none",
        )


@rule("default-clipping", NOTE, "runtime/constants.py, GRADIENT_CLIPPING_DEFAULT")
def default_clipping(case):
    if "gradient_clipping" not in case.config and case.optimizer is not None:
        yield (
            (),
            "gradient_clipping is not named, and DeepSpeed then clips at "
            f"{known()['top_level']['gradient_clipping']:g}",
            "write 0 for none",
        )


@rule("torch-adam-on-a-gpu", COST, BASIC)
def torch_adam_on_gpu(case):
    if (
        case.optimizer in ("adam", "adamw")
        and case.optimizer_params.get("torch_adam")
        and case.accelerator == "cuda"
        and case.offload[0] == "none"
    ):
        yield (
            ("optimizer", "params", "torch_adam"),
            "torch_adam is on, so that torch's AdamW steps in place of DeepSpeed's FusedAdam",
            "leave it out where FusedAdam compiles",
        )
