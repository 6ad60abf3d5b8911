"""
What these tests prove about every stage's runs (comedian/run.py, and the loops of the stages):
  1. a run that is killed at any moment, again and again, ends in the bits of one never stopped, and
     so does its log; SIGTERM, Ctrl-C and SIGHUP finish the step, save, and say how to go on
  2. two processes equal one: the same draws, the same queue, the same bank; what differs is the
     order of sums
  3. the log says what happened, once; a folder belongs to one run at a time
  4. a mistake is one line and exit code 2, before anything is written; a loss that is not finite
     and too little memory say what to do
  5. on a terminal and off it a pipeline makes the same bits; torch.compile computes the same

In-process runs go through a script's main; others are forks of one server that has imported the
stages, so that a start costs no seconds, or processes as a user starts them.
"""
import argparse
import contextlib
import csv
import ctypes
import fcntl
import json
import multiprocessing
import os
import pty
import random
import re
import shlex
import shutil
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
from dataclasses import asdict, replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from conftest import CLASSES, N_FRAMES, ROOT, refused
from torch.utils._pytree import keystr, tree_flatten_with_path

import infer
import model
import stage1_spatial as stage1
import stage2_distill as stage2
import stage3_finetune as stage3
from comedian import DataError, draw
from comedian import run as plumbing
from comedian.checkpoint import save_checkpoint

SCRIPTS = {1: stage1, 2: stage2, 3: stage3}
PRELOAD = [*(script.__name__ for script in SCRIPTS.values()), "torch._dynamo"]    # AdamW imports it
COMMON = "--model vivit_micro --workers 1 --device cpu --lr 0.01 --seed 5 --log-every 2"
OPTIONS = {1: "--batch 8 --queue 40 --epochs 6 --warmup-epochs 1 --steps {n}",
           2: "--batch 4 --window 8 --features-name teacher --steps {n}",
           3: "--batch 4 --window 8 --head-steps {half} --steps {half}"}
BATCH = {1: 8, 2: 4, 3: 4}
PER_STEP = {1: 2, 2: 1, 3: 2}         # how often a step computes a loss
SECOND = {1: "top-1", 2: "divergence", 3: "base"}         # what is logged beside the loss
SMALL = replace(model.MODELS["vivit_micro"], embed_dim=32, num_heads=(2,), temporal_heads=2,
                head_width=64)
DRAW = draw.curves
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
every_stage = pytest.mark.parametrize("stage", SCRIPTS)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Runs train a small network and do not draw, unless a shell starts them. Signals do again what
    they did before a run that was broken off."""
    monkeypatch.setitem(model.MODELS, "vivit_micro", SMALL)
    monkeypatch.setattr(draw, "curves", lambda *args: None)
    before = {s: signal.getsignal(s) for s in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def command_line(stage, matches, out, n, *more):
    """sys.argv of a stage's run of n steps on the tiny matches."""
    return [f"{SCRIPTS[stage].__name__}.py", "--data", str(matches), "--out", str(out),
            *f"{COMMON} {OPTIONS[stage]}".format(n=n, half=n // 2).split(),
            *(["--classes", str(matches / "classes.txt")] if stage == 3 else []), *more]


def run(stage, matches, out, *more, n=6):
    """The same through the script's main in this process; returns the last checkpoint."""
    script = SCRIPTS[stage]
    script.main(script.parse_args(command_line(stage, matches, out, n, *more)[1:]))
    return model.load_checkpoint(Path(out) / "last.pt")


def child(argv, printed, environment):
    """What a forked process does: the script, as if called from a shell; prints into a file."""
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)          # a shell's background ignores
    signal.signal(signal.SIGHUP, signal.SIG_DFL)                      # one, nohup the other
    torch.set_num_threads(1)
    model.MODELS["vivit_micro"], draw.curves = SMALL, lambda *args: None
    sys.argv = argv
    script = __import__(argv[0].removesuffix(".py"))
    with open(printed, "a") as file, contextlib.redirect_stdout(file), \
            contextlib.redirect_stderr(file):
        plumbing.run_as_command(script.main, script.parse_args(argv[1:]))


@pytest.fixture(scope="session")
def launch():
    """launch(argv, ranks=1) -> the started processes of a run; rank r prints into <--out>.<r>. With
    until_a_line: when the run has logged its first line, or ended."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*PRELOAD, __name__])

    def start(argv, ranks=1, until_a_line=False):
        out, places = argv[argv.index("--out") + 1], [{}]
        if ranks > 1:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                together = dict(WORLD_SIZE=str(ranks), MASTER_ADDR="127.0.0.1",
                                MASTER_PORT=str(probe.getsockname()[1]))
            places = [dict(RANK=str(r), LOCAL_RANK=str(r), **together) for r in range(ranks)]
        processes = [context.Process(target=child, args=(argv, f"{out}.{rank}", place))
                     for rank, place in enumerate(places)]
        for process in processes:
            process.start()
        log = Path(out, "log.txt")
        while until_a_line and processes[0].is_alive() and not (log.exists() and log.read_text()):
            time.sleep(0.01)
        return processes

    return start


def finish(*processes):
    """Waits for all; their exit codes."""
    for process in processes:
        process.join(120)
        assert process.exitcode is not None, "still running after two minutes"
    return [process.exitcode for process in processes]


def numbers(out):
    """The lines of a run's log.txt without what depends on the clock: step, loss and what is beside
    it, rate, gradient."""
    return [line.split(" | ")[:6] for line in (out / "log.txt").read_text().splitlines()]


def assert_same_bits(a, b):
    """In two checkpoints, but for their "args"."""
    (a, form), (b, other) = (
        tree_flatten_with_path({key: value for key, value in state.items() if key != "args"})
        for state in (a, b))
    assert form == other
    for (where, x), (_, y) in zip(a, b, strict=True):
        assert type(x) is type(y), keystr(where)
        assert torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y, keystr(where)


def assert_same_runs(a, b):
    """What was saved last, and the logs."""
    assert_same_bits(*(model.load_checkpoint(out / "last.pt") for out in (a, b)))
    assert numbers(a) == numbers(b)


def die_in(step, monkeypatch):
    """Makes the n-th training step from here end after backward, before the weights move, as if
    the process had died: its lock is gone."""
    clip, lock, steps, held = torch.nn.utils.clip_grad_norm_, plumbing.lock, [], []
    monkeypatch.setattr(plumbing, "lock", lambda folder: held.append(lock(folder)) or held[-1])

    def dying(*args):
        steps.append(1)
        if len(steps) == step:
            monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", clip)
            os.close(held.pop())
            raise KeyboardInterrupt
        return clip(*args)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", dying)


# ------------------------------------------------------------------ 1. killed, stopped, resumed
RESUMED = {                           # stage, options, the step of its end, of its checkpoint
    "stage 1": (1, [], 6, 3),
    "stage 1, few halves": (1, ["--halves-per-batch", "2", "--negatives", "batch"], 4, 3),
    "stage 2, complete bank": (2, [], 6, 3), "stage 2, queue": (2, ["--bank", "queue"], 5, 4),
    "stage 3, in its head phase": (3, [], 2, 1), "stage 3, at the seam": (3, [], 6, 3),
    "stage 3, in its full phase": (3, [], 5, 4),
    "stage 3, cached head phase": (3, ["--head-phase", "temporal"], 2, 1)}


@pytest.mark.parametrize("stage, options, killed_in, saved", RESUMED.values(), ids=RESUMED)
def test_resume_is_exact(stage, options, killed_in, saved, matches, tmp_path, monkeypatch):
    """To the bits of a run never stopped, its log too: means reach back, lines come once."""
    monkeypatch.setitem(model.MODELS, "vivit_micro", replace(SMALL, drop_path=0.2))
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    options = [*options, "--save-every", str(saved), "--log-every", "4"]
    run(stage, matches, whole, *options)
    die_in(killed_in, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        run(stage, matches, killed, *options)
    assert model.load_checkpoint(killed / "last.pt")["step"] == saved
    assert (killed / "log.txt").exists() == (killed_in > 4)      # a line of step 4: lost, if at 6
    torch.manual_seed(99)                                 # a new process has another random state
    np.random.seed(99)
    assert run(stage, matches, killed, *options, "--resume")["step"] == 6
    assert_same_runs(whole, killed)
    assert len(numbers(whole)) == 2


@pytest.mark.parametrize("stage", [1, *(pytest.param(s, marks=pytest.mark.slow) for s in (2, 3))])
def test_killed_again_and_again(stage, matches, tmp_path, launch):
    """Three times at random while it saves after every step or starts; the end is the same."""
    def start(name, *more):
        return launch(command_line(stage, matches, tmp_path / name, 30, "--save-every", "1", *more))

    def saved_at():
        return last.stat().st_mtime_ns if last.exists() else 0

    rng, last = random.Random(0), tmp_path / "killed/last.pt"
    assert finish(*start("whole")) == [0], (tmp_path / "whole.0").read_text()
    for killed in range(3):
        before, (process,) = saved_at(), start("killed", *["--resume"] * last.exists())
        while killed < 2 and process.is_alive() and saved_at() == before:
            time.sleep(0.002)
        process.join(rng.uniform(0, 0.1))                 # it lasts longer on any machine
        process.kill()
        assert finish(process) == [-signal.SIGKILL], (tmp_path / "killed.0").read_text()
    assert finish(*start("killed", "--resume")) == [0], (tmp_path / "killed.0").read_text()
    assert_same_runs(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.parametrize("stage, number", [*zip(SCRIPTS, SIGNALS, strict=True)])
def test_asked_to_stop(stage, number, matches, tmp_path, launch):
    """The step is finished and saved, far from --save-every; the printed line goes on there."""
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    argv = command_line(stage, matches, stopped, 30)
    other, = launch(command_line(stage, matches, whole, 30))
    process, = launch(argv, until_a_line=True)
    os.kill(process.pid, number)
    assert finish(process, other) == [128 + number, 0]
    printed = (tmp_path / "stopped.0").read_text()
    step = int(re.search(r"stopped after step (\d+); saved", printed)[1])
    assert 2 <= step < 30 and model.load_checkpoint(stopped / "last.pt")["step"] == step
    line = shlex.split(re.search(r"To continue: python (.*)", printed)[1])
    assert line == [*argv, "--resume"] and finish(*launch(line)) == [0]
    assert_same_runs(whole, stopped)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_second_signal_ends_the_process_at_once(number, monkeypatch, capsys):
    """The first is only noted; after it, and after the loop, signals do what they did before."""
    for s in SIGNALS:                                     # whoever started the tests
        if signal.getsignal(s) == signal.SIG_IGN:
            signal.signal(s, signal.SIG_DFL)
    before = {s: signal.getsignal(s) for s in SIGNALS}
    monkeypatch.setattr(sys, "argv", ["stage1_spatial.py", "--data", "a b", "--resume"])
    stop = plumbing.Stop()
    assert not stop.requested() and signal.getsignal(number) == stop.note
    os.kill(os.getpid(), number)
    assert stop.requested() and signal.getsignal(number) == before[number]
    with pytest.raises(SystemExit, match=f"^{128 + number}$"):
        stop.exit_if_requested("stage 1: stopped after step 3")
    assert {s: signal.getsignal(s) for s in SIGNALS} == before
    assert capsys.readouterr().out == ("stage 1: stopped after step 3; saved. To continue: python "
                                       "stage1_spatial.py --data 'a b' --resume\n")


def test_asking_one_process_stops_all(matches, tmp_path, launch):
    """In the same step: otherwise the others would wait for it for ever."""
    out = tmp_path / "run"
    pair = launch(command_line(3, matches, out, 2000), 2, until_a_line=True)
    os.kill(pair[1].pid, signal.SIGTERM)
    assert finish(*pair) == [128 + signal.SIGTERM] * 2
    printed = (tmp_path / "run.0").read_text()
    step = int(re.search(r"stopped after step (\d+)", printed)[1])
    assert "To continue: torchrun ... stage3_finetune.py" in printed
    assert model.load_checkpoint(out / "last.pt")["step"] == step < 2000


@every_stage
def test_a_killed_process_ends_all(stage, matches, tmp_path, launch):
    """In one line that says how to go on, wherever the others wait for it."""
    pair = launch(command_line(stage, matches, tmp_path / "run", 2000, "--save-every", "1"), 2,
                  until_a_line=True)
    time.sleep(random.random())
    pair[1].kill()
    assert finish(*pair) == [2, -signal.SIGKILL]
    *before, line = (tmp_path / "run.0").read_text().splitlines()
    assert line == ("error: another process of this run has ended, killed or with its own error "
                    "line; continue with --resume") and not any("error" in text for text in before)


@pytest.mark.parametrize("command, code, out", [
    (["infer.py"], -signal.SIGINT, ""), (["-m", "comedian.bank"], -signal.SIGINT, ""),
    (["-m", "comedian.check", "--help"], 0, "usage: python -m comedian.check")])
def test_interrupted_while_torch_is_imported(command, code, out, tmp_path):
    """Not a word. And --help of the check, which reads no torch for it, is no report."""
    (tmp_path / "torch.py").write_text("raise KeyboardInterrupt")
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True,
                          env=os.environ | {"PYTHONPATH": str(tmp_path)}, check=False)
    assert (done.returncode, done.stderr) == (code, "")
    assert done.stdout.startswith(out) and "packages" not in done.stdout


def test_stopped_before_the_first_step(capsys):
    with pytest.raises(SystemExit, match="^130$"):
        plumbing.run_as_command(Mock(side_effect=KeyboardInterrupt), None)
    assert capsys.readouterr().err == "error: stopped before anything was saved\n"


def test_a_resumed_run_needs_no_init(matches, tmp_path):
    """What --init gave is in the checkpoint: the file may be gone."""
    first = tmp_path / "1/last.pt"
    run(1, matches, tmp_path / "1", n=2)
    for options in ([], ["--resume"]):
        for stage in (2, 3):
            run(stage, matches, tmp_path / str(stage), "--init", str(first), *options, n=2)
        first.unlink(missing_ok=True)


# ------------------------------------------------------------------ 2. two processes equal one
TWO = {"stage 1": (1, []), "stage 1, in two passes": (1, ["--accumulate", "2"]),
       "stage 1, batch as negatives": (1, ["--negatives", "batch", "--head-norm", "batch"]),
       "stage 2, complete bank": (2, []),
       "stage 2, queue, in two passes": (2, ["--bank", "queue", "--accumulate", "2"]),
       "stage 3, in two passes": (3, ["--batch", "8", "--accumulate", "2"]),
       "stage 3, cached head phase, validated": (3, ["--head-phase", "temporal", "--valid-every",
                                                     "1", "--windows-per-half", "2"])}


@pytest.mark.parametrize("stage, more", TWO.values(), ids=TWO)
def test_two_processes_equal_one(stage, more, matches, tmp_path, launch):
    """The log to its four digits. Weights: after 6 steps two ways of summing a gradient in float32
    have moved the network apart by less than 1 % of the way it went."""
    if "--valid-every" in more:
        more = [*more, "--valid", str(matches)]
    if stage == 2:                    # whoever comes first would write it into the data
        more = [*more, "--centroids", str(tmp_path)]
    outs = one, two, start = [tmp_path / name for name in ("one", "two", "start")]
    everyone = [*launch(command_line(stage, matches, one, 6, *more)),
                *launch(command_line(stage, matches, two, 6, *more), ranks=2),
                *launch(command_line(stage, matches, start, 2, *more, "--lr", "0"))]
    assert finish(*everyone) == [0, 0, 0, 0], (tmp_path / "two.0").read_text()
    ours, others, before = (model.load_checkpoint(out / "last.pt")["model"] for out in outs)
    apart = sum((ours[name] - others[name]).double().norm() ** 2 for name in ours) ** 0.5
    moved = sum((ours[name] - before[name]).double().norm() ** 2 for name in ours) ** 0.5
    assert moved > 0.01 and apart < 0.01 * moved
    first, second = ([[float(part.split()[1]) for part in line[2:]]   # loss, its second, lr, grad
                      for line in numbers(out) if "loss" in line[2]] for out in (one, two))
    assert len(first) == 3
    np.testing.assert_allclose(second, first, rtol=2e-3, atol=2e-4)
    printed = (tmp_path / "two.1").read_text()
    assert "step 2/6" not in printed and "done" not in printed, "only rank 0 speaks"


def test_two_processes_share_the_matches(matches, tmp_path, launch):
    """infer.py: each spots its own, the first one scores. The files of one process, to the byte."""
    cfg, written = model.with_changes(SMALL, window_tokens=16, classes=CLASSES), {}
    save_checkpoint(tmp_path / "3.pt", stage=3, step=1, config=asdict(cfg),
                    model=model.Comedian(cfg).state_dict())
    for ranks in (1, 2):
        out = tmp_path / f"of_{ranks}"
        argv = ["infer.py", "--data", str(matches), "--checkpoint", str(tmp_path / "3.pt"),
                "--out", str(out), "--json", f"{out}.json",
                *"--device cpu --workers 1 --batch 5".split()]
        assert finish(*launch(argv, ranks)) == [0] * ranks, Path(f"{out}.0").read_text()
        texts = [Path(f"{out}.{rank}").read_text() for rank in range(ranks)]
        assert ["t-AmAP" in text for text in texts] == [True, False][:ranks]
        minutes = re.search(r"infer: ([\d.]+) min of video", texts[0])[1]
        metrics = json.loads(Path(f"{out}.json").read_text())
        metrics.pop("receipt")                             # it names the folder
        written[ranks] = [minutes, metrics, *(
            (path.relative_to(out), path.read_bytes())
            for path in sorted(out.rglob("results_spotting.json")))]
    assert written[1] == written[2] and len(written[1]) == 4


def test_bfloat16_by_rule_is_kept(matches, tmp_path, monkeypatch, capsys):
    """Stored in the checkpoint, printed, and resumed as it was on a machine of another kind."""
    for pays, options in ((True, []), (False, ["--resume"])):
        monkeypatch.setattr(plumbing, "bf16_pays_on_cpu", lambda flags, width, pays=pays: pays)
        assert run(1, matches, tmp_path, *options, n=2)["args"]["bf16"] is True
        assert "on 1 x cpu, bf16 on" in capsys.readouterr().out
    assert run(1, matches, tmp_path / "flag", "--bf16", n=1)["args"]["bf16"] is True
    assert run(1, matches, tmp_path / "rule", n=1)["args"]["bf16"] is False


@pytest.mark.parametrize("flags, width, pays", [
    ({"amx_bf16", "avx2"}, 192, True), ({"avx512_bf16"}, 768, True), ({"amx_bf16"}, 128, False),
    ({"avx2", "avx512f"}, 768, False), (set(), 384, False)])
def test_the_rule_of_bfloat16(flags, width, pays):
    """ViT-T is 192 wide, ViT-S 384, Swin-T 768, the demo's network 128."""
    assert plumbing.bf16_pays_on_cpu(flags, width) is pays
    assert {"vivit_tiny": 192, "vivit_small": 384, "viswin_tiny": 768} == {
        name: cfg.width for name, cfg in model.MODELS.items() if cfg.width >= 192}


def test_flags_of_this_processor():
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    assert ("avx2" in plumbing.cpu_flags()) == (" avx2 " in text)


@pytest.mark.slow
def test_torchrun(matches, tmp_path):
    """The README's line, as a user types it."""
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
         *command_line(1, matches, tmp_path / "two", 2)],
        cwd=ROOT, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    assert "2 steps of 8 clips on 2 x cpu" in done.stdout and done.stdout.count("done;") == 1
    assert model.load_checkpoint(tmp_path / "two" / "last.pt")["step"] == 2


def test_samples_are_dealt_out_in_order():
    def dealt(ranks, **batch):
        return [(s.start, s.stop) for rank in range(ranks)
                for s in plumbing.micro_batches(argparse.Namespace(**batch), rank, ranks)]

    assert dealt(3, batch=24, accumulate=2) == [(i, i + 4) for i in range(0, 24, 4)]
    assert dealt(2, batch=6, accumulate=1, mixup=0) == [(0, 3), (3, 6)]
    assert dealt(3, batch=6, accumulate=1, mixup=0.1) == [(0, 2), (2, 4), (4, 6)]
    with pytest.raises(DataError, match="--batch 24 cannot be split evenly into 5 processes"):
        dealt(5, batch=24, accumulate=2)
    with pytest.raises(DataError, match="passes of 3 splits the pairs of windows that --mixup mix"):
        dealt(2, batch=6, accumulate=1, mixup=0.1)


def test_half_of_torchruns_variables(monkeypatch):
    """Some clusters set WORLD_SIZE alone."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(DataError, match="RANK: this environment variable .* start with torchrun"):
        plumbing.join_processes("cpu")


# ------------------------------------------------------------------ 3. the log and the folder
LINE = (r"stage {} \| step \d+/6 \| loss \d+\.\d{{4}} \| {} \d+\.\d{{4}} \| lr \d\.\d\de-\d\d "
        r"\| grad \d+\.\d\d \| \d+ clips/s \| \d+\.\d GB \| [\d:]+ left")


@every_stage
def test_log_and_checkpoint(stage, matches, tmp_path, monkeypatch):
    """A line's loss is the mean over its steps and their passes, averaged for the gradient."""
    losses, backward, out = [], torch.Tensor.backward, tmp_path / "run"
    monkeypatch.setattr(torch.Tensor, "backward", lambda t: losses.append(t.item()) or backward(t))
    monkeypatch.setattr(draw, "curves", DRAW)
    options = ["--accumulate", "2", "--log-every", "4"]
    state = run(stage, matches, out, *options)
    lines = (out / "log.txt").read_text().splitlines()
    assert all(re.fullmatch(LINE.format(stage, SECOND[stage]), line) for line in lines)
    assert [line.split(" | ")[1] for line in lines] == ["step 4/6", "step 6/6"]
    logged = [float(line[2].split()[1]) for line in numbers(out)]
    steps = np.reshape(losses, (6, 2)).sum(1)             # the two halves of a mean
    assert logged == pytest.approx([steps[:4].mean(), steps[4:].mean()], abs=6e-5)
    assert state["stage"] == stage and state["step"] == 6
    assert state["args"]["batch"] == BATCH[stage] and state["config"].model == "vivit_micro"
    files = {path.name for path in out.iterdir() if "tfevents" not in path.name}
    assert files == {"curves.png", "last.pt", "log.txt", "log.csv", "run.json"}
    with open(out / "log.csv") as file:
        rows = list(csv.DictReader(file))
    columns = ["step", "loss", SECOND[stage], "lr", "grad", "clips/s", "GB"]
    assert [list(row) for row in rows] == 2 * [columns]
    assert [[row["step"], row["loss"], row["GB"]] for row in rows] == [
        [cells[1].split()[1].split("/")[0], cells[2].split()[1], cells[-2].split()[0]]
        for cells in (line.split(" | ") for line in lines)]
    torch.load(out / "last.pt", weights_only=True)
    with pytest.raises(DataError, match="this run exists already; add --resume or choose another"):
        run(stage, matches, out)
    (out / "curves.png").unlink()                          # killed before the picture was drawn
    assert_same_bits(run(stage, matches, out, *options, "--resume"), state)       # nothing to do
    assert (out / "curves.png").exists()
    first, second = json.loads((out / "run.json").read_text())       # one for each start
    assert (first["from_step"], second["from_step"]) == (0, 6)
    assert first["flags"]["log_every"] == 4 and first["torch"] == torch.__version__
    assert first["data"] == {"matches": 2, "halves": 4, "frames": 200, "fps": [2.0]}


def new_log(folder, first=0):
    return plumbing.Log(folder, "stage 1", first, 6, torch.device("cpu"),
                        lambda step: [f"of_step_{step}.png"])


def test_the_log_is_cut_back_to_the_checkpoint(tmp_path):
    """To step 4, or to nothing; half a line goes; what others wrote stays, in any encoding."""
    lines = [b"stage 1 | step 2/6 | loss 1.0000\n", b"my note: warmer than step 9/6\n",
             b"\xff\xfe caf\xe9\n", b"stage 1 | step 5/6 | loss 0.4000\n",
             b"stage 1 | step 4/6 | loss 0.5000\n", b"\n",
             b"stage 1 | step 10/6 | loss 0.3000\n", b"stage 1 | step 1"]
    log = tmp_path / "log.txt"
    for first, kept in ((4, [0, 1, 2, 4, 5]), (0, [1, 2, 5])):
        log.write_bytes(b"".join(lines))
        new_log(tmp_path, first).close()
        assert log.read_bytes() == b"".join(lines[i] for i in kept)


def test_a_folder_belongs_to_one_run(matches, tmp_path, launch):
    """A second run is refused; the lock of one that was killed is gone."""
    process, = launch(command_line(1, matches, tmp_path / "run", 4000, "--log-every", "1"),
                      until_a_line=True)
    with pytest.raises(DataError, match="run: another run is writing there; wait for its end or "
                                        "choose another --out"):
        run(1, matches, tmp_path / "run", n=2)
    process.kill()
    finish(process)
    log = new_log(tmp_path / "run")
    with pytest.raises(DataError, match="another run is writing there"):
        new_log(tmp_path / "run")
    log.close()
    new_log(tmp_path / "run").close()                     # one that ended gives it back


@pytest.mark.parametrize("loss, norm", [(float("nan"), 1.0), (1.0, float("inf"))])
def test_what_is_not_finite_is_remembered(loss, norm, tmp_path):
    """The loss, or the gradient alone: the first such step is named, with its files."""
    log = new_log(tmp_path)
    for step, (value, of_gradient) in enumerate([(1.0, 1.0), *2 * [(loss, norm)], (1.0, 1.0)], 1):
        log.add(step, {"loss": torch.tensor(value)}, torch.tensor(of_gradient), 8)
    for ask in (lambda: log.state(4), lambda: log.line(4, 0.1)):
        with pytest.raises(DataError, match="^step 2: the loss or its gradient is not finite. Its "
                           "batch begins with of_step_2.png .*no checkpoint yet"):
            ask()
    log.close()
    assert (tmp_path / "not_finite_step_2.txt").read_text() == "of_step_2.png\n"


@every_stage
def test_a_loss_that_is_not_finite_ends_the_run(stage, matches, tmp_path, monkeypatch):
    """Step and files are named, though nobody looked for three steps; last.pt is still good."""
    name, calls = {1: "moco_loss", 2: "sce_loss", 3: "bce_loss"}[stage], []
    original = getattr(SCRIPTS[stage], name)

    def spoilt(*args):
        calls.append(1)
        result = original(*args)
        if len(calls) != 2 * PER_STEP[stage] + 1:         # the first of step 3
            return result
        return (result[0] * torch.nan, result[1]) if stage < 3 else result * torch.nan

    monkeypatch.setattr(SCRIPTS[stage], name, spoilt)
    with pytest.raises(DataError, match="^step 3: the loss or its gradient is not finite.* the "
                       f"last good checkpoint is {tmp_path}/last.pt") as error:
        run(stage, matches, tmp_path, "--save-every", "2", "--log-every", "6")
    state = model.load_checkpoint(tmp_path / "last.pt")
    assert state["step"] == 2 and all(v.isfinite().all() for v in state["model"].values())
    named = (tmp_path / "not_finite_step_3.txt").read_text().splitlines()
    assert all(Path(file).exists() for file in named) and named[0] in str(error.value)
    assert len(named) == BATCH[stage]


def test_tensorboard_if_there_is_one(tmp_path, monkeypatch):
    monkeypatch.setattr(plumbing, "SummaryWriter", writer := Mock())
    log = new_log(tmp_path, first=2)
    log.add(3, {"loss": torch.tensor(2.0), "top-1": torch.tensor(0.5)}, torch.tensor(1.5), 8)
    log.line(3, lr=0.1)
    log.close()
    writer.assert_called_once_with(tmp_path, purge_step=3)             # a resume after step 2
    *scalars, speed = [call.args for call in writer.return_value.add_scalar.call_args_list]
    assert scalars == [("loss", 2.0, 3), ("top-1", 0.5, 3), ("lr", 0.1, 3), ("grad", 1.5, 3)]
    assert speed[0] == "clips_per_s"
    assert writer.return_value.method_calls[-1][0] == "close"
    monkeypatch.setattr(plumbing, "SummaryWriter", None)
    new_log(tmp_path).close()


# ------------------------------------------------------------------ 4. mistakes
MISTAKES = {                          # stage, options, the one line
    "no such folder": (1, "--data nowhere", "nowhere: no such folder"),
    "too few clips": (1, "--batch 120", "99 clips are fewer than one --batch of 120"),
    "uneven parts": (1, "--accumulate 3", "--batch 8 cannot be split evenly into 1 processes"),
    "parted pairs": (3, "--batch 6 --accumulate 2",
                     "--batch 6 in passes of 3 splits the pairs of windows that --mixup mixes"),
    "nothing to resume": (1, "--resume", "last.pt: no such checkpoint"),
    "a file for a folder": (1, "--out /dev/null",
                            "/dev/null: is a file, not a folder; choose another --out"),
    "no features": (2, "--features-name resnet",
                    "1_resnet.npy: no teacher features for this half; check --features and "
                    "--features-name (the folder has teacher)"),
    "long windows": (2, "--window 99", "no half is as long as a window"),
    "no such stage 1": (2, "--init nowhere.pt", "nowhere.pt: no such checkpoint"),
    "an epoch without a batch": (2, "--steps 0 --epochs 1 --batch 99 --windows-per-half 3",
                                 "too few windows for one step (12 an epoch, --batch 99)"),
}


@pytest.mark.parametrize("stage, options, message", MISTAKES.values(), ids=MISTAKES)
def test_mistakes(stage, options, message, matches, tmp_path):
    with refused(message, unmade=tmp_path / "run"):
        run(stage, matches, tmp_path / "run", *options.split())


def test_freed_memory_is_kept():
    """Each of ten tensors of 40 MB gets 10,000 new pages of glibc; afterwards those of others."""
    if not hasattr(ctypes.CDLL(None), "mallopt"):
        pytest.skip("this C library has no mallopt")
    code = """
import resource, torch
from comedian import run
def faults():
    for i in range(20):               # in the first ten the heap finds its size
        torch.ones(10_000_000)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt if i < 10 else before
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(faults(), run.join_processes("cpu") and faults())"""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, check=True,
                          capture_output=True, text=True)
    before, after = map(int, done.stdout.split())
    assert after < 10_000 < before


@pytest.mark.parametrize("script, flags, message", [
    ("stage3_finetune", "--data {tmp}", "{tmp}: no folder of .jpg or .png frames below it"),
    ("infer", "--data {matches} --checkpoint {tmp}/none.pt",
     "{tmp}/none.pt: no such checkpoint, or not a file; give another (README, 'Weights and "
     "results', lists some)\n")])
def test_a_mistake_is_one_line_and_exit_code_2(script, flags, message, matches, tmp_path):
    flags, message = (text.format(tmp=tmp_path, matches=matches) for text in (flags, message))
    done = subprocess.run([sys.executable, ROOT / f"{script}.py", *flags.split()],
                          capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"error: {message}")


@every_stage
def test_another_stage_is_not_resumed(stage, matches, tmp_path):
    cfg = replace(SMALL, window_tokens=64 if stage == 1 else 8)
    other = {1: 3, 2: 1, 3: 1}[stage]
    save_checkpoint(tmp_path / "last.pt", stage=other, step=1, config=asdict(cfg),
                    model=model.Comedian(cfg).state_dict())
    with pytest.raises(DataError, match=f"last.pt: is a run of stage {other}, not {stage}; choose"):
        run(stage, matches, tmp_path, "--resume")


@pytest.mark.parametrize("stage, flags, named", [
    (1, "--tau 0.2 --negatives batch", "--tau 0.1 (now 0.2), --negatives queue (now batch)"),
    (2, "--window 16", "--window 8 (now 16), --windows-per-half 300 (now 150)"),
    (3, "--radius 1", "--radius 0.5 (now 1.0)")])
def test_a_resumed_run_is_the_run_it_was(stage, flags, named, matches, tmp_path):
    """Flags that change the numbers are named; those that only say where and how fast are free."""
    free = ["--resume", *"--workers 2 --log-every 3 --save-every 9 --accumulate 2".split(),
            "--data", f"{matches}/../{matches.name}"]
    run(stage, matches, tmp_path, n=2)
    run(stage, matches, tmp_path, *free, n=2)
    log = (tmp_path / "log.txt").read_text()
    with refused(f"was run with {named}; --resume needs the same flags"):
        run(stage, matches, tmp_path, *free, *flags.split(), n=2)
    assert (tmp_path / "log.txt").read_text() == log


SENSELESS = {
    stage1: "--batch 0; --queue -5; --log-every 0; --crop-scale 1 -0.2; --epochs 0; --seed -1; "
            "--device toaster; --device meta",
    stage2: "--window 0; --mask 1; --tau-m 0.01; --lam nan; --lam 1.1; --tau 0; --weight-decay -1; "
            "--temporal-depth 0; --color 0 0 0 -1; --steps 1.5; --workers -1",
    stage3: "--prior 0; --mixup -1; --lr -1; --lr inf; --mask 1; --radius -0.5; --window 0; "
            "--temporal-depth 0; --encoding zip",
    infer: "--checkpoint x --batch 0; --checkpoint x --threshold -5; --checkpoint x --ignore -3; "
           "--checkpoint x --stride -1; --checkpoint x --show 2"}


@pytest.mark.parametrize("script, flags", [(script, flags.split()) for script in SENSELESS
                                           for flags in SENSELESS[script].split("; ")])
def test_senseless_flags(script, flags, capsys):
    with pytest.raises(SystemExit, match="^2$"):
        script.parse_args(["--data", "x", *flags])
    line, = capsys.readouterr().err.splitlines()
    name = [flag for flag in flags if flag.startswith("--")][-1]
    assert re.search(rf"argument {name}: (must be a( whole)? number from \S+ to \S+, got"
                     rf"|torch cannot use|must be a text encoding.* got) '{flags[-1]}'", line)


def test_what_is_not_installed():
    """Said at once, not after hours of training, when the curves are drawn."""
    lacking = [("stage1_spatial", "torch"), ("stage1_spatial", "matplotlib"),
               ("stage2_distill", "tqdm"), ("stage3_finetune", "av"), ("infer", "cv2")]
    code = f"""
import importlib.util as util
find = util.find_spec
for module, package in {lacking}:
    util.find_spec = lambda name, *rest: name != package and find(name, *rest)
    try:
        __import__(module)
    except SystemExit as end:
        print(end.code)"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.split() == ["2"] * len(lacking)
    for line, (_, package) in zip(done.stderr.splitlines(), lacking, strict=True):
        assert line.startswith(f"error: {sys.executable}: has no {package}; use the Python of .v")


@pytest.mark.parametrize("flags, advice", [
    (dict(batch=1024, accumulate=1),
     "--accumulate 2 (512 at a time instead of 1024; the result stays the same)"),
    (dict(batch=8, accumulate=1, negatives="batch"), "instead of 8, and as few negatives)"),
    (dict(batch=12, accumulate=4), "--accumulate 6 (2 at a time instead of 3"),
    (dict(batch=8, accumulate=8), "one sample at a time does not fit: try a shorter --window"),
    (dict(batch=12, accumulate=2, mixup=0.1), "--accumulate 3 (4 at a time instead of 6"),
    (dict(batch=12, accumulate=3, mixup=0.1), "--accumulate 6 (2 at a time instead of 4"),
    (dict(batch=12, accumulate=6, mixup=0.1), "a pair of samples at a time does not fit: try"),
    (dict(batch=256), "try --batch 128"), (dict(), "give fewer matches at a time")])
def test_out_of_memory_says_what_to_lower(flags, advice, capsys):
    """A real failure of the CPU's allocator: 4 PB."""
    with pytest.raises(SystemExit, match="^2$"):
        plumbing.run_as_command(lambda args: torch.empty(10 ** 15),
                                argparse.Namespace(device="cpu", **flags))
    line, = capsys.readouterr().err.splitlines()
    assert line.startswith("error: out of memory on cpu; ")
    assert advice in line


def test_other_errors_are_not_hidden():
    with pytest.raises(RuntimeError, match="shapes"):
        plumbing.run_as_command(lambda args: torch.zeros(2, 3) @ torch.zeros(2, 3), None)


# ------------------------------------------------------------------ 5. both ways, and compiled
PIPELINE = """
import os, runpy, sys
common = "--data data --model vivit_micro --workers 1 --device cpu --lr 0.01 --log-every 2"
for line in (
        f"stage1_spatial {common} --out 1 --batch 8 --queue 40 --epochs 4 --steps 4",
        f"stage2_distill {common} --out 2 --batch 4 --window 8 --features-name teacher --steps 4 "
        "--centroids . --init 1/last.pt",
        f"stage3_finetune {common} --out 3 --batch 4 --head-steps 2 --steps 4 --init 2/last.pt "
        "--classes data/classes.txt --valid data --valid-every 1",
        "infer --data data --out spots --checkpoint 3/best.pt --device cpu --workers 1",
        "comedian/evaluate --predictions spots --labels data --classes data/classes.txt "
        "--json table.json"):
    script, *sys.argv[1:] = line.split()
    runpy.run_path(f"{os.environ['PYTHONPATH']}/{script}.py", run_name="__main__")
"""


@pytest.mark.slow
def test_both_ways(matches, tmp_path):
    """All, to the metric, on a terminal and off it, where progress bars stand still: the same bits.
    A match of 1,220 and 800 seconds with few frames: the bank is larger than a chunk of it."""
    data, rng = tmp_path / "data", np.random.default_rng(1)
    folder = shutil.copytree(matches / "league/one", data / "league/long")
    shutil.copy(matches / "classes.txt", data)
    for half in (1, 2):
        (folder / f"{half}_224p/fps.txt").write_text("0.05")
        features = rng.standard_normal((20 * N_FRAMES["one", half], 12)).astype(np.float32)
        np.save(folder / f"{half}_teacher.npy", features)

    def start(name, **streams):
        (tmp_path / name).mkdir()
        (tmp_path / name / "data").symlink_to(data)
        return subprocess.Popen([sys.executable, "-c", PIPELINE], cwd=tmp_path / name, **streams,
                                env={**os.environ, "OMP_NUM_THREADS": "1"})

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, 100, 0, 0))   # tqdm looks
    on_terminal = start("terminal", stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    with open(tmp_path / "out", "w") as out, open(tmp_path / "err", "w") as err:
        off_terminal = start("files", stdin=subprocess.DEVNULL, stdout=out, stderr=err)
    shown = b""
    with contextlib.suppress(OSError):                    # EIO: the last process closed it
        while part := os.read(ours, 65536):
            shown += part
    os.close(ours)
    shown = shown.decode().replace("\r\n", "\n")
    codes = [on_terminal.wait(300), off_terminal.wait(300)]
    out, err = ((tmp_path / name).read_text() for name in ("out", "err"))
    assert codes == [0, 0], shown + err
    bars = [f"{name}: 100%|" for name in ("stage 1", "soft centroids", "stage 2", "stage 3")]
    assert all(bar in shown for bar in bars), "there progress was shown"
    assert "%|" not in out + err, "and here it was not"

    terminal, files = ({path.relative_to(tmp_path / name): path
                        for path in (tmp_path / name).rglob("*")
                        if path.suffix in (".pt", ".npy", ".json", ".npz", ".txt")}
                       for name in ("terminal", "files"))
    assert terminal.keys() == files.keys()
    kinds = [path.suffix for path in files]
    assert kinds.count(".pt") == 4 and kinds.count(".npy") == 1       # 1, 2, 3, best; centroids
    for name in files:
        a, b = terminal[name], files[name]
        if name.suffix == ".pt":
            assert_same_bits(model.load_checkpoint(a), model.load_checkpoint(b))
        elif name.name == "log.txt":
            assert numbers(a.parent) == numbers(b.parent)
        else:
            assert a.read_bytes() == b.read_bytes(), name
    table = out[out.rindex("matches: 1, events: 16"):]
    assert "t-AmAP" in table and table in shown


@pytest.mark.slow
@every_stage
def test_compile_computes_the_same(stage, matches, tmp_path, launch):
    plain, compiled = tmp_path / "plain", tmp_path / "compiled"
    both = [*launch(command_line(stage, matches, plain, 4)),
            *launch(command_line(stage, matches, compiled, 4, "--compile"))]
    both[1].join(280)                                     # beside the 120 s of the others
    assert finish(*both) == [0, 0], (tmp_path / "compiled.0").read_text()
    losses = [[float(line[2].split()[1]) for line in numbers(out)] for out in (plain, compiled)]
    assert losses[0] == pytest.approx(losses[1], abs=2e-3) and len(losses[0]) == 2
