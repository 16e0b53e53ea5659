"""ZeRO: the stage, and settings that do nothing at it or that it refuses."""

from labsupport.doctor.blocks import OldAndNew, defaults
from labsupport.doctor.findings import COST, ERROR, INITIALIZE, NOTE, PARSE, SILENT, rule
from labsupport.doctor.rules.names import shown
from labsupport.doctor.rules.precision import dtype_of

ZERO = "zero_optimization"
ENGINE = "runtime/engine.py, DeepSpeedEngine._configure_zero_optimizer"
# By the names of the model's fields: what the optimizers of one stage are given and those of the others are not.
STAGE_3_ALONE = ("prefetch_bucket_size", "param_persistence_threshold", "model_persistence_threshold",
                 "max_live_parameters", "max_reuse_distance", "gather_16bit_weights_on_model_save",
                 "module_granularity_threshold", "use_all_reduce_for_fetch_params", "allgather_sequential",
                 "sub_group_size", "zero_hpz_partition_size", "zero_quantized_weights",
                 "zero_quantized_nontrainable_weights", "zero_quantized_gradients",
                 "save_muon_momentum_buffer_in_memory")  # fmt: skip
STAGES_1_AND_2_ALONE = ("allgather_bucket_size", "use_multi_rank_bucket_allreduce", "round_robin_gradients",
                        "parameter_alignment", "ignore_unused_parameters", "elastic_checkpoint")  # fmt: skip
# At stage 0 these say something of their own.
ELSEWHERE = ("offload_optimizer", "offload_param", "cpu_offload", "cpu_offload_param", "cpu_offload_use_pin_memory",
             "zenflow")  # fmt: skip


def changed(case):
    """Return [(key as written, field, value taken)] of the block's settings that are not DeepSpeed's defaults."""
    block, plain = case.zero, defaults(ZERO)
    found = []
    for name, field in type(block).model_fields.items():
        for key in (field.alias, name):
            if key in case.written(ZERO) and name != "stage" and name in vars(block):
                if getattr(block, name) != getattr(plain, name):
                    found.append((key, name, getattr(block, name)))
                break
    return found


@rule("zero-without-stage", SILENT, "runtime/zero/config.py, DeepSpeedZeroConfig.stage = 0")
def without_stage(case):
    written = case.written(ZERO)
    if written and "stage" not in written and isinstance(case.config.get(ZERO), dict):
        yield (
            (ZERO,),
            "the block has no stage, so DeepSpeed takes stage 0, at which nothing in it has an effect",
            "add the stage, 1, 2 or 3",
        )


@rule("without-effect-at-stage-0", SILENT, ENGINE)
def at_stage_0(case):
    if case.stage == 0 and "stage" in case.written(ZERO):
        for key, name, value in changed(case):
            if name not in ELSEWHERE and name != "compute_grad_norm" and name != "leaf_module":
                yield (
                    (ZERO, key),
                    f"{key} is {shown(value)}, and stage 0 partitions nothing and reads none of it",
                    "set stage 1, 2 or 3, or delete it",
                )


@rule("without-effect-below-stage-3", SILENT, ENGINE)
def below_stage_3(case):
    if case.stage in (1, 2):
        for key, name, value in changed(case):
            if name in STAGE_3_ALONE:
                yield (
                    (ZERO, key),
                    f"{key} is {shown(value)}, which stage 3 alone reads, and the stage is {case.stage}",
                    "set stage 3, or delete it",
                )


@rule("without-effect-at-stage-3", SILENT, ENGINE)
def at_stage_3(case):
    if case.stage == 3:
        for key, name, value in changed(case):
            if name in STAGES_1_AND_2_ALONE:
                yield (
                    (ZERO, key),
                    f"{key} is {shown(value)}, which stages 1 and 2 alone read, and the stage is 3",
                    "delete it",
                )


@rule("gradient-norm", ERROR, "runtime/zero/config.py, DeepSpeedZeroConfig.compute_grad_norm_valid", PARSE)
def gradient_norm(case):
    for _, error in case.errors:
        if not isinstance(error, OldAndNew) and error["type"] == "gradient-norm":
            yield (
                (ZERO, "compute_grad_norm"),
                "compute_grad_norm is false, which DeepSpeed takes at stages 1 and 2 alone",
                "delete it",
            )


@rule("gradient-norm-needed", ERROR, "runtime/zero/stage_1_and_2.py, DeepSpeedZeroOptimizer.__init__", INITIALIZE)
def gradient_norm_needed(case):
    if case.zero.compute_grad_norm or case.stage not in (1, 2):
        return
    clipping = case.value("gradient_clipping")
    if isinstance(clipping, int | float) and clipping > 0:
        where = "gradient_clipping" in case.config
        yield (
            (ZERO, "compute_grad_norm"),
            f"compute_grad_norm is false, and gradient_clipping is {clipping:g}{'' if where else ' by default'}, "
            "which needs the norm",
            'write "gradient_clipping": 0',
        )
    elif case.offload[0] != "none":
        yield (
            (ZERO, "compute_grad_norm"),
            "compute_grad_norm is false, which DeepSpeed refuses with an offloaded optimizer",
            "delete it",
        )
    elif (
        case.stage == 1
        and case.precision == "bf16"
        and dtype_of(case.block("data_types").get("grad_accum_dtype")) == "fp32"
    ):
        yield (
            (ZERO, "compute_grad_norm"),
            "compute_grad_norm is false, which DeepSpeed refuses at stage 1 with bf16 and fp32 accumulation",
            "delete it",
        )


@rule("odd-bucket", ERROR, "runtime/zero/stage_1_and_2.py, DeepSpeedZeroOptimizer.__init__", INITIALIZE)
def odd_bucket(case):
    size = case.zero.allgather_bucket_size
    other = (
        case.stage == 1
        and case.precision == "bf16"
        and dtype_of(case.block("data_types").get("grad_accum_dtype")) == "fp32"
    )
    if case.stage in (1, 2) and size % 2 and not other:
        yield (
            (ZERO, "allgather_bucket_size"),
            f"allgather_bucket_size is {size}, and DeepSpeed takes even numbers of elements alone",
            f"write {size + 1}",
        )


@rule("legacy-stage-1", ERROR, ENGINE, INITIALIZE)
def legacy(case):
    if case.zero.legacy_stage1 and case.stage:
        yield (ZERO, "legacy_stage1"), "legacy_stage1 was removed, and DeepSpeed refuses it", "delete it"


@rule("scaled-before-reduce-scatter", ERROR, "runtime/zero/stage_1_and_2.py and stage3.py, __init__", INITIALIZE)
def scaled(case):
    averaged = case.stage == 3 or case.value("gradient_allreduce_op") == "mean"
    if case.stage < 2 or not case.zero.reduce_scatter or not averaged or case.optimizer is None:
        return
    factor = case.value("gradient_predivide_factor")
    if factor != 1:
        yield (
            ("gradient_predivide_factor",),
            f"gradient_predivide_factor is {shown(factor)}, which DeepSpeed refuses at stage {case.stage} with "
            "reduce_scatter",
            'write "reduce_scatter": false, or leave it out',
        )
    if case.value("prescale_gradients"):
        yield (
            ("prescale_gradients",),
            f"prescale_gradients is on, which DeepSpeed refuses at stage {case.stage} with reduce_scatter",
            'write "reduce_scatter": false, or leave it out',
        )


@rule("summed-gradients", ERROR, "runtime/config.py, DeepSpeedConfig._do_error_check", PARSE)
def summed(case):
    operation = case.value("gradient_allreduce_op")
    if isinstance(operation, str) and operation.lower() == "sum":
        for condition, what in (
            (case.stage == 3, "ZeRO stage 3"),
            (case.zero.zenflow is not None, "ZenFlow"),
            (case.parsed("compile").deepcompile, "DeepCompile"),
        ):
            if condition:
                yield (
                    ("gradient_allreduce_op",),
                    f"gradient_allreduce_op is sum, which DeepSpeed refuses with {what}",
                    "write mean, and scale the loss",
                )
                return


@rule("unmanaged-accumulation", ERROR, "runtime/engine.py, DeepSpeedEngine._do_sanity_check", INITIALIZE)
def unmanaged(case):
    if not case.value("managed_gradient_accumulation") and case.zero.overlap_comm and case.stage < 2:
        yield (
            ("managed_gradient_accumulation",),
            "managed_gradient_accumulation is false, which DeepSpeed takes with overlap_comm at stages 2 and 3 alone",
            'write "overlap_comm": false',
        )


@rule("quantized-on-a-cpu", ERROR, "runtime/zero/partition_parameters.py (op quantizer)", INITIALIZE)
def quantized(case):
    if (
        case.stage == 3
        and case.accelerator == "cpu"
        and (case.zero.zero_quantized_weights or case.zero.zero_quantized_nontrainable_weights)
    ):
        yield (
            (ZERO, "zero_quantized_weights"),
            "quantized weights need an op that DeepSpeed has for GPUs alone",
            "delete it",
        )


@rule("second-shard", COST, "runtime/zero/partition_parameters.py, zero_hpz_partition_size")
def second_shard(case):
    size = case.zero.zero_hpz_partition_size
    if case.stage == 3 and size > 1:
        bytes_ = f", {2 * case.parameters / size / 1e9:.2f} GB" if case.parameters else ""
        yield (
            (ZERO, "zero_hpz_partition_size"),
            f"a second copy of the parameters lies in shards over {size} ranks: 2 bytes a parameter, divided by "
            f"{size}{bytes_}, on each",
            "it is the price of gathering within the node",
        )


@rule("no-optimizer", NOTE, ENGINE)
def no_optimizer(case):
    if case.optimizer is None and case.stage and not case.hugging_face:
        what = (
            "so stage 3 without one passed to initialize is ZeRO-Inference, which cannot train"
            if case.stage == 3
            else f"and stage {case.stage} ends in an AssertionError unless one is passed to initialize"
        )
        yield (
            ("optimizer",) if "optimizer" in case.config else (),
            f"the config names no optimizer, {what}",
            "name one, or pass one",
        )


@rule(
    "tensor-ranks-do-not-divide",
    ERROR,
    "runtime/engine.py, DeepSpeedEngine._configure_tensor_parallel_states",
    INITIALIZE,
)
def tensor_ranks(case):
    size = case.tensor_parallel.autotp_size
    if case.world_size and size > 1 and case.world_size % size:
        yield (
            ("tensor_parallel", "autotp_size"),
            f"autotp_size {size} does not divide {case.world_size} rank{'s' if case.world_size > 1 else ''}, "
            "which ends in an AssertionError",
            "choose a divisor of the ranks",
        )
