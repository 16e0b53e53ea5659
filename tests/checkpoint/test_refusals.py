"""What cannot be loaded or saved is told by all ranks alike, in one sentence, before anything is changed."""

import pickle

import pytest

from labsupport.faults import training
from labsupport.faults.crew import Crew
from labsupport.faults.harness import two_tags

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return two_tags(2, tmp_path_factory.mktemp("saved"))


def ending_of(function, **keywords):
    """(The exit statuses of two ranks, the sentences that they ended with, the steps that they trained)."""
    crew = Crew(2, function, keywords)
    try:
        assert crew.wait_for_end(60)
    finally:
        statuses = crew.end()
    sentences = {facts["sentence"] for rank in (0, 1) for facts in crew.said(rank, "failed")}
    return statuses, sentences, len(crew.said(0, "loss"))


OTHERS = {
    "a layer more": ({"layers": 3}, "This model has a parameter transformer.h.2.ln_1.weight that", "build the model"),
    "a layer less": ({"layers": 1}, "has a parameter transformer.h.1.ln_1.weight that this model lacks", "build"),
    "another precision": ({"precision": "bf16"}, "was saved in fp32 and this run is in bf16", "load_weights"),
    "another optimizer": ({"optimizer": "SGD"}, "this run has SGD", "load_weights"),
    "a tag that is not there": ({"tag": "global_step7"}, "holds no checkpoint 'global_step7'", "global_step4"),
    "a number for a tag": ({"tag": 7}, "holds no checkpoint '7'", "it holds"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_a_checkpoint_that_does_not_fit_is_refused(saved, case):
    options, what, way_out = OTHERS[case]
    before = sorted((path.name, path.stat().st_mtime_ns) for path in saved.rglob("*"))
    statuses, sentences, steps = ending_of(training.train, folder=str(saved), steps=6, stage=2, **options)
    assert statuses == [2, 2] and steps == 0
    assert len(sentences) == 1 and all(words in next(iter(sentences)) for words in (what, way_out)), sentences
    assert sorted((path.name, path.stat().st_mtime_ns) for path in saved.rglob("*")) == before


def save_once(teller, path, tag, state=None):
    """Save a fresh trainer; state: makes what rank 1 alone has in its client state."""
    training.start_distributed()
    trainer = training.small_trainer(1)
    trainer.save_checkpoint(path, {"mine": state() if state and trainer.rank == 1 else 1}, tag)
    teller.say("saved")


class Unpicklable:
    def __reduce__(self):
        raise pickle.PicklingError("not this one")


PLACES = {
    "below a file": ("file/run", "step1", None, "is a file"),
    "a link to nothing": ("link", "step1", None, "is a link to nothing"),
    "a slash in the tag": ("run", "a/b", None, "cannot have the tag 'a/b'"),
    "the tag latest": ("run", "latest", None, "cannot have the tag 'latest'"),
    "a tag that is too long": ("run", "x" * 300, None, "has 300 bytes"),
    "no tag at all": ("run", "", None, "cannot have the tag ''"),
    "a state of one rank that is no data": ("run", "step1", Unpicklable, "cannot be pickled"),
}


@pytest.mark.parametrize("case", PLACES)
def test_what_cannot_be_saved_is_told_before_anything_is_written(tmp_path, case):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    path, tag, state, words = PLACES[case]
    before = sorted(tmp_path.iterdir())
    statuses, sentences, _ = ending_of(save_once, path=str(tmp_path / path), tag=tag, state=state and make_unpicklable)
    assert statuses == [2, 2] and len(sentences) == 1 and words in next(iter(sentences)), sentences
    assert sorted(tmp_path.iterdir()) == before


def make_unpicklable():
    return Unpicklable()
