"""Predicted beside measured: real runs of DeepSpeed, each with what the planner says about it.

`make measure` trains all of `runs` and records them; tests train a few; the book and the lab show them.
"""

from labsupport.config import create_deepspeed_config, merge_configs
from labsupport.memory.activations import Activations
from labsupport.memory.messages import times_ddp
from labsupport.memory.moments import MOMENTS
from labsupport.memory.planner import plan_of
from labsupport.memory.roles import MODEL_STATES
from labsupport.models import BYTE_VOCABULARY
from labsupport.runs import Run
from labsupport.settings import read_settings
from labsupport.shapes import Adapter, Shape
from labsupport.shapes.families import FAMILIES

RESTING = MOMENTS[:3]
STATE_TOLERANCE, PEAK_TOLERANCE = 0.03, 0.10
MICRO_BATCH_SIZE = 2
LOW_PRECISION = {"bf16": {"bf16_master_weights_and_grads": True, "bf16_optimizer_states": True}}
RELEASE = {"zero_optimization": {"stage3_max_live_parameters": 0, "stage3_max_reuse_distance": 0}}


def small_run(
    stage,
    precision="bf16",
    world_size=2,
    model="1m",
    accumulation=1,
    grad_accum_dtype=None,
    offload_optimizer=None,
    offload_param=None,
    checkpointing=False,
    bucket_size=100_000,
    note="",
    more=None,
):
    """Return a Run that is quick to measure. accumulation: micro-batches a step; more: laid over the config."""
    config = create_deepspeed_config(
        stage,
        precision=precision,
        world_size=world_size,
        micro_batch_size=MICRO_BATCH_SIZE,
        train_batch_size=MICRO_BATCH_SIZE * accumulation * world_size,
        gradient_accumulation_steps=accumulation,
        grad_accum_dtype=grad_accum_dtype,
        offload_optimizer=offload_optimizer or False,
        offload_param=offload_param or False,
        bucket_size=bucket_size,
    )
    return Run(model, merge_configs(config, more or {}), world_size, activation_checkpointing=checkpointing, note=note)


def runs(accelerator="cpu"):
    """Return the covering set: at most 80 Runs, on a GPU some in fp16 in place of fp32."""
    found = []
    for world_size in (1, 2, 4):
        other = "fp16" if accelerator == "cuda" and world_size != 2 else "fp32"
        for stage in range(4):
            found += [small_run(stage, precision, world_size) for precision in (other, "bf16")]
        found += [small_run(stage, "bf16", world_size, "10m") for stage in range(4)]
    for stage in (1, 2, 3):
        found.append(small_run(stage, world_size=2, grad_accum_dtype="fp32", note="fp32 accumulation"))
        found.append(small_run(stage, world_size=4, model="10m", grad_accum_dtype="fp32", note="fp32 accumulation"))
        found.append(small_run(stage, world_size=2, offload_optimizer="cpu", note="optimizer on the CPU"))
        found.append(small_run(stage, world_size=4, model="10m", offload_optimizer="cpu", note="optimizer on the CPU"))
        found.append(small_run(stage, world_size=2, bucket_size=5_000_000, note="bucket larger than the model"))
    for stage in range(4):
        found.append(small_run(stage, world_size=2, accumulation=2, note="2 micro-batches a step"))
        found.append(small_run(stage, world_size=2, checkpointing=True, note="activation checkpointing"))
        found.append(small_run(stage, world_size=2, model="tiny", note="a tiny model"))
    found += [
        small_run(2, world_size=2, accumulation=2, grad_accum_dtype="fp32", note="fp32 accumulation, 2 micro-batches"),
        small_run(2, accumulation=2, offload_optimizer="cpu", note="optimizer on the CPU, 2 micro-batches"),
        small_run(1, "fp32", 2, "10m", accumulation=2, note="2 micro-batches a step"),
        small_run(2, "fp32", 2, offload_optimizer="cpu", note="optimizer on the CPU"),
        small_run(3, world_size=2, more=RELEASE, note="parameters released after use"),
        small_run(3, world_size=2, model="10m", more=RELEASE, note="parameters released after use"),
        small_run(3, world_size=2, offload_param="cpu", note="parameters on the CPU"),
        small_run(3, world_size=2, offload_optimizer="cpu", offload_param="cpu", note="all on the CPU"),
        small_run(3, "fp32", 2, offload_optimizer="nvme", note="optimizer on NVMe"),
        small_run(3, world_size=1, offload_optimizer="nvme", offload_param="nvme", note="all on NVMe"),
        small_run(3, world_size=2, model="10m", checkpointing=True, note="activation checkpointing"),
        small_run(2, world_size=2, more=LOW_PRECISION, note="bf16 master weights and states"),
        small_run(3, world_size=4, more=LOW_PRECISION, note="bf16 master weights and states"),
        small_run(0, world_size=1, model="85m", note="an 85M model"),
        small_run(2, world_size=2, model="85m", note="an 85M model"),
        small_run(3, world_size=2, model="85m", note="an 85M model"),
    ]
    assert len(found) <= 80, f"{len(found)} runs are more than the 80 that one sitting measures"
    return found


def architecture_runs():
    """Return a Run for each architecture of labsupport.shapes at each stage, on 2 and 4 CPU ranks, in bf16 and fp32."""
    found = []
    for number, shape in enumerate(small_shapes().values()):
        for stage in range(4):
            world_size, precision = (
                4 if (number + stage) % 3 == 0 else 2,
                "fp32" if (number + stage) % 4 == 1 else "bf16",
            )
            found.append(small_run(stage, precision, world_size, shape, note=shape.architecture))
    return found


def adapter_runs():
    """Return Runs in which not all is trained: LoRA beside each architecture, and frozen layers, at every stage."""
    shapes, found = small_shapes(), []
    for number, shape in enumerate(shapes.values()):
        adapter = Adapter(8, ("all-linear",)) if number % 2 else Adapter(4, _attention_targets(shape))
        for stage in (number % 2, 2, 3):
            ranks, precision = (4 if (number + stage) % 4 == 0 else 2), ("fp32" if number % 5 == 1 else "bf16")
            note = f"{shape.architecture}, LoRA of rank {adapter.rank} beside {', '.join(adapter.targets)}"
            found.append(small_run(stage, precision, ranks, shape._replace(adapter=adapter), note=note))
    for name in ("llama", "gpt2"):
        for stage in range(4):
            for what, frozen in FROZEN[name].items():
                found.append(small_run(stage, model=shapes[name]._replace(frozen=frozen), note=f"{name}, {what}"))
    lora = shapes["llama"]._replace(adapter=Adapter(8, ("q_proj", "v_proj")))
    for stage in (2, 3):
        found += [
            small_run(stage, model=lora, accumulation=2, note="llama, LoRA, 2 micro-batches a step"),
            small_run(stage, model=lora, checkpointing=True, note="llama, LoRA, activation checkpointing"),
            small_run(stage, model=lora, offload_optimizer="cpu", note="llama, LoRA, optimizer on the CPU"),
        ]
    return found


FROZEN = {
    "llama": {
        "embedding frozen": ("embed_tokens.*",),
        "embedding and 2 of 4 layers frozen": ("embed_tokens.*", "layers.0.*", "layers.1.*"),
        "norms alone trained": ("embed_tokens.*", "*proj.weight", "lm_head.*"),
    },
    "gpt2": {
        "embedding and 2 of 4 layers frozen": ("embed_tokens.*", "positions.*", "layers.0.*", "layers.1.*"),
        "norms alone trained": ("embed_tokens.*", "positions.*", "*.c_*"),
    },
}


def _attention_targets(shape):
    return {"gpt2": ("c_attn",), "phi3": ("qkv_proj",)}.get(shape.architecture, ("q_proj", "v_proj"))


def small_shapes():
    """Return {architecture: a small Shape of it}, with two query heads for a key head and four experts where it can."""
    shapes = {}
    for name in FAMILIES:
        shape = Shape(name, 4, 128, 4, 256, 352, BYTE_VOCABULARY)
        if name != "gpt2":
            shape = shape._replace(key_value_heads=2, head_size=32)
        if name in ("mixtral", "qwen2_moe", "qwen3_moe"):
            shape = shape._replace(mlp_size=96, experts=4, experts_per_token=2)
        shapes[name] = shape._replace(shared_expert_size=96) if name == "qwen2_moe" else shape
    return shapes


def measure(run, nvme_path=None):
    """Train a Run's model on this rank for three steps and return what the ledger saw, as plain data.

    {"moments": {moment: {place: {role: bytes}}}, "peak_phase", "collectives": {collective: message bytes},
    "parameters", "largest_module"}, and "activations_of_copy" where the planner has no count of them: those of a copy
    that plain PyTorch trains here. Every rank must call it. The third step is the watched one.
    """
    import contextlib
    import io

    import torch

    from labsupport.measure.ledger import other_bytes
    from labsupport.models import build_model, checkpoint_activations
    from labsupport.trainer import DeepSpeedTrainer

    of_copy = {} if run.shape.family.counted else {"activations_of_copy": _activations_of_copy(run)}
    base = other_bytes()
    config = with_nvme_path(run.config, nvme_path) if nvme_path else run.config
    model = build_model(run.shape)
    if run.activation_checkpointing:
        checkpoint_activations(model)
    with contextlib.redirect_stdout(io.StringIO()):
        trainer = DeepSpeedTrainer(model, config)
    micro_batch, length = trainer.engine.train_micro_batch_size_per_gpu(), run.sequence_length
    text = torch.arange(micro_batch * length).reshape(micro_batch, length) % 256
    batch = {name: text.clone().to(trainer.engine.device) for name in ("input_ids", "labels")}
    result = moments_of(trainer, batch, base)
    _forget(trainer.engine)
    return result | of_copy


def _activations_of_copy(run):
    """The Activations of a Run as plain data, measured on a copy of its model without DeepSpeed."""
    import torch

    from labsupport.measure.plan_model import activations_of
    from labsupport.models import build_model, checkpoint_activations

    model = build_model(run.shape)
    if run.activation_checkpointing:
        checkpoint_activations(model)
    settings = read_settings(run.config, run.world_size)
    text = torch.arange(settings.micro_batch_size * run.sequence_length).reshape(-1, run.sequence_length) % 256
    activations, _ = activations_of(model, {"input_ids": text, "labels": text}, settings)
    return activations._asdict()


def moments_of(trainer, batch, base):
    """Train an engine that has not trained yet for three steps, and return what `measure` does.

    batch: a micro-batch on the device. base: what other_bytes gave before there was a model.
    """
    from labsupport.measure.collectives import measured_collectives
    from labsupport.measure.ledger import held_by_place, release_cublas_workspaces
    from labsupport.measure.timeline import peak_step_bytes, watch_step
    from labsupport.models import count_parameters

    engine = trainer.engine
    accumulation = engine.gradient_accumulation_steps()

    def step():
        for _ in range(accumulation):
            trainer.train_step(batch)

    moments = {"after initialisation": held_by_place(engine, base)}
    for number in range(accumulation):
        engine.backward(engine(**batch).loss)
        if number == accumulation - 1:
            moments["after backward"] = held_by_place(engine, base)
        engine.step()
    moments["at rest"] = held_by_place(engine, base)
    watched = watch_step(engine, step, base)
    on_gpu = engine.device.type == "cuda"
    moments["peak"] = {**moments["at rest"], "GPU" if on_gpu else "host": dict(watched.peak)}
    # cuBLAS's workspaces come from the same allocator: they are in its peak, and are counted apart.
    of_allocator = (peak_step_bytes(engine, step), release_cublas_workspaces()) if on_gpu else (None, 0)
    return {
        "moments": moments,
        "peak_phase": watched.peak_phase,
        "allocator_peak_bytes": of_allocator[0],
        "cublas_workspace_bytes": of_allocator[1],
        "collectives": measured_collectives(engine, step),
        "parameters": count_parameters(engine.module),
        "largest_module": max(
            sum(getattr(p, "ds_numel", p.numel()) for p in module.parameters(recurse=False))
            for module in engine.module.modules()
        ),
    }


def published_estimate(run, parameters, largest_module):
    """Return DeepSpeed's own estimate of a rank's model states at stages 2 and 3, in bytes; None where it has none.

    deepspeed.runtime.zero.stage_1_and_2.estimate_zero2_model_states_mem_needs and stage3's; host and device
    together, divided by the ranks.
    """
    from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs
    from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs

    zero, ranks = run.config["zero_optimization"], run.world_size
    on_cpu = "offload_optimizer" in zero
    if zero["stage"] == 2:
        host, device = estimate_zero2_model_states_mem_needs(parameters, ranks, 1, on_cpu)
    elif zero["stage"] == 3:
        host, device, _ = estimate_zero3_model_states_mem_needs(
            parameters, largest_module, ranks, 1, on_cpu, "offload_param" in zero
        )
    else:
        return None
    return int(device + (host / ranks if on_cpu else 0))


def model_states(moments, moment):
    """Return the bytes of the four model states at a moment, in all places together."""
    return sum(roles.get(role, 0) for roles in moments[moment].values() for role in MODEL_STATES)


def total(moments, moment, accelerator="cpu"):
    """Return the bytes at a moment where the model computes: on the GPU, or, on a CPU rank, outside NVMe."""
    counted = [place for place in moments[moment] if (place == "GPU" if accelerator == "cuda" else place != "NVMe")]
    return sum(sum(moments[moment][place].values()) for place in counted)


def compare(run, measured, accelerator="cpu"):
    """Return what a table shows of one Run: predicted and measured bytes, and their ratios less one.

    On a GPU the measured peak is the allocator's own, less the workspaces of cuBLAS, which are measured too; only the
    GPU's memory is compared there.

    {"states": {moment: (predicted, measured, error)}, "peak": (...), "phases": (predicted, measured), "sent": what
    a rank sends as a multiple of plain data parallelism (predicted, measured), "worst_role": the role that is
    furthest off at the peak, with its bytes predicted and measured}.
    """
    of_copy = measured.get("activations_of_copy")
    predicted = plan_of(run, accelerator, of_copy and Activations(**of_copy))
    states = {
        moment: _pair(model_states(predicted.moments, moment), model_states(measured["moments"], moment))
        for moment in RESTING
    }
    by_role = [
        {
            role: sum(roles.get(role, 0) for roles in moments["peak"].values())
            for role in measured["moments"]["peak"]["host"]
        }
        for moments in (predicted.moments, measured["moments"])
    ]
    worst = max(by_role[1], key=lambda role: abs(by_role[0][role] - by_role[1][role]))
    return {
        "states": states,
        "peak": _pair(
            total(predicted.moments, "peak", accelerator),
            _allocator_peak(measured) or total(measured["moments"], "peak", accelerator),
        ),
        "phases": (predicted.peak_phase, measured["peak_phase"]),
        "sent": (
            predicted.times_ddp,
            times_ddp(measured["collectives"], measured["parameters"], predicted.settings),
        ),
        "worst_role": (worst, by_role[0][worst], by_role[1][worst]),
    }


def accelerator_of(measured):
    """Return "cuda" where the ledger found bytes on a GPU, else "cpu"."""
    return "cuda" if any(measured["moments"]["peak"]["GPU"].values()) else "cpu"


def _allocator_peak(measured):
    peak = measured.get("allocator_peak_bytes")
    return peak and peak - measured["cublas_workspace_bytes"]


def _pair(predicted, measured):
    return predicted, measured, predicted / measured - 1


def with_nvme_path(config, nvme_path):
    """Return the config with that folder for whatever it puts on NVMe."""
    zero = config["zero_optimization"]
    keys = [key for key in ("offload_optimizer", "offload_param") if zero.get(key, {}).get("device") == "nvme"]
    return merge_configs(config, {"zero_optimization": {key: {"nvme_path": str(nvme_path)} for key in keys}})


def _forget(engine):
    """Free the engine: DeepSpeed 0.19.8 keeps the last ZeRO-3 model in a list of its own, and replaces F.linear.

    The next run of this process would keep the inputs of frozen linear maps at every stage, as ZeRO-3 does.
    """
    import gc

    import torch
    from deepspeed.runtime.zero import parameter_offload
    from deepspeed.runtime.zero.partition_parameters import InsertPostInitMethodToModuleSubClasses as Init

    engine.destroy()
    parameter_offload.FWD_MODULE_STACK.clear()
    torch.nn.functional.linear = getattr(Init, "linear_bk", torch.nn.functional.linear)
    gc.collect()
