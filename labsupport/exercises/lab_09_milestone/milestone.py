"""The milestone: ZeRO-2 on two real ranks with a trainer that the reader has written.

    make milestone MODULE=my_trainer.py
    python -m labsupport.exercises.lab_09_milestone my_trainer.py

The module defines create_deepspeed_config, initialize_deepspeed and create_offload_config, and either a class
DeepSpeedTrainer(engine) with the methods train_step, train_epoch, save_checkpoint and load_checkpoint, or functions of
these names that take the engine first. What is missing is said in this order, one thing at a time. After its own demand
each part is judged by the check of the lab that asked for it.
"""

import contextlib
import functools
import linecache
import os
import sys
import tempfile
from datetime import timedelta
from pathlib import Path
from types import ModuleType, SimpleNamespace

from labsupport.exercises.answers import call, describe, parsed_by_deepspeed, require_dict, require_number
from labsupport.exercises.exercise import Exercise, Mistaken, NotAttempted, Unusable
from labsupport.exercises.lab_01_config import config as config_exercise
from labsupport.exercises.lab_03_training import train_epoch, train_step
from labsupport.exercises.lab_05_checkpointing import save_load
from labsupport.exercises.lab_06_offload import offload_config
from labsupport.exercises.lab_09_milestone.mistakes import MISTAKES
from labsupport.wording import first_line

MODEL, SEQUENCE, SAMPLES, STEPS, TOLERANCE = "tiny", 32, 64, 6, 1e-3
BATCH = 8  # samples an update over both ranks
SGD = {"lr": 0.1, "momentum": 0.9}
SAVE_SECONDS = 5  # how long a rank waits for the others before it saves


# What is demanded, in order. Each function takes what the earlier ones have made, and adds to it.


def _the_module(work, source):
    """The module can be imported."""
    if isinstance(source, Path):
        if not source.is_file():
            raise Unusable(f"There is no file {source}: give the whole path of your module, as .resolve() makes it.")
        work.folder, work.name, work.text = str(source.parent), str(source), source.read_text(encoding="utf-8")
    elif isinstance(source, str) and source.endswith(".py") and "\n" not in source:
        raise Unusable(
            f"The answer is {describe(source)}: give Path({source!r}).resolve(), for the text is no program."
        )
    elif isinstance(source, str):
        work.folder, work.name, work.text = os.getcwd(), "<your module>", source
    else:
        raise Unusable(f"The answer is {describe(source)}: give the Path of your module, or its text.")
    sys.path.insert(0, work.folder)
    work.module = _imported(work)


def _imported(work):
    """Run the module's text and return it as a module of its own."""
    text, name = work.text, work.name
    module = sys.modules["my_trainer"] = ModuleType("my_trainer")
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    try:
        exec(compile(text, name, "exec"), module.__dict__)
    except SyntaxError as error:
        raise Unusable(f"Line {error.lineno} is not valid Python: {error.msg}.") from error
    except BaseException as error:
        raise Unusable(f"Running its top level raised {first_line(error)}.", error) from error
    return module


def _create_deepspeed_config(work):
    """create_deepspeed_config(stage=2, fp16=False, train_batch_size=8) says that to DeepSpeed."""
    config = call(_function(work, "create_deepspeed_config"), stage=2, fp16=False, train_batch_size=BATCH)
    require_dict(config, "What it returns")
    values = parsed_by_deepspeed(config, world_size=2)
    if (values.zero_optimization_stage, values.train_batch_size) != (2, BATCH):
        raise Mistaken("config", stage=values.zero_optimization_stage, batch=values.train_batch_size)
    # fp32, no clipping and SGD, so that plain PyTorch can be compared with: Adam would hide a gradient that is scaled.
    config = {key: value for key, value in config.items() if key not in ("bf16", "bfloat16", "scheduler", "data_types")}
    config |= {
        "gradient_clipping": 0.0,
        "optimizer": {"type": "SGD", "params": SGD},
        "zero_allow_untested_optimizer": True,
    }
    buckets = {"reduce_bucket_size": 10**6, "allgather_bucket_size": 10**6}  # small, to be quick
    work.config = config | {"zero_optimization": config["zero_optimization"] | buckets}
    _as_in_the_lab(config_exercise.EXERCISE, config_exercise.EXERCISE.check, work.module.create_deepspeed_config)


def _initialize_deepspeed(work):
    """initialize_deepspeed(model, config, optimizer) returns engine, optimizer, dataloader and scheduler."""
    import torch

    from labsupport.models import build_model

    model = build_model(MODEL, seed=0)
    client = torch.optim.Adam(model.parameters(), lr=0.01)
    engine = _engine(work, model, client)
    inner = engine.basic_optimizer
    engine.destroy()
    if inner is not client:
        raise Mistaken("client ignored", kind=type(inner).__name__, lr=inner.param_groups[0]["lr"])
    work.trainer = _new_trainer(work, work.module, seed=0)


def _train_step(work):
    """train_step(batch) trains as plain PyTorch does, and returns the mean loss over the ranks as a float."""
    import torch

    step, expected = _method(work.trainer, work, "train_step"), _plain_torch_losses()
    losses = [_number(call(step, batch), "train_step") for batch in _batches()[:STEPS]]
    seen = [None, None]
    torch.distributed.all_gather_object(seen, losses)
    for number, (mine, wanted) in enumerate(zip(losses, expected, strict=True), 1):
        if abs(seen[0][number - 1] - seen[1][number - 1]) > TOLERANCE:
            raise Mistaken("loss of one rank", first=seen[0][number - 1], second=seen[1][number - 1])
        if abs(mine - wanted) > TOLERANCE:
            name = "loss of the first step" if number == 1 else "other losses"
            raise Mistaken(name, number=number, got=mine, wanted=wanted)
    work.initial_loss = expected[0]
    _as_in_the_lab(train_step.EXERCISE, train_step.EXERCISE.check, _on_any_engine(work, work.module, "train_step"))


def _train_epoch(work):
    """train_epoch(loader) trains on every batch and returns their mean loss; three epochs lower it each time."""
    engine, batches = work.trainer.engine, _batches()
    epoch, before, means = _method(work.trainer, work, "train_epoch"), work.trainer.engine.global_steps, []
    for _ in range(3):
        means.append(_number(call(epoch, list(batches)), "train_epoch"))
    if engine.global_steps - before != 3 * len(batches):
        raise Mistaken("epoch steps", wanted=3 * len(batches), got=engine.global_steps - before)
    if not means[0] > means[1] > means[2]:
        raise Mistaken("epoch losses", losses=", ".join(f"{mean:.4f}" for mean in means))
    work.final_loss = means[-1]
    _as_in_the_lab(train_epoch.EXERCISE, train_epoch.EXERCISE.check, _on_any_engine(work, work.module, "train_epoch"))


def _save_checkpoint(work):
    """save_checkpoint(folder, client_state) writes a checkpoint on both ranks, and a run goes on from there."""
    import torch

    save, step = _method(work.trainer, work, "save_checkpoint"), _method(work.trainer, work, "train_step")
    shared = [tempfile.mkdtemp() if torch.distributed.get_rank() == 0 else None]
    torch.distributed.broadcast_object_list(shared)
    work.checkpoint = shared[0]
    _watch_saving(work.trainer.engine)
    try:
        call(save, work.checkpoint, {"epoch": 3, "note": "mine"})
    except Unusable as problem:
        if "monitoredBarrier" in str(problem.error):
            raise Mistaken("rank 0 alone") from problem
        raise
    torch.distributed.barrier()
    files = sorted(path.name for path in Path(work.checkpoint).rglob("*optim_states.pt"))
    if len(files) != 2 or not Path(work.checkpoint, "latest").exists():
        raise Mistaken("no checkpoint", files=len(files))
    work.went_on = [float(step(batch)) for batch in _batches()[:STEPS]]


def _load_checkpoint(work):
    """load_checkpoint(folder) brings all of it back into a fresh engine, and returns the client state."""
    from labsupport.measure.ledger import held_bytes, model_state_total

    work.model_state_bytes = model_state_total(held_bytes(work.trainer.engine))
    work.trainer.engine.destroy()
    again = _imported(work)  # as in another process: what the first module remembers is gone
    work.trainer = _new_trainer(work, again, seed=1)
    state = call(_method(work.trainer, work, "load_checkpoint"), work.checkpoint)
    if not isinstance(state, dict) or (state.get("epoch"), state.get("note")) != (3, "mine"):
        raise Mistaken("client state", got=describe(state))
    went_on = [float(_method(work.trainer, work, "train_step")(batch)) for batch in _batches()[:STEPS]]
    work.trainer.engine.destroy()
    for number, (resumed, uninterrupted) in enumerate(zip(went_on, work.went_on, strict=True), 1):
        if abs(resumed - uninterrupted) > 1e-6:
            raise Mistaken("resumed run", number=number, got=resumed, wanted=uninterrupted)
    _as_in_the_lab(save_load.EXERCISE, save_load.check_pair, *_save_and_load(work, again))


def _create_offload_config(work):
    """create_offload_config(True, False, "cpu") is a fragment that moves the optimizer's states to the host."""
    from labsupport.config import merge_configs

    fragment = call(_function(work, "create_offload_config"), True, False, "cpu")
    require_dict(fragment, "What it returns")
    zero = parsed_by_deepspeed(merge_configs(work.config, fragment), world_size=2).zero_config
    device = zero.offload_optimizer.device if zero.offload_optimizer else "none"
    if device != "cpu" or zero.stage != 2:
        raise Mistaken("offload", device=str(getattr(device, "value", device)), stage=zero.stage)
    _as_in_the_lab(offload_config.EXERCISE, offload_config.judge_fragments, work.module.create_offload_config, {})


DEMANDS = (
    _create_deepspeed_config,
    _initialize_deepspeed,
    _train_step,
    _train_epoch,
    _save_checkpoint,
    _load_checkpoint,
    _create_offload_config,
)


def _milestone(source):
    """Go through the demands; raises at the first that does not hold, and returns what was measured, in lines."""
    work, known = SimpleNamespace(folder=None), set(sys.modules)
    try:
        with _progress(0, "your module"):
            _the_module(work, source)
        for number, demand in enumerate(DEMANDS):
            with _progress(number, demand.__name__.lstrip("_")):
                demand(work)
    finally:
        _forget(work.folder, known)
    return (
        f"{len(DEMANDS)} demands hold, each with the check of its lab.\n"
        f"ZeRO stage:             2 on 2 ranks, fp32\n"
        f"Initial loss:           {work.initial_loss:.4f}\n"
        f"Final loss:             {work.final_loss:.4f}\n"
        f"Memory per rank (CPU):  {work.model_state_bytes / 2**20:.1f} MiB model states\n"
        f"Resumed run:            the losses of the uninterrupted one"
    )


def _forget(folder, known):
    """Forget the module and those that it imported from beside it, which may have changed when the reader returns."""
    sys.modules.pop("my_trainer", None)
    if folder in sys.path:
        sys.path.remove(folder)
    for name in set(sys.modules) - known:
        file = getattr(sys.modules[name], "__file__", None)
        if file and str(Path(file).parent) == folder and not name.startswith("labsupport."):
            del sys.modules[name]


@contextlib.contextmanager
def _progress(held, name):
    """Say with every error how far the module came, and what it is about."""
    begin = f"{held} of {len(DEMANDS)} demands hold. Next: {name}."
    try:
        yield
    except Mistaken as mistaken:
        mistaken.values["begin"] = begin
        raise
    except NotAttempted as stub:
        raise Unusable(f"{begin} It is still empty.") from stub
    except Unusable as problem:
        raise Unusable(f"{begin} {problem}", problem.error) from problem
    except Exception as error:  # of DeepSpeed's, brought about by what the module made
        raise Unusable(f"{begin} {first_line(error)}.", error) from error


# What the demands use


def _function(work, name):
    if not hasattr(work.module, name):
        raise Unusable(f"It is missing: define {name} in your module.")
    return getattr(work.module, name)


def _method(trainer, work, name):
    """The reader's method, or the reader's function with the engine already given."""
    if trainer.own is not None:
        if not hasattr(trainer.own, name):
            raise Unusable(f"It is missing: give DeepSpeedTrainer a method {name}.")
        return getattr(trainer.own, name)
    return functools.partial(call, _function(work, name), trainer.engine)


def _as_in_the_lab(exercise, judge, *answers):
    """Judge a part of the module as the exercise of a lab does, and say in its words what is wrong."""
    try:
        judge(*answers)
    except Mistaken as found:
        mistake = exercise.mistakes[found.name]
        message = mistake.message.format(**found.values)
        raise Mistaken("as in the lab", exercise=exercise.id, message=message) from found
    except Unusable as problem:
        raise Unusable(f"As exercise {exercise.id} judges it: {problem}", problem.error) from problem


def _on_any_engine(work, module, name):
    """The reader's method as a function of an engine and an argument, as the exercises ask for it."""
    made = {}

    def method(engine, *arguments):
        if id(engine) not in made:
            made[id(engine)] = SimpleNamespace(engine=engine, own=_own_trainer(module, engine))
        return call(_method(made[id(engine)], work, name), *arguments)

    return method


def _save_and_load(work, again):
    """The reader's methods as the pair of functions that exercise 05-save-load asks for."""
    save_checkpoint = _on_any_engine(work, work.module, "save_checkpoint")
    load_checkpoint = _on_any_engine(work, again, "load_checkpoint")

    def save(engine, folder, batches_read):
        save_checkpoint(engine, folder, {"batches_read": batches_read})

    def load(engine, folder):
        try:
            return load_checkpoint(engine, folder)["batches_read"]
        except Unusable as problem:
            accident = isinstance(problem.error, TypeError | KeyError | AttributeError | None)
            if not accident and not Path(folder).exists():
                raise FileNotFoundError(folder) from problem  # any error that is meant will do
            raise

    return save, load


def _engine(work, model, *optimizer):
    """The engine that the reader's initialize_deepspeed makes of a model."""
    from labsupport.config import merge_configs

    returned = call(_function(work, "initialize_deepspeed"), model, merge_configs(work.config, {}), *optimizer)
    if not isinstance(returned, tuple | list) or len(returned) != 4:
        raise Mistaken("not four", got=type(returned).__name__)
    engine = returned[0]
    module = getattr(engine, "module", None)
    if module is not model:
        raise Mistaken("another model", kind=type(engine).__name__, module=type(module).__name__)
    if engine.zero_optimization_stage() != 2:
        raise Mistaken("another stage", stage=engine.zero_optimization_stage())
    return engine


def _new_trainer(work, module, seed):
    """A fresh model under the reader's initialize_deepspeed and, where there is one, the reader's trainer."""
    from labsupport.models import build_model

    engine = _engine(work, build_model(MODEL, seed))
    return SimpleNamespace(engine=engine, own=_own_trainer(module, engine))


def _own_trainer(module, engine):
    """The reader's DeepSpeedTrainer around the engine, or None where the module has functions in place of the class."""
    if not hasattr(module, "DeepSpeedTrainer"):
        return None
    try:
        return call(module.DeepSpeedTrainer, engine)
    except Unusable as problem:
        raise Unusable(
            f"DeepSpeedTrainer(engine) does not work, the engine being its one argument. {problem}"
        ) from problem


def _batches():
    import torch

    from labsupport.corpus import text_loader

    return list(text_loader(BATCH // 2, torch.distributed.get_rank(), 2, SEQUENCE, samples=SAMPLES))


def _plain_torch_losses():
    """The same steps without DeepSpeed: one process, torch's SGD, the batch of both ranks."""
    import torch

    from labsupport.corpus import text_loader
    from labsupport.models import build_model

    model = build_model(MODEL, 0)
    optimizer = torch.optim.SGD(model.parameters(), **SGD)
    losses = []
    for _, batch in zip(range(STEPS), text_loader(BATCH, 0, 1, SEQUENCE, samples=SAMPLES), strict=False):
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def _number(value, name):
    return require_number(value, f"What {name} returns")


def _watch_saving(engine):
    """Let DeepSpeed's own save begin with a barrier that ends after some seconds where a rank does not come."""
    import torch

    save = engine.save_checkpoint

    def watched(*given, **named):
        torch.distributed.monitored_barrier(timeout=timedelta(seconds=SAVE_SECONDS))
        return save(*given, **named)

    engine.save_checkpoint = watched


EXERCISE = Exercise(
    id="09-milestone",
    title="ZeRO-2 with a trainer of your own",
    difficulty=5,
    minutes=60,
    target="your module trains as plain PyTorch does, and resumes as if it had never stopped",
    answer="my_trainer",
    check=_milestone,
    ranks=2,
    seconds=90,
    mistakes=MISTAKES,
)
