"""Exercise 05-save-best: Keep the best checkpoint."""

import math

from labsupport.exercises.answers import call, describe, is_number
from labsupport.exercises.exercise import Exercise, Mistake, Mistaken, Unusable
from labsupport.exercises.lab_05_checkpointing.engines import adam_config, common_folder, kept_engines, train_steps
from labsupport.exercises.meeting import Meeting, world_of_one

# The losses of the two ranks, and the best mean so far. All numbers are exact in fp32.
EPOCHS = (
    ((1.0, 3.0), math.inf),
    ((1.0, 4.0), 2.0),
    ((0.5, 1.5), 2.0),
    ((3.0, 1.0), 2.0),
    ((5.0, 7.0), 4.0),
    ((0.75, 0.25), 4.0),
)


def _save_best(answer):
    if not callable(answer):
        call(answer)
    meeting = Meeting()
    with common_folder() as folder, kept_engines() as make:
        engine = make(adam_config(2))
        train_steps(engine, 0, 1)
        really_save, calls = engine.save_checkpoint, []
        engine.save_checkpoint = lambda *given, **named: calls.append((given, named)) or True
        seen = []
        for losses, best in EPOCHS:
            calls.clear()
            returned = _plain(meeting.call(answer, engine, folder, losses[meeting.rank], best))
            seen.append([len(calls), returned])
        _judge_best(meeting.facts(seen))
        _judge_alone(meeting, answer, make, folder)
        given, named = calls[-1]  # the last epoch is one to save
        tags = meeting.facts(str(named.get("tag", (*given, None, None)[1])))
        if tags[0] != tags[1]:
            raise Mistaken("own tag", first=tags[0], second=tags[1])
        really_save(*given, **named)
        meeting.facts("saved")  # rank 0 writes the file `latest` after all others have left
        loaded = engine.load_checkpoint(folder)[0]
        if None in meeting.facts(loaded):
            raise Unusable(
                "After your function `engine.load_checkpoint(folder)` finds nothing: save into `folder` itself, and "
                "let its file `latest` name the tag."
            )
    saves = sum(sum(losses) / 2 < best for losses, best in EPOCHS)
    return (
        f"Both ranks saved in {saves} of {len(EPOCHS)} epochs and agreed on the best in all; alone one saved in 1 of 2."
    )


def _judge_alone(meeting, answer, make, folder):
    """The same in a world of one rank, where the mean is the loss itself."""
    with world_of_one() as alone:
        engine = make(adam_config(2), mpu=alone)
        engine.save_checkpoint = lambda *given, **named: True
        returned = [_plain(call(answer, engine, folder, loss, 2.0)) for loss in (1.0, 3.0)]
    for facts in meeting.facts(returned):
        if facts != [1.0, 2.0]:
            raise Mistaken("number of ranks", returned=" and ".join(map(str, facts)))


def _plain(value):
    """A number as a float, and what is no number in words."""
    if hasattr(value, "item") and getattr(value, "ndim", 1) == 0:
        value = value.item()
    return float(value) if is_number(value) else describe(value)


def _judge_best(by_rank):
    """by_rank: for each rank and epoch, how often it saved and what it returned."""
    for returned in (returned for epochs in by_rank for _, returned in epochs):
        if isinstance(returned, str):
            raise Unusable(f"Your function returns {returned}: it has to be a number, the best mean so far.")
    means = [sum(losses) / 2 for losses, _ in EPOCHS]
    bests = [best for _, best in EPOCHS]
    right = [mean < best for mean, best in zip(means, bests, strict=True)]
    calls = [[saves for saves, _ in epochs] for epochs in by_rank]
    saved = [[saves > 0 for saves in of_rank] for of_rank in calls]
    if saved[0] != saved[1]:
        alone = saved[1 - saved.index(max(saved, key=sum))].count(True) == 0
        raise Mistaken("one rank saves" if alone else "each its own", **_first_split(saved))
    if calls[0] != calls[1]:
        raise Mistaken("more often", **_first_split(calls))
    for epoch, (losses, best) in enumerate(EPOCHS):
        if saved[0][epoch] != right[epoch]:
            values = {"losses": f"{losses[0]} and {losses[1]}", "best": best, "mean": means[epoch]}
            if all(saved[0]):
                raise Mistaken("always", **values)
            if saved[0] == [sum(losses) < best for losses, best in EPOCHS]:
                raise Mistaken("sum", **values)
            raise Mistaken("saves" if saved[0][epoch] else "does not save", **values)
    for epoch, (losses, best) in enumerate(EPOCHS):
        returned = [epochs[epoch][1] for epochs in by_rank]
        expected = means[epoch] if right[epoch] else best
        if returned != [expected, expected]:
            values = {"losses": f"{losses[0]} and {losses[1]}", "best": best, "given": returned[0]}
            raise Mistaken("own loss" if returned[0] != returned[1] else "another best", **values)


def _first_split(saved):
    epoch = next(number for number, (one, two) in enumerate(zip(*saved, strict=True)) if one != two)
    losses, best = EPOCHS[epoch]
    return {
        "losses": f"{losses[0]} and {losses[1]}",
        "best": best,
        "rank": 0 if saved[0][epoch] > saved[1][epoch] else 1,
    }


MISTAKES = {
    "one rank saves": Mistake(
        "With losses of {losses} and a best of {best} rank {rank} calls `save_checkpoint` and the other does not. "
        "In a real run it would wait there in vain: each rank writes its own part of the checkpoint."
    ),
    "each its own": Mistake(
        "With losses of {losses} and a best of {best} rank {rank} saves and the other does not. Usually each decides "
        "by its own loss; saving is collective, and the one that saves would wait for the other in vain.",
        "The ranks have to decide by one number that all of them know.",
    ),
    "more often": Mistake(
        "With losses of {losses} and a best of {best} rank {rank} calls `save_checkpoint` more often than the other. "
        "In a real run it would wait in vain at the second call: each rank writes its own part of the checkpoint."
    ),
    "own tag": Mistake(
        "The ranks save under different tags, {first} and {second}: each tag's folder gets the part of one rank, and "
        "none can be loaded. Usually the tag is made of a rank's own loss or number."
    ),
    "always": Mistake(
        "With losses of {losses} and a best of {best} nothing became better, and your function saves all the same. "
        "The best checkpoint would be replaced by a worse one."
    ),
    "sum": Mistake(
        "With losses of {losses} and a best of {best} you do not save, although the mean is {mean}. Usually the sum "
        "over the ranks is compared, which an all-reduce gives unless you divide it."
    ),
    "saves": Mistake(
        "With losses of {losses} and a best of {best} your function saves. The mean is {mean}, which is not below "
        "the best."
    ),
    "does not save": Mistake(
        "With losses of {losses} and a best of {best} your function does not call `engine.save_checkpoint`. The mean "
        "is {mean}, which is below the best."
    ),
    "own loss": Mistake(
        "With losses of {losses} and a best of {best} the ranks return different numbers. The next call would "
        "compare with a best that differs from rank to rank, and sooner or later one saves alone."
    ),
    "another best": Mistake(
        "With losses of {losses} and a best of {best} your function returns {given}. Return the best mean so far, "
        "whether it is the new one or the old one."
    ),
    "number of ranks": Mistake(
        "On one rank alone, with losses of 1.0 and then 3.0 and a best of 2.0, your function returns {returned}; it "
        "should be 1.0 and 2.0. The mean is over as many ranks as there are.",
        "`torch.distributed.get_world_size()` says how many.",
    ),
    "hangs": Mistake(
        "One rank waits for the other, and it does not come. Both the mean over the ranks and the save are collective; "
        "usually one of them stands under a condition on the rank."
    ),
}


EXERCISE = Exercise(
    id="05-save-best",
    title="Keep the best checkpoint",
    difficulty=3,
    minutes=10,
    target="both ranks save when the mean of their losses is below the best, and both return the same new best",
    answer="save_if_better",
    check=_save_best,
    ranks=2,
    seconds=30,
    mistakes=MISTAKES,
)
