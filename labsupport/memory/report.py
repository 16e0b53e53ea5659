"""What `python -m labsupport.memory` prints: the planner's answers as a table. No torch."""

import argparse
import json

from tabulate import tabulate

from labsupport.arguments import require_number, require_positive_integer
from labsupport.command_line import OneSentenceParser, exit_status
from labsupport.config import read_config
from labsupport.errors import ConfigError
from labsupport.machine.cards import card
from labsupport.machine.versions import TRIED
from labsupport.memory.moments import MOMENTS
from labsupport.memory.paper import model_state_bytes
from labsupport.memory.planner import plan
from labsupport.memory.room import (
    ALLOWANCE_BYTES,
    fits,
    host_bytes_of_node,
    largest_model,
    loading_bytes_of_node,
    smallest_world_size,
)
from labsupport.models import PRESETS, shape_named
from labsupport.shapes import Adapter, Shape, known_models, shape_of_file
from labsupport.wording import gigabytes, ranks_in_words

CHOICES = {
    "stage": 0,
    "precision": "bf16",
    "grad_accum_dtype": None,
    "offload_optimizer": "none",
    "offload_param": "none",
    "micro_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "reduce_bucket_size": None,
}
SHAPE = ("layers", "hidden_size", "heads", "vocabulary")


def main(arguments=None):
    """Print the plan and return the exit status: 0, or 2 for a mistake told in one sentence."""
    return exit_status(run, arguments)


def run(arguments=None):
    """Print the plan that the command line asks for and return 0."""
    print(report(parse(arguments)))
    return 0


def parse(arguments=None):
    """Return the command line's options; raises LabError for what it does not know."""
    parser = OneSentenceParser(
        prog="python -m labsupport.memory",
        description="Predict what each rank holds when DeepSpeed trains a model.",
    )
    add = parser.add_argument
    add("--model", help=f"a preset, {', '.join(PRESETS)}, or a well-known model, {', '.join(known_models())}")
    add("--hf-config", metavar="FILE", help="a Hugging Face config.json, or the folder that it is in")
    add("--parameters", type=number, help="how many, for example 7.5e9: model states and buffers, no activations")
    for name in SHAPE:
        add(f"--{name.replace('_', '-')}", type=whole, help="a GPT-2 of this shape; needs all four")
    add("--lora-rank", type=whole, metavar="RANK", help="LoRA of that rank, as peft adds it: all else is frozen")
    add("--lora-targets", metavar="NAMES", help="modules beside which it stands (default q_proj,v_proj); or all-linear")
    add("--freeze", metavar="PATTERNS", help="parameters that are not trained: 'embed_tokens.*,layers.0.*'")
    add("--sequence-length", type=whole, help="tokens in a sample (default: as many as the model reads)")
    add("--config", metavar="FILE", help="a ds_config.json, in place of the choices below")
    add("--stage", type=whole, help="ZeRO stage, 0 to 3 (default 0)")
    add("--precision", help="fp32, fp16 or bf16 (default bf16)")
    add("--grad-accum-dtype", help="fp32 adds up 16-bit gradients in fp32")
    add("--offload-optimizer", metavar="DEVICE", help="none, cpu or nvme")
    add("--offload-param", metavar="DEVICE", help="none, cpu or nvme")
    add("--micro-batch-size", type=whole, help="samples per rank per forward pass (default 1)")
    add("--gradient-accumulation-steps", type=whole, help="micro-batches per optimizer step (default 1)")
    add("--reduce-bucket-size", type=number, help="elements (default: DeepSpeed's, 5e8)")
    add("--activation-checkpointing", action="store_true", help="recompute every layer in the backward pass")
    add("--attention", default="sdpa", help="sdpa or eager (default sdpa)")
    add("--liger", action="store_true", help="Liger's kernels: norms, MLP and a loss that makes no logits")
    add("--world-size", type=whole, default=1, help="ranks (default 1)")
    add("--gpu", metavar="CARD", help="say whether it fits there, what else would, and on how many")
    add("--gpus-per-node", type=whole, default=8, help="the ranks that share a host's memory (default 8)")
    add("--host-memory", type=number, metavar="GB", help="of a node, in 1e9 bytes: say whether that is enough")
    add("--json", action="store_true", help="print JSON")
    return parser.parse_args(arguments)


def number(text):
    """A finite number, as argparse takes it."""
    return _checked(text, float)


def whole(text):
    """A whole number, also written 1e9, as argparse takes it."""
    value = _checked(text, float)
    if value != int(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(value)


def _checked(text, kind):
    try:
        value = kind(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
    if value != value or abs(value) == float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not finite")
    return value


def report(options):
    """Return the text to print for the command line's options."""
    require_positive_integer("--gpus-per-node", options.gpus_per_node)
    if options.host_memory is not None:
        require_number("--host-memory", options.host_memory, at_least=1)
    model, arguments = _adapted(_model(options), options), _arguments(options)
    planned = plan(model, world_size=options.world_size, **arguments)
    if options.json:
        return json.dumps(_as_json(planned, options, model, arguments), indent=1)
    lines = [in_words(planned)]
    if isinstance(model, Shape) and model.experts:
        lines.append(f"A token goes through {model.active_parameters:,} of the parameters.")
    if options.gpu:
        lines += ["", *_verdict(planned, options, model, arguments)]
    elif options.host_memory is not None:
        lines += ["", *_host_verdict(planned, options.gpus_per_node, options.host_memory)]
    return "\n".join(lines)


def in_words(planned):
    """Return a Plan as text: what it is of, a table in GB of 1e9 bytes, messages, and what it is without."""
    lines = [_heading(planned), "", *_table(planned)]
    if planned.settings.not_described:
        lines.append(f"Planned without: {', '.join(planned.settings.not_described)}.")
    return "\n".join(lines)


def _model(options):
    shape = [getattr(options, name) for name in SHAPE]
    named = [options.model, options.hf_config, options.parameters]
    if sum(value is not None for value in named) + any(value is not None for value in shape) != 1:
        raise ConfigError(
            "Name one model: --model NAME, --hf-config FILE, --parameters NUMBER, or --layers with the other shape "
            "flags."
        )
    if options.model is not None:
        return shape_named(options.model)
    if options.hf_config is not None:
        return shape_of_file(options.hf_config)
    if options.parameters is not None:
        return options.parameters
    if None in shape:
        missing = ", ".join(f"--{name.replace('_', '-')}" for name in SHAPE if getattr(options, name) is None)
        raise ConfigError(f"The shape lacks {missing}: give all of --layers, --hidden-size, --heads, --vocabulary.")
    for name, value in zip(SHAPE, shape, strict=True):
        require_positive_integer(f"--{name.replace('_', '-')}", value)
    layers, hidden, heads, vocabulary = shape
    if hidden % heads:
        raise ConfigError(f"--hidden-size {hidden} does not divide by --heads {heads}: give a multiple.")
    return Shape("gpt2", layers, hidden, heads, options.sequence_length or 1024, 4 * hidden, vocabulary)


def _adapted(model, options):
    """The model with the adapter and the frozen tensors of the command line."""
    if options.lora_rank is None and options.lora_targets is None and options.freeze is None:
        return model
    if not isinstance(model, Shape):
        raise ConfigError("--parameters names no modules: give --model or --hf-config for --lora-rank or --freeze.")
    if options.lora_rank is None and options.lora_targets is not None:
        raise ConfigError("--lora-targets needs --lora-rank: give the rank of the adapter's matrices, such as 16.")
    if options.lora_rank is not None:
        model = model._replace(adapter=Adapter(options.lora_rank, _names(options.lora_targets or "q_proj,v_proj")))
    return model._replace(frozen=_names(options.freeze or ""))


def _names(text):
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _arguments(options):
    shared = {
        "sequence_length": options.sequence_length,
        "activation_checkpointing": options.activation_checkpointing,
        "attention": options.attention,
        "liger": options.liger,
    }
    given = {name: getattr(options, name) for name in CHOICES if getattr(options, name) is not None}
    if options.config is None:
        return shared | CHOICES | given
    if given:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise ConfigError(f"--config decides everything of the config: leave out {flags}.")
    return shared | {"config": read_config(options.config)}


def _heading(planned):
    s = planned.settings
    ranks = "1 rank" if s.world_size == 1 else f"{s.world_size} ranks"
    trained = "" if _all_trained(planned) else f", {planned.trained_parameters:,} of them trained"
    return (
        f"Predicted for rank 0 of {ranks}, DeepSpeed {TRIED['deepspeed']}: {planned.parameters:,} parameters{trained}, "
        f"stage {s.stage}, {s.precision}, micro-batch {s.micro_batch_size}, {s.accumulation_steps} a step."
    )


def _all_trained(planned):
    return planned.trained_parameters == planned.parameters


def _table(planned):
    """The roles by moment, in GB of 1e9 bytes, a block a place."""
    rows = []
    for place in dict.fromkeys(place for moment in MOMENTS for place in planned.moments[moment]):
        held = [planned.moments[moment].get(place, {}) for moment in MOMENTS]
        roles = dict.fromkeys(role for roles in held for role in roles if any(other.get(role) for other in held))
        if not roles:
            continue
        rows.append((place, *(gigabytes(sum(roles.values())) for roles in held)))
        rows += [(f"  {role}", *(gigabytes(by_role.get(role, 0)) for by_role in held)) for role in roles]
    align = ["left", *["right"] * len(MOMENTS)]
    text = tabulate(rows, ("GB", *MOMENTS), "simple", disable_numparse=True, colalign=align, preserve_whitespace=True)
    messages = ", ".join(f"{name} {gigabytes(size)} GB" for name, size in planned.collectives.items())
    peak = f"The peak is in the {planned.peak_phase}."
    if _all_trained(planned):
        paper = model_state_bytes(planned.parameters, planned.settings.stage, planned.settings.world_size)
        peak += f" The paper's model states, bf16 and Adam: {gigabytes(paper)} GB."
    return [
        text,
        "",
        peak,
        f"Messages of one step: {messages}; a rank sends {gigabytes(planned.sent_bytes)} GB, "
        f"{planned.times_ddp:.2f} times what plain data parallelism sends."
        if planned.sent_bytes
        else "One rank sends nothing.",
    ]


def _verdict(planned, options, model, arguments):
    """Whether it fits on the card and into the host, the largest that would, and the fewest cards for this one."""
    card_name, s = options.gpu, planned.settings
    chosen = card(card_name)
    verdict = "Fits" if fits(planned, card_name) else "Does not fit"
    if isinstance(model, Shape) and not model.family.counted:
        verdict += ", activations not counted"
    spare = f"leaving {gigabytes(ALLOWANCE_BYTES)} GB to CUDA and NCCL"
    lines = [f"{verdict}: {gigabytes(chosen.memory_bytes)} GB on each {chosen.name}, {spare}."]
    lines += _host_verdict(planned, options.gpus_per_node, options.host_memory)
    if "config" in arguments:  # the batch of a step must not keep the number of ranks from changing
        kept = {key: value for key, value in arguments["config"].items() if key != "train_batch_size"}
        micro_batch = {"train_micro_batch_size_per_gpu": s.micro_batch_size}
        arguments = arguments | {"config": kept | micro_batch | {"gradient_accumulation_steps": s.accumulation_steps}}
    family = None if isinstance(model, int | float) else model
    if not getattr(family, "frozen", ()):  # the layers that are frozen by name are those of this model alone
        largest = largest_model(card_name, family, world_size=s.world_size, **arguments)
        what = "model of this shape, with more or fewer layers" if family else "model by its states and buffers alone"
        lines.append(
            f"The largest {what}, on {s.world_size}: {largest.parameters:,} parameters."
            if largest
            else f"No {what} fits on {s.world_size}: try a higher stage, offload or a smaller bucket."
        )
    smallest = smallest_world_size(card_name, model, **arguments)
    lines.append(
        f"The fewest such cards for this one: {smallest.settings.world_size}."
        if smallest
        else "No number of such cards makes this one fit: try a higher stage, offload or a smaller micro-batch."
    )
    return lines


def _host_verdict(planned, gpus_per_node, host_memory):
    """What the ranks of one node need of its memory, to load the model and to train, and whether that is there."""
    ranks = min(planned.settings.world_size, gpus_per_node)
    train, load = host_bytes_of_node(planned, ranks), loading_bytes_of_node(planned, ranks)
    lines = [
        f"The host of {ranks_in_words(ranks)} needs {gigabytes(train)} GB to train, and up to {gigabytes(load)} GB "
        "while each rank loads the whole model (zero.Init at stage 3 spares that)."
    ]
    if host_memory is not None:
        for needed, doing in ((train, "train"), (load, "load")):
            enough = "has" if needed <= host_memory * 1e9 else "does not have"
            lines.append(f"A host of {host_memory:g} GB {enough} room to {doing} it.")
    return lines


def _as_json(planned, options, model, arguments):
    result = {
        "parameters": planned.parameters,
        "trained_parameters": planned.trained_parameters,
        "settings": planned.settings._asdict(),
        "predicted_bytes": planned.moments,
        "peak_phase": planned.peak_phase,
        "message_bytes": planned.collectives,
        "sent_bytes": planned.sent_bytes,
        "times_ddp": planned.times_ddp,
    }
    if options.gpu:
        result["fits"] = {card(options.gpu).name: fits(planned, options.gpu)}
    return result
