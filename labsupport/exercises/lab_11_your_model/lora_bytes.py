"""Exercise 11-lora-bytes: What a LoRA costs at each stage."""

import functools

from labsupport.exercises.answers import call_unchanged, describe, require_number
from labsupport.exercises.exercise import Exercise, Mistake, Mistaken, Unusable
from labsupport.exercises.meeting import Meeting

SMALL = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 128,
    "tie_word_embeddings": False,
    "max_position_embeddings": 64,
}
LARGE = SMALL | {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32}
LARGE |= {"num_key_value_heads": 8, "vocab_size": 128256}
# The config, LoRA's rank and targets, the stage, the number of ranks.
CASES = (
    (SMALL, 8, ("q_proj",), 2, 2),
    (SMALL, 8, ("q_proj", "v_proj"), 1, 2),
    (SMALL, 8, ("q_proj", "v_proj"), 2, 2),
    (SMALL, 8, ("q_proj", "v_proj"), 3, 2),
    (SMALL, 4, ("k_proj", "o_proj", "down_proj"), 3, 4),
    (LARGE, 16, ("q_proj", "k_proj", "v_proj", "o_proj"), 2, 8),
    (LARGE, 64, ("gate_proj", "up_proj", "down_proj"), 3, 64),
    (LARGE, 8, ("v_proj",), 1, 1),
)


def _lora_bytes(answer):
    meeting = Meeting()
    for config, rank, targets, stage, ranks in CASES:
        base = _parameters(config)
        given = call_unchanged(answer, dict(config), base, rank, list(targets), stage, ranks)
        if not isinstance(given, tuple | list) or len(given) != 2:
            raise Unusable(f"Your function returns {describe(given)}: it has to be (trained, bytes).")
        trained, held = (require_number(each, name) for each, name in zip(given, ("trained", "bytes"), strict=True))
        _judge(trained, held, config, base, rank, targets, stage, ranks)
    measured, expected = _measured(3), _bytes(_parameters(SMALL), _trained(SMALL, 8, ("q_proj", "v_proj")), 3, 2)
    meeting.facts(measured)
    if abs(measured / expected - 1) > 0.01:  # a check that is wrong is not the reader's mistake
        raise Unusable(f"This engine holds {measured:,} bytes where the check expects {expected:,.0f}: report it.")
    return f"{len(CASES)} cases; a live engine at stage 3 holds {measured:,} bytes on rank 0 of 2, as you say."


def _parameters(config):
    from labsupport.shapes import shape_of_config

    return shape_of_config(config).parameters


def _widths(config, grouped=True):
    """{target: (in, out)} of the linear maps of a layer."""
    h, f = config["hidden_size"], config["intermediate_size"]
    kv = h // config["num_attention_heads"] * config["num_key_value_heads"] if grouped else h
    maps = {"q_proj": (h, h), "k_proj": (h, kv), "v_proj": (h, kv), "o_proj": (h, h)}
    return maps | {"gate_proj": (h, f), "up_proj": (h, f), "down_proj": (f, h)}


def _trained(config, rank, targets, grouped=True):
    widths = _widths(config, grouped)
    return config["num_hidden_layers"] * rank * sum(sum(widths[target]) for target in targets)


def _bytes(base, trained, stage, ranks):
    """bf16 weights, and a master and two states in fp32 for what is trained."""
    return 2 * (base + trained) / (ranks if stage == 3 else 1) + 12 * trained / ranks


def _judge(trained, held, config, base, rank, targets, stage, ranks):
    right, layers, widths = _trained(config, rank, targets), config["num_hidden_layers"], _widths(config)
    values = {"rank": rank, "targets": " and ".join(targets), "trained": f"{trained:,.0f}", "right": f"{right:,}"}
    if trained != right:
        instead = {
            "one layer": right / layers,
            "keys as wide as queries": _trained(config, rank, targets, grouped=False),
            "one matrix": layers * rank * sum(widths[target][0] for target in targets),
            "the weights themselves": layers * sum(widths[target][0] * widths[target][1] for target in targets),
        }
        raise Mistaken(next((name for name, count in instead.items() if trained == count), "trained"), **values)
    expected, whole = _bytes(base, right, stage, ranks), 2 * (base + right)
    if abs(held / expected - 1) < 1e-6:
        return
    values |= {"stage": stage, "ranks": ranks, "held": f"{held:,.0f}", "expected": f"{expected:,.0f}"}
    values |= {"base": f"{base:,}"}
    adam, all_adam = 12 * right / ranks, 12 * (base + right) / ranks
    instead = {
        "the base is trained": whole / (ranks if stage == 3 else 1) + all_adam,
        "the base is whole": 2 * base + 2 * right / ranks + adam,
        "the base is free": 2 * right / (ranks if stage == 3 else 1) + adam,
        "weights cut too early": whole / ranks + adam,
        "states are whole": whole / (ranks if stage == 3 else 1) + 12 * right,
        "without masters": whole / (ranks if stage == 3 else 1) + 8 * right / ranks,
    }
    close = (name for name, count in instead.items() if abs(held / count - 1) < 1e-6)
    raise Mistaken(next(close, "bytes"), **values)


@functools.cache
def _measured(stage):
    """The model states at rest of an engine with peft's LoRA on this rank, in bytes, gradients aside."""
    import deepspeed
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM

    from labsupport.exercises.lab_11_your_model.engines import small_config
    from labsupport.measure.ledger import held_bytes

    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_config(AutoConfig.for_model(**SMALL, use_cache=False))
    model = get_peft_model(base, LoraConfig(r=8, target_modules=["q_proj", "v_proj"]))
    engine = deepspeed.initialize(model=model, config=small_config(stage, bf16={"enabled": True}))[0]
    tokens = torch.arange(32).view(2, 16)
    engine.backward(engine(input_ids=tokens, labels=tokens).loss)
    engine.step()
    held = held_bytes(engine, everything=False)
    engine.destroy()
    return sum(held[role] for role in ("parameters", "master weights", "optimizer states"))


_OF_TRAINED = "Rank {rank} beside {targets}: you say {trained} trained, and it is {right}. "
_OF_BYTES = "Stage {stage} on {ranks} ranks, {base} frozen, {right} trained: you say {held} bytes, it is {expected}. "
MISTAKES = {
    "one layer": Mistake(_OF_TRAINED + "That is one layer's: each layer has its own matrices."),
    "keys as wide as queries": Mistake(
        _OF_TRAINED + "You take keys and values to be as wide as the model; here several query heads share a key head.",
        "A head's width is hidden_size / num_attention_heads; how many key heads are there?",
    ),
    "one matrix": Mistake(_OF_TRAINED + "You count A, which is rank x in, and not B, which is out x rank."),
    "the weights themselves": Mistake(
        _OF_TRAINED + "You count the weights beside which LoRA stands: these are frozen."
    ),
    "trained": Mistake(_OF_TRAINED + "Beside a weight of out x in stand A of rank x in and B of out x rank."),
    "the base is trained": Mistake(
        _OF_BYTES + "You give the frozen weights a master and Adam's states. The optimizer never sees them."
    ),
    "the base is whole": Mistake(
        _OF_BYTES + "You keep the frozen base whole at stage 3. Stage 3 cuts every weight, frozen or not; the ledger "
        "has shown it."
    ),
    "the base is free": Mistake(
        _OF_BYTES + "You leave the frozen base out. Without its weights there is no forward pass: 2 bytes each."
    ),
    "weights cut too early": Mistake(_OF_BYTES + "You cut the weights by the ranks: below stage 3 they are whole."),
    "states are whole": Mistake(_OF_BYTES + "You keep masters and states whole: from stage 1 on they are cut."),
    "without masters": Mistake(
        _OF_BYTES + "You have 8 bytes of states for a trained number. In bf16 each also has a master in fp32."
    ),
    "bytes": Mistake(_OF_BYTES + "2 bytes for each weight, 12 for each that is trained: which does this stage divide?"),
    "hangs": Mistake("Your function does not come back. It computes with numbers, and needs no other rank."),
}


EXERCISE = Exercise(
    id="11-lora-bytes",
    title="What a LoRA costs at each stage",
    difficulty=2,
    minutes=12,
    target=f"the trained numbers and a rank's bytes, for {len(CASES)} configs, ranks and stages, and for a live engine",
    answer="lora_states",
    check=_lora_bytes,
    ranks=2,
    seconds=60,
    mistakes=MISTAKES,
)
