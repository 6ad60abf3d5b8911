"""
What these tests prove about benchmarks/football3d/, with a stand-in for the engine:
  1. the edits: each text once or nothing is changed; brackets stay in balance
  2. the engine's log becomes labels at the right picture
  3. rendering goes on where it stopped, plays nothing twice, and leaves no half file under its name
  4. what encode leaves is read by the project: labels, lists, videos, the state
  5. a mistake is one line
"""
import collections
import json
import re
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from comedian import DataError, frames, soccernet, video

HERE = Path(__file__).resolve().parents[1] / "benchmarks/football3d"
sys.path.insert(0, str(HERE))
import engine  # noqa: E402
import make  # noqa: E402

sys.path.remove(str(HERE))


# ------------------------------------------------------------------ the edits
@pytest.fixture
def source(tmp_path):
    """A source that has every text of EDITS once, with Windows' line ends in one file."""
    for file in {file for file, *_ in engine.EDITS} | {engine.BALL}:
        text = "\n;\n".join(old for at, old, *_ in engine.EDITS if at == file)
        text = text.replace("\n", "\r\n") if file.endswith("ambient.frag") else text
        path = tmp_path / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())
    (tmp_path / engine.BALL).write_text("*MESH_VERTEX    0\t0.0000\t-0.0500\t0.1100\n*MESH_FACE 0")
    return tmp_path


def test_edits(source):
    engine.edit(source)
    for file, _, new, why in engine.EDITS:
        text = (source / file).read_bytes().decode()
        assert new in text.replace("\r\n", "\n") and why
        assert ("\r\n" in text) == file.endswith("ambient.frag") and text.count("\r\n") in (
            0, text.count("\n"))
    assert (source / engine.BALL).read_text() == (
        "*MESH_VERTEX    0\t0.0000\t-0.0800\t0.1760\n*MESH_FACE 0")
    for file, old, new, _ in engine.EDITS:
        assert [old.count(a) - old.count(b) for a, b in ("()", "{}", "[]")] == [
            new.count(a) - new.count(b) for a, b in ("()", "{}", "[]")], (file, old)


def test_readme():
    """It counts the edits and names the packages."""
    text = (HERE / "README.md").read_text(encoding="utf-8")
    assert f"as {len(engine.EDITS)} short replacements" in " ".join(text.split())
    packages = text.split("--no-install-recommends ")[1].split("#")[0].replace("\\", "").split()
    assert sorted(packages) == sorted(make.NEEDS)


@pytest.mark.parametrize("times", [0, 2])
def test_edits_that_do_not_fit_change_nothing(source, times):
    file, old, *_ = engine.EDITS[-1]
    (source / file).write_text((source / file).read_text().replace(old, old * times))
    before = {path: path.read_bytes() for path in source.rglob("*.*") if path.is_file()}
    with pytest.raises(ValueError, match=rf"{file}: {times} times, not once: .*an untouched gf"):
        engine.edit(source)
    assert before == {path: path.read_bytes() for path in before}


# ------------------------------------------------------------------ the log -> labels
@pytest.mark.parametrize("log, labels", [
    ("12000 message:GOAL for Real Bayesians! Gauss scores!", "1.5 Goal"),
    ("12000 message:It's an OWN GOAL! oh noes!", "1.5 Goal"),
    ("12000 message:offside!; 12010 stop:3; 16000 taken:3", "1.5 Offside, 5.5 Free-kick"),
    ("12000 message:foul!; 12000 stop:3", "1.5 Foul"),
    ("12000 message:foul! yellow card; 15000 card shown; 15010 card shown; 18000 card shown",
     "1.5 Foul, 4.5 Yellow card"),
    ("12000 message:foul! red card!!!; 15000 card shown", "1.5 Foul, 4.5 Red card"),
    ("12000 stop:2; 15000 taken:2", "1.5 Ball out of play, 4.5 Goal kick"),
    ("12000 stop:4; 15000 taken:4; 16000 stop:5; 18000 taken:5",
     "1.5 Ball out of play, 4.5 Corner, 5.5 Ball out of play, 7.5 Throw-in"),
    ("12000 stop:1; 15000 taken:1; 15400 touch:2:0; 16000 touch:2:0", "4.9 Kick-off"),
    ("12000 stop:6; 15000 taken:6", "4.5 Penalty"),
    ("12000 touch:8:0 0; 12500 touch:8:0 0; 13600 touch:8:0 0", "1.5 Shot, 3.1 Shot"),
    ("12000 touch:8:2 0; 12300 touch:4:0 0", ""),                  # no intention; a pass
    ("12000 touch:8:0 0; 13000 touch:9:1 1; 13100 touch:10:1 1", "1.5 Shot, 2.5 Save"),
    ("12000 touch:8:0 0; 13000 touch:9:1 0", "1.5 Shot"),          # of the same team
    ("12000 touch:8:0 0; 16000 touch:10:1 1", "1.5 Shot"),         # long after
    ("10000 message:offside!; 10500 taken:5; 20480 taken:4; 20500 taken:4",
     "0.0 Throw-in, 9.98 Corner"),                                 # what is not in the video
])
def test_labels(log, labels):
    """skip_s = 10: the first picture is the game's at 10.5 s, the video ends 10 s later."""
    rows = [line.split() for line in log.replace("card shown", "card_shown").split("; ")]
    text = "".join(f"{ms}\t{' '.join(what).replace('_', ' ')}\t0\n" if "touch" not in what[0]
                   else "\t".join([ms, what[0], *(what[1:] or ["0"])]) + "\n" for ms, *what in rows)
    got = make.read_events(text, skip_s=10, seconds=10)
    assert ", ".join(f"{round(t, 2)} {label}" for t, label in got) == labels


# ------------------------------------------------------------------ a stand-in for the engine
ENGINE = '''
import json, os, struct, sys
half = json.loads(sys.argv[2])
size, seed, out = half["size"], half["seed"], sys.stdout.buffer
with open(r"{started}", "a") as file:
    print(seed, *[] if size else ["blind"], file=file)
with open(half["environment"]["GF_EVENTS"], "w") as log:
    print(round(1000 * half["skip_s"]) + 1500, "taken:4" if seed % 100 == 1 else "taken:2", 0,
          sep="\t", file=log)
for i in range(half["seconds"] * 2):
    if i == 3 and os.path.exists(r"{broken}"):
        sys.exit("Error: no screen")
    out.write(struct.pack("96f", *[i / 100] * 96))
    if size:
        assert os.path.exists(half["environment"]["GFOOTBALL_DATA_DIR"] + "/media")
        row = bytes([10 * i, seed % 7 * 30, 100]) * size[0]
        out.write(bytes(len(row)) * (size[1] // 2) + row * (size[1] // 2))    # from below
'''


@pytest.fixture
def here(tmp_path, monkeypatch):
    """args of a build with the stand-in; two small sets, of halves of four seconds."""
    monkeypatch.setattr(make, "SETS", {"train": (1,), "pretrain": (301,)})
    monkeypatch.setattr(make, "HALF_S", 4)
    monkeypatch.setattr(make, "SIZE", (64, 64))
    monkeypatch.setattr(make, "HERE", tmp_path / "here")
    monkeypatch.setattr(make, "PYTHON", sys.executable)
    args = SimpleNamespace(build=tmp_path / "build", out=tmp_path / "matches", jobs=1, matches=None)
    make.write_file(make.library(args.build), lambda file: None)
    data = make.library(args.build).parent / "data"
    teams = data / "databases/default/images_teams/primeradivision"
    teams.mkdir(parents=True)
    (data / "media").mkdir()
    for name in ("fcbarcelona_kit_02.bmp", "fcbarcelona_logo.bmp", "realmadrid_kit_02.bmp"):
        (teams / name).touch()
    args.started, args.broken = tmp_path / "started", tmp_path / "broken"
    (tmp_path / "here").mkdir()
    (tmp_path / "here/engine.py").write_text(
        ENGINE.replace("{started}", str(args.started)).replace("{broken}", str(args.broken)))
    return args


def test_render_and_encode(here):
    here.broken.touch()
    for here.matches, log in (None, r"001100\.log"), ([301], r"301/1\.log"):   # blind; pictures
        with pytest.raises(DataError, match=f"{log}: the engine stopped .*Error: no screen"):
            make.render(here)
    assert not list(here.build.glob("renders/*/?.mkv")) + list(here.build.rglob("*.tsv"))
    here.broken.unlink()
    here.started.unlink()

    make.render(here)
    assert here.started.read_text().split() == ["301100", "301200"]     # nothing blind
    make.encode(here)                                                   # only the set that is whole
    assert {path.name for path in here.out.iterdir()} == {"301", "labels.csv", "pretrain.txt",
                                                          "state.npz", "counts.txt"}
    here.matches = None
    make.render(here)
    assert here.started.read_text().splitlines()[2:] == [
        "1100 blind", "1101 blind", "1102 blind", "1101",               # 1: the corner wins
        "1200 blind", "1201 blind", "1202 blind", "1201"]
    (here.build / "renders/001/2.mkv").unlink()
    make.render(here)
    assert here.started.read_text().splitlines()[10:] == ["1201"]       # the rest is there

    make.encode(here)
    assert [line.split() for line in (here.out / "counts.txt").read_text().splitlines()] == [
        ["train", "pretrain"], ["matches", "1", "1"], ["minutes", "0", "0"], ["labels", "2", "2"],
        ["Corner", "2", "0"], ["Goal", "kick", "0", "2"]]
    labels = soccernet.find_labels(here.out)
    assert {match: [row[:3] for row in listed.rows] for match, listed in labels.items()} == {
        match: [(half, name, 1000) for half in (1, 2)]
        for match, name in (("001", "Corner"), ("301", "Goal kick"))}
    assert frames.read_games(here.out / "train.txt") == ["001"]
    assert [[Path(half).name for half in match] for match in video.find_videos(here.out)] == [
        ["1.mp4", "2.mp4"]] * 2
    for half, seed in ((1, 1101), (2, 1201)):
        lossless = list(make.read_video(here.build / f"renders/001/{half}.mkv"))
        small = list(make.read_video(here.out / f"001/{half}.mp4"))
        assert len(lossless) == len(small) == 8
        for i, (picture, other) in enumerate(zip(lossless, small, strict=True)):
            assert picture[0, 0].tolist() == [10 * i, seed % 7 * 30, 100]    # the upper half
            assert not picture[-1].any()
            assert np.abs(picture[5, 5].astype(int) - other[5, 5]).max() < 12
    with np.load(here.out / "state.npz") as stored:
        state = stored["301_1"].cumsum(1).T * stored["step"]
        assert state.shape == (8, 96) and np.abs(state[5, [0, 11]] - 0.05).max() < 1e-9
    before = (here.out / "001/1.mp4").stat().st_mtime_ns
    make.encode(here)
    assert (here.out / "001/1.mp4").stat().st_mtime_ns == before


def test_same_number_same_plan():
    """Nothing is drawn anew; halves, candidates and matches differ; the look is the match's."""
    plans = {(n, h, c): make.plan(n, h, c, 95) for n in (1, 301) for h in (1, 2) for c in (0, 1)}
    assert json.dumps(plans[1, 2, 1]) == json.dumps(make.plan(1, 2, 1, 95))
    assert len({plan["seed"] for plan in plans.values()}) == 8
    assert len({plan["skip_s"] for plan in plans.values()}) > 6
    assert all(5 <= plan["skip_s"] < 20 for plan in plans.values())
    assert len({plan["environment"]["GF_VIEW"] for plan in plans.values()}) == 2
    numbers = [set(make.SETS[name]) for name in ("valid", "pretrain", "test")] + [{make.EXAMPLE}]
    assert sum(map(len, numbers)) == len(set().union(*numbers)) == 77
    assert set(make.SETS["train"]) < set(make.SETS["pretrain"])


@pytest.mark.parametrize("step, spoil, says", [
    ("build", lambda args, patch: patch(make, "NEEDS", {"g++": "/usr/no/*", "cmake": "/usr"}),
     r"gfootball-2.10.2: Debian packages are missing .*; apt-get install -y "
     r"--no-install-recommends g\+\+$"),
    ("render", lambda args, patch: make.library(args.build).unlink(),
     r"_gameplayfootball.so: no engine; python .* build"),
    ("encode", lambda args, patch: None, "renders: no set is there in whole, match 001 is missing"),
    ("measure", lambda args, patch: None, "renders: nothing is rendered; python .* render"),
])
def test_mistakes(here, monkeypatch, step, spoil, says):
    spoil(here, monkeypatch.setattr)
    with pytest.raises(DataError, match=says):
        make.STEPS[step](here)


# ------------------------------------------------------------------ what the repository has
def test_matches():
    """matches/ is what its card says: lists, counts, halves of 95 s, classes, at most 16 MB."""
    root = make.ROOT / "matches"
    sets = {name: frames.read_games(root / f"{name}.txt") for name in make.SETS}
    assert sets == {name: [f"{n:03d}" for n in numbers] for name, numbers in make.SETS.items()}
    rows = [line.split(",") for line in (root / "labels.csv").read_text().splitlines()[1:]]
    head, *table = (root / "counts.txt").read_text().splitlines()
    for line in table[3:]:
        *label, a, b, c, d = line.split()
        counted = [sum(row[2] == " ".join(label) and row[0][:3] in sets[name] for row in rows)
                   for name in head.split()]
        assert counted == [int(n) for n in (a, b, c, d)], line
    assert len(table) == 3 + len({row[2] for row in rows} - {""})
    assert all(0 <= float(row[1]) < make.HALF_S for row in rows if row[2])
    files = sorted(root.glob("*/*.mp4"))
    assert [str(file.relative_to(root)) for file in files] == sorted(
        f"{n:03d}/{half}.mp4" for n in {*make.SETS["pretrain"], *make.SETS["valid"],
                                        *make.SETS["test"]} for half in (1, 2))
    assert len(list(make.read_video(files[0]))) == 2 * make.HALF_S
    assert sum(file.stat().st_size for file in root.rglob("*") if file.is_file()) < 16e6
    in_train = collections.Counter(row[2] for row in rows if row[0][:3] in sets["train"])
    assert soccernet.read_classes(root / "classes.txt") == tuple(
        sorted(label for label, n in in_train.items() if n >= 5))
    with np.load(root / "state.npz") as stored:
        assert set(stored.files) == {"step"} | {f"{n}_{h}" for n in sets["pretrain"] for h in "12"}
        assert stored["301_1"].shape == (96, 2 * make.HALF_S)


def test_the_example(tmp_path):
    """The README's first command: the surest actions, a page, the table, for labels are there."""
    ran = subprocess.run(
        [sys.executable, "infer.py", "--video", "docs/example/match.mp4", "--checkpoint",
         "docs/example/football3d.pt", "--out", str(tmp_path)], cwd=make.ROOT, text=True,
        capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert ran.returncode == 0, ran.stderr
    found = [line.split() for line in ran.stdout.splitlines() if re.match(r" +\d\d:\d\d  ", line)]
    assert [(time, " ".join(name)) for time, *name, score in found if float(score) > 0.59] == [
        ("00:02", "Ball out of play"), ("00:13", "Shot"), ("00:25", "Ball out of play"),
        ("01:43", "Ball out of play"), ("02:01", "Shot"), ("02:33", "Shot"), ("02:54", "Shot")]
    score = float(re.search(r"with events +20 +([\d.]+)", ran.stdout)[1])
    assert score == pytest.approx(45.3, abs=2)
    assert (tmp_path / "match/page.html").exists()
    example = make.ROOT / "docs/example"
    assert (example / "match.mp4").stat().st_size < 3e6
    assert (example / "football3d.pt").stat().st_size < 5e6
