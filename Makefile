# make demo   install the package with JAX and ask the bundled model a question
# make test   install everything and run the tests on all three backends
# make lint   what CI and pre-commit check
# make train  train the bundled model again: hours (resumes from runs/)
# make claims measure on fresh pictures what the bundled model shows, with
#             SEED, SAMPLES and OUT as you like
# make bench  measure time and memory beside transformers: hours, alone on a
#             machine; resumes, so delete benchmarks/results.json to start anew
# make bench-plots  draw what it measured

PYTHON ?= python3.11
BACKENDS ?= jax tensorflow torch
BIN = .venv/bin
export TF_CPP_MIN_LOG_LEVEL ?= 3

.PHONY: demo test lint train claims bench bench-plots

demo: .venv/demo
	mkdir -p outputs
	KERAS_BACKEND=jax $(BIN)/keras-visor ask examples/pictures/scene.png \
		"how many shapes are there?" --picture outputs/answer.png

# All backends at once: when one ends, the others have its share of the cores.
# A thread each, since threads that wait for one another waste the cores.
test: .venv/dev
	$(MAKE) --jobs=3 --output-sync=line $(BACKENDS:%=test-%)

test-%: .venv/dev
	KERAS_BACKEND=$* OMP_NUM_THREADS=1 $(BIN)/python -m pytest

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

train: .venv/dev
	KERAS_BACKEND=torch $(BIN)/python examples/visor_tiny/train.py

SEED ?= 0
SAMPLES ?= 5000
OUT ?= outputs/claims
claims: .venv/dev
	KERAS_BACKEND=torch $(BIN)/python examples/visor_tiny/claims.py \
		--seed $(SEED) --samples $(SAMPLES) --out $(OUT)

bench: .venv/dev
	$(BIN)/python benchmarks/speed.py --resume

bench-plots: .venv/dev
	$(BIN)/python benchmarks/plots.py

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/demo: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install -c constraints.txt -e ".[jax]"
	touch $@

.venv/dev: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install -c constraints.txt \
		-e ".[jax,tensorflow,torch,datasets,plots,dev]"
	touch $@
