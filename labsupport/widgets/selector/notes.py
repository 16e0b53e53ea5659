"""What a reader of the selector should know of a choice, each note with the choices that it is true of. No torch."""

ZERO = {"stage": [1, 2, 3]}
SEVERAL_RANKS = {"world_size": {"least": 2}}
SEVERAL_MICRO_BATCHES = {"accumulation": {"least": 2}}
SMALL = 500_000_000  # parameters: half of stage3_max_reuse_distance, as DeepSpeed has it
ON_A_DRIVE = "NVMe offload needs libaio and a drive in the same machine. nvme_path is a folder there, of your own."
STILL_ON_THE_HOST = (
    "Parameters that are offloaded to NVMe were in the host's memory as well between two steps, in the runs that were "
    "measured."
)
MORE_FROM_THE_DRIVE = "What goes to and from the drive comes on top of what is counted here."


def notes():
    """Return [{"text", "when": {what: its values, or {"least", "most"}}}]: shown where all of it is so.

    what: a key of a choice; or "model_parameters", how many the model has; "card_precision", what the card computes in;
    "has_shape", whether the model is more than a number; "counted", whether the planner counts its activations;
    "sizes_set", how many sizes the reader set.
    """
    as_the_trainer = {"sizes_set": [0], "has_shape": [True]}
    return [
        _note("One rank has nobody to share with: stages 1 to 3 save nothing here, and add buffers.",
              ZERO, world_size=[1]),
        _note("DeepSpeed 0.19.8 all-reduces the gradients and then gathers the parameters, 1.5 times what plain data "
              "parallelism sends. With use_multi_rank_bucket_allreduce: false in zero_optimization it is the paper's "
              "1.0.", SEVERAL_RANKS, stage=[1, 2], sizes_set=[0]),
        _note("Stages 2 and 3 keep only a part of the gradients, so they reduce after every micro-batch of a step, not "
              "once.", SEVERAL_RANKS, SEVERAL_MICRO_BATCHES, stage=[2, 3]),
        _note("The model is smaller than half of stage3_max_reuse_distance (1e9): stage 3 gathers it whole for the "
              "forward pass and releases nothing before the backward pass ends.",
              SEVERAL_RANKS, as_the_trainer, stage=[3], model_parameters={"most": SMALL}),
        _note("Some 1e9 gathered parameters stay on the GPU: smaller numbers for stage3_max_live_parameters and "
              "stage3_max_reuse_distance, both together, free memory and send more.",
              SEVERAL_RANKS, as_the_trainer, stage=[3], model_parameters={"least": 2 * SMALL}),
        _note("ZeRO keeps fp32 master weights even of fp32 parameters.", ZERO, precision=["fp32"]),
        _note("The gradients of several micro-batches are added up in 16 bits. For fp32 sums write "
              "{\"data_types\": {\"grad_accum_dtype\": \"fp32\"}} at the top level of the config.",
              ZERO, SEVERAL_MICRO_BATCHES, precision=["bf16", "fp16"], grad_accum_dtype=[None]),
        _note("At stage 0 in 16 bits DeepSpeed copies all gradients to fp32 for the optimizer's step.",
              stage=[0], precision=["bf16", "fp16"]),
        _note("fp16 scales its loss, and skips steps until the scale fits. Most CPUs refuse it.", precision=["fp16"]),
        _note("This card computes no bf16: choose fp16.", precision=["bf16"], card_precision=["fp16"]),
        _note("Adam runs on the host's processors: DeepSpeedCPUAdam, compiled once on a machine.",
              offload_optimizer=["cpu", "nvme"]),
        _note(f"{ON_A_DRIVE} {MORE_FROM_THE_DRIVE}", offload_optimizer=["nvme"], offload_param=["none", "cpu"]),
        _note(f"{ON_A_DRIVE} {STILL_ON_THE_HOST} {MORE_FROM_THE_DRIVE}", offload_param=["nvme"]),
        _note("Each rank locks buffers of four sub-groups in the host's memory: a smaller sub_group_size takes less.",
              offload_optimizer=["nvme"]),
        _note("Activation checkpointing is the model's own: call model.activation_checkpointing_enable() before "
              "deepspeed.initialize. No line of the config turns it on.", checkpointing=[True]),
        _note("Liger's kernels are the model's own as well: use_liger_kernel=True of TrainingArguments. They were read "
              "in their source and not measured here.", liger=[True]),
        _note("The planner does not count the activations of this architecture: they come on top of everything here.",
              counted=[False], has_shape=[True]),
        _note("A bare number of parameters has no layers: activations, small tensors and the largest tensor's buffers "
              "come on top of everything here.", has_shape=[False]),
    ]  # fmt: skip


def _note(text, *shared, **when):
    for each in shared:
        when = each | when
    return {"text": text, "when": when}
