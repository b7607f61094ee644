# `make repro` sets everything up and runs the pipeline; `make test` runs the tests.
PYTHON ?= python3
VENV ?= .venv
ENV := $(VENV)/.installed
RUN := PATH="$(abspath $(VENV))/bin:$$PATH"
PYTEST := python -m pytest --numprocesses logical --dist loadfile

.PHONY: repro report test test-slow test-browser messages fuzz audit lint check lock notebook recommend bench ranking rating \
	tune comparison compare sweep fold-in explore pictures

repro: $(ENV)  ## fetch, extract, split, train, evaluate, recommend and report, then print the results
	$(RUN) dvc repro
	@$(RUN) python -m tools.results

report: $(ENV)  ## the page about the data, the model and its recommendations: reports/index.html
	$(RUN) dvc repro report

test: $(ENV)  ## run the tests
	$(RUN) $(PYTEST)

test-slow: $(VENV)/.installed-explore  ## run the tests that take minutes: perturbations, kills, sweeps, remotes
	$(RUN) $(PYTEST) -m slow

test-browser: $(VENV)/.installed-explore  ## the tests that need a browser: Debian's chromium, or Google Chrome
	$(RUN) python -m pytest -m browser

messages: $(ENV)  ## write tests/messages.txt, which the tests compare with
	$(RUN) python -m pytest --messages tests/test_bad_*.py tests/test_broken_*.py tests/test_disk_and_process.py tests/test_numbers.py

SECONDS ?= 300
fuzz: $(ENV)  ## [SECONDS=300]: look for inputs that end in an uncaught exception
	$(RUN) python -m tools.fuzz --seconds $(SECONDS)

audit: $(ENV)  ## check that every package of requirements.lock is installed in its version and that all fit together
	$(RUN) python -m pip check
	$(RUN) python -m pip install --quiet --disable-pip-version-check --dry-run --no-index --require-hashes --requirement requirements.lock
	@echo "Every package of requirements.lock is installed in its version."

lint: $(ENV)  ## check style and types
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy

check: $(ENV)  ## run the pipeline from nothing: dvc.lock and metrics must come out as they are committed
	$(RUN) python -m tools.check

notebook: $(ENV)  ## ARCHIVE=path/to/ml-1m.zip: the published table, reproduced and corrected
	$(RUN) python -m tools.notebook $(if $(ARCHIVE),--archive "$(ARCHIVE)") $(if $(SHA256),--sha256 "$(SHA256)")

recommend: $(ENV)  ## USER=42 [K=10]: a user's favourites and recommendations
	@$(RUN) python -m stages.recommend --user $(if $(filter command line,$(origin USER)),$(USER),$(error say which user: make recommend USER=42)) $(if $(K),--k $(K))

explore: $(VENV)/.installed-explore  ## [PORT=8501]: a local app to look at users, movies and recommendations
	@$(RUN) python -m tools.explore $(if $(PORT),--port $(PORT))

bench: $(VENV)/.installed-bench  ## [DATASET=ml-1m ARCHIVE=path/to/ml-1m.zip GROWTH="1000000 5000000"]: measure everything side by side
	$(RUN) python -m benchmarks $(DATA) $(if $(GROWTH),--growth $(GROWTH))

DATA := $(if $(DATASET),--dataset "$(DATASET)") $(if $(ARCHIVE),--archive "$(ARCHIVE)") $(if $(SHA256),--sha256 "$(SHA256)")

ranking: $(ENV)  ## [ARCHIVE=path/to/ml-1m.zip]: run the pipeline with the parameters chosen for ranking
	@$(RUN) python -m tools.preset ranking $(DATA)

rating: $(ENV)  ## [ARCHIVE=path/to/ml-1m.zip]: run the pipeline with the parameters chosen for predicting ratings
	@$(RUN) python -m tools.preset rating $(DATA)

tune: $(VENV)/.installed-bench  ## [MODEL=ranking TRIALS=8 DATASET= ARCHIVE=]: choose parameters on a validation part
	$(RUN) python -m benchmarks.tune $(DATA) $(if $(MODEL),--model $(MODEL)) $(if $(TRIALS),--trials $(TRIALS))

comparison: $(VENV)/.installed-bench  ## [DATASET= ARCHIVE=]: measure our models and the tuned peers on the test part
	$(RUN) python -m benchmarks.comparison $(DATA)

pictures: $(VENV)/.installed-explore  ## take the README's pictures of the report and the app; needs a browser
	$(RUN) python -m tools.pictures

fold-in: $(ENV)  ## [DATASET= ARCHIVE=]: measure people folded in against the same people trained
	$(RUN) python -m benchmarks.fold_in $(DATA)

compare: $(ENV)  ## REV=main [MARKDOWN=1]: this run's metrics against a revision's; fails where one is worse
	@$(RUN) python -m tools.compare $(if $(REV),"$(REV)",main) $(if $(MARKDOWN),--markdown)

sweep: $(ENV)  ## SET="train.epochs=5,10 train.l2=1e-6,1e-5" [JOBS=1 SORT=map]: queue the grid, run it, show the sorted results
	@$(RUN) python -m tools.sweep $(or $(SET),$(error say what to vary: make sweep SET="train.epochs=5,10")) $(if $(JOBS),--jobs $(JOBS)) $(if $(SORT),--sort $(SORT))

LOCK := uv pip compile pyproject.toml --universal --python-version 3.11 --fork-strategy fewest --generate-hashes \
	--no-emit-index-url --custom-compile-command "make lock" --quiet
# The largest set goes first and binds the others, so that all three fit into one environment.
lock: $(ENV)  ## pin every dependency that pyproject.toml asks for, with hashes
	$(RUN) $(LOCK) --extra dev --extra explore --extra browser --extra remotes --upgrade --output-file requirements-explore.lock
	$(RUN) $(LOCK) --extra dev --constraints requirements-explore.lock --upgrade --output-file requirements.lock
	$(RUN) $(LOCK) --extra dev --extra bench --constraints requirements-explore.lock --upgrade --output-file requirements-bench.lock

$(ENV): requirements.lock
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if (3, 11) <= v < (3, 14) else "error: %s is Python %d.%d; 3.11 to 3.13 is needed: make PYTHON=/path/to/python3.11" % (sys.executable, v[0], v[1]))'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements.lock
	@touch $@

$(VENV)/.installed-bench: requirements-bench.lock $(ENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements-bench.lock
	@touch $@

$(VENV)/.installed-explore: requirements-explore.lock $(ENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements-explore.lock
	@touch $@
