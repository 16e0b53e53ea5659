"""From a model and a config to a DeepSpeed engine, under any launcher or none, on the hardware that is here.

DeepSpeed's own errors for a reader's mistake come late, deep and long. This module looks first and says in
one sentence what this machine cannot do.
"""

import atexit
import contextlib
import copy
import gc
import io
import logging
import os
import sys
import time
import warnings

import torch

from labsupport.config import as_error, parse_config
from labsupport.doctor.diagnosis import diagnose
from labsupport.doctor.findings import ERROR, SILENT
from labsupport.errors import ConfigError, TrainingError
from labsupport.machine.hardware import accelerator, fused_adam, gpu_computes_bf16, nvme_obstacle, say_once
from labsupport.machine.op_builds import prepare_op_builds, without_stale_locks
from labsupport.machine.probes import can_write, free_port
from labsupport.settings import nvme_buffer_bytes, read_settings
from labsupport.trainable import compiled_inside, dtype_in_force, require_dtypes, require_model, require_parameters

LAUNCHER_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def initialize_deepspeed(model, config, optimizer=None):
    """Return (engine, optimizer, dataloader, lr_scheduler), as `deepspeed.initialize` does.

    model: a torch module, whole on every rank. config: a dict, or the path of a JSON file. optimizer: a torch
    optimizer over the model's parameters, or None for the one that the config names. Works under the
    deepspeed launcher, under torchrun, on a rank of `start_ranks`, and with no launcher as one rank.

    Adam that the config leaves open becomes FusedAdam where that compiles, else torch's AdamW, and rank 0
    prints which, and what DeepSpeed ignores or changes in the config without a word, and in which dtype a model
    trains that is not in fp32 where the config names none. A module within torch.compile's wrapper takes the wrapper's
    place, compiled. Raises ConfigError for a config that cannot work, TrainingError for a model that DeepSpeed cannot
    train and for what this machine lacks: fp16 on most CPUs, a GPU for each rank, libaio for NVMe, a free port, a
    compiler.
    """
    require_model(model)
    config = copy.deepcopy(config) if isinstance(config, dict) else parse_config(config)
    start_distributed()
    in_force = config if optimizer is None else {key: value for key, value in config.items() if key != "optimizer"}
    settings = read_settings(in_force, torch.distributed.get_world_size())
    _check_precision_runs_here(settings)
    _say_what_is_found(in_force)
    _check_client_optimizer(config, settings, optimizer)
    model = compiled_inside(model)
    require_parameters(model, settings.stage, optimizer)
    if settings.precision == "fp32":  # else DeepSpeed casts the model
        require_dtypes(model, settings.stage, optimizer)
    _check_nvme_runs_here(settings, model)
    if optimizer is None:
        choose_adam(config, settings)

    import deepspeed

    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        with without_stale_locks():
            engine, wrapped, dataloader, scheduler = deepspeed.initialize(
                model=model, model_parameters=trainable, optimizer=optimizer, config=config
            )
    except Exception as error:
        raise _one_sentence(error) from error
    if torch.distributed.get_rank() == 0 and (note := dtype_in_force(engine, settings)):
        say_once(f"Precision: {note}")
    return engine, wrapped, dataloader, scheduler


def _say_what_is_found(config):
    """Raise ConfigError for what DeepSpeed refuses on this accelerator; print, on rank 0, what it would not tell."""
    for finding in diagnose(config, torch.distributed.get_world_size(), accelerator().device_name()):
        if finding.severity == ERROR and finding.code != "fp16-on-a-cpu":  # this processor was asked, and has fp16
            raise ConfigError(as_error(finding))
        if finding.severity == SILENT and torch.distributed.get_rank() == 0:
            say_once(f"Config: {as_error(finding)}")


def start_distributed():
    """Join the process group that the launcher describes, or make one of a single rank; twice is harmless."""
    if torch.distributed.is_initialized():
        import deepspeed

        quiet_deepspeed()
        deepspeed.init_distributed(verbose=False)  # somebody else made the group: let DeepSpeed know of it
        return
    given = [name for name in LAUNCHER_VARIABLES if name in os.environ]
    if not given:
        os.environ.update(
            RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(free_port())
        )
    elif len(given) < len(LAUNCHER_VARIABLES):
        missing = [name for name in LAUNCHER_VARIABLES if name not in given]
        raise TrainingError(
            f"The launcher set {', '.join(given)} but not {', '.join(missing)}: set all five, or none for one rank."
        )
    device_name = accelerator().device_name()
    prepare_op_builds(device_name)
    local_rank, world_size = int(os.environ["LOCAL_RANK"]), int(os.environ["WORLD_SIZE"])
    if device_name == "cuda":
        if local_rank >= torch.cuda.device_count():
            raise TrainingError(
                f"Local rank {local_rank} has no GPU: this machine shows {torch.cuda.device_count()}; start that many "
                "ranks, or set DS_ACCELERATOR=cpu to run the ranks on the processor."
            )
        torch.cuda.set_device(local_rank)
    elif "OMP_NUM_THREADS" not in os.environ:
        # Ranks that each take every core slow each other down many times over.
        torch.set_num_threads(
            max(1, len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", world_size)))
        )

    import deepspeed

    quiet_deepspeed()
    try:
        # It prints that it found an op that it compiled before.
        with without_stale_locks(), contextlib.redirect_stdout(io.StringIO()):
            if os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0":
                _meet_apart_from_the_first_start()
            deepspeed.init_distributed(verbose=False)
    except torch.distributed.DistError as error:
        if "EADDRINUSE" in str(error) or "already in use" in str(error):
            raise TrainingError(
                f"Port {os.environ['MASTER_PORT']} is already in use on this machine: choose another with "
                "--master_port."
            ) from error
        raise TrainingError(
            f"No answer from the first rank at {os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}: check the "
            "address, the port and the firewall between the nodes."
        ) from error
    atexit.register(_leave_process_group)


def _meet_apart_from_the_first_start():
    """Make the process group of ranks that torchrun has started again, under names of their own in its store.

    torch 2.13 keeps that store (elastic/rendezvous/dynamic_rendezvous.py), and with it the addresses of the ranks that
    are gone: the new ones call those, and fail or wait for ever.
    """
    from deepspeed.constants import default_pg_timeout

    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    hosted_here = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    store = torch.distributed.TCPStore(
        os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), world_size, hosted_here, default_pg_timeout
    )
    torch.distributed.init_process_group(
        accelerator().communication_backend_name(),
        timeout=default_pg_timeout,
        store=torch.distributed.PrefixStore(f"start_{os.environ['TORCHELASTIC_RESTART_COUNT']}", store),
        rank=rank,
        world_size=world_size,
    )


def import_ahead():
    """Import what the first engine and model need anyway, and let the garbage collector pass over it from now on.

    A rank that lives on calls it first, before it has anything of its own. The ledger looks at every object that the
    collector knows, again and again: that half a million of them belong to imports need not cost a second each time.
    """
    import deepspeed.runtime.zero.muon.muon_optimizer  # noqa: F401
    import transformers.models.gpt2.modeling_gpt2  # noqa: F401

    gc.collect()
    gc.freeze()


def quiet_deepspeed():
    """Leave DeepSpeed's warnings and errors on the page, and its hundreds of information lines off it."""
    from deepspeed.utils import logger

    logger.setLevel(logging.WARNING)
    # DeepSpeed 0.19.8 calls names that torch 2.13 is about to rename: nothing a reader can do about it.
    warnings.filterwarnings("ignore", category=FutureWarning, message=r"`torch\.distributed\.")


def choose_adam(config, settings):
    """Write torch_adam into a config that names Adam and leaves it open, where FusedAdam does not compile."""
    block = config.get("optimizer")
    if not block or settings.optimizer.lower() not in ("adam", "adamw") or settings.torch_adam is not None:
        return
    if settings.offload_optimizer != "none":
        return  # DeepSpeed takes its own CPU Adam for offloaded states
    params = dict(block.get("params") or {})
    if not params.pop("bias_correction", True):
        return  # torch's has no such choice
    fused, reason = fused_adam(accelerator().device_name())
    if not fused:
        params.pop("set_grad_none", None)  # of FusedAdam alone
        # Where the config names no weight decay, FusedAdam has none and torch's AdamW would have 0.01.
        block["params"] = {"weight_decay": 0.0} | params | {"torch_adam": True}
    if torch.distributed.get_rank() == 0:
        say_once(f"Optimizer: {'DeepSpeed FusedAdam' if fused else f'torch AdamW: {reason}'}.")


def _check_precision_runs_here(settings):
    here, precision = accelerator(), settings.precision
    if precision == "fp16" and not here.is_fp16_supported():
        raise ConfigError(
            f'fp16 does not run on this accelerator ({here.device_name()}): build the config with precision="bf16".'
        )
    if precision == "bf16" and here.device_name() == "cuda" and not gpu_computes_bf16():
        raise ConfigError(
            f"bf16 is only emulated on this GPU ({torch.cuda.get_device_name(0)}): build the config with "
            'precision="fp16".'
        )
    if precision == "bf16" and not here.is_bf16_supported():
        raise ConfigError(
            f'bf16 does not run on this accelerator ({here.device_name()}): build the config with precision="fp16".'
        )


def _check_client_optimizer(config, settings, optimizer):
    if optimizer is not None and not isinstance(optimizer, torch.optim.Optimizer):
        raise ConfigError(
            f"The optimizer is of type {type(optimizer).__name__}: pass a torch optimizer over model.parameters()."
        )
    if optimizer is None and not config.get("optimizer", {}).get("type") and settings.stage in (1, 2):
        raise ConfigError(
            f"The config names no optimizer, which ZeRO stage {settings.stage} needs: name one, or pass one to "
            "initialize_deepspeed."
        )
    if optimizer is None or settings.stage == 0:
        return
    name = type(optimizer).__name__
    if settings.offload_optimizer != "none" and config.get("zero_force_ds_cpu_optimizer", True):
        from deepspeed.ops.adam import DeepSpeedCPUAdam
        from deepspeed.ops.lion import DeepSpeedCPULion

        if not isinstance(optimizer, DeepSpeedCPUAdam | DeepSpeedCPULion):
            raise ConfigError(
                f"The optimizer {name} cannot step on states offloaded to the CPU: pass "
                "deepspeed.ops.adam.DeepSpeedCPUAdam, or name the optimizer in the config and pass none."
            )
    if not config.get("zero_allow_untested_optimizer"):
        from deepspeed.runtime.zero.utils import is_zero_supported_optimizer

        if not is_zero_supported_optimizer(optimizer):
            raise ConfigError(
                f"DeepSpeed has not tested ZeRO with the optimizer {name}: use Adam or AdamW, or add "
                "'zero_allow_untested_optimizer': true to the config."
            )


def _check_nvme_runs_here(settings, model):
    for key, device, path in (
        ("offload_optimizer", settings.offload_optimizer, settings.optimizer_nvme_path),
        ("offload_param", settings.offload_param, settings.parameter_nvme_path),
    ):
        if device != "nvme":
            continue
        locked = nvme_buffer_bytes(_share(model, settings.world_size), settings)
        if reason := nvme_obstacle(accelerator().device_name(), locked):
            raise TrainingError(reason)
        if not can_write(path):
            raise TrainingError(f"{key}.nvme_path {path} cannot be written: name a folder that you own.")


def _share(model, ranks):
    """The elements of a rank's part of the model at stage 3, the one with NVMe, which cuts every tensor by itself."""
    return sum(-(-getattr(p, "ds_numel", p.numel()) // ranks) for p in model.parameters())


def _one_sentence(error):
    """Turn what deepspeed.initialize raised into the sentence for it, or into its own first line."""
    text = str(error)
    if isinstance(error, torch.OutOfMemoryError):
        return TrainingError(
            f"{out_of_gpu_memory()} while DeepSpeed set up: take a smaller model, a higher stage or offload."
        )
    if "extra_forbidden" in text or type(error).__name__ == "ValidationError":
        details = [
            f"{'.'.join(map(str, item['loc']))} ({item['msg'].lower()}, value {item['input']!r})"
            for item in getattr(error, "errors", list)()
        ]
        return ConfigError(f"DeepSpeed refuses in this config: {'; '.join(details) or text}: mend or delete that key.")
    if type(error).__name__ in ("CUDAMismatchException", "MissingCUDAException") or "CUDA_HOME" in text:
        reason = fused_adam(accelerator().device_name())[1]
        return TrainingError(
            f"DeepSpeed cannot compile its CUDA ops here ({reason}): mend that, or take an optimizer without a CUDA "
            'op, as "torch_adam": true in the optimizer\'s params does.'
        )
    if "Error building extension" in text or "Ninja is required" in text or "ninja" in text.lower():
        return TrainingError(
            "DeepSpeed could not compile one of its ops: run `make ops` to see the compiler's own message; a C++ "
            "compiler (package g++), ninja and Python's headers (package python3-dev) are needed."
        )
    first_line = text.strip().splitlines()[0] if text.strip() else "no message"
    return TrainingError(f"deepspeed.initialize failed with {type(error).__name__}: {first_line}")


def out_of_gpu_memory():
    """Return the beginning of the sentence for a GPU that is full: which one, how much it has, how much we held."""
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    most = torch.cuda.max_memory_allocated()
    return (
        f"The GPU ({properties.name}, {properties.total_memory / 2**30:.1f} GiB) ran out of memory, with "
        f"{most / 2**30:.1f} GiB held at most,"
    )


def end_rank(status):
    """End this process with that exit status, once its output is written and the process group is left.

    Without the interpreter's own shutdown: a thread of gloo or DeepSpeed that still lets go of a tensor then
    aborts the process now and then ("terminate called without an active exception"), and a finished run fails.
    """
    _leave_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _leave_process_group():
    if torch.distributed.is_initialized():
        with contextlib.suppress(Exception):  # the interpreter is going: nothing can be done about a lost peer
            torch.distributed.destroy_process_group()
        time.sleep(0.2)  # lets the threads named in end_rank finish, where a reader's own script ends by itself
