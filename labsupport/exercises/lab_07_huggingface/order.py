"""Exercise 07-order: Arguments and model in the right order."""

import copy
import gc

from labsupport.exercises.answers import call, describe
from labsupport.exercises.exercise import Exercise, Mistake, Mistaken, Unusable
from labsupport.exercises.lab_07_huggingface.auto import AUTO
from labsupport.exercises.lab_07_huggingface.isolation import forgetting

STAGE_3 = {
    "train_batch_size": AUTO,
    "train_micro_batch_size_per_gpu": AUTO,
    "optimizer": {"type": "AdamW", "params": {"lr": AUTO}},
    "bf16": {"enabled": AUTO},
    "zero_optimization": {"stage": 3},
}


def _order(answer):
    with forgetting() as folder:
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


MISTAKES = {
    "partitioned by hand": Mistake(
        "The parameters are partitioned, but not by transformers: no DeepSpeed config was known when the model was "
        "built. from_pretrained then loads its weights into parameters of shape (0,). Make the arguments first."
    ),
    "model first": Mistake(
        "When the model was built, no DeepSpeed config was known yet, so {whole} parameters stand whole on each of "
        "the two ranks. Nothing fails; a large model runs out of memory here."
    ),
    "arguments dropped": Mistake(
        "The arguments were made first, and nobody kept them: the library holds a weak reference to their config, "
        "and it was gone when the model was built. So {whole} parameters are whole.",
        "Give the arguments a name before the model is built.",
    ),
    "config forgotten": Mistake(
        "The model is partitioned, but your function returned {returned}, without the arguments. They went away "
        "when it returned, and the config that they hold with them."
    ),
    "built again": Mistake(
        "load_model was called {times} times. The first model takes its memory before the second is there; one "
        "call in the right place is enough."
    ),
    "swapped": Mistake("Both are right, and they come back the wrong way round: the arguments first, then the model."),
}


EXERCISE = Exercise(
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
    mistakes=MISTAKES,
)
