# make demo and make test do all the set-up they need; a second call installs nothing again.
#
#   make demo          the three stages on the matches of matches/, then unseen ones: results in runs/demo-0
#   make demo-scratch  the same without stages 1 and 2: results in runs/demo-0/scratch
#   make test          ruff, and the tests, some minutes; make slow: the tests that take longer
#   make proof         the tests that docstrings name ("Proved by test_x"), in less than a minute
#   make lesson        the five files beside their formulas and tests: pages, from build/lesson/index.html
#   make mutants       breaks the code on purpose, one chosen line at a time: does a test notice?
#   make faults        thousands of broken files and flags: each must end in one clear line, or well
#   make search        the tables that its settings are chosen by, on other matches and seeds; some hours, can be stopped
#   make table5        a table of docs/ablation.md (table2 3 4 5 7 8 9 12, table5-32, figure5,
#                      targets, contrast, labels, compute)
#   make ablation      all of them, some hours
#   make speedrun      the race of docs/speedrun.md: three seeds of the demo, timed
#   make gpu           on a machine with a GPU: speed, memory, equality and hours, in 20 minutes
#   make reproduce DATA=frames WEIGHTS=vivit.pth [LABELS=soccernet]     the paper's number on SoccerNet, with its weights
#   make sanitize      the kernels under the address, undefined-behaviour and thread sanitizers
#   make clean-demo    forget runs/demo-0, so that the next make demo trains anew
SHELL  := /bin/bash
export PYTHONUNBUFFERED := 1
.DELETE_ON_ERROR:
PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
PIP    := $(VENV)/bin/pip --disable-pip-version-check

# ---------------------------------------------------------------- set-up
# A check each, so that what is missing is named before pip or the compiler talk about it at length.
$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo "error: Python 3.10 or newer is needed, '$(PYTHON)' is not; try: make PYTHON=python3.11 demo" >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "error: '$(PYTHON)' has no venv; on Debian and Ubuntu: apt install python3-venv" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: requirements.txt | $(VENV)/bin/python
	@echo "installing torch and nine small packages; with torch's CPU build 1.3 GB"
	$(PIP) install -q -r requirements.txt
	@touch $@

$(VENV)/.dev: requirements-dev.txt $(VENV)/.run
	$(PIP) install -q -r requirements-dev.txt
	$(PIP) install -q --no-deps SoccerNet==0.2.0   # the official evaluator; its own needs are not needed
	@touch $@

$(VENV)/.kernels: setup.py $(wildcard csrc/*) $(VENV)/.run
	@echo "building the kernels, about a minute"
	@$(PY) setup.py -q build_ext --inplace > $(VENV)/build.log 2>&1 || { cat $(VENV)/build.log >&2; exit 2; }
	@touch $@

# ---------------------------------------------------------------- checks
.PHONY: test proof lesson slow lint mutants faults gpu sanitize
# A process per core, each with one thread: small networks keep no second one busy.
test: $(VENV)/.dev $(VENV)/.kernels lint
	OMP_NUM_THREADS=1 $(PY) -m pytest -q -n auto --maxprocesses 4 --dist loadfile

proof: $(VENV)/.dev $(VENV)/.kernels
	OMP_NUM_THREADS=1 $(PY) -m pytest -q -m proof

lesson: $(VENV)/.dev $(VENV)/.kernels
	OMP_NUM_THREADS=1 $(PY) docs/lesson.py

slow: $(VENV)/.dev $(VENV)/.kernels
	$(PY) -m pytest -q -m slow

lint: $(VENV)/.dev
	$(PY) -m ruff check -q .

mutants: $(VENV)/.dev $(VENV)/.kernels
	$(PY) tests/mutants.py

faults: $(VENV)/.dev $(VENV)/.kernels
	$(PY) tests/test_faults.py docs/faults.md

# Needs no network: the Python at hand, which has torch, numpy, OpenCV, PyAV, tqdm, matplotlib, pybind11.
GPU_PY ?= $(if $(wildcard $(PY)),$(PY),$(PYTHON))
gpu:
	$(GPU_PY) setup.py -q build_ext --inplace
	set -o pipefail; $(GPU_PY) benchmarks/gpu.py | tee benchmarks/gpu.txt

# For someone with SoccerNet's frames, the released weights and a GPU: half an hour, and a text to send back.
.PHONY: reproduce
reproduce:
	@test -n "$(DATA)" -a -n "$(WEIGHTS)" || { \
	  echo "error: make reproduce DATA=frames WEIGHTS=vivit.pth LABELS=soccernet (docs/soccernet.md)" >&2; exit 2; }
	$(GPU_PY) setup.py -q build_ext --inplace
	$(GPU_PY) benchmarks/reproduce.py --data "$(DATA)" --labels "$(or $(LABELS),$(DATA))" --weights "$(WEIGHTS)"

.PHONY: search ablation table2 table3 table4 table5 table5-32 table7 table8 table9 table12 figure5 targets contrast labels compute
search: $(VENV)/.kernels
	$(PY) benchmarks/ablation.py search

ablation: $(VENV)/.kernels
	$(PY) benchmarks/ablation.py all

table2 table3 table4 table5 table5-32 table7 table8 table9 table12 figure5 targets contrast labels compute: $(VENV)/.kernels
	$(PY) benchmarks/ablation.py $@

sanitize: $(VENV)/.dev
	./tests/fuzz/sanitize.sh $(PY)

# ---------------------------------------------------------------- the demo
# matches/: 60 matches to look at, 12 of them labelled, and 12 unseen ones to be judged on; two halves of 95 s each.
# vivit_micro and windows of 4 s; learning rates are given for the paper's batch and scale to about 1e-3 and 2e-3
# here. What differs from the paper is said in docs/training.md. No setting was chosen on matches/test.txt, but that
# windows of 4 s are good had been seen there before.
SEED   ?= 0
FRAMES := data/demo
RUNS   ?= runs/demo-$(SEED)
COLOR  := --color 0.2 0.2 0.1 0
SMALL  := --data $(FRAMES) --window 4 --batch 64 --windows-per-half 64 $(COLOR) --log-every 50 --seed $(SEED)
STAGE3 := stage3_finetune.py $(SMALL) --split matches/train.txt --labels matches --classes matches/classes.txt \
          --model vivit_micro --prior 0.015 --mask 0
INFER  := infer.py --data $(FRAMES) --split matches/test.txt --labels matches --chance

.PHONY: demo demo-scratch clean-demo
demo: $(RUNS)/test/metrics.json $(RUNS)/curves.png $(RUNS)/timeline.png $(RUNS)/intervals.txt
	@echo; echo "With 95 % intervals over the matches (every class: $(RUNS)/intervals.txt):"
	@sed -n '2,4p' $(RUNS)/intervals.txt; echo
	@echo "watch a match  $(RUNS)/test/<match>/page.html, in a browser"
	@echo "predictions    results_spotting.json, in the same folders"
	@echo "scores, truth  $(RUNS)/timeline.png"
	@echo "loss curves    $(RUNS)/curves.png"
	@echo "every number   $(RUNS)/test/metrics.json"
	@echo "train anew     make clean-demo demo"

$(FRAMES)/.made: matches/labels.csv | $(VENV)/.run
	$(PY) -m comedian.prepare frames --videos matches --out $(FRAMES) --size 48 48
	@touch $@

# Each batch of stage 1 comes from few halves (ours, --halves-per-batch). Most of its clips share kits and
# pitch, so the encoder must look at the play.
$(RUNS)/stage1/last.pt: $(FRAMES)/.made | $(VENV)/.kernels
	$(PY) stage1_spatial.py --data $(FRAMES) --split matches/pretrain.txt --model vivit_micro --out $(RUNS)/stage1 \
	  --steps 600 --batch 128 --lr 2e-3 --momentum 0.95 --negatives batch --head-norm batch --halves-per-batch 4 \
	  --crop-scale 0.6 1 $(COLOR) --log-every 50 --seed $(SEED)

# The teacher, as in the paper a network that was trained on labels: stage 3 alone, on the 12 labelled matches, with
# windows of 32 s. Its tokens of all matches are the bank of stage 2.
$(RUNS)/teacher/last.pt: $(FRAMES)/.made | $(VENV)/.kernels
	$(PY) $(STAGE3) --window 32 --batch 8 --windows-per-half 8 --out $(RUNS)/teacher --head-epochs 0 --steps 450 --lr 0.032

$(RUNS)/features/.made: $(RUNS)/teacher/last.pt
	$(PY) infer.py --data $(FRAMES) --split matches/pretrain.txt --checkpoint $< --features teacher --out $(RUNS)/features
	@touch $@

$(RUNS)/stage2/last.pt: $(RUNS)/stage1/last.pt $(RUNS)/features/.made
	$(PY) stage2_distill.py $(SMALL) --split matches/pretrain.txt --features $(RUNS)/features --features-name teacher \
	  --init $< --out $(RUNS)/stage2 --steps 350 --lr 0.064

$(RUNS)/stage3/last.pt: $(RUNS)/stage2/last.pt
	$(PY) $(STAGE3) --init $< --out $(RUNS)/stage3 --head-epochs 0 --steps 450 --lr 0.064

$(RUNS)/test/metrics.json: $(RUNS)/stage3/last.pt
	$(PY) $(INFER) --checkpoint $< --out $(RUNS)/test --json $@

$(RUNS)/curves.png: $(RUNS)/stage3/last.pt
	$(PY) -m comedian.report curves $(RUNS)/stage[123] --out $@

$(RUNS)/timeline.png: $(RUNS)/test/metrics.json
	$(PY) -m comedian.report page $(RUNS)/test --labels matches --videos matches > $(RUNS)/pages.txt
	$(PY) -m comedian.report timeline $(RUNS)/test --labels matches --out $@

$(RUNS)/intervals.txt: $(RUNS)/test/metrics.json
	$(PY) -m comedian.evaluate --predictions $(RUNS)/test --labels matches --classes matches/classes.txt --only-predicted \
	  --bootstrap 1000 > $@

# The teacher by itself: as many fine-tuning steps, all of them through the whole network, from random weights.
demo-scratch: $(RUNS)/teacher/last.pt
	$(PY) $(INFER) --checkpoint $< --out $(RUNS)/scratch --json $(RUNS)/scratch/metrics.json

clean-demo:
	rm -rf $(RUNS)

# Each seed from nothing, so that the time is a run's.
.PHONY: speedrun
speedrun: $(FRAMES)/.made $(VENV)/.kernels
	$(PY) benchmarks/speedrun.py
