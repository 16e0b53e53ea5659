"""What the stage selector is given: configs as DeepSpeed reads them, its own refusals, notes that are true."""

import itertools
import json

import pytest

from labsupport.config import validate_config
from labsupport.errors import ConfigError
from labsupport.memory import model_states
from labsupport.memory.planner import plan_of
from labsupport.memory.roles import ROLES
from labsupport.settings import read_settings
from labsupport.widgets.selector.table import (
    AXES,
    DEFAULT,
    STRATEGY,
    config_for,
    notes,
    refusal,
    run_of,
    stage_table,
    strategies,
)

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


def test_the_table_says_the_same():
    table = stage_table()
    assert table["strategies"] == strategies()
    for strategy in ALL:
        assert table["refusals"]["|".join(map(str, strategy.values()))] == refusal(DEFAULT | strategy)
    assert json.loads(json.dumps(table))["roles"] == list(ROLES)


def test_what_is_not_offloaded_is_cheaper_than_what_is():
    farthest = [max(AXES["offload_param"].index(s[name]) for name in STRATEGY[1:]) for s in strategies()]
    assert farthest == sorted(farthest)
    assert [s["stage"] for s in strategies()[:4]] == [0, 1, 2, 3]


@pytest.mark.parametrize("model", AXES["model"])
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
    """The choices over the axes that matter for which the one note with these words is shown."""
    (note,) = [each for each in notes() if words in each["text"]]
    axes = {name: AXES[name] for name in ("precision", "world_size", "accumulation", "model")}
    for choice in choices(**axes):
        yield choice, all(choice[axis] in values for axis, values in note["when"].items())


def test_the_note_on_one_rank_is_true():
    for choice, shown in noted("nobody to share with"):
        assert shown == (choice["world_size"] == 1 and choice["stage"] > 0)
        if shown and choice["offload_optimizer"] == choice["offload_param"] == "none" and choice["accumulation"] == 1:
            held = plan_of(run_of(choice)).held("at rest")
            alone = plan_of(run_of(choice | {"stage": 0})).held("at rest")
            states = ("parameters", "gradients", "master weights", "optimizer states")
            assert sum(held[role] for role in states) > 0.99 * sum(alone[role] for role in states)


def test_the_note_on_one_and_a_half_times_is_true():
    for choice, shown in noted("1.5 times"):
        times = plan_of(run_of(choice)).times_ddp
        if choice["stage"] in (1, 2) and choice["accumulation"] == 1:
            assert shown == (choice["world_size"] > 1)
            assert not shown or times == pytest.approx(1.5, rel=0.01)


def test_the_note_on_accumulation_is_true():
    for choice, shown in noted("after every micro-batch"):
        if choice["world_size"] == 1 or choice["accumulation"] == 1:
            assert not shown
            continue
        more = plan_of(run_of(choice)).sent_bytes > 1.01 * plan_of(run_of(choice | {"accumulation": 1})).sent_bytes
        assert more == shown, choice


def test_the_note_on_gathering_the_whole_model_is_true():
    for choice, shown in noted("releases nothing"):
        if choice["stage"] != 3 or choice["world_size"] == 1:
            assert not shown
            continue
        planned = plan_of(run_of(choice))
        shares = model_states.shares_of_number(planned.parameters, planned.settings)
        gathered = model_states.gathered_bytes(shares, planned.settings, on_gpu=True)
        whole = gathered == shares.parameters * planned.settings.parameter_bytes
        assert shown == whole, choice["model"]


def test_what_the_selector_cannot_show_is_one_sentence():
    from labsupport.widgets.selector.widget import checked_choice

    for wrong in (
        {"stages": 2},
        {"stage": 4},
        {"stage": True},
        {"world_size": 3},
        {"model": "8b"},
        {"checkpointing": 1},
    ):
        with pytest.raises(ConfigError, match=r"[:].*\.$"):
            checked_choice(wrong)
    with pytest.raises(ConfigError, match="stage 3"):
        checked_choice({"stage": 2, "offload_param": "cpu"})
