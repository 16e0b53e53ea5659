"""The %%solution cells: nothing is run, shown or overwritten until a reader asks for it."""

import pytest
from IPython.core.interactiveshell import InteractiveShell

from labsupport.errors import LabError
from labsupport.exercises import solution

CELL = "batch_config = {'train_batch_size': 96}"


@pytest.fixture
def notebook(monkeypatch):
    """A shell in which a reader has an answer of their own; `.checked` has the solutions that were judged."""
    shell = InteractiveShell()
    monkeypatch.setattr("IPython.get_ipython", lambda: shell)
    monkeypatch.delenv(solution.RUN_ALL, raising=False)
    shell.checked = []
    shell.user_ns["batch_config"] = "the reader's"
    solution.register_magic(lambda *call, **record: shell.checked.append((*call, record)))
    return shell


def test_run_all_runs_no_solution(notebook, capsys):
    notebook.run_cell_magic("solution", "01-batch", CELL)
    assert notebook.checked == []
    assert "%%solution 01-batch run" in capsys.readouterr().out


@pytest.mark.parametrize(("line", "everywhere"), [("01-batch run", ""), ("01-batch", "1")])
def test_a_solution_that_is_asked_for_leaves_the_readers_answer_alone(notebook, monkeypatch, line, everywhere):
    monkeypatch.setenv(solution.RUN_ALL, everywhere)
    notebook.run_cell_magic("solution", line, CELL)
    assert notebook.checked == [("01-batch", {"train_batch_size": 96}, {"record": False})]
    assert notebook.user_ns["batch_config"] == "the reader's"


def test_a_mistyped_line_is_one_sentence(notebook):
    for line in ("01-batch now", "01-bach run", ""):
        with pytest.raises(LabError):
            notebook.run_cell_magic("solution", line, CELL)
