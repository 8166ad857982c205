# Needs Python 3.11 to 3.14, git and bash; everything else is installed into .venv. `make help` lists the targets.
SHELL := bash
.DEFAULT_GOAL := help
.PHONY: help train report figures ablation levels study test robustness bench audit env lab clean

DATASET = $(if $(filter bench,$(MAKECMDGOALS)),phone,ml-100k)
PARAMS =
ARGS =
PYTHON =
VENV = .venv
BIN = $(VENV)/bin

quote = '$(subst ','\'',$(1))'
# Each NAME=value given to make is a parameter of the notebook, so a misspelt one is refused there and not lost here.
# Only the command line counts: NAME or DEVICE in somebody's environment are not meant for us.
given = $(sort $(filter-out DATASET PARAMS ARGS PYTHON VENV,$(foreach v,$(.VARIABLES),$(if $(filter command,$(firstword $(origin $v))),$v))))
# The study has data sets of its own; a DATASET that is given reaches it all the same, to be refused.
dataset = $(if $(filter-out study,$@)$(filter command,$(firstword $(origin DATASET))),-p dataset $(call quote,$(DATASET)))
parameters = $(dataset) $(foreach v,$(given),-p $(shell echo $v | tr A-Z a-z) $(call quote,$($v)))

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "%-19s %s\n", $$1, $$2 }'
	@echo
	@echo '  make train DATASET=tool EPOCHS=50 WIDTHS="[4, 8, 16]"   any notebook parameter, in capitals'
	@echo '  make train PARAMS="-p epochs 50 -r name 007"           or anything that papermill takes'
	@echo '  make test ARGS="-k widths"                             arguments for pytest'

train: $(VENV)/.installed ## train on DATASET (ml-100k) and leave a run directory; EPOCHS=50 SEED=1 ... are passed on
	$(call execute,train)

report: $(VENV)/.installed ## train on DATASET, make its controls, and write reports/<dataset>.html; EPOCHS=50 CORE=10 ...
	$(call execute,report,train controls evaluate ablation hierarchy)

figures: $(VENV)/.installed ## train what is missing on DATASET and write figures/<dataset>-*: figures and tables of a paper
	$(call execute,figures)

ablation: $(VENV)/.installed ## what each stage of the recipe gives on DATASET: figures/<dataset>-stages.*, reports/stages.csv; trains what is missing
	$(call execute,ablation)

levels: $(VENV)/.installed ## what each width knows of true taxonomies, beside models that are not nested: reports/levels.csv, figures/levels.*; trains what is missing, hours; PROTOTYPES=true adds reports/prototypes.csv
	$(call execute,levels)

study: $(VENV)/.installed-study ## every model on every data set: reports/study.*, in a night; DRY_RUN=true says how long, HOURS=2 ... are passed on
	$(call execute,study)

test: $(VENV)/.installed-test ## lint and run the whole test suite, a file at a time in each of two processes
	$(BIN)/ruff check mrl tests notebooks
	$(BIN)/ruff format --check mrl tests notebooks
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

robustness: $(VENV)/.installed-test ## every fault and bad input in full, with 100 kills; writes reports/robustness.md
	$(BIN)/python -m pytest -m robustness --fault-report=reports/robustness.md $(ARGS)

bench: $(VENV)/.installed-bench ## time training and evaluation on DATASET (phone), as data grow, and beside implicit: reports/benchmark.csv
	$(call execute,benchmark)

audit: $(VENV)/audit/bin/pip-audit ## look up known vulnerabilities of every pinned version
	$< --strict --no-deps --disable-pip -r constraints.txt

env: $(VENV)/.installed ## set up .venv, nothing else

lab: $(VENV)/.installed-explore ## open working copies of the notebooks in JupyterLab, in lab/, which git ignores
	@mkdir -p lab runs # kernels run in lab/: there, runs/ is to be the same as for make train
	@test -e lab/runs || ln -s ../runs lab/runs
	@$(BIN)/python notebooks/copies.py copy lab
	$(BIN)/jupyter lab lab

clean: ## remove .venv and caches; runs/ and downloaded data stay
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find mrl tests notebooks -name __pycache__ -o -name .ipynb_checkpoints | xargs rm -rf

# pip compiles one file after the other, compileall with all cores; what does not compile (templates) is left as it is.
define install
$(BIN)/python -m pip install --no-compile -c constraints.txt -e '.$(1)'
@$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true
@touch $(VENV)/.installed $@
endef

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/pip
	$(call install)

# The extras of pyproject.toml: .installed-test, .installed-explore, .installed-study, .installed-bench,
# .installed-serve, .installed-databases, .installed-hub.
$(VENV)/.installed-%: pyproject.toml constraints.txt | $(BIN)/pip
	$(call install,[$*])

# Apart from what it audits; --strict because a version that could not be looked up is not a safe one.
$(VENV)/audit/bin/pip-audit: | $(BIN)/pip
	$(BIN)/python -m venv $(VENV)/audit
	$(VENV)/audit/bin/pip install --quiet pip-audit==2.10.1

$(BIN)/pip:
	@for python in $(or $(PYTHON),python3 python3.14 python3.13 python3.12 python3.11 python); do \
	  if "$$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' 2>/dev/null; then found=$$python; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
	  echo 'make: no Python 3.11 to 3.14 $(if $(PYTHON),at $(PYTHON),found); name one: make env PYTHON=/path/to/python3' >&2; \
	  exit 1; \
	fi; \
	echo "Using $$("$$found" --version) ($$(command -v "$$found"))"; \
	"$$found" -m venv $(VENV) || { \
	  echo "make: $$found cannot make a virtual environment; on Debian and Ubuntu: apt install python3-venv" >&2; \
	  exit 1; \
	}

# Execute notebooks/$(1).ipynb, which itself executes $(2). A line for each that is not as committed comes first: an
# editor that saves by itself may have changed it. What the notebook prints, progress bars included, goes through `cat`
# to the terminal as it comes: a pipe can be opened as /dev/stdout wherever our own output goes. Papermill's own stderr
# is kept in a log, out of which a failure shows the notebook's error and not papermill's call stack. cat must outlive
# Ctrl-C to show the last words.
define execute
@set -o pipefail; mkdir -p runs/notebooks; \
$(BIN)/python notebooks/copies.py edits $(1) $(2); \
name=$(if $(dataset),$$(basename $(call quote,$(DATASET)))-)$(1); out="runs/notebooks/$$name.ipynb"; log="runs/notebooks/$$name.log"; \
echo "Executing notebooks/$(1).ipynb as $$out"; \
$(BIN)/papermill --no-progress-bar --log-level ERROR --stdout-file /dev/stdout --stderr-file /dev/stdout \
  notebooks/$(1).ipynb "$$out" $(parameters) $(PARAMS) 2>"$$log" | (trap '' INT; exec cat) || { \
  if grep -q '^Aborted!' "$$log"; then \
    echo "Interrupted; the same command goes on from the last checkpoint" >&2; exit 130; \
  fi; \
  echo "Failed; the notebook as far as it came: $$out" >&2; \
  if grep -q '^Exception encountered' "$$log"; then sed -n '/^Exception encountered/,$$p' "$$log"; else cat "$$log"; fi \
    | sed '/^[[:space:]]*$$/d' >&2; \
  exit 1; \
}; \
echo "Executed notebook: $$out"
endef
