"""The stage comparison: one real run of the command, and its table."""

import json
import subprocess
import sys

import pytest

from labsupport.compare import BEST_FOR
from labsupport.launch.launcher import PROGRAM, launcher_environment

pytestmark = pytest.mark.slow


def test_compare_measures_all_four_stages(tmp_path):
    command = [sys.executable, str(PROGRAM), "--compare", "--steps", "6", "--sequence-length", "32"]
    command += ["--json", str(tmp_path / "compare.json")]
    done = subprocess.run(command, env=launcher_environment(), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    runs = json.loads((tmp_path / "compare.json").read_text())["runs"]
    assert [run["stage"] for run in runs] == [0, 1, 2, 3]
    assert {run["world_size"] for run in runs} == {2}
    held = [run["model_state_bytes_per_rank"] for run in runs]
    assert held[0] > held[1] and held[0] > held[3], "partitioning saves memory"
    losses = [run["final_loss"] for run in runs]
    # In bf16 stage 0 steps through another optimizer wrapper than ZeRO and rounds differently.
    assert max(losses[1:]) - min(losses[1:]) < 0.01 and abs(losses[0] - losses[1]) < 0.2
    assert all(run["initial_loss"] > run["final_loss"] for run in runs)
    lines = done.stdout.splitlines()
    header = next(line for line in lines if line.startswith("Stage ") and "Memory" in line)
    assert "Speed" in header and "Best for" in header
    for stage, words in BEST_FOR.items():
        row = next(line for line in lines if line.startswith(f"{stage} "))
        assert words in row
    assert "(100%)" in next(line for line in lines if line.startswith("0 "))
