"""Precision: fp16, bf16, torch_autocast, and the dtypes of gradients, master weights and messages."""

from labsupport.doctor.findings import COST, ERROR, INITIALIZE, NOTE, PARSE, SILENT, rule
from labsupport.doctor.known import known
from labsupport.doctor.rules.names import shown

ENGINE = "runtime/engine.py, DeepSpeedEngine."


def dtype_of(name):
    """Return the "fp16", "bf16", "fp32" or "int8" that DeepSpeed makes of a spelling, or None."""
    return next((d for d, names in known()["dtypes"].items() if isinstance(name, str) and name in names[1:]), None)


@rule("two-half-precisions", ERROR, "runtime/config.py, DeepSpeedConfig._initialize_params", PARSE)
def both(case):
    if case.fp16.enabled and case.bf16.enabled:
        yield ("bf16", "enabled"), "fp16 and bf16 are both enabled, which DeepSpeed refuses", "keep one of them"


@rule("precision-not-enabled", SILENT, "runtime/precision_config.py, enabled: bool = False")
def not_enabled(case):
    for name in ("fp16", "bf16"):
        written = case.written(name)
        if written and "enabled" not in written:
            yield (
                case.roots[name][0],
                f"the block {name} has no 'enabled', so DeepSpeed leaves {name} off",
                'add "enabled": true',
            )


@rule("no-precision", NOTE, ENGINE + "_configure_distributed_model")
def none(case):
    if case.precision == "fp32" and not case.block("torch_autocast").get("enabled") and not case.hugging_face:
        yield (
            (),
            "neither fp16 nor bf16 is enabled, so DeepSpeed casts nothing and trains in the dtype that the model "
            "comes in, which it takes for fp32",
            "enable bf16 for half the memory of weights and gradients",
        )


@rule("fp16-on-a-cpu", ERROR, ENGINE + "_do_sanity_check", INITIALIZE)
def fp16_on_a_cpu(case):
    if case.fp16.enabled and case.accelerator == "cpu":
        yield (
            ("fp16", "enabled"),
            "fp16 does not run on most processors, and DeepSpeed refuses it there",
            "enable bf16 in its place",
        )


@rule("bf16-emulated", COST, "accelerator/cuda_accelerator.py, is_bf16_supported")
def emulated(case):
    if case.bf16.enabled and case.gpu is not None and case.gpu.name in ("V100", "T4"):
        yield ("bf16", "enabled"), f"a {case.gpu.name} only emulates bf16, which is slow", "enable fp16 in its place"


@rule("masters-need-zero", ERROR, "runtime/config.py, DeepSpeedConfig._do_error_check", PARSE)
def masters_need_zero(case):
    for block, parsed, key in _low(case):
        if getattr(parsed, key) and case.stage == 0:
            yield (
                (block, key),
                f"low-precision states ({key}) need stage 1, 2 or 3, and the stage is 0",
                "set the stage, or delete the key",
            )


def _low(case):
    return (
        ("fp16", case.fp16, "fp16_master_weights_and_grads"),
        ("bf16", case.bf16, "bf16_master_weights_and_grads"),
        ("bf16", case.bf16, "bf16_optimizer_states"),
    )


@rule("states-without-masters", ERROR, "runtime/config.py, DeepSpeedConfig._do_error_check", PARSE)
def states_alone(case):
    if case.bf16.bf16_optimizer_states and not case.bf16.bf16_master_weights_and_grads and case.stage:
        yield (
            ("bf16", "bf16_optimizer_states"),
            "bf16_optimizer_states is on alone, which DeepSpeed refuses",
            "turn bf16_master_weights_and_grads on as well",
        )


@rule("masters-need-offload", ERROR, "runtime/base_optimizer.py, ZeROOptimizer._configure_master_weights", INITIALIZE)
def masters_need_offload(case):
    states, offload = case.bf16.bf16_optimizer_states, case.offload[0] != "none"
    wanted = case.bf16.bf16_master_weights_and_grads and (not states or offload)
    if not case.stage or not (wanted or case.fp16.fp16_master_weights_and_grads):
        return
    key = ("bf16", "bf16_master_weights_and_grads") if wanted else ("fp16", "fp16_master_weights_and_grads")
    if case.fp16.fp16_master_weights_and_grads and case.bf16.bf16_master_weights_and_grads:
        yield key, "16-bit master weights of both kinds are on, which DeepSpeed refuses", "keep one"
    elif not offload:
        yield (
            key,
            "16-bit master weights with fp32 optimizer states need the optimizer on the CPU, and "
            "offload_optimizer is 'none'",
            "offload it to the CPU, or turn bf16_optimizer_states on",
        )
    elif case.optimizer is not None and (
        case.optimizer not in ("adam", "adamw") or case.optimizer_params.get("torch_adam")
    ):
        yield (
            key,
            "16-bit master weights need DeepSpeed's own CPU Adam, and the config names another optimizer",
            "name AdamW without torch_adam",
        )


@rule("accumulation-dtype", ERROR, ENGINE + "get_data_types", INITIALIZE)
def accumulation_dtype(case):
    value = case.block("data_types").get("grad_accum_dtype")
    if value is not None and dtype_of(value) is None:
        yield (
            ("data_types", "grad_accum_dtype"),
            f"data_types.grad_accum_dtype is {shown(value)}, which is no name of a dtype to DeepSpeed",
            "choose fp32, bf16 or fp16",
        )


@rule("accumulation-at-stage-0", ERROR, ENGINE + "_do_optimizer_sanity_check", INITIALIZE)
def accumulation_at_stage_0(case):
    dtype = dtype_of(case.block("data_types").get("grad_accum_dtype"))
    if case.stage == 0 and dtype not in (None, case.precision):
        yield (
            ("data_types", "grad_accum_dtype"),
            f"DeepSpeed refuses stage 0 with {case.precision} and gradients added up in {dtype}",
            "choose stage 1, or leave grad_accum_dtype out",
        )


@rule("parameter-dtype", ERROR, ENGINE + "_assert_valid_mixed_precision_config", INITIALIZE)
def parameter_dtype(case):
    value = case.block("data_types").get("param_dtype")
    if value is not None and dtype_of(value) != case.precision:
        yield (
            ("data_types", "param_dtype"),
            f"data_types.param_dtype is {shown(value)}, and the precision that is enabled is {case.precision}, "
            "which DeepSpeed refuses",
            "leave param_dtype out",
        )


@rule("buffer-dtype", ERROR, ENGINE + "_mixed_precision_dtypes", INITIALIZE)
def buffer_dtype(case):
    value = case.block("data_types").get("buffer_dtype")
    if value is not None and dtype_of(value) is None and case.precision != "fp32":
        yield (
            ("data_types", "buffer_dtype"),
            f"data_types.buffer_dtype is {shown(value)}, which is no name of a dtype to DeepSpeed",
            "choose fp32, bf16 or fp16",
        )


@rule("buffer-dtype-ignored", SILENT, ENGINE + "_configure_distributed_model")
def buffer_dtype_ignored(case):
    if case.block("data_types").get("buffer_dtype") is not None and case.precision == "fp32":
        yield (
            ("data_types", "buffer_dtype"),
            "buffer_dtype has no effect without fp16 or bf16, since nothing is cast then",
            "delete it",
        )


@rule("static-loss-scale", NOTE, "runtime/engine.py, DeepSpeedEngine.dynamic_loss_scale")
def static(case):
    if case.fp16.enabled and case.fp16.loss_scale > 0:
        yield (
            ("fp16", "loss_scale"),
            f"loss_scale {case.fp16.loss_scale:g} is a fixed one, which never adapts to an overflow",
            "write 0 for a dynamic loss scale",
        )


@rule("dynamic-scale-settings-ignored", SILENT, "runtime/precision_config.py, DeepSpeedFP16Config")
def dynamic_settings(case):
    if case.fp16.enabled and case.fp16.loss_scale > 0:
        for key in (
            "initial_scale_power",
            "loss_scale_window",
            "hysteresis",
            "consecutive_hysteresis",
            "min_loss_scale",
        ):
            if key in case.written("fp16"):
                yield (
                    ("fp16", key),
                    f"{key} is of the dynamic loss scale, and loss_scale {case.fp16.loss_scale:g} is a fixed one",
                    "write loss_scale 0, or delete it",
                )
                return


@rule("autocast-not-enabled", SILENT, "runtime/config.py, get_torch_autocast_enabled")
def autocast_off(case):
    block = case.block("torch_autocast")
    if block and "enabled" not in block:
        yield (
            ("torch_autocast",),
            "the block torch_autocast has no 'enabled', so DeepSpeed leaves it off",
            'add "enabled": true',
        )


@rule("autocast-enabled-text", SILENT, "runtime/config.py, get_torch_autocast_enabled")
def autocast_text(case):
    value = case.block("torch_autocast").get("enabled", False)
    if not isinstance(value, bool):
        yield (
            ("torch_autocast", "enabled"),
            f"torch_autocast.enabled is {shown(value)}, which DeepSpeed takes as it is, for {'on' if value else 'off'}",
            f"write {'true' if value else 'false'}",
        )


@rule("autocast-and-half", NOTE, ENGINE + "forward; runtime/torch_autocast.py")
def autocast_and_half(case):
    if case.block("torch_autocast").get("enabled") and case.precision != "fp32":
        yield (
            ("torch_autocast", "enabled"),
            f"torch_autocast is on beside {case.precision}, which casts the weights already",
            "keep one of them",
        )


@rule("autocast-and-quantized", ERROR, "runtime/torch_autocast.py, _validate_auto_cast_settings", INITIALIZE)
def autocast_and_quantized(case):
    if case.block("torch_autocast").get("enabled") and case.zero.zero_quantized_weights:
        yield (
            ("zero_optimization", "zero_quantized_weights"),
            "torch_autocast and zero_quantized_weights are both on, which DeepSpeed refuses",
            "keep one of them",
        )


@rule("autocast-module", ERROR, "runtime/torch_autocast.py, init_autocast_params", INITIALIZE)
def autocast_module(case):
    block = case.block("torch_autocast")
    modules = block.get("lower_precision_safe_modules") or []
    if not block.get("enabled") or not isinstance(modules, list | str | dict):
        return
    for name in modules:
        if isinstance(name, str) and (not name.rpartition(".")[0] or name.startswith(".")):
            yield (
                ("torch_autocast", "lower_precision_safe_modules"),
                f"{shown(name)} is no full name of a class, and DeepSpeed cannot import it",
                'write a list of names such as "torch.nn.Linear"',
            )
            return


@rule("sequence-dtype-unused", SILENT, ENGINE + "_configure_distributed_model")
def sequence_dtype(case):
    if "seq_parallel_communication_data_type" in case.config and case.config.get("sequence_parallel_size", 1) in (
        1,
        None,
    ):
        yield (
            ("seq_parallel_communication_data_type",),
            "it is read with sequence parallelism alone, which this config does not name",
            "write communication_data_type",
        )


@rule("messages-in-another-dtype", COST, ENGINE + "communication_data_type")
def messages(case):
    value = case.config.get("communication_data_type")
    value = value.lower() if isinstance(value, str) else None
    if value == "fp32" and case.precision != "fp32":
        yield (
            ("communication_data_type",),
            f"gradients are sent in fp32 though they are {case.precision}, twice the bytes",
            "leave it out, unless the sum needs it",
        )


@rule("messages-in-fp16", COST, ENGINE + "communication_data_type")
def messages_in_fp16(case):
    value = case.config.get("communication_data_type")
    if isinstance(value, str) and value.lower() == "fp16" and case.precision != "fp16":
        yield (
            ("communication_data_type",),
            f"gradients in {case.precision} are sent in fp16, whose range is smaller: large ones become infinite",
            "write bf16, or leave it out",
        )
