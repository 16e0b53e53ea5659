"""The program: train a byte-level language model on the standard library's text, with DeepSpeedTrainer.

    deepspeed --num_gpus 2 labsupport/deepspeed_trainer.py --stage 2
    deepspeed --num_gpus 2 labsupport/deepspeed_trainer.py --stage 3 --offload
    python labsupport/deepspeed_trainer.py --compare

It reads in the order in which it runs: arguments, machine, config, model, trainer, steps, result. The trainer itself
stands in trainer.py. The names that a trainer of one's own has to have (lab 09) can be imported from here.
"""

import argparse
import functools
import itertools
import statistics
import sys
import time
from pathlib import Path

import torch
from tqdm import tqdm

from labsupport.command_line import OneSentenceParser, exit_status, write_json
from labsupport.compare import compare_stages
from labsupport.config import (
    config_precision,
    create_deepspeed_config,
    create_offload_config,
    offload_devices,
    read_config,
    zero_stage,
)
from labsupport.config_checks import require_positive_integer
from labsupport.corpus import endless_batches, text_loader
from labsupport.engine import end_rank, import_ahead, initialize_deepspeed, start_distributed
from labsupport.errors import ConfigError, LabError, TrainingError
from labsupport.launch.hostfile import hand_over_to_launcher
from labsupport.launch.processes import end_with_the_launcher
from labsupport.machine.hardware import describe_machine
from labsupport.measure.ledger import held_by_place
from labsupport.measure.report import Events, measure
from labsupport.memory.planner import plan_of
from labsupport.memory.room import too_large
from labsupport.models import PRESETS, build_model, checkpoint_activations, compile_layers, count_parameters
from labsupport.records import versions
from labsupport.runs import WARM_UP_STEPS, Run
from labsupport.settings import read_settings
from labsupport.trainer import DeepSpeedTrainer
from labsupport.wording import banner, ranks_in_words

VALIDATION_BATCHES = 4

__all__ = [
    "DeepSpeedTrainer",
    "create_deepspeed_config",
    "create_offload_config",
    "initialize_deepspeed",
    "main",
]


def main(arguments=None):
    """Run the program and return its exit status: 0, 2 for a mistake told in one sentence, 130 for Ctrl-C."""
    return exit_status(run, arguments)


def run(arguments=None):
    """Do what the command line asks for and return the exit status."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    options = parse(arguments)
    for what, path in (("result", options.json), ("events", options.events)):
        if path and not Path(path).resolve().parent.is_dir():
            raise LabError(f"Cannot write the {what} to {path}: its folder does not exist; choose another file.")
    if options.hostfile:
        return hand_over_to_launcher(options.hostfile, arguments)
    if options.compare:
        return compare_stages(options)
    result = train(options)
    if result is not None:
        print(banner(result), flush=True)
        if options.json:
            write_json(options.json, result)
    return 0


def parse(arguments=None):
    """Return the program's arguments; raises LabError for one that it does not know."""
    parser = OneSentenceParser(
        prog="deepspeed_trainer.py",
        description="Train a byte-level language model on Python's standard library with DeepSpeed.",
    )
    add = parser.add_argument
    add("--stage", type=int, default=2, choices=(0, 1, 2, 3), help="ZeRO stage (default 2)")
    add("--offload", nargs="?", const="cpu", default="none", choices=("none", "cpu", "nvme"),
        help="move optimizer states, and at stage 3 parameters, to the CPU or to NVMe")  # fmt: skip
    add("--nvme-path", help="folder on the NVMe drive, for --offload nvme")
    add("--config", metavar="FILE", help="a ds_config.json; it decides stage, precision, offload and batch")
    add(
        "--precision",
        default="auto",
        choices=("auto", "bf16", "fp16", "fp32"),
        help="default: what this machine runs best",
    )
    add("--model", choices=tuple(PRESETS), help="default: 1m on a CPU, 85m on a GPU")
    add("--steps", type=int, default=60, help="optimizer steps of the whole run (default 60)")
    add("--micro-batch", type=int, default=4, help="samples per rank per forward pass (default 4)")
    add("--accumulation", type=int, default=1, help="micro-batches per optimizer step (default 1)")
    add("--sequence-length", type=int, default=128, help="bytes per sample (default 128)")
    add("--lr", type=float, default=1e-3, help="learning rate (default 0.001)")
    add("--seed", type=int, default=0)
    add("--save", metavar="DIR", help="save a checkpoint here at the end")
    add(
        "--resume",
        metavar="DIR",
        help="load the checkpoint here first, go on to --steps, and save here again",
    )
    add("--activation-checkpointing", action="store_true", help="recompute activations in the backward pass")
    add("--compile", action="store_true", help="compile each transformer layer with torch.compile")
    add("--json", metavar="FILE", help="write the result here")
    add("--events", metavar="FILE", help="write each step here as it happens, one JSON line each")
    add("--compare", action="store_true", help="run stages 0 to 3 one after the other and print a table")
    add("--ranks", type=int, help="ranks for --compare (default: one a GPU; 2 on a CPU)")
    add("--hostfile", metavar="FILE", help="hand over to the deepspeed launcher on these hosts")
    add("--local_rank", type=int, help=argparse.SUPPRESS)  # older launchers pass it
    options = parser.parse_args(arguments)
    for name in ("steps", "micro_batch", "accumulation", "sequence_length"):
        require_positive_integer(f"--{name.replace('_', '-')}", getattr(options, name))
    if options.sequence_length < 2:
        raise LabError("--sequence-length is 1: a next byte needs at least 2.")
    return options


def train(options):
    """Train on this rank as `options` ask and return the result on rank 0, None on the others."""
    end_with_the_launcher()
    import_ahead()
    start_distributed()
    rank, world_size = torch.distributed.get_rank(), torch.distributed.get_world_size()
    say = functools.partial(print, flush=True) if rank == 0 else (lambda *_: None)
    events = Events(options.events if rank == 0 else None)
    events.write("starting", message=f"{ranks_in_words(world_size)} up; the model is being built.")

    machine = describe_machine()
    preset = preset_for(options, machine)
    config = make_config(options, machine, world_size)
    say(f"Machine: {machine}.")
    training_run = Run(preset, config, world_size, options.sequence_length, options.activation_checkpointing)
    say(f"Run: {training_run.in_words()}.")
    if rank == 0 and machine.accelerator == "cuda":
        _require_memory(training_run)
    trainer = DeepSpeedTrainer(make_model(options, preset, config, say), config)
    engine, accumulation = trainer.engine, trainer.engine.gradient_accumulation_steps()
    training, validation = batches(options, engine.train_micro_batch_size_per_gpu(), rank, world_size)
    base = held_by_place(engine)["host"]["other"]  # what has no role before the first step is the text

    done = resume(options, trainer, say)
    initial_loss = trainer.evaluate(validation)
    for _ in range(done * accumulation):
        next(training)
    after_step = events.of_steps(engine, done, options.steps)
    losses, step_seconds = timed_steps(trainer, training, options.steps - done, accumulation, after_step)
    events.write("measuring", message="The steps are done; one more is measured.")
    final_loss = trainer.evaluate(validation)

    if folder := options.save or options.resume:
        say(f"Saved {folder}/{trainer.save_checkpoint(folder, {'steps': options.steps})}.")
    measured = measure(trainer, list(itertools.islice(training, accumulation)), base)
    trained = {"initial_loss": initial_loss, "final_loss": final_loss, "losses": losses}
    return result_of(options, machine, preset, config, engine, trained, step_seconds, measured) if rank == 0 else None


def preset_for(options, machine):
    """Return the preset that the options name, or this machine's; raises LabError for a sequence it cannot read."""
    preset = options.model or ("85m" if machine.accelerator == "cuda" else "1m")
    longest = PRESETS[preset].longest_sequence
    if options.sequence_length > longest:
        raise LabError(
            f"--sequence-length is {options.sequence_length}: the model {preset} reads at most {longest} bytes."
        )
    return preset


def make_config(options, machine, world_size):
    """Return the config that the options name: the file's, or one built for this machine."""
    if options.config:
        return read_config(options.config)
    if options.offload != "none" and options.stage == 0:
        raise ConfigError(
            "--offload at --stage 0 would do nothing, because nothing is partitioned: use stage 1, 2 or 3."
        )
    offload = options.offload if options.offload != "none" else False
    return create_deepspeed_config(
        stage=options.stage,
        precision=machine.precision if options.precision == "auto" else options.precision,
        train_batch_size=options.micro_batch * options.accumulation * world_size,
        gradient_accumulation_steps=options.accumulation,
        offload_optimizer=offload,
        offload_param=offload if options.stage == 3 else False,
        nvme_path=options.nvme_path,
        world_size=world_size,
        lr=options.lr,
    )


def _require_memory(run):
    """Raise TrainingError where the planner says that a run does not fit, before minutes go into finding out."""
    if read_settings(run.config, run.world_size).states is None:
        return  # an optimizer that the planner cannot describe
    if reason := too_large(plan_of(run), run.model_in_words, "cuda"):
        raise TrainingError(reason)


def make_model(options, preset, config, say):
    """Return the model, with its layers recomputed or compiled as the options ask."""
    model = build_model(preset, options.seed)
    if options.activation_checkpointing:
        checkpoint_activations(model)
    if options.compile:
        if zero_stage(config) == 3:
            say("Note: stage 3's hooks break torch.compile's graphs at every module, so --compile gains little here.")
        compile_layers(model)
    return model


def batches(options, micro_batch, rank, world_size):
    """Return this rank's micro-batches: endless ones to train on, and a list of others to evaluate with."""
    window = (micro_batch, rank, world_size, options.sequence_length)
    validation = itertools.islice(text_loader(*window, split="validation"), VALIDATION_BATCHES)
    return endless_batches(text_loader(*window, seed=options.seed)), list(validation)


def resume(options, trainer, say):
    """Load the checkpoint that the options name, if any, and return how many optimizer steps it has."""
    if not options.resume:
        return 0
    done = trainer.load_checkpoint(options.resume).get("steps", trainer.engine.global_steps)
    say(f"Resumed {options.resume} after step {done}.")
    if done >= options.steps:
        raise TrainingError(f"The checkpoint {options.resume} already has {done} steps: ask for more with --steps.")
    return done


def timed_steps(trainer, batches, steps, accumulation, after_step):
    """Train `steps` optimizer steps with a progress bar on rank 0 and return the losses and the seconds of each."""
    trainer.engine.train()
    losses, seconds = [], []
    with tqdm(total=steps, disable=trainer.rank != 0, unit="step", desc="training", mininterval=1.0) as bar:
        for _ in range(steps):
            start = time.perf_counter()
            losses.append(sum(trainer.train_step(next(batches)) for _ in range(accumulation)) / accumulation)
            seconds.append(time.perf_counter() - start)
            after_step(losses[-1], seconds[-1])
            bar.set_postfix(loss=f"{losses[-1]:.3f}", refresh=False)
            bar.update()
    return losses, seconds


def result_of(options, machine, preset, config, engine, trained, step_seconds, measured):
    """Return what --json writes: what was trained, with what, how it went, and what this rank held and sent."""
    counted = step_seconds[WARM_UP_STEPS:] or step_seconds
    return {
        "stage": zero_stage(config),
        "world_size": torch.distributed.get_world_size(),
        "accelerator": machine.accelerator,
        "precision": config_precision(config),
        "offload": dict(zip(("optimizer", "parameters"), offload_devices(config), strict=True)),
        "model": preset,
        "parameters": count_parameters(engine.module),
        "activation_checkpointing": options.activation_checkpointing,
        **trained,
        "samples_per_second": engine.train_batch_size() / statistics.median(counted),
        "step_seconds": counted,
        "warm_up_steps": len(step_seconds) - len(counted),
        "steps": options.steps,
        **measured,
        "config": config,
        "seed": options.seed,
        "hardware": str(machine),
        "versions": versions(),
    }


if __name__ == "__main__":
    end_rank(main())
