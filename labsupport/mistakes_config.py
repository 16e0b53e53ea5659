"""What readers get wrong in exercises_config.py: what they are told, and answers that must be told it."""

from labsupport.exercises.exercise import Mistake


def _config_answer(body):
    head = """def create_deepspeed_config(stage=2, fp16=True, gradient_accumulation_steps=1, train_batch_size=32,
                            offload_optimizer=False, offload_param=False):
    zero = {"stage": stage}
    if offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu"}
    if offload_param:
        zero["offload_param"] = {"device": "cpu"}
    config = {"train_batch_size": train_batch_size, "gradient_accumulation_steps": gradient_accumulation_steps,
              "optimizer": {"type": "AdamW", "params": {"lr": 3e-4}}, "zero_optimization": zero}
    if fp16:
        config["fp16"] = {"enabled": True, "loss_scale": 0}
"""
    return f"{head}    {body}\n    return config\n"


CONFIG = {
    "stage not read": Mistake(
        "Stage {wanted} was asked for and DeepSpeed reads stage {got}. It looks for the key stage in a block "
        "called zero_optimization, and ignores a top-level name that it does not know.",
        (
            _config_answer('config["zero_optimisation"] = config.pop("zero_optimization")'),
            _config_answer('config["stage"] = config.pop("zero_optimization")["stage"]'),
            _config_answer('zero["stage"] = 2'),
        ),
        "Parse your own result with effective(...) from above and look at its stage.",
    ),
    "micro batch": Mistake(
        "train_batch_size counts the samples of all ranks in all accumulation steps. Your config puts another "
        "number there, or fixes the micro batch of a rank so that the three sizes fit one number of ranks alone.",
        (
            _config_answer('config["train_micro_batch_size_per_gpu"] = train_batch_size'),
            _config_answer('config["train_micro_batch_size_per_gpu"] = config.pop("train_batch_size")'),
            _config_answer('config["train_batch_size"] *= gradient_accumulation_steps'),
            _config_answer('del config["gradient_accumulation_steps"]'),
        ),
        "Write the two numbers that were passed, and let DeepSpeed work out the third.",
    ),
    "precision": Mistake(
        "fp16={wanted} was asked for and DeepSpeed reads {got}. A 16-bit format is on only where its block says "
        '"enabled": true, and fp32 is what is left when no such block is on.',
        (
            _config_answer('config["fp16"] = {"enabled": True, "loss_scale": 0}'),
            _config_answer('config["fp16"] = {"loss_scale": 0}'),
            _config_answer('config["precision"] = "fp16" if config.pop("fp16", None) else "fp32"'),
        ),
    ),
    "fixed loss scale": Mistake(
        "A loss_scale of {got:g} is fixed for the whole run: the first overflow cannot lower it. 0 is the word for "
        "a dynamic scale, not for a loss of zero.",
        (
            _config_answer('if fp16: config["fp16"]["loss_scale"] = 1'),
            _config_answer('if fp16: config["fp16"]["loss_scale"] = 65536'),
        ),
    ),
    "offload as a flag": Mistake(
        "An offload is a block that names a device, not a flag. {error}",
        (
            _config_answer("zero.update(offload_optimizer=offload_optimizer, offload_param=offload_param)"),
            _config_answer('if offload_param: zero["offload_param"] = "cpu"'),
        ),
    ),
    "offload not read": Mistake(
        "{name} was asked for and DeepSpeed offloads nothing there: the block has to stand inside "
        "zero_optimization, under exactly this name, with a device.",
        (
            _config_answer('config |= {name: zero.pop(name) for name in list(zero) if name.startswith("off")}'),
            _config_answer('zero.pop("offload_param", None)'),
            _config_answer('if offload_optimizer: zero["offload_optimizer"] = {"device": "none"}'),
        ),
    ),
    "offload not asked for": Mistake(
        "{name} was not asked for in this call, and DeepSpeed reads it. Either your function always writes the "
        "block, or a dict that is made once keeps what an earlier call put in.",
        (
            _config_answer('zero["offload_optimizer"] = {"device": "cpu"}'),
            "zero = {}\n"
            + _config_answer('config["zero_optimization"] = BASE')
            .replace('    zero = {"stage": stage}\n', '    zero = BASE\n    BASE["stage"] = stage\n')
            .replace("def create", "BASE = {}\n\n\ndef create", 1),
        ),
    ),
    "another optimizer": Mistake(
        "The optimizer that DeepSpeed reads from this config is {got}, and AdamW was asked for: it stands in a "
        "block called optimizer, with a type and params.",
        (
            _config_answer('del config["optimizer"]'),
            _config_answer('config["optimizer"] = {"type": "SGD", "params": {"lr": 0.1}}'),
        ),
    ),
}

BATCH = {
    "only the train batch": Mistake(
        "DeepSpeed works the pass out from what is left. With the train batch alone it assumes one accumulation "
        "step, and then 4 ranks take 24 samples a pass and 2 ranks take 48.",
        (
            'batch_config = {"train_batch_size": 96}',
            'batch_config = {"train_batch_size": 96, "gradient_accumulation_steps": 3}',
        ),
        "Say how much one rank takes in one pass: that is the number that memory limits.",
    ),
    "forgot the ranks": Mistake(
        "This gives {batch} samples an update: the micro batch and the accumulation steps are counted on every "
        "rank, and there are 4 ranks.",
        ('batch_config = {"train_micro_batch_size_per_gpu": 8, "gradient_accumulation_steps": 12}',),
        "micro batch x accumulation steps x ranks = 96.",
    ),
    "refused": Mistake(
        "With these sizes written down nothing is left to work out, and on {ranks} ranks they do not multiply. {error}",
        (
            """batch_config = {
    "train_batch_size": 96, "train_micro_batch_size_per_gpu": 8, "gradient_accumulation_steps": 3,
}""",
            'batch_config = {"train_batch_size": 96, "train_micro_batch_size_per_gpu": 7}',
        ),
        "Leave out the size that should follow from the others.",
    ),
    "too large a pass": Mistake(
        "On {ranks} ranks one pass takes {micro} samples, and 8 is the most.",
        (
            'batch_config = {"train_micro_batch_size_per_gpu": 24, "gradient_accumulation_steps": 1}',
            'batch_config = {"train_micro_batch_size_per_gpu": 12, "gradient_accumulation_steps": 2}',
        ),
    ),
    "another batch": Mistake(
        "On 4 ranks this gives {batch} samples an update, not 96.",
        (
            'batch_config = {"train_micro_batch_size_per_gpu": 8}',
            'batch_config = {"train_micro_batch_size_per_gpu": 8, "gradient_accumulation_steps": 4}',
        ),
        "micro batch x accumulation steps x ranks = 96.",
    ),
    "auto": Mistake(
        '"auto" is a word of the Hugging Face Trainer, which fills it in. DeepSpeed itself calculates with it.',
        (
            """batch_config = {
    "train_batch_size": "auto", "train_micro_batch_size_per_gpu": 8, "gradient_accumulation_steps": 3,
}""",
        ),
    ),
}


def _prediction(**changed):
    right = {
        "stage": 0,
        "precision": "fp16",
        "train_batch_size": 48,
        "gradient_clipping": 1.0,
        "first_loss_scale": 4096,
    }
    return f"prediction = {right | changed!r}"


READ = {
    "stage of the misspelt block": Mistake(
        "The stage in force is not 3. Read the name of that block letter by letter: it is none that DeepSpeed "
        "knows, and at the top level it passes over such names without a word.",
        (_prediction(stage=3),),
    ),
    "batch of one rank": Mistake(
        "12 samples are what one rank contributes to an update. The train batch counts all 4 ranks.",
        (_prediction(train_batch_size=12),),
    ),
    "no clipping": Mistake(
        "The config does not mention gradient_clipping, which does not turn it off: DeepSpeed 0.19.8 then uses its "
        "default, and that clips.",
        (_prediction(gradient_clipping=0.0), _prediction(gradient_clipping=None)),
        "The clipping experiment of this lab measured what happens with the key left out.",
    ),
    "loss scale of zero": Mistake(
        "A loss_scale of 0 is no factor: it asks for a dynamic scale, which starts at another number of the block.",
        (_prediction(first_loss_scale=0),),
    ),
    "loss scale by default": Mistake(
        "65536 is the first scale where the config does not say another. This one names initial_scale_power, an "
        "exponent of 2.",
        (_prediction(first_loss_scale=65536),),
    ),
    "another value": Mistake(
        "{name} is not {guess}.",
        (
            _prediction(precision="fp32"),
            _prediction(precision="bf16"),
            _prediction(train_batch_size=4),
            _prediction(first_loss_scale=12),
            _prediction(stage=True),
        ),
        "Work it out from the config and the text above; effective(...) and fp16_scaling(...) ask DeepSpeed.",
    ),
}


def _mended(changes):
    return f"""from labsupport.exercises_config import config_to_mend

mended = config_to_mend()
zero = mended["zero_optimization"]
mended["gradient_accumulation_steps"] = 4
mended["gradient_clipping"] = mended.pop("gradient_cliping")
zero["stage"] = 3
mended["data_types"] = zero.pop("data_types")
{changes}
"""


BROKEN = {
    "triple left": Mistake(
        "The three batch sizes do not multiply on 2 ranks. {error}",
        (
            _mended('mended["gradient_accumulation_steps"] = 2'),
            "from labsupport.exercises_config import config_to_mend\n"
            'mended = config_to_mend()\nmended["zero_optimization"].pop("data_types")',
        ),
        "The batch and the micro batch are what was meant; the accumulation steps are what has to follow.",
    ),
    "data_types left": Mistake(
        "data_types does not belong into zero_optimization, where DeepSpeed's page on configs shows it. {error}",
        (_mended('zero["data_types"] = mended.pop("data_types")'),),
        "It is a block of the top level.",
    ),
    "other batch": Mistake(
        "This trains on {batch} samples an update and {micro} a pass. Meant were 32 and 4.",
        (
            _mended('mended |= {"train_batch_size": 16, "gradient_accumulation_steps": 2}'),
            _mended('mended |= {"train_micro_batch_size_per_gpu": 8, "gradient_accumulation_steps": 2}'),
        ),
    ),
    "still clips": Mistake(
        "DeepSpeed has {got} in force, which is not off. A misspelt key at the top level is not read, and a "
        "removed one leaves the default, which is 1.0.",
        (
            _mended('mended["gradient_cliping"] = mended.pop("gradient_clipping")'),
            _mended('del mended["gradient_clipping"]'),
        ),
    ),
    "stage left": Mistake(
        "At stage {got} the parameters are whole on every rank, and offload_param does nothing, although DeepSpeed "
        "repeats it back. It works at stage 3.",
        (_mended('zero["stage"] = 2'), _mended('zero["stage"] = 1')),
    ),
    "offload removed": Mistake(
        "The config no longer asks for {name}. Mend what kept it from working in place of taking it out.",
        (_mended('zero |= {"stage": 2}\ndel zero["offload_param"]'), _mended('del zero["offload_optimizer"]')),
    ),
    "accumulation removed": Mistake(
        "Gradients are accumulated in bf16 again: the wish for fp32 is gone, or is written where nobody reads it.",
        (
            _mended('del mended["data_types"]'),
            _mended('mended["grad_accum_dtype"] = mended.pop("data_types")["grad_accum_dtype"]'),
            _mended('mended["data_types"] = {"gradient_accumulation_dtype": "fp32"}'),
        ),
    ),
    "precision changed": Mistake(
        "The weights were meant to be in bf16, and DeepSpeed reads {got}.",
        (_mended('del mended["bf16"]'),),
    ),
}
