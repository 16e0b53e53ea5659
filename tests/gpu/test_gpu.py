"""On a machine with an NVIDIA GPU: that the code really runs there, and agrees with independent references."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

from labsupport.machine.probes import has_gpu_device
from labsupport.measure.agreement import PEAK_TOLERANCE, STATE_TOLERANCE

LABS = sorted((ROOT / "notebooks").glob("*.ipynb"))
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not has_gpu_device(), reason="no NVIDIA GPU on this machine: tests marked gpu need one"),
]


def environment_of_a_gpu():
    """This environment without what conftest.py chose for the CPU tests."""
    chosen = ("DS_ACCELERATOR", "OMP_NUM_THREADS")
    return {name: value for name, value in os.environ.items() if name not in chosen}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What gpu_work.py found: one process for all tests, because each would wait for DeepSpeed's import."""
    path = tmp_path_factory.mktemp("gpu") / "found.json"
    command = [sys.executable, str(ROOT / "tests" / "on_ranks" / "gpu_work.py"), str(path)]
    done = subprocess.run(command, env=environment_of_a_gpu(), capture_output=True, text=True, timeout=1200)
    assert path.exists(), done.stdout[-1000:] + done.stderr[-3000:]
    return json.loads(path.read_text())


@pytest.fixture
def result(found, request):
    """The result that a test names with @pytest.mark.parametrize("result", [...], indirect=True)."""
    each = found[request.param]
    assert "error" not in each, each["error"]
    return each


def of(name):
    return pytest.mark.parametrize("result", [name], indirect=True)


@of("training")
def test_the_trainer_really_trains_on_the_gpu(result):
    accelerator, device, precision = result["machine"]
    assert accelerator == "cuda" and device == result["device_name"]
    assert result["parameters_on"] == ["cuda"] and result["pinned"]
    # PyTorch's own Adam counts its steps on the host: a number.
    assert result["model_states_on_gpu"] > 10e6 * 12 and result["model_states_on_host"] < 1000
    assert result["peak_bytes"] > result["model_states_on_gpu"]
    assert result["losses"][-1] < 0.7 * result["losses"][0]
    assert precision == ("bf16" if result["capability"][0] >= 8 else "fp16")


@of("overflow")
def test_fp16_skips_a_step_that_overflows_and_halves_its_scale(result):
    before, first, second, after = result["states"]
    assert result["hysteresis"] == 2, "DeepSpeed forgives the first overflow"
    assert [first["skipped"], second["skipped"], after["skipped"]] == [before["skipped"] + n for n in (1, 2, 2)]
    assert first["sum"] == second["sum"] == before["sum"] != after["sum"]
    assert second["scale"] == before["scale"] / 2 == after["scale"]
    assert result["losses"][-1] < result["losses"][0]


@of("fused_adam")
def test_fused_adam_is_adamw(result):
    if "reason" in result:
        pytest.skip(f"no FusedAdam here: {result['reason']}")
    assert result["moved"] > 0.01 and result["difference"] < 1e-5


@of("fused_attention")
def test_attention_takes_a_fused_kernel(result):
    fused, plain = result["losses"]
    assert fused == pytest.approx(plain, rel=0.02)


@of("allocator")
def test_the_ledger_finds_what_the_allocator_has_handed_out(result):
    for stage, gap in result.items():
        assert gap["counted"] > 10e6 * 12 and gap["rounding"] >= 0, (stage, gap)
        assert abs(gap["unexplained"]) <= 0.03 * gap["counted"], (stage, gap)


@of("stages_in_fp32")
def test_every_stage_agrees_with_stage_0_in_fp32(result):
    for stage in "123":
        assert result[stage] == pytest.approx(result["0"], abs=1e-3)


@of("planner")
def test_the_planner_is_within_its_tolerance(result):
    for stage, errors in result.items():
        assert all(abs(error) <= STATE_TOLERANCE for error in errors["states"]), (stage, errors)
        assert abs(errors["peak"]) <= PEAK_TOLERANCE, (stage, errors)


@of("out_of_memory")
def test_a_full_gpu_is_one_sentence(result):
    assert "ran out of memory" in result["sentence"] and "smaller micro-batch" in result["sentence"]
    assert "\n" not in result["sentence"]


@pytest.mark.parametrize("lab", LABS, ids=[lab.stem for lab in LABS])
def test_a_lab_runs_on_the_gpu(lab, tmp_path):
    copy = shutil.copy(lab, tmp_path)
    environment = environment_of_a_gpu() | {"DEEPSPEED_COURSE_PROGRESS": str(tmp_path / "progress.json")}
    command = [sys.executable, "-m", "pytest", "--nbmake", "--overwrite", "--nbmake-timeout=900", "-q",
               "-p", "no:cacheprovider", f"--rootdir={tmp_path}", str(copy)]  # fmt: skip
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=3600)
    kept = ROOT / "_build" / "executed_gpu"
    kept.mkdir(parents=True, exist_ok=True)
    shutil.copy(copy, kept)
    assert done.returncode == 0, done.stdout[-3000:]
    if "describe_machine" in lab.read_text():
        assert "accelerator cuda" in (kept / lab.name).read_text(), "the lab saw the GPU"
