"""The exercises of lab 07: the order that ZeRO-3 needs, and a config that leaves its numbers to the Trainer."""

import contextlib
import copy
import gc
import os
import tempfile
from types import SimpleNamespace
from unittest import mock

from labsupport import mistakes_huggingface as mistakes
from labsupport.exercises.answers import call, describe, parsed_by_deepspeed, require_dict
from labsupport.exercises.exercise import Exercise, Mistaken, Unusable
from labsupport.mistakes_huggingface import AUTO

STAGE_3 = {
    "train_batch_size": AUTO,
    "train_micro_batch_size_per_gpu": AUTO,
    "optimizer": {"type": "AdamW", "params": {"lr": AUTO}},
    "bf16": {"enabled": AUTO},
    "zero_optimization": {"stage": 3},
}


def _order(answer):
    with _forgetting() as folder:
        seen = _seen_while_building(answer, folder)
    returned = seen["returned"]
    if seen["order"].count("model") > 1:
        raise Mistaken("built again", times=seen["order"].count("model"))
    if "model" not in returned:
        raise Unusable(f"The function returned {seen['described']}: return the arguments and the model that you got.")
    if seen["order"][0] == "model":
        raise Mistaken("model first" if seen["whole"] else "partitioned by hand", whole=seen["whole"])
    if not seen["known while building"]:
        raise Mistaken("arguments dropped", whole=seen["whole"])
    if returned == ["model", "arguments"]:
        raise Mistaken("swapped")
    if not seen["known afterwards"]:
        raise Mistaken("config forgotten", returned=seen["described"])
    if returned != ["arguments", "model"]:
        raise Unusable(f"The function returned {seen['described']}: return the arguments and the model, in this order.")
    if seen["whole"]:
        raise Unusable(f"{seen['whole']} parameters are whole now: return the model as load_model gave it.")


@contextlib.contextmanager
def _forgetting():
    """A folder to write to, in a process where transformers and accelerate know of no config, before and after."""
    from accelerate.state import AcceleratorState
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ):
        try:
            unset_hf_deepspeed_config()
            AcceleratorState._reset_state()
            yield folder
        finally:
            unset_hf_deepspeed_config()
            AcceleratorState._reset_state()


def _seen_while_building(answer, folder):
    from transformers import AutoModelForCausalLM, LlamaConfig, TrainingArguments
    from transformers.integrations.deepspeed import deepspeed_config

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    llama = LlamaConfig(vocab_size=64, bos_token_id=None, eos_token_id=None, **sizes)
    order, known, models = [], [], []

    def make_arguments():
        order.append("arguments")
        config = copy.deepcopy(STAGE_3)
        return TrainingArguments(output_dir=folder, deepspeed=config, use_cpu=True, bf16=True, report_to="none")

    def load_model():
        order.append("model")
        known.append(deepspeed_config() is not None)
        models.append(AutoModelForCausalLM.from_config(llama))
        return models[-1]

    def kind(part):
        own = any(part is model for model in models)
        return "model" if own else "arguments" if isinstance(part, TrainingArguments) else describe(part)

    answered = call(answer, make_arguments, load_model)
    parts = answered if isinstance(answered, tuple | list) else [answered]
    gc.collect()
    return {
        "order": order,
        "known while building": all(known),
        "known afterwards": deepspeed_config() is not None,
        "returned": [kind(part) for part in parts],
        "described": " and ".join(f"the {kind(part)}" if kind(part) == "model" else kind(part) for part in parts),
        "whole": sum(not hasattr(each, "ds_tensor") for model in models for each in model.parameters()),
    }


ORDER = Exercise(
    id="07-order",
    title="Arguments and model in the right order",
    difficulty=2,
    minutes=5,
    target="on two ranks every parameter is partitioned from its construction on, and the config is still known "
    "afterwards",
    answer="build",
    check=_order,
    ranks=2,
    seconds=60,  # transformers is imported for the first answer
    mistakes=mistakes.ORDER,
)

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
    require_dict(config, "The config")
    if not config:
        raise Unusable("The config is empty, so the Trainer would train without DeepSpeed.")
    if "scheduler" in config:
        raise Unusable("The schedule is the Trainer's here: leave the block scheduler out.")
    for day, settings, environment in RUNS:
        with _forgetting() as folder, mock.patch.dict(os.environ, environment):
            filled, contradictions = _filled_by_trainer(copy.deepcopy(config), settings, folder)
        if contradictions:
            raise Mistaken("contradiction", day=day, lines=contradictions)
        _judge_filled(config, filled, day, settings)


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
    if parsed.optimizer_name not in ("adam", "adamw"):
        raise Unusable("DeepSpeed is to make the optimizer: name AdamW in a block optimizer.")
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


AUTO_CONFIG = Exercise(
    id="07-auto",
    title="One file for two runs",
    difficulty=3,
    minutes=10,
    target="with the arguments of both runs on four ranks, no value contradicts, no argument is lost, and the stage "
    "is 2",
    answer="trainer_config",
    check=_auto,
    seconds=60,  # transformers is imported for the first answer
    mistakes=mistakes.AUTO_CONFIG,
)

EXERCISES = (ORDER, AUTO_CONFIG)
