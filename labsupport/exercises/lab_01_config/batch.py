"""Exercise 01-batch: 96 samples an update, at most 8 at a time."""

from labsupport.exercises.answers import parsed_by_deepspeed, require_dict
from labsupport.exercises.exercise import Exercise, Mistake, Mistaken, Unusable


def _batch(config):
    require_dict(config, "The config")
    if "train_micro_batch_size_per_gpu" not in config and "train_batch_size" in config:
        raise Mistaken("only the train batch")
    for ranks in (4, 2):
        try:
            values = parsed_by_deepspeed(config, ranks)
        except Unusable as refused:
            if "auto" in config.values():
                raise Mistaken("auto") from refused
            if "Check batch related parameters" in str(refused):
                raise Mistaken("refused", ranks=ranks, error=refused) from refused
            raise
        if values.train_micro_batch_size_per_gpu > 8:
            raise Mistaken("too large a pass", micro=values.train_micro_batch_size_per_gpu, ranks=ranks)
        if ranks == 4 and values.train_batch_size == 96 * 4:
            raise Mistaken("forgot the ranks", batch=values.train_batch_size)
        if ranks == 4 and values.train_batch_size != 96:
            raise Mistaken("another batch", batch=values.train_batch_size)


MISTAKES = {
    "only the train batch": Mistake(
        "DeepSpeed works the pass out from what is left. With the train batch alone it assumes one accumulation "
        "step, and then 4 ranks take 24 samples a pass and 2 ranks take 48.",
        "Say how much one rank takes in one pass: that is the number that memory limits.",
    ),
    "forgot the ranks": Mistake(
        "This gives {batch} samples an update: the micro batch and the accumulation steps are counted on every "
        "rank, and there are 4 ranks.",
        "micro batch x accumulation steps x ranks = 96.",
    ),
    "refused": Mistake(
        "With these sizes written down nothing is left to work out, and on {ranks} ranks they do not multiply. {error}",
        "Leave out the size that should follow from the others.",
    ),
    "too large a pass": Mistake("On {ranks} ranks one pass takes {micro} samples, and 8 is the most."),
    "another batch": Mistake(
        "On 4 ranks this gives {batch} samples an update, not 96.", "micro batch x accumulation steps x ranks = 96."
    ),
    "auto": Mistake(
        '"auto" is a word of the Hugging Face Trainer, which fills it in. DeepSpeed itself calculates with it.'
    ),
}


EXERCISE = Exercise(
    id="01-batch",
    title="96 samples an update, at most 8 at a time",
    difficulty=2,
    minutes=5,
    target="96 samples an update on 4 ranks, at most 8 a pass, and the same file is accepted on 2 ranks",
    answer="batch_config",
    check=_batch,
    mistakes=MISTAKES,
)
