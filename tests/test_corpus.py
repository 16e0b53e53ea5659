"""The text: the same for every reader, and shared out among ranks without loss or repetition."""

import torch

from labsupport.corpus import ByteWindows, endless_batches, standard_library_bytes, text_loader


def test_text_is_real_code_and_some_megabytes():
    text = standard_library_bytes()
    assert b"class OrderedDict" in text and b"def namedtuple" in text
    assert 5e6 < len(text) < 20e6
    assert b"site-packages" not in text[:200]


def test_windows_are_the_text_and_the_splits_do_not_overlap():
    text = standard_library_bytes()
    train, validation = ByteWindows(64), ByteWindows(64, "validation")
    assert bytes(train[1]["input_ids"].tolist()) == text[64:128]
    assert torch.equal(train[1]["input_ids"], train[1]["labels"])
    assert bytes(validation[0]["input_ids"].tolist()) == text[len(text) * 9 // 10 :][:64]
    assert len(train) * 64 <= len(text) * 9 // 10


def test_two_ranks_read_together_what_one_rank_reads():
    def first_steps(loader, count):
        batches = endless_batches(loader)
        return [next(batches)["input_ids"] for _ in range(count)]

    alone = first_steps(text_loader(4, 0, 1, 16), 5)
    pair = [first_steps(text_loader(2, rank, 2, 16), 5) for rank in (0, 1)]
    for step in range(5):
        together = sorted(row.tolist() for rank in (0, 1) for row in pair[rank][step])
        assert together == sorted(row.tolist() for row in alone[step])


def test_epochs_are_shuffled_anew():
    loader = text_loader(4, 0, 1, 16, samples=8)
    batches = endless_batches(loader)
    epochs = [torch.cat([next(batches)["input_ids"] for _ in range(2)]) for _ in range(3)]
    assert sorted(map(tuple, epochs[0].tolist())) == sorted(map(tuple, epochs[1].tolist()))
    assert any(not torch.equal(epochs[0], other) for other in epochs[1:])
