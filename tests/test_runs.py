"""
What these tests prove about training at scale (run.py, and the stages' loops):
  1. two processes equal one: the same draws, the same queue, the same bank, whole or in shares;
     what differs is the order of sums
  2. a run that is killed at any moment, again and again, ends in the bits of one never stopped;
     SIGTERM and Ctrl-C finish the step, save, and say how to go on
  3. soft centroids are made once and never stale; features stay on disk
  4. torch.compile computes the same; out of memory says what to lower; TensorBoard is optional

Runs are forks of one server that has imported the stages, so that a start costs no seconds.
"""
import argparse
import contextlib
import multiprocessing
import os
import random
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import stage2_distill as stage2
from comedian import frames as data
from comedian import public_weights as weights
from comedian import run

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = {1: "stage1_spatial", 2: "stage2_distill", 3: "stage3_finetune"}
OPTIONS = {1: "--batch 8 --queue 40 --warmup-epochs 1 --steps {n}",
           2: "--batch 4 --window 8 --features-name teacher --steps {n}",
           3: "--batch 4 --window 8 --head-steps {half} --steps {half}"}


def command_line(stage, matches, out, n, *more):
    """sys.argv of a stage's run of n steps on the tiny matches."""
    line = [f"{SCRIPTS[stage]}.py", "--data", str(matches), "--out", str(out),
            *shlex.split("--model vivit_micro --workers 1 --device cpu --lr 0.01 --seed 5 "
                         "--log-every 2 --save-every 1"),
            *OPTIONS[stage].format(n=n, half=n // 2).split()]
    if stage == 3:
        line += ["--classes", str(matches / "classes.txt")]
    return [*line, *more]


def child(argv, printed, environment):
    """What a forked process does: the script, as if called from a shell; prints into a file."""
    os.environ.update(environment)
    torch.set_num_threads(1)
    sys.argv = argv
    script = __import__(argv[0].removesuffix(".py"))
    with open(printed, "a") as file, contextlib.redirect_stdout(file), \
            contextlib.redirect_stderr(file):
        run.command(script.main, script.parse_args(argv[1:]))


@pytest.fixture(scope="session")
def launch():
    """launch(argv, printed, **environment) -> a started process."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*SCRIPTS.values(), "report", __name__])

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


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def numbers(log):
    """The lines of a log.txt without what depends on the clock: step, loss, rate, gradient."""
    return [line.split(" | ")[:5] for line in log.read_text().splitlines()]


def assert_same_bits(a, b, where="checkpoint"):
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


# ------------------------------------------------------------------ 1. two processes equal one
TWO = {"stage 1": (1, []), "stage 1, in two passes": (1, ["--accumulate", "2"]),
       "stage 1, batch as negatives": (1, ["--negatives", "batch"]),
       "stage 2, the whole bank on each": (2, []),
       "stage 2, the bank in shares": (2, ["--bank-rows", "share"]),
       "stage 2, queue": (2, ["--bank", "queue"]), "stage 3": (3, []),
       "stage 3, cached head phase, validated": (3, ["--head-phase", "temporal"])}


@pytest.mark.parametrize("stage, more", TWO.values(), ids=TWO)
def test_two_processes_equal_one(stage, more, matches, tmp_path, launch):
    """Losses to the log's four digits. Weights: after 6 steps two ways of summing a gradient in
    float32 have moved the network apart by less than 1 % of the way it went."""
    if "temporal" in more:            # the case with a validation
        more = [*more, "--valid", str(matches), "--valid-every", "1", "--windows-per-half", "2"]
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "WORLD_SIZE": "2"}
    runs = [launch(command_line(stage, matches, tmp_path / "two", 6, *more),
                   tmp_path / f"printed{r}", RANK=str(r), LOCAL_RANK=str(r), **place)
            for r in range(2)]
    alone = launch(command_line(stage, matches, tmp_path / "one", 6, *more), tmp_path / "printed")
    start = launch(command_line(stage, matches, tmp_path / "start", 6, *more, "--lr", "0"),
                   tmp_path / "printed_start")
    assert finish(*runs, alone, start) == [0, 0, 0, 0], (tmp_path / "printed0").read_text()
    one, two, start = (weights.load_checkpoint(tmp_path / name / "last.pt")["model"]
                       for name in ("one", "two", "start"))
    apart = sum((one[name] - two[name]).double().norm() ** 2 for name in one) ** 0.5
    moved = sum((one[name] - start[name]).double().norm() ** 2 for name in one) ** 0.5
    assert moved > 0.01 and apart < 0.01 * moved
    first, second = (numbers(tmp_path / name / "log.txt") for name in ("one", "two"))
    loss = [[float(line[2].split()[1]) for line in log if "loss" in line[2]]
            for log in (first, second)]
    assert loss[0] == pytest.approx(loss[1], abs=2e-4) and len(loss[0]) == 3
    printed = (tmp_path / "printed1").read_text()
    assert "step 2/6" not in printed and "done" not in printed, "only rank 0 speaks"


def test_torchrun(matches, tmp_path):
    """The README's line, as a user types it."""
    line = command_line(1, matches, tmp_path / "two", 2)
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
         *line], cwd=ROOT, capture_output=True, text=True, env={**os.environ,
                                                                "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    assert "2 steps of 8 on 2 x cpu" in done.stdout and done.stdout.count("done;") == 1
    assert weights.load_checkpoint(tmp_path / "two" / "last.pt")["step"] == 2


def test_samples_are_dealt_out_in_order():
    args = argparse.Namespace(batch=24, accumulate=2)
    slices = [s for rank in range(3) for s in run.passes(args, rank, 3)]
    assert [(s.start, s.stop) for s in slices] == [(i, i + 4) for i in range(0, 24, 4)]
    with pytest.raises(data.DataError, match="--batch 24 cannot be split evenly into 5 processes"):
        run.passes(args, 0, 5)


# ------------------------------------------------------------------ 2. killed, stopped, resumed
@pytest.mark.parametrize("stage", SCRIPTS)
def test_killed_again_and_again(stage, matches, tmp_path, launch):
    """SIGKILL at random moments, while it saves after every step; weights, optimiser and log end
    as those of a run that was never stopped. (20 moments per stage: benchmarks/kills.py.)"""
    assert kill_and_resume(stage, matches, tmp_path, launch, kills=3, steps=40) == 3


def kill_and_resume(stage, matches, folder, launch, kills, steps, seed=0):
    """One run that ends, then one that is killed up to `kills` times on its way to the same end:
    every third time while it starts, else while it trains or saves. Returns how often."""
    rng, since = random.Random(seed), time.time()
    whole = launch(command_line(stage, matches, folder / "whole", steps), folder / "printed")
    assert finish(whole) == [0], (folder / "printed").read_text()
    seconds, killed, last = time.time() - since, 0, folder / "killed" / "last.pt"
    while True:
        resume = ["--resume"] if last.exists() else []
        process = launch(command_line(stage, matches, folder / "killed", steps, *resume),
                         folder / "printed")
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
    assert_same_bits(*(weights.load_checkpoint(folder / name / "last.pt")
                       for name in ("whole", "killed")))
    assert numbers(folder / "whole" / "log.txt") == numbers(folder / "killed" / "log.txt")
    return killed


@pytest.mark.parametrize("stage, number", [(1, signal.SIGTERM), (2, signal.SIGINT),
                                           (3, signal.SIGTERM)])
def test_asked_to_stop(stage, number, matches, tmp_path, launch):
    """The step is finished and saved, although --save-every is far away; the line that is printed
    goes on, to the same end."""
    options = ["--save-every", "1000"]
    whole = launch(command_line(stage, matches, tmp_path / "whole", 30, *options), tmp_path / "w")
    argv = command_line(stage, matches, tmp_path / "stopped", 30, *options)
    process = launch(argv, tmp_path / "printed")
    log = tmp_path / "stopped" / "log.txt"
    while process.is_alive() and not (log.exists() and log.read_text()):
        time.sleep(0.01)
    os.kill(process.pid, number)
    assert finish(process, whole) == [128 + number, 0]
    printed = (tmp_path / "printed").read_text()
    step = int(re.search(r"stopped after step (\d+); saved", printed)[1])
    assert 2 <= step < 30
    assert weights.load_checkpoint(tmp_path / "stopped" / "last.pt")["step"] == step
    line = re.search(r"To go on: python (.*)", printed)[1]
    assert shlex.split(line) == [*argv, "--resume"]
    assert finish(launch(shlex.split(line), tmp_path / "printed")) == [0]
    assert_same_bits(*(weights.load_checkpoint(tmp_path / name / "last.pt")
                       for name in ("whole", "stopped")))


def test_asking_one_process_stops_all(matches, tmp_path, launch):
    """In the same step: otherwise the others would wait for it for ever."""
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "WORLD_SIZE": "2"}
    argv = command_line(3, matches, tmp_path / "run", 2000, "--save-every", "1000")
    pair = [launch(argv, tmp_path / f"printed{r}", RANK=str(r), LOCAL_RANK=str(r), **place)
            for r in range(2)]
    log = tmp_path / "run" / "log.txt"
    while pair[0].is_alive() and not (log.exists() and log.read_text()):
        time.sleep(0.01)
    os.kill(pair[1].pid, signal.SIGTERM)
    assert finish(*pair) == [128 + signal.SIGTERM] * 2
    step = int(re.search(r"stopped after step (\d+)", (tmp_path / "printed0").read_text())[1])
    assert weights.load_checkpoint(tmp_path / "run" / "last.pt")["step"] == step < 2000


def test_stopped_before_the_first_step(capsys):
    def main(args):
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as stopped:
        run.command(main, None)
    assert stopped.value.code == 130
    assert capsys.readouterr().err == "error: stopped before there was anything to save\n"


def test_a_resumed_run_needs_no_init(matches, tmp_path, launch):
    """What --init gave is in the checkpoint: the file may be gone."""
    assert finish(launch(command_line(1, matches, tmp_path / "1", 2), tmp_path / "p")) == [0]
    first = tmp_path / "1" / "last.pt"
    for stage in (2, 3):
        argv = command_line(stage, matches, tmp_path / str(stage), 4, "--init", str(first))
        assert finish(launch(argv, tmp_path / "p")) == [0], (tmp_path / "p").read_text()
    first.rename(tmp_path / "gone.pt")
    for stage in (2, 3):
        argv = command_line(stage, matches, tmp_path / str(stage), 4, "--resume")
        assert finish(launch(argv, tmp_path / "p")) == [0], (tmp_path / "p").read_text()


# ------------------------------------------------------------------ 3. the bank
def bank_of(matches, window=8, **more):
    halves = data.find_halves(matches)
    features = [data.open_features(matches, half, "teacher") for half in halves]
    return stage2.Bank(features, halves, torch.device("cpu"), torch.float32, **more), features


def test_the_bank_is_every_feature_as_a_unit_vector(matches):
    bank, features = bank_of(matches)
    expected = F.normalize(torch.from_numpy(np.concatenate(features)), dim=1)
    assert torch.equal(bank.rows, expected)
    shares = [bank_of(matches, share=slice(rank, None, 2))[0].rows for rank in range(2)]
    assert sorted(torch.cat(shares).tolist()) == sorted(expected.tolist())
    p, i = bank.own([(1, 3), (2, 0)], 8, "middle")         # 1.5 s into half 1; the start of half 2
    assert p.shape == (2, 8, 12) and torch.equal(p, expected[torch.from_numpy(i)])
    assert i[0, 0] == len(features[0]) + 2 and i[1, 0] == len(features[0]) + len(features[1])


def test_more_processes_than_halves_cannot_share(matches, tmp_path, monkeypatch):
    """An empty share would answer with NaN."""
    monkeypatch.setattr(run, "join", lambda device: (0, 5, torch.device("cpu")))
    args = stage2.parse_args([*command_line(2, matches, tmp_path / "run", 2)[1:],
                              "--batch", "5", "--bank-rows", "share"])
    with pytest.raises(data.DataError, match="5 processes are more than 4 halves"):
        stage2.main(args)


def test_centroids_are_made_once_and_never_stale(matches, tmp_path, monkeypatch):
    bank = bank_of(matches)[0].rows
    expected = torch.cat(list(stage2.soft_centroids(bank, 0.07)))
    made = stage2.centroids_on_disk(bank, 0.07, tmp_path, "teacher")
    assert isinstance(made, np.memmap) and torch.equal(torch.from_numpy(np.array(made)), expected)
    assert len(list(tmp_path.iterdir())) == 1              # nothing unfinished is left behind
    calls, original = [], stage2.soft_centroids
    monkeypatch.setattr(stage2, "soft_centroids", lambda *a: calls.append(a) or original(*a))
    stage2.centroids_on_disk(bank, 0.07, tmp_path, "teacher")
    assert not calls
    other = bank.clone()
    other[5, 3] = torch.nextafter(other[5, 3], torch.tensor(2.0))             # the last bit of one
    stage2.centroids_on_disk(other, 0.07, tmp_path, "teacher")
    stage2.centroids_on_disk(bank.flip(0), 0.07, tmp_path, "teacher")
    stage2.centroids_on_disk(bank, 0.08, tmp_path, "teacher")
    assert len(calls) == 3 and len(list(tmp_path.iterdir())) == 4


def test_centroids_without_a_place(matches, tmp_path, monkeypatch):
    bank = bank_of(matches)[0].rows
    (tmp_path / "file").write_text("")
    with pytest.raises(data.DataError, match="cannot be written .*; --centroids wants a folder"):
        stage2.centroids_on_disk(bank, 0.07, tmp_path / "file", "teacher")

    def full(*args):
        yield torch.zeros(1, 12)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(stage2, "soft_centroids", full)
    with pytest.raises(data.DataError, match="No space left on device"):
        stage2.centroids_on_disk(bank, 0.07, tmp_path, "teacher")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("spoil, message", [
    (lambda f: f[:5], "5 rows for a half of"),
    (lambda f: np.concatenate([f, f]), "rows for a half of"),
    (lambda f: f * [np.nan] * 12, "not finite"), (lambda f: f[:, 0], "must have shape")])
def test_features_that_do_not_fit(spoil, message, matches, tmp_path):
    halves = data.find_halves(matches)
    for half in halves:
        (tmp_path / half.match).mkdir(parents=True, exist_ok=True)
        features = np.load(matches / half.match / f"{half.number}_teacher.npy")
        bad = spoil(features) if half == halves[2] else features
        np.save(tmp_path / half.match / f"{half.number}_teacher.npy", bad)
    args = stage2.parse_args([*command_line(2, matches, tmp_path / "run", 2)[1:],
                              "--features", str(tmp_path)])
    with pytest.raises(data.DataError, match=message) as error:
        stage2.main(args)
    assert f"{halves[2].match}/{halves[2].number}_teacher.npy" in str(error.value)


# ------------------------------------------------------------------ 4. compile, memory, TensorBoard
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


@pytest.mark.parametrize("flags, advice", [
    (dict(batch=1024, accumulate=1), "--accumulate 2 (512 at a time instead of 1024"),
    (dict(batch=12, accumulate=4), "--accumulate 6 (2 at a time instead of 3"),
    (dict(batch=8, accumulate=8), "one sample at a time does not fit: try a shorter --window"),
    (dict(batch=256), "try --batch 128"), (dict(), "take fewer matches at a time")])
def test_out_of_memory_says_what_to_lower(flags, advice, capsys):
    """A real failure of the CPU's allocator: 4 PB."""
    with pytest.raises(SystemExit) as ended:
        run.command(lambda args: torch.empty(10 ** 15), argparse.Namespace(device="cpu", **flags))
    line, = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2 and line.startswith("error: out of memory on cpu; ")
    assert advice in line


def test_other_errors_are_not_hidden():
    with pytest.raises(RuntimeError, match="shapes"):
        run.command(lambda args: torch.zeros(2, 3) @ torch.zeros(2, 3), None)


def test_tensorboard_if_there_is_one(tmp_path, monkeypatch):
    class Writer:
        scalars = []

        def __init__(self, folder, purge_step):
            assert folder == tmp_path and purge_step == 1

        def add_scalar(self, tag, value, step):
            self.scalars.append((tag, step))

        def close(self):
            self.scalars.append("closed")

    monkeypatch.setattr(run, "SummaryWriter", Writer)
    log = run.Log(tmp_path, "stage 1", 0, 4, torch.device("cpu"), lambda step: [])
    log.add(1, torch.tensor(2.0), torch.tensor(1.0), 8)
    log.line(1, lr=0.1)
    log.close()
    assert Writer.scalars == [("loss", 1), ("lr", 1), ("grad", 1), ("clips_per_s", 1), "closed"]
    assert (tmp_path / "curves.png").stat().st_size > 5000
