# `make` alone lists the targets. Everything is installed into .venv, with the versions of constraints.txt.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
QUIETLY := --quiet --disable-pip-version-check --no-input
INSTALL := $(BIN)/python -m pip install $(QUIETLY) -c constraints.txt
TEST_TOOLS := pytest pytest-xdist hypothesis jsonschema tensorboard
TORCH ?=
# What another version of torch, transformers or peft can break: equality of fast and slow path, every architecture
# included; models, adapters, checkpoints, runs. A deprecation is news there and no failure.
OTHER_VERSIONS := tests/equal tests/policy tests/train tests/checkpoint tests/test_trainer.py -m "not slow" \
  -W default::DeprecationWarning -W default::FutureWarning -W default::UserWarning -p no:cacheprovider \
  --numprocesses auto --dist loadscope

# One more than there are cores: tests that wait for a program or a disk leave a core idle.
WORKERS ?= $(shell $(PYTHON) -c "import os; print((os.cpu_count() or 1) + 1)")

# Files of tests/equal that compare no kernel: they compute as a GPU does, or by the slow path.
NO_KERNELS := static flex caches slow_path

SEED ?=
RUN ?= runs/demo$(if $(SEED),-seed$(SEED))

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install install-dev demo case-study test test-fast kernels fuzz faults learn gpu quantized trl page triton environments ranks layers lint types format bench docs wheel oldest newest servers clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "  make %-12s %s\n", $$1, $$2 }'

demo: $(VENV)/installed  ## train a 135M-parameter model on this machine (SEED=2: another seed, RUN=folder: another place)
	@$(BIN)/groupwise train recipes/length-smollm2-cpu.yaml --overwrite --set output_dir=$(RUN) $(if $(SEED),--set seed=$(SEED))
	@echo "talk    $(BIN)/groupwise generate $(RUN) --plain --temperature 0 --prompt \"A tuple cannot be changed. TL;DR:\""
	@echo "take    $(BIN)/groupwise export $(RUN) --merge --to my-model"

case-study: $(VENV)/installed  ## the settings of docs/case-study.md, about 1,000 updates
	@$(BIN)/groupwise train recipes/case-study-smollm2-cpu.yaml --overwrite --set output_dir=runs/case-study$(if $(SEED),-seed$(SEED) --set seed=$(SEED))

test: lint types  ## everything that CI runs: lint, types, all tests, those of the layers among them
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadscope

test-fast: $(VENV)/installed-dev  ## the tests that need neither a real model nor a learning run, side by side
	$(BIN)/python -m pytest -m "not slow" --numprocesses $(WORKERS) --dist loadscope

kernels: $(VENV)/installed-dev  ## what is fast is equal to what is slow, with kernels compiled here; skips where there is no C++ compiler
	$(BIN)/python -m pytest tests/equal $(NO_KERNELS:%=--ignore tests/equal/test_%.py) --numprocesses $(WORKERS) --dist loadscope

learn: $(VENV)/installed-dev  ## a small learning run for every preset: rewards rise, shuffled advantages do not learn
	GROUPWISE_LEARN=1 $(BIN)/python -m pytest tests/algo/test_learns.py tests/learn

fuzz: $(VENV)/installed-dev  ## thousands of broken recipes, rows, rewards, checkpoints and records: each a clear error
	FUZZ_EXAMPLES=300 FUZZ_RECORD=bench/results/fuzz.json $(BIN)/python -m pytest tests/fuzz

faults: $(VENV)/installed-dev  ## kill runs at least 200 times, resume them, and compare them to runs that were not (a few minutes)
	PYTHONPATH=tests $(BIN)/python -m faults.suite --kills 300 --out bench/results/faults.json

ranks: $(VENV)/installed-dev  ## runs of 1, 2 and 4 ranks, replicated and in shards; 30 kills of random ranks (half an hour)
	GROUPWISE_RANKS=1 $(BIN)/python -m pytest tests/ranks tests/test_bench.py -k 'ranks' --numprocesses auto --dist loadscope
	$(BIN)/python -m tests.ranks.kills --kills 30 --out bench/results/ranks_kills.json
	$(BIN)/python -m tests.ranks.near_tie --out bench/results/ranks_near_tie.json

trl: $(VENV)/installed-dev  ## the tests that need TRL 1.16, in a copy of the environment that has it
	test -d .venv-trl || { cp -a $(VENV) .venv-trl && .venv-trl/bin/python -m pip install $(QUIETLY) --no-deps trl==1.16.0; }
	.venv-trl/bin/python -m pytest tests/config/test_beside_trl_itself.py tests/algo/test_beside_trl.py -p no:cacheprovider

page: $(VENV)/installed-dev  ## the page of groupwise watch in a headless Chromium, and its figures with 10,000 steps (says so where there is none)
	GROUPWISE_PAGE=1 $(BIN)/python -m pytest tests/watch/test_in_chromium.py -p no:cacheprovider -rs
	$(BIN)/python bench/watch.py

triton: $(VENV)/installed-dev  ## the kernels of a GPU, interpreted on this CPU, in a copy of the environment that has triton (1 GB)
	test -d .venv-triton || { cp -a $(VENV) .venv-triton && .venv-triton/bin/python -m pip install $(QUIETLY) --no-deps triton; }
	TRITON_INTERPRET=1 .venv-triton/bin/python -m pytest tests/equal/test_gpu_ops.py -p no:cacheprovider

environments: $(VENV)/installed-dev  ## chat templates of real models (from TRL 1.16), and gymnasium, TextArena, MCP, OpenEnv, each in an environment of its own
	test -d .venv-trl || { cp -a $(VENV) .venv-trl && .venv-trl/bin/python -m pip install $(QUIETLY) --no-deps trl==1.16.0; }
	.venv-trl/bin/python -m pytest tests/test_bridge.py tests/environments/test_tool_prompts.py -p no:cacheprovider
	$(BIN)/python bench/environments.py

notebooks: $(VENV)/installed-dev  ## the notebooks of examples/ in a kernel of Jupyter, in a copy of the environment that has one
	test -d .venv-notebooks || { cp -a $(VENV) .venv-notebooks && .venv-notebooks/bin/python -m pip install $(QUIETLY) -c constraints.txt nbclient ipykernel; }
	.venv-notebooks/bin/python -m pytest tests/test_notebooks.py -p no:cacheprovider

gpu: $(VENV)/installed-dev  ## the checks and the figures that need an NVIDIA GPU; says so where there is none
	$(BIN)/python bench/gpu.py

quantized:  ## LoRA on 4-bit and 8-bit bases, with bitsandbytes and torchao in an environment of its own
	$(PYTHON) -m venv --clear .venv-quantized
	.venv-quantized/bin/python -m pip install $(QUIETLY) -c constraints.txt -e . $(TEST_TOOLS)
	.venv-quantized/bin/python -m pip install $(QUIETLY) --no-deps bitsandbytes torchao
	QUANTIZED_RECORD=bench/results/quantized.json .venv-quantized/bin/python -m pytest tests/policy/test_quantized.py

layers: $(VENV)/installed-dev  ## who may import whom
	$(BIN)/python -m pytest tests/test_layers.py

lint: $(VENV)/installed-dev  ## ruff: rules and format; codespell
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell .

types: $(VENV)/installed-dev  ## mypy, strict on the package, less so on the scripts of bench/, docs/ and .ci/
	$(BIN)/mypy
	MYPYPATH=bench:docs:tests:tests/gpu $(BIN)/mypy --no-warn-return-any --allow-any-generics --allow-subclassing-any \
	  --allow-untyped-calls --no-warn-unused-ignores --follow-imports silent bench/*.py docs/*.py .ci/*.py

format: $(VENV)/installed-dev  ## let ruff rewrite what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

VLLM ?= bench/.venvs/vllm
servers: $(VENV)/installed-dev  ## the demo over a real vLLM server, killed in mid-run (VLLM=folder: vLLM's own environment)
	$(BIN)/python bench/served.py --vllm $(VLLM)

bench: $(VENV)/installed-dev  ## measure every figure that the README prints, on an idle machine (about two hours)
	$(BIN)/python bench/peers.py
	$(BIN)/python bench/step_vs_trl.py
	$(BIN)/python bench/rollout_vs_vllm.py
	$(BIN)/python bench/engine.py
	$(BIN)/python bench/demo_seeds.py
	$(BIN)/python bench/resuming.py
	$(BIN)/python bench/negative_controls.py
	$(BIN)/python bench/base_vs_trained.py bench/.work/demo_seeds/seed-42
	$(BIN)/python bench/table.py

docs: $(VENV)/installed-docs  ## build the site of docs/ into site/, without a network; a warning is an error
	@PYTHONPATH=docs NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "open    site/index.html"

wheel: | $(BIN)/python  ## build the wheel, install it into a fresh environment, and train a step with it in an empty folder
	rm -rf build dist
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .
	$(PYTHON) -m venv --clear .venv-wheel
	.venv-wheel/bin/python -m pip install $(QUIETLY) -c constraints.txt dist/groupwise-*.whl
	.ci/smoke .venv-wheel

oldest:  ## the tests of models and runs with the lowest versions that pyproject.toml allows (TORCH=torch==2.13.0: but this torch)
	$(PYTHON) -m venv --clear .venv-oldest
	.venv-oldest/bin/python .ci/oldest.py $(TORCH) > .venv-oldest/constraints.txt
	.venv-oldest/bin/python -m pip install $(QUIETLY) -c .venv-oldest/constraints.txt -e . $(TEST_TOOLS)
	.venv-oldest/bin/python -m pytest $(OTHER_VERSIONS)

newest:  ## the same with the newest ones; fails where an architecture that is fast today falls to the slow path
	$(PYTHON) -m venv --clear .venv-newest
	.venv-newest/bin/python -m pip install $(QUIETLY) --upgrade --upgrade-strategy eager -e . $(TEST_TOOLS) $(TORCH)
	.venv-newest/bin/python -m pytest $(OTHER_VERSIONS)

install: $(VENV)/installed  ## only create .venv and install groupwise into it
	@echo "groupwise is installed in $(VENV). Next: make demo, or: source $(VENV)/bin/activate && groupwise --help"

install-dev: $(VENV)/installed-dev  ## the same with what the tests need

clean:  ## remove .venv and the caches; runs/ stays
	rm -rf $(VENV) .venv-wheel .venv-oldest .venv-newest .venv-quantized .venv-trl .venv-triton .venv-notebooks build dist site *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "groupwise needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) --version 2>&1)." \
	       "Name another one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing groupwise into $(VENV): once, a few minutes."
	@$(INSTALL) -e '.[watch]'
	@touch $@

$(VENV)/installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing groupwise and its development tools into $(VENV): once, a few minutes."
	@$(INSTALL) -e '.[dev,watch,reasoning-parts]'
	@$(INSTALL) --no-deps reasoning-gym  # without pycosat, which has to be compiled and can be missed (pyproject.toml)
	@touch $@ $(VENV)/installed

$(VENV)/installed-docs: pyproject.toml constraints.txt | $(VENV)/installed
	@echo "Installing the tools of the site into $(VENV): once, a minute."
	@$(INSTALL) -e '.[docs]'
	@touch $@
