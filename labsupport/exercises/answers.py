"""What checks are written with: call the reader's function, look at a value, let DeepSpeed parse a config."""

import copy
import dis
import functools
import itertools
import json
import numbers
import traceback
import types

from labsupport.exercises.exercise import Mistaken, NotAttempted, Unusable
from labsupport.wording import first_line, ranks_in_words


def call(function, *arguments, **named):
    """Call the reader's function and return what it returns.

    Raises Unusable where it is no function or raises whatever it may, NotAttempted where it is the stub.
    """
    if not callable(function):
        raise Unusable(f"The answer is {describe(function)}: pass the function itself, without calling it.")
    if is_stub(function):
        raise NotAttempted
    try:
        result = function(*arguments, **named)
    except (Unusable, Mistaken, NotAttempted):  # of a call within this one
        raise
    except NotImplementedError as error:
        if error.args:  # DeepSpeed and torch raise it too, with a reason
            raise Unusable(_raised(function, error), error) from error
        raise NotAttempted from error
    except BaseException as error:  # an answer may also call exit()
        raise Unusable(_raised(function, error), error) from error
    if is_stub(result):
        raise NotAttempted
    return result


def call_unchanged(function, *arguments):
    """Call the reader's function as `call` does; raises Unusable too where it changes a list that it is given."""
    before = copy.deepcopy(arguments)
    result = call(function, *arguments)
    if arguments != before:
        raise Unusable("The function changes the list that it is given: let it work on a copy.")
    return result


def is_stub(answer):
    """Return whether the answer was not begun: `...` itself, `...` inside it, or a function whose body is `...`."""
    if answer is Ellipsis:
        return True
    if type(answer) in (dict, list, tuple, set):
        try:
            return any(map(is_stub, answer.values() if isinstance(answer, dict) else answer))
        except RecursionError:  # a container that holds itself
            return False
    if type(answer) is not types.FunctionType:
        return False
    steps = list(_steps_of(answer))
    if steps == [("LOAD_CONST", None), ("RETURN_VALUE", None)]:
        return True
    return any(
        first == ("LOAD_CONST", Ellipsis) and second[0] == "RETURN_VALUE" for first, second in itertools.pairwise(steps)
    )


def _steps_of(function):
    """What a function does, as (name, value) of its bytecode, without what does nothing."""
    for step in dis.get_instructions(function):
        if step.opname == "RETURN_CONST":  # the two in one, in Python 3.12 and 3.13
            yield "LOAD_CONST", step.argval
            yield "RETURN_VALUE", None
        elif step.opname not in ("RESUME", "NOP"):
            yield step.opname, step.argval


def describe(value):
    """Return what a value is, short enough for a sentence."""
    try:
        text = repr(value)
    except BaseException:  # a class of the reader's own may do anything here
        text = "something"
    return f"{text if len(text) <= 80 else text[:77] + '...'} ({type(value).__name__})"


def require_dict(value, what):
    """Return a dict as JSON holds it, or raise Unusable; `what` names it, for example "The config".

    What comes back is plain: a copy, without the reader's own kinds of dicts, numbers and texts.
    """
    if not isinstance(value, dict):
        raise Unusable(f"{what} is {describe(value)}: it has to be a dict.")
    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError, RecursionError) as error:
        raise Unusable(
            f"{what} cannot be written as JSON ({error}): use dicts, lists, text, numbers, True, None."
        ) from (error)


def require_number(value, what):
    """Return `value` as a float, or raise Unusable; numpy's numbers and fractions are numbers, True is none."""
    if not is_number(value):
        raise Unusable(f"{what} is {describe(value)}: it has to be a number.")
    return float(value)


def is_number(value):
    """Return whether `value` is a real number of any kind: Python's, numpy's, a Fraction; True and False are not."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def is_integer(value):
    """Return whether `value` is an integer of any kind, Python's or numpy's; True is none, and neither is 2.0."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def parsed_by_deepspeed(config, world_size=1):
    """Return what the installed DeepSpeed makes of a config on `world_size` ranks: its DeepSpeedConfig.

    Raises Unusable with DeepSpeed's own error where it refuses the config.
    """
    from deepspeed.runtime.config import DeepSpeedConfig

    config = require_dict(config, "The config")

    class Ranks:
        @staticmethod
        def get_data_parallel_world_size():
            return world_size

    try:
        return DeepSpeedConfig(config, mpu=Ranks)
    except Exception as error:
        reason = first_line(error).rstrip(".")
        raise Unusable(f"DeepSpeed refuses this config on {ranks_in_words(world_size)}: {reason}.", error) from error


BATCH_SIZES = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")


def require_whole_sizes(values):
    """Raise Unusable unless the batch sizes that DeepSpeed reads are whole numbers, as loaders and engines need them.

    values: what parsed_by_deepspeed returned.
    """
    for name in BATCH_SIZES:
        if type(getattr(values, name)) is not int:
            raise Unusable(f"DeepSpeed takes {name} as it is, {describe(getattr(values, name))}: give a whole number.")


def first_difference(values, others, ignored=()):
    """Return (key, value, other value) for the first setting in which two parsed configs differ, or None.

    values, others: what parsed_by_deepspeed returned. ignored: names of settings, and of settings within a block as
    "zero_config.stage", that may differ.
    """
    some, rest = (_settings(each) for each in (values, others))
    for name in sorted(some | rest):
        if some.get(name) != rest.get(name) and not any(f"{name}.".startswith(f"{each}.") for each in ignored):
            return name, some.get(name), rest.get(name)
    return None


def _settings(value, path=""):
    """What DeepSpeed has in force, flat: {"zero_config.stage": 2, ...}."""
    if hasattr(value, "model_dump"):
        value = value.model_dump(mode="json")
    elif type(value).__module__.startswith("deepspeed"):
        value = {name: each for name, each in vars(value).items() if not name.startswith("_")}
    if not isinstance(value, dict) or not value:
        return {path: str(value)}
    return {
        name: text
        for key, each in value.items()
        if not (path == "" and key in ("global_rank", "world_size"))
        for name, text in _settings(each, f"{path}.{key}" if path else str(key)).items()
    }


def made_optimizer(config):
    """Return the optimizer that an engine makes of a config and takes one step with, for one small layer on this rank.

    The batch is one sample, at stage 0 in fp32: the optimizer is the same at every stage, and what needs a GPU or a
    compiler is left out. Raises Unusable with the error where DeepSpeed refuses what remains.
    """
    left_out = (*BATCH_SIZES, "fp16", "bf16", "data_types", "aio", "zero_optimization")
    config = {key: value for key, value in require_dict(config, "The config").items() if key not in left_out}
    optimizer = config.get("optimizer")
    if isinstance(optimizer, dict) and str(optimizer.get("type", "")).lower() in ("adam", "adamw"):
        params = {
            "weight_decay": 0.0,
            **(optimizer.get("params") or {}),
            "torch_adam": True,
        }  # 0.0: DeepSpeed's default
        config["optimizer"] = {**optimizer, "params": params}
    made = _trained_once(json.dumps(config, sort_keys=True))
    if isinstance(made, Exception):
        raise Unusable(f"DeepSpeed cannot train with this config: {first_line(made)}.", made) from made
    return made


@functools.cache
def _trained_once(config):
    """The optimizer of an engine that has made one step, or the error that came of it; config: as JSON."""
    import deepspeed
    import torch

    try:
        small = json.loads(config) | {"train_micro_batch_size_per_gpu": 1}
        engine = deepspeed.initialize(model=torch.nn.Linear(2, 2), config=small)[0]
        engine.backward(engine(torch.ones(1, 2)).sum())
        engine.step()
        engine.destroy()
        return engine.basic_optimizer
    except Exception as error:
        return error


def _raised(function, error):
    where = ""
    code = getattr(function, "__code__", None)
    for frame in traceback.extract_tb(error.__traceback__):
        if code is not None and frame.filename == code.co_filename:
            where = f" in line {frame.lineno}"
    if isinstance(error, SystemExit):
        return f"Your function called exit{where}: let it return instead."
    if isinstance(error, NameError):
        return f"Your function raised {first_line(error)}{where}: import or define that name inside the cell."
    return f"Your function raised {first_line(error)}{where}."
