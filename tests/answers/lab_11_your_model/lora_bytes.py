"""Exercise 11-lora-bytes: answers that are known to be wrong, by their mistake, and right ones."""

KEYS = 'hidden // config["num_attention_heads"] * config["num_key_value_heads"]'


def _count(
    trained="layers * rank * sum(i + o for i, o in maps)",
    weights="2 * (parameters + trained) / cut",
    states="12 * trained / world_size",
    keys=KEYS,
):
    return f"""
def lora_states(config, parameters, rank, targets, stage, world_size):
    hidden, mlp, layers = config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"]
    keys = {keys}
    of = {{"q_proj": (hidden, hidden), "k_proj": (hidden, keys), "v_proj": (hidden, keys), "o_proj": (hidden, hidden)}}
    of |= {{"gate_proj": (hidden, mlp), "up_proj": (hidden, mlp), "down_proj": (mlp, hidden)}}
    maps, cut = [of[target] for target in targets], world_size if stage == 3 else 1
    trained = {trained}
    return trained, {weights} + {states}"""


WRONG = {
    "one layer": (_count("rank * sum(i + o for i, o in maps)"),),
    "keys as wide as queries": (_count(keys="hidden"),),
    "one matrix": (_count("layers * rank * sum(i for i, o in maps)"),),
    "the weights themselves": (_count("layers * sum(i * o for i, o in maps)"),),
    "trained": (_count("layers * rank * rank * sum(i + o for i, o in maps)"),),
    "the base is trained": (_count(states="12 * (parameters + trained) / world_size"),),
    "the base is whole": (_count(weights="2 * parameters + 2 * trained / cut"),),
    "the base is free": (_count(weights="2 * trained / cut"),),
    "weights cut too early": (_count(weights="2 * (parameters + trained) / world_size"),),
    "states are whole": (_count(states="12 * trained"),),
    "without masters": (_count(states="8 * trained / world_size"),),
    "bytes": (_count(weights="4 * (parameters + trained) / cut"),),
}

RIGHT = (
    _count(),
    """
def lora_states(config, parameters, rank, targets, stage, world_size):
    from labsupport.memory import plan
    from labsupport.shapes import Adapter, shape_of_config
    shape = shape_of_config(config)
    trained = shape._replace(adapter=Adapter(rank, tuple(targets))).parameters - shape.parameters
    weights = 2 * (parameters + trained)
    return [trained, (weights / world_size if stage > 2 else weights) + 12 * trained / world_size]""",
    """
def lora_states(config, parameters, rank, targets, stage, world_size):
    h = config["hidden_size"]
    out = {name: h for name in ("q_proj", "o_proj", "down_proj")}
    out |= dict.fromkeys(("k_proj", "v_proj"), h * config["num_key_value_heads"] // config["num_attention_heads"])
    out |= dict.fromkeys(("gate_proj", "up_proj"), config["intermediate_size"])
    wide = {name: config["intermediate_size"] if name == "down_proj" else h for name in out}
    per_layer = 0
    for name in targets:
        per_layer += rank * wide[name] + out[name] * rank
    trained = per_layer * config["num_hidden_layers"]
    held = 2.0 * (parameters + trained)
    if stage == 3:
        held /= world_size
    return trained, held + (4 + 4 + 4) * trained / world_size""",
)
