"""
What these tests prove about benchmarks/: every line of the table of gpu.py, which people run once
on a machine with a GPU, comes about, here on a CPU at small sizes; and the hours that the README
computes.
"""
import contextlib
import importlib
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
LINES = ["matrix product, .* bfloat16", "bandwidth", "logits in float32 against the CPU",
         "gradient in float32 against the CPU", "stage 2's loss, complete", "stage 2's loss, queue",
         "the recipe on 300 matches", "minutes of frames", "45 minutes of video",
         "stage 1, stopped .* same bits", "two processes, stage 1 +done", "fused AdamW",
         *(f"stage {stage}, vivit_micro, {what}" for stage in (1, 2, 3)
           for what in (r"\d+ clips a pass +\d.*floor", "from JPEGs"))]


def test_the_hours_to_plan_with(monkeypatch):
    """Those of docs/training.md are those that cost.py computes."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    cost = __import__("cost")
    assert cost.planned_hours("vivit_tiny", 300) == pytest.approx(
        2336e15 * 2 / (0.3 * 989.4e12) / 3600, rel=1e-3)           # 2,336: the table there
    text = " ".join((ROOT / "docs/training.md").read_text(encoding="utf-8").split())
    said = re.search(r"300 matches take ([\d.]+) hours on one H100 SXM", text)
    assert float(said[1]) == round(cost.planned_hours("vivit_tiny", 300), 1)


# ------------------------------------------------------------------ ablation.py
@pytest.fixture
def ablation(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.setattr(sys, "path", [str(ROOT), *sys.path])
    return __import__("ablation")


def chain(run):
    while run:
        yield run
        yield from chain(run.teacher)
        run = run.parent


def test_every_line_of_every_table_is_a_command(ablation):
    """Accepted by its stage's parser; no two commands share a folder; each table has two lines."""
    chosen = json.loads(ablation.CHOSEN.read_text())["chosen"]
    runner, there = ablation.Runner(1), {}
    for table, (_, lines) in ablation.tables(chosen).items():
        assert len(lines) >= 2, table
        for spot in lines.values():
            for run in (r for first in getattr(spot, "runs", [spot]) for r in chain(first)):
                script, *flags = run.command.format(data="d", features="f").split()
                module = importlib.import_module(script.removesuffix(".py"))
                asked = module.parse_args(["--data", "d", *flags])
                assert asked.steps > 0
                if table == "table4" and script.startswith("stage2") and "--mask" not in flags:
                    assert asked.mask == 0.25              # as the line says
                content = run.command, run.teacher
                assert there.setdefault(runner.path(run), content) == content
            infer = importlib.import_module("infer")
            infer.parse_args(["--data", "d", "--checkpoint", "c",
                              *getattr(spot, "flags", "").split()])
    assert len(there) > 40
    drawn = {*range(ablation.FIRST_SEED, ablation.FIRST_SEED + 5), *ablation.SEARCH_SEEDS}
    assert not drawn & {*ablation.MORE_SEEDS}              # else an ensemble holds a network twice


def test_the_demo_has_what_the_search_found(ablation):
    """Same flags, in the Makefile and in benchmarks/ablation.py: same numbers. Only in stage 3 the
    demo has another way of the search's, which scored the same and takes half the time."""
    found = json.loads(ablation.CHOSEN.read_text())
    lines = ablation.tables(found["chosen"])["table5"][1]
    two, asked = ablation.TWO.format(lr=0.064, half=0.032), found["scores"]["stages 1 and 2"]
    assert sum(asked[two]) / 2 > max(map(sum, asked.values())) / 2 - 1
    shown = {}
    for target in ("demo", "demo-scratch"):
        made = subprocess.run(["make", "-n", target, "RUNS=r"], cwd=ROOT, capture_output=True,
                              text=True, check=True).stdout
        for line in made.replace("\\\n", " ").splitlines():
            if found := re.search(r"(stage\d_\w+\.py .*)", line):
                script, *flags = found[1].split()
                shown[target, script] = script, flags
    whole = ablation.stage3(lines["stages 1 and 2"].parent, two)
    wanted = {("demo", r.command.split()[0]): r for r in chain(whole)}
    wanted["demo-scratch", "stage3_finetune.py"] = lines["scratch"]
    assert shown.keys() == wanted.keys()
    own = {"data", "labels", "out", "init", "log_every", "seed", "classes"}
    for key, run in wanted.items():
        script, *flags = run.command.format(data="d").split()
        parse = importlib.import_module(script.removesuffix(".py")).parse_args
        if run.parent:                                     # --init decides the network
            own = own | {"model"}
        ours, demo = (vars(parse(["--data", "d", *words])) for words in (flags, shown[key][1]))
        assert {k: v for k, v in ours.items() if k not in own} == {
            k: v for k, v in demo.items() if k not in own}, key


@pytest.fixture
def called(ablation, monkeypatch, tmp_path):
    """Commands are only recorded, in this list; the n-th, if it is infer.py's, scores n %."""
    monkeypatch.chdir(tmp_path)
    called = []

    def call(self, command):
        called.append(command)
        words = command.split()
        for flag in ("--json", "--out"):
            if flag in words:
                path = Path(words[words.index(flag) + 1])
                (path if flag == "--out" else path.parent).mkdir(parents=True, exist_ok=True)
                if flag == "--json":
                    by_class = [0.001 * len(called) * k for k in range(8)]
                    path.write_text(json.dumps({
                        metric: {"a_mAP": 0.01 * len(called), "a_mAP_per_class": by_class}
                        for metric in ablation.report.NUMBERS.values()}))

    monkeypatch.setattr(ablation.Runner, "call", call)
    return called


def test_a_table_asks_for_each_run_once_and_goes_on(ablation, called):
    """Parents first, every run once; what is there is not run again; what another command made is
    refused."""
    first = ablation.stage1("--steps 5")
    lines = {"a": ablation.stage3(first, "--steps 5"),
             "b": ablation.stage3(ablation.stage2(first, "--steps 5", teacher=first), "--steps 5")}
    scores = ablation.Runner(1).scores(lines, [0, 1])
    done = [command for command in called if not command.startswith("-m")]
    assert len(done) == len(set(done)) == 2 * (1 + 2 + 1 + 3)
    assert [command.split()[0] for command in done[:3]] == [
        "stage1_spatial.py", "stage3_finetune.py", "infer.py"]
    assert "--init runs/ablation/0/1/last.pt" in done[1] and "--seed 0" in done[1]
    own, = (command for command in done if "--features-name own" in command and "/0/" in command)
    assert "--features runs/ablation/0/1+2/features" in own
    assert set(scores) == {"a", "b"} and len(set(sum(scores.values(), []))) == 4
    called.clear()
    again = ablation.Runner(1)
    assert again.scores(lines, [0, 1]) == scores
    assert all(command.startswith("-m comedian.prepare") for command in called)
    assert len(again.seconds) == len(done)                 # the time of what is not run again too
    ablation.Runner(1, hard=True).scores(lines, [0])       # other matches, other folders
    assert called[-1].count("data/hard-0/") == 1 and called[-1].count("runs/ablation/hard-0/") > 1
    assert any(command.endswith("--out data/hard-0 --seed 0 --jobs 1 --hard") for command in called)
    with pytest.raises(SystemExit, match="runs/ablation/0/1: was made by another command"):
        ablation.Runner(1).scores({"c": ablation.stage3(ablation.stage1("--steps 6"))}, [0])


@pytest.mark.parametrize("name, n_points", [("table2", 3 * (2 + 2)), ("table12", (1 + 2) * 5)])
def test_a_table_is_written_and_drawn(ablation, called, monkeypatch, tmp_path, name, n_points):
    """Mean, deviation, and differences seed by seed, against numpy. Drawn: of each of three methods
    a bar and two dots; of a curve of five points the mean and two seeds."""
    monkeypatch.setattr(ablation, "ROOT", tmp_path)
    drawn, picture = [], ablation.report.picture

    @contextlib.contextmanager
    def keep(*args):
        with picture(*args) as figure:
            yield figure
            drawn.extend(sum(len(line.get_xdata()) for line in axes.lines) for axes in figure.axes)

    monkeypatch.setattr(ablation.report, "picture", keep)
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "docs").mkdir()
    ablation.score_table(ablation.Runner(1), name, 2)
    title, lines = ablation.tables(json.loads(ablation.CHOSEN.read_text())["chosen"])[name]
    head, _, *rows = (tmp_path / f"benchmarks/ablation-{name}.txt").read_text().splitlines()
    assert head.startswith(f"{title}; t-AmAP in %, seeds 10, 11; python benchmarks/ablation.py "
                           f"{name} --seeds 2; commit ")
    classes, by_class, rows = rows[-len(lines) - 1], rows[-len(lines):], rows[:len(lines)]
    assert classes.endswith("  " + "  ".join(ablation.CLASSES))
    scores = []
    for line, row, of_classes in zip(lines, rows, by_class, strict=True):
        values = [float(x) for x in re.search(r"\(([\d., ]+)\)", row)[1].split(",")]
        scores.append(values)
        means = [float(x) for x in of_classes.removeprefix(line).split()]
        assert means == pytest.approx(0.1 * np.mean(values) * np.arange(8), abs=0.06)
        assert row.startswith(line) and len(set(values)) == 2
        assert f"{np.mean(values):5.1f} +- {np.std(values, ddof=1):.1f}  (" in row
        if len(scores) > 1:
            gain = np.subtract(values, scores[0])
            half = 12.7062 * np.std(gain, ddof=1) / np.sqrt(2)      # Student's, one degree
            said = re.search(r"  ([+-][\d.]+) to '.*', 95 % interval ([+-][\d.]+) to (.*)", row)
            assert [float(x) for x in said.groups()] == pytest.approx(
                [gain.mean(), gain.mean() - half, gain.mean() + half], abs=0.06)
    assert drawn == [n_points]
    assert (tmp_path / f"docs/ablation-{name}.png").stat().st_size > 1000
    records = list(tmp_path.rglob("run.json"))             # the time of what was there counts too
    for record in records:
        record.write_text(json.dumps(json.loads(record.read_text()) | {"seconds": 120}))
    ablation.score_table(ablation.Runner(1), name, 2)
    head = (tmp_path / f"benchmarks/ablation-{name}.txt").read_text()
    assert f"its runs took {2 * len(records)} min of one core" in head


def test_a_hard_table_has_the_same_lines_on_hard_matches(ablation, called, monkeypatch, tmp_path):
    monkeypatch.setattr(ablation, "ROOT", tmp_path)
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "docs").mkdir()
    commands = {}
    for name in "table7", "table7-hard":
        called.clear()
        monkeypatch.setattr(sys, "argv", ["ablation.py", name, "--seeds", "2", "--jobs", "1"])
        ablation.main()
        commands[name] = list(called)
    assert all("data/hard-1" in command for command in commands["table7-hard"])
    assert not any("hard" in command for command in commands["table7"])
    easy = [command.replace(" --hard", "").replace("runs/ablation/hard-", "runs/ablation/")
            .replace("data/hard-", "data/demo-") for command in commands["table7-hard"]]
    assert easy == commands["table7"]
    text = (tmp_path / "benchmarks/ablation-table7-hard.txt").read_text()
    assert text.startswith("Table 7: teachers; hard matches; ")


def test_a_run_that_fails_ends_the_table_at_once(ablation, monkeypatch, tmp_path):
    """Not after the lines before it: hours may lie there."""
    monkeypatch.chdir(tmp_path)
    later = threading.Event()

    def call(self, command):
        if "--steps 6" in command:
            sys.exit("error: broken")
        if "--steps 5" in command:
            assert later.wait(60)                          # ends only after the error was raised

    monkeypatch.setattr(ablation.Runner, "call", call)
    runner = ablation.Runner(2)
    with pytest.raises(SystemExit, match="broken"):
        runner.scores({steps: ablation.stage3(None, f"--steps {steps}", steps)
                       for steps in ("5", "6")}, [0])
    later.set()
    runner.pool.shutdown(cancel_futures=True)


SMALLEST = {
    "bank": "--tokens 64 --rows 4096 --width 16 --repeats 1",
    "cost": "",
    "cpu": "--models vivit_micro --clips 16 --turns 1",
    "infer": "--models vivit_micro --seconds 4 --repeats 1",
    "kernels": "--matches 2 --repeats 1 --sizes 1",
    "kills": "--kills 1 --steps 4",
    "malloc": "--models vivit_micro --turns 1 --repeats 1",
    "memory": "--models vivit_micro",
    "sweep": "--matches 1",
    "throughput": "--data d/train --batches 2 1 1 --window 4 --steps 1 --turns 1",
    "times": "--data d --checkpoint n.pt --matches 1 --fps 2.5",
    "video": "--only speed --seconds 2 --repeats 1"}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A folder with d, three rendered matches, and n.pt, a network for them."""
    folder = tmp_path_factory.mktemp("small")
    for words in ("-m comedian.prepare synthetic --out d --train 2 --labelled 1 --test 1",
                  f"{ROOT}/stage3_finetune.py --data d/train --classes d/classes.txt --model "
                  "vivit_micro --window 8 --batch 1 --head-epochs 0 --steps 1 --out run"):
        subprocess.run([sys.executable, *words.split()], cwd=folder, check=True)
    (folder / "run/last.pt").rename(folder / "n.pt")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALLEST)
def test_a_benchmark_runs(small, name):
    """To its end, and prints numbers. Some stood broken for days while only people ran them."""
    ran = subprocess.run([sys.executable, ROOT / f"benchmarks/{name}.py", *SMALLEST[name].split()],
                         cwd=small, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert re.search(r"\d\.\d", ran.stdout) and "nan" not in ran.stdout.split(), ran.stdout


def test_no_benchmark_is_left_out():
    """steps.py is what gpu.py and throughput.py share."""
    there = {path.stem for path in (ROOT / "benchmarks").glob("*.py")}
    assert there == {*SMALLEST, "ablation", "gpu", "steps"}


@pytest.mark.slow
def test_the_rehearsal_of_make_gpu():
    ran = subprocess.run([sys.executable, "benchmarks/gpu.py", "--device", "cpu", "--small"],
                         cwd=ROOT, capture_output=True, text=True,
                         env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert ran.returncode == 0, ran.stdout + ran.stderr
    missing = [line for line in LINES if not re.search(line, ran.stdout)]
    assert missing == [], ran.stdout


def test_without_a_gpu_it_says_so():
    ran = subprocess.run([sys.executable, "benchmarks/gpu.py"], cwd=ROOT, capture_output=True,
                         text=True, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""})
    assert ran.returncode == 1 and ran.stderr.startswith("error: torch sees no GPU here")


def test_what_fails_or_comes_too_late_is_a_line(monkeypatch, capsys):
    """And the others follow."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.setattr(sys, "path", [str(ROOT), *sys.path])          # infer.py is the top's
    gpu = __import__("gpu")

    def broken():
        raise RuntimeError("no such\nkernel")

    monkeypatch.setattr(gpu, "sections", lambda s: iter([
        ("first", broken), ("second", lambda: gpu.say("second", "fine"))]))
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--device", "cpu", "--small"])
    with pytest.raises(SystemExit) as ended:
        gpu.main()
    printed = capsys.readouterr().out
    assert ended.value.code == 1 and "1 lines failed" in printed
    assert re.search(r"first +failed +RuntimeError: no such kernel\n +second +fine", printed)
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--device", "cpu", "--small", "--minutes", "0"])
    with pytest.raises(SystemExit):
        gpu.main()
    assert re.search(r"second +not measured +0 minutes are over", capsys.readouterr().out)


def test_every_table_has_its_target(ablation):
    """make table5 runs `ablation.py table5`."""
    rules = re.findall(r"^(table2 .*): ", (ROOT / "Makefile").read_text(), re.MULTILINE)
    chosen = json.loads(ablation.CHOSEN.read_text())["chosen"]
    assert sorted(rules[0].split()) == sorted(ablation.tables(chosen))
