"""The Hugging Face Trainer: what it fills in, what has to agree with its arguments, and what it cannot read."""

from labsupport.doctor.case import TRAINER
from labsupport.doctor.findings import ERROR, NOTE, PARSE, rule
from labsupport.doctor.rules.names import shown

SOURCE = "transformers/integrations/deepspeed.py, HfTrainerDeepSpeedConfig"


@rule("filled-by-trainer", NOTE, SOURCE)
def filled(case):
    for path, (value, argument) in case.filled.items():
        default = "" if value is None else f", by default {shown(value)}"
        if "hidden_size" in argument:
            default = f", for a hidden size of 4096 {shown(value)}"
        if path[-1] in ("total_num_steps",):
            default = ""
        yield path, f'the Trainer replaces "auto" with {argument}{default}', ""


@rule("must-match-trainer", NOTE, SOURCE + ".fill_match")
def must_match(case):
    if not case.hugging_face:
        return
    for name, (_, argument) in TRAINER.items():
        *blocks, key = name.split(".")
        block = case.block(".".join(blocks)) if blocks else case.config
        only = name.startswith("zero_optimization") or key == "warmup_min_lr"
        if not only and block.get(key) is not None and tuple(name.split(".")) not in case.filled:
            yield (
                tuple(name.split(".")),
                f"the Trainer refuses to start where its {argument} is not {shown(block[key])}",
                'write "auto", and set the argument',
            )


@rule("trainer-needs-zero", ERROR, "accelerate/utils/dataclasses.py, DeepSpeedPlugin.__post_init__", PARSE)
def needs_zero(case):
    if case.hugging_face and "zero_optimization" not in case.given:
        yield (
            (),
            "accelerate, which the Trainer uses, refuses a config without zero_optimization",
            'add "zero_optimization": {"stage": 0}',
        )


@rule("trainer-needs-json", ERROR, "accelerate/utils/deepspeed.py, HfDeepSpeedConfig.__init__ (json.load)", PARSE)
def needs_json(case):
    if case.hugging_face and case.document and (reason := case.document.not_plain_json):
        yield (), f"the Trainer reads the file as plain JSON, and {reason}", "write plain JSON (--fix does)"
