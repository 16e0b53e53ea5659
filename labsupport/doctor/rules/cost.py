"""What costs memory or time, and what people wait for in vain."""

from labsupport.doctor.findings import COST, ERROR, INITIALIZE, NOTE, STEP, rule
from labsupport.doctor.rules.names import shown

ZERO = "zero_optimization"
BYTES = {"fp32": 4, "fp16": 2, "bf16": 2}
PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb", "comet": "comet_ml"}


def _buckets(case):
    """How many buckets of reduce_bucket_size elements a rank allocates: runtime/zero, the ipg buffers."""
    if not case.stage or not case.zero.contiguous_gradients:
        return 0
    return 2 if case.stage < 3 and case.zero.overlap_comm else 1


@rule("bucket-larger-than-model", COST, "runtime/zero/stage_1_and_2.py and stage3.py, ipg buckets")
def bucket_and_model(case):
    size, count = case.zero.reduce_bucket_size, _buckets(case)
    if count and case.parameters and size > case.parameters:
        total = size * count * BYTES[case.precision]
        yield (
            _bucket_path(case),
            f"DeepSpeed allocates {_gb(total)} for gradients on their way ({count} x {size:,} elements), and the "
            f"model has {case.parameters:,} parameters",
            f"write {max(case.parameters // 4 * 2, 2)}, or fewer",
        )


@rule("bucket-memory", NOTE, "runtime/zero/stage_1_and_2.py and stage3.py, ipg buckets")
def bucket(case):
    size, count = case.zero.reduce_bucket_size, _buckets(case)
    total = size * count * BYTES[case.precision]
    if count and total >= 5e8 and not case.parameters:
        why = ", twice because of overlap_comm" if count == 2 else ""
        yield (
            _bucket_path(case),
            f"DeepSpeed allocates {_gb(total)} for gradients on their way ({size:,} elements{why}), whatever the "
            "model's size",
            "write a smaller reduce_bucket_size for a small model",
        )


def _bucket_path(case):
    return (ZERO, "reduce_bucket_size") if "reduce_bucket_size" in case.written(ZERO) else (ZERO,)


def _gb(count):
    return f"{count / 1e9:.1f} GB"


@rule("activation-checkpointing-block", NOTE, "runtime/activation_checkpointing/checkpointing.py, configure")
def activation_checkpointing(case):
    if case.block("activation_checkpointing"):
        yield (
            ("activation_checkpointing",),
            "the block sets up deepspeed.checkpointing, which does nothing unless the model calls it",
            "call model.gradient_checkpointing_enable() for a transformers model",
        )


@rule("quiet-steps-per-print", NOTE, "runtime/engine.py, _report_progress (INFO); utils/logging.py (WARNING)")
def quiet(case):
    if case.config.get("steps_per_print") and case.config.get("log_level") not in ("info", "debug"):
        yield (
            ("steps_per_print",),
            "DeepSpeed reports its progress at the level info, and its logger stands at warning, so that nothing "
            "is printed",
            'add "log_level": "info"',
        )


@rule("steps-per-print-value", ERROR, "runtime/engine.py, DeepSpeedEngine.step", STEP)
def steps_per_print(case):
    value = case.config.get("steps_per_print")
    if value is not None and (not isinstance(value, int | float) or value == 0):
        yield (
            ("steps_per_print",),
            f"steps_per_print is {shown(value)}, and the first step ends in an error as it divides by it",
            "write a whole number, or leave it out",
        )


@rule("log-level", ERROR, "utils/logging.py, set_log_level_from_string", INITIALIZE)
def log_level(case):
    value = case.config.get("log_level")
    names = ("debug", "info", "warning", "error", "critical")
    if value is not None and (not isinstance(value, str) or value.lower() not in names):
        yield (
            ("log_level",),
            f"log_level is {shown(value)}, and DeepSpeed takes {', '.join(names)}",
            "write one of them",
        )


@rule("clock-synchronizes", COST, "utils/timer.py, SynchronizedWallClockTimer")
def clock(case):
    if case.config.get("wall_clock_breakdown") is True:
        yield (
            ("wall_clock_breakdown",),
            "wall_clock_breakdown waits for the GPU around each phase of every step",
            "turn it off once the times are known",
        )


@rule("profiler-is-on", COST, "profiling/flops_profiler/profiler.py")
def profiler(case):
    if case.block("flops_profiler").get("enabled") is True:
        yield (
            ("flops_profiler", "enabled"),
            "the profiler hooks into every module, and times each step with the GPU waited for",
            "turn it off once its table is printed",
        )


@rule("sanity-checks-are-on", COST, "runtime/zero/stage3.py, enable_sanity_checks")
def sanity(case):
    if case.zero.enable_sanity_checks and case.stage == 3:
        yield (
            (ZERO, "enable_sanity_checks"),
            "enable_sanity_checks compares the ranks' lists again and again",
            "turn it off once the run is sound",
        )


@rule("monitor-needs-package", NOTE, "monitor/monitor.py, MonitorMaster")
def monitor(case):
    for key, package in PACKAGES.items():
        if getattr(case.parsed("monitor"), key).enabled:
            yield (
                (key, "enabled"),
                f"{key} needs the package {package}, without which initialize ends in a ModuleNotFoundError",
                f"install {package}",
            )


@rule("datastates-needs-package", NOTE, "runtime/checkpoint_engine/utils.py; datastates/config.py")
def datastates(case):
    if case.config.get("datastates_ckpt", False) is not False:
        yield (
            ("datastates_ckpt",),
            "every value but false turns DataStates on, which needs a package of its own, without which "
            "initialize ends in a RuntimeError",
            "delete it, or install DataStates",
        )


@rule("vocabulary-not-aligned", NOTE, "runtime/config.py, DeepSpeedConfig._do_warning_check")
def vocabulary(case):
    size = case.config.get("vocabulary_size")
    if isinstance(size, int | float) and size and size % 8:
        yield (
            ("vocabulary_size",),
            f"vocabulary_size {size} is no multiple of 8, which tensor cores like less; DeepSpeed warns of it "
            "and changes nothing",
            "pad the vocabulary",
        )


@rule("dump-state", NOTE, "runtime/engine.py, DeepSpeedEngine.__init__ (dump_state)")
def dump_state(case):
    if case.config.get("dump_state") is True:
        yield (
            ("dump_state",),
            "dump_state has DeepSpeed log its whole state, at the level info, which its logger does not show",
            'add "log_level": "info", or delete it',
        )
