"""What a resumed run takes over, what it refuses, and what it says."""

import pytest

from labsupport.checkpoint.manifest import Manifest
from labsupport.checkpoint.options import changes, options_of, taken_over
from labsupport.deepspeed_trainer import parse
from labsupport.errors import CheckpointError


def saved(*arguments, batch=8):
    options = parse(list(arguments))
    kept = options_of(options, options.model or "1m", "bf16", batch)
    facts = dict.fromkeys(("tag", "step", "world_size", "stage", "precision", "offload", "optimizer"))
    return Manifest(**facts, parameters={}, trained=[], files={}, options=kept)


def resumed(manifest, *arguments, ranks=2):
    options = parse(["--resume", "run", *arguments])
    return taken_over(options, options.given, manifest, ranks)


def test_what_the_reader_does_not_repeat_is_as_it_was():
    first = ["--model", "tiny", "--stage", "3", "--offload", "--lr", "0.01", "--seed", "5", "--sequence-length", "32"]
    options = resumed(saved(*first, "--accumulation", "2", "--micro-batch", "2"), "--steps", "90")
    assert (options.model, options.stage, options.offload, options.lr) == ("tiny", 3, "cpu", 0.01)
    assert (options.seed, options.sequence_length, options.accumulation, options.steps) == (5, 32, 2, 90)
    assert (options.precision, options.micro_batch) == ("bf16", 2)


@pytest.mark.parametrize("flag", ["--model 10m", "--seed 1", "--lr 0.5", "--sequence-length 64", "--precision fp32"])
def test_what_would_make_it_another_run_is_refused(flag):
    with pytest.raises(CheckpointError, match=f"{flag.split()[0]} is .* leave it out"):
        resumed(saved("--model", "tiny"), *flag.split())
    name, value = flag.split()
    assert resumed(saved(*flag.split()), name, value if name != "--precision" else "bf16")


def test_how_it_is_carried_out_may_change():
    options = resumed(saved("--stage", "1"), "--stage", "3", "--offload", "--accumulation", "2")
    assert (options.stage, options.offload, options.accumulation) == (3, "cpu", 2)


@pytest.mark.parametrize(("ranks", "micro_batch"), [(1, 8), (2, 4), (4, 2), (3, 4)])
def test_the_batch_stays_on_another_number_of_ranks_where_it_can_be_cut_so(ranks, micro_batch):
    assert resumed(saved(), ranks=ranks).micro_batch == micro_batch


def test_a_config_file_decides_what_it_says_and_the_manifest_the_rest():
    manifest = saved("--config", "ds.json", "--model", "tiny", "--seed", "3")
    assert set(manifest.options) == {"seed", "sequence_length", "model", "batch"}
    options = resumed(manifest, "--config", "other.json")
    assert (options.model, options.seed) == ("tiny", 3)
    with pytest.raises(CheckpointError, match="--seed is 4"):
        resumed(manifest, "--config", "other.json", "--seed", "4")


def test_without_a_manifest_the_command_line_alone_counts():
    assert resumed(None, "--stage", "1").stage == 1


def test_a_change_of_batch_or_learning_rate_is_said():
    assert changes(saved(), 8, 0.001, 0.001) == changes(None, 12, None, 0.5) == []
    batch, rate = changes(saved(), 12, 0.01, 0.001)
    assert "a step has 12 samples now and had 8" in batch
    assert "the learning rate is 0.001, as it was saved, and not the 0.01 of the config" in rate
