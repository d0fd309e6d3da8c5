.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
TYPED := tests/attribution tests/decomposition tests/comparison
SETUP := scripts/setup_env.py pyproject.toml requirements/lock.txt requirements/torch.txt
export HF_HUB_DISABLE_TELEMETRY := 1
export TOKENIZERS_PARALLELISM := false

.PHONY: docs-version gallery notebooks api-summary check-install
.PHONY: help mutants supply-chain test-tl4 test-lowest test-highest experiments experiments-smollm2 experiments-gemma3 experiments-tofu demo demo-smollm2 test test-all lint fix docs bench architectures lock clean

help:  ## List the targets
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/:/' | awk -F': *' '{printf "  make %-20s %s\n", $$1, $$2}'

demo: .venv/.ready  ## Unlearn fictitious authors with six methods and judge them (about 2 min)
	$(BIN)/unpact demo

demo-smollm2: .venv/.ready-smollm2  ## Run the demo on a real LLM and real facts (about 25 min)
	$(BIN)/unpact demo --model smollm2

test: export OMP_NUM_THREADS := 1
test: .venv/.ready-dev lint  ## Run lint, types, import contract, unit tests, doctests and notebooks
	$(BIN)/python -m pytest -n 2 -m "not slow and not smollm2" $(addprefix --ignore=,$(TYPED))
	$(BIN)/python -m pytest -n 2 -m "not slow and not smollm2" --jaxtyping-packages=unpact_lens,tests.type_checker.check $(TYPED)
	$(BIN)/python -m pytest --doctest-modules src/unpact_lens -p no:cacheprovider
	$(BIN)/python -m pytest --nbmake docs --nbmake-timeout=300 -p no:cacheprovider

test-all: test .venv/.ready-all test-tl4 test-lowest test-highest  ## Run `test`, slow and real-model tests, other versions
	$(BIN)/python -m pytest -m "slow or smollm2"
	$(MAKE) mutants

mutants: export OMP_NUM_THREADS := 1
mutants: .venv/.ready-dev  ## Change formulas by one operator at a time: at least 90% must make a test fail
	$(BIN)/python -m scripts.mutants

supply-chain:  ## Build twice and compare, write the bill of materials, look for known vulnerabilities
	$(PYTHON) -m venv .venv-build
	.venv-build/bin/pip install -q --require-hashes -r requirements/build.txt
	.venv-build/bin/python -m scripts.check_distribution
	.venv-build/bin/python -m scripts.sbom sbom.json
	.venv-build/bin/pip install -q pip-audit
	.venv-build/bin/pip-audit --require-hashes --disable-pip -r requirements/hashes.txt

test-tl4:  ## Run the tests on TransformerLens 4, in .venv-tl4
	$(PYTHON) scripts/lanes.py tl4

test-lowest:  ## Run the tests on the lowest versions allowed, in .venv-lowest
	$(PYTHON) scripts/lanes.py lowest

test-highest:  ## Run the tests on the highest versions allowed, on every Python found
	$(PYTHON) scripts/lanes.py highest

lint: .venv/.ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fix: .venv/.ready-dev  ## Format the code and fix what the linter can fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

experiments: .venv/.ready-all  ## Run the experiments on the embedded model; resumes
	$(BIN)/python -m experiments.tune
	$(BIN)/python -m experiments.recovery.run
	$(BIN)/python -m experiments.recovery.run config-answer-free.yaml
	$(BIN)/python -m experiments.recovery.depth
	$(BIN)/python -m experiments.forgetting.run
	$(BIN)/python -m experiments.forgetting.tokens
	$(BIN)/python -m experiments.forgetting.shares
	$(BIN)/python -m experiments.forgetting.parts
	$(BIN)/python -m experiments.forgetting.rmu
	$(BIN)/python -m experiments.focus.run
	$(BIN)/python -m experiments.dilemma.run
	$(BIN)/python -m experiments.unseen.run
	$(BIN)/python -m experiments.meta.run
	$(BIN)/python -m experiments.tune rehearsal
	$(BIN)/python -m experiments.rehearsal.run
	$(BIN)/python -m experiments.rehearsal.subjects
	$(BIN)/python -m experiments.rehearsal.damage
	$(BIN)/python -m experiments.rehearsal.sizes
	$(BIN)/python -m experiments.sensitivity.run

experiments-smollm2: .venv/.ready-all  ## Run the experiments on SmolLM2 and real facts (a night; resumes)
	$(BIN)/python -m experiments.tune smollm2
	$(BIN)/python -m experiments.recovery.run config-smollm2.yaml
	$(BIN)/python -m experiments.recovery.run config-smollm2-phrasings.yaml
	$(BIN)/python -m experiments.forgetting.run smollm2
	$(BIN)/python -m experiments.forgetting.frontier smollm2 npo_gdr unpact_blind_gdr
	$(BIN)/python -m experiments.dilemma.run smollm2
	$(BIN)/python -m experiments.focus.run smollm2
	$(BIN)/python -m experiments.sensitivity.run smollm2
	$(BIN)/python -m experiments.tune smollm2-rehearsal
	$(BIN)/python -m experiments.rehearsal.smollm2

experiments-gemma3: .venv/.ready-all  ## Run the experiments on Gemma 3 270M (about 10 min per cell; resumes)
	$(BIN)/python -m experiments.recovery.run config-gemma3-270m.yaml
	$(BIN)/python -m experiments.recovery.run config-gemma3-270m-rounding.yaml
	$(BIN)/python -m experiments.forgetting.run gemma3-270m
	$(BIN)/python -m experiments.dilemma.run gemma3-270m

experiments-tofu: .venv/.ready-all  ## Run TOFU on SmolLM2 (a night; resumes); TOFU=directory of its tables, or the hub
	$(BIN)/python -m experiments.tofu.run $(or $(TOFU),hub)
	$(BIN)/python -m experiments.focus.run tofu $(or $(TOFU),hub)

bench: .venv/.ready-dev  ## Measure speed and memory compared with named peers
	$(BIN)/python benchmarks/limit.py --grid --out benchmarks/records/limit
	$(BIN)/python benchmarks/attribution.py --output benchmarks/records/attribution
	$(BIN)/python benchmarks/generation.py --output benchmarks/records/generation
	$(BIN)/python benchmarks/decomposition.py --output benchmarks/records/decomposition
	$(BIN)/python benchmarks/decomposition.py --prompt 200 --output benchmarks/records/decomposition
	$(BIN)/python benchmarks/decomposition.py --prompt 1980 --answer 20 --ours-only --repeats 1 --output benchmarks/records/decomposition
	$(BIN)/python benchmarks/unlearning.py --output benchmarks/records/unlearning
	$(BIN)/python benchmarks/unlearning.py --methods --output benchmarks/records/unlearning
	$(BIN)/python benchmarks/scale.py --sizes 0.1,0.5,1 --threads 2 --out benchmarks/records/scale
	$(BIN)/python benchmarks/study.py --size 1 --out benchmarks/records/study/1.json
	$(BIN)/python benchmarks/costs.py

docs: export NO_MKDOCS_2_WARNING := 1
docs: .venv/.ready-docs  ## Build the documentation into site/, warnings are errors, and check it
	$(BIN)/python -m scripts.mathjax
	$(BIN)/mkdocs build --strict
	$(BIN)/python -m scripts.check_site site

docs-version: docs  ## Put the documentation of VERSION on the branch gh-pages; VERSION=0.2 ALIAS=latest
	DOCS_VERSIONS=mike $(BIN)/mike deploy --update-aliases $(VERSION) $(or $(ALIAS),latest)
	$(BIN)/mike set-default $(or $(ALIAS),latest)

gallery: .venv/.ready-dev  ## Draw the gallery of the documentation again (about 2 min)
	$(BIN)/python -m scripts.gallery

notebooks: .venv/.ready-dev  ## Execute the notebooks of the documentation in place
	$(BIN)/python -m scripts.notebooks

api-summary: .venv/.ready-dev  ## Write llms.txt and the first page of the reference again
	$(BIN)/python -m scripts.api_summary

check-install:  ## Install the wheel into a fresh environment and run the README (minutes)
	$(PYTHON) -m scripts.check_install

architectures: .venv/.ready-dev  ## Test tiny models of many architectures and write docs/architectures.md
	$(BIN)/python -m scripts.architectures

lock: .venv/.ready-dev  ## Lock the newest versions that fit pyproject.toml; then run the tests
	$(BIN)/pip install -q uv
	$(BIN)/uv pip compile pyproject.toml --universal --python-version 3.10 --all-extras --no-header --no-annotate -q \
	  -c requirements/torch.txt -c requirements/hooked.txt --excludes requirements/no-lock.txt -o requirements/lock.txt
	$(BIN)/uv pip compile pyproject.toml --universal --python-version 3.10 --all-extras --no-header --no-annotate -q \
	  --generate-hashes -c requirements/lock.txt -c requirements/torch.txt --excludes requirements/no-lock.txt \
	  -o requirements/hashes.txt
	$(BIN)/uv pip compile requirements/build.in --universal --python-version 3.10 --no-header --no-annotate -q \
	  --generate-hashes -o requirements/build.txt

clean:  ## Remove the environment and all built files
	rm -rf .venv site build dist .pytest_cache .mypy_cache .ruff_cache

.venv/.ready: $(SETUP)
	$(PYTHON) scripts/setup_env.py && touch $@

.venv/.ready-smollm2: $(SETUP)
	$(PYTHON) scripts/setup_env.py smollm2 && touch $@ .venv/.ready

.venv/.ready-dev: $(SETUP)
	$(PYTHON) scripts/setup_env.py dev && touch $@ .venv/.ready

.venv/.ready-all: $(SETUP)
	$(PYTHON) scripts/setup_env.py dev smollm2 gemma3 semantic harness && touch $@ .venv/.ready .venv/.ready-dev .venv/.ready-smollm2

.venv/.ready-docs: $(SETUP)
	$(PYTHON) scripts/setup_env.py docs && touch $@ .venv/.ready
