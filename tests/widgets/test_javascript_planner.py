"""The selector's planner in JavaScript against the planner in Python: every place, role and moment, to the byte."""

import itertools
import json
import random

import pytest
from conftest import needs_chromium

from labsupport.errors import ConfigError
from labsupport.memory.room import fits, host_bytes_of_node, loading_bytes_of_node
from labsupport.shapes import config_of, known_models, shape_of_config
from labsupport.widgets.selector.choices import (
    AXES,
    CARDS,
    DEFAULT,
    OWN,
    PARAMETERS,
    PRESETS,
    SIZES,
    checked_choice,
    config_for,
    copied_bytes,
    plan_of_choice,
    strategies,
)
from labsupport.widgets.selector.widget import PLANNER

pytestmark = [needs_chromium]
DRAWS, WAYS = 20_000, 5
ASKED_AT_ONCE = 4_000
RANKS = [1, 2, 3, 4, 7, 8, 16, 24, 64, 100, 256, 1000, 1024]
# Architectures that share nothing in how their tensors are counted, each with a head size of its own or not.
OWN_SHAPES = {
    "gpt2": {},
    "llama": {"head_dim": 48},
    "qwen2": {},
    "qwen3": {},
    "granite": {"attention_bias": True},
    "smollm3": {},
    "mistral": {},
    "olmo": {},
    "olmo2": {},
    "phi3": {},
    "gemma2": {},
    "gemma3_text": {},
    "starcoder2": {},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen2_moe": {"num_experts": 6, "num_experts_per_tok": 2, "shared_expert_intermediate_size": 96,
                  "moe_intermediate_size": 80},
    "qwen3_moe": {"num_experts": 5, "num_experts_per_tok": 1, "moe_intermediate_size": 72},
}  # fmt: skip


def own_config(dice):
    """A config.json of a small model that is made at random: grouped keys, tied or not, odd sizes."""
    architecture = dice.choice(list(OWN_SHAPES))
    heads = dice.choice([1, 2, 4, 6, 12])
    sizes = {"layers": dice.randint(1, 6), "hidden": heads * dice.choice([2, 16, 33, 64, 250]),
             "longest": dice.choice([64, 2048, 131072]), "vocabulary": dice.choice([11, 256, 50257])}  # fmt: skip
    if architecture == "gpt2":
        names = ("n_layer", "n_embd", "n_positions", "vocab_size")
        config = {"model_type": "gpt2", "n_head": heads} | dict(zip(names, sizes.values(), strict=True))
        return config | ({"n_inner": dice.randint(1, 5000)} if dice.random() < 0.5 else {})
    names = ("num_hidden_layers", "hidden_size", "max_position_embeddings", "vocab_size")
    config = {
        "model_type": architecture,
        "num_attention_heads": heads,
        "num_key_value_heads": dice.choice([each for each in range(1, heads + 1) if heads % each == 0]),
        "intermediate_size": dice.randint(1, 5000),
    }
    tied = {"tie_word_embeddings": dice.random() < 0.5} if dice.random() < 0.8 else {}
    return config | dict(zip(names, sizes.values(), strict=True)) | OWN_SHAPES[architecture] | tied


def drawn(dice, models):
    """Choices that are made at random, some of which cannot be planned: one config on so many ranks, in several ways.

    Reading a config is most of the time that Python takes, so it is read once for all of them.
    """
    choice = DEFAULT | dice.choice(strategies()) | {"world_size": dice.choice(RANKS)}
    choice |= {axis: dice.choice(AXES[axis]) for axis in ("precision", "grad_accum_dtype", "card")}
    choice |= {"micro_batch_size": dice.choice([1, 1, 2, 3, 16]), "accumulation": dice.choice([1, 1, 2, 5])}
    model, config_json = dice.choice(models)
    choice |= {"model": model, "config_json": config_json}
    if model == PARAMETERS:
        choice["parameters"] = int(10 ** dice.uniform(0, 12))
    if dice.random() < 0.4:
        for key in dice.sample(list(SIZES), 3):
            least = SIZES[key].least
            value = dice.random() < 0.5 if least is None else max(least, int(10 ** dice.uniform(0, 10)))
            choice["sizes"] = choice["sizes"] | {key: value}
    for _ in range(WAYS):
        length, liger = dice.choice([None, 1, 57, 64]), dice.random() < 0.3
        yield choice | {"sequence_length": length, "liger": liger, "checkpointing": dice.random() < 0.5}


def corners():
    """Every strategy with every precision, and checkpointing, one and several ranks, on a model of each kind."""
    models = ({"model": "1m"}, {"model": "llama-3.1-8b", "liger": True}, {"model": PARAMETERS, "parameters": 7 * 10**9})
    axes = (AXES["precision"], AXES["checkpointing"], [1, 2, 1024], [1, 2], models)
    for strategy, precision, checkpointing, ranks, accumulation, model in itertools.product(strategies(), *axes):
        more = {"precision": precision, "checkpointing": checkpointing, "world_size": ranks}
        yield DEFAULT | strategy | more | {"accumulation": accumulation} | model
    for model, strategy in itertools.product(known_models(), strategies()):
        yield DEFAULT | strategy | {"model": model, "world_size": 8, "micro_batch_size": 1}


@pytest.fixture(scope="module")
def planner(browser):
    """A page on which the planner's functions are there."""
    page = browser.new_page()
    page.add_script_tag(content=PLANNER)
    yield page
    page.close()


PLANNED = """(text) => JSON.stringify(JSON.parse(text).map((choice) => {
  const refused = refusalOf(choice);
  if (refused) return refused;
  const plan = planOfChoice(choice);
  const { collectives, sentBytes, timesDdp } = plan.messages();
  const s = settingsOf(choice, modelOf(choice));
  return { moments: plan.moments, phase: plan.peakPhase, parameters: plan.parameters, collectives, sentBytes, timesDdp,
           buffers: plan.nvmeBufferBytes, copied: plan.copiedBytes, fits: fitsCard(plan, choice.card),
           train: hostBytesOfNode(plan, 3), load: loadingBytesOfNode(plan, 3, s) };
}))"""


def in_javascript(planner, choices):
    """What the page reckons of each choice: a dict, or the sentence that refuses it."""
    for start in range(0, len(choices), ASKED_AT_ONCE):
        yield from json.loads(planner.evaluate(PLANNED, json.dumps(choices[start : start + ASKED_AT_ONCE])))


def in_python(choice):
    try:
        planned = plan_of_choice(choice)
    except ConfigError as error:
        return str(error)
    return {
        "moments": planned.moments,
        "phase": planned.peak_phase,
        "parameters": planned.parameters,
        "collectives": planned.collectives,
        "buffers": planned.nvme_buffer_bytes,
        "copied": copied_bytes(planned),
        "fits": fits(planned, choice["card"]),
        "train": host_bytes_of_node(planned, 3),
        "load": loading_bytes_of_node(planned, 3),
    }, planned


def difference(choice, shown):
    """ "" where both say the same of a choice, else what they say."""
    expected = in_python(choice)
    if isinstance(expected, str) or isinstance(shown, str):
        return "" if isinstance(expected, str) and isinstance(shown, str) else f"{expected} but {shown}"
    expected, planned = expected
    if abs(shown.pop("sentBytes") - planned.sent_bytes) > 1e-12 * planned.sent_bytes:
        return "the bytes sent"
    if abs(shown.pop("timesDdp") - planned.times_ddp) > 1e-12 * planned.times_ddp:
        return "the times of plain data parallelism"
    return "; ".join(
        f"{name}: {expected[name]} but {shown[name]}" for name in expected if expected[name] != shown[name]
    )


def test_it_says_what_plan_says(planner):
    dice = random.Random(20261129)
    models = [(name, None) for name in ("tiny", "1m", "85m", "llama-3.2-1b", "qwen3-0.6b", "mixtral-8x7b")]
    models += [(OWN, own_config(dice)) for _ in range(150)] + [(PARAMETERS, None)] * 6
    choices = [*corners(), *(choice for _ in range(DRAWS // WAYS) for choice in drawn(dice, models))]
    count = 0
    for choice, shown in zip(choices, in_javascript(planner, choices), strict=True):
        count += isinstance(shown, str)
        assert difference(choice, shown) == "", choice
    assert 0.02 < count / len(choices) < 0.4, "most of what is drawn can be planned, and some cannot"


def test_the_config_is_the_one_that_python_writes(planner):
    dice = random.Random(7)
    models = [
        ("1m", None),
        ("llama-3.1-8b", None),
        (PARAMETERS, None),
        (OWN, own_config(dice)),
        (OWN, own_config(dice)),
    ]
    choices = [choice for _ in range(150) for choice in drawn(dice, models) if not refused(choice)]
    shown = json.loads(planner.evaluate("(choices) => JSON.stringify(choices.map((each) => configOf(each)))", choices))
    for choice, config in zip(choices, shown, strict=True):
        assert in_order(config) == in_order(config_for(choice)), choice


def in_order(block):
    return [(key, in_order(value)) for key, value in block.items()] if isinstance(block, dict) else block


def refused(choice):
    return isinstance(in_python(choice), str)


def test_a_wrong_byte_would_be_seen(planner):
    choice = DEFAULT | {"stage": 1, "world_size": 3, "accumulation": 2}
    (shown,) = in_javascript(planner, [choice])
    shown["moments"]["at rest"]["GPU"]["gradients"] += 1
    assert difference(choice, shown).startswith("moments: ")
    assert "but it is refused" in difference(choice, "it is refused")


@pytest.mark.parametrize("name", [*PRESETS, *known_models()])
def test_every_model_has_the_tensors_that_python_counts(planner, name):
    sizes = planner.evaluate("(name) => sizesOf(modelOf({ model: name }).shape)", name)
    assert sizes == shape_of_config(config_of(PRESETS[name]) if name in PRESETS else known_models()[name]).tensor_sizes


CONFIG = config_of(PRESETS["7b"])
REFUSED = {
    "no object": [],
    "no model_type": {},
    "unknown": CONFIG | {"model_type": "t5"},
    "inherited": CONFIG | {"model_type": "toString"},
    "missing": {key: value for key, value in CONFIG.items() if key != "hidden_size"},
    "text": CONFIG | {"hidden_size": "4096"},
    "half": CONFIG | {"num_hidden_layers": 1.5},
    "none": CONFIG | {"num_hidden_layers": 0},
    "key heads": CONFIG | {"num_key_value_heads": 5},
    "heads": CONFIG | {"num_attention_heads": 33, "num_key_value_heads": 33, "head_dim": None},
    "sparse": CONFIG | {"mlp_only_layers": [0]},
    "layers": CONFIG | {"num_hidden_layers": 10_001},
    "giant": CONFIG | {"hidden_size": 2**20, "num_hidden_layers": 9_000},
    "experts": config_of(shape_of_config(known_models()["mixtral-8x7b"])) | {"num_experts_per_tok": 9},
}


@pytest.mark.parametrize("config", REFUSED.values(), ids=REFUSED)
def test_a_config_json_that_is_not_understood_is_one_sentence_in_both(planner, config):
    with pytest.raises(ConfigError) as refused:
        shape_of_config(config, "The config.json")
    said = planner.evaluate(
        "(config) => { try { shapeOfConfig(config) } catch (error) { return error.message } }", config
    )
    assert said.endswith(".") and said.count(". ") == 0 and str(refused.value).endswith(".")
    numbers = {word.strip(":,.'\"") for word in str(refused.value).split() if any(c.isdigit() for c in word)}
    assert numbers <= {word.strip(":,.'\"") for word in said.split()}, "the same values are named"


WRONG = [
    {"world_size": 0}, {"world_size": 2.5}, {"world_size": "2"}, {"host_memory": 0}, {"gpus_per_node": 0},
    {"micro_batch_size": 65_537}, {"sequence_length": 0}, {"sequence_length": 257}, {"parameters": -1},
    {"model": PARAMETERS}, {"micro_batch_size": 65_536, "sequence_length": 257}, {"sizes": {"reduce_bucket_size": 0}},
    {"sizes": {"overlap_comm": 1}}, {"liger": True}, {"stage": 2, "offload_param": "cpu"},
]  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_a_value_out_of_its_bounds_is_one_sentence_in_both(planner, wrong):
    with pytest.raises(ConfigError, match=r"\.$"):
        checked_choice(wrong)
    assert planner.evaluate("(choice) => refusalOf(choice)", DEFAULT | wrong).endswith(".")


def test_every_card_is_there(planner):
    assert planner.evaluate("Object.keys(FACTS.cards)") == list(CARDS)
