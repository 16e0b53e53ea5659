"""Exercise 01-read: answers that are known to be wrong, by their mistake, and right ones."""


def _prediction(**changed):
    right = {
        "stage": 0,
        "precision": "fp16",
        "train_batch_size": 48,
        "gradient_clipping": 1.0,
        "first_loss_scale": 4096,
    }
    return f"prediction = {right | changed!r}"


WRONG = {
    "stage of the misspelt block": (_prediction(stage=3),),
    "batch of one rank": (_prediction(train_batch_size=12),),
    "no clipping": (_prediction(gradient_clipping=0.0), _prediction(gradient_clipping=None)),
    "loss scale of zero": (_prediction(first_loss_scale=0),),
    "loss scale by default": (_prediction(first_loss_scale=65536),),
    "another value": (
        _prediction(precision="fp32"),
        _prediction(precision="bf16"),
        _prediction(train_batch_size=4),
        _prediction(first_loss_scale=12),
        _prediction(stage=True),
    ),
}

RIGHT = (
    """prediction = dict(stage=0, precision="fp16", train_batch_size=4 * 3 * 4, gradient_clipping=1,
                  first_loss_scale=2**12)""",
    """from deepspeed.runtime.config import DeepSpeedConfig

from labsupport.exercises.lab_01_config.read import config_to_read

read = DeepSpeedConfig(config_to_read())
prediction = {"stage": read.zero_optimization_stage, "precision": "fp16", "train_batch_size": 4 * read.train_batch_size,
              "gradient_clipping": read.gradient_clipping, "first_loss_scale": 4096.0}""",
    """prediction = {"first_loss_scale": 4096, "gradient_clipping": 1.0, "train_batch_size": 48, "stage": 0.0}
prediction["precision"] = "fp16"
prediction["note"] = "the block is misspelt" """,
)
