"""The GPU tier without a GPU: its dry run, what it records, and what it does when something does not fit or fails."""

import copy
import json
import os
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT
from recorded_schema import faults

from labsupport.config import zero_stage
from labsupport.errors import TrainingError
from labsupport.gpu import figures
from labsupport.gpu import session as gpu_session
from labsupport.gpu import suites as gpu_suites
from labsupport.gpu import tables as gpu_records
from labsupport.gpu.cells import Cell
from labsupport.gpu.session import Session, kept_folder
from labsupport.gpu.suites import SUITES, Tier, label, next_size_down
from labsupport.gpu.worker import is_out_of_memory
from labsupport.machine import probes as machine
from labsupport.measure import agreement
from labsupport.memory.messages import total_wire_bytes
from labsupport.memory.planner import plan_of
from labsupport.records import read_record, record_names
from labsupport.settings import read_settings

pytestmark = pytest.mark.slow

WITHOUT_A_GPU = pytest.mark.skipif(machine.has_gpu_device(), reason="this machine has a GPU")


@pytest.fixture(scope="module")
def dry_run(tmp_path_factory):
    """The folder of the records of a dry run, made by the command that a maintainer types."""
    folder = tmp_path_factory.mktemp("records")
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), "--dry-run", "--fresh", "--folder", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=850)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return folder


@pytest.mark.parametrize("suite", SUITES)
def test_every_suite_runs_and_records_where_it_came_from(dry_run, suite):
    record = read_record(f"gpu_{suite}", dry_run)
    assert faults(f"gpu_{suite}", record) == [] and record["hardware"].startswith("DRY RUN, no measurement")
    assert {"cuda", "driver"} <= set(record["versions"])
    assert record["measured"]["cells"] and all("error" not in entry for entry in record["measured"]["cells"])


def test_the_cells_measured_what_their_suite_is_for(dry_run):
    cells = {suite: read_record(f"gpu_{suite}", dry_run)["measured"]["cells"] for suite in SUITES}
    for entry in cells["grid"] + cells["memory"]:
        compared = agreement.compare(gpu_records.cell_of(entry).run, entry["measured"])
        assert all(abs(error) <= agreement.STATE_TOLERANCE for *_, error in compared["states"].values())
        assert abs(compared["peak"][2]) <= agreement.PEAK_TOLERANCE
    loops = {(entry["cell"]["loop"], bool(entry["cell"]["compile"])) for entry in cells["speed"]}
    assert {"plain PyTorch", "DDP", "FSDP2", "DeepSpeedTrainer"} == {loop for loop, _ in loops}
    assert {compiled for _, compiled in loops} == {True, False}
    for entry in cells["speed"] + cells["grid"] + cells["largest"]:
        result, cell = entry["measured"], gpu_records.cell_of(entry)
        assert len(result["seconds_per_step"]) == cell.windows and result["last_loss"] < 8
        samples = cell.micro_batch_size * cell.world_size
        assert result["tokens_per_second"] == pytest.approx(result["samples_per_second"] * cell.run.sequence_length)
        assert samples / result["samples_per_second"] in [pytest.approx(each) for each in _between(result)]
    for entry in cells["scaling"]:
        parameters, ranks = entry["measured"]["parameters"], gpu_records.cell_of(entry).world_size
        sent = total_wire_bytes(entry["measured"]["collectives"], ranks)
        # A ring sends each of a model's two bytes twice over two ranks' halves: stage 1 half as much again.
        assert sent == 0 if ranks == 1 else 2 * parameters <= sent <= 3.1 * parameters


def _between(result):
    seconds = sorted(result["seconds_per_step"])
    return [*seconds, (seconds[0] + seconds[-1]) / 2]


TABLES = {
    "environment": gpu_records.environment_table, "grid": gpu_records.speed_table, "memory": gpu_records.memory_table,
    "speed": gpu_records.speed_table, "trainer": gpu_records.trainer_table, "offload": gpu_records.memory_table,
    "largest": gpu_records.largest_table, "scaling": gpu_records.scaling_table,
}  # fmt: skip


@pytest.mark.parametrize("suite", TABLES)
def test_a_record_becomes_a_table_with_a_row_a_cell(dry_run, suite):
    record = gpu_records.gpu_record(suite, dry_run)
    lines = TABLES[suite](record).splitlines()
    assert len({line.count("|") for line in lines}) == 1 and "nan" not in " ".join(lines)
    if suite not in ("environment", "trainer"):
        assert len(lines) == 2 + len(record["measured"]["cells"])
    assert record["commit"] in gpu_records.stamp(record) and record["hardware"] in gpu_records.stamp(record)


@pytest.mark.parametrize("suite", ["grid", "offload"])
def test_a_record_becomes_figures_that_name_their_hardware(dry_run, suite):
    own = {"device": "another card", "machine": "1 x another card", "cells": _entries(dry_run, suite)}
    speed = figures.speed_by_stage(suite, own=own, folder=dry_run)
    assert [bar.name.split(",")[0] for bar in speed.figure.data] == ["recorded", "measured here"]
    assert "DRY RUN" in speed.alt and "another card" in speed.alt
    memory = figures.memory_by_stage(suite, folder=dry_run)
    assert {"predicted", "measured"} == {label for bar in memory.figure.data for label in bar.x[1]}


def test_runs_of_other_models_or_batches_are_not_set_beside_each_other(dry_run):
    cells = _entries(dry_run, "grid")
    other = copy.deepcopy(cells[-1])
    other["cell"]["run"]["config"]["train_micro_batch_size_per_gpu"] = 1
    speed = figures.speed_by_stage(
        own={"device": "a card", "machine": "1 x a card", "cells": [*cells[:1], other]}, folder=dry_run
    )
    assert "tiny, micro-batch 2" in speed.figure.data[1].name and len(speed.figure.data[1].x) == 1


def _entries(folder, suite):
    return gpu_records.entries(gpu_records.gpu_record(suite, folder))


def test_without_a_record_the_page_says_so_and_how_to_make_one(tmp_path):
    for figure in (figures.speed_by_stage(folder=tmp_path), figures.memory_by_stage(folder=tmp_path)):
        assert "No GPU has been measured" in figure.text and "make gpu SUITES=grid`" in figure.text


@WITHOUT_A_GPU
def test_without_a_gpu_a_lab_measures_nothing_here():
    assert gpu_session.run_here("grid") is None


def test_no_dry_run_is_recorded_as_a_measurement():
    for name in record_names():
        assert not read_record(name)["hardware"].startswith("DRY RUN"), name


@pytest.mark.parametrize("suite", ["grid", "memory", "offload"])
def test_the_planner_is_within_its_tolerance_of_a_recorded_gpu(suite):
    record = gpu_records.gpu_record(suite)
    if record is None:
        pytest.skip(f"no GPU record of suite {suite}: make gpu on a machine with a GPU writes it")
    for entry in gpu_records.entries(record):
        compared = agreement.compare(gpu_records.cell_of(entry).run, entry["measured"], "cuda")
        assert all(abs(error) <= agreement.STATE_TOLERANCE for *_, error in compared["states"].values()), entry["cell"]
        assert abs(compared["peak"][2]) <= agreement.PEAK_TOLERANCE, entry["cell"]


# What does not fit, what fails, what is interrupted


GPU = {"memory_bytes": 141 * 10**9, "precision": "bf16", "host_memory_bytes": 128 * 2**30}


def tier_of(**changes):
    tier = Tier(dry_run=False, ranks=1)
    tier.environment, tier.ops = GPU | changes, {"optimizer": "DeepSpeed FusedAdam", "nvme": True}
    return tier


@pytest.mark.parametrize(("memory_bytes", "model"), [(141e9, "1.3b"), (24e9, "300m"), (6e9, "85m")])
def test_the_model_is_the_largest_that_the_planner_finds_room_for(memory_bytes, model):
    name, micro_batch = tier_of(memory_bytes=memory_bytes).model("fp32")
    assert name == model
    larger = tier_of(memory_bytes=memory_bytes)
    room = gpu_suites.ROOM * memory_bytes
    assert larger._peak(name, micro_batch, "fp32") <= room
    if micro_batch < 8:
        assert larger._peak(name, 2 * micro_batch, "fp32") > room


def test_offload_is_compared_with_one_model_that_has_room_everywhere(monkeypatch):
    def models(tier):
        return {cell.run.model for cell in SUITES["offload"](tier)}

    assert models(tier_of()) == {"1.3b"}
    assert models(tier_of(host_memory_bytes=32 * 2**30)) == {"300m"}
    monkeypatch.setattr(gpu_suites, "locking_obstacle", lambda count: "" if count <= 3 * 2**30 else "too much")
    assert models(tier_of()) == {"85m"}
    monkeypatch.setattr(gpu_suites.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(2**31, 0, 2**31))
    assert models(tier_of()) == {"85m"}
    without = tier_of()
    without.ops = without.ops | {"nvme": False}
    assert models(without) == {"1.3b"}


def test_a_preset_that_cannot_fit_is_refused_with_both_sizes():
    tier = tier_of(memory_bytes=16e9)
    tier.wanted_model = "1.3b"
    with pytest.raises(TrainingError, match=r"1.3b needs about \d+\.\d GiB in bf16 .* the GPU has 14.9 GiB"):
        tier.model("bf16")


def test_a_gpu_without_bf16_is_measured_in_fp16_with_a_scale_that_skips_no_step():
    tier = tier_of(precision="fp16", memory_bytes=16e9)
    assert tier.precisions == ["fp16", "fp32"]
    for name in ("grid", "memory", "speed", "trainer", "offload", "largest"):
        for cell in SUITES[name](tier):
            assert not cell.run.config.get("bf16") and cell.loop != "FSDP2"
            if "fp16" in cell.run.config:
                assert cell.run.config["fp16"]["initial_scale_power"] <= 8


def test_every_cell_of_every_suite_is_one_that_the_planner_can_predict():
    tier = tier_of()
    tier.ranks = 2
    for name in ("grid", "memory", "speed", "offload", "largest", "scaling"):
        for cell in SUITES[name](tier):
            planned = plan_of(cell.run, "cuda")
            limit = cell.gpu_memory_limit_bytes or GPU["memory_bytes"]
            assert planned.place_bytes("peak", "GPU") <= 1.1 * limit, label(cell)


def test_what_does_not_fit_is_made_smaller_until_nothing_is_left():
    cell, seen = tier_of().cell("grid", 2, model="85m", micro_batch=4), []
    while cell is not None:
        seen.append((cell.run.model, cell.micro_batch_size))
        assert read_settings(cell.run.config, 3).micro_batch_size == cell.micro_batch_size
        cell = next_size_down(cell)
    assert seen == [("85m", 4), ("85m", 2), ("85m", 1), ("10m", 1), ("1m", 1), ("tiny", 1)]
    cell = tier_of().cell("speed", 2, model="1.3b", micro_batch=1)
    layered, single = (cell._replace(run=cell.run._replace(layers=layers)) for layers in (41, 1))
    assert next_size_down(layered).run.layers == 38 and next_size_down(single) is None
    assert next_size_down(Cell("ops")) is None


def test_a_smaller_micro_batch_fits_a_config_that_names_the_whole_batch():
    run = agreement.small_run(2, world_size=4, accumulation=3)
    smaller = next_size_down(Cell("memory", run)).run
    settings = read_settings(smaller.config, 4)
    assert (settings.micro_batch_size, settings.accumulation_steps) == (1, 3)
    assert read_settings(run.config, 4).micro_batch_size == 2, "the larger one stays as it was"


def test_a_cell_survives_json_and_no_two_of_a_suite_have_the_same_name():
    tier = tier_of()
    tier.ranks = 2
    for name in SUITES:
        cells = SUITES[name](tier)
        assert [Cell.from_dict(json.loads(json.dumps(cell.as_dict()))) for cell in cells] == cells
        assert len({label(cell) for cell in cells}) == len(cells)


class Machine:
    """Stands for the processes that measure: full above two samples, and one cell that breaks once."""

    def __init__(self, breaks=None, interrupted_after=None):
        self.asked, self.breaks, self.left = [], breaks, interrupted_after

    def __call__(self, cell, *_):
        self.asked.append(cell)
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
        if cell.micro_batch_size > 2:
            return {"cell": cell.as_dict(), "error": "The GPU ran out of memory.", "out_of_memory": True}
        if self.breaks == zero_stage(cell.run.config):
            return {"cell": cell.as_dict(), "error": "It broke.", "out_of_memory": False}
        return {"cell": cell.as_dict(), "measured": {"tokens_per_second": 1.0}}


def small_cells():
    return [tier_of().cell("grid", stage, model="85m", micro_batch=2) for stage in range(4)]


def test_out_of_memory_tries_the_next_size_and_the_entry_says_so(tmp_path):
    session = Session(tier_of(), tmp_path, processes := Machine())
    cell = tier_of().cell("grid", 2, model="85m", micro_batch=8)
    (entry,), _ = session.measure_suite("grid", [cell])
    assert [asked.micro_batch_size for asked in processes.asked] == [8, 4, 2]
    assert entry["did_not_fit"] == "The GPU ran out of memory." and entry["wanted"] == cell.as_dict()
    assert gpu_records.cell_of(entry).micro_batch_size == 2 and not session.failed


def test_an_interrupted_suite_goes_on_where_it_stopped(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        Session(tier_of(), tmp_path, Machine(interrupted_after=2)).measure_suite("grid", small_cells())
    entries, _ = Session(tier_of(), tmp_path, processes := Machine()).measure_suite("grid", small_cells())
    assert [zero_stage(asked.run.config) for asked in processes.asked] == [2, 3] and len(entries) == 4


def test_a_cell_that_broke_keeps_its_sentence_and_is_tried_again(tmp_path):
    session = Session(tier_of(), tmp_path, Machine(breaks=1))
    entries, _ = session.measure_suite("grid", small_cells())
    assert [entry.get("error") for entry in entries] == [None, "It broke.", None, None] and session.failed
    again = Session(tier_of(), tmp_path, processes := Machine())
    entries, _ = again.measure_suite("grid", small_cells())
    assert len(processes.asked) == 1 and not again.failed and all("error" not in entry for entry in entries)


def test_a_rank_that_failed_outweighs_one_that_did_not(monkeypatch):
    def ended(command, *_, **__):
        told = [{"cell": {}, "measured": {}}, {"cell": {}, "error": "Rank 1 broke."}]
        with open(command[command.index("labsupport.gpu.worker") + 2], "w") as file:
            file.writelines(json.dumps(entry) + "\n" for entry in told)
        return 1, []

    monkeypatch.setattr(gpu_session, "run_to_the_end", ended)
    assert gpu_session.run_cell(small_cells()[0])["error"] == "Rank 1 broke."


@pytest.mark.parametrize(
    ("sentence", "full"),
    [
        ("CUDA out of memory. Tried to allocate 2.00 GiB.", True),
        ("CUDA error: out of memory", True),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", True),
        ("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you tried to", True),
        ("expected scalar type Half but found BFloat16", False),
    ],
)
def test_every_way_in_which_memory_runs_out_is_known(sentence, full):
    error = TrainingError("Take a smaller model.")
    error.__cause__ = RuntimeError(sentence)
    assert is_out_of_memory(RuntimeError(sentence)) == is_out_of_memory(error) == full


def test_a_result_that_an_interruption_cut_is_measured_again(tmp_path):
    Session(tier_of(), tmp_path, Machine()).measure_suite("grid", small_cells()[:2])
    path = tmp_path / "grid.jsonl"
    path.write_text(path.read_text()[:-20])
    Session(tier_of(), tmp_path, processes := Machine()).measure_suite("grid", small_cells()[:2])
    assert len(processes.asked) == 1


def test_a_suite_without_any_measurement_leaves_an_earlier_record_alone(tmp_path, capsys):
    def run_cell(cell, *_):
        if cell.kind == "environment":
            return {"cell": cell.as_dict(), "measured": GPU}
        if cell.kind == "ops":
            return {"cell": cell.as_dict(), "measured": tier_of().ops}
        return {"cell": cell.as_dict(), "error": "It broke.", "out_of_memory": False}

    assert not Session(tier_of(), tmp_path / "kept", run_cell).run(["grid"], tmp_path)
    assert not list(tmp_path.glob("gpu_*.json")) and "nothing is recorded" in capsys.readouterr().out


def test_cells_of_another_commit_card_or_way_of_asking_are_not_taken_over(monkeypatch):
    monkeypatch.setattr(gpu_session, "commit", lambda: "a commit")
    monkeypatch.setattr(gpu_session, "gpu_name", lambda: "a card")
    folders = [kept_folder(tier_of())]
    assert kept_folder(tier_of()) == folders[0]
    for name in ("commit", "gpu_name"):
        with monkeypatch.context() as changed:
            changed.setattr(gpu_session, name, lambda: "another")
            folders.append(kept_folder(tier_of()))
    for change in ({"ranks": 2}, {"model": "85m"}, {"memory_gib": 8.0}, {"dry_run": True}):
        folders.append(kept_folder(Tier(**{"dry_run": False, "ranks": 1} | change)))
    assert len(set(folders)) == len(folders) == 7


def test_a_process_that_ends_without_a_word_is_told_in_one_sentence(monkeypatch):
    cell = small_cells()[0]
    for status, sentence, full in ((-9, "The host ran out of memory", True), (None, "longer than 900 s", False),
                                   (1, "ended with status 1: last words", False)):  # fmt: skip
        monkeypatch.setattr(gpu_session, "run_to_the_end", lambda *_, status=status, **__: (status, ["", "last words"]))
        entry = gpu_session.run_cell(cell)
        assert sentence in entry["error"] and bool(entry.get("out_of_memory")) == full


# Bad input


def run_gpu(*arguments, **environment):
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), *arguments]
    clean = {name: value for name, value in os.environ.items() if name != "DS_ACCELERATOR"}
    return subprocess.run(command, env=clean | environment, capture_output=True, text=True, timeout=120)


@WITHOUT_A_GPU
def test_without_a_gpu_make_gpu_says_so_in_one_sentence():
    done = run_gpu()
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "No NVIDIA GPU is visible" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--suites", "grids"], "invalid choice: 'grids'"),
        (["--dry-run"], "name another folder with --folder"),
        (["--dry-run", "--folder", "/tmp/x", "--memory-gib", "-1"], "--memory-gib is -1.0"),
        (["--dry-run", "--folder", "/tmp/x", "--model", "1.4b"], "did you mean '1.3b'"),
        (["--dry-run", "--folder", "/proc/x"], "/proc/x cannot be written"),
        (["--dry-run", "--folder", "/tmp/x", "--nvme-path", "/proc/x"], "/proc/x cannot be written"),
    ],
)
def test_a_wrong_argument_is_one_sentence(arguments, words):
    done = run_gpu(*arguments)
    assert done.returncode == 2 and words in done.stderr and "Traceback" not in done.stderr


def test_a_python_that_lacks_something_is_told_what(tmp_path):
    command = [sys.executable, "-S", str(ROOT / "benchmarks" / "gpu.py")]  # without site-packages
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "has no labsupport, torch, deepspeed" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_python_that_is_too_old_is_told_so_before_anything_is_imported():
    code = f"import sys, runpy; sys.version_info = (3, 10); runpy.run_path({str(ROOT / 'benchmarks' / 'gpu.py')!r})"
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "take 3.11 or newer" in done.stderr and done.stderr.count("\n") == 1


def test_an_accelerator_that_was_chosen_away_is_told():
    assert "DS_ACCELERATOR is 'cpu'" in run_gpu(DS_ACCELERATOR="cpu").stderr


def test_a_gpu_that_torch_cannot_use_is_told_why(monkeypatch):
    import torch

    monkeypatch.delenv("DS_ACCELERATOR")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(machine, "has_gpu_device", lambda: True)
    monkeypatch.setattr(machine, "driver_version", lambda: "470.82.01")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "was built without CUDA" in machine.gpu_obstacle()
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert "driver for CUDA 13.0 and there is 470.82.01: install a newer NVIDIA driver" in machine.gpu_obstacle()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "CUDA_VISIBLE_DEVICES hides every GPU" in machine.gpu_obstacle()


def test_the_kept_cells_of_an_unreadable_run_do_not_stop_a_fresh_one(tmp_path):
    (tmp_path / "grid.jsonl").write_text("no cell\n")
    Session(tier_of(), tmp_path).forget()
    assert not list(tmp_path.iterdir())
