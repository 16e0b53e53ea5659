"""The picture of a recorded training step in a real browser: its numbers and bars against the record, its controls."""

import json
import re

import pytest
from conftest import needs_chromium
from recorded_frames import RECORD, RECORDED, name, unfold

from labsupport.measure.blocks import BLOCKS, ROLES
from labsupport.palette import ROLE_COLOURS, contrast
from labsupport.widgets.step_through.widget import SCRIPT, STYLE

pytestmark = [needs_chromium]


def shown(tab, record=RECORD, stage=0):
    """Put the picture on an empty page, as widgets.js does, and return it."""
    tab.set_content(
        "<!doctype html><html lang='en'><head><title>A step</title></head><body><main></main></body></html>"
    )
    tab.add_style_tag(content=STYLE)
    tab.evaluate(
        """async ([source, recording, stage]) => {
            const {default: widget} = await import(URL.createObjectURL(new Blob([source], {type: "text/javascript"})));
            const state = {recording: JSON.parse(recording), stage};
            const listeners = {};
            window.model = {
                get: (name) => state[name],
                set: (name, value) => { state[name] = value; listeners[`change:${name}`]?.(); },
                save_changes() {},
                on: (event, listener) => { listeners[event] = listener; },
            };
            window.end = widget.render({model: window.model, el: document.querySelector("main")});
        }""",
        [SCRIPT, json.dumps(record), stage],
    )
    return tab.locator(".step-through .picture")


def numbers(tab):
    """What the page says: bytes held by each rank, then bytes sent by each."""
    return tab.eval_on_selector_all(".step-through data", "all => all.map(one => [Number(one.value), one.textContent])")


def position(tab):
    return int(tab.locator("input[type=range]").input_value())


def in_words(count):
    if count < 1000:
        return f"{count} B"
    return f"{count / 1e6:.2f} MB" if count >= 1e6 else f"{int(count / 1000 + 0.5)} kB"


def expected_numbers(run):
    sent, found = 0, []
    for frame in unfold(run):
        sent += frame["wire_bytes"]
        held = [sum(by[rank] for by in frame["live"].values()) for rank in range(run["world_size"])]
        found.append([[count, in_words(count)] for count in (*held, sent)])
    return found


def choose(tab, group, value):
    tab.locator(f".step-through input[name$='-{group}'][value='{value}']").check()


@pytest.mark.parametrize("run", RECORDED, ids=name)
def test_every_frame_shows_the_records_numbers(tab, run):
    picture = shown(tab)
    choose(tab, "stage", run["stage"])
    choose(tab, "ranks", run["world_size"])
    if run["to_owners"]:
        choose(tab, "way", "true")
    assert tab.evaluate("model.get('stage')") == run["stage"]
    picture.focus()
    found = [numbers(tab)]
    for _ in run["frames"][1:]:
        tab.keyboard.press("ArrowRight")
        found.append(numbers(tab))
    assert found == expected_numbers(run)
    tab.keyboard.press("ArrowRight")  # there is no frame after the last
    assert position(tab) == len(run["frames"]) - 1


@pytest.mark.parametrize("run", RECORDED, ids=name)
def test_every_bar_is_as_long_as_the_share_held(tab, run):
    shown(tab, stage=run["stage"])
    choose(tab, "ranks", run["world_size"])
    if run["to_owners"]:
        choose(tab, "way", "true")
    widths = tab.evaluate(
        """() => {
            const slider = document.querySelector("input[type=range]"), found = [];
            for (let frame = 0; frame <= slider.max; frame += 1) {
                slider.value = frame;
                slider.dispatchEvent(new Event("input"));
                found.push([...document.querySelectorAll(".cell")].map((cell) =>
                    [...cell.querySelectorAll(".part")].map((part) => [part.classList[1], part.style.width])));
            }
            return found;
        }"""
    )
    size = {"parameters": 2, "gathered parameters": 2, "gradients": 2, "master weights": 4, "optimizer states": 8}
    for frame, cells in zip(unfold(run), widths, strict=True):
        for at, bars in enumerate(cells):
            rank, n = divmod(at, len(BLOCKS))
            drawn = {role.replace("-", " "): float(width.rstrip("%")) for role, width in bars}
            for role in ROLES:
                share = min(1, frame["held"][role, n][rank] / (size[role] * run["elements"][n]))
                assert drawn[role] == pytest.approx(100 * share, abs=0.3), (frame["event"], rank, n, role)


def test_the_keyboard_alone_steps_plays_and_chooses(tab):
    picture = shown(tab, stage=2)
    frames = len(next(run for run in RECORDED if run["stage"] == 2)["frames"])
    picture.focus()
    tab.keyboard.press("End")
    assert position(tab) == frames - 1
    tab.keyboard.press("ArrowLeft")
    assert position(tab) == frames - 2
    tab.keyboard.press("Home")
    assert position(tab) == 0
    tab.keyboard.press("Space")
    assert tab.get_by_role("button", name="Pause").is_visible()
    tab.keyboard.press("Space")
    assert tab.get_by_role("button", name="Play").is_visible()
    tab.locator("input[name$='-stage']:checked").focus()
    tab.keyboard.press("ArrowRight")
    assert tab.evaluate("model.get('stage')") == 3
    assert tab.locator(".told").inner_text().startswith("1/46 Before the step.")
    tab.evaluate("model.set('stage', 1)")
    assert tab.locator("input[name$='-stage']:checked").get_attribute("value") == "1"


def test_with_reduced_motion_nothing_moves_and_play_still_steps(tab):
    first = next(n for n, frame in enumerate(RECORDED[-1]["frames"]) if frame["wire_bytes"])
    for motion, moves in (("no-preference", True), ("reduce", False)):
        tab.emulate_media(reduced_motion=motion)
        picture = shown(tab, stage=3)
        picture.focus()
        for _ in range(first):
            tab.keyboard.press("ArrowRight")
        assert tab.evaluate("document.getAnimations().length > 0") is moves
    tab.get_by_role("button", name="Play").click()
    tab.wait_for_function(f"document.querySelector('input[type=range]').value > {first}", timeout=30_000)
    tab.evaluate("end()")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious_and_it_fits_a_phone(tab, scheme):
    from axe_playwright_python.sync_playwright import Axe

    tab.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    tab.set_viewport_size({"width": 360, "height": 800})
    for stage in range(4):
        picture = shown(tab, stage=stage)
        choose(tab, "ranks", 4)
        picture.focus()
        for _ in range(14):
            tab.keyboard.press("ArrowRight")
        found = Axe().run(tab).response["violations"]
        assert [rule["id"] for rule in found if rule["impact"] in ("serious", "critical")] == []
        assert tab.evaluate("document.documentElement.scrollWidth") <= 360


def test_its_colours_are_those_of_the_plots(tab):
    shown(tab)
    for role in (*ROLES, "communication buckets"):
        swatch = tab.locator(f".legend .{role.replace(' ', '-')}")
        colour = swatch.evaluate("one => getComputedStyle(one).backgroundColor")
        red, green, blue = (int(ROLE_COLOURS[role][at : at + 2], 16) for at in (1, 3, 5))
        assert colour == f"rgb({red}, {green}, {blue})"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_part_has_an_edge_that_shows(tab, scheme):
    tab.emulate_media(color_scheme=scheme)
    shown(tab)
    read = "one => [getComputedStyle(one).boxShadow, getComputedStyle(one.closest('.step-through')).backgroundColor]"
    edge, ground = tab.locator(".legend .swatch").first.evaluate(read)
    in_hex = ["#" + "".join(f"{int(part):02x}" for part in re.findall(r"\d+", each)[:3]) for each in (edge, ground)]
    assert contrast(*in_hex) >= 3
