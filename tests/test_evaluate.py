"""
What these tests prove about evaluate.py:
  1. the results equal the official evaluator's to the last digit: on cases recorded from it, on
     seeded matches beside it in the same process, and on a published result
  2. what that program crashes on is one line here
  3. an action of token k is reported at token_s * (k + 1/4), and what that changes
  4. the sweep is what one would do by hand, setting by setting
"""
import itertools
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from comedian import DataError, evaluate, ops, reference, soccernet
from comedian.soccernet import LABELS, PREDICTIONS, SCORES, Detections, Event

ROOT = Path(__file__).resolve().parents[1]
CASES = sorted((ROOT / "tests/fixtures/metric_cases").glob("*.json"))
SHARED = ROOT.parent / "shared/fixtures"


def write_match(folder, annotations, predictions):
    folder.mkdir(parents=True)
    (folder / LABELS).write_text(json.dumps({"annotations": annotations}))
    (folder / PREDICTIONS).write_text(json.dumps({"predictions": predictions}))


def score_files(root, classes, framerate=2):
    labels = {match: soccernet.read_labels(path, classes)
              for match, path in soccernet.find_files(root, LABELS).items()}
    predictions = {match: soccernet.read_predictions(path, classes)
                   for match, path in soccernet.find_files(root, PREDICTIONS).items()}
    return evaluate.score(labels, predictions, classes, framerate)


def run(*arguments):
    """The command as a user types it. Returns what it printed."""
    evaluate.main(evaluate.parse_args([str(argument) for argument in arguments]))


# ------------------------------------------------------------------ against the official evaluator
@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_recorded_case(path, tmp_path):
    case = json.loads(path.read_text())
    for g, game in enumerate(case["games"]):
        write_match(tmp_path / f"game{g}", game["annotations"], game["predictions"])
    if "expected_exception" in case:      # a traceback there; here a line that names the file
        with pytest.raises(DataError, match="game0.*position"):
            score_files(tmp_path, case["classes"], case["framerate"])
    else:
        assert score_files(tmp_path, case["classes"], case["framerate"]) == case["expected"]


def test_cases_are_there():
    assert len(CASES) == 51               # an empty folder must not pass for a green test


@pytest.mark.parametrize("position_ms, framerate, frame", [
    (0, 2, 0), (499, 2, 0), (500, 2, 1), (-499, 2, 0), (-500, 2, 14399), (-7_200_000, 2, 0),
    (7_199_500, 2, 14399), (9e9, 2, 14399), (1e300, 2, 14399), (1160, 25, 28), (1200, 25, 30)])
def test_frames_by_hand(position_ms, framerate, frame):
    assert evaluate.time_rows(np.array([position_ms]), framerate, "") == frame


# Nine classes, so that numpy's mean does not sum them one after another.
SEEDED_CLASSES = ("Goal", "Foul", "Corner", "Penalty", "Offside", "Clearance", "Kick-off",
                  "Yellow card", "Red card")


def random_match(rng):
    """Annotations and predictions of one match: ties, duplicates and every oddity that is accepted.

    Few distinct times and confidences. Half 3 and Throw-in are unknown; Offside never happens.
    """
    def event(label):
        position_ms = int(rng.choice([rng.integers(60_000), 500 * rng.integers(40), 7_200_500]))
        return {"gameTime": f"{rng.integers(1, 4)} - {position_ms // 60_000:02d}:07",
                "label": label,
                "position": position_ms if rng.random() < 0.3 else str(position_ms)}

    annotations, predictions = [], []
    for _ in range(rng.integers(20, 60)):
        label = rng.choice([*SEEDED_CLASSES[:4], *SEEDED_CLASSES[5:], "Throw-in"])
        annotations.append(event(str(label)))
        if rng.random() < 0.8:
            annotations[-1]["visibility"] = str(rng.choice(["visible", "not shown", "unknown"]))
        if rng.random() < 0.1:
            del annotations[-1]["position"]
    for _ in range(400):
        label = rng.choice([*SEEDED_CLASSES[:1], *SEEDED_CLASSES[2:], "Throw-in"])
        predictions.append(event(str(label)))
        predictions[-1]["half"] = str(rng.integers(1, 4))
        confidence = rng.choice([0, -0.5, 0.25, 1, 1.5, rng.random(), rng.integers(200) / 199])
        odd = ["nan", "inf", " 0.5 ", None, str(confidence), str(confidence)]
        predictions[-1]["confidence"] = (odd[rng.integers(len(odd))] if rng.random() < 0.3
                                         else float(confidence))
    return annotations, predictions


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_equals_official_evaluator(seed, tmp_path):
    official = pytest.importorskip(
        "SoccerNet.Evaluation.ActionSpotting",
        reason="the official evaluator is absent: pip install --no-deps SoccerNet==0.2.0")
    rng = np.random.default_rng(seed)
    for g in range(rng.integers(1, 4)):
        annotations, predictions = random_match(rng)
        write_match(tmp_path / "labels" / f"game{g}", annotations, [])
        write_match(tmp_path / "spots" / f"game{g}", [], predictions)
        (tmp_path / "labels" / f"game{g}" / PREDICTIONS).unlink()
    labels = soccernet.find_files(tmp_path / "labels", LABELS)
    ours = evaluate.score(
        {match: soccernet.read_labels(path, SEEDED_CLASSES) for match, path in labels.items()},
        {match: soccernet.read_predictions(tmp_path / "spots" / match / PREDICTIONS,
                                      SEEDED_CLASSES) for match in labels}, SEEDED_CLASSES)
    for metric, result in ours.items():
        expected = official.evaluate(
            str(tmp_path / "labels"), str(tmp_path / "spots"), metric=metric, dataset=None,
            EVENT_DICTIONARY={name: k for k, name in enumerate(SEEDED_CLASSES)})
        expected = {key: np.asarray(value).tolist() for key, value in expected.items()}
        assert result == expected, metric
    assert ours["loose"]["a_mAP"] > 0.01                   # the match is not trivially empty


@pytest.mark.parametrize("folder, labels, predictions", [
    ("soccernet_netvlad_v2_5games", "labels.zip", "predictions.zip"),
    ("soccernet_netvlad_v2", "labels_test_reconstructed.zip", "results_spotting_test.zip")])
def test_published_netvlad(folder, labels, predictions, tmp_path, capsys):
    """A published result, on real matches. Their labels are SoccerNet's, not ours to publish; the
    cases above, which are made up, prove the same equality to everybody."""
    fixture = SHARED / folder
    if not fixture.is_dir():
        pytest.skip(f"{fixture} is absent: SoccerNet's labels are not ours to publish")
    run("--labels", fixture / labels, "--predictions", fixture / predictions,
        "--json", tmp_path / "metrics.json", "--chance")
    written = json.loads((tmp_path / "metrics.json").read_text())
    expected = json.loads((fixture / "expected.json").read_text())["metrics"]
    by_chance, _ = written.pop("chance"), written.pop("with_events", None)
    assert written == expected
    assert by_chance["tight"]["a_mAP"] < expected["tight"]["a_mAP"] / 2
    assert f"{100 * expected['tight']['a_mAP']:.2f}" in capsys.readouterr().out


# ------------------------------------------------------------------ files, and bad ones
def spots(*rows):
    """Detections from rows (half, label, position_ms, confidence)."""
    return Detections(*(np.array(column) for column in zip(*rows, strict=True)))


GOAL = {"gameTime": "1 - 00:50", "label": "Goal", "position": "50000"}
SPOT = GOAL | {"half": "1", "confidence": 0.9}


@pytest.mark.parametrize("annotation, prediction, message", [
    (GOAL | {"gameTime": "later"}, SPOT, "Labels-v2.json: annotation 0 .*gameTime"),
    (GOAL | {"position": "soon"}, SPOT, "Labels-v2.json: annotation 0 .*position"),
    ({"label": "Goal"}, SPOT, "Labels-v2.json: annotation 0 .*gameTime"),
    (GOAL | {"position": "-7200500"}, SPOT, "labels of game: position -7200500"),
    (GOAL, SPOT | {"position": "-7200500"}, "predictions of game: position -7200500"),
    (GOAL, GOAL | {"confidence": 0.9}, "results_spotting.json: prediction 0 .*half"),
    (GOAL, SPOT | {"confidence": "high"}, "results_spotting.json: prediction 0 .*confidence"),
    (GOAL, SPOT | {"position": float("inf")}, "results_spotting.json: prediction 0 .*position"),
    (GOAL, SPOT | {"label": ["Goal"]}, "results_spotting.json: prediction 0 .*label"),
    (GOAL, "Goal", "results_spotting.json: prediction 0"),
])
def test_bad_entries(annotation, prediction, message, tmp_path):
    write_match(tmp_path / "game", [annotation], [prediction])
    with pytest.raises(DataError, match=message):
        run("--labels", tmp_path, "--predictions", tmp_path)


def test_bad_files(tmp_path):
    write_match(tmp_path / "labels" / "game", [GOAL], [SPOT])
    write_match(tmp_path / "others" / "other game", [GOAL], [SPOT])
    (tmp_path / "broken/game").mkdir(parents=True)
    (tmp_path / "broken/game" / PREDICTIONS).write_text('{"predictions": [')
    (tmp_path / "no.zip").write_text("zip?")
    for predictions, message in [
            ("others", "no results_spotting.json for 'game'.*1 of 1.*'other game'"),
            ("broken", "broken/game/results_spotting.json: not a SoccerNet prediction file"),
            ("no.zip", "no.zip: no such folder, and not a zip"),
            ("nowhere", "nowhere: no such folder")]:
        with pytest.raises(DataError, match=message):
            run("--labels", tmp_path / "labels", "--predictions", tmp_path / predictions)
    with pytest.raises(DataError, match="two matches or more"):
        run("--labels", tmp_path / "labels", "--predictions", tmp_path / "labels", "--chance")


def test_where_nothing_can_be_written_is_said_first(tmp_path, capsys, monkeypatch):
    """Before any work: not even the labels are read."""
    (tmp_path / "a folder").mkdir()
    (tmp_path / "locked").touch()
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "locked")
    for flag in ("--json", "--plot"):
        for name, message in [("absent/x.png", "absent/x.png: its folder does not exist"),
                              ("a folder", "a folder: cannot be written"),
                              ("locked", "locked: cannot be written")]:
            with pytest.raises(DataError, match=message):
                run("--labels", "nowhere", "--predictions", "nowhere", flag, tmp_path / name)
    for name in ("last.pt", "games.zip", LABELS, PREDICTIONS):
        (tmp_path / name).write_text("dear")
        for flag in ("--json", "--plot"):
            with pytest.raises(DataError, match=f"{name}: is there, and would be lost; name a new"):
                run("--labels", "nowhere", "--predictions", "nowhere", flag, tmp_path / name)
        assert (tmp_path / name).read_text() == "dear"
    assert capsys.readouterr().out == ""


def test_a_mistake_is_one_line_and_exit_code_2(tmp_path):
    done = subprocess.run([sys.executable, "-m", "comedian.evaluate", "--labels", tmp_path,
                           "--predictions", tmp_path], capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"error: {tmp_path}: no Labels-v2.json in it")


@pytest.mark.parametrize("options, message", [
    ("--labels l", "error: --predictions is missing"),
    ("--labels l --sweep", "error: --sweep needs --scores"),
    ("--labels l --predicted x", "error: unrecognized arguments: --predicted")])
def test_options_that_do_not_fit(options, message, capsys):
    with pytest.raises(SystemExit) as stop:
        evaluate.parse_args(options.split())
    line, = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2 and line.startswith(message)


def test_zip_and_folder_read_alike(tmp_path):
    write_match(tmp_path / "in/league/the game", [GOAL], [SPOT])
    for name in (LABELS, PREDICTIONS):
        with zipfile.ZipFile(tmp_path / f"{name}.zip", "w") as archive:
            archive.write(tmp_path / "in/league/the game" / name, f"league/the game/{name}")
    results = []
    for labels, predictions in [("in", "in"), (f"{LABELS}.zip", "in"),
                                (f"{LABELS}.zip", f"{PREDICTIONS}.zip")]:
        run("--labels", tmp_path / labels, "--predictions", tmp_path / predictions,
            "--json", tmp_path / "metrics.json")
        results.append(json.loads((tmp_path / "metrics.json").read_text()))
    assert results[0] == results[1] == results[2]
    assert results[0]["tight"]["a_mAP_per_class"][soccernet.SOCCERNET_CLASSES.index("Goal")] == 1.0


# ------------------------------------------------------------------ chance and the table
def perfect(events):
    return spots(*((event.half, event.label, event.position_ms, 1.0) for event in events))


def test_chance_is_the_score_on_the_other_matches():
    labels = {"a": [Event(1, 0, 10_000, True)], "b": [Event(1, 0, 10_500, True)],
              "c": [Event(1, 0, 500_000, True)], "d": [Event(1, 0, 700_000, True)]}
    predictions = {match: perfect(events) for match, events in labels.items()}
    assert evaluate.score(labels, predictions, ["Goal"])["tight"]["a_mAP"] == 1.0
    # Shift 1 scores a on b's predictions (half a second off: a hit at every delta), b on c's, c on
    # d's and d on a's (misses): precision and recall 1/4, so AP = 3/11 * 1/4. Shift 2: no hit.
    # Shift 3: only b on a's hits.
    for given, mean in (({"max_shifts": 1}, 3 / 44), ({"max_shifts": 2}, 3 / 88), ({}, 3 / 66)):
        by_chance = evaluate.chance(labels, predictions, ["Goal"], **given)
        assert by_chance["tight"]["a_mAP"] == pytest.approx(mean)
    identical = {"a": labels["a"], "b": labels["a"]}
    same = {match: perfect(events) for match, events in identical.items()}
    assert evaluate.chance(identical, same, ["Goal"])["loose"]["a_mAP"] == 1.0


def test_the_table_explains_itself():
    classes, seen = ["Goal", "Foul", "Red card"], Event(1, 0, 10_000, True)
    labels = {"a": [seen, Event(2, 1, 10_000, False),
                    Event(3, 2, 10_000, True)]}       # half 3 does not exist for the metric
    results = evaluate.score(labels, {"a": perfect(labels["a"])}, classes)
    lines = evaluate.table(results, labels, classes, results).splitlines()
    assert lines[0].startswith("matches: 1, events: 2, 1 of them not shown by the broadcast")
    titles = re.split(" {2,}", lines[1].strip())
    assert titles == ["events", "t-AmAP", "chance", "+-0.5 s", "+-1 s", "+-1.5 s", "+-2 s",
                      "+-2.5 s", "loose", "visible", "not shown"]
    assert lines[2].split()[:4] == ["all", "2", "66.67", "66.67"]
    assert lines[3].split() == ["with", "events", "2", *["100.00"] * 10]
    assert lines[4].split() == ["Goal", "1", *["100.0"] * 9, "-"]
    assert lines[5].split() == ["Foul", "1", *["100.0"] * 8, "-", "100.0"]
    assert lines[6].split() == ["Red", "card", "0", *["-"] * 10]
    told = "\n".join(lines[7:])
    for title in ("+-1 s:", "t-AmAP:", "loose:", "chance:", "visible, not shown:", "'-':",
                  "1 of 3 classes have no event"):
        assert title in told, title
    # What says nothing is left out, with the line that explains it.
    labels = {"a": [seen]}
    lines = evaluate.table(evaluate.score(labels, {"a": perfect([seen])}, ["Goal"]), labels,
                           ["Goal"]).splitlines()
    assert lines[0] == "matches: 1, events: 1; average precision in %"
    assert lines[1].split() == "events t-AmAP +-0.5 s +-1 s +-1.5 s +-2 s +-2.5 s loose".split()
    assert len(lines) == 5 and lines[4].startswith("+-1 s: ") and "t-AmAP: " in lines[4]


# ------------------------------------------------------------------ the time of a token
def test_the_time_of_a_token_by_hand():
    """The mean of the nominal times n / fps of its two frames, to the millisecond."""
    for fps in (2, 25 / 12, 1, 25):
        for k in (0, 1, 7, 2699):
            frames_s = 2 * k / fps, (2 * k + 1) / fps
            assert evaluate.token_ms(k, 2 / fps) == round(1000 * sum(frames_s) / 2)
    assert evaluate.token_ms(np.arange(3), 1.0, 90.5).tolist() == [90_750, 91_750, 92_750]


def test_a_quarter_changes_no_official_metric_at_2_fps():
    """Rows of half a second: k and k + 1/4 fall into the same one, k + 1/2 into the next. At other
    rates they part, and so does the metric."""
    k = np.arange(2700)

    def rows(token_s, share):
        return evaluate.time_rows(1000 * token_s * (k + share), evaluate.FRAMERATE, "")

    assert (rows(1.0, 0) == rows(1.0, 1 / 4)).all()
    assert (evaluate.time_rows(evaluate.token_ms(k, 1.0), 2, "") == 2 * k).all()
    assert (rows(1.0, 1 / 2) == 2 * k + 1).all()
    for token_s in (0.96, 0.8, 2.0):                       # 25 / 12, 2.5 and 1 fps
        assert (rows(token_s, 0) != rows(token_s, 1 / 4)).mean() > 0.3


def test_a_quarter_is_the_middle_of_what_a_token_is_labelled_for():
    """Events at every millisecond, spotted by a network that scores exactly the tokens whose label
    is positive (an event within 0.5 s of one of the two frames): on average they stand right."""
    event_ms, off = np.arange(60_000, 61_000), []
    for ms in event_ms:
        positive = [k for k in range(50, 70)
                    if min(abs(1000 * k - ms), abs(1000 * k + 500 - ms)) <= 500]
        off += [evaluate.token_ms(k, 1.0) - ms for k in positive]
    assert abs(np.mean(off)) < 1                           # of k alone it would be -250 ms


# ------------------------------------------------------------------ the sweep
def test_the_sweep_searches_the_papers_grids():
    """Tab. 12's ignored seconds and the windows of Fig. 5."""
    args = evaluate.parse_args(["--sweep", "--scores", "s", "--labels", "l"])
    assert args.ignored == list(range(0, 17, 2))
    assert args.windows[0] == 2 and args.windows[-1] == 20 and {3, 10} < set(args.windows)
    assert list(evaluate.NMS) == list(ops.NMS) == list(reference.NMS) == ["soft", "greedy", "local"]


@pytest.mark.parametrize("flag", ["--ignored", "--windows"])
def test_the_grids_are_numbers(flag, capsys):
    with pytest.raises(SystemExit) as stop:
        evaluate.parse_args(["--sweep", "--scores", "s", "--labels", "l", flag, "2", "-1"])
    assert stop.value.code == 2
    assert f"argument {flag}: wants a number from 0.0" in capsys.readouterr().err


def store_scores(root, n_matches=3, token_s=1.0, window=16, stride=8):
    """scores.npz and labels of a few short matches, the last of them with one half only."""
    rng = np.random.default_rng(0)
    for g in range(n_matches):
        arrays = {"classes": np.array(["Goal", "Foul", "Red card"]), "token_s": token_s}
        annotations = []
        for h, n_tokens in [(1, 61 + g), (2, 40)][:1 if g == n_matches - 1 else 2]:
            starts = [*range(0, n_tokens - window, stride), n_tokens - window]
            scores = rng.integers(0, 40, (len(starts), window, 3)) / 40     # ties are common
            arrays |= {f"windows_{h}": scores.astype(np.float32), f"starts_{h}": np.array(starts),
                       f"tokens_{h}": n_tokens}
            annotations += [{"gameTime": f"{h} - 00:00", "position": str(1000 * t + 300),
                             "label": "Goal" if t % 2 else "Foul"}
                            for t in rng.integers(0, n_tokens, 6)]
        write_match(root / f"match {g}", annotations, [])
        np.savez(root / f"match {g}" / SCORES, **arrays)


@pytest.mark.parametrize("kind", list(ops.NMS))
@pytest.mark.parametrize("token_s, merge, ignored_s, window_s",
                         [(1.0, "max", 0, 5), (0.8, "mean", 3, 4)])        # 2 fps; 2.5 fps
def test_sweep_equals_doing_it_by_hand(token_s, merge, ignored_s, window_s, kind, tmp_path):
    store_scores(tmp_path, token_s=token_s)
    stored = soccernet.read_scores(tmp_path)
    labels = {match: soccernet.read_labels(tmp_path / match / LABELS, stored.classes)
              for match in stored.matches}
    overall, per_class = evaluate.sweep(stored, evaluate.label_columns(labels), [merge],
                                        [ignored_s], [window_s])
    # By hand: one half at a time, through the references and a file, as infer.py writes it.
    predictions = {}
    for match in stored.matches:
        arrays, found = np.load(tmp_path / match / SCORES), []
        for h in (1, 2):
            if f"windows_{h}" not in arrays:
                continue
            scores = torch.from_numpy(arrays[f"windows_{h}"])
            length = torch.tensor([int(arrays[f"tokens_{h}"])])
            merged = reference.merge_windows(
                scores, torch.from_numpy(arrays[f"starts_{h}"]),
                torch.zeros(len(scores), dtype=torch.int64), length, round(ignored_s / token_s),
                merge)
            kept = reference.NMS[kind](merged, length, window_s / token_s)
            found += [(h, k, round(1000 * token_s * (t + 1 / 4)), kept[t, k].item())
                      for t, k in (kept >= 0).nonzero().tolist()]
        path = tmp_path / match / PREDICTIONS
        soccernet.write_predictions(path, match, spots(*found), stored.classes)
        predictions[match] = soccernet.read_predictions(path, stored.classes)
    by_hand = evaluate.score(labels, predictions, stored.classes)["tight"]
    n = list(ops.NMS).index(kind)
    assert overall[0, 0, n, 0] == by_hand["a_mAP"] > 0
    assert per_class[0, 0, n, 0].tolist() == by_hand["a_mAP_per_class"]


def test_per_class_windows_by_hand():
    per_class = np.zeros((1, 2, 1, 3, 3))                  # one merge, 2 spans, one NMS, 3 windows
    per_class[0, 0, 0] = [[.3, .3, 0], [.4, .4, 0], [.3, .5, 0]]      # (W, K)
    per_class[0, 1, 0] = [[.5, .2, 0], [.9, .1, 0], [.4, .3, 0]]
    m, e, w = evaluate.per_class_windows(per_class, 0)
    # Windows per class are worth (.4 + .5) / 3 at the first span and (.9 + .3) / 3 at the second;
    # the class without events follows what is best in common there, the middle window.
    assert (m, e, w.tolist()) == (0, 1, [1, 2, 1])


def test_sweep_command(tmp_path, capsys):
    store_scores(tmp_path)
    run("--sweep", "--scores", tmp_path, "--labels", tmp_path, "--per-class", "--ignored", 0, 3, 6,
        "--windows", 2, 4.5, 9, 10, "--json", tmp_path / "sweep.json",
        "--plot", tmp_path / "sweep.png")
    out = capsys.readouterr().out
    settings = json.loads((tmp_path / "sweep.json").read_text())
    best = max(settings, key=lambda setting: setting["a_mAP"])
    assert [tuple(s[key] for key in ("nms", "merge", "ignored_s", "window_s"))
            for s in settings] == [*itertools.product(
                ("soft", "greedy", "local"), ("max", "mean"), (0, 3, 6), (2, 4.5, 9, 10))]
    assert f"{100 * best['a_mAP']:.2f} %" in out
    assert "Chosen on these very matches" in out and "Red card" in out
    assert "From 6 s ignored on" in out                    # 16-s windows every 8 s cover up to 4 s
    assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")
    # A window per class cannot be worse than one for all of them, with the same kind of NMS.
    together = float(out.split("t-AmAP ")[-1].split(" %")[0])
    assert together >= round(100 * best["a_mAP"], 2)


def test_merged_scores_are_searched_over_nms_alone(tmp_path, capsys):
    """What infer.py stores of an ensemble: the sweep finds what it finds in the windows, at the
    merge and ignored seconds that were used before."""
    store_scores(tmp_path / "windows")
    stored = soccernet.read_scores(tmp_path / "windows")
    merged = evaluate.merge(stored, 3, "mean").split(stored.windows[-1].tolist())
    for g, match in enumerate(stored.matches):
        arrays = dict(np.load(tmp_path / "windows" / match / SCORES))
        for h in (1, 2):
            if f"windows_{h}" in arrays:
                del arrays[f"windows_{h}"]
                arrays |= {f"merged_{h}": merged[2 * g + h - 1][None].numpy(),
                           f"starts_{h}": np.zeros(1, int)}
        write_match(tmp_path / "merged" / match, json.loads(
            (tmp_path / "windows" / match / LABELS).read_text())["annotations"], [])
        np.savez(tmp_path / "merged" / match / SCORES, **arrays)
    again = soccernet.read_scores(tmp_path / "merged")
    assert again.merged and again.windows[-1].tolist() == stored.windows[-1].tolist()
    for ignored_s in (0, 3, 24):                           # 24: longer than half a half
        assert torch.equal(evaluate.merge(again, ignored_s, "max"), torch.cat(merged))
    run("--sweep", "--scores", tmp_path / "merged", "--labels", tmp_path / "merged",
        "--windows", 3, 5, 10, "--json", tmp_path / "sweep.json")
    out, settings = capsys.readouterr().out, json.loads((tmp_path / "sweep.json").read_text())
    assert "only NMS and its window are searched" in out
    assert len(settings) == len(ops.NMS) * 3
    truth = evaluate.label_columns({match: soccernet.read_labels(
        tmp_path / "merged" / match / LABELS, stored.classes) for match in stored.matches})
    overall, _ = evaluate.sweep(stored, truth, ["mean"], [3], [3, 5, 10])
    assert [setting["a_mAP"] for setting in settings] == overall.flatten().tolist()


def test_scores_of_a_part_count_from_its_start(tmp_path):
    """infer.py --start: a token's time is that of its video."""
    store_scores(tmp_path, n_matches=2)
    stored, later = soccernet.read_scores(tmp_path), {}
    for match in stored.matches:
        path = tmp_path / match / SCORES
        np.savez(path, **dict(np.load(path)) | {"start_s": 90.5})
        later[match] = [event._replace(position_ms=event.position_ms + 90_500) for event in
                        soccernet.read_labels(tmp_path / match / LABELS, stored.classes)]
    part = soccernet.read_scores(tmp_path)
    truth = evaluate.label_columns({match: [event._replace(position_ms=event.position_ms - 90_500)
                                           for event in events] for match, events in later.items()})
    kept = ops.soft_nms(evaluate.merge(stored, 3, "max"), stored.windows[-1], 5)
    assert evaluate.tight(kept, part, evaluate.label_columns(later))[0] == (
        evaluate.tight(kept, stored, truth)[0]) > 0


def test_sweep_refuses(tmp_path):
    store_scores(tmp_path, n_matches=3)
    (tmp_path / "match 1" / LABELS).unlink()
    with pytest.raises(DataError, match="no Labels-v2.json for 'match 1'.*1 of 3"):
        run("--sweep", "--scores", tmp_path, "--labels", tmp_path)


def test_foreign_classes_get_a_hint(tmp_path, capsys):
    write_match(tmp_path / "game", [GOAL], [SPOT])
    (tmp_path / "classes.txt").write_text("Serve\nBounce\n")
    run("--labels", tmp_path, "--predictions", tmp_path, "--classes", tmp_path / "classes.txt")
    assert f"No event in {tmp_path} is of these classes" in capsys.readouterr().out


def test_classes_and_names_of_matches_need_not_be_told_again(tmp_path, capsys):
    """Classes are those that the results say; a table may call a match by less of its path."""
    spots = [SPOT | {"label": name, "position": "4000"} for name in ("Ace", "Dive")]
    write_match(tmp_path / "out/lg/game", [], spots)
    path = tmp_path / "out/lg/game" / PREDICTIONS
    (tmp_path / "labels.csv").write_text("video,time,label\ngame/1_224p.mkv,4,Ace\n")
    for classes, told in ((["Ace"], "left out: 'Dive' (1)"), (["Ace", "Dive"], "1 of 2 classes")):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"about": {"classes": classes}}))
        run("--labels", tmp_path / "labels.csv", "--predictions", tmp_path / "out")
        assert told in capsys.readouterr().out
    path.write_text(json.dumps({"predictions": spots}))    # of another program: from the labels
    run("--labels", tmp_path / "labels.csv", "--predictions", tmp_path / "out")
    assert "classes: 1 from the labels: Ace\n" in capsys.readouterr().out


def test_names_that_are_no_class_are_told(tmp_path, capsys):
    """They count for nothing, as officially; but a misspelt class must not look like a bad one."""
    others = [GOAL | {"label": name} for name in ("goal", "goal", "Drone")]
    write_match(tmp_path / "a", [GOAL] * 3 + others, [SPOT, SPOT | {"label": "Goall"}])
    run("--labels", tmp_path, "--predictions", tmp_path)
    out = capsys.readouterr().out
    assert "annotations of no class are left out: 'goal' (2), 'Drone' (1)\n" in out
    assert "predictions of no class are left out: 'Goall' (1)\n" in out
    write_match(tmp_path / "b", [GOAL] * 8 + [GOAL | {"label": f"name {i}"} for i in range(8)],
                [SPOT])
    run("--labels", tmp_path, "--predictions", tmp_path)
    assert "'Drone' (1), 'name 0' (1)" in (out := capsys.readouterr().out)
    assert " and 4 other names\n" in out
    write_match(tmp_path / "clean/c", [GOAL], [SPOT])
    run("--labels", tmp_path / "clean", "--predictions", tmp_path / "clean")
    assert "no class" not in capsys.readouterr().out


def test_only_the_matches_of_this_run(tmp_path, capsys):
    """infer.py asks for the table of what it spotted: the --out folder may hold older results."""
    for match in "ab":
        write_match(tmp_path / match, [GOAL], [SPOT])
    evaluate.score_files(tmp_path, tmp_path, soccernet.SOCCERNET_CLASSES, ["b"],
                         only_predicted=True)
    assert "matches: 1, events: 1" in capsys.readouterr().out


def test_only_predicted(tmp_path, capsys):
    write_match(tmp_path / "labels/a", [GOAL], [SPOT])
    write_match(tmp_path / "labels/b", [GOAL], [])
    write_match(tmp_path / "spots/a", [], [SPOT])
    with pytest.raises(DataError, match="'b' .1 of 2 labelled"):
        run("--labels", tmp_path / "labels", "--predictions", tmp_path / "spots")
    run("--labels", tmp_path / "labels", "--predictions", tmp_path / "spots", "--only-predicted")
    out = capsys.readouterr().out
    assert "matches: 1, events: 1" in out and "1 of 2 labelled matches: no predictions" in out


@pytest.mark.parametrize("known, lost", [
    (None, "1 of 3 labels reach no frame: 1 after the end (first: Goal at 12:34:00 in half 2 "),
    ("videos", "2 of 3 labels reach no frame: 2 in a half without frames (first: Goal at 0:00:50 "),
    ("scores", "2 of 3 labels reach no frame: 2 after the end (first: Goal at 0:00:50 in half 1 ")])
def test_events_that_no_frame_shows_are_told(known, lost, tmp_path, capsys):
    """They count as missed, as officially. Without scores.npz a half ends after two hours."""
    later = [GOAL | {"gameTime": "2 - 00:50"},
             GOAL | {"gameTime": "2 - 12:34", "position": 45_240_000}]
    write_match(tmp_path / "a", [GOAL, *later, GOAL | {"gameTime": "3 - 00:50"}], [SPOT])
    path = tmp_path / "a" / PREDICTIONS
    if known == "videos":
        about = {"about": {"videos": {"1": "a/1_224p.mkv"}}}
        path.write_text(json.dumps(json.loads(path.read_text()) | about))
    if known == "scores":
        np.savez(tmp_path / "a" / SCORES, classes=np.array(["Goal"]), token_s=1.0, tokens_1=20,
                 tokens_2=60)
    run("--labels", tmp_path, "--predictions", tmp_path)
    out = capsys.readouterr().out
    assert lost in out and "; they count as missed, as in the official evaluator\n" in out
    assert "events: 3;" in out and "1 labels are of other halves than 1 and 2" in out
    write_match(tmp_path / "none/a", later[1:], [SPOT])
    with pytest.raises(DataError, match="none of its 1 labels reaches a frame: .*Excel makes of "):
        run("--labels", tmp_path / "none", "--predictions", tmp_path / "none")


def test_the_mean_over_classes_that_have_events(tmp_path, capsys):
    """Beside the official one, which takes the others as 0; in the JSON too."""
    write_match(tmp_path / "a", [GOAL], [SPOT])
    run("--labels", tmp_path, "--predictions", tmp_path, "--json", tmp_path / "n.json")
    numbers = json.loads((tmp_path / "n.json").read_text())
    assert numbers["with_events"]["tight"] == 1.0 and numbers["tight"]["a_mAP"] == 1 / 17
    assert re.search(r"\nwith events +1 +100.00", capsys.readouterr().out)
