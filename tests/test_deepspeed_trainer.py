"""The trainer's methods: kinds of batches, checkpoints, and the sentence for each mistake."""

import pytest
import rank_work


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_every_kind_of_batch_gives_the_same_loss(two_ranks, stage):
    values = two_ranks.run(rank_work.batch_kinds, stage)[0]
    tensor = values.pop("tensor and loss_fn")
    assert len(set(values.values())) == 1, values
    assert tensor == pytest.approx(next(iter(values.values()))), "its target is zero too"


def test_a_loss_that_is_not_a_number_stops_every_rank(two_ranks):
    answers = two_ranks.run(rank_work.sentence_of, "train_on_nan")
    for name, text in answers:
        assert name == "TrainingError" and "loss became nan" in text and "micro-batch 1" in text, text


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_client_state_comes_back_alone(two_ranks, tmp_path, stage):
    tags = two_ranks.run(rank_work.save, stage, str(tmp_path))
    assert tags == ["global_step1"] * 2
    assert two_ranks.run(rank_work.load, stage, str(tmp_path)) == [{"kept": [1, 2, 3]}] * 2


def test_checkpoint_mistakes_are_told_in_one_sentence(two_ranks, tmp_path):
    good, empty, file = tmp_path / "good", tmp_path / "empty", tmp_path / "file"
    empty.mkdir()
    file.write_text("not a folder")
    two_ranks.run(rank_work.save, 2, str(good))

    def sentence(function, *arguments):
        answers = two_ranks.run(rank_work.sentence_of, function, 2, *map(str, arguments))
        assert answers[0] == answers[1]
        assert answers[0][0] == "CheckpointError", answers[0]
        assert "\n" not in answers[0][1]
        return answers[0][1]

    assert "There is no checkpoint at" in sentence("load", tmp_path / "nowhere")
    assert "is a file" in sentence("load", file)
    assert "no file `latest`" in sentence("load", empty)
    wrong_tag = sentence("load", good, "global_step99")
    assert "'global_step99'" in wrong_tag and "it holds global_step1" in wrong_tag
    assert "is a file" in sentence("save", file / "below")


def test_saving_inside_an_accumulation_window_warns(two_ranks, tmp_path):
    answer = two_ranks.run(rank_work.save_mid_window, str(tmp_path))[0]
    assert "gradients of 1 micro-batches are not saved" in answer


def test_wrong_use_of_the_trainer_is_told_in_one_sentence(two_ranks):
    answers = dict(two_ranks.run(rank_work.trainer_mistakes)[0])
    assert "without a config" in answers["no config"]
    assert "pass the engine alone" in answers["engine and config"]
    assert "gave no batch" in answers["empty loader"]
    assert "where a scalar loss is due" in answers["no loss"]
    assert "client_state is list" in answers["state of the wrong type"]
    assert "cannot be pickled" in answers["state that is no data"]
