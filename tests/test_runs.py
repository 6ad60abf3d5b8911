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
import ctypes
import fcntl
import json
import multiprocessing
import os
import pty
import random
import re
import shlex
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import CLASSES, write_half

import infer
import model
import stage1_spatial as stage1
import stage2_distill as stage2
import stage3_finetune as stage3
from comedian import DataError, draw
from comedian import run as plumbing
from comedian.checkpoint import save_checkpoint

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = {1: stage1, 2: stage2, 3: stage3}
PRELOAD = [*(script.__name__ for script in SCRIPTS.values()), "torch._dynamo"]    # AdamW imports it
OPTIONS = {1: "--batch 8 --queue 40 --epochs 6 --warmup-epochs 1 --steps {n}",
           2: "--batch 4 --window 8 --features-name teacher --steps {n}",
           3: "--batch 4 --window 8 --head-steps {half} --steps {half}"}
PER_STEP = {1: 2, 2: 1, 3: 2}         # how often a step computes a loss
SECOND = {1: "top-1", 2: "divergence", 3: "base"}         # what is logged beside the loss
SMALL = replace(model.MODELS["vivit_micro"], embed_dim=32, num_heads=(2,), temporal_heads=2,
                head_width=64)
DRAW = draw.curves


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Runs train a small network and do not draw, unless a shell starts them. Signals do again what
    they did before a run that was broken off."""
    monkeypatch.setitem(model.MODELS, "vivit_micro", SMALL)
    monkeypatch.setattr(draw, "curves", lambda *args: None)
    before = {s: signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def command_line(stage, matches, out, n, *more):
    """sys.argv of a stage's run of n steps on the tiny matches."""
    line = [f"{SCRIPTS[stage].__name__}.py", "--data", str(matches), "--out", str(out),
            *shlex.split("--model vivit_micro --workers 1 --device cpu --lr 0.01 --seed 5 "
                         "--log-every 2"),
            *OPTIONS[stage].format(n=n, half=n // 2).split()]
    if stage == 3:
        line += ["--classes", str(matches / "classes.txt")]
    return [*line, *more]


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
    """launch(argv, printed, **environment) -> a started process."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*PRELOAD, __name__])

    def start(argv, printed, **environment):
        process = context.Process(target=child, args=(argv, str(printed), environment))
        process.start()
        return process

    return start


def finish(*processes):
    """Waits for all; their exit codes."""
    for process in processes:
        process.join(120)
        assert process.exitcode is not None, "still running after two minutes"
    return [process.exitcode for process in processes]


def wait_for(log, process):
    """Until a run has logged its first line, or ended."""
    while process.is_alive() and not (log.exists() and log.read_text()):
        time.sleep(0.01)


def two_ranks():
    """The environments of two processes that work together."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    return [dict(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1",
                 MASTER_PORT=port) for rank in range(2)]


def numbers(log):
    """The lines of a log.txt without what depends on the clock: step, loss and what is beside it,
    rate, gradient."""
    return [line.split(" | ")[:6] for line in log.read_text().splitlines()]


def assert_same_bits(a, b, where="checkpoint"):
    """In dicts and lists, too; but for a checkpoint's "args"."""
    assert type(a) is type(b), where
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a.keys() - {"args"}:
            assert_same_bits(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), where
        for i, pair in enumerate(zip(a, b, strict=True)):
            assert_same_bits(*pair, f"{where}.{i}")
    else:
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b, where


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
RESUMED = {"stage 1": (1, [], 4),
           "stage 1, few halves": (1, ["--halves-per-batch", "2", "--negatives", "batch"], 4),
           "stage 2, complete bank": (2, [], 3), "stage 2, queue": (2, ["--bank", "queue"], 5),
           "stage 3, in its head phase": (3, [], 2), "stage 3, at the seam": (3, [], 4),
           "stage 3, in its full phase": (3, [], 5),
           "stage 3, cached head phase": (3, ["--head-phase", "temporal"], 2)}


@pytest.mark.parametrize("stage, options, killed_in", RESUMED.values(), ids=RESUMED)
def test_resume_is_exact(stage, options, killed_in, matches, tmp_path, monkeypatch):
    """A run that is killed in some step and resumed ends in the same bits as one that never
    stopped: what it saves after its last step is equal, the sums of the log too."""
    monkeypatch.setitem(model.MODELS, "vivit_micro", replace(SMALL, drop_path=0.2))
    options = [*options, "--save-every", "1", "--log-every", "4"]
    whole = run(stage, matches, tmp_path / "whole", *options)
    die_in(killed_in, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        run(stage, matches, tmp_path / "killed", *options)
    last = model.load_checkpoint(tmp_path / "killed" / "last.pt")
    assert last["step"] == killed_in - 1
    torch.manual_seed(99)                                 # a new process has another random state
    np.random.seed(99)
    resumed = run(stage, matches, tmp_path / "killed", *options, "--resume")
    assert resumed["step"] == 6
    assert_same_bits(whole, resumed)
    assert numbers(tmp_path / "whole" / "log.txt") == numbers(tmp_path / "killed" / "log.txt")


@pytest.mark.parametrize("stage", SCRIPTS)
def test_the_log_after_a_resume(stage, matches, tmp_path, monkeypatch):
    """It is the log of a run that never stopped (but for the times): means reach back over the
    stop, and lines after the checkpoint are written once."""
    options = ["--log-every", "2", "--save-every", "3"]
    run(stage, matches, tmp_path / "whole", *options)
    die_in(6, monkeypatch)                                # steps 4 and 5 are lost, a line with them
    with pytest.raises(KeyboardInterrupt):
        run(stage, matches, tmp_path / "killed", *options)
    assert "step 4/6" in (tmp_path / "killed" / "log.txt").read_text()
    run(stage, matches, tmp_path / "killed", *options, "--resume")
    whole, killed = (numbers(tmp_path / name / "log.txt") for name in ("whole", "killed"))
    assert whole == killed and len(whole) == 3


@pytest.mark.parametrize("stage", [1, *(pytest.param(s, marks=pytest.mark.slow) for s in (2, 3))])
def test_killed_again_and_again(stage, matches, tmp_path, launch):
    """SIGKILL at random moments, while it saves after every step; weights, optimiser and log end
    as those of a run that was never stopped. (docs/training.md tells of 20 moments per stage.)"""
    assert kill_and_resume(stage, matches, tmp_path, launch, kills=3, steps=30) == 3


def kill_and_resume(stage, matches, folder, launch, kills, steps, seed=0):
    """One run that ends, then one that is killed up to `kills` times on its way to the same end:
    every third time while it starts, else while it trains or saves. Returns how often."""
    def start(name, *more):
        return launch(command_line(stage, matches, folder / name, steps, "--save-every", "1",
                                   *more), folder / "printed")

    rng, since = random.Random(seed), time.time()
    assert finish(start("whole")) == [0], (folder / "printed").read_text()
    seconds, killed, last = time.time() - since, 0, folder / "killed" / "last.pt"
    while True:
        process = start("killed", *["--resume"] * last.exists())
        if killed == kills:
            break
        before = last.stat().st_mtime_ns if last.exists() else 0
        while (killed % 3 != 2 and process.is_alive()
               and (last.stat().st_mtime_ns if last.exists() else 0) == before):
            time.sleep(0.002)
        process.join(rng.uniform(0, seconds / (3 * kills)))
        if process.exitcode is None:
            os.kill(process.pid, signal.SIGKILL)
            killed += 1
        assert finish(process)[0] in (-signal.SIGKILL, 0), (folder / "printed").read_text()
        if process.exitcode == 0:
            break
    assert finish(process) == [0], (folder / "printed").read_text()
    assert_same_bits(*(model.load_checkpoint(folder / name / "last.pt")
                       for name in ("whole", "killed")))
    assert numbers(folder / "whole" / "log.txt") == numbers(folder / "killed" / "log.txt")
    return killed


@pytest.mark.parametrize("stage, number", [(1, signal.SIGTERM), (2, signal.SIGINT),
                                           (3, signal.SIGHUP)])
def test_asked_to_stop(stage, number, matches, tmp_path, launch):
    """The step is finished and saved, although --save-every is far away; the line that is printed
    goes on, to the same end."""
    whole = launch(command_line(stage, matches, tmp_path / "whole", 30), tmp_path / "w")
    argv = command_line(stage, matches, tmp_path / "stopped", 30)
    process = launch(argv, tmp_path / "printed")
    wait_for(tmp_path / "stopped" / "log.txt", process)
    os.kill(process.pid, number)
    assert finish(process, whole) == [128 + number, 0]
    printed = (tmp_path / "printed").read_text()
    step = int(re.search(r"stopped after step (\d+); saved", printed)[1])
    assert 2 <= step < 30
    assert model.load_checkpoint(tmp_path / "stopped" / "last.pt")["step"] == step
    line = re.search(r"To go on: python (.*)", printed)[1]
    assert shlex.split(line) == [*argv, "--resume"]
    assert finish(launch(shlex.split(line), tmp_path / "printed")) == [0]
    assert_same_bits(*(model.load_checkpoint(tmp_path / name / "last.pt")
                       for name in ("whole", "stopped")))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_second_signal_ends_the_process_at_once(number, monkeypatch, capsys):
    """The first is only noted; after it, and after the loop, signals do what they did before."""
    def others():
        return [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)]

    for s in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):          # whoever started the tests
        if signal.getsignal(s) == signal.SIG_IGN:
            signal.signal(s, signal.SIG_DFL)
    before, own = others(), signal.getsignal(number)
    monkeypatch.setattr(sys, "argv", ["stage1_spatial.py", "--data", "a b", "--resume"])
    stop = plumbing.Stop()
    assert not stop.requested() and signal.getsignal(number) == stop.note
    os.kill(os.getpid(), number)
    assert stop.requested() and signal.getsignal(number) == own
    with pytest.raises(SystemExit) as ended:
        stop.exit_if_requested("stage 1: stopped after step 3")
    assert ended.value.code == 128 + number and others() == before
    assert capsys.readouterr().out == ("stage 1: stopped after step 3; saved. To go on: python "
                                       "stage1_spatial.py --data 'a b' --resume\n")


def test_asking_one_process_stops_all(matches, tmp_path, launch):
    """In the same step: otherwise the others would wait for it for ever."""
    argv = command_line(3, matches, tmp_path / "run", 2000)
    pair = [launch(argv, tmp_path / f"printed{r}", **place) for r, place in enumerate(two_ranks())]
    wait_for(tmp_path / "run" / "log.txt", pair[0])
    os.kill(pair[1].pid, signal.SIGTERM)
    assert finish(*pair) == [128 + signal.SIGTERM] * 2
    printed = (tmp_path / "printed0").read_text()
    step = int(re.search(r"stopped after step (\d+)", printed)[1])
    assert "To go on: torchrun ... stage3_finetune.py" in printed
    assert model.load_checkpoint(tmp_path / "run" / "last.pt")["step"] == step < 2000


@pytest.mark.parametrize("stage", SCRIPTS)
def test_a_killed_process_ends_all(stage, matches, tmp_path, launch):
    """In one line that says how to go on, wherever the others wait for it."""
    argv = command_line(stage, matches, tmp_path / "run", 2000, "--save-every", "1")
    pair = [launch(argv, tmp_path / f"printed{r}", **place) for r, place in enumerate(two_ranks())]
    wait_for(tmp_path / "run" / "log.txt", pair[0])
    time.sleep(random.random())
    os.kill(pair[1].pid, signal.SIGKILL)
    assert finish(*pair) == [2, -signal.SIGKILL]
    *before, line = (tmp_path / "printed0").read_text().splitlines()
    assert line == ("error: another process of this run has ended, killed or with a line of its "
                    "own; go on with --resume") and not any("error" in text for text in before)


def test_stopped_before_the_first_step(capsys):
    def main(args):
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as stopped:
        plumbing.run_as_command(main, None)
    assert stopped.value.code == 130
    assert capsys.readouterr().err == "error: stopped before there was anything to save\n"


def test_a_resumed_run_needs_no_init(matches, tmp_path):
    """What --init gave is in the checkpoint: the file may be gone."""
    run(1, matches, tmp_path / "1", n=2)
    first = tmp_path / "1" / "last.pt"
    for stage in (2, 3):
        run(stage, matches, tmp_path / str(stage), "--init", str(first), n=2)
    first.rename(tmp_path / "gone.pt")
    for stage in (2, 3):
        run(stage, matches, tmp_path / str(stage), "--init", str(first), "--resume", n=2)


# ------------------------------------------------------------------ 2. two processes equal one
TWO = {"stage 1": (1, []), "stage 1, in two passes": (1, ["--accumulate", "2"]),
       "stage 1, batch as negatives": (1, ["--negatives", "batch"]),
       "stage 2, complete bank": (2, []),
       "stage 2, queue, in two passes": (2, ["--bank", "queue", "--accumulate", "2"]),
       "stage 3, in two passes": (3, ["--batch", "8", "--accumulate", "2"]),
       "stage 3, cached head phase, validated": (3, ["--head-phase", "temporal"])}


@pytest.mark.parametrize("stage, more", TWO.values(), ids=TWO)
def test_two_processes_equal_one(stage, more, matches, tmp_path, launch):
    """The log to its four digits. Weights: after 6 steps two ways of summing a gradient in float32
    have moved the network apart by less than 1 % of the way it went."""
    if "temporal" in more:            # the case with a validation
        more = [*more, "--valid", str(matches), "--valid-every", "1", "--windows-per-half", "2"]
    if stage == 2:                    # whoever comes first would write it into the data
        more = [*more, "--centroids", str(tmp_path)]
    pair = [launch(command_line(stage, matches, tmp_path / "two", 6, *more),
                   tmp_path / f"printed{r}", **place) for r, place in enumerate(two_ranks())]
    alone = launch(command_line(stage, matches, tmp_path / "one", 6, *more), tmp_path / "printed")
    start = launch(command_line(stage, matches, tmp_path / "start", 6, *more, "--lr", "0"),
                   tmp_path / "printed_start")
    assert finish(*pair, alone, start) == [0, 0, 0, 0], (tmp_path / "printed0").read_text()
    one, two, start = (model.load_checkpoint(tmp_path / name / "last.pt")["model"]
                       for name in ("one", "two", "start"))
    apart = sum((one[name] - two[name]).double().norm() ** 2 for name in one) ** 0.5
    moved = sum((one[name] - start[name]).double().norm() ** 2 for name in one) ** 0.5
    assert moved > 0.01 and apart < 0.01 * moved
    first, second = ([[float(part.split()[1]) for part in line[2:]]   # loss, its second, lr, grad
                      for line in numbers(tmp_path / name / "log.txt") if "loss" in line[2]]
                     for name in ("one", "two"))
    assert len(first) == 3
    np.testing.assert_allclose(second, first, rtol=2e-3, atol=2e-4)
    printed = (tmp_path / "printed1").read_text()
    assert "step 2/6" not in printed and "done" not in printed, "only rank 0 speaks"


def test_two_processes_share_the_matches(matches, tmp_path, launch):
    """infer.py: each spots its own, the first one scores. The files of one process, to the byte."""
    cfg = model.with_changes(SMALL, window_tokens=16, classes=CLASSES)
    net, written = model.Comedian(cfg), {}
    save_checkpoint(tmp_path / "3.pt", stage=3, step=1, config=asdict(cfg),
                          model=net.state_dict())
    more = ["infer.py", "--data", str(matches), "--checkpoint", str(tmp_path / "3.pt"),
            *shlex.split("--device cpu --workers 1 --batch 5")]
    for name, places in {"one": [{}], "two": two_ranks()}.items():
        out = tmp_path / name
        printed = [tmp_path / f"printed_{name}{rank}" for rank in range(len(places))]
        line = [*more, "--out", str(out), "--json", str(tmp_path / f"{name}.json")]
        codes = finish(*[launch(line, path, **place)
                         for path, place in zip(printed, places, strict=True)])
        assert codes == [0] * len(places), [path.read_text() for path in printed]
        texts = [path.read_text() for path in printed]
        assert "t-AmAP" in texts[0] and not any("t-AmAP" in text for text in texts[1:])
        minutes = re.search(r"infer: ([\d.]+) min of video", texts[0])[1]
        written[name] = {"minutes": minutes} | {path.relative_to(out): path.read_bytes()
                         for path in out.rglob("results_spotting.json")}
    assert written["one"] == written["two"] and len(written["one"]) == 3
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()


def test_bfloat16_by_rule_is_kept(matches, tmp_path, monkeypatch, capsys):
    """Stored in the checkpoint, printed, and resumed as it was on a machine of another kind."""
    monkeypatch.setattr(plumbing, "bf16_pays_on_cpu", lambda flags, width: True)
    assert run(1, matches, tmp_path, n=2)["args"]["bf16"] is True
    assert "on 1 x cpu, bf16 on" in capsys.readouterr().out
    monkeypatch.setattr(plumbing, "bf16_pays_on_cpu", lambda flags, width: False)
    assert run(1, matches, tmp_path, "--resume", n=2)["args"]["bf16"] is True
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
    assert "2 steps of 8 on 2 x cpu" in done.stdout and done.stdout.count("done;") == 1
    assert model.load_checkpoint(tmp_path / "two" / "last.pt")["step"] == 2


def test_samples_are_dealt_out_in_order():
    args = argparse.Namespace(batch=24, accumulate=2)
    slices = [s for rank in range(3) for s in plumbing.micro_batches(args, rank, 3)]
    assert [(s.start, s.stop) for s in slices] == [(i, i + 4) for i in range(0, 24, 4)]
    with pytest.raises(DataError, match="--batch 24 cannot be split evenly into 5 processes"):
        plumbing.micro_batches(args, 0, 5)
    args = argparse.Namespace(batch=6, accumulate=1, mixup=0.1)       # its pairs stay together
    with pytest.raises(DataError, match="passes of 3 parts the pairs of windows that --mixup mix"):
        plumbing.micro_batches(args, 0, 2)
    assert plumbing.micro_batches(args, 2, 3) == [slice(4, 6)]
    args.mixup = 0
    assert plumbing.micro_batches(args, 1, 2) == [slice(3, 6)]


def test_half_of_torchruns_variables(monkeypatch):
    """Some clusters set WORLD_SIZE alone."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(DataError, match="RANK: as an environment variable .* start with torchrun"):
        plumbing.init_processes(stage1.parse_args(["--data", "x", "--device", "cpu"]), None,
                                192)


# ------------------------------------------------------------------ 3. the log and the folder
LINE = (r"stage {} \| step \d+/6 \| loss \d+\.\d{{4}} \| {} \d+\.\d{{4}} \| lr \d\.\d\de-\d\d "
        r"\| grad \d+\.\d\d \| \d+ clips/s \| \d+\.\d GB \| [\d:]+ left")


@pytest.mark.parametrize("stage", SCRIPTS)
def test_log_and_checkpoint(stage, matches, tmp_path, monkeypatch):
    monkeypatch.setattr(draw, "curves", DRAW)
    state = run(stage, matches, tmp_path / "run")
    lines = (tmp_path / "run" / "log.txt").read_text().splitlines()
    assert all(re.fullmatch(LINE.format(stage, SECOND[stage]), line) for line in lines)
    assert [line.split(" | ")[1] for line in lines] == ["step 2/6", "step 4/6", "step 6/6"]
    assert state["stage"] == stage and state["step"] == 6
    assert state["args"]["batch"] == int(OPTIONS[stage].split()[1])
    assert state["config"].model == "vivit_micro"
    files = {path.name for path in (tmp_path / "run").iterdir() if "tfevents" not in path.name}
    assert files == {"curves.png", "last.pt", "log.txt"}
    torch.load(tmp_path / "run" / "last.pt", weights_only=True)
    with pytest.raises(DataError, match="there is a run already; --resume it or choose another"):
        run(stage, matches, tmp_path / "run")
    finished = run(stage, matches, tmp_path / "run", "--resume")      # nothing is left to do
    assert_same_bits(finished, state)


@pytest.mark.parametrize("stage", SCRIPTS)
def test_the_loss_in_the_log_is_the_mean_since_the_last_line(stage, matches, tmp_path, monkeypatch):
    """Also the mean of the passes, which are averaged for the gradient."""
    losses, backward = [], torch.Tensor.backward
    monkeypatch.setattr(torch.Tensor, "backward", lambda t: losses.append(t.item()) or backward(t))
    run(stage, matches, tmp_path, "--log-every", "4", "--accumulate", "2")
    logged = [float(line[2].split()[1]) for line in numbers(tmp_path / "log.txt")]
    steps = [a + b for a, b in zip(losses[::2], losses[1::2], strict=True)]     # halves of a mean
    assert logged == pytest.approx([np.mean(steps[:4]), np.mean(steps[4:])], abs=6e-5)


def new_log(folder, first=0, last=6, state=None):
    return plumbing.Log(folder, "stage 1", first, last, torch.device("cpu"),
                        lambda step: [f"of_step_{step}.png"], state)


def test_the_log_is_cut_back_to_the_checkpoint(tmp_path):
    """Lines after step 4 come again; half a line, on which a kill fell, goes; what others wrote
    stays, in any encoding."""
    kept = [b"stage 1 | step 2/6 | loss 1.0000\n", b"my note: warmer than step 9/6\n",
            b"\xff\xfe caf\xe9\n", b"stage 1 | step 4/6 | loss 0.5000\n", b"\n"]
    lost = [b"stage 1 | step 5/6 | loss 0.4000\n", b"stage 1 | step 10/6 | loss 0.3000\n",
            b"stage 1 | step 1"]
    log = tmp_path / "log.txt"
    log.write_bytes(b"".join(kept[:3] + lost[:1] + kept[3:] + lost[1:]))
    new_log(tmp_path, first=4).close()
    assert log.read_bytes() == b"".join(kept)


def test_a_run_that_never_saved_begins_its_log_anew(tmp_path):
    """Killed before its first checkpoint it can only be started again, in the same folder."""
    log = tmp_path / "log.txt"
    log.write_bytes(b"stage 1 | step 2/6 | loss 1.0000\nstage 1 | step 4/6 | los")
    new_log(tmp_path).close()
    assert log.read_bytes() == b""


def test_a_folder_belongs_to_one_run(matches, tmp_path, launch):
    """A second run is refused, resumed or new, and changes nothing; the lock of one that was killed
    is gone."""
    argv = command_line(1, matches, tmp_path / "run", 4000, "--log-every", "1")
    process = launch(argv, tmp_path / "printed")
    wait_for(tmp_path / "run" / "log.txt", process)
    assert finish(launch(argv, tmp_path / "second")) == [2]
    assert (tmp_path / "second").read_text().splitlines()[-1] == (
        f"error: {tmp_path / 'run'}: another run is writing there; wait for its end or choose "
        "another --out")
    os.kill(process.pid, signal.SIGKILL)
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
    for step in range(1, 5):
        bad = step in (2, 3)
        log.add(step, {"loss": torch.tensor(loss if bad else 1.0)},
                torch.tensor(norm if bad else 1.0), 8)
    for ask in (lambda: log.state(4), lambda: log.line(4, 0.1)):
        with pytest.raises(DataError, match="^step 2: the loss or its gradient is not finite. Its "
                           "batch begins with of_step_2.png .*no checkpoint yet"):
            ask()
    log.close()
    assert (tmp_path / "not_finite_step_2.txt").read_text() == "of_step_2.png\n"


@pytest.mark.parametrize("stage", SCRIPTS)
def test_a_loss_that_is_not_finite_ends_the_run(stage, matches, tmp_path, monkeypatch):
    """The step and its files are named although nobody looked until three steps later, and the
    checkpoint is the last good one."""
    name, calls = {1: "moco_loss", 2: "sce_loss", 3: "bce_loss"}[stage], []
    original = getattr(SCRIPTS[stage], name)

    def spoilt(*args):
        calls.append(1)
        result = original(*args)
        if len(calls) != 2 * PER_STEP[stage] + 1:         # the first of step 3
            return result
        return (result[0] * torch.nan, result[1]) if stage < 3 else result * torch.nan

    monkeypatch.setattr(SCRIPTS[stage], name, spoilt)
    with pytest.raises(DataError) as error:
        run(stage, matches, tmp_path, "--save-every", "2", "--log-every", "6")
    message = str(error.value)
    assert message.startswith("step 3: the loss or its gradient is not finite") and (
        f"the last good checkpoint is {tmp_path}/last.pt" in message)
    state = model.load_checkpoint(tmp_path / "last.pt")
    assert state["step"] == 2 and all(v.isfinite().all() for v in state["model"].values())
    named = (tmp_path / "not_finite_step_3.txt").read_text().splitlines()
    assert all(Path(file).exists() for file in named) and named[0] in message
    assert len(named) == int(OPTIONS[stage].split()[1])    # the batch


def test_tensorboard_if_there_is_one(tmp_path, monkeypatch):
    class Writer:
        scalars = []

        def __init__(self, folder, purge_step):
            assert folder == tmp_path and purge_step == 3  # a resume after step 2

        def add_scalar(self, tag, value, step):
            self.scalars.append((tag, value, step))

        def close(self):
            self.scalars.append("closed")

    monkeypatch.setattr(plumbing, "SummaryWriter", Writer)
    log = new_log(tmp_path, first=2)
    log.add(3, {"loss": torch.tensor(2.0), "top-1": torch.tensor(0.5)}, torch.tensor(1.5), 8)
    log.line(3, lr=0.1)
    log.close()
    *scalars, speed, closed = Writer.scalars
    assert scalars == [("loss", 2.0, 3), ("top-1", 0.5, 3), ("lr", 0.1, 3), ("grad", 1.5, 3)]
    assert speed[0] == "clips_per_s" and closed == "closed"
    monkeypatch.setattr(plumbing, "SummaryWriter", None)
    new_log(tmp_path).close()


# ------------------------------------------------------------------ 4. mistakes
MISTAKES = {                          # stage, options, the one line
    "no such folder": (1, ["--data", "nowhere"], "nowhere: no such folder"),
    "too few clips": (1, ["--batch", "120"], "99 clips are fewer than one --batch of 120"),
    "uneven parts": (1, ["--accumulate", "3"], "--batch 8 cannot be split evenly into 1 processes"),
    "parted pairs": (3, ["--batch", "6", "--accumulate", "2"],
                     "--batch 6 in passes of 3 parts the pairs of windows that --mixup mixes"),
    "nothing to resume": (1, ["--resume"], "last.pt: no such checkpoint"),
    "no features": (2, ["--features-name", "resnet"],
                    "1_resnet.npy: no teacher features for this half; see --features and "
                    "--features-name (found there: teacher)"),
    "long windows": (2, ["--window", "99"], "no half is as long as a window"),
    "no such stage 1": (2, ["--init", "nowhere.pt"], "nowhere.pt: no such checkpoint"),
    "an epoch without a batch": (2, ["--steps", "0", "--epochs", "1", "--batch", "99",
                                     "--windows-per-half", "3"],
                                 "too few windows for one step (12 an epoch, --batch 99)"),
    "no labels": (3, ["--labels", "nowhere"], "none of the 2 matches has a Labels-v2.json"),
    "no classes": (3, ["--classes", "nowhere.txt"], "nowhere.txt: not a list of classes"),
    "no such stage 2": (3, ["--init", "nowhere.pt"], "nowhere.pt: no such checkpoint"),
    "no step": (3, "--head-steps 0 --steps 0 --epochs 0 --head-epochs 0".split(),
                "too few windows for one step"),
}


@pytest.mark.parametrize("stage, options, message", MISTAKES.values(), ids=MISTAKES)
def test_mistakes(stage, options, message, matches, tmp_path):
    with pytest.raises(DataError) as error:
        run(stage, matches, tmp_path / "run", *options)
    assert message in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()                # nothing was begun


def test_a_file_where_the_folder_should_be(matches, tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(DataError, match="run: is a file, not a folder; choose another --out"):
        run(1, matches, tmp_path / "run")


@pytest.mark.parametrize("command", ["from comedian import run; run.join_processes('cpu')", "pass"])
def test_freed_memory_is_kept(command):
    """Ten tensors of 40 MB one after the other, when the heap has found its size: earlier ones'
    pages serve them all. As glibc is by itself each gets new ones, 10,000 of them."""
    if not hasattr(ctypes.CDLL(None), "mallopt"):
        pytest.skip("this C library has no mallopt")
    code = f"""
{command}
import resource, torch
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for i in range(50):
    torch.ones(10_000_000)
    before = faults() if i == 39 else before if i > 39 else 0
print(faults() - before)"""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    faults = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, check=True,
                            capture_output=True, text=True).stdout
    assert (int(faults) < 10_000) == (command != "pass"), faults


def test_a_mistake_is_one_line_and_exit_code_2(tmp_path):
    done = subprocess.run([sys.executable, ROOT / "stage3_finetune.py", "--data", tmp_path],
                          capture_output=True, text=True)
    assert done.returncode == 2
    line, = done.stderr.splitlines()
    assert line.startswith(f"error: {tmp_path}: no folder of .jpg or .png frames below it")


@pytest.mark.parametrize("stage", SCRIPTS)
def test_another_stage_is_not_resumed(stage, matches, tmp_path):
    cfg = replace(SMALL, window_tokens=64 if stage == 1 else 8)
    other = 4 - stage if stage != 2 else 1
    save_checkpoint(tmp_path / "last.pt", stage=other, step=1, config=asdict(cfg),
                          model=model.Comedian(cfg).state_dict())
    with pytest.raises(DataError, match=f"last.pt: is a run of stage {other}, not {stage}; choose"):
        run(stage, matches, tmp_path, "--resume")


CHANGED = {                           # flags of another run, how they are named
    1: (["--tau", "0.2", "--negatives", "batch"],
        "--tau 0.1 (now 0.2), --negatives queue (now batch)"),
    2: (["--window", "16"], "--window 8 (now 16), --windows-per-half 300 (now 150)"),
    3: (["--radius", "1"], "--radius 0.5 (now 1.0)")}


@pytest.mark.parametrize("stage", SCRIPTS)
def test_a_resumed_run_is_the_run_it_was(stage, matches, tmp_path):
    """Flags that change the numbers are named; those that only say where and how fast are free."""
    free = ["--resume", "--workers", "2", "--log-every", "3", "--save-every", "9", "--data",
            str(matches / "..") + "/" + matches.name, "--accumulate", "2"]
    run(stage, matches, tmp_path, n=2)
    run(stage, matches, tmp_path, *free, n=2)
    log = (tmp_path / "log.txt").read_text()
    flags, named = CHANGED[stage]
    with pytest.raises(DataError) as error:
        run(stage, matches, tmp_path, *free, *flags, n=2)
    assert f"was run with {named}; --resume wants the same flags" in str(error.value)
    assert (tmp_path / "log.txt").read_text() == log


@pytest.mark.parametrize("script, flags", [
    (stage1, ["--batch", "0"]), (stage1, ["--queue", "-5"]), (stage1, ["--log-every", "0"]),
    (stage1, ["--crop-scale", "1", "-0.2"]), (stage1, ["--epochs", "0"]),
    (stage1, ["--seed", "-1"]),
    (stage2, ["--window", "0"]), (stage2, ["--mask", "1"]), (stage2, ["--tau-m", "0.01"]),
    (stage2, ["--lam", "nan"]), (stage2, ["--lam", "1.1"]), (stage2, ["--tau", "0"]),
    (stage2, ["--weight-decay", "-1"]), (stage2, ["--temporal-depth", "0"]),
    (stage2, ["--color", "0", "0", "0", "-1"]), (stage2, ["--steps", "1.5"]),
    (stage2, ["--workers", "-1"]),
    (stage3, ["--prior", "0"]), (stage3, ["--mixup", "-1"]), (stage3, ["--lr", "-1"]),
    (stage3, ["--lr", "inf"]),
    (infer, ["--batch", "0"]), (infer, ["--threshold", "-5"]), (infer, ["--ignore", "-3"]),
])
def test_senseless_flags(script, flags, capsys):
    required = ["--checkpoint", "x"] if script is infer else []
    with pytest.raises(SystemExit) as refused:
        script.parse_args(["--data", "x", *required, *flags])
    assert refused.value.code == 2
    line, = capsys.readouterr().err.splitlines()
    assert re.search(rf"argument {flags[0]}: wants a( whole)? number from \S+ to \S+, got "
                     rf"'{flags[-1]}'", line)


@pytest.mark.parametrize("module, package", [
    ("stage1_spatial", "torch"), ("stage1_spatial", "matplotlib"), ("stage2_distill", "tqdm"),
    ("stage3_finetune", "av"), ("infer", "cv2")])
def test_what_is_not_installed(module, package):
    """Said at once, not after hours of training, when the curves are drawn."""
    code = ("import importlib.util as util\nfind = util.find_spec\n"
            f"util.find_spec = lambda name, *rest: name != {package!r} and find(name, *rest)\n"
            f"import {module}")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and not done.stdout
    line, = done.stderr.splitlines()
    assert line.startswith(f"error: {sys.executable}: has no {package}; use the Python of .venv")


@pytest.mark.parametrize("name", ["toaster", "meta"])
def test_unknown_device(name, capsys):
    with pytest.raises(SystemExit) as refused:
        stage1.parse_args(["--data", "x", "--device", name])
    assert refused.value.code == 2
    assert f"torch cannot use '{name}'" in capsys.readouterr().err


@pytest.mark.parametrize("flags, advice", [
    (dict(batch=1024, accumulate=1),
     "--accumulate 2 (512 at a time instead of 1024; the result stays the same)"),
    (dict(batch=8, accumulate=1, negatives="batch"), "instead of 8, and as few negatives)"),
    (dict(batch=12, accumulate=4), "--accumulate 6 (2 at a time instead of 3"),
    (dict(batch=8, accumulate=8), "one sample at a time does not fit: try a shorter --window"),
    (dict(batch=12, accumulate=2, mixup=0.1), "--accumulate 3 (4 at a time instead of 6"),
    (dict(batch=12, accumulate=3, mixup=0.1), "--accumulate 6 (2 at a time instead of 4"),
    (dict(batch=12, accumulate=6, mixup=0.1), "a pair of samples at a time does not fit: try"),
    (dict(batch=256), "try --batch 128"), (dict(), "take fewer matches at a time")])
def test_out_of_memory_says_what_to_lower(flags, advice, capsys):
    """A real failure of the CPU's allocator: 4 PB."""
    with pytest.raises(SystemExit) as ended:
        plumbing.run_as_command(lambda args: torch.empty(10 ** 15),
                                argparse.Namespace(device="cpu", **flags))
    line, = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2 and line.startswith("error: out of memory on cpu; ")
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


@pytest.fixture
def slow_match(tmp_path):
    """A match of 2 x 1,000 seconds with few frames, so that the bank is larger than what its soft
    targets are made of at a time."""
    root, rng = tmp_path / "data", np.random.default_rng(1)
    folder, annotations = root / "league" / "long", []
    for half in (1, 2):
        write_half(folder / f"{half}_224p", 40, rng)
        (folder / f"{half}_224p" / "fps.txt").write_text("0.04")
        np.save(folder / f"{half}_teacher.npy", rng.standard_normal((1000, 12)).astype(np.float32))
        annotations += [
            {"gameTime": f"{half} - {s // 60:02d}:{s % 60:02d}", "label": CLASSES[s % 3],
             "position": str(1000 * s), "visibility": "visible"}
            for s in rng.integers(0, 1000, 12).tolist()]
    (folder / "Labels-v2.json").write_text(json.dumps({"annotations": annotations}))
    (root / "classes.txt").write_text("\n".join(CLASSES))
    return root


@pytest.mark.slow
def test_both_ways(slow_match, tmp_path):
    """All stages, infer.py and the metric, once on a terminal and once with every stream
    redirected: the same bits. (Soft centroids were once written where a progress bar stood, which
    stands still off a terminal.)"""
    def start(name, **streams):
        (tmp_path / name).mkdir()
        (tmp_path / name / "data").symlink_to(slow_match)
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
    out, err = ((tmp_path / name).read_text() for name in ("out", "err"))
    (tmp_path / "shown").write_bytes(shown)
    shown = shown.decode().replace("\r\n", "\n")
    assert [on_terminal.wait(300), off_terminal.wait(300)] == [0, 0], shown + err
    out, err = ((tmp_path / name).read_text() for name in ("out", "err"))
    bars = [f"{name}: 100%|" for name in ("stage 1", "soft centroids", "stage 2", "stage 3")]
    assert all(bar in shown for bar in bars), "there progress was shown"
    assert "%|" not in out + err, "and here it was not"

    terminal, files = ({path.relative_to(tmp_path / name): path
                        for path in sorted((tmp_path / name).rglob("*"))
                        if path.suffix in (".pt", ".npy", ".json", ".npz", ".txt")}
                       for name in ("terminal", "files"))
    assert terminal.keys() == files.keys()
    assert [path.suffix for path in files].count(".pt") == 4          # 1, 2, 3 and best
    assert [path.suffix for path in files].count(".npy") == 1
    for name in files:
        a, b = terminal[name], files[name]
        if name.suffix == ".pt":
            assert_same_bits(model.load_checkpoint(a), model.load_checkpoint(b), str(name))
        elif name.name == "log.txt":
            assert numbers(a) == numbers(b)
        else:
            assert a.read_bytes() == b.read_bytes(), name
    table = out[out.rindex("matches: 1, events: 24"):]
    assert "t-AmAP" in table and table in shown


@pytest.mark.slow
@pytest.mark.parametrize("stage", SCRIPTS)
def test_compile_computes_the_same(stage, matches, tmp_path, launch):
    both = [launch(command_line(stage, matches, tmp_path / name, 4, *more), tmp_path / "printed")
            for name, more in (("plain", []), ("compiled", ["--compile"]))]
    for process in both:
        process.join(400)
    assert [p.exitcode for p in both] == [0, 0], (tmp_path / "printed").read_text()
    losses = [[float(line[2].split()[1]) for line in numbers(tmp_path / name / "log.txt")]
              for name in ("plain", "compiled")]
    assert losses[0] == pytest.approx(losses[1], abs=2e-3) and len(losses[0]) == 2
