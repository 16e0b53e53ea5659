"""Exercise 06-fits: Seven billion parameters on four small cards."""

from labsupport.exercises.answers import parsed_by_deepspeed, require_dict, require_whole_sizes
from labsupport.exercises.exercise import Exercise, Mistake, Mistaken, Unusable
from labsupport.exercises.lab_01_config.parsed import optimizer_of
from labsupport.exercises.lab_06_offload.parsed import BLOCKS, device_of

# The machine of 06-fits, in bytes: the statement says the same in GB.
PARAMETERS, GPUS = 7e9, 4
CARD_BYTES, HOST_BYTES = 16e9 - 4e9, 160e9 - 28e9
PERSISTENCE = 100_000  # DeepSpeed's default


def _fits(config):
    from labsupport.config import merge_configs, validate_config
    from labsupport.errors import ConfigError
    from labsupport.memory.planner import plan
    from labsupport.settings import read_settings

    config = require_dict(config, "The config")
    parsed = parsed_by_deepspeed(config, GPUS)
    blocks = {block: getattr(parsed.zero_config, block) for block in BLOCKS}
    if any(block is not None and getattr(block, "ratio", 1.0) != 1.0 for block in blocks.values()):
        raise Unusable("The planner counts whole states: leave ratio out of offload_optimizer.")
    effective = {key: {"device": device_of(block)} for key, block in blocks.items() if block is not None}
    config = merge_configs(config, {"zero_optimization": effective})
    try:
        settings = read_settings(config, GPUS)
    except ConfigError as error:
        raise Unusable(f"DeepSpeed refuses this config. {error}") from error
    try:
        validate_config(config, GPUS)
    except ConfigError as error:
        raise Mistaken("does nothing", error=error) from error
    if "optimizer" not in config or (settings.precision, settings.master_bytes, settings.states) != ("bf16", 4, 2):
        optimizer = settings.optimizer if "optimizer" in config else "none"
        raise Mistaken("another training", precision=settings.precision, optimizer=optimizer)
    require_whole_sizes(parsed)
    name, _ = optimizer_of(parsed, config)
    if name != "AdamW":
        raise Mistaken("another training", precision=settings.precision, optimizer=name)
    if not (parsed.optimizer_params or {}).get("fp32_optimizer_states", True):
        raise Mistaken("another training", precision=settings.precision, optimizer="AdamW with its states in bf16")
    if parsed.zero_config.param_persistence_threshold > PERSISTENCE:
        raise Mistaken("kept whole", size=f"{parsed.zero_config.param_persistence_threshold:,}")
    planned = plan(PARAMETERS, config, world_size=GPUS)
    on_card, on_host = planned.place_bytes("peak", "GPU"), planned.host_bytes("at rest") * GPUS
    _judge_places(settings, on_card, on_host)
    return (
        f"The planner counts {on_card / 1e9:.1f} GB at the peak on each card, and {on_host / 1e9:.1f} GB on the host."
    )


def _judge_places(settings, on_card, on_host):
    need = {"card": f"{on_card / 1e9:.0f}", "host": f"{on_host / 1e9:.0f}"}
    if "nvme" in (settings.offload_optimizer, settings.offload_param):
        raise Mistaken("drive")
    if on_card > CARD_BYTES and settings.offload_optimizer == "none":
        raise Mistaken("states on the card", stage=settings.stage, **need)
    if on_card > CARD_BYTES and settings.stage == 3:
        raise Mistaken("more than states", **need)
    if on_card > CARD_BYTES:
        raise Mistaken("parameters whole", stage=settings.stage, **need)
    if on_host > HOST_BYTES:
        raise Mistaken("host too small", **need)


MISTAKES = {
    "states on the card": Mistake(
        "At stage {stage} the planner counts {card} GB on each card, and 12 GB are free. Adam's 12 bytes a "
        "parameter are still there: four ranks are too few to partition them away."
    ),
    "parameters whole": Mistake(
        "The optimizer is on the host, but at stage {stage} every card holds all parameters: 14 GB of weights "
        "alone, {card} GB in all, and 12 GB are free.",
        "Which stage divides the parameters?",
    ),
    "more than states": Mistake(
        "At stage 3 with the optimizer on the host the planner counts {card} GB on each card, and 12 GB are free. The "
        "shares of the parameters are 4 GB of them: usually it is a bucket, or how much stage 3 may keep gathered.",
        "`plan(...)` lists what makes up the peak; compare it with a config without those keys.",
    ),
    "kept whole": Mistake(
        "stage3_param_persistence_threshold {size} keeps every parameter of up to so many elements whole on each card, "
        "up to 14 GB if all are, and 12 GB are free. The planner knows no sizes of tensors, and does not count it."
    ),
    "host too small": Mistake(
        "The cards have room, and the host has not: it holds {host} GB, and 132 GB are free. All four ranks share one "
        "host, so partitioning does not divide its part.",
        "Do the parameters have to leave the cards?",
    ),
    "drive": Mistake(
        "A drive is for what the host cannot hold. Here the host has room for what the cards have no room for, "
        "and a drive reads and writes 12 bytes a parameter in every step."
    ),
    "does nothing": Mistake("DeepSpeed starts with this config and does something else. {error}"),
    "another training": Mistake(
        "This is another run than the one to be placed: it computes in {precision}, and its optimizer is "
        "{optimizer}. The run is in bf16 with AdamW, whose masters and states are fp32; change only where things "
        "are."
    ),
}


EXERCISE = Exercise(
    id="06-fits",
    title="Seven billion parameters on four small cards",
    difficulty=3,
    minutes=10,
    target="the planner finds room for the run on every card and on the host, and nothing travels further than it must",
    answer="workstation_config",
    check=_fits,
    mistakes=MISTAKES,
)
