"""An accelerate config, in YAML: the ds_config that accelerate makes of it, or the file that it names.

The keys are those of DeepSpeedPlugin in accelerate/utils/dataclasses.py, as `accelerate config` writes them.
"""

from pathlib import Path

from labsupport.doctor.reading import read_document
from labsupport.errors import ConfigError

# {accelerate's key: DeepSpeed's path}
KEYS = {
    "gradient_accumulation_steps": ("gradient_accumulation_steps",),
    "gradient_clipping": ("gradient_clipping",),
    "zero_stage": ("zero_optimization", "stage"),
    "offload_optimizer_device": ("zero_optimization", "offload_optimizer", "device"),
    "offload_optimizer_nvme_path": ("zero_optimization", "offload_optimizer", "nvme_path"),
    "offload_param_device": ("zero_optimization", "offload_param", "device"),
    "offload_param_nvme_path": ("zero_optimization", "offload_param", "nvme_path"),
    "zero3_save_16bit_model": ("zero_optimization", "stage3_gather_16bit_weights_on_model_save"),
}
BLOCK = "deepspeed_config"


def config_of(document):
    """Return (Document of a ds_config, ranks or None) for the Document of a YAML file.

    Raises ConfigError where the YAML is no config of accelerate's with DeepSpeed.
    """
    whole = document.value if isinstance(document.value, dict) else {}
    block = whole.get(BLOCK)
    if not isinstance(block, dict):
        raise ConfigError(f"{document.name} has no block {BLOCK}: give a ds_config, or an accelerate config with one.")
    ranks = whole.get("num_processes")
    ranks = ranks if isinstance(ranks, int) and not isinstance(ranks, bool) and ranks > 0 else None
    if named := block.get("deepspeed_config_file"):
        beside = Path(document.name).parent / str(named)
        return read_document(beside if beside.exists() else str(named)), ranks
    config = {"train_batch_size": "auto", "train_micro_batch_size_per_gpu": "auto"}
    renamed = {}
    for key, path in KEYS.items():
        if key in block and not (key.endswith("nvme_path") and block[key] in ("none", None)):
            inner = config
            for step in path[:-1]:
                inner = inner.setdefault(step, {})
            inner[path[-1]] = block[key]
            renamed[path] = (BLOCK, key)
    config.setdefault("zero_optimization", {}).setdefault("stage", 2)
    precision = str(whole.get("mixed_precision", "no"))
    if precision in ("fp16", "bf16", "fp8"):
        name = "fp16" if precision == "fp16" else "bf16"
        config[name] = {"enabled": True}
        renamed[name, "enabled"] = ("mixed_precision",)
    document.value, document.renamed = config, renamed
    return document, ranks
