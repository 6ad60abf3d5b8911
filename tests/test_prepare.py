"""
What these tests prove about prepare.py; about `synthetic`:
  1. same settings, same bytes, whatever the number of processes; another seed, other matches
  2. what lies on disk is what frames.py reads and SoccerNet prescribes
  3. a folder is made once, finished if half-done, and never written over
  4. the scenes are what the labels say: a goal and a miss begin alike, hidden events are hidden
  5. the teacher sees no more than is on screen, near its second, mirrored or not
About `pca`:
  6. one pass gives the directions of an SVD in float64; a basis is kept, applied, and not mixed up
(`frames`: test_video.py. Features by a network: test_infer.py.)
"""
import argparse
import json
import os
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from test_video import tree

from comedian import DataError, bank, prepare, soccernet, synthetic
from comedian.frames import DEFAULT_FPS, find_halves, read_frame
from comedian.synthetic import REFEREE, REPLAY, WIDE, Painter, Script, on_screen

SMALL = dict(train=2, labelled=1, test=1, seconds=60, size=32, seed=0, hard=False, jobs=2)


def render(out, **changes):
    synthetic.render(argparse.Namespace(out=str(out), **{**SMALL, **changes}))


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    out = tmp_path_factory.mktemp("synthetic") / "made"
    render(out)
    return out


@pytest.fixture(scope="module")
def scripts():
    """Forty halves of three minutes."""
    return [Script(np.random.default_rng(i), 180, half=1 + i % 2) for i in range(40)]


# ------------------------------------------------------------------ 1. same seed, same bytes
@pytest.mark.parametrize("changes, same", [({"jobs": 1}, ""), ({"train": 1}, "test/")])
def test_same_bytes(changes, same, rendered, tmp_path):
    """From any number of processes; a test match does not depend on the train matches."""
    render(tmp_path / "again", **changes)
    assert tree(tmp_path / "again" / same) == tree(rendered / same)


def test_other_seed_other_matches(rendered, tmp_path):
    render(tmp_path / "other", seed=1)
    other, first = tree(tmp_path / "other"), tree(rendered)
    assert set(other.values()) & set(first.values()) == {first["classes.txt"]}


# ------------------------------------------------------------------ 2. the layout
def test_data_reads_it(rendered):
    halves = find_halves(rendered)
    assert [half.number for half in halves] == [1, 2] * 3
    labelled = {half.match for half in halves
                if (rendered / half.match / "Labels-v2.json").exists()}
    assert sorted(match.split("/")[0] for match in labelled) == ["test", "train"]
    for half in halves:
        assert (half.n_frames, half.fps, half.first) == (120, 2.0, 1)
        assert read_frame(half.path(119)).shape == (32, 32, 3)
        assert bank.open_features(rendered, half, "physics").shape == (60, 64)
        features = np.load(rendered / half.match / f"{half.number}_physics.npy")
        assert features.dtype == np.float32
        assert np.isfinite(features).all() and features.std() > 0.2      # more than its noise


def test_labels_follow_soccernet(rendered):
    classes = soccernet.read_classes(rendered / "classes.txt")
    assert classes == tuple(name for name in soccernet.SOCCERNET_CLASSES if name in classes)
    assert len(classes) == 8
    for path in rendered.rglob("Labels-v2.json"):
        labels = json.loads(path.read_text())
        assert labels["UrlLocal"] == "/".join(path.parent.parts[-3:]) + "/"
        for event in labels["annotations"]:
            assert set(event) == {"gameTime", "label", "position", "team", "visibility"}
            minutes, seconds = divmod(int(event["position"]) // 1000, 60)
            assert re.fullmatch(rf"[12] - {minutes:02d}:{seconds:02d}", event["gameTime"])
            assert isinstance(event["position"], str) and event["team"] in ("home", "away")
        assert len(soccernet.read_labels(path, classes)) == len(labels["annotations"]) > 5


def test_score_counts_the_goals(tmp_path, monkeypatch):
    synthetic.teacher_basis()                                 # cached, from ordinary halves
    monkeypatch.setattr(synthetic, "INCIDENTS", {"goal": 1.0})
    margins, settings = set(), {"seed": 0, "seconds": 120, "size": 32, "hard": False}
    for number in range(3):
        synthetic.write_match((str(tmp_path), "train", number, True, settings))
    for path in tmp_path.rglob("Labels-v2.json"):
        labels = json.loads(path.read_text())
        goals = [event["team"] for event in labels["annotations"] if event["label"] == "Goal"]
        assert labels["gameScore"] == f"{goals.count('home')} - {goals.count('away')}"
        assert path.parent.name.endswith(
            " {gameHomeTeam} {gameScore} {gameAwayTeam}".format_map(labels))
        margins.add(goals.count("home") - goals.count("away"))
    assert margins != {0}                                  # three draws would prove nothing


# ------------------------------------------------------------------ 3. made once
def test_a_second_call_touches_nothing_and_other_settings_are_refused(rendered, capsys):
    before = {path: path.stat().st_mtime_ns for path in rendered.rglob("*")}
    render(rendered)
    assert "already there" in capsys.readouterr().out
    with pytest.raises(DataError, match="other settings.*choose another --out"):
        render(rendered, seed=5)
    assert {path: path.stat().st_mtime_ns for path in rendered.rglob("*")} == before


def test_hard_reaches_the_pictures_and_the_teacher(rendered, tmp_path):
    """From the flag to what is written: other frames, other features."""
    args = prepare.parse_args(["synthetic", "--out", str(tmp_path / "hard"), "--hard"])
    render(args.out, hard=args.hard)
    easy, hard = tree(rendered).values(), tree(tmp_path / "hard").items()
    for kind in (".jpg", "_physics.npy"):
        assert {content for path, content in hard if path.endswith(kind)} - {*easy}


def test_a_folder_of_before_there_was_hard(rendered, tmp_path, capsys):
    out = Path(shutil.copytree(rendered, tmp_path / "older"))
    record = json.loads((out / "synthetic.json").read_text())
    del record["settings"]["hard"]
    for settings in (record["settings"], {**record["settings"], "hard": True}):     # the first hard
        (out / "synthetic.json").write_text(json.dumps({**record, "settings": settings}))   # scenes
        with pytest.raises(DataError, match="rendered with other settings"):
            render(out, hard=True)
        if "hard" not in settings:
            render(out)
            assert "already there" in capsys.readouterr().out


def test_half_finished_folder_is_finished(rendered, tmp_path):
    out = Path(shutil.copytree(rendered, tmp_path / "killed"))
    record = json.loads((out / "synthetic.json").read_text())
    (out / "synthetic.json").write_text(json.dumps({**record, "finished": False}))
    killed, untouched = sorted((out / "train").glob("*/*/*"))
    (killed / "2_physics.npy").unlink()
    (killed / "1_224p" / "00000007.jpg").write_bytes(b"half a frame")
    written = (untouched / "2_224p" / "00000001.jpg").stat().st_mtime_ns
    render(out)
    assert tree(out) == tree(rendered)
    assert (untouched / "2_224p" / "00000001.jpg").stat().st_mtime_ns == written


@pytest.mark.parametrize("name, text, message", [
    ("holiday.jpg", "mine", "not made by this command"),
    ("synthetic.json", "{", "not a record of this command"),
    ("synthetic.json", "[]", "not a record of this command")])
def test_foreign_files_are_left_alone(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message):
        render(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("flag, value", [
    ("train", 0), ("size", 8), ("seconds", 5), ("seed", -1), ("jobs", 0), ("test", -1)])
def test_flags_are_checked_before_anything_is_written(tmp_path, capsys, flag, value):
    with pytest.raises(SystemExit) as refused:
        prepare.parse_args(["synthetic", "--out", str(tmp_path / "new"), f"--{flag}", str(value)])
    line, = capsys.readouterr().err.splitlines()
    assert refused.value.code == 2 and f"argument --{flag}: wants a whole number from" in line
    with pytest.raises(DataError, match="--labelled 3: there are only 2 train matches"):
        render(tmp_path / "new", labelled=3)
    assert not (tmp_path / "new").exists()


def test_a_mistake_is_one_line_and_exit_code_2(tmp_path):
    (tmp_path / "file").write_text("")
    command = [sys.executable, "-m", "comedian.prepare", "synthetic", "--out"]
    for out, word in ((tmp_path / "file", "--out"), (tmp_path / "file" / "below", "below")):
        done = subprocess.run([*command, out], capture_output=True, text=True)
        assert done.returncode == 2 and re.fullmatch(f"error: .*{word}.*\n", done.stderr)


# ------------------------------------------------------------------ 4. scenes and labels agree
def test_rate_and_classes(scripts):
    events = [event for script in scripts for event in script.events if event[0] < 180]
    assert 12 < 40 * 180 / len(events) < 18                # about one event in 15 s
    labels = [label for _, label, _, _ in events]
    assert set(labels) == set(synthetic.CLASSES)
    assert min(labels.count(name) for name in synthetic.CLASSES) > 0.05 * len(labels)
    # Not on the grid of the frames: all quarters of a second are about equally likely.
    quarters = np.bincount([int(time * 4) % 4 for time, *_ in events]) / len(events)
    assert (abs(quarters - 0.25) < 0.08).all()


def test_hidden_events_are_hidden_and_few(scripts):
    hidden, total = 0, 0
    for script in scripts:
        shot = on_screen(script, 180)
        for time, label, _, shown in script.events:
            if time < 179:
                kind = shot["kind"][int(time * DEFAULT_FPS)]
                assert (kind == REPLAY) == (not shown), (time, label)
                hidden, total = hidden + (not shown), total + 1
    assert 0.01 < hidden / total < 0.06


def test_a_hard_replay_is_the_scene_again_and_looks_like_play(scripts):
    """--hard: what is on screen then is what was on screen, to the frame; no frame, no own kind."""
    painter, replays = Painter(np.random.default_rng(0), 32), [0, 0]
    for number, easy in enumerate(scripts):
        script = Script(np.random.default_rng(number), 180, half=1 + number % 2, hard=True)
        shot = on_screen(script, 180)
        assert REPLAY not in shot["kind"]
        for start, kind, _, value in script.cuts:
            if kind != REPLAY or start > 175:
                continue
            of_it = np.flatnonzero((shot["time"] >= start) & (shot["time"] < start + 2))
            lag = start - value                            # seconds from a scene to its replay
            live = Script(np.random.default_rng(number), 180, half=1 + number % 2, hard=True)
            live.beats = [(t + lag, *rest) for t, *rest in live.beats]
            live.falls = [(t + lag, to + lag, player) for t, to, player in live.falls]
            live.cuts = [(0.0, WIDE, 0, 0.0)]
            then = on_screen(live, 180)
            for i in of_it:
                assert (painter.frame(shot, i) == painter.frame(then, i)).all()
        for k, of in enumerate((easy, script)):
            replays[k] += sum(kind == REPLAY for _, kind, *_ in of.cuts)
    assert replays[1] > 1.4 * replays[0] > 0


def film(monkeypatch, incident, seed, seconds, hard=False):
    """All incidents are of one kind: frames (F, 48, 48, 3), when the first one is, the script."""
    monkeypatch.setattr(synthetic, "INCIDENTS", {incident: 1.0})
    script = Script(np.random.default_rng(seed), seconds, half=1, hard=hard)
    shot, painter = on_screen(script, seconds), Painter(np.random.default_rng(7), 48)
    frames = np.stack([painter.frame(shot, i) for i in range(2 * seconds)])
    return frames, next(t for t, label, *_ in script.events if label != "Kick-off"), script


def test_goal_and_miss_begin_alike(monkeypatch):
    """Same dice, one incident or the other: the pictures part only after the labelled moment."""
    (goal, time, _), (miss, same_time, _) = (film(monkeypatch, incident, seed=7, seconds=40)
                                             for incident in ("goal", "miss"))
    alike, last = (goal == miss).all((1, 2, 3)), int(time * DEFAULT_FPS)         # (F,)
    assert time == same_time and alike[:last].all()        # to the last frame before the ball is
    assert not alike[last + 4:last + 10].any()             # there


@pytest.mark.parametrize("seed", range(6))
def test_a_hard_goal_is_a_miss_until_the_restart(monkeypatch, seed):
    """--hard: the same close-up follows, and the same replay; neither camera nor ball tells."""
    films, times = [], []
    for incident in ("goal", "miss"):
        frames, time, script = film(monkeypatch, incident, seed, 60, hard=True)
        later = [(t, kind) for t, kind, *_ in script.cuts if t > time]
        assert later[0][1] == synthetic.CHEER and later[1][1] == WIDE
        replayed = later[2][1] == REPLAY and later[2][0] == later[1][0]
        films.append(frames)
        times.append((time, later[3][0] if replayed else later[1][0]))
    assert times[0] == times[1] and 5 < times[0][1] - times[0][0] < 12
    alike = (films[0] == films[1]).all((1, 2, 3))                          # (F,)
    back = int(np.ceil(times[0][1] * DEFAULT_FPS))         # the first frame of the pitch again
    assert alike[:back].all()
    assert not alike[back + 2:back + 8].any()              # (the camera of both was at the ball)


def test_card_goes_up_at_its_label(scripts):
    painter, checked = Painter(np.random.default_rng(0), 48), 0
    for script in scripts:
        shot = on_screen(script, 180)
        for time, label, *_ in script.events:
            if label == "Yellow card" and time < 176:
                after = int(np.ceil(time * DEFAULT_FPS))             # the first frame with it
                yellow = [(abs(painter.frame(shot, i).astype(int) - painter.colours["ball"]).sum(-1)
                           < 60).sum() for i in range(after - 1, after + 6)]
                assert yellow[0] == 0 and min(yellow[1:]) > 20             # 3 s, at least
                checked += 1
    assert checked > 10


def test_everyone_is_where_the_script_puts_them(scripts):
    """Kick-off: all in their own halves; corner: ball at a flag; throw-in: over a touchline."""
    for script in scripts:
        scenes = {time: scene for time, scene, _ in script.beats}
        for time, label, team, _ in script.events:
            scene = scenes[time]
            x, y = abs(scene[synthetic.BALL])
            if label == "Kick-off":
                assert (x, y) == (0, 0)
                for rows, way in zip(synthetic.TEAMS, script.attack, strict=True):
                    assert (scene[rows, 0] * way < 0).all()
            elif label == "Corner":
                assert (x, y) == (52, 33.5)
                assert scene[synthetic.BALL, 0] * script.attack[team] > 0
            elif label == "Throw-in":
                assert y == 35.5 and x <= 40
            elif label in ("Goal", "Shots off target"):
                assert x > 52.5 and y <= 3 and scene[synthetic.BALL, 0] * script.attack[team] > 0
            elif label == "Foul":
                assert any(start == time for start, _, _ in script.falls)


# ------------------------------------------------------------------ 5. the teacher
def test_teacher_sees_only_its_second_and_its_neighbours(scripts):
    shot = on_screen(scripts[0], 180)
    second = 60 + int(np.flatnonzero((shot["kind"] == WIDE)[120::2])[0])
    before = synthetic.teacher(shot, np.random.default_rng(0))                # (180, 64)
    shot["across"] = shot["across"].copy()
    shot["across"][2 * second] += 10
    after = synthetic.teacher(shot, np.random.default_rng(0))
    changed = np.flatnonzero((before != after).any(1))
    assert changed.tolist() == [second - 1, second, second + 1]


def test_teacher_sees_no_events(scripts):
    script = Script(np.random.default_rng(0), 180, half=1)
    script.events = []
    features = [synthetic.teacher(on_screen(s, 180), np.random.default_rng(0))
                for s in (script, scripts[0])]
    assert (features[0] == features[1]).all()


def test_mirrored_pictures_measure_the_same(scripts):
    shot = on_screen(scripts[3], 180)
    mirrored = {**shot, "scene": shot["scene"] * (-1, 1), "camera": shot["camera"] * (-1, 1)}
    assert not (mirrored["scene"] == shot["scene"]).all()
    np.testing.assert_allclose(synthetic.physics(mirrored), synthetic.physics(shot), atol=1e-9)


def test_close_ups_measure_only_their_kind(scripts):
    shot = on_screen(scripts[1], 180)
    close = ~np.isin(shot["kind"], (WIDE, REPLAY))
    numbers = synthetic.physics(shot)
    assert close.any() and np.isnan(numbers[close, 5:]).all()
    assert np.isfinite(numbers[~close]).all() and np.isfinite(numbers[:, :5]).all()
    moved = {**shot, "scene": shot["scene"].copy()}
    moved["scene"][:, REFEREE] += 5
    assert (synthetic.physics(moved)[~close] != numbers[~close]).any(1).all()   # seen elsewhere


# ------------------------------------------------------------------ 6. pca
def pca(root, *options):
    args = prepare.parse_args(["pca", "--features", str(root), "--name", "x", *map(str, options)])
    args.run(args)


def write_features(root, rows, name="x", dtype=np.float32):
    """{match: [rows of half 1, of half 2]}, below `root`."""
    for match, halves in rows.items():
        (root / match).mkdir(parents=True, exist_ok=True)
        for number, values in enumerate(halves, 1):
            np.save(root / match / f"{number}_{name}.npy", values.astype(dtype))


def correlated(seed, *lengths, width=24):
    """One array per length, (length, width): correlated, off centre, on very different scales."""
    mix = np.random.default_rng(99).standard_normal((width, width)) * np.logspace(0, 3, width)
    rng = np.random.default_rng(seed)
    return [(rng.standard_normal((n, width)) @ mix + 500).astype(np.float32) for n in lengths]


@pytest.fixture
def raw(tmp_path):
    """A root with three matches of features "x", and all their rows, float64."""
    rows = {"l/s/a": correlated(0, 31, 40), "l/s/b": correlated(1, 50, 7),
            "l/s/c d": correlated(2, 64)}
    write_features(tmp_path / "raw", rows)
    return tmp_path / "raw", {match: np.concatenate(halves).astype(np.float64)
                              for match, halves in rows.items()}


def by_svd(x, width, standardize):
    """(mean, scale, components, variances) as the textbook has them, all rows at once."""
    mean, scale = x.mean(0), x.std(0) if standardize else np.ones(x.shape[1])
    _, s, vt = np.linalg.svd((x - mean) / scale, full_matrices=False)
    sign = np.sign(vt[np.arange(len(vt)), np.abs(vt).argmax(1)])
    return mean, scale, (sign[:, None] * vt)[:width], (s ** 2 / (len(x) - 1))[:width]


@pytest.mark.parametrize("standardize", [True, False])
@pytest.mark.parametrize("rows", [4096, 16])               # a half is one block, or several
def test_pca_equals_an_svd(raw, monkeypatch, standardize, rows):
    root, x = raw
    monkeypatch.setattr(prepare, "ROWS", rows)
    pca(root, "--out-name", "y", "--width", 5,
        "--standardize" if standardize else "--no-standardize")
    everything = np.concatenate(list(x.values()))
    mean, scale, components, variance = by_svd(everything, 5, standardize)
    basis = prepare.read_basis(root / "y.npz")
    np.testing.assert_allclose(basis.mean, mean, rtol=1e-12)
    np.testing.assert_allclose(basis.scale, scale, rtol=1e-10)
    np.testing.assert_allclose(basis.components, components, atol=1e-8)
    np.testing.assert_allclose(basis.explained_variance, variance, rtol=1e-9)
    np.testing.assert_allclose(basis.total_variance,
                               ((everything - mean) / scale).var(0, ddof=1).sum())
    assert list(basis.sources) == ["l/s/a/1_x.npy", "l/s/a/2_x.npy", "l/s/b/1_x.npy",
                                   "l/s/b/2_x.npy", "l/s/c d/1_x.npy"]
    for match, own in x.items():
        halves = [np.load(path) for path in sorted((root / match).glob("?_y.npy"))]
        assert all(half.dtype == np.float32 for half in halves)
        np.testing.assert_allclose(np.concatenate(halves), ((own - mean) / scale) @ components.T,
                                   rtol=1e-5, atol=1e-5)


def test_pca_of_part_of_the_games_reduces_all(raw, tmp_path, capsys):
    """Fitted on a list, applied to all; then, by the file, to a match that came later."""
    root, x = raw
    (tmp_path / "list.txt").write_text("l/s/a\nl/s/c d\n")
    pca(root, "--width", 4, "--split", tmp_path / "list.txt", "--out", tmp_path / "out")
    _, _, components, _ = by_svd(np.concatenate([x["l/s/a"], x["l/s/c d"]]), 4, True)
    basis = prepare.read_basis(tmp_path / "out" / "pca_4_std_x.npz")
    np.testing.assert_allclose(basis.components, components, atol=1e-8)
    assert "b/1_x" not in " ".join(basis.sources)
    assert (tmp_path / "out" / "l" / "s" / "b" / "2_pca_4_std_x.npy").exists()
    assert not list(root.rglob("*pca*"))

    new = {"l/s/new": correlated(7, 20, 21)}
    write_features(tmp_path / "later", new)
    pca(tmp_path / "later", "--basis", tmp_path / "out" / "pca_4_std_x.npz")
    got = np.load(tmp_path / "later" / "l" / "s" / "new" / "2_pca_4_std_x.npy")
    expected = (new["l/s/new"][1] - basis.mean) / basis.scale @ basis.components.T
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
    assert not list((tmp_path / "later").rglob("*.npz"))


def test_pca_goes_on_where_it_was_stopped(raw, monkeypatch, capsys):
    """What was finished is not written again; an unfinished file is under another name."""
    root, _ = raw
    save, saved = np.save, []

    def killed(file, array):
        if len(saved) == 2:
            file.write(b"half a file")
            raise KeyboardInterrupt
        saved.append(array)
        save(file, array)

    monkeypatch.setattr(np, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        pca(root, "--width", 4)
    monkeypatch.setattr(np, "save", save)
    done = {path: path.stat().st_mtime_ns for path in root.rglob("?_pca_4_std_x.npy")}
    assert len(done) == 2
    monkeypatch.setattr(prepare, "fit_basis", None)            # it is kept, too
    pca(root, "--width", 4)
    assert all(path.stat().st_mtime_ns == then for path, then in done.items())
    assert len(list(root.rglob("?_pca_4_std_x.npy"))) == 5 and not list(root.rglob(".*"))
    assert "3 halves written, 2 there already" in capsys.readouterr().out


def test_pca_leaves_constant_numbers_alone(tmp_path):
    """A number that never changes has no scale, and the official code makes it NaN. Here it counts
    for nothing, even where its mean cannot be told exactly."""
    x = correlated(0, 43)[0].astype(np.float64)
    x[:, 3] = 0.1
    assert torch.from_numpy(x).mean(0)[3] != 0.1
    write_features(tmp_path, {"m": [x]}, dtype=np.float64)
    pca(tmp_path, "--width", 20)
    reduced = np.load(tmp_path / "m" / "1_pca_20_std_x.npy")
    assert np.isfinite(reduced).all()
    basis = prepare.read_basis(tmp_path / "pca_20_std_x.npz")
    assert basis.scale[3] == 1 and np.abs(basis.components[:, 3]).max() < 1e-12


def test_pca_of_more_halves_than_files_may_be_open(tmp_path):
    """SoccerNet has 1,100 halves; 1,024 open files is what many systems allow."""
    write_features(tmp_path, {f"m{i}": correlated(i, 9, 9) for i in range(40)})
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = {int(number) for number in os.listdir("/proc/self/fd")}
    limit = next(n for n in range(20, 9999) if n - len(used & {*range(n)}) == 20)     # 20 are free
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
        pca(tmp_path, "--width", 4)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(list(tmp_path.rglob("?_pca_4_std_x.npy"))) == 80


@pytest.mark.parametrize("spoil, message", [
    (lambda x: x[:, :5], "1_x.npy: 5 wide, but .*1_x.npy is 24"),
    (lambda x: np.insert(x, 3, [*x[0, 1:], np.nan], 0), "1_x.npy: row 3 is not finite"),
    (lambda x: np.insert(x.astype(float), 3, [*x[0, 1:], -1e300], 0),
     "row 3 is not finite, or beyond 1e100; extract this half's features again"),
    (lambda x: x[:0], r"must be numbers of shape \(seconds, width\), got \(0, 24\)"),
    (lambda x: x[0], r"got \(24,\)"), (lambda x: x[:, None], r"got \(50, 1, 24\)"),
    (lambda x: x.astype(str), "got .* of <U"),
    (lambda x: np.array({"features": x}, dtype=object),
     "not a plain .npy array .*Python objects: save the array in it alone")])
def test_pca_names_the_file_that_is_not_features(raw, spoil, message):
    root, _ = raw
    path = root / "l/s/b/1_x.npy"
    np.save(path, spoil(np.load(path)))
    with pytest.raises(DataError, match=message) as error:
        pca(root, "--width", 4)
    assert "l/s/b/1_x.npy" in str(error.value) and "\n" not in str(error.value)


def test_pca_refuses_what_would_mix_bases(raw, tmp_path, capsys):
    root, _ = raw
    pca(root, "--width", 4)
    assert f"{root / 'l/s/c d'}: no 2_x.npy" in capsys.readouterr().out
    with pytest.raises(DataError, match=r"y.npz: from 24 to 4 numbers, wanted is 24 to 5"):
        (root / "y.npz").write_bytes((root / "pca_4_std_x.npz").read_bytes())
        pca(root, "--width", 5, "--out-name", "y")
    (root / "pca_4_std_x.npz").unlink()
    write_features(root, {"l/s/e": correlated(5, 60, 60)})
    with pytest.raises(DataError, match="1_pca_4_std_x.npy: there already, by another basis"):
        pca(root, "--width", 4)                            # fitted anew, on more rows
    write_features(tmp_path / "wide", {"m": correlated(5, 30, width=25)})
    with pytest.raises(DataError, match="from 24 to 4 numbers, wanted is 25"):
        pca(tmp_path / "wide", "--basis", root / "pca_4_std_x.npz")


@pytest.mark.parametrize("options, message", [
    (["--name", "y"], r"no <match>/<half>_y.npy below it"),
    (["--width", "25"], r"--width 25: 192 rows of 24 numbers have at most 24 directions"),
    (["--split", "test"], "100 of the 100 games of test are not below it"),
    (["--basis", "nowhere.npz"], "nowhere.npz: no such basis"),
    (["--basis", __file__], "test_prepare.py: not a basis")])
def test_pca_refuses(raw, options, message):
    root, _ = raw
    with pytest.raises(DataError, match=message):
        pca(root, "--width", 4, *options)
