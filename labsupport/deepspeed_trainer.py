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

from labsupport.arguments import require_positive_integer
from labsupport.checkpoint.options import changes, manifest_to_resume, options_of, taken_over
from labsupport.checkpoint.schedule import Saves
from labsupport.checkpoint.tags import has_checkpoint
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
from labsupport.corpus import endless_batches, text_loader
from labsupport.doctor.case import Case
from labsupport.engine import end_rank, import_ahead, initialize_deepspeed, start_distributed
from labsupport.errors import ConfigError, LabError, TrainingError
from labsupport.launch.hostfile import hand_over_to_launcher
from labsupport.launch.lost_ranks import naming_lost_ranks
from labsupport.launch.processes import end_with_the_launcher
from labsupport.launch.stacks import Watch
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
    """Run the program and return its exit status.

    0; 2 for a mistake, told in one sentence; 75 for a run that SIGTERM asked to end, and that saved; 130 for Ctrl-C.
    """
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
    end_with_the_launcher()
    import_ahead()
    start_distributed()
    with naming_lost_ranks():
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
    add("--save", metavar="DIR", help="save a checkpoint here at the end, and when SIGTERM asks the run to end")
    add("--save-every", type=int, metavar="N", help="save every N optimizer steps too")
    add("--keep", type=int, metavar="K", help="keep only the newest K checkpoints of the folder")
    add("--resume", metavar="DIR", help="load the checkpoint here first, as the run that was saved, go on to --steps, "
        "and save here again; auto: the one in --save, if there is one")  # fmt: skip
    add("--tag", help="with --resume, the checkpoint to load (default: the one that the file latest names)")
    add("--fall-back", action="store_true", help="with --resume, take the newest whole checkpoint for a damaged one")
    add("--activation-checkpointing", action="store_true", help="recompute activations in the backward pass")
    add("--compile", action="store_true", help="compile each transformer layer with torch.compile")
    add("--json", metavar="FILE", help="write the result here")
    add("--events", metavar="FILE", help="write each step here as it happens, one JSON line each")
    add("--compare", action="store_true", help="run stages 0 to 3 one after the other and print a table")
    add("--ranks", type=int, help="ranks for --compare (default: one a GPU; 2 on a CPU)")
    add("--hostfile", metavar="FILE", help="hand over to the deepspeed launcher on these hosts")
    add("--local_rank", type=int, help=argparse.SUPPRESS)  # older launchers pass it
    options = parser.parse_args(arguments)
    not_given = dict.fromkeys(vars(options))
    given = vars(parser.parse_args(arguments, argparse.Namespace(**not_given)))
    options.given = {name for name, value in given.items() if value is not None}
    for name in ("steps", "micro_batch", "accumulation", "sequence_length", "save_every", "keep"):
        if getattr(options, name) is not None:
            require_positive_integer(f"--{name.replace('_', '-')}", getattr(options, name))
    _require_folders(options)
    if options.sequence_length < 2:
        raise LabError("--sequence-length is 1: a next byte needs at least 2.")
    return options


def _require_folders(options):
    """Raise LabError for an option about checkpoints that needs another one; `--resume auto` becomes a folder."""
    if options.resume == "auto":
        if not options.save:
            raise LabError("--resume auto looks into the folder of --save: name it.")
        options.resume = options.save if has_checkpoint(options.save) else None
    elif not options.resume and (options.tag or options.fall_back):
        raise LabError(f"{'--tag' if options.tag else '--fall-back'} says what to load: name the folder with --resume.")
    if not (options.save or options.resume) and (options.save_every or options.keep):
        raise LabError(
            f"{'--save-every' if options.save_every else '--keep'} needs a folder to save into: name it with --save."
        )


def train(options):
    """Train on this rank as `options` ask and return the result on rank 0, None on the others."""
    rank, world_size = torch.distributed.get_rank(), torch.distributed.get_world_size()
    say = functools.partial(print, flush=True) if rank == 0 else (lambda *_: None)
    events = Events(options.events if rank == 0 else None)
    events.write("starting", message=f"{ranks_in_words(world_size)} up; the model is being built.")

    machine = describe_machine()
    manifest = manifest_to_resume(options.resume, options.tag, options.fall_back) if options.resume else None
    options = taken_over(options, options.given, manifest, world_size)
    preset = preset_for(options, machine)
    config = make_config(options, machine, world_size)
    say(f"Machine: {machine}.")
    training_run = Run(preset, config, world_size, options.sequence_length, options.activation_checkpointing)
    say(f"Run: {training_run.in_words()}.")
    if rank == 0 and machine.accelerator == "cuda":
        _require_memory(training_run, say)
    trainer = DeepSpeedTrainer(make_model(options, preset, config, say), config)
    engine = trainer.engine
    training, validation = batches(options, engine.train_micro_batch_size_per_gpu(), rank, world_size)
    base = held_by_place(engine)["host"]["other"]  # what has no role before the first step is the text

    done = resume(options, trainer, training, manifest, say)
    initial_loss = trainer.evaluate(validation)
    kept = options_of(options, preset, config_precision(config), engine.train_batch_size())
    with Saves(trainer, options.save or options.resume, options.save_every, options.keep, kept, say) as saves:
        after_step = events.of_steps(engine, done, options.steps)
        losses, step_seconds = timed_steps(trainer, training, done, options.steps, after_step, saves)
    events.write("measuring", message="The steps are done; one more is measured.")
    final_loss = trainer.evaluate(validation)

    measured = measure(trainer, list(itertools.islice(training, engine.gradient_accumulation_steps())), base)
    trained = {"initial_loss": initial_loss, "final_loss": final_loss, "losses": losses, "resumed_after_step": done}
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


def _require_memory(run, say=print):
    """Raise TrainingError where the planner says that a run does not fit, before minutes go into finding out."""
    settings = read_settings(run.config, run.world_size)
    if settings.not_described:
        say(f"Planned without: {', '.join(settings.not_described)}.")
    if settings.states is None:
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


def resume(options, trainer, training, manifest, say):
    """Load the checkpoint that the options name, if any, pass by the micro-batches that it has seen, return its steps.

    manifest: that of the checkpoint, or None.
    """
    if not options.resume:
        return 0
    engine = trainer.engine
    trainer.load_checkpoint(options.resume, options.tag, fall_back=options.fall_back)
    done, lr = engine.global_steps, engine.get_lr()[0]
    say(f"Resumed {options.resume} after step {done}.")
    wanted_lr = None if engine.lr_scheduler else Case(engine.config).optimizer_params.get("lr")
    for sentence in changes(manifest, engine.train_batch_size(), wanted_lr, lr):
        say(sentence)
    if done >= options.steps:
        raise TrainingError(f"The checkpoint {options.resume} already has {done} steps: ask for more with --steps.")
    seen = engine.global_samples // (engine.train_micro_batch_size_per_gpu() * torch.distributed.get_world_size())
    with torch.random.fork_rng(devices=[]):  # a loader draws a random number for each epoch that it begins
        for _ in range(seen):
            next(training)
    return done


def timed_steps(trainer, batches, done, steps, after_step, saves):
    """Train from step `done` + 1 to step `steps`, with a progress bar on rank 0; return the losses and seconds of each.

    after_step: called with (loss, seconds). saves: what saves, which is not timed.
    """
    accumulation = trainer.engine.gradient_accumulation_steps()
    trainer.engine.train()
    losses, seconds = [], []
    bar = tqdm(total=steps - done, disable=trainer.rank != 0, unit="step", desc="training", mininterval=1.0)
    with bar, Watch(trainer.rank) as watch:
        for step in range(done + 1, steps + 1):
            start = time.perf_counter()
            losses.append(sum(trainer.train_step(next(batches)) for _ in range(accumulation)) / accumulation)
            seconds.append(time.perf_counter() - start)
            after_step(losses[-1], seconds[-1])
            bar.set_postfix(loss=f"{losses[-1]:.3f}", refresh=False)
            bar.update()
            saves.after_step(step, step == steps)
            watch.step(step)
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
