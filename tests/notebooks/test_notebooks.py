"""The labs as files, and what they printed when they were last run."""

import ast
import re
from importlib import import_module

import nbformat
import pytest
from conftest import ROOT

LABS = sorted((ROOT / "notebooks").glob("*.ipynb"))
NAMES = ["01_config", "02_initialize", "03_training", "04_stages", "04b_messages", "05_checkpointing", "05b_faults",
         "06_offload", "07_huggingface", "08_multinode", "09_milestone", "10_build_zero", "11_your_model"]  # fmt: skip
OPTION = (
    r'<details class="option (right|wrong)"><summary>(.+?)</summary>\n\n'
    r"\*\*(Right|Not this one)\.\*\* (.+?)\n\n</details>"
)
RANK_COUNT = re.compile(r"\b\d+ ranks? up\b|\[ranks? \d+")
ids = [lab.stem for lab in LABS]


def test_the_course_has_its_ten_labs_the_fourth_and_the_fifth_in_two_halves():
    assert [lab.stem for lab in LABS] == NAMES


@pytest.mark.parametrize("lab", LABS, ids=ids)
def test_what_a_lab_imports_of_the_package_is_there(lab):
    """Told in a second, and not by a run of the lab."""
    cells = [cell.source for cell in nbformat.read(lab, 4).cells if cell.cell_type == "code"]
    lines = [re.sub(r"^[%!].*", "pass", line) for source in cells for line in source.splitlines()]
    imports = [node for node in ast.walk(ast.parse("\n".join(lines))) if isinstance(node, ast.ImportFrom)]
    ours = [node for node in imports if node.module.split(".")[0] == "labsupport"]
    names = [(node.module, alias.name) for node in ours for alias in node.names]
    assert names and [name for name in names if not hasattr(import_module(name[0]), name[1])] == []


@pytest.mark.parametrize("lab", LABS, ids=ids)
def test_a_lab_is_kept_without_outputs(lab):
    notebook = nbformat.read(lab, 4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None
            assert len(cell.source.splitlines()) <= 20, cell.source
            assert "execution" not in cell.metadata
    assert notebook.metadata.kernelspec.name == "python3"


@pytest.mark.parametrize("lab", LABS, ids=ids)
def test_a_lab_opens_with_goal_time_and_hardware_and_ends_in_a_summary(lab):
    cells = nbformat.read(lab, 4).cells
    for word in ("# ", "**Goal", "**Time", "**Hardware"):
        assert word in cells[0].source, word
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    assert "## Summary" in text
    assert len(re.findall(r"predict", text, re.IGNORECASE)) >= 2, "the reader predicts before running"


@pytest.mark.parametrize("lab", LABS, ids=ids)
def test_a_labs_outputs_come_from_live_ranks(lab):
    executed = ROOT / "_build" / "executed" / lab.name
    if not executed.exists():
        pytest.skip("the labs were not run yet: make book or make test runs them")
    from_ranks, outputs = 0, []
    for cell in nbformat.read(executed, 4).cells:
        if cell.cell_type != "code":
            continue
        assert not any(output.output_type == "error" for output in cell.outputs)
        texts = [output.get("text") or output.get("data", {}).get("text/plain", "") for output in cell.outputs]
        outputs += texts
        asks_ranks = re.search(
            r"^%%ranks|\branks\.|\bcrew\.|run_program|run_two_nodes|run_under_torchrun", cell.source, re.M
        )
        from_ranks += bool(asks_ranks and (any(text.strip() for text in texts) or "assert" in cell.source))
    assert any(RANK_COUNT.search(text) for text in outputs), "no output of this lab names its ranks"
    assert from_ranks >= 6, f"{from_ranks} cells show or assert something that live ranks measured"


@pytest.mark.parametrize("lab", LABS, ids=ids)
def test_a_lab_asks_three_to_seven_questions_and_explains_every_answer(lab):
    text = next(cell.source for cell in nbformat.read(lab, 4).cells if cell.id == "concept-check")
    questions = re.split(r"^\*\*\d\.\*\* ", text, flags=re.M)[1:]
    assert 3 <= len(questions) <= 7
    for question in questions:
        assert len(question.partition("<details")[0].strip()) > 20
        options = re.findall(OPTION, question, re.S)
        assert len(options) == question.count("<details") >= 3
        kinds = [kind for kind, _, _, _ in options]
        assert kinds.count("right") == 1
        assert all((kind == "right") == (word == "Right") for kind, _, word, _ in options)
        assert all(len(why) > 30 for *_, why in options)
        assert len({summary for _, summary, _, _ in options}) == len(options)


def test_every_lab_ends_in_the_readers_progress():
    for lab in LABS:
        shown = [cell.source for cell in nbformat.read(lab, 4).cells if cell.id == "progress"]
        whole = "05_checkpointing" if lab.stem == "05b_faults" else lab.stem  # the exercises stand in its first half
        assert [source.splitlines()[-1] for source in shown] == [f'show_progress("{whole}")']
