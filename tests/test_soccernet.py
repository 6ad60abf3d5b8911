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
import unicodedata
import zipfile

import numpy as np
import pytest
import torch
from conftest import half_of, refused

from comedian import DataError, export, frames, soccernet
from comedian.soccernet import LABELS, PREDICTIONS, SCORES, Detections

# ------------------------------------------------------------------ 1. classes, labels
def test_classes(tmp_path):
    path = tmp_path / "classes.txt"
    assert soccernet.read_classes()[16:] == ("Yellow->red card",)
    names = "jump", "but\xa0vrai", "but\u2009vrai", "but\u200bvrai", "but\ufeffvrai"
    path.write_text("\n\n ".join(names))
    assert soccernet.read_classes(path) == names
    for text in ("", "jump\njump\n", "a\0b", "\u200b"):
        path.write_text(text)
        with pytest.raises(DataError, match="classes.txt: has .* lines; write one class"):
            soccernet.read_classes(path)
    with pytest.raises(DataError, match="none.txt: not a list of classes"):
        soccernet.read_classes(tmp_path / "none.txt")


def write_labels(path, *annotations):
    path.write_text(json.dumps({"UrlLocal": "x", "annotations": annotations}))
    return path


def annotation(time="1 - 00:31", label="Foul", **more):
    return {"gameTime": time, "label": label, "team": "home", "visibility": "visible"} | more


def test_labels_keep_file_order_and_leave_out_other_classes(tmp_path):
    """What else is read as the official evaluator does: see the cases of test_evaluate.py."""
    unseen = annotation("3 - 45:07", label="Goal", position="0")         # 0 goes before gameTime
    del unseen["visibility"]
    path = write_labels(tmp_path / "L.json", annotation(position=9000.9), annotation(label="Dance"),
                        unseen)
    assert soccernet.read_labels(path, ("Goal", "Foul")) == [(1, 1, 9000, True), (3, 0, 0, True)]


@pytest.mark.parametrize("content, message", [
    *((content, "not a SoccerNet label file") for content in ("no JSON", {}, [])),
    ({"annotations": 3}, "not a SoccerNet label file"),
    ({"annotations": [annotation(), annotation("kick-off")]}, "annotation 1 has a malformed"),
    *(({"annotations": [entry]}, "annotation 0 has a malformed") for entry in (
        annotation(position="12.5"), {"gameTime": "1 - 00:00"}, {"label": "Foul", "position": "3"},
        "Foul"))])
def test_bad_labels(tmp_path, content, message):
    path = tmp_path / LABELS
    path.write_text("[1" if content == "no JSON" else json.dumps(content))
    with pytest.raises(DataError, match=f"{LABELS}: {message}"):
        soccernet.read_labels(path, ("Foul",))


# ------------------------------------------------------------------ labels of other layouts
def listed(root, table):
    """What is found in a labels.csv: {match: Listed}."""
    (root / "labels.csv").write_text(table)
    return soccernet.find_labels(root)


def rows_of(found):
    """{match: [(half, name, ms, visible)]}."""
    return {match: [row[:4] for row in of_match.rows] for match, of_match in found.items()}


def test_labels_of_a_table(tmp_path):
    """Videos are called as infer.py and prepare call them; a watched one may have no action."""
    found = listed(tmp_path, "video,time,label\nderby.mp4,12:34.5,Tackle\n"
                   "cup/2031/2_224p.mkv,754,Goal kick\nderby.mp4,1:02:03,Tackle\nquiet.mkv,,\n")
    assert rows_of(found) == {
        "cup/2031": [(2, "Goal kick", 754_000, True)], "quiet": [],
        "derby": [(1, "Tackle", 754_500, True), (1, "Tackle", 3_723_000, True)]}
    assert list(found) == sorted(found)
    assert soccernet.find_labels(tmp_path / "labels.csv", ["derby", "none"]).keys() == {"derby"}
    classes = soccernet.classes_of(found.values())
    assert classes == ("Goal kick", "Tackle")
    assert [event.label for event in soccernet.read_labels(found["derby"], classes)] == [1, 1]
    assert soccernet.read_labels(found["derby"], ("Goal kick",)) == []


@pytest.mark.parametrize("name, before, encoding, said", [
    ("a.csv", "", "utf-8-sig", None), ("a.txt", "", "utf-16", None),
    ("a.csv", "sep=|\r\n", "utf-8", None), ("a.tsv", '"sep=;"\r\n', "utf-16", "cp1252"),
    ("a.csv", " ; ;\r\n", "cp1252", "cp1252")])
def test_tables_of_other_programs(tmp_path, name, before, encoding, said):
    """Marks, ; or |, columns in any order, decimal commas, blank rows, Excel's sep=, encodings."""
    (tmp_path / name).write_bytes((
        f"{before}Label;Visibility;Video;Half;Note;Time;;\r\n"
        "Foül;Not  shown;lg\\2 - 1 Dons;2;x;31,5\r\n ;\xa0; ;;\r\n"
        " Goal ;visible;lg\\2 - 1 Dons;;;0:40\r\n"
    ).replace(";", "|" if "|" in before else ";").encode(encoding))
    rows = soccernet.find_labels(tmp_path / name, encoding=said)["lg/2 - 1 Dons"].rows
    assert rows == [(2, "Foül", 31_500, False, {"note": "x"}), (1, "Goal", 40_000, True, None)]


ODD_LABELS = [" Go\nal ", "Go\r\nal", "a\u2028b\u2028", "\vx\f", "a\x85", "=1+1", "@x", "+1", "-x",
              "\t y", "\rz", "'x", "'", "'=x", '"a", b', "進球\u3000角球", "But\xa0!\xa0", "x\x1c"]


def test_labels_come_back_to_the_byte(tmp_path, capsys):
    """Of export.py's table: ' before a formula. In others a cell's outer blanks do not count."""
    for column, names in (("confidence", ODD_LABELS),
                          ("note", [" Go\nal ".strip(), *ODD_LABELS[1:-2], "But\xa0!", "x\x1c"])):
        (tmp_path / "labels.csv").write_bytes("\n".join([f"video,half,time,label,{column}", *(
            f"m,1,00:07.250,{export.cell(name)},0.5" for name in ODD_LABELS)]).encode())
        found = soccernet.find_labels(tmp_path)["m"].rows
        assert [row.name for row in found] == names and {row.position_ms for row in found} == {7250}
        assert ("has confidences" in capsys.readouterr().out) == (column == "confidence")
    with pytest.raises(DataError, match="'Go.nal' has a character that is no text.; correct it"):
        soccernet.classes_of([soccernet.Listed("x", found)])


VIDEOS = {                            # in the column video: the match, of those that are there
    "cup/derby.mp4": "cup/derby", "derby.mxf": "cup/derby", "C:\\v\\cup\\derby.MXF": "cup/derby",
    "/v/cup/derby.dav": "cup/derby", "\\\\srv\\v\\cup\\derby.mp4": "cup/derby",
    "https://x.org/cup/derby.mp4?t=3/5#a": "cup/derby", "file:///C:/K%C3%B6ln.mp4": "Köln",
    "Köln.mp4": "Köln", "v1.5": "v1.5", "v2.dav": "v2", "/a/b/lg/2 - 1 Dons": "lg/2 - 1 Dons",
    "D:/x/lg/2 - 1 Dons/2_224p.mkv": "lg/2 - 1 Dons", "game": None, "köln.mp4": None,
    "other/derby.mp4": None, "v2.final.mp4": None}


@pytest.mark.parametrize("video, match", VIDEOS.items(), ids=ascii)
def test_a_video_is_found_by_the_end_of_its_path(tmp_path, video, match):
    """Whatever it begins with, whatever its suffix is, and however ö is stored."""
    listed(tmp_path, f"video,time,label\n{video},3,Goal\n"
                     f"{unicodedata.normalize('NFD', video)},3,Goal\n")
    found, others = soccernet.match_labels(tmp_path, [
        "cup/derby", "Ko\u0308ln", "v1.5", "v1", "v2", "x/v2", "lg/2 - 1 Dons", "a/game", "b/game"])
    assert len(others) == (match is None)
    assert {unicodedata.normalize("NFC", name): rows for name, rows in rows_of(found).items()} == (
        {match: 2 * [(1 + ("2_224p" in video), "Goal", 3000, True)]} if match else {})


@pytest.mark.parametrize("videos, found", [
    (["derby.mp4", "C:\\x\\derby.mp4"], {"derby": 2}),        # from two computers
    (["/a/derby/1_224p.mkv", "/b/derby/2_224p.mkv"], {"derby": 2}),
    (["/a/derby.mp4", "/b/derby.mp4"], {"/a/derby": 1, "/b/derby": 1}),      # which?
    (["derby.mp4", "cup/derby.mp4"], {"cup/derby": 1, "derby": 1})])         # two matches
def test_one_match_under_two_names(tmp_path, videos, found):
    labels = listed(tmp_path, "\n".join(["video,time,label", *(f"{v},1,Goal" for v in videos)]))
    assert {name: len(labels.rows) for name, labels in soccernet.match_names(
        labels, ["derby", "x"]).items()} == found


def test_folders_of_labels(tmp_path, capsys):
    """Found however accents are stored; told if of no match while one lacks labels, or if twice."""
    for name in ("lg/Ko\u0308ln", "lg/Derby", "zoo"):
        (tmp_path / name).mkdir(parents=True)
        write_labels(tmp_path / name / LABELS, annotation())
    matches = ["lg/K\u00f6ln", "lg/derby"]
    listed(tmp_path, "video,time,label\nK\u00f6ln.mp4,1,Goal\n")
    found, others = soccernet.match_labels(tmp_path, matches)
    assert {name: path.name for name, path in found.items()} == {matches[0]: LABELS} and not others
    assert "labels.csv: has labels of 'lg/K\u00f6ln' that are not read: " in capsys.readouterr().out
    folders = soccernet.unmatched_folders(tmp_path, matches, found)
    soccernet.warn_unmatched({}, matches, found, folders)
    assert capsys.readouterr().out == (
        "warning: 2 of the folders with labels fit no match here: 'lg/Derby' (did you mean "
        "'lg/derby'?), 'zoo'\n")
    assert soccernet.unmatched_folders(tmp_path, matches[:1], found) == []
    (tmp_path / "labels.json").write_text(json.dumps(osl()).replace("g2", "K\u00f6ln"))
    soccernet.find_labels(tmp_path)
    assert "labels.csv: has labels of 'K\u00f6ln' that are not read: " in capsys.readouterr().out


def test_names_that_fit_no_video_print_a_warning(capsys):
    """With the nearest that has no labels; case alone is offered whoever has it."""
    there = ["x/Spiel 1", "x/Spiel 2", "x/Finale"]
    names = "Spiel-2", "Finalle", "spiel 1", *"abcd"
    soccernet.warn_unmatched(dict.fromkeys(names, soccernet.Listed("l.csv", [])), there,
                             ["x/Spiel 1", "x/Finale"])
    assert capsys.readouterr().out == (
        "warning: l.csv: 7 of the videos that it names are not here: 'Finalle', 'Spiel-2' (did you "
        "mean 'x/Spiel 2'?), 'a', 'b', 'c' and 2 more\n")
    assert soccernet.nearest_names(["spiel 1"], there, there) == (
        "'spiel 1' (did you mean 'x/Spiel 1'?)")


def test_names_that_look_alike_get_one_note(tmp_path, capsys):
    path = write_labels(tmp_path / "L.json", *(annotation(label=name) for name in (
        "Hase", "HASE", "But !", "But\xa0!", "But\u200b !", "é", "e\u0301", "Foul")))
    soccernet.warn_unknown_labels([path], "annotations", ("Hase", "Foul", "foul"))
    note, = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: ")]
    assert note.startswith("note: 'But !' and 'But\\xa0!' and 'But\\u200b !', 'Foul' and 'foul', ")
    assert note.endswith("differ only by case, by blanks or by how an accent is stored: one class?")


def osl(**changes):
    event = {"label": "PASS", "position_ms": "1500", "head": "action", **changes}
    return {"version": "2.0", "data": [
        {"id": "g1", "inputs": [{"type": "tracking", "path": "g1.parquet"},
                                {"type": "video", "path": "train/g1.mp4", "fps": 25}],
         "events": [event, {"label": "GOAL", "position_ms": 3000, "gameTime": "2 - 00:03"}]},
        {"id": "g2", "events": []}]}


def test_labels_of_opensportslab(tmp_path, capsys):
    def found(content):
        (tmp_path / "labels.json").write_text(json.dumps(content), "utf-8-sig")  # Windows' mark
        return rows_of(soccernet.find_labels(tmp_path))

    second = (2, "GOAL", 3000, True)
    assert found(osl()) == {"train/g1": [(1, "PASS", 1500, True), second], "g2": []}
    for time, row in (("2 - 31:07", (2, "PASS", 1_867_000, True)),    # its page says so
                      ("00:07", (1, "PASS", 7000, True)), ("1 - 00:07.9", (1, "PASS", 7900, True))):
        assert found(osl(position_ms=None, gameTime=time))["train/g1"] == [row, second]
    assert "confidences" not in capsys.readouterr().out
    for key in ("confidence_score", "score"):
        found(osl(**{key: 0.5}))
        assert "labels.json: has confidences, like predictions; they" in capsys.readouterr().out
    of_entry = osl()
    of_entry["data"][1]["metadata"] = {"type": "predictions"}
    for content, key in ((osl() | {"metadata": {"type": "Predictions"}}, "metadata.type"),
                         (osl() | {"metadata": {"type": "inference"}}, "metadata.type"),
                         (osl() | {"type": "predictions"}, "type"), (of_entry, "metadata.type")):
        with pytest.raises(DataError, match=f"labels.json: has predictions by its {key}, not "):
            found(content)


def test_labels_of_the_ball(tmp_path):
    """The same schema under another name; labels in a match's folder have priority over a list."""
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


ELAN = "\t00:00:01.500\t00:00:03.000\t00:00:01.500\t"
CLIP = ("<file><ALL_INSTANCES><instance><start>1.5</start><code>A &amp; B</code>%s</instance>"
        "</ALL_INSTANCES></file>")
STUDIO = {"ranges": [{"start": 31, "end": 40}], "timelinelabels": ["Goal"]}
SPOT = {"frame": 30, "label": "Goal"}
FORMS = {                             # name of the file, content, rows (half, name, ms)
    "boris tsv": ("b.tsv", "Subject\tBehavior\tBehavior type\tTime\tMedia file name\n"
                  "x\tGoal\tPOINT\t1.5\t/x/lg/m.mp4\nx\tFoul\tSTART\t2\t/x/lg/m.mp4\n"
                  "x\tFoul\tSTOP\t9\t/x/lg/m.mp4\n", [(1, "Goal", 1500), (1, "Foul", 2000)]),
    "boris csv": ("b.csv", "Behavior,Start (s),Stop (s),Media file name\nGoal,1.5,3,lg/m.mp4\n",
                  [(1, "Goal", 1500)]),
    "elan": ("lg/m/2_224p.txt", f'Events\t{ELAN}A "b\nFoul\t{ELAN}\n',
             [(2, 'A "b', 1500), (2, "Foul", 1500)]),
    "elan tiers": ("lg/m.txt", '"#Media file: file:///m.mp4"\n\nBegin Time - hh:mm:ss.ms\t'
                   'End Time - hh:mm:ss.ms\tDuration - hh:mm:ss.ms\tEvents\tCards'
                   + ELAN.replace("\t", "\n", 1) + "Foul\tYellow\n",
                   [(1, "Foul", 1500), (1, "Yellow", 1500)]),
    "studio": ("s.json", [{"data": {"video": "/data/upload/1/0a1b2c3d-m.mp4", "fps": 20},
                           "annotations": [{"was_cancelled": True}, {"result": [
                               {"type": "timelinelabels", "value": STUDIO}]}]}],
               [(1, "Goal", 1500)]),
    "studio min": ("s.json", [{"video": "/data/local-files/?d=lg%2Fm.mp4", "fps": 20, "id": 1,
                               "videoLabels": [STUDIO]}], [(1, "Goal", 1500)]),
    "one match": ("Labels-v2 (1).json", {"UrlLocal": "x/lg/m/", "annotations": [
        {"gameTime": "2 - 00:01", "position": "1500", "label": "Goal"}]}, [(2, "Goal", 1500)]),
    "its folder": ("lg/m/Labels-v2.json", {"annotations": [
        {"gameTime": "2 - 00:01", "label": "Goal"}]}, [(2, "Goal", 1000)]),
    "e2e": ("val.json", [{"video": "lg/m/2", "fps": 20.0, "events": [SPOT]}], [(2, "Goal", 1500)]),
    "no fps": ("val.json", [{"video": "lg/m", "fps": -1, "events": [SPOT]}], [(1, "Goal", 1200)]),
    "sportscode": ("lg/m.xml", CLIP % "", [(1, "A & B", 1500)]),
    "our sportscode": ("lg/m/actions_2.xml", CLIP % (
        "<label><group>position_ms</group><text>4321</text></label>"), [(2, "A & B", 4321)]),
    "osl of two heads": ("o.json", {"data": [{"inputs": [{"path": "../lg/m.mp4"}], "events": [
        {"head": "action", "label": "Goal", "position_ms": 1},
        {"head": "card", "label": "red", "position_ms": 2}]}]},
        [(1, "action: Goal", 1), (1, "card: red", 2)])}


@pytest.mark.parametrize("name, content, rows", FORMS.values(), ids=FORMS)
def test_forms_of_other_programs(tmp_path, name, content, rows):
    """Found for the match, whatever lies above it; of XML the folder is enough."""
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content))
    (tmp_path / "lg/m").mkdir(parents=True, exist_ok=True)
    (tmp_path / "lg/m/sidecar.xml").write_text("<of a='camera'/>")
    for source in [tmp_path / name] + [tmp_path] * name.endswith("xml"):
        found, others = soccernet.match_labels(source, ["lg/m", "lg/n"])
        assert not others and rows_of(found) == {
            "lg/m": [(*row, True) for row in rows]}
    if name.endswith("xml"):
        assert [*rows_of(soccernet.find_labels(tmp_path)).values()] == [
            [(*row, True) for row in rows]]


@pytest.mark.parametrize("name, content, message", [
    ("s.json", [{"data": {"video": "m.mp4"}, "annotations": []}], "task 0 .*every task a column f"),
    ("s.json", [{"data": {"video": "m.mp4", "fps": 5}, "annotations": 2 * [{"result": []}]}],
     "task 0 .*2 annotations; keep one"),
    ("s.json", [{"data": {"video": "m.mp4", "fps": "high"}}], "task 0 has a malformed .*fps"),
    ("s.json", [{"video": "m.mp4", "fps": 5, "videoLabels": [STUDIO | {"timelinelabels": "Goal"}]}],
     "task 0 .*'Goal' is no list"),
    ("s.json", {"annotations": [], "UrlLocal": "../m"}, "UrlLocal .*is not the path of a video"),
    ("s.json", [3], "task 0 "), ("s.json", [{"video": "m", "events": [3]}], "entry 0 "),
    ("s.json", [{"video": "m", "fps": 1e9, "events": []}], "entry 0 .*is no frame rate"),
    ("a.xml", "<!DOCTYPE x [<!ENTITY a 'b'>]><file/>", "not XML of .*it defines entities"),
    ("a.xml", "<file>", "not XML of"), ("a.xml", "<file/>", "not XML of .*it has no ALL_INSTANC"),
    ("a.xml", CLIP.replace("1.5", "soon") % "", "instance 0 has a malformed"),
    ("a.xml", "<file><ALL_INSTANCES><instance/></ALL_INSTANCES></file>", "instance 0 has a malf"),
    ("a.tsv", f"Events\t{ELAN.replace('01.5', '75.5', 1)}Goal\n", ".*line 1: '00:00:75.500' is no"),
    ("a.json.gz", "\x1f\x8b", "not a list of labels")])
def test_bad_forms(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(
        (content if isinstance(content, str) else json.dumps(content)).encode("latin-1"))
    with pytest.raises(DataError, match=f"{name}: {message}"):
        soccernet.find_labels(tmp_path / name)


HEAD = "video,time,label"


@pytest.mark.parametrize("text, message", [
    ("", "labels.csv: not a table of labels .no column is called video"),
    ("a.mp4,1,Goal\n", "line 1: no column is called video; its first line must be video,time,lab"),
    ("v\0i\0d\0", "it has zero bytes, as UTF-16 .*save it as CSV UTF-8, or say what it is, "),
    (f"{HEAD}\n", "not a list of labels .no video is named in it"),
    (f"{HEAD}\na.mp4,later,Goal\n", "line 2: 'later' is not a time; write seconds, mm:ss or h:mm"),
    (f"{HEAD}\na.mp4,45+2,Goal\n", "line 2: '45.2' is not .* for minute 45.2 write 47:00."),
    (f"{HEAD}\na.mp4,12',Goal\n", "for minute 12' write 12:00.; correct it"),
    (f"{HEAD}\na.mp4,12'34\"\"\"\",Goal\n", "is not a time"),
    *((f"{HEAD}\na.mp4,{time},Goal\n", f"line 2: '{time}' is not a time") for time in (
        "3:75", "1.5:30", "1_000", "-1", "1:2:3:4", "nan")),
    (f'{HEAD}\na.mp4,"1,234",Goal\n', "line 2: '1,234' may be 1.234 or 1234 seconds: write which"),
    (f"{HEAD},visibility\na.mp4,5,Goal,no\n", "line 2: visibility 'no': write visible or not"),
    (f"{HEAD},half\ng/2_224p.mkv,5,Goal,1\n", "line 2: half 1, but 2 by the name of the video"),
    (f"{HEAD},half\na.mp4,5,Goal,2.0\n", "line 2: half '2.0': write 2.; correct it"),
    (f"{HEAD},half\na.mp4,5,Goal,first\n", "line 2: half 'first': write 1 or 2"),
    (f"{HEAD}\na.mp4,62,5,X\n", "line 2: 4 cells under 3 columns; a cell that has a ','"),
    (f"{HEAD},,\na.mp4,62,5,X,\n", "line 2: 5 cells under 3 columns"),
    (f"{HEAD},Label\na.mp4,62,5,X\n", "line 1: 2 columns are called label"),
    (f"{HEAD}\n\na.mp4,5,\n", "line 3: a time without a label"),
    (f"{HEAD}\na.mp4,5\n", "line 2: no 'label'"),
    (f"{HEAD}\n../a.mp4,5,Goal\n", "line 2: '../a.mp4' is not the path of a video"),
    (f"{HEAD}\n,5,Goal\n", "line 2: '' is not the path of a video"),
    (f'{HEAD}\n"a.mp4,5,Goal\n', "line 2: unexpected end")])
def test_bad_tables(tmp_path, text, message):
    with refused(match=message):
        listed(tmp_path, text)


@pytest.mark.parametrize("content", [
    osl(position_ms="soon"), osl(position_ms=None), osl(label=["PASS"]), osl(half="first"),
    osl(position_ms=True), osl(position_ms="1_000"), osl(label=""), osl(half=0), osl(half=1.5),
    osl(gameTime="1 - 00:75"), osl(half=2, gameTime="1 - 00:07"), osl(visibility="no"),
    {"data": [{"id": "2_224p.mkv", "events": [
        {"label": "PASS", "position_ms": 7, "gameTime": "1 - 00:07"}]}]},
    {"data": [{"id": 3}]}, {"data": ["g1"]}, {"data": [{"inputs": ["a.mp4"]}]}, {"data": 3}, []])
def test_bad_labels_of_opensportslab(tmp_path, content):
    (tmp_path / "labels.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="labels.json: (entry 0 of data|not labels of OpenSports)"):
        soccernet.find_labels(tmp_path)


def test_classes_where_nobody_names_them(tmp_path, capsys):
    """SoccerNet's 17 as long as half of the annotations are of them."""
    for n, classes, said in (
            (1, soccernet.SOCCERNET_CLASSES, "SoccerNet's 17, because half of the labels or more "
             "have their names (1 of 2); --classes FILE overrides this"),
            (2, ("Dance", "Foul"), "2 from the labels: Dance, Foul")):
        path = write_labels(tmp_path / "L.json", annotation(), *n * [annotation(label="Dance")])
        assert soccernet.classes_of([path]) == classes
        assert capsys.readouterr().out == f"classes: {said}\n"
    write_labels(path, *(annotation(label=label) for label in ("but\xa0vrai", "x\ufeffy")))
    assert soccernet.classes_of([path]) == ("but\xa0vrai", "x\ufeffy")
    for label in (7, None):
        write_labels(path, annotation(label="Dance"), annotation(label=label))
        with pytest.raises(DataError, match=f"L.json: its 2 .* \\({label} is no text\\); cor"):
            soccernet.classes_of([path])


@pytest.mark.parametrize("labels, matches, found", [
    (["lg/a", "b", "c"], ["a", "x/b", "c"], ["a", "x/b", "c"]),
    (["x/a", "y/a"], ["a"], ["x/a", "y/a"]), (["a"], ["x/a", "y/a"], ["a"]),
    (["x/a"], ["y/a"], ["x/a"])])                          # two leagues, two matches
def test_matches_of_other_roots_are_the_same(labels, matches, found):
    """One name may lack folders that lie above; where two fit, neither is taken."""
    assert soccernet.match_names(dict(zip(labels, "123", strict=False)), matches) == dict(
        zip(found, "123", strict=False))


def test_a_message_lists_the_folder(tmp_path):
    for name in ("b.txt", ".hidden", *(f"v{i}.mp4" for i in range(7))):
        (tmp_path / name).write_text("")
    (tmp_path / "a").mkdir()
    with pytest.raises(DataError, match="/ holds a/, b.txt, v0.mp4, v1.mp4, v2.mp4, v3.mp4 and "
                                        "3 more"):
        soccernet.find_labels(tmp_path)
    assert frames.describe_content(tmp_path / "a") == f"; {tmp_path}/a/ holds nothing"


# ------------------------------------------------------------------ 2. predictions
def spots(*rows):
    """Detections from rows (half, label, position_ms, confidence)."""
    return Detections(*(np.array(column) for column in zip(*rows, strict=True)))


def test_write_then_read(tmp_path):
    """Sorted by half, then by time; confidences are not rounded; nothing is left beside it."""
    path, classes = tmp_path / "league/a match" / PREDICTIONS, ("Goal", "Yellow->red card")
    soccernet.write_predictions(path, "league/a match", spots(
        (2, 0, 61_000, 0.5), (1, 1, 5_999_500, np.float32(0.1)), (1, 0, 7_000, 1.0)), classes)
    content = json.loads(path.read_text())
    assert content["UrlLocal"] == "league/a match"
    assert content["predictions"][0] == {"gameTime": "1 - 00:07", "label": "Goal",
                                         "position": "7000", "half": "1", "confidence": 1.0}
    assert [entry["gameTime"] for entry in content["predictions"]] == [
        "1 - 00:07", "1 - 99:59", "2 - 01:01"]
    assert [column.tolist() for column in soccernet.read_predictions(path, classes)] == [
        [1, 1, 2], [0, 1, 0], [7000, 5_999_500, 61_000], [1.0, float(np.float32(0.1)), 0.5]]
    assert os.listdir(path.parent) == [PREDICTIONS]
    with pytest.raises(DataError, match=f"{PREDICTIONS}/x.json: cannot be written"):
        soccernet.write_predictions(path / "x.json", "", spots((1, 0, 0, 0.5)), ("Goal",))


def test_what_official_does_not_look_at_is_no_mistake(tmp_path):
    spot = {"half": "1", "label": "Goal", "position": "50000", "confidence": 0.9}
    (tmp_path / PREDICTIONS).write_text(json.dumps({"predictions": [
        spot | {"half": "3", "confidence": "high"}, spot | {"label": "Dive", "confidence": "high"},
        spot]}))
    assert [*zip(*soccernet.read_predictions(tmp_path / PREDICTIONS, ("Goal",)), strict=True)] == [
        (1, 0, 50_000, 0.9)]


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
    assert [(match, member.info.filename, member.archive.read(member.info).decode())
            for match, member in zipped.items()] == [
        (match, f"{match}/{LABELS}", f"in/{match}") for match in ("a/one", "b/two")]
    for name, message in (("in", "no results_spotting.json in it; put it at"),
                          ("other", "no such folder or zip")):
        with pytest.raises(DataError, match=f"{name}: {message}"):
            soccernet.find_files(tmp_path / name, PREDICTIONS)


# ------------------------------------------------------------------ 3. scores
CLASSES = ("Goal", "Foul", "Red card")


def store(root, match, lengths, start_s=0.0, **changes):
    """Writes random scores of a match's halves 1, 2 as infer.py does. Returns the windows of each,
    (scores, starts)."""
    rng, windows = np.random.default_rng(len(match)), []
    halves = [half_of(2 * n, h, match=match) for h, n in enumerate(lengths, 1)]
    for n in lengths:
        starts = torch.tensor([*range(0, n - 16, 8), n - 16])
        windows.append((torch.from_numpy(rng.random((len(starts), 16, 3), np.float32)), starts))
    path = root / match / SCORES
    soccernet.write_scores(path, match, CLASSES, halves, [torch.zeros(n, 3) for n in lengths],
                           windows, start_s)
    if changes:
        np.savez(path, **dict(np.load(path)) | changes)
    return windows


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


@pytest.mark.parametrize("changes, message", [
    *((changes, "other classes, or another length") for changes in (
        {"classes": np.array(["Goal", "Foul", "Offside"])}, {"token_s": 0.5}, {"start_s": 3.0})),
    *((changes, "not scores that infer.py stored") for changes in (
        {"windows_2": np.zeros((4, 8, 3), np.float32)}, {"starts_1": np.array(["first"])},
        {"merged_1": np.zeros((1, 61, 3), np.float32)}))])
def test_scores_of_several_models_are_refused(tmp_path, changes, message):
    store(tmp_path, "a", [61, 40])
    store(tmp_path, "b", [61, 40], **changes)
    with pytest.raises(DataError, match=f"b/scores.npz: {message}"):
        soccernet.read_scores(tmp_path)


def test_what_are_no_scores(tmp_path):
    windows, _ = store(tmp_path, "a", [61])[0]
    path = tmp_path / "a" / SCORES
    whole = path.read_bytes()
    for damage in (lambda: np.savez(path, windows_1=windows),
                   lambda: path.write_bytes(b"PK\3\4 cut short"),
                   lambda: path.write_bytes(whole[:len(whole) // 2])):
        damage()
        with pytest.raises(DataError, match="a/scores.npz: not scores that infer.py stored"):
            soccernet.read_scores(tmp_path)
    np.savez(path, classes=np.array(CLASSES), token_s=1.0)
    with pytest.raises(DataError, match="its scores.npz files hold no half 1 or 2"):
        soccernet.read_scores(tmp_path)


# ------------------------------------------------------------------ 4. submissions
def test_a_match_gets_the_name_of_its_game(tmp_path):
    """Whatever folder it lies in, with _ for a space or without."""
    (tmp_path / "list.txt").write_text("lg/2031/game one\nlg/2031/game two\n")
    halves = [half_of(10, number, match=match)
              for match in ("test/lg/2031/game one", "lg/2031/game_two") for number in (1, 2)]
    assert soccernet.games_of(halves, tmp_path, str(tmp_path / "list.txt")) == {
        "test/lg/2031/game one": "lg/2031/game one", "lg/2031/game_two": "lg/2031/game two"}


def test_a_submission_holds_each_game_once(tmp_path, monkeypatch):
    """And no zip is left half written."""
    names = {"test/x": "lg/x", "test/y": "lg/y"}
    for match in names:
        (tmp_path / "out" / match).mkdir(parents=True)
        (tmp_path / "out" / match / PREDICTIONS).write_text(match)
    soccernet.write_zip(tmp_path / "spots.zip", tmp_path / "out", names)
    with zipfile.ZipFile(tmp_path / "spots.zip") as archive:
        assert {name: archive.read(name).decode() for name in archive.namelist()} == {
            f"lg/x/{PREDICTIONS}": "test/x", f"lg/y/{PREDICTIONS}": "test/y"}
    with pytest.raises(DataError, match="not zipped, because 1 games are not of this split: te"):
        soccernet.write_zip(tmp_path / "less.zip", tmp_path / "out", {"test/x": "lg/x"})
    with pytest.raises(DataError, match="because 5 games are missing: a; b; c and 2 more;"):
        soccernet.check_games([], list("abcde"), tmp_path)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(zipfile.ZipFile, "write", full)
    with pytest.raises(DataError, match="less.zip: cannot be written .No space left"):
        soccernet.write_zip(tmp_path / "less.zip", tmp_path / "out", names)
    assert sorted(os.listdir(tmp_path)) == ["out", "spots.zip"]
