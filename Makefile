# The commands of this workspace. Each sets up what it needs first; a set-up that is up to date costs a fraction of a second.
#   TORCH=cpu|cuda   build of torch (default: the one installed; at first cuda where an NVIDIA driver is loaded, else cpu)
#   PYTHON=…         interpreter for .venv (default: the first Python 3.10 to 3.13 found)
#   ARGS="…"         options passed on: make demo ARGS="--seconds 30 --viewer"; make test ARGS="-k layers"
.DEFAULT_GOAL := help
SHELL := /bin/sh
.PHONY: help setup demo test adversarial bags fuzz chaos soak lint clean

export TORCH PYTHON
# Idle OpenMP threads that spin take the cores from the other processes of the loop.
export OMP_WAIT_POLICY ?= PASSIVE

PY := .venv/bin/python
# Every suite runs from here; a long one gets a target of its own with its own marks.
SUITE = $(wildcard src/*/test test)
# What talks over DDS or builds packages keeps to times of the real clock, and has the machine to itself.
ALONE = stack or workspace

help:
	@echo "make demo    the robot's twin and the policy as processes, 60 s of simulated tasks; passes ARGS on"
	@echo "make test    style, unit tests, package builds and the whole stack; passes ARGS to pytest"
	@echo "make adversarial  10 000 model outputs of the worst kind, twice, and 100 000 messages to the stopped gate; some minutes"
	@echo "make fuzz    10 000 malformed messages and 1 000 connections to a policy server; some minutes"
	@echo "make bags    five minutes of the twin in bags of every storage kind, converted, trained on and replayed; forty minutes"
	@echo "make chaos   half an hour of injected faults; passes ARGS on (a later --minutes wins)"
	@echo "make soak    an hour without faults in which memory must not grow; passes ARGS on"
	@echo "make setup   only what the others begin with (no ROS 2 needed; a sourced one is used)"
	@echo "make lint    only the style"
	@echo "make clean   removes all that set-up and build made"

setup:
	@tools/setup

demo: setup
	@.venv/bin/dreamzero demo $(ARGS)

# All parts run even if one fails; the last line says how each went, and the exit status follows it. ARGS may select
# tests of one part only: pytest's status 5, none ran, is a failure only if both parts say so.
test: setup
	@$(PY) -m ruff check . && style=clean || style='FAILED (see above, or: make lint)'; \
	OMP_NUM_THREADS=1 $(PY) -m pytest $(SUITE) -m 'not ($(ALONE))' -n auto --maxprocesses 4 --dist loadfile $(ARGS); beside=$$?; \
	$(PY) -m pytest $(SUITE) -m '$(ALONE)' $(ARGS); alone=$$?; \
	case $$beside$$alone in 00|05|50) tests=passed;; 55) tests='FAILED (none ran)';; \
	*) tests="FAILED (pytest status $$beside beside each other, $$alone alone)";; esac; \
	echo "make test: style $$style, tests $$tests"; \
	[ "$$style $$tests" = 'clean passed' ]

adversarial: setup
	@ADVERSARIAL_OUTPUTS=10000 GATE_MESSAGES=100000 $(PY) -m pytest \
	  src/dreamzero_policy/test/runtime/test_adversarial.py $(wildcard src/agibot_bringup/test/safety_gate/test_adversarial*.py) $(ARGS)

bags: setup
	@BAG_SECONDS=300 $(PY) -m pytest test/test_storage_kinds.py $(ARGS)

fuzz: setup
	@FUZZED_MESSAGES=10000 CONNECT_CYCLES=1000 $(PY) -m pytest -rP $(addprefix src/dreamzero_policy/test/inference/server/,test_malformed_input.py test_growth.py) $(ARGS)

chaos: setup
	@.venv/bin/dreamzero chaos --minutes 30 $(ARGS)

soak: setup
	@.venv/bin/dreamzero chaos --no-faults --minutes 60 $(ARGS)

lint: setup
	@$(PY) -m ruff check .

clean:
	rm -rf .venv build install log .pytest_cache .ruff_cache .hypothesis
	rm -f src/*/*/runtime/_kernels*.so
