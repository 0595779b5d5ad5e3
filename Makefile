# `make r1` and `make test` do their own set-up in a fresh clone. `make help` lists everything.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
EXTRAS ?= eval,code,dev
TINY := recipes/tiny-r1
# Test files side by side, one a core up to four: most of a test's time is one process that imports torch.
SIDE_BY_SIDE ?= -n auto --maxprocesses 4 --dist loadfile

# $(call need_recipe,step) stops with one line if no recipe was named.
need_recipe = $(if $(RECIPE),,$(error make $(1) needs a recipe: make $(1) RECIPE=recipes/… (make check lists them)))

.PHONY: help install test slow slurm-test check check-data rehearse plan slurm pin new-recipe evidence pages why sft \
	pretrain preferences reward_model dpo grpo generate distill evaluate r1 base study rlaif report profile decontaminate push leaderboard lint clean

help:  ## this list
	@grep -hE '^[a-z0-9_-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | sort | awk -F'\t' '{printf "  make %-14s %s\n", $$1, $$2}'
	@echo "  RECIPE=recipes/… names the recipe; ARGS=\"trainer.learning_rate=1e-5 seed=1\" overrides its values."

install: $(STAMP)  ## the virtual environment with the tested versions (done by the other targets too)

$(STAMP): setup.py requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make $(MAKECMDGOALS) PYTHON=python3.11" >&2; exit 2; }
	@echo "installing the tested versions into $(VENV); once, a few minutes"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint requirements.lock --editable '.[$(EXTRAS)]'
	@touch $@

test: $(STAMP)  ## the fast tests
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) $(ARGS)

slow: $(STAMP)  ## the slow tests
	$(BIN)/python -m pytest -m slow $(SIDE_BY_SIDE) $(ARGS)

slurm-test: $(STAMP)  ## the tests on a real Slurm, which they start themselves (Debian: slurmctld slurmd slurm-client munge)
	$(BIN)/python -m pytest -m slurm $(ARGS)

check-data: $(STAMP)  ## every gold answer of RECIPE's data, passed back through its reward
	$(call need_recipe,$@)
	@$(BIN)/python -m open_r1.gold_check $(RECIPE) $(ARGS)

why: $(STAMP)  ## some completions of RECIPE's latest run: what was extracted, and how it was judged
	@$(BIN)/python -m open_r1.why $(RECIPE) $(ARGS)

check: $(STAMP)  ## every check of RECIPE, or of all recipes, that needs no GPU and no network
	@$(BIN)/python -m open_r1.check $(RECIPE) $(if $(RECIPE),$(ARGS))

rehearse: $(STAMP)  ## two optimizer steps of RECIPE, or of all recipes, on this CPU, with a tiny model and a few rows
	@$(BIN)/python -m open_r1.rehearsal $(RECIPE) $(ARGS)

plan: $(STAMP)  ## memory per GPU, tokens, hours, cost and nodes of RECIPE, before anything is spent
	$(call need_recipe,$@)
	@$(BIN)/python -m open_r1.planning $(RECIPE) $(ARGS)

slurm: $(STAMP)  ## RECIPE as a Slurm job, or a chain of jobs (slurm/site.yaml says where); ARGS=--dry-run only shows it
	$(call need_recipe,$@)
	@$(BIN)/python -m open_r1.slurm $(RECIPE) $(ARGS)

pin: $(STAMP)  ## ask the Hub for the commits of RECIPE's models and data, and write them down
	$(call need_recipe,$@)
	@$(BIN)/python -m open_r1.contributing.pin $(RECIPE) $(ARGS)

new-recipe: $(STAMP)  ## a folder to begin with: make new-recipe NAME=my-grpo FROM=recipes/tiny-r1
	@$(BIN)/python -m open_r1.contributing.new_recipe $(NAME) $(FROM)

evidence: $(STAMP)  ## keep what a finished run gave beside its recipe: make evidence RUN=runs/…
	@$(BIN)/python -m open_r1.contributing.evidence $(RUN)

pages: $(STAMP)  ## the tables in the recipes' READMEs, and recipes/README.md
	@$(BIN)/python -m open_r1.contributing.pages $(ARGS)

pretrain sft preferences reward_model dpo grpo generate distill evaluate: $(STAMP)
	$(call need_recipe,$@)
	@$(BIN)/python -m open_r1.launch $@ $(RECIPE) $(ARGS)

pretrain:  ## a base model from nothing, on the texts of RECIPE
sft:  ## cold start: supervised fine-tuning of RECIPE
preferences:  ## prompts of RECIPE answered, judged by a model, and kept as pairs of a better and a worse answer
reward_model:  ## a number for each answer, learned from the pairs of RECIPE
dpo:  ## direct preference optimization on the pairs of RECIPE
grpo:  ## reinforcement learning with the rewards of RECIPE
generate:  ## prompts of RECIPE answered, judged, and what is right and readable kept as a data set with pass rates
distill:  ## a student learns from a teacher's verified traces, as RECIPE says
evaluate:  ## LightEval on the benchmarks of RECIPE

r1: RECIPE := $(if $(RECIPE),$(RECIPE),$(TINY)/pipeline.yaml)
r1: $(STAMP)  ## the whole R1 pipeline; on this machine's CPU unless RECIPE says otherwise
	@$(BIN)/python -m open_r1.launch pipeline $(RECIPE) $(ARGS)

base: $(STAMP)  ## train the two tiny base models anew and compare them with the shipped ones
	@$(BIN)/python -m open_r1.launch pretrain $(TINY)/base.yaml $(ARGS)
	@$(BIN)/python -m open_r1.launch pretrain $(TINY)/base-student.yaml $(ARGS)
	@$(BIN)/python scripts/ship_model.py --compare runs/$(notdir $(TINY))/base/latest $(TINY)/models/teacher
	@$(BIN)/python scripts/ship_model.py --compare runs/$(notdir $(TINY))/base-student/latest $(TINY)/models/student

study: STUDY := $(TINY)/study
rlaif: STUDY := recipes/tiny-rlaif/pipeline
study rlaif: SEEDS ?= 0 1 2
study rlaif: $(STAMP)
	@for seed in $(SEEDS); do $(BIN)/python -m open_r1.launch pipeline $(STUDY).yaml seed=$$seed $(ARGS) || exit $$?; done
	@$(BIN)/python scripts/results_table.py $(dir $(STUDY)) $(foreach seed,$(SEEDS),$(STUDY:recipes/%=runs/%)/seed$(seed)-*)
	@$(BIN)/python scripts/study_pictures.py $(dir $(STUDY))results.json $(dir $(STUDY))

study:  ## every stage of tiny-r1 with its controls, for SEEDS="0 1 2": the table and pictures of its README
rlaif:  ## feedback from a model in small, with its controls, for SEEDS="0 1 2": the table and the picture of its README

decontaminate: $(STAMP)  ## RECIPE's data (or a file) against the benchmarks, by word n-grams; ARGS="--out FOLDER" keeps the clean rows
	$(call need_recipe,$@)
	@$(BIN)/python -m open_r1.curation.decontaminate $(RECIPE) $(ARGS)

push: $(STAMP)  ## what a run sampled or scored, as a data set on the Hub: make push RUN=runs/… TO=user/name
	@$(BIN)/python -m open_r1.publishing $(RUN) $(TO) $(ARGS)

leaderboard: $(STAMP)  ## every model that was scored, from runs/ and the recipes' evidence
	@$(BIN)/python -m open_r1.leaderboard $(ARGS)

report: $(STAMP)  ## draw the report of a run directory anew: make report RUN=runs/…
	@$(BIN)/python -m open_r1.report $(RUN)

profile: $(STAMP)  ## where the seconds of an optimizer step go: a few steps of RECIPE, or the steps of RUN=runs/…
	@$(BIN)/python -m open_r1.profiling $(RECIPE) $(ARGS) $(if $(RUN),--run $(RUN))

lint: $(STAMP)  ## ruff, as CI runs it
	$(BIN)/python -m ruff check . && $(BIN)/python -m ruff format --check .

clean:  ## remove the virtual environment and caches; runs/ stays
	rm -rf $(VENV) build .pytest_cache .ruff_cache src/*.egg-info
