"""
What these tests prove about `stage0_prepare.py synthetic`:
  1. same settings, same bytes, whatever the number of processes; another seed, other matches
  2. what lies on disk is what data.py reads and SoccerNet prescribes
  3. a folder is made once, finished if half-done, and never written over
  4. the scenes are what the labels say: a goal and a miss begin alike, hidden events are hidden
  5. the teacher sees no more than is on screen, near its second, mirrored or not
"""
import argparse
import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import data
import synthetic
from data import DEFAULT_FPS
from synthetic import REFEREE, REPLAY, WIDE, Painter, Script, on_screen

ROOT = Path(__file__).resolve().parents[1]
SMALL = dict(train=2, labelled=1, test=1, seconds=60, size=32, seed=0, jobs=2)


def render(out, **changes):
    synthetic.render(argparse.Namespace(out=str(out), **{**SMALL, **changes}))


def tree(root):
    """{relative path: digest} of every file."""
    return {path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(root.rglob("*")) if path.is_file()}


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
def test_same_bytes_from_any_number_of_processes(rendered, tmp_path):
    render(tmp_path / "again", jobs=1)
    assert tree(tmp_path / "again") == tree(rendered)


def test_other_seed_other_matches(rendered, tmp_path):
    render(tmp_path / "other", seed=1)
    other, first = tree(tmp_path / "other"), tree(rendered)
    assert not set(other.values()) & set(first.values()) - {first["classes.txt"]}


def test_a_test_match_does_not_depend_on_the_train_matches(rendered, tmp_path):
    render(tmp_path / "few", train=1)
    assert tree(tmp_path / "few" / "test") == tree(rendered / "test")


# ------------------------------------------------------------------ 2. the layout
def test_data_reads_it(rendered):
    halves = data.find_halves(rendered)
    assert [half.number for half in halves] == [1, 2] * 3
    for half in halves:
        assert (half.n_frames, half.fps, half.first) == (120, 2.0, 1)
        assert data.read_frame(half.path(119)).shape == (32, 32, 3)
        features = data.open_features(rendered, half, "physics")
        assert features.shape == (60, 64) and features.dtype == np.float32
        assert np.isfinite(features).all() and features.std() > 0.2      # more than its noise


def test_labels_where_they_were_asked_for(rendered):
    matches = data.find_halves(rendered)
    labelled = {half.match for half in matches
                if (rendered / half.match / "Labels-v2.json").exists()}
    assert sorted(match.split("/")[0] for match in labelled) == ["test", "train"]


def test_labels_follow_soccernet(rendered):
    classes = data.read_classes(rendered / "classes.txt")
    assert classes == tuple(name for name in data.SOCCERNET_CLASSES if name in classes)
    assert len(classes) == 8
    for path in rendered.rglob("Labels-v2.json"):
        labels = json.loads(path.read_text())
        assert labels["UrlLocal"] == "/".join(path.parent.parts[-3:]) + "/"
        for event in labels["annotations"]:
            assert set(event) == {"gameTime", "label", "position", "team", "visibility"}
            assert isinstance(event["position"], str)
            half, clock = event["gameTime"].split(" - ")
            second = int(event["position"]) // 1000
            assert clock == f"{second // 60:02d}:{second % 60:02d}" and half in "12"
            assert event["team"] in ("home", "away")
        assert len(data.read_labels(path, classes)) == len(labels["annotations"]) > 5


def test_score_counts_the_goals(tmp_path, monkeypatch):
    synthetic.teacher_basis()                                 # cached, from ordinary halves
    monkeypatch.setattr(synthetic, "INCIDENTS", {"goal": 1.0})
    settings = {"seed": 0, "seconds": 120, "size": 32}
    margins = set()
    for number in range(3):
        synthetic.write_match((str(tmp_path), "train", number, True, settings))
    for path in tmp_path.rglob("Labels-v2.json"):
        labels = json.loads(path.read_text())
        goals = [event["team"] for event in labels["annotations"] if event["label"] == "Goal"]
        score = f"{goals.count('home')} - {goals.count('away')}"
        home, away = labels["gameHomeTeam"], labels["gameAwayTeam"]
        assert labels["gameScore"] == score
        assert path.parent.name.endswith(f" {home} {score} {away}")
        margins.add(goals.count("home") - goals.count("away"))
    assert margins != {0}                                  # three draws would prove nothing


# ------------------------------------------------------------------ 3. made once
def test_second_call_touches_nothing(rendered, capsys):
    before = {path: path.stat().st_mtime_ns for path in rendered.rglob("*")}
    render(rendered)
    assert "already there" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in rendered.rglob("*")} == before


def test_half_finished_folder_is_finished(rendered, tmp_path):
    out = tmp_path / "killed"
    shutil.copytree(rendered, out)
    record = json.loads((out / "synthetic.json").read_text())
    (out / "synthetic.json").write_text(json.dumps({**record, "finished": False}))
    killed, untouched = sorted(match for match in (out / "train").glob("*/*/*"))
    (killed / "2_physics.npy").unlink()
    (killed / "1_224p" / "00000007.jpg").write_bytes(b"half a frame")
    written = (untouched / "2_224p" / "00000001.jpg").stat().st_mtime_ns
    render(out)
    assert tree(out) == tree(rendered)
    assert (untouched / "2_224p" / "00000001.jpg").stat().st_mtime_ns == written


def test_other_settings_are_refused(rendered):
    before = tree(rendered)
    with pytest.raises(data.DataError, match="other settings.*choose another --out"):
        render(rendered, seed=5)
    assert tree(rendered) == before


@pytest.mark.parametrize("name, text, message", [
    ("holiday.jpg", "mine", "not made by this command"),
    ("synthetic.json", "{", "not a record of this command"),
    ("synthetic.json", "[]", "not a record of this command")])
def test_foreign_files_are_left_alone(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(data.DataError, match=message):
        render(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("flags, message", [
    (dict(train=0), "--train must be at least 1, got 0"),
    (dict(labelled=3), "--labelled 3: there are only 2 train matches"),
    (dict(size=8), "--size must be at least 32"),
    (dict(seconds=5), "--seconds must be at least 30"),
    (dict(seed=-1), "--seed must be at least 0"),
    (dict(jobs=0), "--jobs must be at least 1")])
def test_flags_are_checked_before_anything_is_written(tmp_path, flags, message):
    with pytest.raises(data.DataError, match=message):
        render(tmp_path / "new", **flags)
    assert not (tmp_path / "new").exists()


def test_a_mistake_is_one_line_and_exit_code_2(tmp_path):
    (tmp_path / "file").write_text("")
    command = [sys.executable, ROOT / "stage0_prepare.py", "synthetic", "--out"]
    for out, word in ((tmp_path / "file", "--out"), (tmp_path / "file" / "below", "below")):
        done = subprocess.run([*command, out], capture_output=True, text=True)
        assert done.returncode == 2
        assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
        assert word in done.stderr


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


def test_goal_and_miss_begin_alike(monkeypatch):
    """Same dice, one incident or the other: the pictures part only after the labelled moment."""
    films, times = [], []
    for incident in ("goal", "miss"):
        monkeypatch.setattr(synthetic, "INCIDENTS", {incident: 1.0})
        script = Script(np.random.default_rng(7), 40, half=1)
        shot = on_screen(script, 40)
        painter = Painter(np.random.default_rng(7), 48)
        films.append(np.stack([painter.frame(shot, i) for i in range(80)]))      # (F, 48, 48, 3)
        times.append(next(t for t, label, *_ in script.events if label != "Kick-off"))
    assert times[0] == times[1]
    alike = (films[0] == films[1]).all((1, 2, 3))                          # (F,)
    last = int(times[0] * DEFAULT_FPS)               # the last frame before the ball is there
    assert alike[:last].all()
    assert not alike[last + 4:last + 10].any()


def test_card_goes_up_at_its_label(scripts):
    painter = Painter(np.random.default_rng(0), 48)
    checked = 0
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
        beats = {time: (scene, i) for i, (time, scene, _) in enumerate(script.beats)}
        for time, label, team, _ in script.events:
            scene = beats[time][0]
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
