"""
What these tests prove about soccernet.py:
  1. classes and labels are read as the official evaluator reads them; what it crashes on is a line;
     labels of other layouts mean the same
  2. predictions are written as it takes them, and read as it reads them, from a folder or a zip
  3. scores.npz gives back what was stored; what is not of one model, or no scores, is named
  4. a submission holds the games of its lists, each under its own name
"""
import json
import os
import zipfile

import numpy as np
import pytest
import torch

from comedian import DataError, frames, soccernet
from comedian.frames import Half
from comedian.soccernet import LABELS, PREDICTIONS, SCORES, Detections

# ------------------------------------------------------------------ 1. classes, labels
def test_classes(tmp_path):
    names = soccernet.read_classes()
    assert len(names) == 17 and names[16] == "Yellow->red card"
    (tmp_path / "classes.txt").write_text("jump\n\n spin \n")
    assert soccernet.read_classes(tmp_path / "classes.txt") == ("jump", "spin")
    for text in ("", "jump\njump\n"):
        (tmp_path / "classes.txt").write_text(text)
        with pytest.raises(DataError, match="classes.txt: wants one class name per line"):
            soccernet.read_classes(tmp_path / "classes.txt")
    with pytest.raises(DataError, match="none.txt: not a list of classes"):
        soccernet.read_classes(tmp_path / "none.txt")


def write_labels(path, *annotations):
    path.write_text(json.dumps({"UrlLocal": "x", "annotations": annotations}))
    return path


def annotation(time="1 - 00:31", label="Foul", **more):
    return {"gameTime": time, "label": label, "team": "home", "visibility": "visible"} | more


LABEL_CASES = [                       # annotation -> half, position_ms, visible, as officially read
    (annotation(position="31480"), (1, 31480, True)),
    (annotation(position=31480), (1, 31480, True)),
    (annotation(position=31480.9), (1, 31480, True)),                # a JSON float is truncated
    (annotation("2 - 45:07"), (2, 2_707_000, True)),                 # no position: minutes, seconds
    (annotation("2 - 45:07", position="0"), (2, 0, True)),           # position counts, even 0
    (annotation("1 - 100:30"), (1, 30_000, True)),                   # three digits lose the first
    (annotation(visibility="not shown"), (1, 31_000, False)),
    (annotation(visibility="Not shown"), (1, 31_000, True)),         # the exact string or nothing
    (annotation(position="-1500"), (1, -1500, True)),
    (annotation("3 - 00:01"), (3, 1_000, True)),                     # a half that no video has
]


@pytest.mark.parametrize("entry, expected", LABEL_CASES)
def test_labels_as_the_official_evaluator_reads_them(tmp_path, entry, expected):
    event, = soccernet.read_labels(write_labels(tmp_path / "L.json", entry), ("Goal", "Foul"))
    assert (event.half, event.position_ms, event.visible) == expected and event.label == 1


def test_labels_keep_file_order_and_leave_out_other_classes(tmp_path):
    path = write_labels(tmp_path / "L.json", annotation(label="Foul", position=9000),
                        annotation(label="Dance"), annotation(label="Goal", position=1000))
    events = soccernet.read_labels(path, ("Goal", "Foul"))
    assert [(e.label, e.position_ms) for e in events] == [(1, 9000), (0, 1000)]
    missing = annotation(position=5)
    del missing["visibility"]
    assert soccernet.read_labels(write_labels(tmp_path / "L.json", missing), ("Foul",))[0].visible


@pytest.mark.parametrize("text, message", [
    ("[1", "not a SoccerNet label file"), ("{}", "not a SoccerNet label file"),
    ("[]", "not a SoccerNet label file"),
    ('{"annotations": 3}', "not a SoccerNet label file"),
    (json.dumps({"annotations": [annotation(), annotation("kick-off")]}), "annotation 1 has a mal"),
    (json.dumps({"annotations": [annotation(position="12.5")]}), "annotation 0 has a malformed"),
    (json.dumps({"annotations": [{"gameTime": "1 - 00:00"}]}), "annotation 0 has a malformed"),
    (json.dumps({"annotations": [{"label": "Foul", "position": "3"}]}), "annotation 0 has a mal"),
    (json.dumps({"annotations": ["Foul"]}), "annotation 0 has a malformed")])
def test_bad_labels(tmp_path, text, message):
    (tmp_path / "Labels-v2.json").write_text(text)
    with pytest.raises(DataError, match=message) as error:
        soccernet.read_labels(tmp_path / "Labels-v2.json", ("Foul",))
    assert "Labels-v2.json" in str(error.value)


# ------------------------------------------------------------------ labels of other layouts
TABLE = """video,time,label
derby.mp4,12:34.5,Tackle
cup/2031/2_224p.mkv,754,Goal kick
derby.mp4,1:02:03,Tackle
quiet.mkv,,
"""


def test_labels_of_a_table(tmp_path):
    """Videos are called as infer.py and prepare call them; a watched one may have no action."""
    (tmp_path / "labels.csv").write_text(TABLE)
    found = soccernet.find_labels(tmp_path)
    assert list(found) == ["cup/2031", "derby", "quiet"] and found["quiet"].rows == []
    assert found["derby"].rows == [(1, "Tackle", 754_500, True), (1, "Tackle", 3_723_000, True)]
    assert found["cup/2031"].rows == [(2, "Goal kick", 754_000, True)]
    assert soccernet.find_labels(tmp_path / "labels.csv", ["derby", "none"]).keys() == {"derby"}
    classes = soccernet.classes_of(found.values())
    assert classes == ("Goal kick", "Tackle")
    assert [event.label for event in soccernet.read_labels(found["derby"], classes)] == [1, 1]
    assert soccernet.read_labels(found["derby"], ("Goal kick",)) == []


def test_tables_of_other_programs(tmp_path):
    """A mark before the text, ; between columns, more columns in any order, a decimal comma."""
    (tmp_path / "a.csv").write_bytes(
        b"\xef\xbb\xbfLabel;Visibility;Video;Half;Note;Time\r\n"
        b"Foul;not shown;lg\\2 - 1 Dons;2;x;31,5\r\n\r\nGoal;visible;lg\\2 - 1 Dons;;;0:40\r\n")
    assert soccernet.find_labels(tmp_path / "a.csv")["lg/2 - 1 Dons"].rows == [
        (2, "Foul", 31_500, False), (1, "Goal", 40_000, True)]


def osl(**changes):
    event = {"label": "PASS", "position_ms": "1500", "head": "action", **changes}
    return {"version": "2.0", "data": [
        {"id": "g1", "inputs": [{"type": "tracking", "path": "g1.parquet"},
                                {"type": "video", "path": "train/g1.mp4", "fps": 25}],
         "events": [event, {"label": "GOAL", "position_ms": 3000, "gameTime": "2 - 00:03"}]},
        {"id": "g2", "events": []}]}


def test_labels_of_opensportslab(tmp_path):
    (tmp_path / "labels.json").write_text(json.dumps(osl()))
    found = soccernet.find_labels(tmp_path)
    assert found["train/g1"].rows == [(1, "PASS", 1500, True), (2, "GOAL", 3000, True)]
    assert found["g2"].rows == []


def test_labels_of_the_ball(tmp_path):
    """The same schema under another name; what lies in a match's folder goes before a list."""
    for name, label in ((soccernet.BALL_LABELS, "PASS"), (LABELS, "Foul")):
        (tmp_path / "lg" / name).mkdir(parents=True)
        write_labels(tmp_path / "lg" / name / name, annotation(label=label))
    (tmp_path / "labels.csv").write_text(f"video,time,label\nlg/{LABELS},1,Goal\nother.mp4,2,Goal")
    for matches in (None, [f"lg/{soccernet.BALL_LABELS}", f"lg/{LABELS}", "other", "none"]):
        found = soccernet.find_labels(tmp_path, matches)
        assert [[event.label for event in soccernet.read_labels(labels, ("PASS", "Foul", "Goal"))]
                for labels in found.values()] == [[0], [1], [2]]
    write_labels(tmp_path / "lg" / LABELS / soccernet.BALL_LABELS, annotation(label="PASS"))
    for matches in (None, [f"lg/{LABELS}"]):
        assert soccernet.find_labels(tmp_path, matches)[f"lg/{LABELS}"].name == LABELS


@pytest.mark.parametrize("text, message", [
    ("", "labels.csv: not a table of labels .no column is called video"),
    ("a.mp4,1,Goal\n", "line 1: no column is called video; its first line must be video,time,lab"),
    ("video,time,label\na.mp4,later,Goal\n", "line 2: could not convert"),
    ("video,time,label\na.mp4,-1,Goal\n", "line 2: '-1' is no time"),
    ("video,time,label\na.mp4,1:2:3:4,Goal\n", "line 2: '1:2:3:4' is no time"),
    ("video,time,label\na.mp4,nan,Goal\n", "line 2: 'nan' is no time"),
    ("video,time,label\n\na.mp4,5,\n", "line 3: a time without a label"),
    ("video,time,label\na.mp4,5\n", "line 2: no 'label'"),
    ("video,time,label\n../a.mp4,5,Goal\n", "line 2: '../a.mp4' is not the path of a video"),
    ("video,time,label\n/v/a.mp4,5,Goal\n", "line 2: '/v/a.mp4' is not the path of a video"),
    ("video,time,label\n,5,Goal\n", "line 2: '' is not the path of a video"),
    ('video,time,label\n"a.mp4,5,Goal\n', "line 2: unexpected end"),
    ("video,time,label,half\na.mp4,5,Goal,first\n", "line 2: invalid literal"),
    ("video,time,label\n", "not a list of labels .no video is named in it")])
def test_bad_tables(tmp_path, text, message):
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(DataError, match=message) as error:
        soccernet.find_labels(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [
    osl(position_ms="soon"), osl(position_ms=None), osl(label=["PASS"]), osl(half="first"),
    {"data": [{"id": 3}]}, {"data": ["g1"]}, {"data": [{"inputs": ["a.mp4"]}]}, {"data": 3}, []])
def test_bad_labels_of_opensportslab(tmp_path, content):
    (tmp_path / "labels.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="labels.json: (entry 0 of data|not labels of OpenSports)"):
        soccernet.find_labels(tmp_path)


def test_classes_where_nobody_names_them(tmp_path, capsys):
    """SoccerNet's 17 as long as half of the annotations are of them."""
    path = write_labels(tmp_path / "L.json", annotation(), annotation(label="Dance"))
    assert soccernet.classes_of([path]) == soccernet.SOCCERNET_CLASSES
    assert capsys.readouterr().out == ""
    write_labels(path, annotation(), annotation(label="Dance"), annotation(label="Dance"))
    assert soccernet.classes_of([path]) == ("Dance", "Foul")
    assert capsys.readouterr().out == "classes: 2 from the labels: Dance, Foul\n"


def test_matches_of_other_roots_are_the_same():
    """One name may lack folders that lie above; where two fit, neither is taken."""
    assert soccernet.same_names({"lg/a": 1, "b": 2, "c": 3}, ["a", "x/b", "c"]) == {
        "a": 1, "x/b": 2, "c": 3}
    assert soccernet.same_names({"x/a": 1, "y/a": 2}, ["a"]) == {"x/a": 1, "y/a": 2}
    assert soccernet.same_names({"a": 1}, ["x/a", "y/a"]) == {"a": 1}
    assert soccernet.same_names({"x/a": 1}, ["y/a"]) == {"x/a": 1}     # two leagues, two matches


def test_a_message_says_what_lies_there(tmp_path):
    for name in ("b.txt", ".hidden", *(f"v{i}.mp4" for i in range(7))):
        (tmp_path / name).write_text("")
    (tmp_path / "a").mkdir()
    with pytest.raises(DataError, match="/ holds a/, b.txt, v0.mp4, v1.mp4, v2.mp4, v3.mp4 and "
                                        "3 more"):
        soccernet.find_labels(tmp_path)
    assert frames.what_lies_in(tmp_path / "a") == f"; {tmp_path}/a/ holds nothing"


# ------------------------------------------------------------------ 2. predictions
def spots(*rows):
    """Detections from rows (half, label, position_ms, confidence)."""
    return Detections(*(np.array(column) for column in zip(*rows, strict=True)))


def test_write_then_read(tmp_path):
    path = tmp_path / "league" / "a match" / PREDICTIONS
    classes = ("Goal", "Yellow->red card")
    soccernet.write_predictions(path, "league/a match", spots(
        (2, 0, 61_000, 0.5), (1, 1, 5_999_500, np.float32(0.1)), (1, 0, 7_000, 1.0)), classes)
    content = json.loads(path.read_text())
    assert content["UrlLocal"] == "league/a match"
    assert content["predictions"][0] == {"gameTime": "1 - 00:07", "label": "Goal",
                                         "position": "7000", "half": "1", "confidence": 1.0}
    assert [entry["gameTime"] for entry in content["predictions"]] == [
        "1 - 00:07", "1 - 99:59", "2 - 01:01"]             # by half, then by time
    back = soccernet.read_predictions(path, classes)
    assert back.confidence.tolist() == [1.0, float(np.float32(0.1)), 0.5]     # not rounded
    assert back.label.tolist() == [0, 1, 0]
    assert back.position_ms.tolist() == [7000, 5_999_500, 61_000]
    assert os.listdir(path.parent) == [PREDICTIONS]        # nothing left beside it


def test_unwritable_place_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="file/x.json: cannot be written"):
        soccernet.write_predictions(tmp_path / "file/x.json", "", spots((1, 0, 0, 0.5)), ("Goal",))


def test_what_official_does_not_look_at_is_no_mistake(tmp_path):
    spot = {"half": "1", "label": "Goal", "position": "50000", "confidence": 0.9}
    (tmp_path / PREDICTIONS).write_text(json.dumps({"predictions": [
        spot | {"half": "3", "confidence": "high"}, spot | {"label": "Dive", "confidence": "high"},
        spot]}))
    found = soccernet.read_predictions(tmp_path / PREDICTIONS, ("Goal",))
    assert found.confidence.tolist() == [0.9] and found.position_ms.tolist() == [50_000]


def test_matches_are_found_by_name_in_a_folder_or_a_zip(tmp_path):
    """Frames below a match are not walked through; __MACOSX and hidden files are no match."""
    for place in ("in/b/two", "in/a/one", "in/a/one/1_224p", "in/__MACOSX/a/one"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / LABELS).write_text(place)
    (tmp_path / "in/b/two" / f"._{LABELS}").write_text("junk")
    found = soccernet.find_files(tmp_path / "in", LABELS)
    assert list(found) == ["a/one", "b/two"] and found["a/one"].read_text() == "in/a/one"
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        for match in ("b/two", "a/one"):
            archive.write(found[match], f"{match}/{LABELS}")
    zipped = soccernet.find_files(tmp_path / "in.zip", LABELS)
    assert list(zipped) == ["a/one", "b/two"] and zipped["b/two"].info.filename == f"b/two/{LABELS}"
    assert zipped["b/two"].archive.read(zipped["b/two"].info) == b"in/b/two"
    with pytest.raises(DataError, match="in: no results_spotting.json in it; it must lie at"):
        soccernet.find_files(tmp_path / "in", PREDICTIONS)
    with pytest.raises(DataError, match="other: no such folder, and not a zip"):
        soccernet.find_files(tmp_path / "other", LABELS)


# ------------------------------------------------------------------ 3. scores
CLASSES = ("Goal", "Foul", "Red card")


def store(root, match, lengths, window=16, whole=False, start_s=0.0, **changes):
    """Writes random scores of a match's halves 1, 2 as infer.py does. Returns the windows of each,
    (scores, starts), or with `whole` the merged scores (n_tokens, K)."""
    rng, windows, merged = np.random.default_rng(len(match)), [], []
    halves = [Half(match, h, "", "", 8, ".jpg", 1, 2 * n, 2.0) for h, n in enumerate(lengths, 1)]
    for n in lengths:
        starts = torch.tensor([*range(0, n - window, window // 2), max(0, n - window)])
        scores = torch.from_numpy(rng.random((len(starts), window, 3), np.float32))
        windows.append((scores, starts))
        merged.append(torch.from_numpy(rng.random((n, 3), np.float32)))
    path = root / match / SCORES
    soccernet.write_scores(path, match, CLASSES, halves, merged,
                           [None] * len(halves) if whole else windows, start_s)
    if changes:
        np.savez(path, **dict(np.load(path)) | changes)
    return merged if whole else windows


def test_scores_come_back_as_they_were_stored(tmp_path):
    """Match by match, half by half, end to end; a half that is not there has length 0."""
    first, second = store(tmp_path, "a", [61, 40]), store(tmp_path, "b/c", [33])
    stored = soccernet.read_scores(tmp_path)
    assert (stored.matches, stored.classes, stored.token_s) == (["a", "b/c"], CLASSES, 1.0)
    assert (stored.start_s, stored.merged) == (0.0, False)
    scores, start, half, length = stored.windows
    assert torch.equal(scores, torch.cat([windows for windows, _ in first + second]))
    assert torch.equal(start, torch.cat([starts for _, starts in first + second]))
    assert half.tolist() == [0] * 7 + [1] * 4 + [2] * 4 and length.tolist() == [61, 40, 33, 0]
    store(tmp_path / "late", "a", [20], start_s=12.5)
    assert soccernet.read_scores(tmp_path / "late").start_s == 12.5


def test_merged_scores_are_one_window_per_half(tmp_path):
    """Padded to the longest; merging it again returns what was stored."""
    merged = store(tmp_path, "a", [61, 40], whole=True)
    stored = soccernet.read_scores(tmp_path)
    scores, start, half, length = stored.windows
    assert stored.merged and scores.shape == (2, 61, 3) and half.tolist() == [0, 1]
    assert torch.equal(scores[0], merged[0]) and torch.equal(scores[1, :40], merged[1])
    assert not scores[1, 40:].any() and start.tolist() == [0, 0] and length.tolist() == [61, 40]


@pytest.mark.parametrize("changes, message", [
    ({"classes": np.array(["Goal", "Foul", "Offside"])}, "other classes, or another length"),
    ({"token_s": 0.5}, "other classes, or another length"),
    ({"start_s": 3.0}, "other classes, or another length"),
    ({"windows_2": np.zeros((4, 8, 3), np.float32)}, "not scores that infer.py stored"),
    ({"merged_1": np.zeros((1, 61, 3), np.float32)}, "not scores that infer.py stored"),
    ({"starts_1": np.array(["first"])}, "not scores that infer.py stored")])
def test_scores_of_several_models_are_refused(tmp_path, changes, message):
    store(tmp_path, "a", [61, 40])
    store(tmp_path, "b", [61, 40], **changes)
    with pytest.raises(DataError, match=f"b/scores.npz: {message}"):
        soccernet.read_scores(tmp_path)


def test_what_are_no_scores(tmp_path):
    store(tmp_path, "a", [61])
    path = tmp_path / "a" / SCORES
    stored, whole = dict(np.load(path)), path.read_bytes()
    for damage in (lambda: np.savez(path, windows_1=stored["windows_1"]),
                   lambda: path.write_bytes(b"PK\3\4 cut short"),
                   lambda: path.write_bytes(whole[:len(whole) // 2])):
        damage()
        with pytest.raises(DataError, match="a/scores.npz: not scores that infer.py stored"):
            soccernet.read_scores(tmp_path)
    np.savez(path, classes=stored["classes"], token_s=1.0)
    with pytest.raises(DataError, match="its scores.npz files hold no half 1 or 2"):
        soccernet.read_scores(tmp_path)


# ------------------------------------------------------------------ 4. submissions
def test_a_match_gets_the_name_of_its_game(tmp_path):
    """Whatever folder it lies in, with _ for a space or without."""
    (tmp_path / "list.txt").write_text("lg/2031/game one\nlg/2031/game two\n")
    halves = [Half(match, number, "", "", 8, ".jpg", 1, 10)
              for match in ("test/lg/2031/game one", "lg/2031/game_two") for number in (1, 2)]
    assert soccernet.games_of(halves, tmp_path, str(tmp_path / "list.txt")) == {
        "test/lg/2031/game one": "lg/2031/game one", "lg/2031/game_two": "lg/2031/game two"}


def test_a_submission_holds_each_game_once(tmp_path):
    names = {"test/x": "lg/x", "test/y": "lg/y"}
    for match in names:
        (tmp_path / "out" / match).mkdir(parents=True)
        (tmp_path / "out" / match / PREDICTIONS).write_text(match)
    soccernet.write_zip(tmp_path / "spots.zip", tmp_path / "out", names)
    with zipfile.ZipFile(tmp_path / "spots.zip") as archive:
        assert {name: archive.read(name).decode() for name in archive.namelist()} == {
            f"lg/x/{PREDICTIONS}": "test/x", f"lg/y/{PREDICTIONS}": "test/y"}
    with pytest.raises(DataError, match="nothing is zipped, for 1 games are not of this split: te"):
        soccernet.write_zip(tmp_path / "less.zip", tmp_path / "out", {"test/x": "lg/x"})
    with pytest.raises(DataError, match="for 5 games are missing: a; b; c and 2 more;"):
        soccernet.check_games([], list("abcde"), tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["out", "spots.zip"]


def test_no_zip_is_left_half_written(tmp_path, monkeypatch):
    (tmp_path / "out/x").mkdir(parents=True)
    (tmp_path / "out/x" / PREDICTIONS).write_text("{}")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(zipfile.ZipFile, "write", full)
    with pytest.raises(DataError, match="spots.zip: cannot be written .No space left"):
        soccernet.write_zip(tmp_path / "spots.zip", tmp_path / "out", {"x": "lg/x"})
    assert os.listdir(tmp_path) == ["out"]
