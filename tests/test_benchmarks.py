"""
What these tests prove about benchmarks/:
  1. every line of every table of ablation.py is a command of a stage; each is run once; mean,
     deviation and interval are right; the demo has the settings of the tables
  2. gpu.py, which people run once on a machine with a GPU, prints every line of its table, here on
     a CPU at small sizes; what fails is a line, and the others follow
  3. the others run to their end at small sizes (slow)
"""
import importlib
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from torch.utils.flop_counter import FlopCounterMode

from comedian import DataError, evaluate, soccernet
from comedian.frames import Half, find_halves
from model import MODELS, Comedian

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def benchmark(monkeypatch):
    """benchmark("gpu") imports benchmarks/gpu.py; `import infer` in there is the top's."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.syspath_prepend(str(ROOT))
    return importlib.import_module


# ------------------------------------------------------------------ 1. ablation.py
@pytest.fixture
def ablation(benchmark):
    return benchmark("ablation")


def chain(run):
    while run:
        yield run
        for teacher in () if isinstance(run.teachers, str) else run.teachers:
            yield from chain(teacher)
        run = run.parent


def test_every_line_of_every_table_is_a_command(ablation, benchmark):
    """Accepted by its stage's parser; no two commands share a folder; each table has two lines, and
    a target in the Makefile."""
    tables, runner = ablation.tables(), benchmark("runner")
    commands = {}
    for table, (_, lines) in tables.items():
        assert len(lines) >= 2, table
        for spot in lines.values():
            for run in (r for first in getattr(spot, "runs", [spot]) for r in chain(first)):
                script, *flags = run.command.split()
                module = importlib.import_module(script.removesuffix(".py"))
                assert module.parse_args(["--data", "d", *flags]).steps > 0
                content = run.command, run.teachers
                assert commands.setdefault(runner.name_of(run), content) == content
            importlib.import_module("infer").parse_args(
                ["--data", "d", "--checkpoint", "c", *getattr(spot, "flags", "").split()])
    assert len(commands) > 40
    drawn = [{*range(ablation.FIRST_SEED, ablation.FIRST_SEED + 5)}, {*ablation.OTHERS},
             {*range(ablation.FIRST_OF_SEARCH, ablation.FIRST_OF_SEARCH + 2)}]
    assert len(set.union(*drawn)) == sum(map(len, drawn))  # else an ensemble holds a network twice
    rule = re.search(r"^(table2 .*): ", (ROOT / "Makefile").read_text(), re.MULTILINE)[1]
    assert sorted([*rule.split(), *ablation.SEARCH]) == sorted(tables)


def test_the_demo_has_the_settings_of_the_tables(ablation):
    """Same flags, in the Makefile and in benchmarks/ablation.py: same numbers."""
    wanted = {"teacher" if run.name == "teacher" else run.command.split()[0]: run
              for run in chain(ablation.tables()["table5"][1]["stages 1 and 2"])}
    printed = subprocess.check_output(["make", "-n", "demo", "RUNS=r"], cwd=ROOT, text=True)
    made = {"teacher" if "--out r/teacher" in line else line.split()[0]: line.split()[1:]
            for line in re.findall(r"(stage\d_\w+\.py .*)", printed.replace("\\\n", " "))}
    assert made.keys() == wanted.keys()
    own = {"data", "out", "init", "log_every", "seed", "features", "features_name"}
    for name, run in wanted.items():
        script, *flags = run.command.split()
        parse = importlib.import_module(script.removesuffix(".py")).parse_args
        ours, demo = ({key: value for key, value in vars(parse(["--data", "d", *words])).items()
                       if key not in own | ({"model"} if run.parent else set())}   # --init's
                      for words in (flags, made[name]))
        assert ours == demo, name


def t_amap(path):
    return 100 * json.loads(path.read_text())["tight"]["a_mAP"]


@pytest.fixture
def commands(ablation, monkeypatch, tmp_path):
    """Commands are only recorded, in this list; the n-th, of infer.py, scores n % of 101."""
    monkeypatch.chdir(tmp_path)
    commands = []

    def call(self, command):
        commands.append(command)
        if found := re.search(r"--out (\S+)", command):
            Path(found[1]).mkdir(parents=True, exist_ok=True)
        if found := re.search(r"--json (\S+)", command):
            number = {"a_mAP": 0.01 * (len(commands) % 101),
                      "a_mAP_per_class": [0.001 * len(commands) * k for k in range(12)]}
            Path(found[1]).write_text(json.dumps(
                dict.fromkeys(ablation.report.NUMBERS.values(), number)))

    monkeypatch.setattr(ablation.Runner, "call", call)
    return commands


def test_each_run_of_a_table_is_run_once(ablation, commands):
    """Parents first, every run once; what was run is not run again; what another command made is
    refused."""
    first = ablation.stage1("--steps 5")
    lines = {"a": ablation.stage3(first, "--steps 5"),
             "b": ablation.stage3(ablation.stage2(first, (first,), "--steps 5"), "--steps 5")}
    judged = ablation.metrics(ablation.Runner(1), lines, [0, 1], ablation.JUDGES)
    done = [command for command in commands if not command.startswith("-m")]
    assert len(done) == len(set(done)) == 2 * (1 + 2 + 1 + 3)
    assert [command.split()[0] for command in done[:3]] == [
        "stage1_spatial.py", "stage3_finetune.py", "infer.py"]
    assert "--init runs/ablation/0/1/last.pt" in done[1] and "--seed 0" in done[1]
    own, = (command for command in done if "--features-name own" in command and "/0/" in command)
    assert "--features runs/ablation/0/1/features" in own
    assert set(judged) == {"a", "b"}
    assert len({*map(t_amap, sum(judged.values(), []))}) == 4
    commands.clear()
    again = ablation.Runner(1)
    assert ablation.metrics(again, lines, [0, 1], ablation.JUDGES) == judged
    assert not commands
    assert len(again.seconds) == len(done)                 # the time of what is not run again too
    ablation.metrics(ablation.Runner(1), lines, [0], ablation.UNSEEN)      # on other matches
    assert "--split matches/test.txt" in commands[-1] and len(commands) == 2
    with pytest.raises(DataError, match="runs/ablation/0/1: comes from another command"):
        ablation.metrics(ablation.Runner(1), {
            "c": ablation.stage3(ablation.stage1("--steps 6"))}, [0], ablation.JUDGES)


def test_several_teachers_are_of_several_seeds(ablation, benchmark, commands):
    """The tokens of three networks are features of a folder of their own."""
    first = ablation.stage1("--steps 5")
    for n, folder in ((1, "features"), (3, "features3")):
        commands.clear()
        run = ablation.stage2(None, (first,) * n, "--steps 5", f"2-{n}")
        benchmark("runner").train(ablation.Runner(1), run, 7)
        infer, stage2 = commands[-2:]
        networks = " ".join(f"runs/ablation/{seed}/1/last.pt" for seed in range(7, 7 + n))
        assert f"--checkpoint {networks} --features own --out runs/ablation/7/1/{folder}" in infer
        assert f"--features runs/ablation/7/1/{folder} --features-name own" in stage2


def test_a_run_that_was_killed_goes_on(ablation, commands):
    """Without last.pt it begins anew, with it it goes on; infer.py always begins anew. A stage's
    own run.json is kept, and does not say that the run has ended."""
    line = {"a": ablation.stage1("--steps 5")}
    folder = Path("runs/ablation/0/1")
    for saved in (False, True):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "run.json").write_text("the stage's")
        (folder / "last.pt").write_bytes(b"") if saved else None
        ablation.metrics(ablation.Runner(1), line, [0], ablation.JUDGES)
        trained, spotted = commands
        assert trained.endswith("--steps 5 --resume" if saved else "--steps 5")
        assert "--resume" not in spotted
        again = ablation.Runner(1)
        ablation.metrics(again, line, [0], ablation.JUDGES)
        assert len(commands) == 2                          # now it is done
        assert again.resumed == ({folder} if saved else set())
        assert "--resume" not in json.loads((folder / "done.json").read_text())["command"]
        assert (folder / "run.json").read_text() == "the stage's"
        commands.clear()
        for record in folder.rglob("done.json"):
            record.unlink()


def test_what_was_made_from_an_older_run_is_refused(ablation, commands):
    """Stage 1 was removed and trained anew: stage 3's folder has the numbers of the old one."""
    first = ablation.stage1("--steps 5")
    lines = {"a": ablation.stage3(ablation.stage2(None, (first,), "--steps 5"), "--steps 5")}
    runner = ablation.Runner(1)
    ablation.metrics(runner, lines, [0], ablation.JUDGES)
    for made, of in (("1/features", "1/last.pt"), ("2", "1/features"), ("2+3", "2/last.pt"),
                     ("2+3/judges-1", "2+3/last.pt")):
        source = (Path("runs/ablation/0") / of.removesuffix("/last.pt")) / "done.json"
        before = source.stat().st_mtime_ns
        os.utime(source, ns=(before, time.time_ns() + 10 ** 9))
        with pytest.raises(DataError, match=re.escape(
                f"0/{made}: is older than runs/ablation/0/{of}, which")):
            ablation.metrics(runner, lines, [0], ablation.JUDGES)
        os.utime(source, ns=(before, before))
    ablation.metrics(runner, lines, [0], ablation.JUDGES)


def test_a_failure_ends_the_others(ablation, monkeypatch, tmp_path):
    """One line, at once, with what the command said last; the same command is not begun again for
    another line, and no command goes on behind."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("runner.ROOT", tmp_path)
    (tmp_path / "stage1_spatial.py").write_text(
        "import sys, time\nopen('begun', 'a').write('x')\ntime.sleep(0.5)\n"
        "sys.exit('first\\nerror: no such data')")
    (tmp_path / "stage3_finetune.py").write_text(
        "import time\ntime.sleep(60)\nopen('ended', 'w')")
    first = ablation.stage1("--steps 5")
    runner = ablation.Runner(3)
    with pytest.raises(DataError, match=r"stage1_.* exit code 1 \(error: no such data\)"):
        try:
            ablation.metrics(runner, {"a": ablation.stage3(first), "b": first,
                                      "c": ablation.stage3(None)}, [0], ablation.JUDGES)
        finally:
            runner.stop()
    assert (tmp_path / "begun").read_text() == "x" and not (tmp_path / "ended").exists()
    assert all(child.returncode is not None for child in runner.children)
    with pytest.raises(DataError, match="stopped"):
        runner.call("stage1_spatial.py")


@pytest.mark.parametrize("flags", [
    ["table5", "--seeds", "1"], ["table5", "--jobs", "0"], ["table6"]])
def test_flags_of_a_table_that_are_refused(ablation, flags):
    """One seed has no deviation, and would replace a table of five."""
    with pytest.raises(SystemExit) as refused:
        ablation.parse_args(flags)
    assert refused.value.code == 2


@pytest.mark.parametrize(("name", "more"), [
    ("table2", ""), ("table7", ""), ("table12", ""), ("table5", "-more"),
    ("search-steps", ""), ("search-window", "")])
def test_a_table_is_written_and_drawn(ablation, commands, monkeypatch, tmp_path, name, more):
    """Mean, deviation, and differences seed by seed, against numpy. A table is judged on two sets
    of matches and drawn for the first; a search has seeds of its own, and the second set only."""
    monkeypatch.setattr(ablation, "over_matches", lambda paths, others, split: (
        len(paths), t_amap(paths[0]) - t_amap(others[0])))
    monkeypatch.setattr(ablation, "ROOT", tmp_path)
    monkeypatch.setattr(ablation, "prepare", lambda runner: None)
    monkeypatch.setattr(ablation, "MATCHES", ROOT / "matches")
    classes = soccernet.read_classes(ROOT / "matches/classes.txt")
    ablation.main(ablation.parse_args([name, "--seeds", "2", "--jobs", "1"]))
    title, lines = ablation.tables()[name]
    search = name in ablation.SEARCH
    files = [f"ablation-{name}.txt"] + [f"ablation-{name}-more.txt"] * (not search)
    assert sorted(path.name for path in tmp_path.glob("benchmarks/*")) == sorted(files)
    assert [path.name for path in tmp_path.glob("docs/*")] == [f"ablation-{name}.png"]
    assert (tmp_path / f"docs/ablation-{name}.png").stat().st_size > 1000
    head, _, *rows = (tmp_path / f"benchmarks/ablation-{name}{more}.txt").read_text().splitlines()
    first = 100 if search else 10
    assert head.startswith(f"{title}{', on 52 other matches' * bool(more)}; t-AmAP in %, seeds "
                           f"{first}, {first + 1}; python benchmarks/ablation.py {name} --seeds 2; "
                           "commit ")
    sets = re.findall(r"--split (\S+)", " ".join(run for run in commands if "--json" in run))
    judged = ["data/judges.txt"] if search else ["matches/test.txt", "data/judges.txt"]
    assert sets == [one for one in judged for _ in range(len(sets) // len(judged))] != []
    assert rows[-len(lines) - 1].endswith("  " + "  ".join(classes))
    scores = []
    for line, row, by_class in zip(lines, rows, rows[-len(lines):], strict=False):
        values = [float(x) for x in re.search(r"\(([\d., ]+)\)", row)[1].split(",")]
        scores.append(values)
        assert [float(x) for x in by_class.removeprefix(line).split()] == pytest.approx(
            0.1 * np.mean(values) * np.arange(len(classes)), abs=0.06)
        assert row.startswith(line) and len(set(values)) == 2
        assert f"{np.mean(values):5.1f} +- {np.std(values, ddof=1):.1f}  (" in row
        said = re.findall(r"  ([+-][\d.]+) to '(.*?)', 95 % over seeds ([+-][\d.]+) to ([+-][\d.]+)"
                          r", over matches \+2.0 to ([+-][\d.]+)", row)
        above = [*lines][:len(scores) - 1]
        base = next(of for of in lines if of.rpartition(": ")[0] == line.rpartition(": ")[0])
        assert [of for _, of, *_ in said] == [
            of for of in [base, *ablation.ALSO_TO.get(name, [])] if of in above]
        for mean, of, low, high, over in said:
            gain = np.subtract(values, scores[above.index(of)])
            half = 12.7062 * np.std(gain, ddof=1) / np.sqrt(2)          # Student's, one degree
            assert [*map(float, (mean, low, high, over))] == pytest.approx(
                [gain.mean(), gain.mean() - half, gain.mean() + half, gain[0]], abs=0.06)


def test_a_table_names_the_commits_of_its_runs(ablation, tmp_path):
    """Those that trained, not the one that scores; a run of two versions has both."""
    for name, commits in (("a", ["1" * 40]), ("b", ["1" * 40, "2" * 40 + "-dirty"]), ("c", [None])):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(json.dumps([{"commit": c} for c in commits]))
    folders = [tmp_path / name for name in "abcd"]
    assert ablation.commits(folders) == "1111111, 2222222-dirty, unknown"
    assert ablation.commits(folders[3:]) == "unknown"


def test_all_and_search_share_no_table(ablation, monkeypatch, tmp_path):
    """Each table belongs to one of them, and a table is judged on both sets of matches."""
    asked, judges, unseen = [], ablation.JUDGES, ablation.UNSEEN
    monkeypatch.setattr(ablation, "score_table", lambda runner, name, seeds, split: asked.append(
        (name, split)))
    monkeypatch.setattr(ablation, "prepare", lambda runner: None)
    monkeypatch.chdir(tmp_path)
    ablation.main(ablation.parse_args(["search"]))
    assert asked == [(name, judges) for name in ablation.SEARCH]
    asked.clear()
    ablation.main(ablation.parse_args(["table5"]))
    assert asked == [("table5", unseen), ("table5", judges)]
    asked.clear()
    ablation.main(ablation.parse_args(["all"]))
    assert sorted(asked) == sorted((name, split) for name in ablation.tables()
                                   if name not in ablation.SEARCH for split in (unseen, judges))


def test_the_interval_over_matches(ablation, monkeypatch, tmp_path):
    """Against scoring each list of matches with copies outright, seed by seed."""
    monkeypatch.chdir(ROOT)
    names = (ROOT / "matches/test.txt").read_text().split()
    truth = {name: soccernet.read_labels(path, ablation.CLASSES)
             for name, path in soccernet.find_labels(ROOT / "matches", names).items()}
    networks = {}
    for network, sigma_ms in (("a0", 300), ("a1", 500), ("b0", 900), ("b1", 1500)):
        rng = np.random.default_rng(sigma_ms)
        networks[network] = {name: soccernet.Detections(*map(np.array, zip(*(
            (event.half, event.label, max(0, event.position_ms + rng.normal(0, sigma_ms)),
             rng.random()) for event in events), strict=True))) for name, events in truth.items()}
        for name, found in networks[network].items():
            soccernet.write_predictions(tmp_path / network / name / soccernet.PREDICTIONS, name,
                                        found, ablation.CLASSES)
    picks = np.random.default_rng(0).integers(0, len(names), (4, len(names)))

    def outright(network):
        return np.array([evaluate.score(*({f"{i}": of[names[m]] for i, m in enumerate(drawn)}
                                          for of in (truth, networks[network])), ablation.CLASSES)
                         ["tight"]["a_mAP"] for drawn in picks])

    more = (outright("a0") - outright("b0") + outright("a1") - outright("b1")) / 2
    paths = {network: tmp_path / network / "metrics.json" for network in networks}
    ends = ablation.over_matches([paths["a0"], paths["a1"]], [paths["b0"], paths["b1"]],
                                 ROOT / "matches/test.txt", 4)
    assert ends == pytest.approx(100 * np.percentile(more, evaluate.percentiles(12)), abs=0.02)
    assert ends[0] > 1
    alone = ablation.over_matches([paths["a0"], paths["a1"]], None, ROOT / "matches/test.txt", 4)
    assert alone == pytest.approx(100 * np.percentile(
        (outright("a0") + outright("a1")) / 2, evaluate.percentiles(12)), abs=0.02)


# ------------------------------------------------------------------ probe.py
def test_the_probes_precision_by_hand(benchmark):
    """Ranked right, wrong, right: precision 1 and 2 / 3 at the two positives. A class without any
    does not count."""
    probe = benchmark("probe")
    scores = torch.tensor([[0.9, 0.1], [0.8, 0.5], [0.7, 0.2], [0.1, 0.9]])
    truth = torch.tensor([[1.0, 0], [0, 0], [1, 0], [0, 0]])
    assert probe.average_precision(scores, truth) == pytest.approx((1 + 2 / 3) / 2)


def test_the_probe_finds_what_is_there_and_nothing_else(benchmark):
    """A class that is a direction of the tokens, and labels that have nothing to do with them."""
    probe, draw = benchmark("probe"), torch.Generator().manual_seed(0)
    x, z = (torch.randn(600, 8, generator=draw) for _ in "ab")
    left_out = torch.arange(600) // 100 % 3 == 2
    for labels, least, most in ((lambda x: x[:, :1] > 1, 0.99, 1.0),
                                (lambda x: torch.rand(600, 1, generator=draw) < 0.2, 0.1, 0.35)):
        train, test = (x, labels(x).float()), (z, labels(z).float())
        assert least <= probe.linear_probe(train, test, left_out) <= most
    near = probe.neighbours((x, (x[:, :1] > 1).float()), (x[:50], (x[:50, :1] > 1).float()), n=1)
    assert near == 1.0                                     # each is its own nearest
    flat = torch.cat([x[:, :2], torch.zeros(600, 6)], 1)
    assert probe.effective_rank(x) == pytest.approx(8, abs=0.2)
    assert probe.effective_rank(flat) == pytest.approx(2, abs=0.1)


def test_the_probe_refuses_what_it_cannot_judge(benchmark, monkeypatch):
    """A match in both lists, and too few matches to choose the weight decay on."""
    probe = benchmark("probe")
    x, y = torch.randn(20, 4), torch.ones(20, 2)
    with pytest.raises(DataError, match="--train: too few labels .*; list more matches"):
        probe.linear_probe((x, y), (x, y), torch.zeros(20, dtype=bool))  # two matches
    flags = ["--data", "data/demo", "--labels", "matches", "--classes", "matches/classes.txt"]
    half = {name: Half(f"league/{name}", 1, "", "", 1, "", 0, 9) for name in "abc"}
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(probe, "load_network", lambda path, device: (None, None))
    monkeypatch.setattr(probe.soccernet, "labelled_halves", lambda data, labels, split, classes: (
        [half[name] for name in split], {f"league/{name}": [] for name in split}))
    with pytest.raises(DataError, match="--test: 'league/b' is in --train, too; list others"):
        probe.main(probe.parse_args([*flags, "--train", "ab", "--test", "bc", "c.pt"]))


# ------------------------------------------------------------------ speedrun.py
def test_the_work_of_a_run_is_that_of_its_steps(benchmark):
    """Against what torch counts in a step of stage 3, forward and backward: a little less, as the
    first layer has no gradient of its input. And stage 1 is eight forwards of its encoder. The
    network is the checkpoint's, whatever --model says."""
    speedrun, torch_model = benchmark("speedrun"), Comedian(MODELS["vivit_micro"])
    frames = torch.randn(2, 128, 3, 48, 48)
    with FlopCounterMode(display=False) as counter:
        torch_model(frames).sum().backward()
    state = {"config": torch_model.cfg, "stage": 3, "step": 1,
             "args": {"model": "vivit_tiny", "steps": 0, "batch": 2}}
    assert torch_model.cfg.window_tokens == 64
    assert 0.89 < counter.get_total_flops() / speedrun.training_flop(state) < 1
    with FlopCounterMode(display=False) as counter:
        torch_model.spatial(frames.view(128, 2, 3, 48, 48))
    # On a CPU torch does not count the attention products: 3 % here.
    assert 0.94 < 8 * counter.get_total_flops() / speedrun.training_flop(
        state | {"stage": 1, "args": {"batch": 128}}) <= 1


def test_a_race_that_cannot_be_run_is_one_line(benchmark, monkeypatch, tmp_path):
    """What is there is neither raced on nor removed, also behind a link; a demo that fails ends the
    race."""
    speedrun = benchmark("speedrun")
    monkeypatch.setattr(speedrun, "ROOT", tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "Makefile").write_text("demo:\n\techo $(RUNS) >> begun; exit 3\n")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/speedrun-12").symlink_to("elsewhere")
    with pytest.raises(DataError, match="runs/speedrun-12: is there already"):
        speedrun.main(speedrun.parse_args([]))
    assert not (tmp_path / "begun").exists()
    with pytest.raises(DataError, match="runs/speedrun-10: make demo ended with exit code 2"):
        speedrun.main(speedrun.parse_args(["--seeds", "10", "11"]))
    assert (tmp_path / "begun").read_text() == "runs/speedrun-10\n"
    with pytest.raises(SystemExit) as refused:
        speedrun.parse_args(["--seeds", "10", "10"])       # no spread
    assert refused.value.code == 2


def test_the_row_of_a_race(benchmark, monkeypatch, tmp_path, capsys):
    """Mean, deviation, each seed in order and Student's interval, by hand: 20, 30 and 25 %; and the
    work of the networks of one seed."""
    speedrun = benchmark("speedrun")
    monkeypatch.setattr(speedrun, "ROOT", tmp_path)
    monkeypatch.setattr(speedrun, "over_matches", lambda paths, others, split: (
        len(paths), 100 if others is None and split.name == "test.txt" else 0))
    monkeypatch.setattr(speedrun, "load_checkpoint", lambda path: path.parent.name)
    monkeypatch.setattr(speedrun, "training_flop", {"stage1": 3e12, "stage2": 4e12}.get)
    monkeypatch.chdir(tmp_path)
    for seed, score in ((10, 0.2), (11, 0.3), (12, 0.25)):
        for name in ("test/metrics.json", "stage1/last.pt", "stage2/last.pt"):
            path = tmp_path / "made" / str(seed) / name
            path.parent.mkdir(parents=True)
            path.write_text(json.dumps(dict.fromkeys(
                speedrun.report.NUMBERS.values(), {"a_mAP": score})))
    (tmp_path / "Makefile").write_text("demo:\n\tmkdir -p runs; cp -r made/$(SEED) $(RUNS)\n")
    speedrun.main(speedrun.parse_args([]))
    assert capsys.readouterr().out.splitlines()[-1].startswith(
        "t-AmAP 25.0 +- 5.0 (20.0, 30.0, 25.0), 95 % over seeds 12.6 to 37.4, over matches 3.0 to "
        "100.0; 0.0 minutes, 7 TFLOP; ")


# ------------------------------------------------------------------ 2. gpu.py
LINES = ["matrix product, .* bfloat16", "bandwidth", "logits in float32 against the CPU",
         "gradient in float32 against the CPU", "stage 2's loss, complete", "stage 2's loss, queue",
         "the recipe on 300 matches", "minutes of frames", "45 minutes of video",
         "stage 1, stopped .* same bits", "two processes, stage 1 +done", "fused AdamW",
         *(f"stage {stage}, vivit_micro, {what}" for stage in (1, 2, 3)
           for what in (r"\d+ clips a pass +\d.*floor", "from JPEGs"))]


@pytest.mark.slow
def test_the_rehearsal_of_make_gpu():
    ran = subprocess.run([sys.executable, "benchmarks/gpu.py", "--device", "cpu", "--small"],
                         cwd=ROOT, capture_output=True, text=True,
                         env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert [line for line in LINES if not re.search(line, ran.stdout)] == [], ran.stdout


def test_a_section_that_fails_or_is_late_is_one_line(benchmark, monkeypatch, capsys):
    """And the others follow."""
    gpu = benchmark("gpu")
    monkeypatch.setattr(gpu, "sections", lambda s: iter([
        ("first", lambda: 1 / 0), ("second", lambda: gpu.say("second", "fine"))]))
    for more, printed in (([], r"first +failed +ZeroDivisionError: .*\n +second +fine"),
                          (["--minutes", "0"], r"second +not measured +0 minutes are over")):
        monkeypatch.setattr(sys, "argv", ["gpu.py", "--device", "cpu", "--small", *more])
        with pytest.raises(SystemExit):
            gpu.main()
        assert re.search(printed, capsys.readouterr().out)


# ------------------------------------------------------------------ 3. the others
SMALL = {
    "bootstrap": "--matches 3 --resamples 9",
    "bank": "--tokens 64 --rows 4096 --width 16 --repeats 1",
    "cpu": "--models vivit_micro --clips 16 --turns 1",
    "infer": "--models vivit_micro --seconds 4 --repeats 1",
    "kernels": "--matches 2 --repeats 1 --sizes 1",
    "memory": "--models vivit_micro",
    "throughput": "--data d/train --features f --batches 2 1 1 --window 4 --steps 1 --turns 1",
    "video": "--only speed --seconds 2 --repeats 1"}


def test_every_benchmark_is_run():
    """steps.py is what gpu.py, memory.py and throughput.py share, runner.py runs ablation.py's
    commands."""
    assert {path.stem for path in (ROOT / "benchmarks").glob("*.py")} == {
        *SMALL, "ablation", "gpu", "page", "probe", "reproduce", "runner", "speedrun",
        "steps"}


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_a_benchmark_runs(tmp_path, name):
    """To its end, and prints numbers. Some stood broken for days while only people ran them."""
    if name == "throughput":
        subprocess.run([sys.executable, "-m", "comedian.prepare", "frames", "--out", "d/train",
                        "--videos", ROOT / "matches", "--size", "48", "48"], cwd=tmp_path,
                       check=True)
        for half in find_halves(tmp_path / "d/train"):
            path = tmp_path / f"f/{half.match}/{half.number}_teacher.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, np.random.default_rng(0).normal(size=(95, 8)).astype(np.float32))
    ran = subprocess.run([sys.executable, ROOT / f"benchmarks/{name}.py", *SMALL[name].split()],
                         cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert re.search(r"\d\.\d", ran.stdout) and "nan" not in ran.stdout.split(), ran.stdout
