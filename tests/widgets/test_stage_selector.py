"""The stage selector's page in a real browser: three questions answered, controls, links, exports, the built page."""

import itertools
import json
import random
import re
import shlex
import sys

import pytest
from conftest import ROOT, needs_book, needs_chromium, press

from labsupport.machine.cards import CARDS
from labsupport.memory import report
from labsupport.memory.room import ALLOWANCE_BYTES, fits, host_bytes_of_node, largest_model, loading_bytes_of_node
from labsupport.palette import ROLE_COLOURS, contrast
from labsupport.shapes import config_of
from labsupport.widgets.base import page_form
from labsupport.widgets.selector import widget as selector
from labsupport.widgets.selector.choices import (
    AXES,
    BOUNDS,
    DEFAULT,
    OWN,
    PARAMETERS,
    PRESETS,
    checked_choice,
    config_for,
    farthest,
    plan_of_choice,
    refusal,
    sequence_length_of,
    strategies,
)
from labsupport.widgets.selector.runs import recorded_runs

sys.path.insert(0, str(ROOT / "benchmarks"))
import page_weight

pytestmark = [needs_chromium]
START = DEFAULT | {"model": "1.3b", "world_size": 2, "micro_batch_size": 1}
MOST_BYTES = 250_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The selector on a page of its own: the book's scripts, and nothing of the book."""
    sys.path.insert(0, str(ROOT / "book" / "_extensions"))
    from course.widgets import classic_script

    folder = tmp_path_factory.mktemp("selector")
    state = json.dumps(selector.page_state(), separators=(",", ":"))
    files = {
        "stage_selector.js": classic_script("stage_selector", selector.SCRIPT),
        "stage_selector_data.js": f"(window.labWidgetStates ??= {{}}).stage_selector = {state};\n",
        "stage_selector.css": selector.STYLE,
        "widgets.js": (ROOT / "book" / "_static" / "widgets.js").read_text(encoding="utf-8"),
        "page.html": '<!doctype html><html lang="en"><meta charset="utf-8"><title>Selector</title>'
        '<link rel="stylesheet" href="stage_selector.css"><link rel="icon" href="data:,">'
        '<script src="widgets.js"></script>' + page_form("stage_selector", {"choice": START}, ""),
    }
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def address(folder):
    """Where that page is served."""
    with page_weight.served(folder) as address:
        yield f"{address}/page.html"


@pytest.fixture
def page(tab, address):
    tab.goto(address)
    tab.locator(".stage-selector").wait_for()
    return tab


def choose(page, **values):
    """Make choices as a reader does: in a list, with a button, as a number that is typed."""
    for axis, value in values.items():
        control = page.locator(f"[data-axis={axis}]").first
        kind = control.evaluate("node => node.tagName")
        if kind == "SELECT":
            control.select_option(value)
        elif kind == "INPUT":
            control.fill("" if value is None else str(value))
        else:  # a refused value is there to be clicked, and says why
            press(control.locator("input").nth(AXES[axis].index(value)))


def shown_config(page):
    return json.loads(page.locator(".config code").inner_text())


def verdict(page):
    return page.locator(".verdict strong").inner_text()


def test_it_weighs_little(folder):
    files = [folder / f"stage_selector{end}" for end in (".js", "_data.js", ".css")]
    assert sum(file.stat().st_size for file in files) < MOST_BYTES


# Three questions


def cheapest_that_fits(choice):
    """The first way that fits the cards and their hosts, worked out with `plan` alone."""
    for far, checkpointing, strategy in itertools.product((0, 1, 2), (False, True), strategies()):
        other = choice | strategy | {"checkpointing": checkpointing}
        planned = plan_of_choice(other)
        ranks = min(choice["world_size"], choice["gpus_per_node"])
        room = host_bytes_of_node(planned, ranks) <= choice["host_memory"] * 1e9
        if farthest(strategy) == far and room and fits(planned, choice["card"]):
            return other
    return None


@pytest.mark.parametrize("host_memory", [64, 128])
def test_the_cheapest_for_7b_on_four_cards_of_24_gb_and_why(page, host_memory):
    wanted = {"model": "7b", "card": "RTX 4090", "world_size": 4, "micro_batch_size": 1, "host_memory": host_memory}
    choose(page, **wanted)
    assert verdict(page) == "Does not fit."
    expected = cheapest_that_fits(DEFAULT | wanted)
    page.get_by_role("button", name="Choose it").click()
    assert verdict(page).startswith("Fits") and shown_config(page) == config_for(expected)
    assert expected["offload_optimizer"] == ("cpu" if host_memory == 128 else "nvme")
    current = page.locator(".ladder tr[aria-current=true]")
    planned = plan_of_choice(expected)
    assert current.locator(".peak").get_attribute("data-bytes") == str(planned.peak_bytes)
    assert current.locator(".host").get_attribute("data-bytes") == str(host_bytes_of_node(planned, 4))
    # Why: no row above it fits, and each says what it holds most of, or that the host is too small.
    rows = page.locator(".ladder tbody tr")
    before = rows.evaluate_all("rows => rows.map((row) => [row.className, row.ariaCurrent, row.innerText])")
    above = list(itertools.takewhile(lambda row: row[1] != "true", before))
    assert len(above) > 8 and all(kind in ("no", "host") for kind, _, _ in above)
    assert any("host too small" in text for _, _, text in above) == (host_memory == 64)


def test_the_largest_model_on_one_card_of_24_gb_and_how(page):
    choose(page, model="7b", card="RTX 4090", world_size=1, micro_batch_size=1, host_memory=1000, stage=1)
    choose(page, offload_optimizer="cpu", checkpointing=True)
    page.locator(".limits [role=status]", has_text="host of 1,000 GB").wait_for()
    choice = DEFAULT | {"model": "7b", "world_size": 1, "micro_batch_size": 1, "stage": 1, "offload_optimizer": "cpu"}
    largest = largest_model("RTX 4090", "7b", config=config_for(choice), activation_checkpointing=True)
    cell = page.locator(".limits tr", has_text="this choice").locator(".largest-model")
    assert cell.get_attribute("data-parameters") == str(largest.parameters)
    # The host's memory counts as well: with less of it the answer is a smaller model, and the row says by which way.
    with_host = page.locator(".limits tr", has_text="with the host").locator(".largest-model")
    large = int(with_host.get_attribute("data-parameters"))
    choose(page, host_memory=64)
    page.locator(".limits [role=status]", has_text="host of 64 GB").wait_for()
    small = int(with_host.get_attribute("data-parameters"))
    assert small < 5e9 < 10e9 < large and "on the host" in with_host.inner_text()
    with_host.get_by_role("button").click()
    assert verdict(page).startswith("Fits")
    assert page.locator("[data-axis=model]").input_value() == OWN


def test_70b_on_eight_cards_of_80_gb(page):
    choose(page, model="llama-2-70b", card="H100", world_size=8, micro_batch_size=1, host_memory=2000)
    assert verdict(page) == "Does not fit."
    page.locator(".limits [role=status]", has_text="host of 2,000 GB").wait_for()
    fewest = page.locator(".limits tr", has_text="all on the GPU").locator(".fewest-cards").inner_text()
    expected = DEFAULT | {
        "model": "llama-2-70b",
        "card": "H100",
        "micro_batch_size": 1,
        "stage": 3,
        "checkpointing": True,
    }
    alone = next(n for n in range(1, 65) if fits(plan_of_choice(expected | {"world_size": n}), "H100"))
    assert fewest.startswith(f"{alone} cards stage 3")
    page.get_by_role("button", name="Choose it").click()
    assert verdict(page).startswith("Fits") and shown_config(page)["zero_optimization"]["offload_optimizer"]
    said = page.locator(".verdict-host").inner_text()
    planned = plan_of_choice(expected | {"world_size": 8, "stage": shown_config(page)["zero_optimization"]["stage"]})
    assert f"{loading_bytes_of_node(planned, 8) / 1e9:,.0f} GB" in said


# Verdicts, refusals, controls


def test_a_host_that_is_too_small_is_a_verdict_of_its_own(page):
    choose(page, model="7b", world_size=4, stage=2, offload_optimizer="cpu", checkpointing=True, host_memory=64)
    assert verdict(page) == "Fits the GPU, not a host of 64 GB."
    planned = plan_of_choice(
        START | {"model": "7b", "world_size": 4, "stage": 2, "offload_optimizer": "cpu", "checkpointing": True}
    )
    assert (
        f"{host_bytes_of_node(planned, 4) / 1e9:.0f} GB when a step peaks" in page.locator(".verdict-host").inner_text()
    )
    choose(page, gpus_per_node=1)
    assert verdict(page) == "Fits."


def some_choices(count):
    dice = random.Random(3)
    for _ in range(count):
        choice = START | dice.choice(strategies())
        choice |= {axis: dice.choice(AXES[axis]) for axis in ("precision", "checkpointing", "card")}
        choice |= {"model": dice.choice(["1m", "7b", "llama-3.1-8b", "qwen3-30b-a3b"])}
        choice |= {"accumulation": dice.randint(1, 4), "world_size": dice.randint(1, 2000)}
        yield choice | {"micro_batch_size": dice.randint(1, 9), "host_memory": 10 ** dice.randint(1, 4)}


def go_to(page, choice):
    """Open the page at a choice, as a link does."""
    page.evaluate(
        """(choice) => {
          const text = (value) => (typeof value === "object" ? JSON.stringify(value) : String(value));
          const parts = Object.entries(choice).map(([name, value]) => [name, text(value)]);
          location.hash = "#choice:" + new URLSearchParams(Object.fromEntries(parts));
          return new Promise((done) => setTimeout(done));
        }""",
        {name: value for name, value in choice.items() if value != DEFAULT[name]},
    )


def test_the_page_shows_what_plan_says(page):
    for choice in some_choices(40):
        go_to(page, choice)
        planned = plan_of_choice(choice)
        bars = page.locator(".memory .bar-total").evaluate_all(
            "all => all.slice(0, 2).map((bar) => +bar.dataset.bytes)"
        )
        assert bars == [planned.place_bytes("at rest", "GPU"), planned.peak_bytes], choice
        shown = float(page.locator(".sent-words").get_attribute("data-times-ddp"))
        assert shown == pytest.approx(planned.times_ddp, rel=1e-9)
        assert shown_config(page) == config_for(choice)
        on_card = planned.peak_bytes + ALLOWANCE_BYTES <= CARDS[choice["card"]].memory_bytes
        on_host = host_bytes_of_node(planned, min(8, choice["world_size"])) <= choice["host_memory"] * 1e9
        expected = ("Fits" if on_host else "Fits the GPU, not a host") if on_card else "Does not fit."
        assert re.match(f"{expected}([.,]| of)|{expected}$", verdict(page)), (choice, verdict(page))


def test_a_refused_choice_is_not_made_and_says_why(page):
    choose(page, stage=2, offload_param="cpu")
    assert page.locator(".refusal").inner_text() == refusal(DEFAULT | {"stage": 2, "offload_param": "cpu"})
    assert page.locator("[data-axis=offload_param] input").nth(0).is_checked()


@pytest.mark.parametrize("axis", ["world_size", "micro_batch_size", "accumulation", "host_memory", "gpus_per_node"])
def test_a_number_out_of_its_bounds_is_one_sentence_and_is_taken_back(page, axis):
    number, before = page.locator(f"input[data-axis={axis}]"), shown_config(page)
    for wrong in ("0", str(BOUNDS[axis][1] + 1), ""):
        number.fill(wrong)
        assert re.fullmatch(r"[^.]*: give a (whole )?number from 1 to [\d,]+\.", page.locator(".refusal").inner_text())
        assert number.get_attribute("aria-invalid") == "true" and shown_config(page) == before
    number.blur()
    assert number.input_value() == str(START[axis]) and page.locator(".refusal").inner_text() == ""


def test_a_sample_that_is_too_long_names_what_the_model_reads(page):
    choose(page, sequence_length=2049)
    assert "at most 2048" in page.locator(".refusal").inner_text()
    choose(page, sequence_length=1024, model="1m")  # a model that reads less takes its usual length
    assert page.locator(".refusal").inner_text() == ""
    assert page.locator("[data-axis=sequence_length]").input_value() == ""


def test_a_shape_of_ones_own_is_planned_as_python_plans_it(page):
    choose(page, model="llama-3.1-8b")
    choose(page, model=OWN)
    for size, value in {
        "num_hidden_layers": 5,
        "num_key_value_heads": 4,
        "vocab_size": 1000,
        "intermediate_size": 999,
    }.items():
        page.locator(f"[data-size={size}]").fill(str(value))
    page.get_by_label("The output layer is the embedding").check()
    config = config_of(selector_shape("llama-3.1-8b")) | {"num_hidden_layers": 5, "num_key_value_heads": 4}
    config |= {"vocab_size": 1000, "intermediate_size": 999, "tie_word_embeddings": True}
    planned = plan_of_choice(START | {"model": OWN, "config_json": config})
    total = page.locator(".memory .bar-total").nth(1).get_attribute("data-bytes")
    assert total == str(planned.peak_bytes)
    page.locator("[data-size=num_key_value_heads]").fill("3")
    assert "32 attention heads on 3 key heads" in page.locator(".refusal").inner_text()


def selector_shape(name):
    from labsupport.models import shape_named

    return shape_named(name)


def test_a_bare_number_of_parameters_is_planned(page):
    choose(page, model=PARAMETERS)
    page.locator("input[data-axis=parameters]").fill("7.5b")
    planned = plan_of_choice(START | {"model": PARAMETERS, "parameters": 7_500_000_000})
    assert page.locator(".memory .bar-total").nth(1).get_attribute("data-bytes") == str(planned.peak_bytes)
    assert "Model states and buffers alone" in page.locator(".verdict").inner_text()


# What is pasted


def paste(page, text):
    box = page.locator("details.paste")
    if box.get_attribute("open") is None:
        box.locator("summary").click()
    box.locator("textarea").fill(text if isinstance(text, str) else json.dumps(text))
    box.get_by_role("button", name="Read it").click()
    return page.locator(".pasted-words").inner_text()


def test_a_pasted_config_json_becomes_the_model(page):
    config = config_of(selector_shape("mistral-7b")) | {
        "torch_dtype": "bfloat16",
        "architectures": ["MistralForCausalLM"],
    }
    assert paste(page, config) == "Read as a mistral of 7.2 billion parameters."
    total = page.locator(".memory .bar-total").nth(1).get_attribute("data-bytes")
    assert total == str(plan_of_choice(START | {"model": "mistral-7b"}).peak_bytes)
    assert "it knows gpt2, llama" in paste(page, {"model_type": "t5"})
    assert paste(page, "{").startswith("This is not JSON")


def test_a_pasted_ds_config_is_read_and_what_is_not_used_is_named(page):
    config = {
        "train_batch_size": 24, "train_micro_batch_size_per_gpu": 3, "fp16": {"enabled": True, "loss_scale": 0},
        "wall_clock_breakdown": True, "optimizer": {"type": "Adam", "params": {"lr": 1e-4}},
        "zero_optimization": {"stage": 3, "offload_optimizer": {"device": "cpu"}, "stage3_max_live_parameters": 5_000_000,
                              "reduce_bucket_size": "auto", "round_robin_gradients": True},
    }  # fmt: skip
    said = paste(page, config)
    assert said == (
        'Read: stage 3, optimizer on the host, fp16. Left as the Trainer sets it ("auto"): reduce_bucket_size. '
        "Not used by the selector: zero_optimization.round_robin_gradients, fp16.loss_scale, wall_clock_breakdown, optimizer.params."
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
    address, config = page.url, shown_config(page)
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


def flattened(block, path=""):
    result = {}
    for key, value in block.items():
        result |= flattened(value, f"{path}{key}.") if isinstance(value, dict) else {f"{path}{key}": value}
    return result


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


# The built page

TRACK_AND_EDGE = """(parts) => parts.filter((part) => part.getBoundingClientRect().width > 3).map((part) => {
  const edge = getComputedStyle(part).boxShadow.match(/rgb\\(\\d+, \\d+, \\d+\\)/)[0];
  return [part.className, edge, getComputedStyle(part.parentElement).backgroundColor,
          getComputedStyle(part).backgroundColor, getComputedStyle(part).backgroundImage];
})"""


def as_hex(colour):
    return "#" + "".join(f"{int(part):02x}" for part in re.findall(r"\d+", colour)[:3])


@needs_book
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_bar_has_its_roles_colours_and_an_edge_that_shows(tab, site, scheme):
    tab.emulate_media(color_scheme=scheme)
    tab.goto(f"{site}/book/selector.html")
    tab.locator(".stage-selector").wait_for()
    parts = tab.locator(".bar-track > .role").evaluate_all(TRACK_AND_EDGE)
    assert len(parts) > 6
    for name, edge, track, fill, hatching in parts:
        role = re.search(r"role-([\w-]+)", name)[1].replace("-", " ")
        assert contrast(as_hex(edge), as_hex(track)) >= 3, (name, edge, track)
        assert as_hex(fill) == ROLE_COLOURS[role].lower()
        assert ("gradient" in hatching) == ("predicted" in name)


@needs_book
def test_the_built_page_is_operated_by_keyboard_alone(tab, site):
    tab.goto(f"{site}/book/selector.html")
    tab.locator(".stage-selector").wait_for()
    tab.locator("select[data-axis=model]").focus()
    tab.keyboard.type("7b")
    tab.locator("input[data-axis=world_size]").focus()
    tab.keyboard.press("ArrowUp")
    tab.keyboard.press("ArrowUp")
    tab.locator("input[data-axis=host_memory]").focus()
    tab.keyboard.press("Control+a")
    tab.keyboard.type("128")
    for _ in range(60):
        tab.keyboard.press("Tab")
        if tab.evaluate("document.activeElement.textContent") == "Choose it":
            break
    tab.keyboard.press("Enter")
    assert verdict(tab).startswith("Fits")
    wanted = {"model": "7b", "world_size": 4, "micro_batch_size": 1, "host_memory": 128}
    assert shown_config(tab) == config_for(cheapest_that_fits(DEFAULT | wanted))
    tab.locator("[data-axis=stage] input").nth(2).focus()
    tab.keyboard.press("ArrowRight")
    assert tab.locator("[data-axis=stage] input").nth(3).is_checked()
    tab.locator(".config .copy").focus()
    tab.context.grant_permissions(["clipboard-read", "clipboard-write"])
    tab.keyboard.press("Enter")
    tab.locator(".config .quiet", has_text="Copied.").wait_for()
    assert tab.evaluate("navigator.clipboard.readText()") == tab.locator(".config code").inner_text().rstrip("\n")


@needs_book
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_whoever_listens_and_whoever_has_a_phone_gets_the_same(tab, site, scheme):
    from axe_playwright_python.sync_playwright import Axe

    tab.set_viewport_size({"width": 375, "height": 800})
    tab.emulate_media(color_scheme=scheme)
    tab.goto(f"{site}/book/selector.html#choice:model=own&config_json={json.dumps(config_of(PRESETS['1m']))}&stage=3")
    tab.locator(".stage-selector").wait_for()
    tab.get_by_role("button", name="Pin this choice").click()
    for details in tab.locator(".stage-selector details").all():
        details.evaluate("node => { node.open = true }")
    found = Axe().run(tab, context=".stage-selector").response["violations"]
    assert [(each["id"], [node["html"][:120] for node in each["nodes"]]) for each in found] == []
    assert tab.evaluate("document.documentElement.scrollWidth") <= 375
    small = tab.locator(".stage-selector :is(button, select, .segment, input):visible").evaluate_all(
        "all => all.map((each) => each.getBoundingClientRect()).filter((box) => box.height < 16).length"
    )
    assert small == 0


def test_the_choices_of_these_tests_are_choices():
    assert checked_choice(START) == START and sequence_length_of(START) == 2048
