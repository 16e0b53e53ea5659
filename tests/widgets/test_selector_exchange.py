"""What a reader brings to the stage selector and takes along: pasted files, links, commands, configs."""

import json
import re
import shlex

import pytest
from conftest import needs_chromium
from selector_page import (  # noqa: F401
    START,
    choose,
    flattened,
    go_to,
    selector_address,
    selector_folder,
    selector_tab,
    shown_config,
    verdict,
)

from labsupport.memory import report
from labsupport.models import shape_named
from labsupport.shapes import config_of
from labsupport.widgets.selector import widget as selector
from labsupport.widgets.selector.choices import (
    DEFAULT,
    OWN,
    PARAMETERS,
    PRESETS,
    config_for,
    plan_of_choice,
)
from labsupport.widgets.selector.runs import recorded_runs

pytestmark = [needs_chromium]


# What is pasted


def paste(page, text):
    box = page.locator("details.paste")
    if box.get_attribute("open") is None:
        box.locator("summary").click()
    box.locator("textarea").fill(text if isinstance(text, str) else json.dumps(text))
    box.get_by_role("button", name="Read it").click()
    return page.locator(".pasted-words").inner_text()


def test_a_pasted_config_json_becomes_the_model(page):
    config = config_of(shape_named("mistral-7b")) | {
        "torch_dtype": "bfloat16",
        "architectures": ["MistralForCausalLM"],
    }
    assert paste(page, config) == "Read as a mistral of 7.2 billion parameters."
    total = page.locator(".memory .bar-total").nth(1).get_attribute("data-bytes")
    assert total == str(plan_of_choice(START | {"model": "mistral-7b"}).peak_bytes)
    assert "it knows gpt2, llama" in paste(page, {"model_type": "t5"})
    assert paste(page, "{").startswith("This is not JSON")


def test_a_pasted_ds_config_is_read_and_what_is_not_used_is_named(page):
    zero = {"stage": 3, "offload_optimizer": {"device": "cpu"}, "stage3_max_live_parameters": 5_000_000}
    config = {
        "train_batch_size": 24,
        "train_micro_batch_size_per_gpu": 3,
        "fp16": {"enabled": True, "loss_scale": 0},
        "wall_clock_breakdown": True,
        "optimizer": {"type": "Adam", "params": {"lr": 1e-4}},
        "zero_optimization": zero | {"reduce_bucket_size": "auto", "round_robin_gradients": True},
    }
    said = paste(page, config)
    assert said == (
        'Read: stage 3, optimizer on the host, fp16. Left as the Trainer sets it ("auto"): reduce_bucket_size. '
        "Not used by the selector: zero_optimization.round_robin_gradients, fp16.loss_scale, wall_clock_breakdown, "
        "optimizer.params."
    )
    expected = START | {
        "stage": 3,
        "precision": "fp16",
        "offload_optimizer": "cpu",
        "micro_batch_size": 3,
        "accumulation": 4,
    }
    assert shown_config(page) == config_for(expected | {"sizes": {"stage3_max_live_parameters": 5_000_000}})
    assert "on 2 GPUs" in paste(page, config | {"train_batch_size": 25})


# What is taken along


def test_the_address_holds_the_choice_and_the_pinned_one(page):
    choose(page, model="7b", world_size=48, stage=3)
    page.get_by_role("button", name="Pin this choice").click()
    choose(page, precision="fp16", sequence_length=1000)
    address, config = page.evaluate("location.href"), shown_config(page)
    compared = page.locator(".compare tbody").inner_text()
    assert "fp16" in compared and "1000" in compared and "4096" in compared
    other = page.context.new_page()
    other.goto(address)
    other.locator(".stage-selector").wait_for()
    assert shown_config(other) == config and other.locator(".compare tbody").inner_text() == compared
    other.get_by_role("button", name="Go back to the pinned one").click()
    assert shown_config(other)["bf16"] == {"enabled": True}


@pytest.mark.parametrize(
    "hash", ["#choice:stage=9", "#choice:%%%", "#choice:model=own", "#choice:world_size=-1", "#a-heading"]
)
def test_an_address_that_holds_no_choice_changes_nothing(tab, address, hash):
    tab.goto(f"{address}{hash}")
    tab.locator(".stage-selector").wait_for()
    assert shown_config(tab) == config_for(START)


def exported(page, label):
    block = page.locator("details.export", has=page.locator("summary", has_text=label))
    if block.get_attribute("open") is None:
        block.locator("summary").click()
    return block.locator("code").inner_text()


def test_the_exported_command_gives_the_same_figures(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for choice in (
        {"model": "7b", "world_size": 12, "stage": 3, "offload_optimizer": "cpu", "checkpointing": True},
        {"model": "llama-3.1-8b", "liger": True, "stage": 2, "host_memory": 500, "sequence_length": 3000},
        {"model": OWN, "stage": 1},
        {"model": PARAMETERS, "parameters": 123_456_789, "stage": 2, "precision": "fp16"},
    ):
        own = {"config_json": config_of(PRESETS["10m"])} if choice["model"] == OWN else {}
        go_to(page, DEFAULT | choice | own)
        (tmp_path / "ds_config.json").write_text(page.locator(".config code").inner_text())
        if choice["model"] == OWN:
            (tmp_path / "config.json").write_text(exported(page, "The model's config.json"))
        words = shlex.split(exported(page, "on the command line").replace("\\\n", " "))
        assert words[:3] == ["python", "-m", "labsupport.memory"]
        said = json.loads(report.report(report.parse([*words[3:], "--json"])))
        peak = page.locator(".memory .bar-total").nth(1).get_attribute("data-bytes")
        assert str(sum(said["predicted_bytes"]["peak"]["GPU"].values())) == peak
        assert said["fits"] == {"RTX 4090": verdict(page) != "Does not fit."}


def test_the_launch_command_names_the_nodes(page):
    choose(page, world_size=20, gpus_per_node=8)
    text = exported(page, "What starts the ranks")
    assert re.findall(r"slots=(\d+)", text) == ["8", "8", "4"] and "--hostfile" in text
    choose(page, world_size=4)
    assert exported(page, "What starts the ranks").startswith("deepspeed --num_gpus 4 ")


def test_the_trainers_arguments_agree_with_the_config(page):
    from transformers import TrainingArguments
    from transformers.integrations.deepspeed import HfTrainerDeepSpeedConfig

    choose(page, stage=2, accumulation=3, micro_batch_size=2, checkpointing=True)
    made = {}
    code = exported(page, "Hugging Face Trainer").replace("from transformers import TrainingArguments\n", "")
    exec(code, {"TrainingArguments": lambda **given: made.update(given)})
    given = {name: value for name, value in made.items() if name not in ("deepspeed", "output_dir", "bf16")}
    arguments = TrainingArguments(output_dir="unused", use_cpu=True, **given)
    arguments.bf16 = made["bf16"]  # a machine without a GPU does not take it
    assert arguments.activation_checkpointing
    for more, disagreeing in ((0, ""), (1, "gradient_accumulation_steps")):
        arguments.gradient_accumulation_steps += more
        read = HfTrainerDeepSpeedConfig(shown_config(page))
        read.trainer_config_process(arguments)
        assert bool(read.mismatches) == bool(more) and disagreeing in "".join(read.mismatches)


def test_the_download_is_the_config(page):
    choose(page, stage=3)
    with page.expect_download() as started:
        page.locator(".config .download").click()
    assert started.value.suggested_filename == "ds_config.json"
    text = started.value.path().read_text()
    assert json.loads(text) == shown_config(page) and json.loads(text)["zero_optimization"]["stage"] == 3
    command = 'python -m labsupport.doctor ds_config.json --world-size 2 --gpu "RTX 4090"'
    assert page.locator(".doctor code").inner_text() == command


def test_the_lines_that_a_choice_changes_are_marked(page):
    choose(page, stage=3)
    before = flattened(shown_config(page))
    choose(page, offload_optimizer="cpu")
    after = flattened(shown_config(page))
    marked = {re.search(r'"(\w+)"', text)[1] for text in page.locator(".config mark").all_inner_texts() if '"' in text}
    assert marked == {path.split(".")[-1] for path in after if before.get(path, object) != after[path]} | {
        "offload_optimizer"
    }
    choose(page, offload_optimizer="none")
    assert "It removed zero_optimization.offload_optimizer" in page.locator(".config [role=status]").inner_text()


def test_sizes_in_words(page):
    page.add_script_tag(content=selector.SCRIPT.rpartition("export default")[0])
    words = {0: "0 B", 999: "999 B", 1024: "1.00 KiB", 24 * 2**30: "24.0 GiB", 2**40: "1.00 TiB",
             1023 * 1024: "1.00 MiB", 15360 * 2**20: "15.0 GiB", 143771 * 2**20: "140 GiB"}  # fmt: skip
    assert {size: page.evaluate(f"inBytes({size})") for size in words} == words
    assert page.evaluate("['7.5e9', '70B', '1,024', '', 'x'].map(numberIn)") == [
        7.5e9,
        70e9,
        1024,
        None,
        pytest.approx(float("nan"), nan_ok=True),
    ]


def test_a_recorded_run_stands_where_there_is_one(page):
    run = next(
        run for run in recorded_runs()["runs"] if run["choice"]["stage"] == 2 and run["choice"]["world_size"] == 2
    )
    choose(page, **{axis: value for axis, value in run["choice"].items() if not axis.startswith("offload")})
    measured = page.locator(".run .role-bar", has_text="measured").locator(".bar-total")
    shown = [int(each.get_attribute("data-bytes")) for each in measured.all()]
    assert shown == [sum(held.values()) for held in run["measured"].values()]
    assert page.locator(".run .loss-chart polyline.strong").count() == 1
    choose(page, model="7b")
    assert page.locator(".run .loss-chart").count() == 0
    assert "None was recorded" in page.locator(".run").inner_text()
