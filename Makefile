# `make` alone lists the verbs.
PYTHON ?= $(firstword $(foreach version,3.11 3.12 3.13,$(shell command -v python$(version) 2>/dev/null)) python3)
BIN := .venv/bin
BASE := .venv/.base
DONE := .venv/.installed

help:
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

$(BASE): pyproject.toml constraints.txt
	@echo "Making the environment in .venv (a minute or two, once)"
	@$(PYTHON) -m venv .venv 2>/dev/null || { rm -rf .venv; $(PYTHON) -m pip install --quiet --user virtualenv 2>/dev/null || $(PYTHON) -m pip install --quiet --break-system-packages virtualenv; $(PYTHON) -m virtualenv --quiet .venv; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[demo,simulation]'
	@touch $(BASE)

$(DONE): $(BASE)
	@echo "Adding torch, Ray and what the tests need"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[deep,demo,dicom,docs,files,postgres,ray,simulation,test]'
	@touch $(DONE)

install: $(DONE) ## make the environment in .venv

demo: $(BASE) ## a federated study on real data, in out/demo
	@$(BIN)/hdh simulate dialysis --out out/demo

federation: $(BASE) ## the whole story on loopback: a hub, four producers, enrolment, approval, a study, the result
	@$(BIN)/python -m simulations.story out/federation

check: $(DONE) ## formatting, lint, types, import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: check ## all checks and tests
	$(BIN)/pytest -m 'not slow' -n 2 --dist loadfile --ignore tests/flow --ignore tests/fault/test_deployment.py
	$(BIN)/pytest -m 'not slow' -n 3 --dist loadfile tests/flow tests/fault/test_deployment.py  # whole federations, which wait for one another

oracle: $(DONE) ## run R again (docs/analyses.md says which packages), and compare with the committed numbers
	$(BIN)/python -m tests.oracle.rerun

bench: $(DONE) ## the figures of benchmarks/README.md, as ratios
	$(BIN)/python -m benchmarks.run

PEERS := .venv-peers/.installed
$(PEERS): benchmarks/peers/requirements.txt
	@$(PYTHON) -m venv .venv-peers
	@.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check --requirement benchmarks/peers/requirements.txt
	@touch $(PEERS)

peers: $(PEERS) $(DONE) ## make .venv-peers, the programs that figures are compared with (R comes from apt)
	@.venv-peers/bin/python -m pip list --disable-pip-version-check | grep -Ei '^(flwr|lightgbm|pfl|pyfixest|ray|torch) '
	@$(BIN)/python -m pip list --disable-pip-version-check | grep -Ei '^(duckdb|lifelines|scikit-learn) '
	@Rscript --version || echo "R is not installed; docs/analyses.md says which packages of apt"

big: $(DONE) ## a node larger than its memory: 1e8 rows of 20 columns, 3 GB of Parquet (an hour on two cores)
	$(BIN)/python -m benchmarks.large 1e8

tutorials: $(DONE) ## follow every tutorial and page "from ..." as it is written
	$(BIN)/pytest -m '' tests/flow/test_tutorials.py

slow: $(DONE) ## the tests that take minutes
	$(BIN)/pytest -m slow

luck: $(DONE) ## the tests of one process with other noise, for tests that pass by chance
	for seed in 2 3 4; do HDH_TEST_SEED=$$seed $(BIN)/pytest -q -m 'not slow' -n 2 --dist loadfile --ignore tests/flow --ignore tests/fault/test_deployment.py || exit 1; done

soak: $(DONE) ## fifty nodes for half an hour, coming and going, one study after the other
	$(BIN)/python -m benchmarks.soak

chaos: $(DONE) ## a hundred SIGKILLs over every process of a federation, and a node stopped for a minute
	$(BIN)/python -m benchmarks.chaos

ports: $(DONE) ## every port of a hub under every attack: the latency of others, memory, recovery (15 minutes)
	$(BIN)/python -m benchmarks.ports

gallery: $(DONE) ## write docs/pilots.md and its figures from a run of every pilot
	@$(BIN)/python -m simulations.pilots.gallery

docs: $(DONE) ## build the site of docs/ in out/site; a warning ends it
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "out/site/index.html"

proto: $(DONE) ## make the code of federation/rpc from its .proto files
	$(BIN)/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. --grpc_python_out=. federation/rpc/hub.proto
	$(BIN)/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. federation/rpc/exchange.proto

translations: $(DONE) ## bring the French texts up to date with the code, and compile them
	@$(BIN)/python -m tests.catalogue

bundle: $(DONE) ## make aggregator/bundle.fab, whose hash nodes/flower/client.py knows
	$(BIN)/python -c "from pathlib import Path; from flwr.cli.build import build_fab_from_disk as build; Path('aggregator/bundle.fab').write_bytes(build(Path('aggregator/bundle')))"

lock: $(DONE) ## write deploy/locked.txt, the versions and hashes of the offline bundle, from constraints.txt
	$(BIN)/python -m deploy.dist --lock

dist: $(DONE) ## the wheel, the offline bundle and their checksums, in dist/ (docs/install.md)
	$(BIN)/python -m deploy.dist

dist-test: $(DONE) ## install the bundle of `make dist` for each role and Python of this machine, with the network cut
	$(BIN)/pytest -m '' tests/flow/test_packaging.py

audit: $(DONE) ## attack every private analysis a thousand times, and break the engine on purpose
	$(BIN)/python -m tests.privacy.audit
	$(BIN)/python -m tests.privacy.lying_hub
	$(BIN)/python -m tests.privacy.fuzz
	$(BIN)/python -m tests.fault.fuzz_messages

format: $(DONE) ## put the code into its format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## remove the environment and all that was made
	rm -rf .venv out dist build *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

.PHONY: help install demo check dist dist-test lock test luck oracle bench peers big tutorials slow soak chaos ports gallery docs proto translations bundle federation audit format clean
