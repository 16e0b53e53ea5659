"""The batch triple: train_batch_size = micro-batch x accumulation steps x data-parallel ranks."""

from labsupport.doctor.case import BATCH_KEYS
from labsupport.doctor.findings import ERROR, NOTE, PARSE, SILENT, rule
from labsupport.doctor.rules.names import shown

SOURCE = "runtime/config.py, DeepSpeedConfig._set_batch_related_parameters and _batch_assertion"
TRAIN, MICRO, STEPS = BATCH_KEYS


def _given(case):
    return {key: case.config[key] for key in BATCH_KEYS if case.config.get(key) is not None}


@rule("auto-at-top-level", ERROR, SOURCE, PARSE)
def auto_batch(case):
    for key, value in _given(case).items():
        if value == "auto":
            yield (
                (key,),
                f'{key} is "auto", which the Hugging Face Trainer alone fills in; plain DeepSpeed ends in a TypeError',
                "write the number, or hand the config to TrainingArguments(deepspeed=...)",
            )


@rule("batch-size-type", ERROR, SOURCE, PARSE)
def batch_type(case):
    for key, value in _given(case).items():
        if not isinstance(value, int | float) and value != "auto":
            yield (
                (key,),
                f"{key} is {shown(value)}, with which DeepSpeed cannot reckon",
                "give a whole number of at least 1",
            )


@rule("no-batch-size", ERROR, SOURCE, PARSE)
def no_batch(case):
    if case.batch.refusal == "none" and not case.filled:
        yield (
            (),
            "the config names no batch size, and DeepSpeed needs train_batch_size or train_micro_batch_size_per_gpu",
            "give train_micro_batch_size_per_gpu and gradient_accumulation_steps, and DeepSpeed infers "
            "train_batch_size",
        )


@rule("batch-not-positive", ERROR, SOURCE, PARSE)
def not_positive(case):
    given = _given(case)
    if case.batch.refusal not in ("positive", "sizes", "product"):
        return
    wrong = {key: value for key, value in given.items() if isinstance(value, int | float) and not value > 0}
    for key, value in wrong.items():
        yield (
            (key,),
            f"{key} is {shown(value)}, and DeepSpeed takes what is above 0",
            "give a whole number of at least 1",
        )


@rule("batch-too-small", ERROR, SOURCE, PARSE)
def too_small(case):
    batch, given = case.batch, _given(case)
    if batch.refusal != "positive" or any(not value > 0 for value in given.values()) or case.world_size is None:
        return
    if not case.data_parallel_ranks or case.data_parallel_ranks <= 0:
        return
    what = MICRO if not batch.micro else STEPS
    yield (
        (TRAIN,),
        f"{TRAIN} {given[TRAIN]} leaves {what} 0 on {_ranks(case)}, which DeepSpeed refuses",
        "give each rank and step at least one sample",
    )


@rule("batch-does-not-multiply", ERROR, SOURCE, PARSE)
def does_not_multiply(case):
    batch, given = case.batch, _given(case)
    if case.world_size is None:
        yield from _on_any_ranks(given)
        return
    if batch.refusal != "product" or any(not value > 0 for value in given.values()):
        return
    product = batch.micro * batch.steps * batch.ranks
    if TRAIN not in given:
        yield (
            (MICRO,),
            f"{MICRO} {shown(given[MICRO])} gives no sizes that multiply on {_ranks(case)}",
            "give a whole number",
        )
        return
    yield (
        (TRAIN,),
        f"{TRAIN} {given[TRAIN]} is not {MICRO} {_number(batch.micro)} x {STEPS} {_number(batch.steps)} x "
        f"{_ranks(case)} = {_number(product)}, which DeepSpeed refuses",
        _way_out(given, batch),
    )


def _way_out(given, batch):
    if MICRO not in given:
        nearest = max(int(given[TRAIN] // batch.ranks), 1) * batch.ranks
        if STEPS in given:
            each = given[STEPS] * batch.ranks
            nearest = max(int(given[TRAIN] // each), 1) * each
        return f"set {TRAIN} to {_number(nearest)}, or give {MICRO} in its place"
    product = given[MICRO] * given.get(STEPS, 1) * batch.ranks
    if STEPS in given:
        return f"set {TRAIN} to {_number(product)}, or leave it out and DeepSpeed infers it"
    return f"set {TRAIN} to {_number(max(int(given[TRAIN] // product), 1) * product)}, or leave it out and give {STEPS}"


def _on_any_ranks(given):
    """Without a number of ranks: whether there is any that the sizes multiply on."""
    if TRAIN not in given or not all(isinstance(value, int) and value > 0 for value in given.values()):
        return
    each = given.get(MICRO, 1) * given.get(STEPS, 1)
    if given[TRAIN] % each:
        names = " x ".join(f"{key} {given[key]}" for key in (MICRO, STEPS) if key in given)
        yield (
            (TRAIN,),
            f"{TRAIN} {given[TRAIN]} is not {names} = {each} times a whole number of ranks or steps, which "
            "DeepSpeed refuses on any number of ranks",
            f"set {TRAIN} to {max(given[TRAIN] // each, 1) * each}, or leave it out and give the other two",
        )


def _ranks(case):
    ranks = _number(case.data_parallel_ranks)
    words = f"{ranks} rank{'s' if ranks != 1 else ''}"
    size = case.config.get("sequence_parallel_size", 1)
    return words if size == 1 else f"{words} ({case.world_size} by sequence_parallel_size {size})"


def _number(value):
    return int(value) if isinstance(value, float) and value.is_integer() else value


@rule("ranks-of-a-sequence", ERROR, "runtime/config.py, DeepSpeedConfig.__init__", PARSE)
def sequence_ranks(case):
    if "sequence_parallel_size" not in case.config:
        return
    size = case.config["sequence_parallel_size"]
    if not isinstance(size, int | float) or not size:
        yield (
            ("sequence_parallel_size",),
            f"sequence_parallel_size is {shown(size)}, and DeepSpeed divides the ranks by it",
            "give the ranks that share a sequence, or leave it out",
        )
    elif size < 0:
        yield (
            ("sequence_parallel_size",),
            f"sequence_parallel_size is {size}, which makes the number of ranks negative",
            "give the ranks that share a sequence, or leave it out",
        )


@rule("sequence-of-part-ranks", SILENT, "runtime/config.py, DeepSpeedConfig.__init__")
def part_of_a_rank(case):
    size, ranks = case.config.get("sequence_parallel_size"), case.data_parallel_ranks
    if (
        case.world_size
        and isinstance(size, int)
        and not isinstance(size, bool)
        and size > 1
        and ranks
        and ranks != int(ranks)
    ):
        yield (
            ("sequence_parallel_size",),
            f"sequence_parallel_size {size} does not divide {case.world_size} ranks, and DeepSpeed goes on with "
            f"{ranks:g} data-parallel ranks",
            "choose a divisor of the ranks",
        )


@rule("batch-counts-tensor-ranks", NOTE, "runtime/config.py, DeepSpeedConfig.__init__ (world_size)")
def tensor_ranks(case):
    size = case.tensor_parallel.autotp_size
    if size > 1:
        on = f", so on {case.world_size} ranks {TRAIN} counts each sample {size} times" if case.world_size else ""
        yield (
            ("tensor_parallel", "autotp_size"),
            f"DeepSpeed's batch triple counts all ranks, though the {size} of a tensor-parallel group work on "
            f"the same samples{on}",
            f"reckon with {TRAIN} / {size} samples a step",
        )


@rule("pipeline-block", NOTE, "runtime/config.py, get_pipeline_config; runtime/pipe/engine.py")
def pipeline(case):
    if case.block("pipeline"):
        yield (
            ("pipeline",),
            "DeepSpeed reads the block pipeline for a PipelineModule alone, and makes no pipeline of another "
            "model; with one, the batch triple counts the ranks divided by the stages",
            "",
        )


@rule("batch-is-no-whole-number", NOTE, SOURCE)
def not_whole(case):
    for key, value in _given(case).items():
        if isinstance(value, bool | float):
            yield (
                (key,),
                f"{key} is {str(value).lower()}, and DeepSpeed reckons with it as it is",
                f"write {int(value) if value == value and abs(value) < 1e18 else 'a whole number'}",
            )
