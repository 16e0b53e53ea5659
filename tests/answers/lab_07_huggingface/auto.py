"""Exercise 07-auto: answers that are known to be wrong, by their mistake, and right ones."""

from labsupport.exercises.lab_07_huggingface.auto import AUTO


def _config(without=(), **changes):
    """The source of a cell with the right config, without these keys, and with these changes."""
    adam = {"type": "AdamW", "params": {"lr": AUTO, "betas": AUTO, "weight_decay": AUTO}}
    adam["params"] = {key: value for key, value in adam["params"].items() if key not in without}
    whole = {
        "train_batch_size": AUTO,
        "train_micro_batch_size_per_gpu": AUTO,
        "gradient_accumulation_steps": AUTO,
        "gradient_clipping": AUTO,
        "optimizer": adam,
        "bf16": {"enabled": AUTO},
        "zero_optimization": {"stage": 2},
    }
    return f"trainer_config = { ({key: value for key, value in whole.items() if key not in without} | changes)!r}"


def _adam(**changes):
    return {"type": "AdamW", "params": {"lr": AUTO, "betas": AUTO, "weight_decay": AUTO} | changes}


WRONG = {
    "contradiction": (
        _config(optimizer=_adam(lr=2e-4)),
        _config(gradient_clipping=1.0),
        _config(train_batch_size=8),
        _config(train_batch_size=32),
        _config(train_micro_batch_size_per_gpu=4, gradient_accumulation_steps=2, train_batch_size=32),
    ),
    "never arrives": (
        _config(without=("gradient_clipping",)),
        _config(without=("betas",)),
        _config(without=("weight_decay",)),
        _config(optimizer={"type": "AdamW"}),
        _config(without=("train_batch_size", "gradient_accumulation_steps")),
    ),
    "another optimizer": (
        _config(optimizer={**_adam(adam_w_mode=False), "type": "Adam"}),
        _config(without=("optimizer",)),
        _config(optimizer={**_adam(), "type": "Lamb"}),
    ),
    "accumulation left out": (_config(without=("gradient_accumulation_steps",)),),
    "stage left open": (_config(zero_optimization={"stage": AUTO}),),
}

RIGHT = (
    """trainer_config = {
    "train_micro_batch_size_per_gpu": "auto", "gradient_accumulation_steps": "auto", "gradient_clipping": "auto",
    "optimizer": {
        "type": "AdamW", "params": {"lr": "auto", "betas": "auto", "weight_decay": "auto", "torch_adam": True},
    },
    "zero_optimization": {"stage": 2},
}""",
    """sizes = ["train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps"]
trainer_config = dict.fromkeys([*sizes, "gradient_clipping"], "auto")
trainer_config["optimizer"] = {"type": "Adam", "params": dict.fromkeys(["lr", "betas", "eps", "weight_decay"], "auto")}
trainer_config["zero_optimization"] = {
    "stage": 2, "reduce_bucket_size": "auto", "stage3_prefetch_bucket_size": "auto",
    "stage3_param_persistence_threshold": "auto",
}
trainer_config["bf16"] = {"enabled": "auto"}
trainer_config["fp16"] = {"enabled": "auto", "loss_scale": 0}""",
    """import json

trainer_config = json.loads('''{
  "train_batch_size": "auto", "gradient_accumulation_steps": "auto", "gradient_clipping": "auto",
  "optimizer": {"type": "AdamW", "params": {"lr": "auto", "betas": "auto", "eps": 1e-08, "weight_decay": "auto"}},
  "bf16": {"enabled": true}, "zero_optimization": {"stage": 2, "overlap_comm": true}
}''')""",
)
