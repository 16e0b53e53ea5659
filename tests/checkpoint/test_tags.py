"""Which tags of a folder count, which one is the latest, what is removed and what an interrupted save leaves."""

import pytest
from test_verify import cut, make_tag

from labsupport.checkpoint import tags
from labsupport.checkpoint.manifest import Manifest, described, files_of
from labsupport.errors import CheckpointError


def make_step(folder, step):
    tag = make_tag(folder / f"global_step{step}", seed=step, manifest=False)
    files = {name: described(tag / name, rank=0) for name in files_of(tag)}
    Manifest(tag.name, step, 3, 2, "fp32", {}, "AdamW", {"w": [5000]}, ["w"], files, {}).write(tag)
    return tag


@pytest.fixture
def run(tmp_path):
    for step in (9, 10, 2):  # by name 10 comes before 2 and 9, and by date 2 is the newest
        make_step(tmp_path, step)
    tags.name_latest(tmp_path, "global_step10")
    return tmp_path


def test_pruning_keeps_the_most_steps_and_not_the_newest_date(run):
    assert tags.prune(run, 2) == ["global_step2"]
    assert tags.folders_in(run) == ["global_step10", "global_step9"]


def test_pruning_keeps_what_latest_names_and_what_nobody_can_judge(run):
    make_tag(run / "plain", manifest=False)
    tags.name_latest(run, "global_step2")
    assert tags.prune(run, 1) == ["global_step9"]
    assert tags.folders_in(run) == ["global_step10", "global_step2", "plain"]


def test_a_damaged_tag_is_not_counted_as_one_that_is_kept(run):
    cut(run / "global_step10" / "mp_rank_00_model_states.pt", 100)
    tags.name_latest(run, "global_step9")
    assert [manifest.step for manifest in tags.whole_tags(run)] == [2, 9]
    assert tags.prune(run, 2) == []


def test_an_interrupted_removal_leaves_no_tag(run):
    (run / "global_step2").rename(run / "global_step2.deleted")
    assert "global_step2" not in " ".join(tags.folders_in(run))
    tags.remove(run / "global_step2.deleted")
    assert not (run / "global_step2.deleted").exists()


def test_a_save_interrupted_between_two_names_leaves_the_older_one(run):
    (run / "global_step9").rename(run / "global_step9.replaced")
    assert tags.tag_to_load(run, "global_step9") == "global_step9"
    assert (run / "global_step9").is_dir() and not (run / "global_step9.replaced").exists()


def test_a_save_interrupted_after_both_names_leaves_the_newer_one(run):
    (run / "global_step9").rename(run / "global_step9.replaced")
    newer = make_step(run, 9)
    tags.finish_interrupted(run)
    assert newer.is_dir() and not (run / "global_step9.replaced").exists()


@pytest.mark.parametrize("content", ["", "  \n"])
def test_an_empty_latest_names_no_checkpoint(run, content):
    (run / "latest").write_text(content)
    with pytest.raises(CheckpointError, match="no file `latest` with a name in it"):
        tags.tag_to_load(run)


def test_a_latest_that_is_a_folder_or_names_one_elsewhere_is_told(run):
    (run / "latest").write_text("../other")
    with pytest.raises(CheckpointError, match="holds no checkpoint '../other'"):
        tags.tag_to_load(run)
    (run / "latest").unlink()
    (run / "latest").mkdir()
    with pytest.raises(CheckpointError, match="no file `latest`"):
        tags.tag_to_load(run)
