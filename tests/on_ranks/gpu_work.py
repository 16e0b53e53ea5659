"""What the tests marked `gpu` run in a process of its own, because the other tests have chosen the processor.

python tests/gpu_work.py results.json      # {name of the function: what it returned, or its error}
"""

import json
import sys
import traceback

import torch


def trainer_of(stage, precision, model="10m", **options):
    from labsupport import DeepSpeedTrainer, create_deepspeed_config
    from labsupport.models import build_model

    config = create_deepspeed_config(
        stage, precision=precision, train_batch_size=4, world_size=1, lr=1e-3, bucket_size=2_000_000, **options
    )
    if precision == "fp16":
        config["fp16"]["initial_scale_power"] = 8  # from 2 ** 16 the first steps overflow by themselves
    MADE.append(DeepSpeedTrainer(build_model(model), config))
    return MADE[-1]


MADE = []  # the trainers that hold memory


def let_go():
    """Free every trainer, and what DeepSpeed and Python's cycles keep of it: the next peak is of one engine alone."""
    import gc

    from deepspeed.runtime.zero import parameter_offload

    while MADE:
        MADE.pop().engine.destroy()
    parameter_offload.FWD_MODULE_STACK.clear()
    while gc.collect():
        pass


def batches(count, length=256):
    import itertools

    from labsupport.corpus import endless_batches, text_loader

    return list(itertools.islice(endless_batches(text_loader(4, sequence_length=length)), count))


def training():
    """Where a model was trained, by several witnesses, and its losses."""
    from labsupport import describe_machine
    from labsupport.measure.ledger import held_by_place, model_state_total

    torch.cuda.reset_peak_memory_stats()
    machine = describe_machine()
    trainer, data = trainer_of(2, machine.precision), batches(1)
    losses = [trainer.train_step(data[0]) for _ in range(30)]
    held = held_by_place(trainer.engine)
    return {
        "machine": [machine.accelerator, machine.device, machine.precision],
        "device_name": torch.cuda.get_device_name(0),
        "capability": torch.cuda.get_device_capability(0),
        "parameters_on": sorted({p.device.type for p in trainer.engine.module.parameters()}),
        "pinned": data[0]["input_ids"].is_pinned(),
        "losses": losses,
        "peak_bytes": torch.cuda.max_memory_allocated(),
        "model_states_on_gpu": model_state_total(held["GPU"]),
        "model_states_on_host": model_state_total(held["host"]),
    }


def overflow():
    """The loss scale and the weights around two steps whose gradients are made infinite, and one that is not."""
    trainer, data = trainer_of(2, "fp16"), batches(1)
    engine = trainer.engine
    for _ in range(5):
        trainer.train_step(data[0])
    parameter = next(iter(engine.module.parameters()))

    def state():
        return {"scale": engine.optimizer.loss_scaler.cur_scale, "skipped": engine.skipped_steps,
                "sum": float(parameter.detach().double().sum())}  # fmt: skip

    states = [state()]
    hook = parameter.register_hook(lambda gradient: torch.full_like(gradient, float("inf")))
    for _ in range(2):
        trainer.train_step(data[0])
        states.append(state())
    hook.remove()
    losses = [trainer.train_step(data[0]) for _ in range(10)]
    return {"states": [*states, state()], "hysteresis": engine.optimizer.loss_scaler.delayed_shift, "losses": losses}


def fused_adam():
    """The largest difference between FusedAdam's and PyTorch's weights after ten steps, or why there is none."""
    from labsupport.machine.hardware import describe_machine

    machine = describe_machine()
    if not machine.fused_adam:
        return {"reason": machine.fused_adam_reason}
    from deepspeed.ops.adam import FusedAdam

    torch.manual_seed(0)
    ours = [torch.randn(size, device="cuda") for size in (1, 1000, 123_457)]
    theirs = [tensor.clone() for tensor in ours]
    settings = {"lr": 1e-2, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.1}
    fused = FusedAdam([p.requires_grad_() for p in ours], adam_w_mode=True, **settings)
    plain = torch.optim.AdamW([p.requires_grad_() for p in theirs], **settings)
    start = [p.detach().clone() for p in ours]
    for _ in range(10):
        for one, other in zip(ours, theirs, strict=True):
            one.grad = torch.randn_like(one)
            other.grad = one.grad.clone()
        fused.step()
        plain.step()
    pairs = list(zip(ours, theirs, start, strict=True))
    return {
        "difference": max(float((one - other).abs().max().detach()) for one, other, _ in pairs),
        "moved": min(float((other - before).abs().max().detach()) for _, other, before in pairs),
    }


def allocator():
    """At rest, what CUDA's allocator says is handed out and what the ledger has counted, for every stage."""
    from labsupport.machine.hardware import describe_machine
    from labsupport.measure.ledger import allocator_gap

    found, precision = {}, describe_machine().precision
    for stage in range(4):
        trainer = trainer_of(stage, precision)
        for batch in batches(2):
            trainer.train_step(batch)
        del batch
        found[stage] = allocator_gap(trainer.engine)
        del trainer
        let_go()
    return found


def stages_in_fp32():
    """The losses of every stage in fp32, of the same weights and batches."""
    data = batches(6)
    return {
        stage: [trainer.train_step(batch) for batch in data]
        for stage in range(4)
        for trainer in [trainer_of(stage, "fp32", "1m", gradient_clipping=0.0)]
    }


def planner():
    """The planner beside the ledger and the allocator, for a model whose tensors dwarf the allocator's rounding."""
    from labsupport.machine.hardware import describe_machine
    from labsupport.measure import agreement

    precision, found = describe_machine().precision, {}
    for stage in range(4):
        more = {} if describe_machine().fused_adam else {"optimizer": {"params": {"torch_adam": True}}}
        run = agreement.small_run(stage, precision, 1, "85m", bucket_size=20_000_000, more=more)
        run = run._replace(sequence_length=512)
        if precision == "fp16":
            run.config["fp16"]["initial_scale_power"] = 8  # a skipped step makes no Adam states
        compared = agreement.compare(run, agreement.measure(run), "cuda")
        found[stage] = {"states": [error for *_, error in compared["states"].values()], "peak": compared["peak"][2]}
    return found


def out_of_memory():
    """The sentence of a step that cannot fit."""
    from labsupport.errors import TrainingError
    from labsupport.machine.hardware import describe_machine

    trainer = trainer_of(0, describe_machine().precision)
    whole = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 2**26) / whole)
    try:
        trainer.train_step({name: tensor.repeat(64, 1) for name, tensor in batches(1, 512)[0].items()})
    except TrainingError as error:
        return {"sentence": str(error)}
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    return {"sentence": "it fitted"}


def fused_attention():
    """The loss of a model on the GPU, with PyTorch's plain kernel of attention and without it."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    from labsupport.gpu.training_loops import DTYPES
    from labsupport.machine.hardware import describe_machine
    from labsupport.models import build_model

    model = build_model("10m").to("cuda", DTYPES[describe_machine().precision])
    batch = {name: tensor.cuda() for name, tensor in batches(1)[0].items()}
    fused = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.CUDNN_ATTENTION]
    losses = []
    for kernels in (fused, [SDPBackend.MATH]):
        with sdpa_kernel(kernels):  # it fails where none of these can be taken
            loss = model(**batch).loss
            loss.backward()
        losses.append(float(loss.detach()))
    return {"losses": losses}


WORK = (
    planner,
    allocator,
    training,
    overflow,
    fused_adam,
    fused_attention,
    stages_in_fp32,
    out_of_memory,
)  # clean first


def main(path):
    """Run everything, and write what came of it."""
    found = {}
    for function in WORK:
        try:
            found[function.__name__] = function()
        except Exception:  # one that fails must not keep the others from being told
            found[function.__name__] = {"error": traceback.format_exc(limit=-4)}
        let_go()
    with open(path, "w") as file:
        json.dump(found, file)


if __name__ == "__main__":
    main(sys.argv[1])
