"""Every exercise: known wrong answers get their message, right ones pass, the stub is told apart, the lab has it."""

import ast
import re
from string import Formatter

import nbformat
import pytest
from answering import EXERCISES, LABS, answer_of, answers_to, cell_of, each_exercise, solution_of
from conftest import ROOT

from labsupport.exercises.catalog import find, lab_of
from labsupport.exercises.exercise import NOT_ATTEMPTED
from labsupport.exercises.lab_01_config.broken import config_to_mend
from labsupport.exercises.lab_01_config.read import config_to_read
from labsupport.exercises.verify import verify

pytestmark = pytest.mark.slow

WRONG = [
    pytest.param(exercise, name, answer, id=f"{exercise.id}-{name}-{number}".replace(" ", "-"))
    for exercise in EXERCISES
    for name, answers in answers_to(exercise).WRONG.items()
    for number, answer in enumerate(answers, 1)
]


def test_there_are_enough_exercises_and_each_id_is_there_once():
    ids = [exercise.id for exercise in EXERCISES]
    assert len(ids) == len(set(ids)) >= 34
    assert all(exercise.id[:3] == f"{lab_of(exercise)[:2]}-" for exercise in EXERCISES)


@pytest.mark.parametrize(("exercise", "name", "answer"), WRONG)
def test_a_known_wrong_answer_gets_its_message(exercise, name, answer):
    verdict = verify(exercise.id, answer_of(exercise, answer))
    template = exercise.mistakes[name].message
    parts = [re.escape(text) + (".+" if field is not None else "") for text, field, *_ in Formatter().parse(template)]
    expected = "".join(parts)
    assert not verdict.passed
    assert re.fullmatch(expected, verdict.message, re.DOTALL), (
        f"{name!r} should be told, and was told: {verdict.message}"
    )


def test_a_rank_that_fails_alone_is_told_why_and_not_that_the_other_waits():
    """A folder named after DeepSpeed's own file `latest` fails on rank 0, which writes that file."""
    source = answers_to(find("05-save-load")).WRONG["position lost"][0]
    answer = answer_of(
        find("05-save-load"), source.replace("save_checkpoint(folder)", 'save_checkpoint(folder, tag="latest")')
    )
    verdict = verify("05-save-load", answer)
    assert (verdict.passed, verdict.kind) == (False, "unusable")
    assert "rank 0" in verdict.message and "latest" in verdict.message


@each_exercise
def test_an_exercise_knows_four_wrong_answers_that_differ_in_what_is_said(exercise):
    wrong = answers_to(exercise).WRONG
    told = [exercise.mistakes[name].message for name in wrong]
    assert len(set(told)) == len(told) >= 3
    assert sum(map(len, wrong.values())) >= 4


@each_exercise
def test_every_mistake_has_an_answer_that_makes_it(exercise):
    assert set(exercise.mistakes) - {"hangs"} <= set(answers_to(exercise).WRONG) <= set(exercise.mistakes)


@each_exercise
def test_the_solution_passes_and_is_shown_what_was_measured(exercise):
    verdict = verify(exercise.id, answer_of(exercise, cell_of(exercise, "stub").source, solution_of(exercise)))
    assert verdict.passed, verdict.message
    assert re.match(r"Right\. .*\d", verdict.message), verdict.message


@each_exercise
def test_three_other_right_answers_pass(exercise):
    sources = answers_to(exercise).RIGHT
    assert len(set(sources)) >= 3
    for source in sources:
        verdict = verify(exercise.id, answer_of(exercise, source))
        assert verdict.passed, f"{verdict.message}\n{source}"


@each_exercise
def test_the_untouched_stub_is_not_attempted(exercise):
    verdict = verify(exercise.id, answer_of(exercise, cell_of(exercise, "stub").source))
    assert (verdict.passed, verdict.message) == (False, NOT_ATTEMPTED)


@each_exercise
def test_the_lab_shows_the_exercise_as_the_catalog_describes_it(exercise):
    task, stub, check, solution = (cell_of(exercise, part) for part in ("task", "stub", "check", "solution"))
    assert task.source.startswith(f"### Exercise {exercise.id}: {exercise.title}\n\n{exercise.heading()}\n")
    assert 2 <= len(re.findall(r"<details><summary>Hint \d</summary>", task.source)) <= 3
    assert check.source == f'check("{exercise.id}", {exercise.answer})'
    assert stub.metadata.tags == ["exercise"]
    assert solution.metadata.tags == ["solution", "hide-cell"]
    assert solution.source.startswith(f"%%solution {exercise.id}\n"), "JupyterLab shows the first line of a folded cell"
    cells = LABS[lab_of(exercise)]
    assert cells.index(task) + 3 == cells.index(stub) + 2 == cells.index(check) + 1 == cells.index(solution)


@each_exercise
def test_no_later_cell_of_the_lab_depends_on_an_answer(exercise):
    """Else a lab would run with the solution and not with the untouched stub, or the other way round."""
    cells = LABS[lab_of(exercise)]
    stub, solution = cell_of(exercise, "stub"), cell_of(exercise, "solution")
    pending = names_written(stub.source) | names_written(solution_of(exercise))
    for cell in cells[cells.index(solution) + 1 :]:
        if cell.cell_type == "code" and not cell.source.startswith("%%"):
            written = names_written(cell.source)
            assert not pending & (names_read(cell.source) - written), cell.source
            pending -= written


def names_read(source):
    tree = ast.walk(ast.parse(source))
    return {node.id for node in tree if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}


def names_written(source):
    """The names that a cell leaves in the notebook: not imports, and nothing within its functions."""
    found = set()
    for statement in ast.parse(source).body:
        if isinstance(statement, ast.FunctionDef | ast.ClassDef):
            found.add(statement.name)
        elif not isinstance(statement, ast.Import | ast.ImportFrom):
            nodes = ast.walk(statement)
            found |= {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    return found


@each_exercise
def test_a_run_of_the_lab_said_not_attempted_and_then_that_the_solution_passes(exercise):
    executed = ROOT / "_build" / "executed" / f"{lab_of(exercise)}.ipynb"
    if not executed.exists():
        pytest.skip("the labs were not run yet: make book or make test runs them")
    said = {}
    for cell in nbformat.read(executed, 4).cells:
        if cell.id.startswith(f"exercise-{exercise.id}-") and cell.cell_type == "code":
            texts = [output.data["text/plain"] for output in cell.outputs if "text/plain" in output.get("data", {})]
            said[cell.id.rpartition("-")[2]] = texts[-1] if texts else ""
    assert said["check"].startswith(f"[{exercise.id}: not attempted]")
    assert said["solution"].startswith(f"[{exercise.id}: passed]")


@pytest.mark.parametrize(
    ("exercise_id", "name", "config"),
    [("01-read", "config_to_read", config_to_read()), ("01-broken", "config_to_mend", config_to_mend())],
)
def test_the_config_that_a_lab_shows_is_the_one_that_its_check_has_in_mind(exercise_id, name, config):
    names = {}
    exec(cell_of(find(exercise_id), "stub").source, names)
    assert names[name] == config
