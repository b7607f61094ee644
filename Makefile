# `make repro` sets everything up and runs the pipeline; `make help` prints all targets.
PYTHON ?= python3
VENV ?= .venv
ENV := $(VENV)/.installed$(if $(filter-out processes:%,$(CLUSTER) $(ENGINES)),-cluster)
RUN := PATH="$(abspath $(VENV))/bin:$$PATH"
PYTEST := python -m pytest --numprocesses logical --dist loadfile --no-loadscope-reorder
DATA = $(if $(DATASET),--dataset "$(DATASET)") $(if $(ARCHIVE),--archive "$(ARCHIVE)") $(if $(SHA256),--sha256 "$(SHA256)")
INSTALL := $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement

.PHONY: help repro report test test-slow test-browser mutants messages fuzz audit lint check verify lock environment docs recommend explore \
	own ranking rating compare sweep show seeds container notebook bench tune comparison fold-in landmarks blocks scale-demo scale-kills scheduler worker splits serving explanations pictures

repro: $(ENV)  ## fetch, extract, split, train, evaluate, recommend and report, then print the results
	@$(RUN) python -m tools.environment --check
	$(RUN) dvc repro
	@$(RUN) python -m tools.results

help:  ## print all targets
	@awk 'match($$0, /  ## /) && /^[a-z-]+:/ { name = $$0; sub(/:.*/, "", name); printf "%-13s%s\n", name, substr($$0, RSTART + 5) }' Makefile

report: $(ENV)  ## draw reports/index.html, the page about the data, the model and its recommendations, and write their cards
	$(RUN) dvc repro report

recommend: $(ENV)  ## USER=42 [K=10]: print a user's favourites and recommendations
	@$(RUN) python -m stages.recommend --user=$(if $(filter command line,$(origin USER)),"$(USER)",$(error say which user: make recommend USER=42)) $(if $(K),--k $(K))

explore: $(VENV)/.installed-explore  ## [PORT=8501]: open a local app to look at users, items and recommendations
	@$(RUN) python -m streamlit run tools/explore.py $(if $(PORT),--server.port $(PORT))

ranking: $(ENV)  ## [DATASET= ARCHIVE=path/to/ml-1m.zip]: run the pipeline with the parameters chosen for ranking
	@$(RUN) python -m tools.preset ranking $(DATA)

rating: $(ENV)  ## [DATASET= ARCHIVE=path/to/ml-1m.zip]: run the pipeline with the parameters chosen for predicting ratings
	@$(RUN) python -m tools.preset rating $(DATA)

own: $(ENV)  ## RATINGS=ratings.csv [ITEMS=items.csv COLUMNS="user=reader item=isbn"]: run the pipeline on files of your own
	@$(RUN) python -m tools.own $(if $(ITEMS),--items "$(ITEMS)") --columns "$(COLUMNS)" -- "$(or $(RATINGS),$(error say which file: make own RATINGS=ratings.csv))"

sweep: $(ENV)  ## SET="train.mf.epochs=5,10 train.mf.l2=1e-6,1e-5" [JOBS=1 SORT=map]: run all combinations, show them sorted
	@$(RUN) python -m tools.sweep $(or $(SET),$(error say what to vary: make sweep SET="train.mf.epochs=5,10")) $(if $(JOBS),--jobs $(JOBS)) $(if $(SORT),--sort $(SORT))

show: $(ENV)  ## [SORT=map]: show this commit's experiments, best first, with what differs between them
	@$(RUN) python -m tools.sweep $(if $(SORT),--sort $(SORT))

seeds: $(ENV)  ## [N=5 JOBS=1]: train with N seeds as experiments: does chance in training or in users matter more?
	@$(RUN) python -m tools.seeds $(if $(N),--count $(N)) $(if $(JOBS),--jobs $(JOBS))

compare: $(ENV)  ## [REV=main MARKDOWN=1]: show what differs from a revision's metrics; fails where one is worse
	@$(RUN) python -m tools.compare $(if $(REV),"$(REV)",main) $(if $(MARKDOWN),--markdown)

verify: $(ENV)  ## [CACHE=folder]: run HEAD from nothing; all must come out as committed; writes reproduction.json
	$(RUN) python -m tools.verify $(if $(CACHE),--cache "$(CACHE)")

check: verify  ## the same as verify

test: $(ENV)  ## run the tests
	$(RUN) $(PYTEST)

test-slow: $(VENV)/.installed-explore $(VENV)/.installed-bench $(VENV)/.installed-cluster  ## run the tests that take minutes: perturbations, kills, sweeps, remotes
	$(RUN) $(PYTEST) -m slow

test-browser: $(VENV)/.installed-explore  ## run the tests that need a browser: Debian's chromium, or Google Chrome
	$(RUN) python -m pytest -m browser

lint: $(ENV)  ## check style and types
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy

SECONDS ?= 300
fuzz: $(ENV)  ## [SECONDS=300]: look for inputs that end in an uncaught exception
	$(RUN) python -m tests.corpora.fuzz --seconds $(SECONDS)

mutants: $(ENV)  ## change the code in two thousand ways, and show the changes that no test notices: about twenty minutes
	$(RUN) mutmut run
	@$(RUN) python -m tests.mutants

messages: $(ENV)  ## write tests/corpora/messages.txt, which the tests compare with
	$(RUN) python -m pytest --messages $(addprefix tests/corpora/test_,bad_*.py broken_*.py disk_and_process.py numbers.py)

audit: $(ENV)  ## check that every package of requirements.lock is installed in its version and that all fit together
	$(RUN) python -m pip check
	$(RUN) python -m pip install --quiet --disable-pip-version-check --dry-run --no-index --require-hashes --requirement requirements.lock
	@echo "Every package of requirements.lock is installed in its version."

container: $(ENV)  ## [ENGINE=podman]: build the Dockerfile's image, run everything in a container, write benchmarks/container.json
	$(RUN) python -m tools.container $(if $(ENGINE),--engine "$(ENGINE)")

notebook: $(ENV)  ## [ARCHIVE=path/to/ml-1m.zip]: reproduce the notebook's published table, and correct it
	$(RUN) python -m tools.notebook $(if $(ARCHIVE),--archive "$(ARCHIVE)") $(if $(SHA256),--sha256 "$(SHA256)")

bench: $(VENV)/.installed-bench  ## [DATASET= ARCHIVE= GROWTH="1000000 5000000"]: measure everything side by side
	$(RUN) python -m benchmarks $(DATA) $(if $(GROWTH),--growth $(GROWTH))

tune: $(VENV)/.installed-bench  ## [MODEL=ranking TRIALS=8 DATASET= ARCHIVE=]: choose parameters on a validation part
	$(RUN) python -m benchmarks.tune $(DATA) $(if $(MODEL),--model $(MODEL)) $(if $(TRIALS),--trials $(TRIALS))

comparison: $(VENV)/.installed-bench  ## [DATASET= ARCHIVE= SPLIT_SEED= SEEDS=5]: measure our models and the tuned peers on the test part
	$(RUN) python -m benchmarks.comparison $(DATA) $(if $(SPLIT_SEED),--split-seed $(SPLIT_SEED)) $(if $(SEEDS),--seeds $(SEEDS))

blocks: $(ENV)  ## [DATASET= ARCHIVE=]: measure training in blocks against training on random batches
	$(RUN) python -m benchmarks.blocks $(DATA)

scale-demo: $(ENV)  ## [RATINGS=5000000 PARTS=4 EPOCHS=2 CLUSTER= ENGINES="local:1 local:2"]: run all stages in parts on synthetic ratings, show what each takes
	$(RUN) python -m benchmarks.scale $(if $(RATINGS),--ratings $(RATINGS)) $(if $(PARTS),--parts $(PARTS)) $(if $(EPOCHS),--epochs $(EPOCHS)) $(if $(ENGINES),--engines $(ENGINES))

scale-kills: $(VENV)/.installed-cluster  ## [RATINGS=5000000]: kill workers, the driver and the scheduler at random moments; the result must be the same
	$(RUN) RATINGS=$(or $(RATINGS),5000000) python -m pytest -m slow tests/parallel/test_workers.py -k killed

ADDRESS ?= tcp://127.0.0.1:8786
HOST = $(if $(findstring 127.0.0.1,$(ADDRESS)),--host 127.0.0.1)
LOCAL := --dashboard-address 127.0.0.1:0 --no-dashboard
scheduler: $(VENV)/.installed-cluster  ## [ADDRESS=tcp://127.0.0.1:8786]: start what hands out the work of make repro CLUSTER=ADDRESS
	$(RUN) python -m distributed.cli.dask_scheduler --host $(ADDRESS) $(LOCAL)

worker: $(VENV)/.installed-cluster  ## [ADDRESS=tcp://127.0.0.1:8786]: start a process that does some of it; several are faster
	$(RUN) TF_NUM_INTRAOP_THREADS=1 TF_NUM_INTEROP_THREADS=1 python -m distributed.cli.dask_worker $(ADDRESS) $(HOST) --nthreads 1 --memory-limit 0 $(LOCAL)

splits: $(ENV)  ## [DATASET= ARCHIVE=]: measure the models under every way to split
	$(RUN) python -m benchmarks.splits $(DATA)

fold-in: $(ENV)  ## [DATASET= ARCHIVE=]: measure users folded in against the same users trained
	$(RUN) python -m benchmarks.fold_in $(DATA)

landmarks: $(ENV)  ## [DATASET= ARCHIVE=]: measure kernel where fewer users stand for all, and at the size of ml-10m
	$(RUN) python -m benchmarks.landmarks $(DATA)

serving: $(VENV)/.installed-bench  ## [DATASET= ARCHIVE=]: measure requests of the exported models beside FAISS, and compare the lists with ours
	$(RUN) python -m benchmarks.serving $(DATA)

explanations: $(ENV)  ## [DATASET= ARCHIVE=]: explain the recommendations of five users
	$(RUN) python -m benchmarks.explanations $(DATA)

pictures: $(VENV)/.installed-explore  ## take the pictures of the report and the app in docs/; needs a browser
	$(RUN) python -m tests.browser.pictures

docs: $(ENV)  ## fill the tables and outputs in README.md and docs/
	$(RUN) python -m tools.docs

environment: $(ENV)  ## list the installed packages that decide the bytes of the stages in environment/
	$(RUN) python -m tools.environment

LOCK := uv pip compile pyproject.toml --universal --python-version 3.11 --fork-strategy fewest --generate-hashes \
	--no-emit-index-url --custom-compile-command "make lock" --quiet
# The largest set goes first and binds the others, so that all four fit into one environment.
lock: $(ENV)  ## pin every dependency that pyproject.toml asks for, with hashes
	$(RUN) $(LOCK) --extra dev --extra explore --extra browser --extra remotes --upgrade --output-file requirements-explore.lock
	$(RUN) $(LOCK) --extra dev --constraints requirements-explore.lock --upgrade --output-file requirements.lock
	$(RUN) $(LOCK) --extra dev --extra bench --constraints requirements-explore.lock --upgrade --output-file requirements-bench.lock
	$(RUN) $(LOCK) --extra dev --extra cluster --constraints requirements-explore.lock --upgrade --output-file requirements-cluster.lock
	$(MAKE) environment

$(VENV)/.installed: requirements.lock
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if (3, 11) <= v < (3, 14) else "error: %s is Python %d.%d; 3.11 to 3.13 is needed: make PYTHON=/path/to/python3.11" % (sys.executable, v[0], v[1]))'
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) requirements.lock
	@touch $@

$(VENV)/.installed-%: requirements-%.lock $(VENV)/.installed
	$(INSTALL) $<
	@touch $@
