"""
What these tests prove about evaluate.py:
  1. the results equal the official evaluator's to the last digit: on cases recorded from it, on
     seeded matches beside it in the same process, and on a published result
  2. what that program crashes on is one line here
  3. an action of token k is reported at token_s * (k + 1/4), and what that changes
  4. the sweep is what one would do by hand, setting by setting
"""
import contextlib
import copy
import functools
import gzip
import itertools
import json
import os
import re
import shutil
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch

from comedian import DataError, evaluate, export, ops, reference, report, results, soccernet
from comedian.frames import Half
from comedian.soccernet import LABELS, PREDICTIONS, SCORES, Detections, Event

ROOT = Path(__file__).resolve().parents[1]
CASES = sorted((ROOT / "tests/fixtures/metric_cases").glob("*.json"))
SHARED = ROOT.parent / "shared/fixtures"
GOAL = {"gameTime": "1 - 00:50", "label": "Goal", "position": "50000"}
SPOT = GOAL | {"half": "1", "confidence": 0.9}


def write_match(folder, annotations=None, predictions=None):
    """The labels and the results of a match, or one of the two."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, key, entries in ((LABELS, "annotations", annotations),
                               (PREDICTIONS, "predictions", predictions)):
        if entries is not None:
            (folder / name).write_text(json.dumps({key: entries}))


def read_match_labels(root, classes):
    return {match: soccernet.read_labels(path, classes)
            for match, path in soccernet.find_files(root, LABELS).items()}


def score_files(labels, spots, classes, framerate=2):
    predictions = {match: soccernet.read_predictions(path, classes)
                   for match, path in soccernet.find_files(spots, PREDICTIONS).items()}
    return evaluate.score(read_match_labels(labels, classes), predictions, classes, framerate)


@pytest.fixture
def run(tmp_path, capsys):
    """The command as a user types it, on files below tmp_path. Returns what it printed."""
    def command(*flags, labels=tmp_path, predictions=tmp_path):
        evaluate.main(evaluate.parse_args([*map(str, (
            "--labels", labels, "--predictions", predictions, *flags))]))
        return capsys.readouterr().out
    return command


def spots(*rows):
    """Detections from rows (half, label, position_ms, confidence)."""
    return Detections(*(np.array(column) for column in zip(*rows, strict=True)))


# ------------------------------------------------------------------ against the official evaluator
@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_recorded_case(path, tmp_path):
    case = json.loads(path.read_text())
    of_case = tmp_path, tmp_path, case["classes"], case["framerate"]
    for g, game in enumerate(case["games"]):
        write_match(tmp_path / f"game{g}", game["annotations"], game["predictions"])
    if "expected_exception" in case:      # a traceback there; here a line that names the file
        with pytest.raises(DataError, match="game0.*position"):
            score_files(*of_case)
    else:
        assert score_files(*of_case) == case["expected"]


def test_cases_are_there():
    assert len(CASES) == 51               # an empty folder must not pass for a green test


# Nine classes, so that numpy's mean does not sum them one after another.
SEEDED_CLASSES = ("Goal", "Foul", "Corner", "Penalty", "Offside", "Clearance", "Kick-off",
                  "Yellow card", "Red card")


def random_match(rng):
    """Annotations and predictions of one match: ties, duplicates and every oddity that is accepted.

    Few distinct times and confidences. Half 3 and Throw-in are unknown; Offside never happens, and
    nobody spots a Foul.
    """
    def event(without):
        position_ms = int(rng.choice([rng.integers(60_000), 500 * rng.integers(40), 7_200_500]))
        label = rng.choice([name for name in (*SEEDED_CLASSES, "Throw-in") if name != without])
        return {"gameTime": f"{rng.integers(1, 4)} - {position_ms // 60_000:02d}:07",
                "label": str(label),
                "position": position_ms if rng.random() < 0.3 else str(position_ms)}

    def confidence():
        number = rng.choice([0, -0.5, 0.25, 1, 1.5, rng.random(), rng.integers(200) / 199])
        odd = ["nan", "inf", " 0.5 ", None, str(number), str(number)][rng.integers(6)]
        return odd if rng.random() < 0.3 else float(number)

    annotations = [event("Offside") for _ in range(rng.integers(20, 60))]
    for entry in annotations:
        if rng.random() < 0.8:
            entry["visibility"] = str(rng.choice(["visible", "not shown", "unknown"]))
        if rng.random() < 0.1:
            del entry["position"]
    return annotations, [event("Foul") | {"half": str(rng.integers(1, 4)),
                                          "confidence": confidence()} for _ in range(400)]


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_equals_official_evaluator(seed, tmp_path):
    official = pytest.importorskip(
        "SoccerNet.Evaluation.ActionSpotting",
        reason="the official evaluator is absent: pip install --no-deps SoccerNet==0.2.0")
    rng, roots = np.random.default_rng(seed), (tmp_path / "labels", tmp_path / "spots")
    for g in range(rng.integers(1, 4)):
        annotations, predictions = random_match(rng)
        write_match(roots[0] / f"game{g}", annotations)
        write_match(roots[1] / f"game{g}", predictions=predictions)
    ours = score_files(*roots, SEEDED_CLASSES)
    for metric, result in ours.items():
        expected = official.evaluate(
            *map(str, roots), metric=metric, dataset=None,
            EVENT_DICTIONARY={name: k for k, name in enumerate(SEEDED_CLASSES)})
        assert result == {key: np.asarray(value).tolist() for key, value in expected.items()}
    assert ours["loose"]["a_mAP"] > 0.01                   # the match is not trivially empty


@pytest.mark.parametrize("folder, labels, predictions", [
    ("soccernet_netvlad_v2_5games", "labels.zip", "predictions.zip"),
    ("soccernet_netvlad_v2", "labels_test_reconstructed.zip", "results_spotting_test.zip")])
def test_published_netvlad(folder, labels, predictions, tmp_path, run):
    """A published result, on real matches. Their labels are SoccerNet's, not ours to publish; the
    cases above, which are made up, prove the same equality to everybody."""
    fixture = SHARED / folder
    if not fixture.is_dir():
        pytest.skip(f"{fixture} is absent: SoccerNet's labels are not ours to publish")
    out = run("--json", tmp_path / "metrics.json", "--chance", labels=fixture / labels,
              predictions=fixture / predictions)
    written = json.loads((tmp_path / "metrics.json").read_text())
    expected = json.loads((fixture / "expected.json").read_text())["metrics"]
    by_chance, *_ = (written.pop(name, None) for name in ("chance", "with_events", "receipt"))
    assert written == expected
    assert by_chance["tight"]["a_mAP"] < expected["tight"]["a_mAP"] / 2
    assert f"{100 * expected['tight']['a_mAP']:.2f}" in out


# ------------------------------------------------------------------ other spotters
def frame_ap_by_hand(labels, spots, tolerance):
    """AP as a plain reading of E2E-Spot's definition. labels [(video, frame)], spots the same with
    a score before."""
    free, precision = set(labels), []
    for n, (_, video, frame) in enumerate(sorted(spots, key=lambda spot: -spot[0]), 1):
        near = min((label for label in sorted(free) if label[0] == video),
                   key=lambda label: abs(label[1] - frame), default=None)
        if near and abs(near[1] - frame) <= tolerance:
            free.remove(near)
            precision.append((len(labels) - len(free)) / n)
    return sum(max(precision[i:]) for i in range(len(precision))) / len(labels)


def test_frame_map():
    rng, labels, spotted = np.random.default_rng(0), {}, {}
    for match in "ab":
        frames = rng.permutation(60)[:36]
        labels[match] = [Event(1 + k % 2, k % 3, 40 * int(f), True) for k, f in enumerate(frames)]
        spotted[match] = Detections(rng.integers(1, 3, 90), rng.integers(0, 4, 90),
                                    40.0 * rng.integers(0, 60, 90), rng.random(90))
    ap = evaluate.frame_map(labels, spotted, "wxyz", (0, 1, 4), dict.fromkeys("ab", 25))
    for (t, tolerance), k in itertools.product(enumerate((0, 1, 4)), range(3)):
        truth = [((m, event.half), event.position_ms // 40) for m in "ab" for event in labels[m]
                 if event.label == k]
        spots = [(c, (m, h), ms // 40) for m in "ab"
                 for h, label, ms, c in zip(*spotted[m], strict=True) if label == k]
        assert ap[t, k] == pytest.approx(frame_ap_by_hand(truth, spots, tolerance), abs=1e-12)
    assert np.isnan(ap[:, 3]).all() and 0 < ap[0, :3].mean() < ap[2, :3].mean() < 1


def test_frame_map_equals_e2e_spot(tmp_path, run):
    """Its own numbers for its own labels and file."""
    if not SHARED.is_dir():
        pytest.skip(f"{SHARED} is absent")
    run("--at-frames", 0, 1, 2, 4, "--json", tmp_path / "n.json",
        labels=SHARED / "e2e_spot/fs_comp/test.json",
        predictions=SHARED / "oracles/fs_comp_test_pred_synthetic.json")
    ours = json.loads((tmp_path / "n.json").read_text())["at_frames"]
    expected = json.loads((SHARED / "oracles/fs_comp_test_expected.json").read_text())["raw"]
    assert {tolerance: pytest.approx([of["AP"][name] for name in sorted(of["AP"])], abs=1e-12)
            for tolerance, of in expected.items()} == ours


@pytest.fixture
def seeded(tmp_path):
    """Two random matches in SoccerNet's layout: labels, results of --classes."""
    rng = np.random.default_rng(5)
    for match in ("lg/one", "two"):
        annotations, _ = random_match(rng)
        write_match(tmp_path / "in" / match, [row for row in annotations
                                              if row["gameTime"][0] < "3"])
        rows = [(1 + k % 2, int(rng.integers(9)), int(ms), float(rng.random())) for k, ms in
                enumerate(np.sort(rng.choice(60_000, 200, replace=False)))]
        soccernet.write_predictions(tmp_path / "in" / match / PREDICTIONS, match, spots(*rows),
                                    SEEDED_CLASSES)
    (tmp_path / "classes.txt").write_text("\n".join(SEEDED_CLASSES))
    return tmp_path


def test_predictions_of_every_spotter(seeded, run):
    """The same actions in each form are the same numbers."""
    export = "actions.csv", "actions.json"
    for kind in ("csv", "osl"):
        report.main(report.parse_args(["export", str(seeded / "in"), "--format", kind, "--out",
                                       str(seeded)]))
    texts = [(seeded / match / name).read_text() for name in export for match in ("lg/one", "two")]
    (seeded / "all.csv").write_text(texts[0] + texts[1].partition("\n")[2])
    data = [item for text in texts[2:] for item in json.loads(text)["data"]]
    (seeded / "all.json").write_text(json.dumps({"type": "predictions", "data": data}))
    for item in data:                                      # as opensportslib leaves them
        place = seeded / "osl" / item["inputs"][0]["path"] / PREDICTIONS
        place.parent.mkdir(parents=True)
        place.write_text(json.dumps({"data": [item]}))
    (seeded / "pred-test.3.recall.json.gz").write_bytes(gzip.compress(json.dumps([
        {"video": item["id"], "fps": 1000.0, "events": [
            {"frame": event["position_ms"], "label": event["label"], "score": event["confidence"]}
            for event in item["events"]]} for item in data]).encode()))
    numbers = []
    for name in ("in", "all.csv", "all.json", "osl", "pred-test.3.recall.json.gz"):
        run("--classes", seeded / "classes.txt", "--json", seeded / "n.json",
            labels=seeded / "in", predictions=seeded / name)
        numbers.append(json.loads((seeded / "n.json").read_text()))
        del numbers[-1]["receipt"]                         # which names the files
    assert numbers[0]["loose"]["a_mAP"] > 0.01 and numbers[0]["at1"] != numbers[0]["at2"]
    assert [one == numbers[1] for one in numbers[1:]] == [True] * 4
    assert numbers[0]["tight"]["a_mAP"] == pytest.approx(numbers[1]["tight"]["a_mAP"], abs=0.01)
    assert "matches: 1," in run("--only-predicted", predictions=seeded / "in/two" / PREDICTIONS,
                                labels=seeded / "in")
    (seeded / "odd.json").write_text('{"annotations": []}')
    for name, message in (("odd.json", "no list called 'predictions'"), ("none.json", "no such f"),
                          ("classes.txt", "no column is called video")):
        with pytest.raises(DataError, match=message):
            run(labels=seeded / "in", predictions=seeded / name)
    (seeded / "labels.csv").write_text("video,time,label\ntwo,1,Goal\nlg/one,1,Goal\n")
    with pytest.raises(DataError, match="labels.csv: action 0, 'Goal', has a malform.* confidence"):
        run(labels=seeded / "in", predictions=seeded / "labels.csv")
    with pytest.raises(DataError, match="labels have a frame rate; give --fps"):
        run("--at-frames", 1, labels=seeded / "in")


FORMS = {                             # name of a file of predictions, its content
    "val.json": [{"video": "m", "fps": 25.0, "events": [
        {"frame": 30, "label": "Goal", "score": 0.5}]}],
    "osl.json": {"labels": {"action": {"labels": ["Goal"]}}, "data": [
        {"inputs": [{"type": "video", "path": "m/1.mp4", "fps": 2}], "events": [
            {"head": "action", "label": "Goal", "position_ms": 1, "gameTime": "1 - 00:00",
             "half": "1", "confidence": 0.5}]}]},
    PREDICTIONS: {"predictions": [SPOT]}}


def places_in(value, way=()):
    """Where the values of a JSON are: ("data", 0, "events"), ..."""
    for key in value if isinstance(value, dict) else range(len(value)):
        yield (*way, key)
        if isinstance(value[key], (dict, list)):
            yield from places_in(value[key], (*way, key))


@pytest.mark.parametrize("name", FORMS)
def test_wrong_types_are_one_clear_line(name, tmp_path):
    """In every place of every form of predictions: no word of Python's, or it is read."""
    path, told = tmp_path / name, 0
    for (*way, last), odd in itertools.product(places_in(FORMS[name]), (
            None, True, 1.5, 1e400, "", "abc", [], {}, [[]])):
        content = copy.deepcopy(FORMS[name])
        functools.reduce(lambda node, key: node[key], way, content)[last] = odd
        path.write_text(json.dumps(content))
        try:
            for found in soccernet.find_predictions(path).values():
                soccernet.read_predictions(found, ("Goal",))
        except DataError as error:
            told += 1
            assert not re.search("Error|NoneType|'(int|str|dict|list|float|bool)'|argument|subscr"
                                 "|iterable|literal|convert|\n", str(error)), (way, last, odd)
    assert told > 20
    if name == "val.json":
        content[0]["fps"] = None
        path.write_text(json.dumps(content))
        with pytest.raises(DataError, match=r"val.json: entry 0 .*\(fps is null, no number\)$"):
            soccernet.find_predictions(path)


def test_the_classes_that_a_file_lists_decide(tmp_path, run):
    """Half of the names are SoccerNet's: OSL's own list counts, of predictions, then of labels;
    a table has none, and a line says whose they are."""
    names = ["Corner", "Goal", "Shot", "Save"]
    write_match(tmp_path / "in" / "m", predictions=[SPOT | {"label": name} for name in names])
    for kind in ("osl", "csv"):
        report.main(report.parse_args(["export", str(tmp_path / "in"), "--format", kind]))
    osl, table = (tmp_path / "in" / "m" / f"actions.{kind}" for kind in ("json", "csv"))
    (tmp_path / "labels.csv").write_text("video,time,label\nm,50,Goal\nm,50,Shot\n")
    truth = json.loads(osl.read_text()) | {"labels": {"action": {"labels": [*names, "Foul"]}}}
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    (tmp_path / "labels").mkdir()
    for labels, predictions, n, said in (
            ("labels.csv", osl, 4, ""),
            ("labels.csv", table, 17, "classes: SoccerNet's 17, because"),
            ("truth.json", table, 5, "classes: 5, as the labels list them: Corner, Goal"),
            ("truth.json", osl, 4, "")):
        printed = run("--json", tmp_path / "n.json", labels=tmp_path / labels,
                      predictions=predictions)
        written = json.loads((tmp_path / "n.json").read_text())
        assert len(written["tight"]["a_mAP_per_class"]) == n and said in printed, (labels, n)


def test_fewer_matches_to_compare_with_fail_first(seeded, run, capsys):
    shutil.copytree(seeded / "in" / "two", seeded / "less" / "two")
    with pytest.raises(DataError, match="less: no predictions for 'lg/one', which the other ones"):
        run("--against", seeded / "less", labels=seeded / "in", predictions=seeded / "in")
    assert "matches:" not in capsys.readouterr().out


@pytest.mark.slow
def test_opensportslib_evaluates_our_export(seeded, run, monkeypatch):
    """Its own functions, NMS and files and all, find our numbers in it."""
    pytest.importorskip("opensportslib", reason="opensportslib is absent: pip install --no-deps "
                        "--target DIR opensportslib tabulate; PYTHONPATH=DIR")
    for name in ("yaml", "wandb", *(f"opensportslib.{part}.builder" for part in (
            "core.optimizer", "core.scheduler", "datasets"))):         # not for evaluating
        monkeypatch.setitem(sys.modules, name, MagicMock())
    from opensportslib.core.trainer.localization_trainer import Evaluator
    from opensportslib.metrics import localization_metric
    known, mean = [], localization_metric.average_mAP      # it returns a table of text
    monkeypatch.setattr(localization_metric, "average_mAP", lambda *args, **flags: known.append(
        mean(*args, **flags)) or known[-1])
    theirs = Evaluator.__new__(Evaluator)
    theirs.extract_fps = 2
    data, truth = [], []
    for match in ("lg/one", "two"):
        found, classes, about = export.actions_of(seeded / "in" / match / PREDICTIONS)
        data += json.loads(export.as_osl(match, found, SEEDED_CLASSES, about))["data"]
        events = soccernet.read_labels(seeded / "in" / match / LABELS, SEEDED_CLASSES)
        truth += [{"inputs": [{"path": f"{match}/{half}"}], "events": [
            {"label": SEEDED_CLASSES[event.label], "position_ms": event.position_ms,
             "gameTime": f"{half} - 00:00"} for event in events if event.half == half
            and event.position_ms < 5_400_000]} for half in (1, 2)]
    labels = {"action": {"labels": SEEDED_CLASSES}}
    for name, of in (("pred.json", data), ("truth.json", truth)):
        (seeded / name).write_text(json.dumps({"labels": labels, "data": of}))
    (seeded / "t").mkdir()
    for window in (0, 2):
        theirs.evaluate_pred_E2E(
            SimpleNamespace(path=str(seeded / "truth.json"), nms_window=window),
            str(seeded / "t"), str(seeded / "pred.json"), "tight")
    run("--classes", seeded / "classes.txt", "--json", seeded / "n.json",
        labels=seeded / "truth.json", predictions=seeded / "pred.json")
    ours = json.loads((seeded / "n.json").read_text())["tight"]
    (plain, per_class, *_), (suppressed, *_) = known       # without and with its NMS
    assert sorted(per_class) == pytest.approx(sorted(ours["a_mAP_per_class"]))
    assert ours["a_mAP"] > 0.01 and plain == pytest.approx(ours["a_mAP"]) and suppressed != plain


# ------------------------------------------------------------------ files, and bad ones
@pytest.mark.parametrize("annotation, prediction, message", [
    (GOAL | {"position": "-7200500"}, SPOT, "labels of game: position -7200500"),
    (GOAL, SPOT | {"position": "-7200500"}, "predictions of game: position -7200500"),
    (GOAL, GOAL | {"confidence": 0.9}, "results_spotting.json: prediction 0 .*half"),
    (GOAL, SPOT | {"confidence": "high"}, "results_spotting.json: prediction 0 .*confidence"),
    (GOAL, SPOT | {"position": float("inf")}, "results_spotting.json: prediction 0 .*position"),
    (GOAL, SPOT | {"label": ["Goal"]}, "results_spotting.json: prediction 0 .*label"),
    (GOAL, "Goal", "results_spotting.json: prediction 0")])
def test_bad_entries(annotation, prediction, message, tmp_path, run):
    write_match(tmp_path / "game", [annotation], [prediction])
    with pytest.raises(DataError, match=message):
        run()


def test_bad_files(tmp_path, run):
    write_match(tmp_path / "labels/game", [GOAL], [SPOT])
    write_match(tmp_path / "others/other game", [GOAL], [SPOT])
    write_match(tmp_path / "broken/game")
    (tmp_path / "broken/game" / PREDICTIONS).write_text('{"predictions": [')
    for predictions, message in [
            ("others", "no results_spotting.json for 'game'.*1 of 1.*'other game'"),
            ("broken", "broken/game/results_spotting.json: not a SoccerNet prediction file"),
            ("labels", "two matches or more")]:
        with pytest.raises(DataError, match=message):
            run("--chance", labels=tmp_path / "labels", predictions=tmp_path / predictions)
    with pytest.raises(DataError, match="broken: no Labels-v2.json in it"):    # labels come first
        run(labels=tmp_path / "broken", predictions=tmp_path / "nowhere")


def test_a_path_that_cannot_be_written_fails_first(tmp_path, capsys, monkeypatch, run):
    """Before any work: not even the labels are read."""
    (tmp_path / "a folder").mkdir()
    dear = "last.pt", "games.zip", LABELS, PREDICTIONS
    for name in ("locked", *dear):
        (tmp_path / name).write_text("dear")
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "locked")
    for flag, (name, message) in itertools.product(("--json", "--plot"), [
            ("absent/x.png", "its folder does not exist"), ("a folder", "cannot be written"),
            ("locked", "cannot be written"),
            *((name, "exists and would be lost; name a new") for name in dear)]):
        with pytest.raises(DataError, match=f"{name}: {message}"):
            run(flag, tmp_path / name, labels="nowhere")
    assert {(tmp_path / name).read_text() for name in dear} == {"dear"}
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("options, message", [
    ("", "give --predictions, or --sweep"), ("--sweep", "--sweep needs --scores"),
    ("--predicted x", "unrecognized arguments: --predicted"),
    ("--sweep --scores s --ignored 2 -1", "argument --ignored: must be a number from 0.0"),
    ("--sweep --scores s --windows 2 -1", "argument --windows: must be a number from 0.0")])
def test_options_that_do_not_fit(options, message, capsys):
    with pytest.raises(SystemExit) as stop:
        evaluate.parse_args(["--labels", "l", *options.split()])
    line, = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2 and line.startswith(f"error: {message}")


def test_zip_and_folder_read_alike(tmp_path, run):
    """With the mean over classes that have events beside the official one: the others are 0."""
    write_match(tmp_path / "in/league/the game", [GOAL], [SPOT])
    for name in (LABELS, PREDICTIONS):
        with zipfile.ZipFile(tmp_path / f"{name}.zip", "w") as archive:
            archive.write(tmp_path / "in/league/the game" / name, f"league/the game/{name}")
    results = []
    for labels, predictions in [("in", "in"), (f"{LABELS}.zip", "in"),
                                (f"{LABELS}.zip", f"{PREDICTIONS}.zip")]:
        out = run("--json", tmp_path / "n.json", labels=tmp_path / labels,
                  predictions=tmp_path / predictions)
        assert re.search(r"\nwith events +1 +100.00", out)
        results.append(json.loads((tmp_path / "n.json").read_text()))
    receipts = [result.pop("receipt") for result in results]
    assert receipts[0]["sha256"] == receipts[1]["sha256"] == receipts[2]["sha256"]
    assert results[0] == results[1] == results[2]
    tight, goal = results[0]["tight"], soccernet.SOCCERNET_CLASSES.index("Goal")
    assert tight["a_mAP_per_class"][goal] == results[0]["with_events"]["tight"] == 1.0
    assert tight["a_mAP"] == 1 / 17


# ------------------------------------------------------------------ chance and the table
def perfect(labels):
    """Predictions that are the labels."""
    return {match: spots(*((event.half, event.label, event.position_ms, 1.0) for event in events))
            for match, events in labels.items()}


def test_chance_is_the_score_on_the_other_matches():
    labels = {match: [Event(1, 0, ms, True)] for match, ms in (
        ("a", 10_000), ("b", 10_500), ("c", 500_000), ("d", 700_000))}
    assert evaluate.score(labels, perfect(labels), ["Goal"])["tight"]["a_mAP"] == 1.0
    # Shift 1 scores a on b's predictions (half a second off: a hit at every delta), b on c's, c on
    # d's and d on a's (misses): precision and recall 1/4, so AP = 3/11 * 1/4. Shift 2: no hit.
    # Shift 3: only b on a's hits.
    for given, mean in (({"max_shifts": 1}, 3 / 44), ({"max_shifts": 2}, 3 / 88), ({}, 3 / 66)):
        by_chance = evaluate.chance(labels, perfect(labels), ["Goal"], **given)
        assert by_chance["tight"]["a_mAP"] == pytest.approx(mean)
    same = dict.fromkeys("ab", labels["a"])
    assert evaluate.chance(same, perfect(same), ["Goal"])["loose"]["a_mAP"] == 1.0


def test_the_table_explains_itself():
    classes, seen = ["Goal", "Foul", "Red card"], Event(1, 0, 10_000, True)
    labels = {"a": [seen, Event(2, 1, 10_000, False),
                    Event(3, 2, 10_000, True)]}       # half 3 does not exist for the metric
    results = evaluate.score(labels, perfect(labels), classes)
    lines = evaluate.table(results, labels, classes, results).splitlines()
    assert lines[0].startswith("matches: 1, events: 2, 1 of them not shown by the broadcast")
    assert re.split(" {2,}", lines[1].strip()) == [
        "events", "t-AmAP", "chance", "+-0.5 s", "+-1 s", "+-1.5 s", "+-2 s", "+-2.5 s", "loose",
        "visible", "not shown"]
    assert lines[2].split()[:4] == ["all", "2", "66.67", "66.67"]
    assert [line.split() for line in lines[3:7]] == [
        ["with", "events", "2", *["100.00"] * 10], ["Goal", "1", *["100.0"] * 9, "-"],
        ["Foul", "1", *["100.0"] * 8, "-", "100.0"], ["Red", "card", "0", *["-"] * 10]]
    told = "\n".join(lines[7:])
    assert [title for title in ("+-1 s:", "t-AmAP:", "loose:", "chance:", "visible, not shown:",
            "'-':", "1 of 3 classes have no event") if title not in told] == []
    # What says nothing is left out, with the line that explains it.
    labels = {"a": [seen]}
    lines = evaluate.table(evaluate.score(labels, perfect(labels), ["Goal"]), labels,
                           ["Goal"]).splitlines()
    assert lines[0] == "matches: 1, events: 1; average precision in %"
    assert lines[1].split() == "events t-AmAP +-0.5 s +-1 s +-1.5 s +-2 s +-2.5 s loose".split()
    assert len(lines) == 5 and lines[4].startswith("+-1 s: ") and "t-AmAP: " in lines[4]


# ------------------------------------------------------------------ intervals
def noisy(labels, seed, sigma_ms):
    """Predictions around labels, and as many anywhere."""
    rng, found = np.random.default_rng(seed), {}
    for match, events in labels.items():
        rows = [(event.half, event.label, max(0, event.position_ms + rng.normal(0, sigma_ms)),
                 rng.beta(4, 2)) for event in events]
        found[match] = spots(*rows, *((1, k % 2, rng.integers(600_000), rng.beta(1, 3))
                                      for k in range(len(events))))
    return found


def random_labels(n_matches, seed=0):
    rng = np.random.default_rng(seed)
    return {f"m{g}": [Event(1 + k % 2, int(k > 8), int(ms), k % 5 > 0) for k, ms in enumerate(
        rng.integers(0, 600_000, 9 + 3 * (g > 1)))] for g in range(n_matches)}


def test_a_resample_is_what_a_list_with_copies_gives():
    """To the bit, for every number; and so the intervals are those of the outright results."""
    labels = random_labels(4)
    found, classes = noisy(labels, 1, 800), ("Goal", "Foul", "Dive")
    runs = evaluate.resample(labels, found, classes, 8, seed=3)
    picks = np.random.default_rng(3).integers(0, 4, (8, 4))
    assert any(len(set(drawn)) < 4 for drawn in picks.tolist())
    for run, drawn in zip(runs, picks, strict=True):
        names = [f"m{g}" for g in drawn]
        of_run = ({f"{i}": of[name] for i, name in enumerate(names)} for of in (labels, found))
        truth, spotted = of_run
        outright = evaluate.score(truth, spotted, classes)
        assert {metric: {key: run[metric][key] for key in outright[metric]}
                for metric in outright} == outright
        assert run["tight"]["with_events"] == evaluate.mean_with_events(
            outright["tight"], evaluate.count_events(truth, 3))
    assert len({run["tight"]["a_mAP"] for run in runs}) > 4
    low, high = evaluate.interval(runs, 10 ** 9)           # of very many: the plain percentiles
    values = [run["loose"]["a_mAP_per_class"][0] for run in runs]
    assert [low["loose"]["a_mAP_per_class"][0], high["loose"]["a_mAP_per_class"][0]] == [
        pytest.approx(np.percentile(values, q), abs=1e-4) for q in (2.5, 97.5)]
    with pytest.raises(DataError, match="--bootstrap and --against .* two matches or more"):
        evaluate.resample({"m0": labels["m0"]}, found, classes, 8)


@pytest.mark.proof
def test_the_interval_is_as_wide_as_students():
    """Resamples of a mean of 12 numbers: the interval is Student's, mean +- 2.201 s / sqrt(12)."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=12)
    means = x[rng.integers(0, 12, (5000, 12))].mean(1)
    half = 2.201 * x.std(ddof=1) / 12 ** 0.5
    ends = tuple(np.percentile(means, evaluate.percentiles(12)))
    assert ends == pytest.approx((x.mean() - half, x.mean() + half), abs=0.08 * half)


def six_matches(tmp_path):
    """Random labels of six matches, in tmp_path/in: ({match: [Event]}, classes)."""
    labels, classes = random_labels(6), ("Goal", "Foul")
    (tmp_path / "classes.txt").write_text("Goal\nFoul")
    for match, events in labels.items():
        write_match(tmp_path / "in" / match, [
            {"gameTime": f"{event.half} - 00:00", "label": classes[event.label],
             "position": event.position_ms} for event in events])
    return labels, classes


def test_intervals_of_the_command(tmp_path, run):
    """Below each number, the same with the same seed; --against is paired, and 0 against itself."""
    labels, classes = six_matches(tmp_path)
    for name, sigma_ms in (("good", 400), ("bad", 2500)):
        for match, found in noisy(labels, 2, sigma_ms).items():
            soccernet.write_predictions(tmp_path / name / match / PREDICTIONS, match, found,
                                        classes)

    def numbers(*flags, of="good"):
        out = run("--classes", tmp_path / "classes.txt", "--json", tmp_path / "n.json", *flags,
                  labels=tmp_path / "in", predictions=tmp_path / of)
        return out, json.loads((tmp_path / "n.json").read_text())

    out, first = numbers("--bootstrap", 50)
    lines = out.splitlines()
    low, high = (end["tight"]["a_mAP"] for end in first["interval"])
    assert low < first["tight"]["a_mAP"] < high
    assert f"{100 * low:.2f} to {100 * high:.2f}" in lines[3] and lines[2].startswith("all ")
    assert any(line.startswith("x to y: 95 % interval") for line in lines)
    assert numbers("--bootstrap", 50)[1] == first
    assert numbers("--bootstrap", 50, "--seed", 1)[1]["interval"] != first["interval"]
    out, second = numbers("--bootstrap", 50, "--against", tmp_path / "bad")
    assert second["interval"] == first["interval"] and "higher in 100.0 % of the resamples" in out
    assert second["against"]["higher"] == 1
    low, high = (end["tight"]["a_mAP"] for end in second["against"]["interval"])
    assert 0 < low < second["against"]["difference"]["tight"]["a_mAP"] < high
    _, same = numbers("--bootstrap", 50, "--against", tmp_path / "good")
    assert not np.any([end["tight"]["a_mAP_per_class"] for end in same["against"]["interval"]])
    (tmp_path / "bad/m3" / PREDICTIONS).unlink()
    with pytest.raises(DataError, match="bad: no predictions for 'm3'.*compare results of the s"):
        numbers("--against", tmp_path / "bad")


def test_what_other_predictions_lack_is_told(tmp_path, run):
    """Another class list, or a half that was not spotted, looks like a badly spotted one."""
    labels, classes = six_matches(tmp_path)
    for match, found in noisy(labels, 2, 400).items():
        first = soccernet.Detections(*(column[found.half == 1] for column in found))
        for name, some, names, videos in (("all", found, classes, ["1", "2"]),
                                          ("first", first, classes, ["1"]),
                                          ("alien", found, ("goal", "foul"), ["1", "2"])):
            soccernet.write_predictions(tmp_path / name / match / PREDICTIONS, match, some, names,
                                        {"videos": dict.fromkeys(videos, "v")})

    def warnings(other):
        out = run("--classes", tmp_path / "classes.txt", "--against", tmp_path / other,
                  labels=tmp_path / "in", predictions=tmp_path / "all")
        return [line for line in out.splitlines() if line.startswith("warning: ")]

    assert warnings("all") == []
    lost, = warnings("first")
    assert f"{tmp_path / 'first'}: 32 of 66 labels reach no frame: 32 in a half" in lost
    unknown, = warnings("alien")
    assert f"{tmp_path / 'alien'}: predictions of no class are left out: 'goal' (" in unknown


def test_few_matches_and_few_resamples_make_no_interval(capsys):
    """The lowest and the highest of n values hold the median with probability 1 - 2 ** (1 - n):
    for 5 matches that is less than 95 %, and resamples of them reach no further."""
    assert 1 - 2 ** -4 < 0.95 < 1 - 2 ** -5
    for n_matches in (5, 6):
        labels = random_labels(n_matches)
        found = noisy(labels, 1, 800)
        ends = evaluate.interval(evaluate.resample(labels, found, ("a", "b"), 40), n_matches)
        text = evaluate.table(evaluate.score(labels, found, ("a", "b")), labels, ("a", "b"),
                              ends=ends)
        assert ("5 matches are too few" in text) == (n_matches == 5) and "95 % interval" in text
    for n, is_refused in ((0, False), (1, True), (39, True), (40, False)):
        flags = ["--predictions", "p", "--labels", "l", "--bootstrap", str(n)]
        with pytest.raises(SystemExit) if is_refused else contextlib.nullcontext():
            evaluate.parse_args(flags)
        assert ("needs 40 resamples" in capsys.readouterr().err) == is_refused
    for more in (["--bootstrap", "40"], ["--against", "p"]):
        with pytest.raises(SystemExit):
            evaluate.parse_args(["--sweep", "--scores", "s", "--labels", "l", *more])
        assert "are for the table" in capsys.readouterr().err


# ------------------------------------------------------------------ the time of a token
def test_the_time_of_a_token_by_hand():
    """The mean of the nominal times n / fps of its two frames, to the millisecond."""
    for fps, k in itertools.product((2, 25 / 12, 1, 25), (0, 1, 7, 2699)):
        frames_s = 2 * k / fps, (2 * k + 1) / fps
        assert evaluate.token_ms(k, 2 / fps) == round(1000 * sum(frames_s) / 2)
    assert evaluate.token_ms(np.arange(3), 1.0, 90.5).tolist() == [90_750, 91_750, 92_750]


def test_a_quarter_changes_no_official_metric_at_2_fps():
    """Rows of half a second: k and k + 1/4 fall into the same one, k + 1/2 into the next. At other
    rates (25 / 12, 2.5 and 1 fps) they part, and so does the metric."""
    k = np.arange(2700)
    start, quarter, middle = (evaluate.time_rows(1000 * (k + share), evaluate.FRAMERATE, "")
                              for share in (0, 1 / 4, 1 / 2))
    assert (start == 2 * k).all() and (quarter == 2 * k).all() and (middle == 2 * k + 1).all()
    for token_s in (0.96, 0.8, 2.0):
        rows = evaluate.time_rows(evaluate.token_ms(k, token_s), evaluate.FRAMERATE, "")
        assert (rows != evaluate.time_rows(1000 * token_s * k, 2, "")).mean() > 0.3


def test_a_quarter_is_the_middle_of_what_a_token_is_labelled_for():
    """Events at every millisecond, spotted by a network that scores exactly the tokens whose label
    is positive (an event within 0.5 s of one of the two frames): on average they stand right."""
    off = [evaluate.token_ms(k, 1.0) - ms for ms in range(60_000, 61_000) for k in range(50, 70)
           if min(abs(1000 * k - ms), abs(1000 * k + 500 - ms)) <= 500]
    assert abs(np.mean(off)) < 1                           # of k alone it would be -250 ms


# ------------------------------------------------------------------ the sweep
def test_the_sweep_searches_the_papers_grids():
    """Tab. 12's ignored seconds and the windows of Fig. 5."""
    args = evaluate.parse_args(["--sweep", "--scores", "s", "--labels", "l"])
    assert args.ignored == list(range(0, 17, 2))
    assert args.windows[0] == 2 and args.windows[-1] == 20 and {3, 10} < set(args.windows)
    assert list(evaluate.NMS) == list(ops.NMS) == list(reference.NMS) == ["soft", "greedy", "local"]


def store_scores(root, n_matches=3, token_s=1.0):
    """scores.npz and labels of a few short matches, the last of them with one half only."""
    rng = np.random.default_rng(0)
    for g in range(n_matches):
        annotations = []
        arrays = {"classes": np.array(["Goal", "Foul", "Red card"]), "token_s": token_s}
        for h, n_tokens in [(1, 61 + g), (2, 40)][:1 if g == n_matches - 1 else 2]:
            starts = [*range(0, n_tokens - 16, 8), n_tokens - 16]
            scores = rng.integers(0, 40, (len(starts), 16, 3)) / 40         # ties are common
            arrays |= {f"windows_{h}": scores.astype(np.float32), f"starts_{h}": np.array(starts),
                       f"tokens_{h}": n_tokens}
            annotations += [{"gameTime": f"{h} - 00:00", "position": str(1000 * t + 300),
                             "label": "Goal" if t % 2 else "Foul"}
                            for t in rng.integers(0, n_tokens, 6)]
        write_match(root / f"match {g}", annotations)
        np.savez(root / f"match {g}" / SCORES, **arrays)


@pytest.mark.parametrize("kind", list(ops.NMS))
@pytest.mark.parametrize("token_s, merge, ignored_s, window_s",
                         [(1.0, "max", 0, 5), (0.8, "mean", 3, 4)])        # 2 fps; 2.5 fps
def test_sweep_equals_doing_it_by_hand(token_s, merge, ignored_s, window_s, kind, tmp_path):
    store_scores(tmp_path, token_s=token_s)
    stored = soccernet.read_scores(tmp_path)
    labels = read_match_labels(tmp_path, stored.classes)
    overall, per_class = evaluate.sweep(stored, evaluate.label_columns(labels), [merge],
                                        [ignored_s], [window_s])
    # By hand: one half at a time, through the references and a file, as infer.py writes it.
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
        soccernet.write_predictions(tmp_path / match / PREDICTIONS, match, spots(*found),
                                    stored.classes)
    by_hand = score_files(tmp_path, tmp_path, stored.classes)["tight"]
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


def test_sweep_command(tmp_path, run):
    store_scores(tmp_path)
    out = run("--sweep", "--scores", tmp_path, "--per-class", "--ignored", 0, 3, 6, "--windows", 2,
              4.5, 9, 10, "--json", tmp_path / "n.json", "--plot", tmp_path / "sweep.png")
    settings = json.loads((tmp_path / "n.json").read_text())
    best = max(settings, key=lambda setting: setting["a_mAP"])
    assert [tuple(s[key] for key in ("nms", "merge", "ignored_s", "window_s"))
            for s in settings] == [*itertools.product(
                ("soft", "greedy", "local"), ("max", "mean"), (0, 3, 6), (2, 4.5, 9, 10))]
    assert f"{100 * best['a_mAP']:.2f} %" in out
    assert "settings were chosen on these matches: report" in out and "Red card" in out
    assert "If 6 s or more are ignored" in out          # 16-s windows every 8 s cover up to 4 s
    assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")
    # A window per class cannot be worse than one for all of them, with the same kind of NMS.
    together = float(out.split("t-AmAP ")[-1].split(" %")[0])
    assert together >= round(100 * best["a_mAP"], 2)
    (tmp_path / "match 1" / LABELS).unlink()
    with pytest.raises(DataError, match="no Labels-v2.json for 'match 1'.*1 of 3"):
        run("--sweep", "--scores", tmp_path)


def test_merged_scores_are_searched_over_nms_alone(tmp_path, run):
    """What infer.py stores of an ensemble: the sweep finds what it finds in the windows, at the
    merge and ignored seconds that were used before."""
    store_scores(tmp_path)
    stored = soccernet.read_scores(tmp_path)
    merged = evaluate.merge(stored, 3, "mean").split(stored.windows[-1].tolist())
    for g, match in enumerate(stored.matches):
        tables = [table for table in merged[2 * g:2 * g + 2] if len(table)]
        halves = [Half(match, h, "", "", 8, ".jpg", 1, 2 * len(table), 2.0)
                  for h, table in enumerate(tables, 1)]
        soccernet.write_scores(tmp_path / match / SCORES, match, stored.classes, halves, tables,
                               [None] * len(tables), 0.0)
    again = soccernet.read_scores(tmp_path)
    assert again.merged and again.windows[-1].tolist() == stored.windows[-1].tolist()
    for ignored_s in (0, 3, 24):                           # 24: longer than half a half
        assert torch.equal(evaluate.merge(again, ignored_s, "max"), torch.cat(merged))
    out = run("--sweep", "--scores", tmp_path, "--windows", 3, 5, 10, "--json", tmp_path / "n.json")
    assert "only NMS and its window are searched" in out
    truth = evaluate.label_columns(read_match_labels(tmp_path, stored.classes))
    overall, _ = evaluate.sweep(stored, truth, ["mean"], [3], [3, 5, 10])
    assert [setting["a_mAP"] for setting in json.loads((tmp_path / "n.json").read_text())] == (
        overall.flatten().tolist())


def test_scores_of_a_part_count_from_its_start(tmp_path):
    """infer.py --start: a token's time is that of its video."""
    store_scores(tmp_path, n_matches=2)
    stored = soccernet.read_scores(tmp_path)
    labels = read_match_labels(tmp_path, stored.classes)
    for path in tmp_path.rglob(SCORES):
        np.savez(path, **dict(np.load(path)) | {"start_s": 90.5})
    later = {match: [event._replace(position_ms=event.position_ms + 90_500) for event in events]
             for match, events in labels.items()}
    kept = ops.soft_nms(evaluate.merge(stored, 3, "max"), stored.windows[-1], 5)
    part, whole = (evaluate.tight(kept, scores, evaluate.label_columns(truth))[0] for scores, truth
                   in ((soccernet.read_scores(tmp_path), later), (stored, labels)))
    assert part == whole > 0


# ------------------------------------------------------------------ what is told
def test_classes_and_names_of_matches_need_not_be_told_again(tmp_path, run):
    """Classes are those that the results say; a table may call a match by less of its path."""
    spots = [SPOT | {"label": name, "position": "4000"} for name in ("Ace", "Dive")]
    write_match(tmp_path / "lg/game")
    (tmp_path / "labels.csv").write_text("video,time,label\ngame/1_224p.mkv,4,Ace\n")
    for about, told in (({"classes": ["Ace"]}, "left out: 'Dive' (1)"),
                        ({"classes": ["Ace", "Dive"]}, "1 of 2 classes"),
                        ({}, "classes: 1 from the labels: Ace\n")):          # of another program
        (tmp_path / "lg/game" / PREDICTIONS).write_text(
            json.dumps({"predictions": spots, "about": about}))
        assert told in run(labels=tmp_path / "labels.csv")


def test_names_that_are_no_class_print_a_warning(tmp_path, run):
    """They count for nothing, as officially; but a misspelt class must not look like a bad one."""
    others = [GOAL | {"label": name} for name in ("goal", "goal", "Drone")]
    write_match(tmp_path / "a", [GOAL] * 3 + others, [SPOT, SPOT | {"label": "Goall"}])
    out = run()
    assert "annotations of no class are left out: 'goal' (2), 'Drone' (1)\n" in out
    assert "predictions of no class are left out: 'Goall' (1)\n" in out
    write_match(tmp_path / "b", [GOAL] * 8 + [GOAL | {"label": f"name {i}"} for i in range(8)],
                [SPOT])
    assert "'Drone' (1), 'name 0' (1)" in (out := run()) and " and 4 other names\n" in out
    write_match(tmp_path / "clean/c", [GOAL], [SPOT])
    assert "no class" not in run(labels=tmp_path / "clean", predictions=tmp_path / "clean")
    (tmp_path / "classes.txt").write_text("Serve\nBounce\n")
    out = run("--classes", tmp_path / "classes.txt")
    assert f"No event in {tmp_path} has one of these classes; give others with" in out


def test_only_some_of_the_matches(tmp_path, capsys, run):
    """Those predicted; or those that infer.py spotted in this run: --out may hold older results."""
    write_match(tmp_path / "a", [GOAL], [SPOT])
    write_match(tmp_path / "b", [GOAL])
    with pytest.raises(DataError, match="'b' .1 of 2 labelled"):
        run()
    out = run("--only-predicted")
    assert "matches: 1, events: 1" in out and "1 of 2 labelled matches: no predictions" in out
    write_match(tmp_path / "b", [GOAL], [SPOT])
    evaluate.score_files(tmp_path, tmp_path, soccernet.SOCCERNET_CLASSES, ["b"],
                         only_predicted=True)
    assert "matches: 1, events: 1" in capsys.readouterr().out


@pytest.mark.parametrize("known, lost", [
    (None, "1 of 3 labels reach no frame: 1 after the end (first: Goal at 12:34:00 in half 2 "),
    ("videos", "2 of 3 labels reach no frame: 2 in a half without frames (first: Goal at 0:00:50 "),
    ("scores", "2 of 3 labels reach no frame: 2 after the end (first: Goal at 0:00:50 in half 1 ")])
def test_events_that_no_frame_shows_print_a_warning(known, lost, tmp_path, run):
    """They count as missed, as officially. Without scores.npz a half ends after two hours."""
    later = [GOAL | {"gameTime": "2 - 00:50"},
             GOAL | {"gameTime": "2 - 12:34", "position": 45_240_000}]
    write_match(tmp_path / "a", [GOAL, *later, GOAL | {"gameTime": "3 - 00:50"}], [SPOT])
    if known == "videos":
        (tmp_path / "a" / PREDICTIONS).write_text(json.dumps(
            {"predictions": [SPOT], "about": {"videos": {"1": "a/1_224p.mkv"}}}))
    if known == "scores":
        np.savez(tmp_path / "a" / SCORES, classes=np.array(["Goal"]), token_s=1.0, tokens_1=20,
                 tokens_2=60)
    out = run()
    assert lost in out and "; they count as missed, as in the official evaluator\n" in out
    assert "events: 3;" in out and "1 labels are of other halves than 1 and 2" in out
    write_match(tmp_path / "none/a", later[1:], [SPOT])
    with pytest.raises(DataError, match="none of its 1 labels reaches a frame: .*Excel makes of "):
        run(labels=tmp_path / "none", predictions=tmp_path / "none")


@pytest.mark.parametrize("name, content", [
    ("labels.csv", "a,b\n"), ("labels.json", "[]"), (f"game/{LABELS}", "{}"),
    (f"game/{LABELS}", '{"annotations": [{"gameTime": "1"}]}')])
def test_labels_beside_a_video_that_cannot_be_read_stop_nothing(tmp_path, name, content, capsys):
    """Those of --labels do."""
    (tmp_path / "game").mkdir()
    (tmp_path / name).write_text(content)
    half = SimpleNamespace(match="game", number=1, path=tmp_path / "game.mkv", n_tokens=9)
    args = SimpleNamespace(labels=None, data=None, split=None, encoding=None, start=0, end=None)
    assert results.labels_to_score(args, [half], ("Goal",)) == {}
    assert re.match(f"warning: .*{name}: .*; continuing without labels\n", capsys.readouterr().out)
    args.labels = tmp_path
    with pytest.raises(DataError, match=name):
        results.labels_to_score(args, [half], ("Goal",))
