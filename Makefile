# Shortcuts; each is one or two commands that can be typed by hand. See README.md.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: help demo test check index lint bench clean

help:
	@echo "make demo    install into $(VENV) and route three prompts"
	@echo "make test    install for development and run the tests"
	@echo "make check   what CI checks: ruff, mypy, the committed index and its floors"
	@echo "make index   build index/ from routes/"
	@echo "make bench   the benchmarks; DATA=folder of labelled data"

$(BIN)/semroute:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet .

demo: $(BIN)/semroute
	$(BIN)/semroute route "my code throws a KeyError and I can't see why"
	$(BIN)/semroute route "where is my refund?"
	$(BIN)/semroute route "please open the garage door"

$(BIN)/pytest:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable '.[dev]'

test: $(BIN)/pytest
	$(BIN)/pytest

check: $(BIN)/pytest
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/semroute validate
	$(BIN)/semroute build --check
	$(BIN)/semroute eval

index:
	$(BIN)/semroute build

bench: $(BIN)/pytest
	$(BIN)/pip install --quiet -r bench/requirements.txt
	$(BIN)/python bench/latency.py --data $(DATA)
	$(BIN)/python bench/startup.py --data $(DATA)
	$(BIN)/python bench/build.py --data $(DATA)
	$(BIN)/python bench/encoders.py --data $(DATA)
	$(BIN)/python bench/accuracy.py --data $(DATA)
	$(BIN)/python bench/stability.py --data $(DATA)
	$(BIN)/python bench/eval_speed.py --data $(DATA)
	$(BIN)/python bench/rerouting.py
	$(BIN)/python bench/fitting.py
	$(BIN)/python bench/report.py --data $(DATA)
	$(BIN)/python bench/log_speed.py
	$(BIN)/python bench/tune.py --data $(DATA)
	$(BIN)/python bench/faiss_kinds.py --data $(DATA)
	$(BIN)/python bench/serve.py

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
