# make demo   the whole path on the examples, with a server and a database of its own
# make up     set up, and keep the server running     make down   stop it
# make test   everything that must hold              make lint   format and clippy only
# make bench  the benches                            make setup  install what is missing
# make chaos  nodes killed, frozen and cut off under 2,000 jobs, and nothing lost
#
# On a fresh Debian as root each of them installs what it needs; otherwise it says what to install.

export PATH := $(HOME)/.cargo/bin:$(PATH)

STEP := scripts/step
SETUP := scripts/setup.sh $(if $(WITH_DOCKER),--with-docker)
DEBUG := target/debug/tako-vm
RELEASE := target/release/tako-vm

.DEFAULT_GOAL := help
.PHONY: help setup demo up down test lint bench chaos

help:
	@sed -n 's/^# \{0,1\}//p' Makefile

setup:
	@$(STEP) "Looking for what the build needs" $(SETUP)

demo: setup
	@$(STEP) "Building (the first time takes minutes)" cargo build --workspace
	@$(STEP) "Running the examples" scripts/demo.sh $(DEBUG)

up: setup
	@$(STEP) "Building for speed (the first time takes minutes)" cargo build --workspace --release
	@$(STEP) "Starting PostgreSQL and the server" $(RELEASE) dev up --with-server

down:
	@if [ -x $(RELEASE) ]; then $(RELEASE) dev down; \
	elif [ -x $(DEBUG) ]; then $(DEBUG) dev down; \
	else echo "nothing was ever built, so nothing runs"; fi

lint:
	@$(STEP) "Checking the format" cargo fmt --all --check
	@$(STEP) "Linting" cargo clippy --workspace --all-targets --quiet -- -D warnings

test: setup lint
	@$(STEP) "Building the tests" cargo test --workspace --no-run
	@$(STEP) "Testing" cargo test --workspace
	@$(STEP) "Checking the model of claims" scripts/model.sh

bench: setup
	@$(STEP) "Measuring" cargo bench

chaos: setup
	@$(STEP) "Building the tests" cargo test --test it --no-run
	@$(STEP) "Killing nodes under load" env TAKO_VM_TEST_JOBS=2000 cargo test --test it fleet:: -- --nocapture
	@$(STEP) "Killing containers of a cluster under load" docker/cluster-test.sh
	@$(STEP) "Killing a server at every step" env TAKO_VM_TEST_CRASH_POINTS=all cargo test --test it faults::crash -- --nocapture
	@$(STEP) "Taking away what it stands on" cargo test --test it faults:: -- --nocapture --test-threads 2 --skip faults::crash
