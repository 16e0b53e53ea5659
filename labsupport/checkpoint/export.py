"""Take the weights out of a checkpoint: safetensors files of a chosen size, which transformers loads as its own.

    python -m labsupport.checkpoint export checkpoints/run weights --dtype bf16

One process, no ranks: each tensor is put together by itself, so that what is held at a time is one file. A weight that
the model uses twice is written once, and loading ties it again. Where the model came from a transformers config, that
is written too, so that `AutoModelForCausalLM.from_pretrained("weights")` is the trained model.
"""

import json
import re
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from labsupport.checkpoint.manifest import ADAPTER_CONFIG, MODEL_CONFIG, read_manifest
from labsupport.checkpoint.whole import WholeStates
from labsupport.errors import CheckpointError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
LORA_NAME = re.compile(r"\.(lora_[A-Za-z_]+)\.([^.]+)(\.|$)")
WHOLE_NAME = re.compile(r"\.modules_to_save\.([^.]+)\.")  # what peft trains whole beside the adapter


def export(folder, target, dtype=None, file_bytes=5 * 10**9, adapter=False):
    """Write the weights of a tag's folder into the new folder `target` and return {name: file}.

    dtype: "fp32", "bf16", "fp16" or None, as the optimizer keeps them. file_bytes: how large a file may become; a
    larger tensor has a file of its own. adapter: what a LoRA adapter has trained alone, named as peft loads it.
    Raises CheckpointError for a target that is there already and an adapter that is not.
    """
    folder, target = Path(folder), Path(target)
    if dtype is not None and dtype not in DTYPES:
        raise CheckpointError(f"The dtype {dtype!r} is unknown: take one of {', '.join(DTYPES)}.")
    if target.exists() or target.is_symlink():
        raise CheckpointError(f"{target} is there already: name a folder that does not exist.")
    manifest = read_manifest(folder)
    states = WholeStates(folder, manifest.trained if manifest else None)
    tensors = {name: states.master for name in states.trained} | {name: states.others.get for name in states.others}
    if adapter:
        tensors = {name: read for name, read in tensors.items() if LORA_NAME.search(name) or WHOLE_NAME.search(name)}
        if not tensors:
            raise CheckpointError(f"{folder} holds no LoRA adapter: export it without --adapter.")
    part = target.with_name(f"{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
        files = _write_files(part, tensors, DTYPES.get(dtype), file_bytes, adapter)
        config = folder / (ADAPTER_CONFIG if adapter else MODEL_CONFIG)
        if config.is_file():
            shutil.copy(config, part)
        part.rename(target)
    except (OSError, SafetensorError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        raise CheckpointError(f"The weights were not written to {target}: {reason}; choose another place.") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return files


def _write_files(part, tensors, dtype, file_bytes, adapter):
    """Write the tensors in their order, a new file when the next one would make it too large."""
    stem = "adapter_model" if adapter else "model"
    batches, held, size, total = [], {}, 0, 0
    for name, read in tensors.items():
        tensor = read(name)
        tensor = tensor.to(dtype) if dtype and tensor.is_floating_point() else tensor
        if held and size + tensor.nbytes > file_bytes:
            batches.append(_write(part, f"part-{len(batches)}", held))
            held, size = {}, 0
        held[WHOLE_NAME.sub(".", LORA_NAME.sub(r".\1\3", name)) if adapter else name] = tensor.contiguous().clone()
        size, total = size + tensor.nbytes, total + tensor.nbytes
    batches.append(_write(part, f"part-{len(batches)}", held))
    places = {}
    for number, names in enumerate(batches, 1):
        many = f"-{number:05}-of-{len(batches):05}" if len(batches) > 1 else ""
        (part / f"part-{number - 1}").rename(part / f"{stem}{many}.safetensors")
        places |= dict.fromkeys(names, f"{stem}{many}.safetensors")
    if len(batches) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": places}
        (part / f"{stem}.safetensors.index.json").write_text(json.dumps(index, indent=1))
    return places


def _write(part, file, tensors):
    save_file(tensors, part / file, metadata={"format": "pt"})
    return list(tensors)
