"""The step-time model on this machine's own CPU ranks: its rates are fitted here, then its prediction is tested here.

    python benchmarks/step_time.py          # 1, 2 and 4 CPU ranks, about three minutes; writes labsupport/recorded/

Three things are measured on the same live ranks, in turn and in changing order: collectives of 4 KiB to 64 MiB
over gloo, a plain PyTorch loop without any collective, and real DeepSpeed steps at stages 0 to 3. The step on
several ranks is predicted twice, and nothing is fitted on it:

from PyTorch    the plain loop's compute and Adam, and the messages. It leaves out DeepSpeed's own work: gradients
                into buckets and back, averages, fp32 copies, hooks.
from one rank   DeepSpeed's own step on one rank, as much slower as the plain loop becomes when the ranks share the
                cores, with Adam on this rank's part alone, and the messages. It tests the messages.
"""

import statistics
import sys

WORLD_SIZES, PRESET, MICRO_BATCH, SEQUENCE, SEED = (1, 2, 4), "10m", 1, 64, 0
SIZES = [4**exponent for exponent in range(6, 14)]  # bytes: 4 KiB to 64 MiB
BUCKET_ELEMENTS = 20_000_000  # more than the model has, so that stages 1 and 2 send one message
ELEMENT_BYTES = 4  # the runs are in fp32: a CPU's bf16 is emulated
ROUNDS, WARM_UP_ROUNDS, STEPS = 8, 2, 1


def measure(preset, micro_batch, sequence, bucket_elements, sizes, rounds, warm_up_rounds, steps, seed):
    """Run on every rank: return {task: [seconds]}, the configs of the stages, and the model's size.

    The tasks are "compute" (forward and backward), "adam" (one optimizer step on all parameters), "stage 0" to
    "stage 3", each a step, and (collective, bytes) for one collective.
    """
    import itertools
    import time

    import torch
    import torch.distributed as dist

    from labsupport import create_deepspeed_config, initialize_deepspeed
    from labsupport.corpus import endless_batches, text_loader
    from labsupport.models import build_model, count_parameters, model_config

    rank, world_size = dist.get_rank(), dist.get_world_size()
    loader = text_loader(micro_batch, rank, world_size, sequence, seed=seed)
    batches = list(itertools.islice(endless_batches(loader), steps))

    def config_of(stage):
        return create_deepspeed_config(
            stage, precision="fp32", train_batch_size=micro_batch * world_size, world_size=world_size,
            gradient_clipping=0.0, bucket_size=bucket_elements,
        )  # fmt: skip

    engines = [initialize_deepspeed(build_model(preset, seed), config_of(stage))[0] for stage in range(4)]
    plain = build_model(preset, seed)
    adam = torch.optim.AdamW(plain.parameters(), lr=3e-4, weight_decay=0.0)

    def compute():
        for batch in batches:
            for parameter in plain.parameters():
                parameter.grad = None
            plain(**batch).loss.backward()

    def optimizer():
        for _ in batches:
            adam.step()

    def deepspeed_steps(engine):
        for batch in batches:
            engine.backward(engine(**batch).loss)
            engine.step()

    def collective(name, size):
        whole, part = torch.zeros(size // 4), torch.zeros(size // 4 // world_size)
        if name == "all_reduce":
            return lambda: dist.all_reduce(whole)
        if name == "reduce_scatter":
            return lambda: dist.reduce_scatter_tensor(part, whole)
        return lambda: dist.all_gather_into_tensor(whole, part)

    def seconds(call, times):
        dist.barrier()
        start = time.perf_counter()
        for _ in range(times):
            call()
        return (time.perf_counter() - start) / times

    compute()  # so that Adam has gradients
    tasks = {"compute": (compute, 1), "adam": (optimizer, 1)}
    for stage, engine in enumerate(engines):
        tasks[f"stage {stage}"] = (lambda engine=engine: deepspeed_steps(engine), 1)
    for name in ("all_reduce", "reduce_scatter", "all_gather"):
        for size in sizes if world_size > 1 else []:
            tasks[name, size] = (collective(name, size), 10 if size < 2**20 else 1)
    samples, order = {key: [] for key in tasks}, list(tasks)
    for round_number in range(warm_up_rounds + rounds):
        first = round_number * 7 % len(order)
        for key in order[first:] + order[:first]:
            taken = seconds(*tasks[key])
            if round_number >= warm_up_rounds:
                samples[key].append(taken / steps if isinstance(key, str) else taken)
    for engine in engines:
        engine.destroy()
    size = {"parameters": count_parameters(plain), "layers": model_config(preset).num_hidden_layers}
    return samples, [config_of(stage) for stage in range(4)], size


def evaluate(samples, world_size):
    """Fit the rates on the collectives; return each one's rate, its times and the fit's errors."""
    from labsupport.step_time.collectives import COLLECTIVES, fit_rate

    median = medians(samples)
    times = {name: {key[1]: median[key] for key in median if key[0] == name} for name in COLLECTIVES}
    rates = {name: fit_rate(name, world_size, times[name]) for name in COLLECTIVES}
    return {"collectives": {name: fitted(name, world_size, rates[name], times[name]) for name in COLLECTIVES}}


def fitted(name, world_size, rate, times):
    """Return one collective's rate, its times, and the relative error of the fitted line at each size."""
    from labsupport.step_time.collectives import collective_seconds

    errors = {size: collective_seconds(name, size, world_size, *rate) / times[size] - 1 for size in times}
    return {"alpha_seconds": rate[0], "bytes_per_second": rate[1], "seconds": times, "relative_error": errors}


def medians(samples):
    """Return the median of every task."""
    return {key: statistics.median(values) for key, values in samples.items()}


def main():
    """Measure, fit, predict, print and record."""
    from labsupport.machine.hardware import describe_machine
    from labsupport.ranks.notebook import Ranks
    from labsupport.records import record

    machine = describe_machine()
    measured, configs = {"preset": PRESET, "micro_batch": MICRO_BATCH, "sequence": SEQUENCE, "worlds": {}}, {}
    for world_size in WORLD_SIZES:
        ranks = Ranks(world_size, "cpu")
        try:
            samples, configs[world_size], size = ranks.run(
                measure, PRESET, MICRO_BATCH, SEQUENCE, BUCKET_ELEMENTS, SIZES, ROUNDS, WARM_UP_ROUNDS, STEPS, SEED
            )[0]
        finally:
            ranks.stop()
        if world_size == 1:
            alone, result = medians(samples), {}
        else:
            result = evaluate(samples, world_size)
            show(result, medians(samples), alone, size, world_size)
        spread = {key if isinstance(key, str) else f"{key[0]} {key[1]}": values for key, values in samples.items()}
        measured["worlds"][world_size] = result | size | {"samples": spread}
    path = record(
        "step_time", "python benchmarks/step_time.py", configs, str(machine), SEED, WARM_UP_ROUNDS, ROUNDS, measured
    )
    print(f"Recorded in {path.name}.")
    return 0


def show(result, seconds, alone, size, world_size):
    """Print the fit and the prediction of one number of ranks."""
    from labsupport.step_time.ranks import predicted_steps
    from labsupport.step_time.transformer import Transformer

    for name, fit in result["collectives"].items():
        worst = max(abs(error) for error in fit["relative_error"].values())
        rate = f"alpha {fit['alpha_seconds'] * 1e6:.0f} us, {fit['bytes_per_second'] / 1e9:.2f} GB/s"
        print(f"{world_size} ranks, {name:14} {rate}, worst error of the fit {worst:.0%}")
    rates = {name: (fit["alpha_seconds"], fit["bytes_per_second"]) for name, fit in result["collectives"].items()}
    model = Transformer(size["parameters"], size["layers"], 0)
    sizes = {"element_bytes": ELEMENT_BYTES, "bucket_elements": BUCKET_ELEMENTS}
    for stage, step in predicted_steps(model, world_size, seconds, alone, rates, **sizes).items():
        errors = ", ".join(
            f"{name.replace('_', ' ')} {step[name] * 1e3:.0f} ms ({step[name] / step['measured'] - 1:+.0%})"
            for name in ("from_pytorch", "from_one_rank")
        )
        print(f"{world_size} ranks, stage {stage}: measured {step['measured'] * 1e3:.0f} ms, predicted {errors}")


if __name__ == "__main__":
    sys.exit(main())
