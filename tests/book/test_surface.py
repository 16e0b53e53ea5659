"""How the built pages look, told in a real browser: headings, outputs, names in tables, the API reference."""

import base64
import re
import sys

from conftest import HTML, ROOT, needs_book, needs_chromium

sys.path.insert(0, str(ROOT / "book" / "_extensions"))
from course.finished import pages

pytestmark = [needs_chromium, needs_book]


def test_an_empty_output_of_ranks_is_not_there_in_the_dark(tab, site):
    tab.emulate_media(color_scheme="dark")
    tab.goto(f"{site}/notebooks/04_stages.html")
    box = tab.locator(".cell_output .text_html").first
    assert box.bounding_box()["height"] > 0
    box.evaluate("box => box.replaceChildren()")
    assert box.evaluate("box => box.getBoundingClientRect().height") == 0


def test_what_a_cell_says_in_plain_lines_is_dark_in_the_dark(tab, site):
    tab.emulate_media(color_scheme="dark")
    tab.goto(f"{site}/notebooks/04_stages.html")
    box = tab.locator(".cell_output .text_html").first
    box.evaluate("box => { box.innerHTML = '<pre>Starting 2 ranks</pre>'; }")
    assert box.evaluate("box => getComputedStyle(box).backgroundColor") == "rgba(0, 0, 0, 0)"


def test_the_last_line_of_a_rank_has_its_underscores(tab, site):
    """At one device pixel a CSS pixel: what is drawn of a last line of underscores, dark on light."""
    tab.goto(f"{site}/notebooks/04_stages.html")
    pre = tab.locator(".ranks .rank pre").first
    pre.evaluate("(box) => { box.textContent = '____________________'; }")
    assert pre.evaluate("() => devicePixelRatio") == 1
    drawn = tab.evaluate(
        """async (source) => {
          const image = await createImageBitmap(await (await fetch(source)).blob());
          const canvas = new OffscreenCanvas(image.width, image.height).getContext("2d");
          canvas.drawImage(image, 0, 0);
          const { data } = canvas.getImageData(0, 0, Math.min(120, image.width), image.height);
          let least = 255;
          for (let at = 0; at < data.length; at += 4) least = Math.min(least, data[at + 1]);
          return least;
        }""",
        "data:image/png;base64," + base64.b64encode(pre.screenshot()).decode(),
    )
    assert drawn < 170, "nothing but the ground was drawn"


def test_a_heading_outweighs_those_within_it(tab, site):
    tab.goto(f"{site}/book/troubleshooting.html")
    read = "one => { const style = getComputedStyle(one); return [style.fontWeight, style.fontSize].map(parseFloat) }"
    one, two, three = (tab.locator(f"article h{level}").first.evaluate(read) for level in (1, 2, 3))
    assert one[0] >= two[0] >= three[0] and one[1] > two[1] > three[1]


def test_the_api_reference_begins_with_links_to_all_that_it_describes(tab, site):
    tab.goto(f"{site}/book/reference.html")
    named = set(tab.locator("ul.names a").evaluate_all("links => links.map((link) => link.hash.slice(1))"))
    described = tab.locator("article dl.py:not(dl.py dl.py) > dt[id]").evaluate_all("terms => terms.map(({id}) => id)")
    assert len(described) > 100 and named == set(described)
    assert tab.locator("ul.names").bounding_box()["y"] < 900


def test_the_api_reference_is_plain_prose_and_code():
    page = (HTML / "book" / "reference.html").read_text(encoding="utf-8")
    assert not re.findall("[“”‘’]", page)
    prose = [re.sub(r"<[^>]+>", "", each) for each in re.findall(r"<p>(.*?)</p>", page, re.DOTALL)]
    assert [each for each in prose if re.match(r"(from \S+ import|import \w|python -m)", each)] == []


def test_where_a_name_in_a_table_may_break():
    code = '<code><span class="pre">{}</span></code>'
    page = (
        f"{code.format('a_name')}<table><td>{code.format('--nproc_per_node')}{code.format('zero.stage')}</td></table>"
    )
    option = '<span class="unbroken">--nproc_</span><wbr>per_<wbr>node'
    expected = f"{code.format('a_name')}<table><td>{code.format(option)}{code.format('zero.<wbr>stage')}</td></table>"
    assert pages.finished_page(page, "zero.html") == expected
