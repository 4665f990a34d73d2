# make demo: the main job end to end on a small corpus that is made here. make test: the whole suite.
# make test-portable: the suite as on three processors, with 1, 2 and 4 threads, in three random orders.
# Each makes .venv and installs by itself; once that is done it starts at once.
PYTHON ?= python3
BIN := .venv/bin
# Threads that wait must not spin: on a machine with other work they would keep the very core they wait for.
export OMP_WAIT_POLICY ?= passive

.PHONY: demo test test-portable lint clean

demo: .venv/installed
	$(BIN)/python -m recipes.demo.run

test: .venv/installed
	$(BIN)/python -m pytest -n 2 --dist loadgroup

# The closing lines of all three are printed at the end; a failure of one does not keep the others from running.
SUITE = $(BIN)/python -m pytest -n 2 --dist loadgroup
test-portable: .venv/installed
	@mkdir -p runs/portable; rm -f runs/portable/*; status=0; \
	run() { name=$$1; shift; env "$$@" 2>&1 | tee runs/portable/$$name.log; [ $${PIPESTATUS[0]} -eq 0 ] || status=1; }; \
	run sse41  ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 OMP_NUM_THREADS=1 $(SUITE) --randomly-seed=1; \
	run avx2   ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 OMP_NUM_THREADS=2 $(SUITE) --randomly-seed=2; \
	run native OMP_NUM_THREADS=4 $(SUITE) --randomly-seed=3; \
	for name in sse41 avx2 native; do echo "$$name: $$(tail -n 1 runs/portable/$$name.log)"; done; exit $$status
test-portable: SHELL := /bin/bash

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
