"""What checks are written with: call the reader's function, look at a value, let DeepSpeed parse a config."""

import copy
import dis
import itertools
import json
import numbers
import traceback
import types

from labsupport.exercises.exercise import Mistaken, NotAttempted, Unusable
from labsupport.wording import first_line


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
    """Raise Unusable unless `value` is a dict that JSON can hold; `what` names it, for example "The config"."""
    if not isinstance(value, dict):
        raise Unusable(f"{what} is {describe(value)}: it has to be a dict.")
    try:
        json.dumps(value)
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


def parsed_by_deepspeed(config, world_size=1):
    """Return what the installed DeepSpeed makes of a config on `world_size` ranks: its DeepSpeedConfig.

    Raises Unusable with DeepSpeed's own error where it refuses the config.
    """
    from deepspeed.runtime.config import DeepSpeedConfig

    require_dict(config, "The config")

    class Ranks:
        @staticmethod
        def get_data_parallel_world_size():
            return world_size

    try:
        return DeepSpeedConfig(copy.deepcopy(config), mpu=Ranks)
    except Exception as error:
        reason = first_line(error).rstrip(".")
        raise Unusable(f"DeepSpeed refuses this config on {world_size} ranks: {reason}.", error) from error


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
