# The two commands are `make book` and `make test`. `make help` lists the rest.
# The Python to make .venv with; without one, the newest of 3.13, 3.12 and 3.11 that has venv and headers.
PYTHON ?=
PORT ?= 8000
# Both looked up here, before .venv comes first on the PATH. Any Python 3 can do the set-up.
ANY_PYTHON := $(shell for name in python3 python3.13 python3.12 python3.11 "$(PYTHON)"; do \
	"$$name" -c "" 2>/dev/null && command -v "$$name" && break; done)
OWN_PYTHON := $(if $(GPU_PYTHON),$(shell command -v "$(GPU_PYTHON)"))
VENV := .venv
BIN := $(VENV)/bin
# DeepSpeed's op builder and the ranks look for ninja and python on the PATH.
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: help book check test measure faults fuzz gpu milestone learner grade serve lab setup ops lint clean

help:  ## what can be made
	@grep -E '^[a-z]+:.*## ' Makefile | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 12

book: ops  ## run every lab and build the book in _build/html
	$(BIN)/python book/build.py

check: setup lint  ## lint, links and the tests that need no ranks, no book and no browser: under 3 minutes
	$(BIN)/pytest tests -m "not slow" -n 2

test: ops lint  ## lint, unit tests, multi-rank tests, every lab, a strict book build
	$(BIN)/python book/build.py --fresh --at-once 2
	$(BIN)/pytest tests -n 3 --dist loadfile --no-loadscope-reorder

measure: ops  ## predicted beside measured: run all cells again and record them, 40 minutes at most
	DS_ACCELERATOR=cpu OMP_NUM_THREADS=1 $(BIN)/python benchmarks/agreement.py
	DS_ACCELERATOR=cpu OMP_NUM_THREADS=1 $(BIN)/python benchmarks/agreement.py --record architectures
	DS_ACCELERATOR=cpu OMP_NUM_THREADS=1 $(BIN)/python benchmarks/agreement.py --record adapters
	DS_ACCELERATOR=cpu OMP_NUM_THREADS=1 $(BIN)/python benchmarks/step_time.py

fuzz: setup  ## 10,000 configs made at random: the doctor beside DeepSpeed's parser, recorded, 3 minutes
	$(BIN)/python benchmarks/fuzz.py

faults: ops  ## kill runs and damage checkpoints, and record what is lost: about 40 minutes
	$(BIN)/python benchmarks/faults.py

ifdef GPU_PYTHON
gpu:
	@test -n "$(OWN_PYTHON)" || { echo "error: there is no program $(GPU_PYTHON): give GPU_PYTHON the path of a Python." >&2; exit 1; }
	@PYTHONPATH="$(CURDIR)$${PYTHONPATH:+:$$PYTHONPATH}" "$(OWN_PYTHON)" benchmarks/gpu.py $(if $(SUITES),--suites $(SUITES))
else
gpu: setup  ## measure this machine's GPU, suite by suite; SUITES="grid speed" for some, GPU_PYTHON=... for your own
	@$(BIN)/python benchmarks/gpu.py $(if $(SUITES),--suites $(SUITES))
endif

milestone: setup  ## train with your own module on two ranks: make milestone MODULE=my_trainer.py
	@$(BIN)/python -m labsupport.exercises.lab_09_milestone "$(MODULE)"

learner: setup  ## the labs without solutions in _build/learner, to hand out
	$(BIN)/jupyter nbconvert --to notebook --TagRemovePreprocessor.enabled=True \
		--TagRemovePreprocessor.remove_cell_tags=solution --output-dir _build/learner/notebooks notebooks/*.ipynb

grade: ops  ## grade a folder of submitted labs: make grade FOLDER=submissions CSV=grades.csv
	@$(BIN)/python -m labsupport.grading "$(FOLDER)" "$(CSV)"

serve:  ## show the built book on http://localhost:8000 (PORT=... for another port)
	@test -f _build/html/index.html || { echo "error: there is no book in _build/html yet: run make book first." >&2; exit 1; }
	@echo "The book is at http://localhost:$(PORT). Ctrl-C stops."
	@$(BIN)/python -m http.server --bind 127.0.0.1 --directory _build/html $(PORT)

lab: ops  ## open the labs in JupyterLab
	JUPYTER_CONFIG_PATH="$(CURDIR)/notebooks/.jupyter$${JUPYTER_CONFIG_PATH:+:$$JUPYTER_CONFIG_PATH}" $(BIN)/jupyter lab

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

setup:  ## make .venv with the pinned packages; PYTHON=/path/to/python to choose
	@test -n "$(ANY_PYTHON)" || { echo "error: There is no Python 3 here: install the packages python3, python3-venv and python3-dev." >&2; exit 1; }
	@"$(ANY_PYTHON)" labsupport/machine/set_up.py "$(VENV)" $(if $(PYTHON),"$(PYTHON)")

ops: setup  ## compile DeepSpeed's C++ ops and learn which keys it reads, once for this machine
	@$(BIN)/python -m labsupport.machine.ops
	@$(BIN)/python -m labsupport.doctor.known

clean:  ## remove the built book and the executed labs, not .venv
	rm -rf _build
