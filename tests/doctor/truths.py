"""For every rule, configs that it finds something in, and what the real DeepSpeed is seen to do with each.

`refused` is an error at parse, at initialize or in a step. `same` says that DeepSpeed ends up with the same engine
without the key, which is what "ignored" means. `seen` looks at the parsed config or at the engine.
"""

from typing import NamedTuple

M = {"train_micro_batch_size_per_gpu": 1}
ADAM = {"type": "AdamW", "params": {"lr": 1e-3, "torch_adam": True}}
A = M | {"optimizer": ADAM}
B = A | {"bf16": {"enabled": True}}
CPU_ADAM = M | {"bf16": {"enabled": True}, "optimizer": {"type": "AdamW", "params": {"lr": 1e-3}}}
CPU = {"device": "cpu"}


def zero(stage, base=A, **more):
    buckets = {"reduce_bucket_size": 1000} | ({"allgather_bucket_size": 1000} if stage in (1, 2) else {})
    return base | {"zero_optimization": {"stage": stage, **(buckets if stage else {}), **more}}


class Truth(NamedTuple):
    config: object
    kind: str  # refused, same, seen
    about: object = None  # refused: the text; same: path of the key; seen: the name of what is looked at
    expected: object = None
    options: dict = {}  # of diagnose


def refused(config, text="", **options):
    return Truth(config, "refused", text, None, options)


def same(config, *path, **options):
    return Truth(config, "same", path, None, options)


def seen(config, what, expected, **options):
    return Truth(config, "seen", what, expected, options)


def file(content, text="", **options):
    """A file's text, which DeepSpeed reads itself; refused where `text` is not None."""
    return Truth(
        content, "refused" if text is not None else "seen", text if text is not None else "parsed", True, options
    )


def optimizer(name="AdamW", base=M, **params):
    return base | {"optimizer": {"type": name, "params": params}}


def scheduler(name, base=A, **params):
    return base | {"scheduler": {"type": name, "params": params}}


WARM = {"warmup_num_steps": 4}
TRUTHS = {
    # the file
    "not-a-dict": [file("[1, 2]", "")],
    "duplicate-key": [file('{"train_batch_size": 1, "train_batch_size": 2}', "Duplicate keys"),
                      file('{"train_batch_size": 1, "fp16": {"enabled": false, "enabled": true}}', "Duplicate keys")],
    "nested-too-deep": [file('{"train_batch_size": 1, "_deep": ' + "[" * 600 + "]" * 600 + "}", "recursion")],
    "number-too-large": [file('{"train_batch_size": 1, "gradient_clipping": 1e999}', "infinity")],
    "hjson": [file("{\n // a comment\n train_batch_size: 1,\n}", None)],
    "byte-order-mark": [file('\ufeff{"train_batch_size": 1}', None)],
    # keys
    "unknown-key": [same(A | {"zero_optimisation": {"stage": 2}}, "zero_optimisation"),
                    same(A | {"zero_force_cpu": 1}, "zero_force_cpu")],
    "misplaced-key": [same(A | {"stage": 3}, "stage"), same(A | {"reduce_bucket_size": 1}, "reduce_bucket_size")],
    "ignored-key-in-block": [same(A | {"checkpoint": {"tag_validation_enabled": False}}, "checkpoint"),
                             same(M | {"optimizer": ADAM | {"parameters": {"lr": 1}}}, "optimizer", "parameters"),
                             same(A | {"data_types": {"grad_accumulation_dtype": "fp32"}}, "data_types"),
                             same(A | {"activation_checkpointing": {"partitioned": True}}, "activation_checkpointing")],
    "unknown-key-in-block": [refused(A | {"zero_optimization": {"stage": 2, "reduce_buckets": 1}}, "reduce_buckets"),
                             refused(A | {"compile": {"backend": "inductor", "disable": False}}, "backend"),
                             refused(A | {"zero_optimization": {"stage": 3, "aio": {}}}, "aio"),
                             refused(A | {"zero_optimization": {"offload_optimizer": {"devise": "cpu"}}}, "devise")],
    "removed-key": [refused(A | {"amp": {"enabled": False}}, "Apex"), refused(A | {"elasticity": None}, "Elastic")],
    "removed-zero-key": [refused(zero(3, mics_shard_size=8), "MiCS"), refused(zero(3, zeropp_loco_param={}), "LoCo")],
    "old-spelling": [seen(zero(2, B, cpu_offload=True), "offload", ["cpu", "none"]),
                     seen(zero(3, B, cpu_offload_param=True), "offload", ["none", "cpu"]),
                     seen(zero(2, B, cpu_offload=False), "offload", ["none", "none"])],
    "old-spelling-ignored": [same(zero(2, cpu_offload_use_pin_memory=True), "zero_optimization",
                                  "cpu_offload_use_pin_memory")],
    "old-and-new-spelling": [refused(zero(2, cpu_offload=True, offload_optimizer=CPU), "together")],
    "short-name": [seen(zero(3, prefetch_bucket_size=7), "prefetch", 7)],
    "old-zero-switch": [seen(A | {"zero_optimization": True}, "parsed stage", 1),
                        seen(A | {"zero_optimization": False}, "parsed stage", 0)],
    "old-bf16-name": [seen(A | {"bfloat16": {"enabled": True}}, "precision", "bf16")],
    "old-bf16-name-ignored": [same(B | {"bfloat16": {"enabled": False}}, "bfloat16")],
    "read-by-nothing": [same(A | {"disable_allgather": True}, "disable_allgather"),
                        same(A | {"data_parallel_size": 1}, "data_parallel_size")],
    # blocks and values
    "not-a-block": [refused(A | {key: value}) for key, value in (
        ("fp16", None), ("fp16", True), ("zero_optimization", None), ("data_types", None), ("data_types", "fp32"),
        ("optimizer", None), ("activation_checkpointing", True), ("comms_logger", None), ("timers", None),
        ("bfloat16", None), ("expert_parallel", 1), ("pipeline", "auto"), ("checkpoint", []), ("aio", 1),
        ("flops_profiler", None), ("data_efficiency", None), ("tensor_parallel", None), ("compile", True),
        ("autotuning", None), ("torch_autocast", True), ("scheduler", "WarmupLR"),
        ("checkpoint", {"writer": 1}), ("checkpoint", {"parallel_write": None}), ("timers", {"throughput": None}),
        ("data_efficiency", {"data_sampling": None}))],
    "wrong-type": [refused(zero(3, offload_param=False), "offload_param"),
                   refused(zero(3, stage3_prefetch_bucket_size=15099494.4), "int_from_float"),
                   refused(A | {"fp16": {"enabled": "maybe"}}, "enabled"),
                   refused(A | {"tensorboard": None}, "tensorboard"),
                   refused(A | {"tensor_parallel": {"dtype": "bf16"}}, "dtype")],
    "out-of-range": [refused(zero(2, reduce_bucket_size=0), "greater"), refused(zero(3, sub_group_size=-1), "greater"),
                     refused(zero(3, offload_optimizer=CPU | {"ratio": 1.5}), "less")],
    "not-a-choice": [refused(A | {"zero_optimization": {"stage": 4}}, "stage"),
                     refused(zero(3, offload_optimizer={"device": "gpu"}), "device"),
                     refused(A | {"compile": {"passes": ["z4"]}}, "passes")],
    "loss-scale": [refused(A | {"fp16": {"loss_scale": "dynamic"}}, "loss_scale"),
                   refused(A | {"fp16": {"loss_scale": -1}}, "loss_scale"),
                   refused(A | {"fp16": {"loss_scale_window": True}}, "loss_scale_window"),
                   refused(A | {"fp16": {"enabled": True, "min_loss_scale": 0}}, "min_loss_scale")],
    "read-as": [seen(A | {"bf16": {"enabled": "false"}}, "precision", "fp32"),
                seen(A | {"zero_optimization": {"stage": "2"}}, "parsed stage", 2)],
    "auto-in-block": [seen(A | {"bf16": {"enabled": "auto"}}, "precision", "fp32"),
                      seen(A | {"zero_optimization": {"stage": "auto"}}, "parsed stage", 0),
                      seen(zero(2, reduce_bucket_size="auto"), "parsed bucket", 500_000_000)],
    "no-such-value": [refused(A | {key: value}) for key, value in (
        ("communication_data_type", "float16"), ("communication_data_type", 16), ("gradient_allreduce_op", "max"),
        ("seq_parallel_communication_data_type", "half"), ("torch_autocast", {"dtype": "fp8"}),
        ("torch_autocast", {"dtype": None}), ("torch_autocast", {"lower_precision_safe_modules": None}),
        ("optimizer", {"type": 5}), ("optimizer", {"type": "AdamW", "params": "lr"}), ("vocabulary_size", "many"),
        ("expert_parallel", {"load_balance_coeff": 1}), ("data_types", {"keep_in_fp32_modules": "none"}),
        ("wall_clock_breakdown", None), ("flops_profiler", {"enabled": "yes"}))]
        + [refused(A | {"aio": {"use_gds": True}}, "GDS", accelerator="cpu")],
    "checkpoint-value": [refused(A | {"checkpoint": value}) for value in (
        {"tag_validation": "Never"}, {"tag_validation": None}, {"writer": {"type": "slow"}}, {"writer": {"type": 1}},
        {"writer": {"data_parallel": "rank"}}, {"parallel_write": {"pipeline_stage": "yes"}})],
    "autotuning-folder": [refused(A | {"autotuning": {"results_dir": ""}}, "results_dir")],
    "data-efficiency-value": [
        refused(A | {"data_efficiency": {"data_sampling": {"curriculum_learning": {"enabled": True}}}}, "metrics"),
        refused(A | {"data_efficiency": {"data_sampling": {"dynamic_batching": {"enabled": True}}}}, "max_tokens"),
        refused(A | {"data_efficiency": {"data_sampling": {"dynamic_batching": {"min_batch_size": "x"}}}})],
    "max-grad-norm-type": [refused(optimizer(max_grad_norm=None))],
    # the batch
    "auto-at-top-level": [refused({"train_batch_size": "auto", "optimizer": ADAM}, "str")],
    "batch-size-type": [refused({"train_batch_size": "8"}), refused({"train_micro_batch_size_per_gpu": [1]})],
    "no-batch-size": [refused({"optimizer": ADAM}, "needs to be provided"),
                      refused({"gradient_accumulation_steps": 2}, "needs to be provided")],
    "batch-not-positive": [refused({"train_batch_size": 0}), refused(M | {"gradient_accumulation_steps": -1}),
                           refused({"train_batch_size": 4, "gradient_accumulation_steps": 0})],
    "batch-too-small": [refused({"train_batch_size": 2}, "Micro batch size", world_size=4),
                        refused({"train_batch_size": 2, "train_micro_batch_size_per_gpu": 4}, "accum", world_size=1)],
    "batch-does-not-multiply": [
        refused({"train_batch_size": 8, "train_micro_batch_size_per_gpu": 2, "gradient_accumulation_steps": 1},
                "8 != 2 * 1 * 1", world_size=1),
        refused({"train_batch_size": 7, "train_micro_batch_size_per_gpu": 2}, "7 != 2 * 3 * 1", world_size=1),
        refused({"train_batch_size": 4, "gradient_accumulation_steps": 3}, "4 != 1 * 3 * 1", world_size=1),
        refused({"train_batch_size": 7, "train_micro_batch_size_per_gpu": 2}, "7 != 2")],
    "ranks-of-a-sequence": [refused(A | {"sequence_parallel_size": 0}), refused(A | {"sequence_parallel_size": "2"}),
                            refused(A | {"sequence_parallel_size": -1})],
    "sequence-of-part-ranks": [seen(A | {"sequence_parallel_size": 2}, "parsed batch", [0.5, 1, 1], world_size=1)],
    "batch-counts-tensor-ranks": [seen(M | {"tensor_parallel": {"autotp_size": 2}}, "parsed batch", [4, 1, 1],
                                       world_size=4)],
    "pipeline-block": [same(A | {"pipeline": {"stages": 4}}, "pipeline")],
    "batch-is-no-whole-number": [seen({"train_micro_batch_size_per_gpu": 2.0}, "parsed batch", [2.0, 2.0, 1])],
    # precision
    "two-half-precisions": [refused(B | {"fp16": {"enabled": True}}, "simultaneously")],
    "precision-not-enabled": [seen(A | {"bf16": {"check_grad_overflow": False}}, "precision", "fp32")],
    "no-precision": [seen(A, "dtype kept", "torch.bfloat16")],
    "fp16-on-a-cpu": [refused(A | {"fp16": {"enabled": True}}, "fp16 is not supported", accelerator="cpu")],
    "masters-need-zero": [refused(A | {"bf16": {"enabled": True, "bf16_master_weights_and_grads": True}}, "ZeRO Stage"),
                          refused(A | {"fp16": {"fp16_master_weights_and_grads": True}}, "ZeRO Stage")],
    "states-without-masters": [refused(zero(2, A | {"bf16": {"bf16_optimizer_states": True}}), "requires bf16_master")],
    "masters-need-offload": [
        refused(zero(2, A | {"bf16": {"enabled": True, "bf16_master_weights_and_grads": True}}), "Offload"),
        refused(zero(2, A | {"bf16": {"enabled": True, "bf16_master_weights_and_grads": True}},
                     offload_optimizer=CPU))],
    "accumulation-dtype": [refused(A | {"data_types": {"grad_accum_dtype": "fp8"}}, "DtypeEnum")],
    "accumulation-at-stage-0": [refused(B | {"data_types": {"grad_accum_dtype": "fp32"}}, "unsupported mix"),
                                refused(A | {"data_types": {"grad_accum_dtype": "bf16"}}, "unsupported mix")],
    "parameter-dtype": [refused(A | {"data_types": {"param_dtype": "bf16"}}, "conflicts")],
    "buffer-dtype": [refused(B | {"data_types": {"buffer_dtype": "half precision"}}, "DtypeEnum")],
    "buffer-dtype-ignored": [same(A | {"data_types": {"buffer_dtype": "bf16"}}, "data_types")],
    "static-loss-scale": [seen(A | {"fp16": {"enabled": True, "loss_scale": 128}}, "dynamic scale", False)],
    "dynamic-scale-settings-ignored": [
        seen(A | {"fp16": {"enabled": True, "loss_scale": 128, "loss_scale_window": 5}}, "dynamic scale", False)],
    "autocast-not-enabled": [seen(A | {"torch_autocast": {"dtype": "bfloat16"}}, "autocast", False)],
    "autocast-enabled-text": [seen(A | {"torch_autocast": {"enabled": "false"}}, "autocast", True)],
    "autocast-and-half": [seen(B | {"torch_autocast": {"enabled": True, "dtype": "bfloat16"}}, "precision", "bf16")],
    "autocast-and-quantized": [refused(
        zero(3, A | {"torch_autocast": {"enabled": True, "dtype": "bfloat16"}}, zero_quantized_weights=True), "both")],
    "autocast-module": [refused(A | {"torch_autocast": {"enabled": True, "lower_precision_safe_modules": ["Linear"]}},
                                "Failed to import")],
    "sequence-dtype-unused": [seen(B | {"seq_parallel_communication_data_type": "fp16"}, "messages",
                                   "torch.bfloat16")],
    "messages-in-another-dtype": [seen(B | {"communication_data_type": "fp32"}, "messages", "torch.float32")],
    "messages-in-fp16": [seen(zero(2, B) | {"communication_data_type": "FP16"}, "messages", "torch.float16")],
    # ZeRO
    "zero-without-stage": [same(A | {"zero_optimization": {"overlap_comm": True}}, "zero_optimization")],
    "without-effect-at-stage-0": [same(zero(0, reduce_bucket_size=5000), "zero_optimization", "reduce_bucket_size")],
    "without-effect-below-stage-3": [same(zero(2, B, **{key: value}), "zero_optimization", key) for key, value in (
        ("stage3_max_live_parameters", 7), ("stage3_prefetch_bucket_size", 7), ("sub_group_size", 7),
        ("stage3_param_persistence_threshold", 7), ("zero_hpz_partition_size", 2),
        ("zero_quantized_weights", True), ("zero_quantized_nontrainable_weights", True),
        ("stage3_gather_16bit_weights_on_model_save", True), ("stage3_max_reuse_distance", 7),
        ("stage3_module_granularity_threshold", 7), ("stage3_model_persistence_threshold", 7),
        ("stage3_allgather_sequential", True), ("stage3_use_all_reduce_for_fetch_params", True))],
    "without-effect-at-stage-3": [same(zero(3, B, **{key: value}), "zero_optimization", key) for key, value in (
        ("allgather_bucket_size", 1000), ("round_robin_gradients", True), ("parameter_alignment", True),
        ("use_multi_rank_bucket_allreduce", False), ("ignore_unused_parameters", False),
        ("elastic_checkpoint", True))],
    "gradient-norm": [refused(zero(3, compute_grad_norm=False), "compute_grad_norm")],
    "gradient-norm-needed": [
        refused(zero(2, compute_grad_norm=False), "gradient_clipping=0"),
        refused(zero(2, A | {"gradient_clipping": 0}, compute_grad_norm=False, offload_optimizer=CPU), "offload"),
        refused(zero(1, B | {"gradient_clipping": 0, "data_types": {"grad_accum_dtype": "fp32"}},
                     compute_grad_norm=False), "FP32 gradient accumulation")],
    "odd-bucket": [refused(zero(1, allgather_bucket_size=1001), "multiple of")],
    "legacy-stage-1": [refused(zero(1, legacy_stage1=True), "deprecated")],
    "scaled-before-reduce-scatter": [refused(zero(2, A | {"gradient_predivide_factor": 2.0}), "predivide"),
                                     refused(zero(3, A | {"prescale_gradients": True}), "pre-scale")],
    "summed-gradients": [refused(zero(3, A | {"gradient_allreduce_op": "sum"}), "stage 3"),
                         refused(zero(2, A | {"gradient_allreduce_op": "SUM"}, zenflow={}), "ZenFlow"),
                         refused(A | {"gradient_allreduce_op": "sum", "compile": {"deepcompile": True}},
                                 "DeepCompile")],
    "unmanaged-accumulation": [refused(zero(1, A | {"managed_gradient_accumulation": False}, overlap_comm=True))],
    "quantized-on-a-cpu": [refused(zero(3, B, zero_quantized_weights=True), "CPU backend", accelerator="cpu")],
    "no-optimizer": [refused(M | {"zero_optimization": {"stage": 1}}, "requires an optimizer"),
                     seen(M | {"zero_optimization": {"stage": 3}}, "optimizer class", "DeepSpeedZeRoOffload")],
    "tensor-ranks-do-not-divide": [refused(A | {"tensor_parallel": {"autotp_size": 2}}, world_size=1)],
    # offload
    "offload-without-device": [same(zero(2, B, offload_optimizer={}), "zero_optimization", "offload_optimizer")],
    "offload-at-stage-0": [same(zero(0, B, offload_optimizer=CPU), "zero_optimization", "offload_optimizer")],
    "offloaded-parameters-below-3": [same(zero(2, B, offload_param=CPU), "zero_optimization", "offload_param")],
    "nvme-below-3": [seen(zero(2, B, offload_optimizer={"device": "nvme", "nvme_path": "NOWHERE"}), "nvme folder",
                          False)],
    "nvme-without-path": [refused(zero(3, offload_optimizer={"device": "nvme"})),
                          refused(zero(3, offload_param={"device": "nvme"}), "nvme_path")],
    "nvme-settings-without-nvme": [same(zero(3, B, offload_optimizer=CPU | {"buffer_count": 9, "fast_init": True}),
                                        "zero_optimization", "offload_optimizer", "buffer_count")],
    "aio-without-nvme": [same(zero(3, B) | {"aio": {"queue_depth": 32}}, "aio")],
    "partial-offload": [refused(zero(2, offload_optimizer=CPU | {"ratio": 0.5}), "Stage 3")],
    "ratio-of-whole-groups": [seen(zero(3, CPU_ADAM, offload_optimizer=CPU | {"ratio": 0.5}, sub_group_size=12),
                                   "groups on the device", 1)],
    "ratio-without-effect": [seen(zero(3, CPU_ADAM, offload_optimizer=CPU | {"ratio": 0.3}), "groups on the device", 0,
                                  parameters=30)],
    "ratio-needs-cpu-adam": [refused(zero(3, offload_optimizer=CPU | {"ratio": 0.5}), "DeepSpeedCPUAdam")],
    "super-offload-below-3": [same(zero(2, B, offload_optimizer=CPU | {"super_offload": True}), "zero_optimization",
                                   "offload_optimizer", "super_offload")],
    "super-offload-needs-cuda": [refused(zero(3, offload_optimizer=CPU | {"super_offload": True}), "CUDA",
                                         accelerator="cpu")],
    "unpinned-offload": [seen(zero(2, B, offload_optimizer=CPU | {"pin_memory": False}), "pinned", False)],
    "offload-with-torch-adam": [seen(zero(2, B, offload_optimizer=CPU), "basic optimizer", "AdamW")],
    "zenflow": [refused(zero(2, offload_optimizer=CPU, zenflow={"select_strategy": "often"}), "select_strategy"),
                refused(zero(2, zenflow={"update_interval": 0}), "update_interval"),
                refused(zero(2, zenflow={"select_interval": "1"}), "select_interval")],
    "zenflow-needs-offload": [refused(zero(2, zenflow={}), "cpu offload"),
                              refused(zero(2, zenflow={}, offload_optimizer=CPU), "torch_adam")],
    "zenflow-intervals": [
        refused(zero(2, offload_optimizer=CPU, zenflow={"select_interval": 4}), "auto select"),
        refused(zero(2, offload_optimizer=CPU, zenflow={"select_strategy": "step"}), "must be a number"),
        refused(zero(2, offload_optimizer=CPU,
                     zenflow={"select_strategy": "step", "select_interval": 2, "update_interval": 4}), "greater")],
    "zenflow-at-stage-0": [refused(zero(0, zenflow={}))],
    # the optimizer
    "removed-optimizer": [refused(optimizer("OneBitAdam"), "not a supported")],
    "unknown-optimizer": [refused(optimizer("AdmaW"), "not a supported"), refused(optimizer("sgd"), "not a supported")],
    "optimizer-without-type": [seen(M | {"optimizer": {"params": {"lr": 1}}}, "optimizer class", "NoneType")],
    "max-grad-norm": [refused(optimizer(max_grad_norm=1.0), "gradient_clipping")],
    "optimizer-parameter": [refused(optimizer(lr=0.1, torch_adam=True, momentum=1), "momentum"),
                            refused(optimizer(lr=0.1, capturable=True), "capturable"),
                            refused(optimizer("SGD", lr=0.1, betas=[0.9, 0.99]), "betas"),
                            refused(zero(2, optimizer(lr=0.1, adam_w_mode=True, set_grad_none=True),
                                         offload_optimizer=CPU), "set_grad_none")],
    "muon-parameter-ignored": [],
    "optimizer-parameter-type": [refused(optimizer(lr="1e-3", torch_adam=True)),
                                 refused(optimizer(lr=0.1, betas="auto", torch_adam=True)),
                                 refused(zero(3, optimizer(lr=0.1, betas=[0.9], torch_adam=True)))],
    "default-learning-rate": [seen(optimizer(torch_adam=True), "lr", [1e-3])],
    "adam-is-adamw": [seen(optimizer("Adam", torch_adam=True, weight_decay=0.1), "basic optimizer", "AdamW")],
    "adam-w-mode-ignored": [seen(optimizer("AdamW", torch_adam=True, adam_w_mode=False), "basic optimizer", "AdamW")],
    "untested-optimizer": [refused(zero(1, optimizer("SGD", lr=0.1)), "untested")],
    "optimizer-needs-gpu": [refused(optimizer("Lamb", lr=0.1), "CPU backend", accelerator="cpu"),
                            refused(optimizer("lion", lr=0.1), "CPU backend", accelerator="cpu")],
    "optimizer-needs-closure": [refused(optimizer("LBFGS", lr=0.1), "closure")],
    "lamb-needs-dynamic-scale": [refused(optimizer("Lamb") | {"fp16": {"loss_scale": 128}}, "dynamic loss scaling")],
    "needs-mup": [refused(optimizer("MuAdam", lr=0.1))],
    "muon-at-stage-3": [refused(zero(3, optimizer("Muon", lr=0.1, torch_adam=True)), "reduce scatter")],
    "clipping-type": [refused(A | {"gradient_clipping": "1.0"}), refused(A | {"gradient_clipping": None}),
                      refused(zero(2, A | {"gradient_clipping": "auto"}))],
    "negative-clipping": [seen(A | {"gradient_clipping": -1}, "clipped", False)],
    "default-clipping": [seen(A, "clipped", True)],
    # the scheduler
    "unknown-scheduler": [refused(scheduler("cosine"), "does not recognize")],
    "scheduler-without-type": [seen(A | {"scheduler": {"params": WARM}}, "scheduler", "NoneType")],
    "scheduler-without-params": [refused(A | {"scheduler": {"type": "WarmupLR"}}, "mapping"),
                                 refused(A | {"scheduler": {"type": "WarmupLR", "params": None}}, "mapping")],
    "scheduler-parameter-missing": [refused(scheduler("WarmupDecayLR"), "total_num_steps")],
    "scheduler-parameter": [refused(scheduler("WarmupLR", total_num_steps=10), "total_num_steps")],
    "scheduler-steps": [refused(scheduler("WarmupLR", warmup_num_steps=0), "positive integer"),
                        refused(scheduler("WarmupLR", warmup_num_steps=10.5), "positive integer"),
                        refused(scheduler("WarmupLR", warmup_num_steps="auto"), "positive integer"),
                        refused(scheduler("LRRangeTest", lr_range_test_step_size=0), "positive integer")],
    "scheduler-value-type": [refused(scheduler("WarmupDecayLR", total_num_steps="auto", **WARM)),
                             refused(scheduler("WarmupLR", warmup_max_lr="1e-3", **WARM))],
    "torch-scheduler": [refused(zero(1) | {"scheduler": {"type": "CosineAnnealingLR", "params": {"T_max": 10}}},
                                "not an Optimizer"),
                        refused(B | {"scheduler": {"type": "CosineAnnealingLR", "params": {"T_max": 10}}},
                                "not an Optimizer")],
    "scheduler-without-optimizer": [seen(scheduler("WarmupLR", M, **WARM), "scheduler", "NoneType")],
    "warmup-type": [seen(scheduler("WarmupLR", warmup_type="cosine", **WARM), "warmup type", "log")],
    "warmup-maximum": [seen(scheduler("WarmupDecayLR", optimizer(lr=0.5, torch_adam=True), total_num_steps=9, **WARM),
                            "largest lr", [0.001])],
    "warmup-longer-than-run": [seen(scheduler("WarmupDecayLR", total_num_steps=2, warmup_num_steps=4), "lr after 2",
                                    "below its largest")],
    "logarithmic-warmup": [seen(scheduler("WarmupLR", warmup_max_lr=1.0, warmup_num_steps=100), "lr after 10", [0.5])],
    # cost, and what is waited for in vain
    "bucket-larger-than-model": [seen(zero(3, B, reduce_bucket_size=5000), "bucket elements", 5000, parameters=30)],
    "bucket-memory": [seen(zero(3, B, reduce_bucket_size=300_000_000), "bucket elements", 300_000_000)],
    "activation-checkpointing-block": [same(A | {"activation_checkpointing": {"partition_activations": True}},
                                            "activation_checkpointing")],
    "quiet-steps-per-print": [seen(A | {"steps_per_print": 1}, "printed", False)],
    "steps-per-print-value": [refused(A | {"steps_per_print": "10"}), refused(A | {"steps_per_print": 0})],
    "log-level": [refused(A | {"log_level": "loud"}, "valid logging levels")],
    "clock-synchronizes": [seen(A | {"wall_clock_breakdown": True}, "timers", True)],
    "profiler-is-on": [seen(A | {"flops_profiler": {"enabled": True}}, "profiler", True)],
    "sanity-checks-are-on": [seen(zero(3, B, enable_sanity_checks=True), "sanity checks", True)],
    "monitor-needs-package": [refused(A | {"tensorboard": {"enabled": True}}, "tensorboard")],
    "datastates-needs-package": [refused(A | {"datastates_ckpt": None}, "DataStates")],
    "vocabulary-not-aligned": [same(A | {"vocabulary_size": 1001}, "vocabulary_size")],
    "dump-state": [seen(A | {"dump_state": True}, "printed", False)],
}  # fmt: skip

# What cannot be seen here, and why.
ELSEWHERE = {
    "bf16-emulated": "needs a GPU that emulates bf16",
    "torch-adam-on-a-gpu": "needs a GPU",
    "muon-parameter-ignored": "test_rules.py asks the engine's own function: making Muon compiles for a minute",
    "second-shard": "needs ranks on two nodes, or four told that they are; tests/memory measures hpZ",
    "filled-by-trainer": "test_hugging_face.py: transformers, not DeepSpeed",
    "must-match-trainer": "test_hugging_face.py: transformers, not DeepSpeed",
    "trainer-needs-zero": "test_hugging_face.py: accelerate, not DeepSpeed",
    "trainer-needs-json": "test_hugging_face.py: accelerate, not DeepSpeed",
}
