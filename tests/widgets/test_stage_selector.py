"""The stage selector in a real browser: three questions answered, verdicts, bounds, the built page."""

import itertools
import json
import random
import re

import pytest
from conftest import needs_book, needs_chromium
from selector_page import (  # noqa: F401
    START,
    cheapest_that_fits,
    choose,
    flattened,
    go_to,
    selector_address,
    selector_folder,
    selector_tab,
    shown_config,
    verdict,
)

from labsupport.machine.cards import CARDS
from labsupport.memory.room import ALLOWANCE_BYTES, fits, host_bytes_of_node, largest_model, loading_bytes_of_node
from labsupport.models import shape_named
from labsupport.palette import ROLE_COLOURS, contrast
from labsupport.shapes import config_of
from labsupport.widgets.selector.choices import (
    AXES,
    BOUNDS,
    DEFAULT,
    OWN,
    PARAMETERS,
    PRESETS,
    config_for,
    plan_of_choice,
    refusal,
    strategies,
)

pytestmark = [needs_chromium]
MOST_BYTES = 250_000


def test_it_weighs_little(folder):
    files = [folder / f"stage_selector{end}" for end in (".js", "_data.js", ".css")]
    assert sum(file.stat().st_size for file in files) < MOST_BYTES


# Three questions


@pytest.mark.parametrize("host_memory", [96, 128])
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
    assert any("host too small" in text for _, _, text in above) == (host_memory == 96)


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
    config = config_of(shape_named("llama-3.1-8b")) | {"num_hidden_layers": 5, "num_key_value_heads": 4}
    config |= {"vocab_size": 1000, "intermediate_size": 999, "tie_word_embeddings": True}
    planned = plan_of_choice(START | {"model": OWN, "config_json": config})
    total = page.locator(".memory .bar-total").nth(1).get_attribute("data-bytes")
    assert total == str(planned.peak_bytes)
    page.locator("[data-size=num_key_value_heads]").fill("3")
    assert "32 attention heads on 3 key heads" in page.locator(".refusal").inner_text()


def test_a_bare_number_of_parameters_is_planned(page):
    choose(page, model=PARAMETERS)
    page.locator("input[data-axis=parameters]").fill("7.5b")
    planned = plan_of_choice(START | {"model": PARAMETERS, "parameters": 7_500_000_000})
    assert page.locator(".memory .bar-total").nth(1).get_attribute("data-bytes") == str(planned.peak_bytes)
    assert "Model states and buffers alone" in page.locator(".verdict").inner_text()


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
    found = Axe().run(tab, options={"preload": False, "resultTypes": ["violations"]}).response["violations"]
    grave = [each for each in found if each["impact"] in ("serious", "critical")]
    assert [(each["id"], [node["html"][:120] for node in each["nodes"]]) for each in grave] == []
    assert tab.evaluate("document.documentElement.scrollWidth") <= 375
    small = tab.locator(".stage-selector :is(button, select, .segment, input):visible").evaluate_all(
        "all => all.map((each) => each.getBoundingClientRect()).filter((box) => box.height < 16).length"
    )
    assert small == 0
