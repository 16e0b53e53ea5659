"""What damage a checkpoint's manifest, and the files' own checksums, tell: nothing here needs ranks or DeepSpeed."""

import json
import shutil

import pytest
import torch

from labsupport.checkpoint.manifest import NAME, Manifest, checksum, described, files_of, read_manifest
from labsupport.checkpoint.verify import _by_itself, verify
from labsupport.errors import CheckpointError

SHARDS = [f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt" for rank in (0, 1, 2)]
WEIGHTS = "mp_rank_00_model_states.pt"


def make_tag(folder, seed=0, manifest=True):
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(seed)
    for rank, name in enumerate([*SHARDS, WEIGHTS]):
        torch.save({"states": torch.randn(5000, generator=generator), "rank": rank}, folder / name)
    (folder / "random_states_rank_0.json").write_text(json.dumps({"seed": seed}))
    if manifest:
        files = {name: described(folder / name, rank=0) for name in files_of(folder)}
        Manifest("global_step3", 3, 3, 2, "fp32", {}, "AdamW", {"w": [5000]}, ["w"], files, {}).write(folder)
    return folder


@pytest.fixture
def tag(tmp_path):
    return make_tag(tmp_path / "global_step3")


def cut(path, size):
    path.write_bytes(path.read_bytes()[:size])


def overwrite(path, offset, new):
    content = bytearray(path.read_bytes())
    content[offset : offset + len(new)] = new
    path.write_bytes(content)


def zero_a_quarter(path):
    overwrite(path, 4000, bytes(5000))


def flip_one_bit(path):
    overwrite(path, 9000, bytes([path.read_bytes()[9000] ^ 1]))


DAMAGE = {
    "cut off": (lambda path, _: cut(path, 6000), "is cut off (6,000 of"),
    "empty": (lambda path, _: cut(path, 0), "is empty"),
    "a quarter of zeros": (lambda path, _: zero_a_quarter(path), "a tensor in it no longer has its checksum"),
    "one bit": (lambda path, _: flip_one_bit(path), "a tensor in it no longer has its checksum"),
    "a text": (lambda path, _: path.write_text("not a checkpoint" * 3000), "no file that torch saved"),
    "missing": (lambda path, _: path.unlink(), "of rank 0 is missing"),
    "of another save": (
        lambda path, other: shutil.copy(other / path.name, path),
        "is whole, but it is not the file that was saved",
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_told_by_what_it_is(tag, tmp_path, kind):
    do, words = DAMAGE[kind]
    assert verify(tag).problems == ()
    do(tag / SHARDS[1], make_tag(tmp_path / "other", seed=1))
    (problem,) = verify(tag).problems
    assert SHARDS[1] in problem and words in problem


def test_no_byte_of_a_file_of_torch_can_change_unseen(tmp_path):
    """Headers, padding and index are in the checksum, the records are held against their CRC-32 in the index."""
    path = tmp_path / "small.pt"
    torch.save({"w": torch.arange(40.0), "step": 3}, path)
    content, entry = path.read_bytes(), described(path, 0)
    assert entry == described(path, 0) and entry["bytes"] == len(content)
    for at in range(len(content)):
        path.write_bytes(content[:at] + bytes([content[at] ^ 1 << at % 8]) + content[at + 1 :])
        assert checksum(path) != entry["checksum"] or _by_itself(path), f"byte {at} of {len(content)}"


def test_swapped_files_are_told_by_the_names_of_both(tag):
    first, second = tag / SHARDS[0], tag / SHARDS[1]
    first.rename(tag / "aside")
    second.rename(first)
    (tag / "aside").rename(second)
    problems = verify(tag).problems
    assert len(problems) == 2
    assert f"{SHARDS[0]} holds what was saved as {SHARDS[1]}" in problems[0]


def test_a_foreign_file_is_told(tag):
    shutil.copy(tag / SHARDS[2], tag / "zero_pp_rank_3_mp_rank_00_optim_states.pt")
    (problem,) = verify(tag).problems
    assert "zero_pp_rank_3" in problem and "does not belong" in problem


@pytest.mark.parametrize("change", [lambda text: text.replace('"step": 3', '"step": 4'), lambda text: text[:-20]])
def test_a_damaged_manifest_vouches_for_nothing(tag, change):
    path = tag / NAME
    path.write_text(change(path.read_text()))
    (problem,) = verify(tag).problems
    assert problem.endswith(f"{NAME} is damaged, so it vouches for nothing")


def test_a_manifest_of_a_later_version_is_not_read(tag):
    path = tag / NAME
    content = json.loads(path.read_text()) | {"format": 99}
    del content["own_sha256"]
    from labsupport.checkpoint.manifest import _digest

    path.write_text(json.dumps(content | {"own_sha256": _digest(content)}))
    with pytest.raises(CheckpointError, match="has the format 99"):
        read_manifest(tag)


@pytest.mark.parametrize("kind", ["cut off", "empty", "a quarter of zeros", "one bit", "a text"])
def test_without_a_manifest_a_damaged_file_is_still_told(tmp_path, kind):
    tag = make_tag(tmp_path / "plain", manifest=False)
    found = verify(tag)
    assert found.manifest is None and found.problems == ()
    DAMAGE[kind][0](tag / SHARDS[1], None)
    (problem,) = verify(tag).problems
    assert SHARDS[1] in problem


def test_without_a_manifest_a_gap_between_the_ranks_is_told(tmp_path):
    tag = make_tag(tmp_path / "plain", manifest=False)
    (tag / SHARDS[1]).unlink()
    assert verify(tag).problems == (f"{SHARDS[1]} is missing",)


def test_the_ranks_together_read_each_file_once(tag):
    names = files_of(tag)
    shares = [verify(tag, set(names[rank::2]).__contains__) for rank in (0, 1)]
    assert sum(share.read_bytes for share in shares) == verify(tag).read_bytes
    flip_one_bit(tag / SHARDS[1])
    assert sorted(len(verify(tag, set(names[rank::2]).__contains__).problems) for rank in (0, 1)) == [0, 1]
