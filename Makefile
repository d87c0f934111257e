# Every target sets up what it needs in .venv first; there is nothing to install by hand.
PYTHON ?= python3
PROFILE ?= smoke
STAMP := .venv/.installed

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help reproduce test soak bench docs pins FORCE

help: ## print this
	@echo 'AutoScale. Targets:'
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-11s%s\n", $$1, $$2}' Makefile
	@echo 'Variables:'
	@echo '  PROFILE=smoke      what to reproduce: a file in nbs/paper/profiles, without its .yml; where none'
	@echo '                     is given, smoke, and mini redrawn from its committed records'
	@echo '  ONLY=solver        make bench: only the notebooks of nbs/bench with this in their name'
	@echo '  SMOKE=1            make bench: at a size of seconds, to see that they work; into build/bench/smoke'
	@echo '  PYTHON=python3     the Python that .venv is made with'
	@echo '  PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu'
	@echo '                     pip reads this one: torch for Linux without CUDA (0.2 GB instead of several)'

reproduce: $(STAMP) ## run the experiment of PROFILE from text to weights and figures; what is done already is kept
	@.venv/bin/autoscale reproduce --profile "$(PROFILE)"
	@$(if $(filter file,$(origin PROFILE)),$(REDRAW))

# Nobody who asked for no profile gets hours of training: a `--fresh` of mini that was killed has moved the committed records away.
define REDRAW
if .venv/bin/python -c 'import sys; from autoscale.reproduce import recorded; sys.exit(not recorded("mini"))'; then .venv/bin/autoscale reproduce --profile mini; \
else echo 'mini is not redrawn, for records that figures/mini lists are not in nbs/paper/records/mini: train them with `.venv/bin/autoscale reproduce --profile mini` (hours), or get the committed ones back with `git checkout figures/mini nbs/paper/records/mini`'; fi
endef

test: $(STAMP) ## run every test, the notebooks among them, two at a time
	@HF_HUB_OFFLINE=1 MPLBACKEND=Agg .venv/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations=10

soak: $(STAMP) ## what takes too long for make test: a hundred kills, a thousand runs, a gigabyte of text (about 20 minutes)
	@HF_HUB_OFFLINE=1 MPLBACKEND=Agg .venv/bin/python -m pytest -m soak -s --durations=0

bench: $(STAMP) ## time the package against the alternatives, side by side: records, pictures and a table in figures/bench
	@MPLBACKEND=Agg .venv/bin/python -m autoscale.bench $(if $(SMOKE),--smoke) $(if $(ONLY),--only "$(ONLY)")

docs: $(STAMP) ## build the site from the notebooks, offline, into build/docs/html; a warning is an error
	@mkdir -p build
	@if .venv/bin/python -c 'import sys; from autoscale.reproduce import recorded; sys.exit(not recorded("mini"))'; \
	then echo 'Executing the notebooks of mini from their records, where they are not up to date (about a minute)'; .venv/bin/autoscale reproduce --profile mini >build/docs.log; \
	else echo 'docs: the records of mini are not all here, so its notebooks are not executed; `git checkout figures/mini nbs/paper/records/mini` gets the committed ones back'; fi
	@.venv/bin/autoscale reproduce --source published >>build/docs.log
	@.venv/bin/python docs/stage.py
	@.venv/bin/python -m sphinx -W --keep-going -q -j auto -b html -c docs -d build/docs/doctrees build/docs/source build/docs/html
	@echo 'Written to build/docs/html; open build/docs/html/index.html'

# The stamp is written last and removed first: after an interrupted set-up .venv is built anew, and so it is where the path in
# the stamp is another one, for a virtual environment that was copied or moved still runs the package of its old folder.
STALE := $(shell test -x .venv/bin/python && test "$$(cat $(STAMP) 2>/dev/null)" = "$$(pwd -P)" || echo stale)
$(STAMP): constraints.txt settings.ini setup.py pyproject.toml $(if $(STALE),FORCE)
	@command -v "$(PYTHON)" >/dev/null || { echo 'There is no $(PYTHON) here; name another: make PYTHON=python3.11 $(MAKECMDGOALS)' >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.version_info >= (3, 11, 5) or sys.exit("constraints.txt needs Python 3.11.5 or later (known good: 3.11) and $(PYTHON) is %s; name another: make PYTHON=python3.11 $(MAKECMDGOALS)" % sys.version.split()[0])'
	@echo 'Setting up .venv with the versions of constraints.txt: about 2 minutes and 3 GB. Later calls skip this.'
	@rm -f $@
	@"$(PYTHON)" -m venv $(if $(STALE),--clear) .venv
	@.venv/bin/python -m pip install -qq --no-input --disable-pip-version-check -c constraints.txt -e '.[train,paper,frameworks,docs,dev]'
	@pwd -P > $@

pins: ## write constraints.txt and environment.yml from what is installed in .venv
	@.venv/bin/python -m pip freeze --all --exclude-editable --exclude pip > .venv/freeze.txt
	@{ echo '# Exact versions of everything that make installs into .venv, direct and transitive; they work together on Python 3.11 (3.11.5 or later).'; \
	   echo '# To refresh: upgrade in .venv (.venv/bin/python -m pip install --upgrade ...), run make pins, which writes environment.yml too, then make test.'; \
	   sed 's/+.*//' .venv/freeze.txt; } > constraints.txt.tmp-
	@{ echo '# The versions of constraints.txt for conda; written by make pins.'; \
	   printf 'name: autoscale\nchannels:\n  - conda-forge\n  - nodefaults\ndependencies:\n  - python=3.11\n  - pip\n  - pip:\n'; \
	   sed -n 's/^[^#]/      - &/p' constraints.txt.tmp-; \
	   echo '      - -e .[train,paper,frameworks,docs,dev]'; } > environment.yml.tmp-
	@mv constraints.txt.tmp- constraints.txt && mv environment.yml.tmp- environment.yml
