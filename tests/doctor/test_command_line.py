"""python -m labsupport.doctor: what it prints, returns and writes."""

import io
import json
import subprocess
import sys
import time

import pytest

from labsupport.doctor.__main__ import main
from labsupport.doctor.diagnosis import diagnose

SOUND = {"train_micro_batch_size_per_gpu": 2, "bf16": {"enabled": True}, "gradient_clipping": 1.0,
         "optimizer": {"type": "AdamW", "params": {"lr": 1e-4}}}  # fmt: skip
SILENT = SOUND | {"zero_optimisation": {"stage": 2}}


def write(folder, name, config):
    path = folder / name
    path.write_text(config if isinstance(config, str) else json.dumps(config, indent=2))
    return str(path)


@pytest.mark.parametrize(
    ("config", "status"),
    [(SOUND, 0), (SILENT, 1), (SOUND | {"amp": {}}, 1), (SOUND | {"wall_clock_breakdown": True}, 1), ("{", 2), ("", 2)],
)
def test_the_exit_status_says_how_bad_it_is(tmp_path, config, status):
    assert main([write(tmp_path, "ds_config.json", config)]) == status


def test_a_finding_has_its_place_and_its_way_out(tmp_path, capsys):
    path = write(tmp_path, "ds_config.json", SILENT)
    assert main([path]) == 1
    line = next(line for line in capsys.readouterr().out.splitlines() if "silent" in line)
    assert line.startswith(f"{path}:13:3: silent: ") and "did you mean 'zero_optimization'?" in line
    assert line.endswith("[unknown-key]")


def test_json_is_printed_and_nothing_else(tmp_path, capsys):
    assert main([write(tmp_path, "ds_config.json", SILENT), "--json", "--explain"]) == 1
    (result,) = json.loads(capsys.readouterr().out)
    assert result["findings"][0]["code"] == "unknown-key" and result["findings"][0]["line"] == 13
    assert {"key": "gradient_clipping", "value": 1.0, "origin": "the file"} in result["explained"]


def test_a_folder_is_looked_through(tmp_path, capsys):
    inner = tmp_path / "inner"
    inner.mkdir()
    write(inner, "ds_config.json", SILENT)
    write(tmp_path, "zero3.json", "{")
    write(tmp_path, "package.json", {"name": "no config"})
    assert main([str(tmp_path)]) == 2
    told = capsys.readouterr()
    assert "inner/ds_config.json" in told.out and "package.json" not in told.out and "zero3.json" in told.err
    (tmp_path / "empty").mkdir()
    assert main([str(tmp_path / "empty")]) == 2 and "holds no ds_config" in capsys.readouterr().err


def test_standard_input_is_read(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(json.dumps(SILENT).encode())))
    assert main(["-"]) == 1 and "unknown-key" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments", [["--world-size", "0", "x"], ["--gpu", "h999", "x"], [], ["--wrong"], ["nowhere"]]
)
def test_a_wrong_command_line_is_one_sentence(arguments, capsys):
    assert main(arguments) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ") and told.count("\n") == 1


def test_explain_says_where_each_value_comes_from(tmp_path, capsys):
    config = SOUND | {"zero_optimization": {"stage": 3, "cpu_offload": True, "reduce_bucket_size": "auto"}}
    main([write(tmp_path, "ds_config.json", config), "--explain", "--world-size", "4"])
    rows = [
        [each.strip() for each in line.split("  ") if each.strip()] for line in capsys.readouterr().out.splitlines()
    ]
    assert ["train_batch_size", "8", "derived"] in rows
    assert ["optimizer", "DeepSpeed's CPU AdamW", "the file"] in rows
    assert ["zero_optimization.reduce_bucket_size", "500000000", "default"] in rows
    assert ["zero_optimization.offload_optimizer.device", "cpu", "an old spelling in the file"] in rows
    assert ["zero_optimization.overlap_comm", "true", "derived"] in rows


def test_the_trainers_values_are_told(tmp_path, capsys):
    config = {"train_batch_size": "auto", "train_micro_batch_size_per_gpu": "auto", "bf16": {"enabled": "auto"},
              "zero_optimization": {"stage": 2, "reduce_bucket_size": "auto",
                                    "allgather_bucket_size": "auto"}}  # fmt: skip
    path = write(tmp_path, "ds_config.json", config)
    assert main([path, "--hf", "--explain"]) == 1
    told = capsys.readouterr().out
    assert "per_device_train_batch_size" in told and "the Trainer" in told and "16777216" in told
    assert "allgather_bucket_size" in told and "does not fill this one in" in told
    assert main([path]) == 1 and "auto-at-top-level" in capsys.readouterr().out


WRONG = """{
  // for eight cards
  "train_batch_size": 64, "train_micro_batch_size_per_gpu": 2,
  "zero_optimization": {"stage": 2, "cpu_offload": true, "stage3_max_live_parameters": 7, "zero_hpz_partition_size": 1,
                        "reduce_bucket_size": 15099494.4, "aio": {}},
  "optimizer": {"type": "adamw", "parameters": {"lr": 1, "max_grad_norm": 0.5}},
  "gradient_cliping": 0.5, "reduce_scatter": false, "bf16": {"enabled": "true"}, "amp": {}
}"""


def test_fix_writes_beside_the_file_what_deepspeed_reads_without_a_word(tmp_path, capsys):
    path = write(tmp_path, "ds_config.json", WRONG)
    before = (tmp_path / "ds_config.json").read_bytes()
    assert main([path, "--fix", "--world-size", "8"]) == 1
    assert (tmp_path / "ds_config.json").read_bytes() == before
    config = json.loads((tmp_path / "ds_config.fixed.json").read_text())
    assert config == {
        "train_batch_size": 64,
        "train_micro_batch_size_per_gpu": 2,
        "zero_optimization": {
            "stage": 2,
            "offload_optimizer": {"device": "cpu"},
            "zero_hpz_partition_size": 1,
            "reduce_bucket_size": 15099494,
            "reduce_scatter": False,
        },
        "optimizer": {"type": "adamw", "params": {"lr": 1}},
        "gradient_clipping": 0.5,
        "bf16": {"enabled": True},
        "aio": {},
    }
    assert {finding.severity for finding in diagnose(config, 8)} <= {"note"}
    capsys.readouterr()
    assert main([path, "--fix"]) == 2 and "is there already" in capsys.readouterr().err
    assert sorted(file.name for file in tmp_path.iterdir()) == ["ds_config.fixed.json", "ds_config.json"]


def test_nothing_to_mend_writes_nothing(tmp_path):
    path = write(tmp_path, "ds_config.json", SOUND)
    assert main([path, "--fix"]) == 0
    assert [file.name for file in tmp_path.iterdir()] == ["ds_config.json"]


ACCELERATE = """compute_environment: LOCAL_MACHINE
deepspeed_config:
  gradient_accumulation_steps: 4
  offload_optimizer_device: none
  offload_param_device: cpu
  zero_stage: 2
distributed_type: DEEPSPEED
mixed_precision: bf16
num_processes: 8
"""


def test_an_accelerate_config_is_read(tmp_path, capsys):
    path = write(tmp_path, "accelerate.yaml", ACCELERATE)
    assert main([path]) == 1
    assert f"{path}:5:3: silent: " in capsys.readouterr().out
    write(tmp_path, "ds.json", SILENT | {"zero_optimization": {"stage": 0}})
    named = write(tmp_path, "named.yaml", "deepspeed_config:\n  deepspeed_config_file: ds.json\nnum_processes: 2\n")
    assert main([named]) == 1 and "unknown-key" in capsys.readouterr().out
    other = write(tmp_path, "other.yaml", "model: gpt2\n")
    assert main([other]) == 2 and "no block deepspeed_config" in capsys.readouterr().err
    broken = write(tmp_path, "broken.yaml", "a: [1\nb: }")
    assert main([broken]) == 2 and "not valid YAML at line" in capsys.readouterr().err


def test_a_file_takes_less_than_a_second_from_a_cold_start_and_no_torch(tmp_path):
    path = write(tmp_path, "ds_config.json", SILENT)
    code = (
        "import sys\nfrom labsupport.doctor.__main__ import main\n"
        f"main([{path!r}, '--explain'])\nimport time\nprint(time.process_time(), file=sys.stderr)\n"
        "sys.exit(any(name in sys.modules for name in ('torch', 'deepspeed', 'numpy', 'transformers')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and float(done.stderr) < 1, done.stderr


def test_diagnose_takes_less_than_five_milliseconds():
    config = SILENT | {"zero_optimization": {"stage": 3, "offload_optimizer": {"device": "cpu"}, "overlap_com": True}}
    diagnose(config, 8)
    start = time.process_time()
    for _ in range(20):
        diagnose(config, 8, "cuda")
    assert (time.process_time() - start) / 20 < 0.005
