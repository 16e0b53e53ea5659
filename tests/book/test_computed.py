"""The pages' computed blocks: each gives Markdown or a figure, and the directive shows it."""

import re
import sys

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "book" / "_extensions"))
from course.blocks import computed_block, gpu
from course.blocks.block import BLOCKS, block
from sphinx.errors import ExtensionError

from labsupport.machine.cards import card
from labsupport.memory.room import ALLOWANCE_BYTES
from labsupport.plots import MEASURED_COLOUR, MEASURED_COLOURS
from labsupport.step_time.figures import MODELLED_STYLES, PUBLISHED_COLOUR


@pytest.mark.parametrize("name", BLOCKS)
def test_a_block_is_markdown_or_a_figure_with_a_title_and_words(name):
    content = computed_block(name)
    if content == "":  # without a record: the box says so, or all are there and there is no box
        assert name == "gpu_missing" or "No GPU has been measured" in computed_block("gpu_missing")
        return
    if isinstance(content, str):
        assert not re.search(r"\bnan\b", content) and ("|" in content or content.endswith((".", "```\n")))
        return
    title = content.figure.layout.title.text
    assert title and content.alt.endswith(".") and re.search(r"\d", title) and " nan" not in title + content.alt
    assert content.figure.layout.yaxis.title.text and f"<figcaption>{content.alt[:20]}" in html(content)


def test_what_make_gpu_will_run_fits_the_card_by_plan():
    lines = computed_block("gpu_planned").splitlines()[2:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert [row[0] for row in rows] == list(gpu.PLANNED_CARDS)
    for name, _, *peaks in rows:
        assert all(float(peak) * 2**30 + ALLOWANCE_BYTES < card(name).memory_bytes for peak in peaks)


def test_the_commands_of_set_up_name_the_repository_or_what_to_put_there(monkeypatch):
    monkeypatch.delenv("BOOK_REPOSITORY_URL", raising=False)
    for name in ("clone_command", "notebook_service_cell"):
        assert "git clone" in computed_block(name) and "https://HOST/OWNER/REPOSITORY" in computed_block(name)
    monkeypatch.setenv("BOOK_REPOSITORY_URL", "https://example.org/someone/course")
    for name in ("clone_command", "notebook_service_cell"):
        assert " https://example.org/someone/course " in computed_block(name)


def html(figure):
    return figure._repr_mimebundle_()["text/html"]


def test_modelled_is_never_drawn_like_measured():
    modelled = {colour for colour, _, _ in MODELLED_STYLES}
    assert not modelled & {*MEASURED_COLOURS, MEASURED_COLOUR, PUBLISHED_COLOUR}
    for name in BLOCKS:
        content = computed_block(name)
        for trace in [] if isinstance(content, str) else content.figure.data:
            if "modelled" in (trace.name or "") and trace.type == "scatter":
                assert trace.line.color in modelled and trace.line.dash != "solid"
            if "measured" in (trace.name or ""):
                assert trace.marker.color not in modelled


def test_an_unknown_block_names_those_that_there_are():
    for wrong in ("nothing", "_share", "read_record"):
        with pytest.raises(ExtensionError, match=f"no computed block '{wrong}': there are .*weak_figure"):
            computed_block(wrong)


def test_a_name_is_given_once():
    def weak_figure():
        return "another one"

    with pytest.raises(ExtensionError, match="'weak_figure', in course.blocks.scaling and test_computed: rename one"):
        block(weak_figure)


def test_pages_name_blocks_that_there_are():
    for page in ROOT.glob("book/*.md"):
        for name in re.findall(r"^```\{computed\} (\S+)", page.read_text(), re.MULTILINE):
            assert name in BLOCKS, f"{page.name} asks for {name}"


def test_the_directive_inserts_tables_and_figures(tmp_path):
    from sphinx.testing.util import SphinxTestApp

    (tmp_path / "conf.py").write_text("extensions = ['myst_nb', 'course.blocks']\n")
    (tmp_path / "index.md").write_text("# Page\n\n```{computed} break_even\n```\n\n```{computed} weak_figure\n```\n")
    app = SphinxTestApp("html", srcdir=tmp_path, builddir=tmp_path / "_build")
    app.build()
    page = (tmp_path / "_build" / "html" / "index.html").read_text()
    dependencies = " ".join(map(str, app.env.dependencies["index"]))
    app.cleanup()
    assert "<table" in page and "H100" in page and 'class="lab-figure"' in page
    assert "recorded/step_time.json" in dependencies and "blocks/scaling.py" in dependencies
