"""What is said of the Hugging Face Trainer, against transformers and accelerate themselves."""

import copy
import dataclasses
import json
import types

import pytest

from labsupport.doctor.accelerate_file import KEYS, config_of
from labsupport.doctor.case import TRAINER, Case
from labsupport.doctor.diagnosis import diagnose
from labsupport.doctor.known import known
from labsupport.doctor.reading import document_of

AUTO = {
    "train_batch_size": "auto", "train_micro_batch_size_per_gpu": "auto", "gradient_accumulation_steps": "auto",
    "gradient_clipping": "auto", "bf16": {"enabled": "auto"}, "fp16": {"enabled": "auto"},
    "optimizer": {"type": "AdamW", "params": {"lr": "auto", "betas": "auto", "eps": "auto", "weight_decay": "auto"}},
    "scheduler": {"type": "WarmupDecayLR", "params": {"warmup_min_lr": "auto", "warmup_max_lr": "auto",
                  "warmup_num_steps": "auto", "total_num_steps": "auto"}},
    "zero_optimization": {"stage": 3, "reduce_bucket_size": "auto", "stage3_prefetch_bucket_size": "auto",
                          "stage3_param_persistence_threshold": "auto", "stage3_max_live_parameters": "auto"},
}  # fmt: skip


def codes(config, **about):
    return {finding.code for finding in diagnose(config, **about)}


@pytest.fixture(scope="module")
def arguments():
    """transformers' TrainingArguments with its own defaults, on two ranks."""
    from transformers import TrainingArguments

    defaults = {}
    for field in dataclasses.fields(TrainingArguments):
        factory = field.default_factory
        defaults[field.name] = factory() if factory is not dataclasses.MISSING else field.default
    steps = types.SimpleNamespace(**defaults, world_size=2, get_warmup_steps=lambda steps: 0)
    return steps


def test_the_trainer_fills_in_what_is_said_with_the_values_that_are_said(arguments):
    from transformers.integrations.deepspeed import HfTrainerDeepSpeedConfig

    theirs = HfTrainerDeepSpeedConfig(copy.deepcopy(AUTO))
    theirs.trainer_config_process(arguments)
    model = types.SimpleNamespace(config=types.SimpleNamespace(hidden_size=4096))
    theirs.trainer_config_finalize(arguments, model, 1000)
    case = Case(AUTO, world_size=2, hugging_face=True)
    filled = {path: value for path, (value, _) in case.filled.items()}
    assert filled.pop(("train_batch_size",)) is None and theirs.config["train_batch_size"] == case.batch.train
    for path, value in filled.items():
        block = theirs.config
        for step in path:
            block = block[step]
        assert block == value, path
    assert {".".join(path) for path in case.filled} == set(TRAINER) == set(known()["trainer_fills"])
    assert theirs.config["zero_optimization"]["stage3_max_live_parameters"] == "auto", "and DeepSpeed drops it"
    assert "auto-in-block" in codes(AUTO, hugging_face=True)
    assert not {finding for finding in diagnose(AUTO, 2, hugging_face=True) if finding.severity == "error"}


def test_what_does_not_match_is_refused_by_the_trainer(arguments):
    from transformers.integrations.deepspeed import HfTrainerDeepSpeedConfig

    config = AUTO | {"train_micro_batch_size_per_gpu": 3}
    theirs = HfTrainerDeepSpeedConfig(copy.deepcopy(config))
    theirs.trainer_config_process(arguments)
    assert len(theirs.mismatches) == 1 and "per_device_train_batch_size" in theirs.mismatches[0]
    (said,) = [f for f in diagnose(config, hugging_face=True) if f.code == "must-match-trainer"]
    assert said.path == "train_micro_batch_size_per_gpu" and "per_device_train_batch_size" in said.sentence


def test_accelerate_refuses_a_config_without_zero():
    from accelerate.utils import DeepSpeedPlugin

    with pytest.raises(ValueError, match="ZeRO optimization config"):
        DeepSpeedPlugin(hf_ds_config={"train_batch_size": "auto"})
    assert "trainer-needs-zero" in codes({"train_batch_size": "auto"}, hugging_face=True)
    assert "trainer-needs-zero" not in codes({"train_batch_size": 8})


@pytest.mark.parametrize("content", ['{"zero_optimization": {"stage": 2},}', '\ufeff{"zero_optimization": {}}'])
def test_accelerate_reads_plain_json_alone(tmp_path, content):
    from accelerate.utils.deepspeed import HfDeepSpeedConfig

    path = tmp_path / "ds.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(json.JSONDecodeError):
        HfDeepSpeedConfig(str(path))
    document = document_of(content.encode())
    assert "trainer-needs-json" in codes(document.value, hugging_face=True, document=document)
    assert "trainer-needs-json" not in codes(document.value, document=document)


def test_an_accelerate_config_becomes_what_accelerate_makes_of_it():
    from accelerate.utils import DeepSpeedPlugin

    asked = {
        "zero_stage": 3,
        "gradient_accumulation_steps": 4,
        "gradient_clipping": 0.5,
        "zero3_save_16bit_model": True,
        "offload_optimizer_device": "cpu",
        "offload_param_device": "nvme",
        "offload_param_nvme_path": "/n",
    }
    theirs = DeepSpeedPlugin(**asked).deepspeed_config
    ours = config_of(document_of(json.dumps({"deepspeed_config": asked, "num_processes": 4}).encode(), yaml=True))
    config, ranks = ours[0].value, ours[1]
    assert ranks == 4 and set(asked) <= set(KEYS)
    for path in [("train_batch_size",), *KEYS.values()]:
        mine, their = config, theirs
        for step in path:
            mine, their = (block.get(step, {}) if isinstance(block, dict) else None for block in (mine, their))
        assert mine == their or (mine == {} and their in (None, "none")), path
