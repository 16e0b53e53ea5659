"""The config doctor: what the installed DeepSpeed will make of a ds_config, told before it starts. No torch.

python -m labsupport.doctor ds_config.json
diagnose({"train_batch_size": 8, "zero_optimisation": {"stage": 2}}, world_size=2)
"""

from labsupport import lazily

_MODULE_OF = {"diagnose": "doctor.diagnosis", "Finding": "doctor.findings", "read_document": "doctor.reading"}
__getattr__ = lazily("labsupport", _MODULE_OF)
__all__ = sorted(_MODULE_OF)
