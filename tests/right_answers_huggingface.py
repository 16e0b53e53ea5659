"""Right answers to the exercises of lab 07, each written differently from the lab's own solution."""

RIGHT = {
    "07-order": (
        """def build(make_arguments, load_model):
    return make_arguments(), load_model()""",
        """def build(make_arguments, load_model):
    def with_model(arguments):
        return arguments, load_model()

    return with_model(make_arguments())""",
        """def build(first, then):
    made = [first()]
    made.append(then())
    return made""",
    ),
    "07-auto": (
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
    ),
}
