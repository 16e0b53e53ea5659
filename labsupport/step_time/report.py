"""What `python -m labsupport.step_time` prints: a modelled step, tokens a second, GPU-hours and cost. No torch."""

import argparse
import json

from labsupport.arguments import require_number, require_positive_integer
from labsupport.command_line import OneSentenceParser, exit_status
from labsupport.errors import ConfigError
from labsupport.machine.cards import LINKS, card, link
from labsupport.memory.report import number, whole
from labsupport.models import PRESETS, shape_named
from labsupport.shapes import known_models
from labsupport.step_time import nccl
from labsupport.step_time.machines import cluster
from labsupport.step_time.model import step_time
from labsupport.step_time.training_run import training

SEQUENCE_LENGTH = 2048
EXAMPLE = """example:
  python -m labsupport.step_time --model 7b --stage 3 --world-size 64 --gpu H100 --tokens 1e12 --price 2.5

--price is what you pay for one GPU and hour; there is none in here. What fits says python -m labsupport.memory."""

INSIDE = "Within what was tested: all published steps but one were met within a quarter (page 'How far it scales')."


def main(arguments=None):
    """Print the modelled step and return the exit status: 0, or 2 for a mistake told in one sentence."""
    return exit_status(run, arguments)


def run(arguments=None):
    """Print the modelled step that the command line asks for and return 0."""
    print(report(parse(arguments)))
    return 0


def parse(arguments=None):
    """Return the command line's options; raises LabError for what it does not know."""
    parser = OneSentenceParser(
        prog="python -m labsupport.step_time",
        description="Model how long one optimizer step takes, and what a training run costs. Nothing is measured.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--model", required=True, help=f"a preset, {', '.join(PRESETS)}, or one of {', '.join(known_models())}")
    add("--stage", type=whole, default=3, help="ZeRO stage, 0 to 3 (default 3)")
    add("--world-size", type=whole, default=8, help="GPUs (default 8)")
    add("--gpu", default="H100", metavar="CARD", help="such as A100-80GB, H100, H200 or B200 (default H100)")
    add("--network", default="NDR", metavar="LINK", help=f"between nodes: {', '.join(LINKS)} (default NDR)")
    add("--gpus-per-node", type=whole, default=8, help="(default 8)")
    add(
        "--sequence-length", type=whole, help=f"tokens in a sample (default {SEQUENCE_LENGTH}, or what the model reads)"
    )
    add("--micro-batch-size", type=whole, default=1, help="samples per GPU per forward pass (default 1)")
    add("--gradient-accumulation-steps", type=whole, default=1, help="micro-batches per optimizer step (default 1)")
    add("--activation-checkpointing", action="store_true", help="recompute every layer in the backward pass")
    add("--offload-optimizer", default="none", metavar="DEVICE", help="none, cpu or nvme (default none)")
    add("--tokens", type=number, help="of the whole run, such as 1e12: say how long it takes")
    add("--price", type=number, help="of one GPU and hour, in any currency: say what the run costs; needs --tokens")
    add("--json", action="store_true", help="print JSON")
    return parser.parse_args(arguments)


def report(options):
    """Return the text to print for the command line's options; raises ConfigError for what does not go together."""
    for name in ("world_size", "gpus_per_node", "micro_batch_size", "gradient_accumulation_steps", "sequence_length"):
        if getattr(options, name) is not None:
            require_positive_integer(f"--{name.replace('_', '-')}", getattr(options, name))
    if options.price is not None and options.tokens is None:
        raise ConfigError("--price needs --tokens: say how many tokens the run trains on, such as --tokens 1e12.")
    if options.price is not None:
        require_number("--price", options.price)
    if options.tokens is not None:
        require_number("--tokens", options.tokens, at_least=1)
    model, machine = shape_named(options.model), cluster(options.gpu, options.network, options.gpus_per_node)
    sequence = options.sequence_length or min(SEQUENCE_LENGTH, model.longest_sequence)
    step = step_time(
        model, options.stage, machine, options.world_size, options.micro_batch_size * sequence,
        options.gradient_accumulation_steps, sequence_length=sequence, recompute=options.activation_checkpointing,
        offload=None if options.offload_optimizer == "none" else options.offload_optimizer,
    )  # fmt: skip
    step_tokens = options.world_size * options.micro_batch_size * options.gradient_accumulation_steps * sequence
    whole_run = training(step, step_tokens, options.world_size, options.tokens or step_tokens)
    if options.json:
        return json.dumps(_as_json(step, step_tokens, whole_run, options), indent=1)
    lines = [
        _heading(model, sequence, step_tokens, machine, options),
        "",
        f"One step: {_seconds(step.expected_seconds)} expected, from {_seconds(step.overlapped_seconds)} with "
        f"everything hidden to {_seconds(step.exposed_seconds)} with nothing hidden.",
        *(f"  {name:13} {_seconds(getattr(step, f'{name}_seconds'))}" for name in _parts(step)),
        f"Tokens a second: {whole_run.tokens_per_second:,.0f}, of one GPU "
        f"{whole_run.tokens_per_second / options.world_size:,.0f}.",
    ]
    if options.tokens is not None:
        days = whole_run.seconds / 86400
        lines.append(f"{options.tokens:,.4g} tokens: {days:,.1f} days, {whole_run.gpu_hours:,.0f} GPU-hours.")
    if options.price is not None:
        lines.append(f"At {options.price:g} a GPU-hour: {whole_run.cost(options.price):,.0f}.")
    lines.append(step.outside or INSIDE)
    return "\n".join(lines)


def _parts(step):
    return [name for name in ("compute", "optimizer", "communication", "offload") if getattr(step, f"{name}_seconds")]


def _heading(model, sequence, step_tokens, machine, options):
    nodes = nccl.nodes_of(options.world_size, machine)
    over = f" on {nodes:,} nodes over {link(options.network).name}" if nodes > 1 else ""
    return (
        f"Modelled, not measured: {options.model}, {model.parameters:,} parameters, stage {options.stage}, "
        f"{options.world_size} x {card(options.gpu).name}{over}, {step_tokens:,} tokens a step in sequences of "
        f"{sequence:,}."
    )


def _seconds(value):
    return f"{value:.3g} s"


def _as_json(step, step_tokens, whole_run, options):
    result = {
        "modelled_seconds": {name: getattr(step, f"{name}_seconds") for name in ("expected", "overlapped", "exposed")},
        "parts_seconds": {name: getattr(step, f"{name}_seconds") for name in _parts(step)},
        "step_tokens": step_tokens,
        "tokens_per_second": whole_run.tokens_per_second,
        "outside": step.outside,
    }
    if options.tokens is not None:
        result |= {"days": whole_run.seconds / 86400, "gpu_hours": whole_run.gpu_hours}
    if options.price is not None:
        result["cost"] = whole_run.cost(options.price)
    return result
