"""What a batch becomes on its way into the model."""

from collections import UserDict, namedtuple

import pytest
import torch

from labsupport.batches import ahead, cast, split, to_device
from labsupport.errors import TrainingError

Pair = namedtuple("Pair", "inputs labels")
REAL, WHOLE = torch.ones(2, dtype=torch.float64), torch.ones(2, dtype=torch.int64)


def test_real_numbers_are_cast_however_deep_and_nothing_else():
    batch = cast({"a": [REAL, (WHOLE, "text", None)], "b": Pair(REAL, 3)}, torch.bfloat16)
    assert batch["a"][0].dtype == batch["b"].inputs.dtype == torch.bfloat16
    assert batch["a"][1][0].dtype == torch.int64 and batch["a"][1][1:] == ("text", None) and batch["b"].labels == 3
    assert isinstance(batch["a"], list) and isinstance(batch["b"], Pair)


def test_all_that_can_move_is_moved_however_deep():
    packed = torch.nn.utils.rnn.pack_sequence([torch.ones(3), torch.ones(2)])
    batch = to_device(UserDict(pair=Pair(REAL, [WHOLE]), name="text"), "meta")
    assert type(batch) is dict and batch["pair"].inputs.is_meta and batch["pair"].labels[0].is_meta
    assert batch["name"] == "text"
    assert type(to_device((packed,), "cpu")[0]) is type(packed), "it moves itself: its lengths stay on the host"


@pytest.mark.parametrize(
    ("batch", "has_loss_fn", "expected"),
    [
        ({"x": 1, "labels": 2}, False, ((), {"x": 1, "labels": 2})),
        ({"x": 1, "labels": 2}, True, ((), {"x": 1}, (2,))),
        ((1, 2, 3), False, ((1, 2, 3), {})),
        ([1, 2, 3], True, ((1,), {}, (2, 3))),
        (REAL, True, ((REAL,), {}, (REAL,))),
    ],
)
def test_a_batch_is_split_into_inputs_and_target(batch, has_loss_fn, expected):
    assert split(batch, has_loss_fn)[: len(expected)] == expected


@pytest.mark.parametrize("batch", ["text", None, 3, [], {}, REAL.numpy()])
def test_what_is_no_batch_is_refused(batch):
    with pytest.raises(TrainingError, match="^A batch is "):
        split(batch, False)


def test_the_next_batch_is_fetched_while_one_is_in_use_and_none_is_lost():
    fetched = []
    numbers = (fetched.append(number) or torch.tensor(number) for number in range(3))
    used = []
    for batch in ahead(numbers, "cpu"):
        used.append(int(batch))
        assert len(fetched) == min(len(used) + 1, 3)
    assert used == [0, 1, 2]
