"""Exercise 07-auto: One file for two runs."""

import contextlib
import copy
import os
from types import SimpleNamespace
from unittest import mock

from labsupport.exercises.answers import parsed_by_deepspeed, require_dict
from labsupport.exercises.exercise import Exercise, Mistake, Mistaken, Unusable
from labsupport.exercises.lab_01_config.parsed import optimizer_of
from labsupport.exercises.lab_07_huggingface.isolation import forgetting

AUTO = "auto"

# Two runs that share one config file, on four ranks. The second has the stage of accelerate's environment changed too.
RANKS = 4
SHARED = {"bf16": True}
MONDAY = {
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 2,
    "learning_rate": 2e-4,
    "weight_decay": 0.1,
    "adam_beta2": 0.95,
    "max_grad_norm": 0.5,
}
TUESDAY = {
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 8,
    "learning_rate": 5e-5,
    "weight_decay": 0.01,
    "adam_beta2": 0.98,
    "max_grad_norm": 2.0,
}
RUNS = (("Monday", MONDAY, {}), ("Tuesday", TUESDAY, {"ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"}))


def _auto(config):
    config = require_dict(config, "The config")
    if not config:
        raise Unusable("The config is empty, so the Trainer would train without DeepSpeed.")
    if "scheduler" in config:
        raise Unusable("The schedule is the Trainer's here: leave the block scheduler out.")
    for day, settings, environment in RUNS:
        with forgetting() as folder, mock.patch.dict(os.environ, environment):
            filled, contradictions = _filled_by_trainer(copy.deepcopy(config), settings, folder)
        if contradictions:
            raise Mistaken("contradiction", day=day, lines=contradictions)
        _judge_filled(config, filled, day, settings)
    reached = "; ".join(
        f"{day} lr {settings['learning_rate']:g}, clipping {settings['max_grad_norm']:g}, "
        f"{settings['per_device_train_batch_size']} x {settings['gradient_accumulation_steps']} x {RANKS} samples"
        for day, settings, _ in RUNS
    )
    return f"DeepSpeed read on both days stage 2, bf16 and what the arguments say: {reached}."


def _filled_by_trainer(config, settings, folder):
    """What the Trainer and accelerate make of a config before DeepSpeed sees it, and where the two sources part."""
    from transformers import TrainingArguments

    class OnFourRanks(TrainingArguments):
        world_size = property(lambda self: RANKS)

    hidden_size = 64
    model = SimpleNamespace(config=SimpleNamespace(hidden_size=hidden_size))
    # accelerate's own last step (Accelerator._prepare_deepspeed): it fills what the Trainer left.
    last = {
        "gradient_clipping": 1.0,
        "zero_optimization.stage3_gather_16bit_weights_on_model_save": False,
        "zero_optimization.reduce_bucket_size": hidden_size**2,
        "zero_optimization.stage3_prefetch_bucket_size": int(0.9 * hidden_size**2),
        "zero_optimization.stage3_param_persistence_threshold": 10 * hidden_size,
    }
    try:
        named = {"output_dir": folder, "deepspeed": config, "use_cpu": True, "report_to": "none"}
        arguments = OnFourRanks(**named, **SHARED, **settings)
        own = arguments.hf_deepspeed_config
        with contextlib.suppress(ValueError):  # the contradictions: told below
            own.trainer_config_finalize(arguments, model, 100)
        if not own.mismatches:
            arguments.deepspeed_plugin.set_mixed_precision("bf16")
            arguments.deepspeed_plugin.deepspeed_config_process(must_match=False, **last)
    except Exception as error:
        raise Unusable(
            f"The Trainer refuses this config ({type(error).__name__}): {str(error)[:200]}", error
        ) from error
    return own.config, ", ".join(line.removeprefix("- ") for line in own.mismatches)


def _judge_filled(config, filled, day, settings):
    zero = config.get("zero_optimization")
    if isinstance(zero, dict) and zero.get("stage") == AUTO:
        raise Mistaken("stage left open", stage=filled["zero_optimization"]["stage"])
    try:
        parsed = parsed_by_deepspeed(filled, RANKS)
    except Unusable as refused:
        if "gradient_accumulation_steps" not in config and "Check batch related" in str(refused):
            raise Mistaken("accumulation left out", steps=settings["gradient_accumulation_steps"]) from refused
        raise
    if parsed.zero_optimization_stage != 2:
        raise Unusable(
            f"DeepSpeed reads stage {parsed.zero_optimization_stage} from this config: the run wants stage 2."
        )
    name, _ = optimizer_of(parsed, filled)
    if name != "AdamW":
        raise Mistaken("another optimizer", name=name)
    own = "a default of its own"
    given = parsed.optimizer_params or {}
    betas = given.get("betas", [None, own])
    for key, found, argument in (
        ("train_micro_batch_size_per_gpu", parsed.train_micro_batch_size_per_gpu, "per_device_train_batch_size"),
        ("gradient_accumulation_steps", parsed.gradient_accumulation_steps, "gradient_accumulation_steps"),
        ("gradient_clipping", parsed.gradient_clipping, "max_grad_norm"),
        ("optimizer.params.lr", given.get("lr", own), "learning_rate"),
        ("optimizer.params.weight_decay", given.get("weight_decay", own), "weight_decay"),
        ("optimizer.params.betas", betas[-1] if isinstance(betas, list) and betas else own, "adam_beta2"),
    ):
        if found != settings[argument]:
            raise Mistaken("never arrives", day=day, key=key, found=found, argument=argument, value=settings[argument])
    if not parsed.bfloat16_config.enabled:
        raise Unusable('The run is in bf16, and DeepSpeed reads "enabled" False: leave bf16 to the Trainer as well.')


MISTAKES = {
    "another optimizer": Mistake(
        "The optimizer of an engine with this config is {name}, and DeepSpeed is to make AdamW: name it in a block "
        "optimizer."
    ),
    "contradiction": Mistake(
        "With {day}'s arguments the two sources disagree, and the Trainer refuses to train: {lines}. A number "
        "that is typed in the file is right for one run at most.",
        "Which word makes the Trainer write its own number there?",
    ),
    "never arrives": Mistake(
        "On {day} {argument} is {value}, and DeepSpeed works with {key} {found}. The Trainer fills keys that say "
        '"auto"; a key that is not in the file it does not add.',
        "Go through the table of the section row by row.",
    ),
    "accumulation left out": Mistake(
        "Without gradient_accumulation_steps in the file, accelerate puts 1 there, although the arguments say "
        "{steps}. Then the three batch sizes do not multiply, and DeepSpeed refuses."
    ),
    "stage left open": Mistake(
        'No argument of the Trainer holds a stage, so "auto" is filled with what accelerate has: 2 by default, or '
        "what ACCELERATE_DEEPSPEED_ZERO_STAGE says. On this run that gave {stage}."
    ),
}


EXERCISE = Exercise(
    id="07-auto",
    title="One file for two runs",
    difficulty=3,
    minutes=10,
    target="with the arguments of both runs on four ranks, no value contradicts, no argument is lost, and the stage "
    "is 2",
    answer="trainer_config",
    check=_auto,
    seconds=60,  # transformers is imported for the first answer
    mistakes=MISTAKES,
)
