# The commands of this workspace. Each sets up what it needs first; a set-up that is up to date costs a fraction of a second.
#   TORCH=cpu|cuda   build of torch (default: cuda where an NVIDIA driver is loaded, else cpu)
#   PYTHON=…         interpreter for .venv (default: the first Python 3.11, 3.12 or 3.13 found)
#   ARGS="…"         options passed on: make demo ARGS="--seconds 30 --viewer"; make test ARGS="-k layers"
.DEFAULT_GOAL := help
SHELL := /bin/sh
.PHONY: help setup demo test lint clean

export TORCH PYTHON
# Idle OpenMP threads that spin take the cores from the other processes of the loop.
export OMP_WAIT_POLICY ?= PASSIVE

PY := .venv/bin/python
# pytest's folders; a later suite adds its own target with its own marks.
SUITE := src/*/test test

help:  ## show this list
	@echo "make demo    run the robot twin and the policy, 60 s; ARGS are passed on"
	@echo "make test    style, unit, layer, build and whole-stack tests; ARGS go to pytest"
	@echo "make setup   only the set-up the others begin with (no ROS 2 needed; a sourced one is used)"
	@echo "make lint    only the style"
	@echo "make clean   remove everything that set-up and build made"

setup:  ## .venv, pinned packages, colcon build
	@tools/setup

demo: setup  ## the whole loop, in simulation
	@.venv/bin/dreamzero demo $(ARGS)

test: setup  ## everything that says whether this checkout works
	@tools/test $(ARGS)

lint: setup
	@$(PY) -m ruff check .

clean:
	rm -rf .venv build install log .pytest_cache .ruff_cache .hypothesis
