"""The choices of the stage selector: configs as DeepSpeed reads them, refusals, notes that are true."""

import itertools
import json

import pytest

from labsupport.config import validate_config
from labsupport.errors import ConfigError
from labsupport.machine.cards import CARDS
from labsupport.memory import model_states
from labsupport.models import PRESETS
from labsupport.settings import read_settings
from labsupport.widgets.selector.choices import (
    AXES,
    DEFAULT,
    OWN,
    PARAMETERS,
    SIZES,
    STRATEGY,
    checked_choice,
    config_for,
    plan_of_choice,
    refusal,
    run_of,
    shape_of_choice,
    strategies,
)
from labsupport.widgets.selector.facts import facts
from labsupport.widgets.selector.notes import notes

ALL = [dict(zip(STRATEGY, values, strict=True)) for values in itertools.product(*(AXES[name] for name in STRATEGY))]


def choices(**axes):
    """Every strategy with every value of the given axes."""
    for strategy in strategies():
        for values in itertools.product(*axes.values()):
            yield DEFAULT | strategy | dict(zip(axes, values, strict=True))


def test_a_strategy_is_offered_or_refused_with_a_sentence():
    assert len(strategies()) + sum(bool(refusal(DEFAULT | strategy)) for strategy in ALL) == len(ALL) == 36
    for strategy in ALL:
        allowed = strategy["stage"] == 3 or (
            strategy["offload_param"] == "none"
            and strategy["offload_optimizer"] in (("none",) if strategy["stage"] == 0 else ("none", "cpu"))
        )
        sentence = refusal(DEFAULT | strategy)
        assert bool(sentence) != allowed, strategy
        assert allowed or sentence.endswith(".")


def test_what_the_page_is_told_says_the_same():
    told = json.loads(json.dumps(facts()))
    assert [{name: strategy[name] for name in STRATEGY} for strategy in told["strategies"]] == strategies()
    for strategy in ALL:
        assert told["refusals"]["|".join(map(str, strategy.values()))] == refusal(DEFAULT | strategy)
    assert set(told["models"]) | {OWN, PARAMETERS} == set(AXES["model"])


def test_what_is_not_offloaded_is_cheaper_than_what_is():
    farthest = [max(AXES["offload_param"].index(s[name]) for name in STRATEGY[1:]) for s in strategies()]
    assert farthest == sorted(farthest)
    assert [s["stage"] for s in strategies()[:4]] == [0, 1, 2, 3]


@pytest.mark.parametrize("model", [*PRESETS, "llama-3.1-8b"])
def test_a_config_says_what_was_chosen(model):
    for choice in choices(precision=AXES["precision"], world_size=[1, 8], accumulation=[1, 4]):
        choice |= {"model": model, "micro_batch_size": 2}
        config = config_for(choice)
        settings = read_settings(validate_config(config, choice["world_size"]), choice["world_size"])
        for name in ("stage", "precision", "offload_optimizer", "offload_param", "world_size", "micro_batch_size"):
            assert getattr(settings, name) == choice[name], name
        assert settings.accumulation_steps == choice["accumulation"]


def test_deepspeed_reads_the_configs_so():
    from deepspeed.runtime.config import DeepSpeedConfig

    for choice in choices(precision=AXES["precision"]):
        read = DeepSpeedConfig(config_for(choice | {"world_size": 1}))
        zero = read.zero_config
        assert read.zero_optimization_stage == choice["stage"]
        assert (read.bfloat16_config.enabled, read.float16_config.enabled) == (
            choice["precision"] == "bf16",
            choice["precision"] == "fp16",
        )
        for key in ("offload_optimizer", "offload_param"):
            block = getattr(zero, key)
            assert (str(getattr(block.device, "value", block.device)) if block else "none") == choice[key]
        assert read.train_batch_size == choice["micro_batch_size"] * choice["accumulation"]


def noted(words):
    """The choices over what matters for which the one note with these words is shown."""
    (note,) = [each for each in notes() if words in each["text"]]
    axes = {"precision": AXES["precision"], "world_size": [1, 2, 64], "accumulation": [1, 2, 8],
            "model": [*PRESETS, "llama-3.2-1b", "gemma-2-2b", PARAMETERS], "parameters": [3 * 10**9]}  # fmt: skip
    for choice in choices(**axes):
        yield choice, is_shown(note, choice)


def is_shown(note, choice):
    """Whether a note's conditions hold, in words of Python."""
    shape = shape_of_choice(choice)
    known = choice | {
        "model_parameters": choice["parameters"] if shape is None else shape.parameters,
        "card_precision": CARDS[choice["card"]].precision,
        "has_shape": shape is not None,
        "counted": shape is not None and shape.family.counted,
        "sizes_set": len(choice["sizes"]),
    }

    def is_in(value, wanted):
        if isinstance(wanted, list):
            return value in wanted
        return wanted.get("least", value) <= value <= wanted.get("most", value)

    return all(is_in(known[what], wanted) for what, wanted in note["when"].items())


def test_the_note_on_one_rank_is_true():
    for choice, shown in noted("nobody to share with"):
        assert shown == (choice["world_size"] == 1 and choice["stage"] > 0)
        if shown and choice["offload_optimizer"] == choice["offload_param"] == "none" and choice["accumulation"] == 1:
            held = plan_of_choice(choice).held("at rest")
            alone = plan_of_choice(choice | {"stage": 0}).held("at rest")
            states = ("parameters", "gradients", "master weights", "optimizer states")
            assert sum(held[role] for role in states) > 0.99 * sum(alone[role] for role in states)


def test_the_note_on_one_and_a_half_times_is_true():
    for choice, shown in noted("1.5 times"):
        if choice["stage"] in (1, 2) and choice["accumulation"] == 1:
            assert shown == (choice["world_size"] > 1)
            assert not shown or plan_of_choice(choice).times_ddp == pytest.approx(1.5, rel=0.01)


def test_the_note_on_accumulation_is_true():
    for choice, shown in noted("after every micro-batch"):
        if choice["world_size"] == 1 or choice["accumulation"] == 1:
            assert not shown
            continue
        more = plan_of_choice(choice).sent_bytes > 1.01 * plan_of_choice(choice | {"accumulation": 1}).sent_bytes
        assert more == shown, choice


@pytest.mark.parametrize("words, whole", [("releases nothing", True), ("Some 1e9 gathered parameters", False)])
def test_the_notes_on_what_stage_3_gathers_are_true(words, whole):
    for choice, shown in noted(words):
        if choice["stage"] != 3 or choice["world_size"] == 1 or choice["model"] == PARAMETERS:
            assert not shown
            continue
        planned = plan_of_choice(choice)
        shares = model_states.shares_of(shape_of_choice(choice).tensor_sizes, planned.settings)
        gathered = model_states.gathered_bytes(shares, planned.settings, on_gpu=True)
        is_whole = gathered == shares.parameters * planned.settings.parameter_bytes
        if shown:
            assert is_whole == whole, choice["model"]


def test_the_note_on_sub_groups_is_true():
    for choice, shown in noted("buffers of four sub-groups"):
        if (choice["precision"], choice["accumulation"]) != ("bf16", 1):
            continue
        smaller = choice | {"sizes": {"sub_group_size": 100}}
        less = plan_of_choice(smaller).host_bytes("peak") < plan_of_choice(choice).host_bytes("peak")
        assert less == shown, choice


def test_no_choice_has_both_notes_on_what_stage_3_gathers():
    for (choice, whole), (_, part) in zip(noted("releases nothing"), noted("Some 1e9 gathered"), strict=True):
        assert not (whole and part), choice


WRONG = [
    {"stages": 2}, {"stage": 4}, {"stage": True}, {"world_size": 0}, {"world_size": True}, {"world_size": 2.5},
    {"model": "8b"}, {"checkpointing": 1}, {"sizes": {"bucket": 1}}, {"model": OWN}, {"model": PARAMETERS},
    {"host_memory": 0}, {"sequence_length": 1_000_000}, {"liger": True},
]  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_what_the_selector_cannot_show_is_one_sentence(wrong):
    with pytest.raises(ConfigError, match=r"[:].*\.$"):
        checked_choice(wrong)


def test_what_deepspeed_does_not_combine_names_the_stage():
    with pytest.raises(ConfigError, match="stage 3"):
        checked_choice({"stage": 2, "offload_param": "cpu"})


def test_sizes_of_other_stages_are_left_out_of_the_config():
    sizes = {key: True if size.least is None else 7 for key, size in SIZES.items()}
    for stage in range(4):
        zero = config_for(DEFAULT | {"stage": stage, "sizes": sizes})["zero_optimization"]
        assert {key for key in SIZES if key in zero} == {key for key, size in SIZES.items() if stage in size.stages}


def test_a_bare_number_is_planned_and_not_trained():
    choice = checked_choice({"model": PARAMETERS, "parameters": 7 * 10**9, "stage": 3, "world_size": 8})
    assert plan_of_choice(choice).parameters == 7 * 10**9
    with pytest.raises(ConfigError, match="cannot be|can be trained"):
        run_of(choice)
