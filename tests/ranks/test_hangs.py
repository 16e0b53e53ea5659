"""Ranks that wait for each other in vain are told with where each stands, and those that only take long are left."""

import io
import time

import pytest

from labsupport.errors import TrainingError
from labsupport.launch.stacks import Frame, Watch, diverged, in_words
from labsupport.ranks import notebook

REDUCE = Frame("/x/site-packages/torch/distributed/distributed_c10d.py", 10, "all_reduce")
BARRIER = Frame("/x/site-packages/torch/distributed/distributed_c10d.py", 20, "barrier")
GATHER = (
    Frame("/x/site-packages/deepspeed/utils/nvtx.py", 20, "wrapped_fn"),
    Frame("/x/site-packages/deepspeed/runtime/zero/partition_parameters.py", 765, "wait"),
    Frame("/home/me/train.py", 5, "main"),
)
COMPUTES = (Frame("/x/site-packages/torch/nn/functional.py", 5, "linear"), Frame("/home/me/train.py", 7, "main"))


def at(collective, line):
    return (
        Frame("/x/site-packages/torch/distributed/c10d_logger.py", 1, "wrapper"),
        collective,
        Frame("/home/me/train.py", line, "go"),
    )


@pytest.mark.parametrize(
    ("stacks", "finished", "vain"),
    [
        ([at(REDUCE, 3), at(BARRIER, 4)], False, True),
        ([at(REDUCE, 3), at(REDUCE, 9)], False, True),  # the same call from two places is not the same one
        ([at(REDUCE, 3), at(REDUCE, 3)], False, False),
        ([at(REDUCE, 3)], True, True),
        ([GATHER], True, True),
        ([GATHER, at(REDUCE, 3)], False, True),
        ([GATHER, GATHER], False, False),
        ([at(REDUCE, 3), COMPUTES], False, False),
        ([COMPUTES], True, False),
        ([()], True, False),
    ],
)
def test_ranks_wait_in_vain_only_where_nothing_can_wake_them(stacks, finished, vain):
    assert diverged(stacks, finished) is vain


def test_a_stack_in_words_names_the_collective_and_the_readers_own_line():
    assert in_words(at(REDUCE, 3)) == "waits in all_reduce, called at line 3 of me/train.py"
    assert in_words(COMPUTES) == "is in linear, called at line 7 of me/train.py"
    mine = Frame("/home/me/deepspeed/train.py", 9, "main")  # a folder of the reader's may be called so
    assert in_words((REDUCE, mine)).endswith("line 9 of deepspeed/train.py")
    assert in_words((REDUCE, Frame("/tmp/ipykernel_3/12.py", 2, "<module>"))).endswith("at line 2 of the cell")
    assert in_words(()) == "does not say where it stands"


CELLS = {
    "another collective": (
        "if rank == 0:\n    torch.distributed.all_reduce(torch.ones(1))\nelse:\n    torch.distributed.barrier()",
        ["rank 0 waits in all_reduce, called at line 2 of the cell", "rank 1 waits in barrier, called at line 4 of"],
    ),
    "one rank alone": (
        "def save():\n    torch.distributed.barrier()\n\nif rank == 1:\n    save()",
        ["rank 0 is done", "rank 1 waits in barrier, called at line 2 of the cell"],
    ),
    "a layer of stage 3 that one rank alone calls": (
        "config = {'train_micro_batch_size_per_gpu': 1,\n"
        "          'zero_optimization': {'stage': 3, 'stage3_param_persistence_threshold': 0}}\n"
        "model = torch.nn.ModuleList(torch.nn.Linear(64, 64) for _ in range(2))\n"
        "engine, *_ = deepspeed.initialize(model=model, config=config)\n"
        "if rank == 0:\n    engine.module[1](torch.ones(1, 64))",
        ["rank 0 waits in an all_gather of ZeRO-3, called at line 6 of the cell", "rank 1 is done"],
    ),
}


@pytest.mark.parametrize("case", CELLS)
def test_a_cell_whose_ranks_wait_for_each_other_ends_with_where_each_stands(two_ranks, monkeypatch, capsys, case):
    monkeypatch.setattr(notebook, "LOOK_SECONDS", (1, 1))
    cell, words = CELLS[case]
    start = time.monotonic()
    with pytest.raises(TrainingError, match="wait for each other for ever") as told:
        two_ranks.execute(cell)
    assert time.monotonic() - start < 30
    assert all(each in str(told.value) for each in words), told.value
    assert not two_ranks.alive


def test_a_cell_that_one_rank_spends_computing_is_left_alone(two_ranks, monkeypatch, capsys):
    monkeypatch.setattr(notebook, "LOOK_SECONDS", (0.5, 0.5))
    two_ranks.execute("import time\nif rank == 1:\n    time.sleep(4)\ntorch.distributed.barrier()")
    assert two_ranks.alive


def test_a_step_that_takes_long_is_told_once_with_the_place():
    said = io.StringIO()
    with Watch(3, seconds=0.2, file=said) as watch:
        time.sleep(0.7)
        watch.step(1)
    words = said.getvalue()
    assert words.count("[rank 3]") == 1 and "Step 1 has taken 0.2 s so far" in words
    assert "ranks/test_hangs.py" in words
