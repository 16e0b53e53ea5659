"""The stage selector's module in a real browser: its arithmetic against `plan`, its controls, the built page."""

import itertools
import json
import math
import random
import re

import pytest
from conftest import needs_book, needs_chromium, press

from labsupport.machine.cards import card
from labsupport.memory.planner import plan_of
from labsupport.memory.roles import ROLES
from labsupport.memory.room import ALLOWANCE_BYTES, fits
from labsupport.palette import ROLE_COLOURS, contrast
from labsupport.widgets.selector import widget as selector
from labsupport.widgets.selector.runs import recorded_runs
from labsupport.widgets.selector.table import AXES, DEFAULT, config_for, refusal, run_of, stage_table, strategies

pytestmark = [needs_chromium]
FUNCTIONS = (
    "lookUp, ladder, nextToTry, configOf, configLines, comparedLines, inBytes, refusalOf, notesFor, strategyInWords"
)


@pytest.fixture(scope="module")
def arithmetic(browser):
    """A page on which the module's own functions are there under window.selector, and the table as window.table."""
    page = browser.new_page()
    source = f"{selector.SCRIPT}\nexport {{ {FUNCTIONS} }};"
    page.evaluate(
        """async ([source, table]) => {
            const address = URL.createObjectURL(new Blob([source], {type: "text/javascript"}));
            window.selector = await import(address);
            window.table = JSON.parse(table);
        }""",
        [source, json.dumps(stage_table())],
    )
    yield page
    page.close()


@pytest.mark.parametrize("model", AXES["model"])
def test_the_whole_grid_is_what_plan_says(arithmetic, model):
    names = ("precision", "world_size", "micro_batch_size", "accumulation", "checkpointing")
    found = arithmetic.evaluate(
        """([model, names, start]) => {
            const result = [];
            const values = names.map((name) => table.axes[name]);
            const walk = (choice, axis) => {
                if (axis < names.length) {
                    return values[axis].forEach((value) => walk({...choice, [names[axis]]: value}, axis + 1));
                }
                const f = selector.lookUp(table, choice);
                result.push([f.peakBytes, f.peakPhase, f.hostBytes, f.nvmeBytes, f.sentBytes, f.timesDdp, f.peak,
                             f.atRest, f.fits]);
            };
            for (const strategy of table.strategies) walk({...start, model, ...strategy}, 0);
            return JSON.stringify(result);
        }""",
        [model, names, DEFAULT],
    )
    grid = itertools.product(strategies(), *(AXES[name] for name in names))
    memory = card(DEFAULT["card"]).memory_bytes
    for (strategy, *values), shown in zip(grid, json.loads(found), strict=True):
        expected = plan_of(run_of(DEFAULT | strategy | {"model": model} | dict(zip(names, values, strict=True))))
        peak, rest = expected.moments["peak"], expected.moments["at rest"]
        assert shown[:4] == [
            expected.peak_bytes,
            expected.peak_phase,
            expected.host_bytes("at rest"),
            expected.place_bytes("at rest", "NVMe"),
        ], (strategy, values)
        assert math.isclose(shown[4], expected.sent_bytes, rel_tol=1e-6, abs_tol=1)
        assert math.isclose(shown[5], expected.times_ddp, rel_tol=1e-4)
        assert shown[6] == [peak["GPU"].get(role, 0) for role in ROLES]
        assert shown[7] == [rest["GPU"].get(role, 0) for role in ROLES]
        assert shown[8] == (expected.peak_bytes + ALLOWANCE_BYTES <= memory)


def some_choices(count):
    chosen = random.Random(0)
    for _ in range(count):
        choice = {axis: chosen.choice(values) for axis, values in AXES.items()}
        yield choice | chosen.choice(strategies())


def test_the_next_thing_to_try_is_the_cheapest_that_fits(arithmetic):
    for choice in some_choices(150):
        advice = arithmetic.evaluate("(choice) => selector.nextToTry(table, choice)?.choice ?? null", choice)
        assert advice == cheapest_that_fits(choice), choice


def cheapest_that_fits(choice):
    """The same answer worked out with `plan` and `fits` alone."""
    changes = [{}, {"micro_batch_size": 1}]
    changes += [changes[-1] | {"world_size": ranks} for ranks in AXES["world_size"] if ranks > choice["world_size"]]
    places = [["none"], ["none", "cpu"], ["none", "cpu", "nvme"]]
    for change, allowed, checkpointing, strategy in itertools.product(changes, places, [False, True], strategies()):
        other = choice | change | strategy | {"checkpointing": checkpointing}
        inside = other["offload_optimizer"] in allowed and other["offload_param"] in allowed
        if inside and fits(plan_of(run_of(other)), other["card"]):
            return other
    return None


def test_the_config_and_its_marks_are_right(arithmetic):
    for choice, other in zip(some_choices(30), some_choices(60), strict=False):
        new, old = config_for(choice), config_for(other)
        compare = (
            "([choice, other]) => selector.comparedLines(...[choice, other].map((c) => selector.configOf(table, c)))"
        )
        shown = arithmetic.evaluate(compare, [choice, other])
        text = "\n".join(line["text"] for line in shown["lines"])
        assert json.loads(text) == new and list(json.loads(text)) == list(new)
        flat, before = flattened(new), flattened(old)
        marked = {line["path"] for line in shown["lines"] if line["changed"] and line["value"] not in ("{", "}")}
        assert marked == {f".{path}" for path, value in flat.items() if before.get(path, object) != value}
        removed = set(shown["removed"])
        assert removed >= before.keys() - flat.keys() and not removed & flat.keys()


def flattened(block, path=""):
    result = {}
    for key, value in block.items():
        result |= flattened(value, f"{path}{key}.") if isinstance(value, dict) else {f"{path}{key}": value}
    return result


def test_sizes_in_words(arithmetic):
    words = {0: "0 B", 999: "999 B", 1024: "1.00 KiB", 24 * 2**30: "24.0 GiB", 2**40: "1.00 TiB",
             1023 * 1024: "1.00 MiB", 15360 * 2**20: "15.0 GiB", 143771 * 2**20: "140 GiB"}  # fmt: skip
    assert {size: arithmetic.evaluate(f"selector.inBytes({size})") for size in words} == words


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


# The built page


@pytest.fixture
def page(tab, site):
    tab.goto(f"{site}/book/selector.html")
    tab.locator(".stage-selector").wait_for()
    return tab


def choose(page, axis, value):
    control = page.locator(f"[data-axis={axis}]").first
    if control.evaluate("node => node.tagName") == "SELECT":
        control.select_option(index=AXES[axis].index(value))
    else:  # a refused value is there to be clicked, and says why
        press(control.locator("input").nth(AXES[axis].index(value)))


@needs_book
def test_the_page_shows_what_plan_says_for_each_choice(page):
    choice = DEFAULT | {"model": "1.3b", "card": "A100-80GB", "world_size": 2, "micro_batch_size": 1}
    for axis in ("model", "card", "world_size", "micro_batch_size"):
        choose(page, axis, choice[axis])
    for stage, optimizer, parameters, world_size in itertools.product(
        range(4), *[["none", "cpu", "nvme"]] * 2, [1, 4, 64]
    ):
        wanted = choice | {"stage": stage, "world_size": world_size}
        wanted |= {"offload_optimizer": optimizer, "offload_param": parameters}
        if world_size != 4 and (optimizer, parameters) != ("none", "none"):
            continue
        for axis, value in (("offload_param", "none"), ("offload_optimizer", "none"), ("stage", stage),
                            ("world_size", world_size), ("offload_optimizer", optimizer)):  # fmt: skip
            choose(page, axis, value)
        choose(page, "offload_param", parameters)
        sentence = refusal(wanted)
        if sentence:
            assert page.locator(".refusal").inner_text() != ""
            assert refusal(wanted | {"offload_optimizer": "none"}) or refusal(wanted | {"offload_param": "none"})
            continue
        assert page.locator(".refusal").inner_text() == ""
        expected = plan_of(run_of(wanted))
        totals = [int(each.get_attribute("data-bytes")) for each in page.locator(".memory .bar-total").all()]
        assert totals == [expected.place_bytes("at rest", "GPU"), expected.peak_bytes], wanted
        shown = float(page.locator(".sent-words").get_attribute("data-times-ddp"))
        assert shown == pytest.approx(expected.times_ddp, rel=1e-5)
        assert json.loads(page.locator(".config code").inner_text()) == config_for(wanted)
        said = page.locator(".verdict strong").inner_text()
        assert said == ("Fits." if fits(expected, wanted["card"]) else "Does not fit.")


@needs_book
def test_a_refused_choice_is_not_made_and_says_why(page):
    choose(page, "stage", 2)
    choose(page, "offload_param", "cpu")
    said = page.locator(".refusal").inner_text()
    assert said == refusal(DEFAULT | {"stage": 2, "offload_param": "cpu"})
    assert page.locator("[data-axis=offload_param] input").nth(0).is_checked()


@needs_book
def test_the_cheapest_7b_on_four_24_gb_cards_is_found_by_keyboard_alone(page):
    wanted = {"model": "7b", "card": "RTX 4090", "world_size": 4, "micro_batch_size": 1}
    for axis, value in wanted.items():
        control = page.locator(f"select[data-axis={axis}]")
        control.focus()
        while int(control.input_value()) != AXES[axis].index(value):
            page.keyboard.press("ArrowDown" if int(control.input_value()) < AXES[axis].index(value) else "ArrowUp")
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.textContent") == "Choose it":
            break
    page.keyboard.press("Enter")
    expected = cheapest_that_fits(DEFAULT | wanted)
    assert page.locator(".verdict strong").inner_text() == "Fits."
    assert json.loads(page.locator(".config code").inner_text()) == config_for(expected)
    assert page.locator(".ladder tr[aria-current=true] .peak").get_attribute("data-bytes") == str(
        plan_of(run_of(expected)).peak_bytes
    )
    stage = page.locator("[data-axis=stage] input").first
    stage.focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("[data-axis=stage] input").nth(1).is_checked()
    page.locator(".config .copy").focus()
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.keyboard.press("Enter")
    page.locator(".config .quiet", has_text="Copied.").wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == page.locator(".config code").inner_text().rstrip("\n")


@needs_book
def test_the_download_is_the_config(page):
    choose(page, "stage", 3)
    with page.expect_download() as started:
        page.locator(".config .download").click()
    assert started.value.suggested_filename == "ds_config.json"
    text = started.value.path().read_text()
    assert json.loads(text) == json.loads(page.locator(".config code").inner_text())
    assert json.loads(text)["zero_optimization"]["stage"] == 3
    command = f'python -m labsupport.doctor ds_config.json --world-size {DEFAULT["world_size"]} --gpu "RTX 4090"'
    assert page.locator(".doctor code").inner_text() == command


@needs_book
def test_a_recorded_run_stands_where_there_is_one(page):
    runs = recorded_runs()["runs"]
    run = next(run for run in runs if run["choice"]["stage"] == 2 and run["choice"]["world_size"] == 2)
    for axis, value in run["choice"].items():
        choose(page, axis, value)
    measured = page.locator(".run .role-bar", has_text="measured").locator(".bar-total")
    shown = [int(each.get_attribute("data-bytes")) for each in measured.all()]
    assert shown == [sum(held.values()) for held in run["measured"].values()]
    assert page.locator(".run .loss-chart polyline.strong").count() == 1
    choose(page, "model", "7b")
    assert page.locator(".run .loss-chart").count() == 0
    assert "None was recorded" in page.locator(".run").inner_text()
