"""The program from the outside: its result, its sentences, its interruption."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from labsupport import create_deepspeed_config
from labsupport.deepspeed_trainer import parse
from labsupport.errors import LabError, TrainingError
from labsupport.launch.hostfile import check_hostfile
from labsupport.launch.launcher import PROGRAM, launcher_command, launcher_environment, run_program
from labsupport.wording import banner

pytestmark = pytest.mark.slow

QUICK = ["--model", "tiny", "--steps", "12", "--sequence-length", "32"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """One run of ZeRO-2 on two ranks that saves two checkpoints: (result, what it printed, checkpoint folder)."""
    folder, lines = tmp_path_factory.mktemp("run") / "checkpoint", []
    saving = ["--save", folder, "--save-every", "4", "--keep", "2"]
    return run_program([*QUICK, "--stage", "2", *saving], 2, lines.append), lines, folder


def test_result_holds_what_was_measured(trained):
    result, lines, _ = trained
    assert (result["stage"], result["world_size"], result["accelerator"]) == (2, 2, "cpu")
    assert result["final_loss"] < result["initial_loss"] < 6
    assert len(result["step_seconds"]) == 12 - result["warm_up_steps"]
    assert all(seconds > 0 for seconds in result["step_seconds"]) and result["samples_per_second"] > 0
    # bf16, two ranks, stage 2, at rest: 2 + (4 + 8) / 2 bytes a parameter.
    assert result["model_state_bytes_per_rank"] / result["parameters"] == pytest.approx(8, rel=0.02)
    assert result["peak_bytes_per_rank"] > result["model_state_bytes_per_rank"]
    assert result["offload"] == {"optimizer": "none", "parameters": "none"}
    assert {"torch", "deepspeed", "python"} <= set(result["versions"])
    assert result["config"]["zero_optimization"]["stage"] == 2
    assert json.loads(json.dumps(result)) == result


def test_banner_says_what_the_result_says(trained):
    result, lines, _ = trained
    text = "\n".join(lines)
    assert "Lab 05 Milestone: DeepSpeed Training Complete!" in text
    for line in banner(result).splitlines():
        assert line in text
    for word in ("ZeRO stage", "Offload", "Initial loss", "Final loss", "Memory per rank (CPU)", "Samples per second"):
        assert word in text
    assert "One rank: nothing is partitioned" not in text
    assert "One rank: nothing is partitioned" in banner(result | {"world_size": 1})
    assert "Memory per GPU" in banner(result | {"accelerator": "cuda"})
    assert not any("INFO" in line and "runner" not in line and "launch" not in line for line in lines), "no log walls"


def test_a_resumed_run_is_the_one_that_was_saved(trained):
    """Nothing of its command line is repeated but the number of steps, and its losses are the same to the bit."""
    result, _, folder = trained
    assert sorted(tag.name for tag in folder.glob("global_step*")) == ["global_step12", "global_step8"]
    on = run_program(["--resume", folder, "--tag", "global_step8", "--steps", "12"], 2)
    assert on["resumed_after_step"] == 8 and on["losses"] == result["losses"][8:]
    assert on["final_loss"] == result["final_loss"]
    with pytest.raises(TrainingError, match="already has 12 steps"):
        run_program(["--resume", folder, "--steps", "12"], 2)


def test_a_run_that_is_asked_to_end_saves_and_is_started_again(trained, tmp_path):
    """SIGTERM reaches one rank alone, as DeepSpeed's launcher sends it: to the next one when the first has ended."""
    lines = []

    def ask_to_end(line):
        lines.append(line)
        if line.startswith("Saved") and sum(each.startswith("Saved") for each in lines) == 1:
            family = psutil.Process().children(recursive=True)
            next(each for each in family if "--local_rank=1" in each.cmdline()).terminate()

    saving = ["--save", tmp_path, "--save-every", "2", "--keep", "1"]
    result = run_program([*QUICK, "--stage", "2", *saving], 2, ask_to_end, restarts=1)
    done = result["resumed_after_step"]
    assert 2 < done < 12 and f"asked to end by SIGTERM and ended after step {done}" in "\n".join(lines)
    assert f"exits with return code = {os.EX_TEMPFAIL}" in "\n".join(lines)
    assert result["losses"] == trained[0]["losses"][done:]
    assert [tag.name for tag in tmp_path.glob("global_step*")] == ["global_step12"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--stage", "4"], "--stage: invalid choice"),
        (["--stage", "0", "--offload"], "--offload at --stage 0"),
        (["--stage", "2", "--offload", "nvme"], "'nvme' needs stage 3"),
        (["--steps", "0"], "--steps is 0"),
        (["--speed", "9"], "unrecognized arguments: --speed 9"),
        (["--config", "missing.json"], "Cannot read the config missing.json"),
        (["--resume", "nowhere"], "There is no checkpoint at nowhere"),
        (["--resume", "auto"], "--resume auto looks into the folder of --save"),
        (["--save-every", "5"], "--save-every needs a folder"),
        (["--keep", "0", "--save", "x"], "--keep is 0"),
        (["--tag", "global_step1"], "name the folder with --resume"),
        (["--hostfile", "nowhere.txt"], "Cannot read the hostfile nowhere.txt"),
        (["--compare", "--resume", "x"], "leave out --config, --resume and --save"),
        (["--model", "huge"], "--model: invalid choice"),
        (["--sequence-length", "1000", "--model", "tiny"], "--sequence-length is 1000"),
        (["--json", "no/such/folder/x.json"], "Cannot write the result to no/such/folder"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_mistakes_on_the_command_line_are_one_sentence(arguments, words):
    done = subprocess.run(
        [sys.executable, str(PROGRAM), *arguments],
        env=launcher_environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and words in errors[0], done.stderr
    assert "Traceback" not in done.stderr


def test_a_hostfile_is_read_as_deepspeed_reads_it(tmp_path):
    from deepspeed.launcher.runner import fetch_hostfile

    path = tmp_path / "hostfile"
    path.write_text("# two nodes\nnode1 slots=8\n\nnode2 slots=4\n")
    assert check_hostfile(path) == dict(fetch_hostfile(str(path))) == {"node1": 8, "node2": 4}
    for text, words in {
        "node1 8\n": "Line 1",
        "node1 slots=8\nnode1 slots=8\n": "Line 2",
        "# nobody\n": "names no host",
    }.items():
        path.write_text(text)
        with pytest.raises(LabError, match=words):
            check_hostfile(path)


def test_hostfile_hands_over_to_the_launcher_and_a_config_file_decides_stage_and_offload(tmp_path):
    config = create_deepspeed_config(3, precision="fp32", train_batch_size=4, offload_optimizer=True)
    (tmp_path / "ds_config.json").write_text(json.dumps(config))
    (tmp_path / "hostfile.txt").write_text("localhost slots=2\n")
    files = ["--hostfile", tmp_path / "hostfile.txt", "--config", tmp_path / "ds_config.json"]
    command = [sys.executable, PROGRAM, *files, *QUICK, "--json", tmp_path / "result.json"]
    done = subprocess.run(command, env=launcher_environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((tmp_path / "result.json").read_text())
    assert (result["world_size"], result["stage"], result["precision"]) == (2, 3, "fp32")
    assert result["offload"]["optimizer"] == "cpu"


@pytest.mark.parametrize("who", ["the terminal's whole group", "the launcher alone"])
def test_interrupting_a_run_leaves_no_rank(who):
    command = [*launcher_command(2), str(PROGRAM), "--model", "tiny", "--steps", "100000"]
    launcher = subprocess.Popen(
        command,
        env=launcher_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        # A test run in the background has Ctrl-C switched off, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    for line in launcher.stdout:
        assert not line.startswith("training:"), "the program's line that this test waits for has other words now"
        if line.startswith("Run:"):
            break
    family = psutil.Process(launcher.pid).children(recursive=True)
    assert len([p for p in family if str(PROGRAM) in p.cmdline()]) >= 2
    if who == "the launcher alone":
        launcher.send_signal(signal.SIGINT)
    else:
        os.killpg(launcher.pid, signal.SIGINT)
    launcher.communicate(timeout=60)
    deadline = time.monotonic() + 30
    while any(is_alive(process) for process in family) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not [process for process in family if is_alive(process)]


def is_alive(process):
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def test_a_run_that_takes_too_long_is_stopped_whole(monkeypatch, tmp_path):
    monkeypatch.setenv("RUN_OF_THIS_TEST", str(tmp_path))
    with pytest.raises(TrainingError, match="took longer than 15 s"):
        run_program(["--model", "tiny", "--steps", "100000"], 2, timeout_seconds=15)
    time.sleep(1)
    assert not any(started_here(process, tmp_path) for process in psutil.process_iter())


def started_here(process, folder):
    """Whether a process other than this one has the environment of this test's run."""
    with contextlib.suppress(psutil.Error):
        return process.pid != os.getpid() and process.environ().get("RUN_OF_THIS_TEST") == str(folder)
    return False


def test_arguments_default_to_the_documented_ones():
    options = parse([])
    assert (options.stage, options.offload, options.accumulation) == (2, "none", 1)
    assert parse(["--stage", "3", "--offload"]).offload == "cpu"
    assert os.environ.get("RANK") is None


def test_two_nodes_and_torchrun_train_as_the_deepspeed_launcher_does(trained):
    from labsupport.launch.launcher import run_under_torchrun
    from labsupport.launch.two_nodes import run_two_nodes

    printed = []
    nodes = run_two_nodes([*QUICK, "--stage", "2"], on_line=lambda node, line: printed.append(node))
    torchrun = run_under_torchrun([*QUICK, "--stage", "2"], accelerator="cpu")
    assert nodes["world_size"] == torchrun["world_size"] == 2
    assert set(printed) == {0, 1}, "both nodes print"
    assert nodes["final_loss"] == pytest.approx(trained[0]["final_loss"], rel=1e-4)
    assert torchrun["final_loss"] == pytest.approx(trained[0]["final_loss"], rel=1e-4)


def test_a_mistake_on_two_nodes_is_one_sentence():
    from labsupport.launch.two_nodes import run_two_nodes

    with pytest.raises(TrainingError, match="Cannot read the config missing.json"):
        run_two_nodes([*QUICK, "--config", "missing.json"])
