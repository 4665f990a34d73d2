# make demo: the main job end to end on a small corpus that is made here. make test: the whole suite.
# Both make .venv and install by themselves; once that is done they start at once.
PYTHON ?= python3
BIN := .venv/bin
# Threads that wait must not spin: on a machine with other work they would keep the very core they wait for.
export OMP_WAIT_POLICY ?= passive

.PHONY: demo test lint clean

demo: .venv/installed
	$(BIN)/python -m recipes.demo.run

test: .venv/installed
	$(BIN)/python -m pytest -n 2 --dist loadgroup

lint: .venv/installed
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

# torch and torchaudio first, as a pair: the other packages then take what is there.
.venv/installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet torch==2.11.0 torchaudio==2.11.0
	$(BIN)/python -m pip install --quiet -e '.[dev,onnx,ray]'
	touch $@

clean:
	rm -rf .venv runs dist
