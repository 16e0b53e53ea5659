"""What is learnt of DeepSpeed, where it is kept, and the models that are made of it, against DeepSpeed's own."""

import json
import os
import subprocess
import sys

import pytest

from labsupport.doctor import blocks
from labsupport.doctor.known import _kept, cache_file, known
from labsupport.doctor.learn import _one_rank


def test_every_model_that_the_parser_makes_is_known(monkeypatch):
    """Of a config with every block, each pydantic model that DeepSpeed makes has its place in `known`."""
    import deepspeed.runtime.config as parser
    from deepspeed.runtime.config_utils import DeepSpeedConfigModel

    made, real = set(), DeepSpeedConfigModel.__init__

    def remember(self, *arguments, **values):
        made.add(type(self).__name__)
        real(self, *arguments, **values)

    monkeypatch.setattr(DeepSpeedConfigModel, "__init__", remember)
    whole = {key: {} for key in (*known()["blocks"], *known()["roots"]) if "." not in key and key != "monitor"}
    zero = {"stage": 3, "zenflow": {}, "offload_param": {}, "offload_optimizer": {}}
    with _one_rank(parser):
        parser.DeepSpeedConfig(whole | {"train_batch_size": 1, "zero_optimization": zero, "timers": {"throughput": {}}})
    assert made == set(known()["models"])


def test_every_check_of_deepspeeds_own_has_its_place_here():
    before = {
        ("DeepSpeedFP16Config", "_validate_loss_scale"): ("loss_scale",),
        ("DeepSpeedFP16Config", "_reject_non_integer_scale_params"): ("loss_scale_window", "min_loss_scale"),
    }
    for name, model in known()["models"].items():
        for check in model["validators"]:
            fields = before.get((name, check), ())
            assert check in blocks.VALIDATORS.get(name, {}) or fields, f"{name}.{check} is not asked here"
            assert all((name, field) in blocks.BEFORE for field in fields)
    assert {name for name in blocks.VALIDATORS} | {name for name, _ in blocks.BEFORE} <= set(known()["models"])


def test_the_keys_of_the_top_level_are_those_that_deepspeed_asks_for():
    assert {"train_batch_size", "bf16", "bfloat16", "comet", "sequence_parallel_size"} <= set(known()["top_level"])
    assert "amp" in known()["removed"] and "amp" not in known()["top_level"]
    assert known()["top_level"]["gradient_clipping"] == 1.0


def run_python(code, **environment):
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=300)


LOOK = "from labsupport.doctor.known import known; import sys; print(len(known()['models']), 'torch' in sys.modules)"


def test_it_is_learnt_once_and_said_so(tmp_path):
    first = run_python(LOOK, XDG_CACHE_HOME=str(tmp_path))
    assert first.returncode == 0, first.stderr
    assert "Learning once" in first.stderr and first.stdout.split()[1] == "False"
    (file,) = tmp_path.rglob("*.json")
    second = run_python(LOOK, XDG_CACHE_HOME=str(tmp_path))
    assert second.stderr == "" and second.stdout == first.stdout
    content = file.read_text()
    file.write_text(content[: len(content) // 2])
    assert _kept(file) is None, "half a file is learnt again"
    assert _kept(tmp_path / "nowhere") is None
    file.write_text("[]")
    assert _kept(file) is None


def test_a_home_that_cannot_be_written_to_is_no_mistake(monkeypatch, tmp_path):
    from labsupport.doctor import known as module

    learnt = {"models": {}}
    monkeypatch.setattr(module, "_learnt", lambda version: learnt)
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(module, "cache_file", lambda versions: tmp_path / "file" / "below" / "x.json")
    assert known.__wrapped__() == learnt


def test_another_version_has_a_file_of_its_own():
    versions = {"deepspeed": "0.19.8", "torch": "2.13.0"}
    assert cache_file(versions) != cache_file(versions | {"deepspeed": "0.19.9"})


@pytest.mark.parametrize("name", ["zero_optimization", "fp16", "bf16", "compile", "tensor_parallel", "monitor"])
def test_defaults_are_deepspeeds(name):
    from deepspeed.monitor.config import DeepSpeedMonitorConfig
    from deepspeed.runtime.config import CompileConfig
    from deepspeed.runtime.precision_config import DeepSpeedBF16Config, DeepSpeedFP16Config
    from deepspeed.runtime.tensor_parallel.config import TPTrainingConfig
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
    from generated import plain

    theirs = {"zero_optimization": DeepSpeedZeroConfig, "fp16": DeepSpeedFP16Config, "bf16": DeepSpeedBF16Config,
              "compile": CompileConfig, "tensor_parallel": TPTrainingConfig,
              "monitor": DeepSpeedMonitorConfig}  # fmt: skip
    assert plain(blocks.defaults(name)) == plain(theirs[name]())
    assert json.dumps(known())
