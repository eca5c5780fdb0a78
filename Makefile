# The project's commands. `make help` lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN := $(BIN)/python -m src.run
DEMO := runs/demo
export OMP_NUM_THREADS ?= $(shell nproc 2>/dev/null || echo 2)

.PHONY: help demo ablations bench test check quick slow torture mutants accelerator lock clean
help:  ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

$(VENV)/.ready: requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Zeitlupe needs Python 3.11 or newer: make PYTHON=<python3.11>"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	@touch $@

demo: $(VENV)/.ready  ## restore a built-in clip with released weights; train a mini Zooming SlowMo, compare it, restore with it (minutes)
	$(RUN) task=prepare data=procedural
	$(RUN) task=restore input=datasets/procedural/test/scene_0000.mp4 output=$(DEMO)/twice_as_large.mp4 max_frames=8 overwrite=true
	$(RUN) experiment=zsm_vimeo data=procedural size=mini trainer.max_steps=$(or $(STEPS),300) logger=csv paths.runs=$(DEMO) resume=true
	$(RUN) task=evaluate model=blend data=procedural size=mini paths.runs=$(DEMO) resume=true
	$(RUN) task=restore input=datasets/procedural/test/scene_0000.mp4 output=$(DEMO)/restored.mp4 max_frames=8 overwrite=true \
	    checkpoint=$$(ls -t $(DEMO)/zsm_vimeo/*/seed=0/checkpoints/last.ckpt | head -n 1)
	@echo "Numbers: $(DEMO)/*/*/seed=0/results.json   Pictures: $(DEMO)/zsm_vimeo/*/seed=0/samples   Videos: $(DEMO)/*.mp4"

ablations: $(VENV)/.ready  ## run every table of the papers and write a report: SIZE=mini SEEDS=0,1,2 DATA=procedural STEPS= FRAMES= AT_ONCE= RUNS= RETRY=true MORE=
	PYTHON=$(BIN)/python SIZE=$(SIZE) SEEDS=$(SEEDS) DATA=$(DATA) STEPS=$(STEPS) FRAMES=$(FRAMES) AT_ONCE=$(AT_ONCE) RUNS=$(RUNS) RETRY=$(RETRY) \
	    MORE="$(MORE)" STUDIES="$(STUDIES)" experiments/ablations.sh

bench: $(VENV)/.ready  ## time all five networks against the floor of their convolutions, into experiments/speed (minutes)
	rm -rf runs/bench
	$(RUN) experiment=$(or $(BENCH),speed) hydra.run.dir=runs/bench
	cp runs/bench/results.json experiments/speed/$(or $(BENCH),speed).json
	cp runs/bench/plot.svg experiments/speed/$(or $(BENCH),speed).svg

test: $(VENV)/.ready  ## set up the environment, then check
	@$(MAKE) --no-print-directory check

check:  ## format, lint, types, import floors, tests, in the existing environment
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto

quick:  ## run lint and the tests that start no process, for the loop at the keyboard (under two minutes)
	$(BIN)/ruff check .
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto -m "not slow and not accelerator and not long"

slow: $(VENV)/.ready  ## run the tests that take minutes: whole benchmarks, trainings, several processes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow -n auto

torture: $(VENV)/.ready  ## kill trainings and restorations in every way and compare the results, into experiments/trust (half an hour)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.torture --kills $(or $(KILLS),50) --others $(or $(OTHERS),6) --out experiments/trust

mutants: $(VENV)/.ready  ## make lines of src/ wrong, one at a time, and list those that no fast test notices: COUNT= SEED= SINCE=<revision> FILE=
	$(BIN)/python -m tests.mutants --count $(or $(COUNT),100) --seed $(or $(SEED),0) $(if $(SINCE),--since $(SINCE)) $(if $(FILE),--file $(FILE))

accelerator:  ## run everything that needs a CUDA device, under ten minutes: PART=zsm|speed|edvr|deblur|wdvr|dsfn|vtsr; PYTHON=, OUT=, DATA= folder of videos
	PART=$(PART) PYTHON=$(PYTHON) experiments/accelerator.sh $(or $(OUT),runs/accelerator) $(DATA)

lock: $(VENV)/.ready  ## pin the installed packages
	$(BIN)/python -m pip freeze --exclude-editable | sed 's/^torch==\([0-9.]*\)+.*/torch==\1/' > requirements.lock

clean:  ## remove the environment and caches, not runs and data sets
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
