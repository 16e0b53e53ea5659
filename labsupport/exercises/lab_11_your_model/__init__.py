"""The exercises of lab 11: a LoRA counted, written, saved and merged under ZeRO, and a mixture of experts mended."""

from labsupport.exercises.lab_11_your_model import lora_bytes, lora_layer, mend_experts, merge, save_adapter

EXERCISES = (
    lora_bytes.EXERCISE,
    lora_layer.EXERCISE,
    save_adapter.EXERCISE,
    merge.EXERCISE,
    mend_experts.EXERCISE,
)
