"""
What these tests prove about the page and the exports:
  1. exports are read by parsers that are not ours, and back as labels
  2. the page holds its data safely and stays small
  3. in a real browser: it loads, a click seeks, filters filter list and exports alike, errors are
     found, labels saved there are read by evaluate
  4. a review is kept, is undone, and changes the label that the person saw, and no other; what is
     saved comes back, whole; a video without results is labelled from nothing
The last two need chromium (apt install chromium) and playwright (pip install playwright).
"""
import base64
import contextlib
import json
import re
import shlex
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch

import comedian
import conftest
from comedian import DataError, evaluate, export, page, prepare, report, soccernet
from comedian.frames import Half
from comedian.labels import Listed, Row
from comedian.soccernet import LABELS, PREDICTIONS, SCORES, Detections

ROOT = Path(__file__).resolve().parents[1]
CLASSES = ("Goal", "Foul & hands", "Corner")
MATCH = 'cup/2031-03-08 - 18-00 Oak 2 - 1 "Kirk" <b>'
SPOTS = [                             # half, class, ms, confidence
    (1, 0, 10_250, 0.9), (1, 1, 12_250, 0.4), (1, 2, 20_250, 0.7), (1, 0, 30_250, 0.1),
    (2, 2, 5_250, 0.8), (2, 0, 15_250, 0.35)]
TRUTH = [(1, "Goal", 11_000), (1, "Corner", 35_000), (2, "Corner", 5_000)]


def write_video(path, seconds=40, codec="libx264", rate=10):
    """Grey pictures, ten a second, each brighter than the one before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=rate, options={"g": "10"})
        stream.width, stream.height, stream.pix_fmt = 64, 36, "yuv420p"
        for i in range(rate * seconds):
            grey = np.full((36, 64, 3), i * 255 // (rate * seconds), np.uint8)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        file.mux(stream.encode())


@pytest.fixture(scope="module")
def spotted(tmp_path_factory):
    """The root: out/<MATCH> as infer.py leaves it, labels/<MATCH>, the video of half 1 alone."""
    root = tmp_path_factory.mktemp("page")
    folder, labels = root / "out" / MATCH, root / "labels" / MATCH / LABELS
    write_video(root / "videos" / MATCH / "1_224p.mp4")
    merged = torch.full((2, 40, 3), 0.01)
    for half, label, ms, confidence in SPOTS:
        merged[half - 1, ms // 1000, label] = confidence
    soccernet.write_scores(folder / SCORES, MATCH, CLASSES, [
        Half(MATCH, half, "", "", 8, ".jpg", 1, 80) for half in (1, 2)], merged, [None, None], 0.0)
    soccernet.write_predictions(
        folder / PREDICTIONS, MATCH, Detections(*map(np.array, zip(*SPOTS, strict=True))), CLASSES,
        {"program": "comedian", "checkpoint": ["best.pt"], "classes": CLASSES,
         "settings": {"nms": "soft"}, "videos": {"1": f"../../../videos/{MATCH}/1_224p.mp4"}})
    labels.parent.mkdir(parents=True)
    labels.write_text(json.dumps({"annotations": [
        {"gameTime": f"{half} - 00:{ms // 1000:02d}", "label": label, "position": str(ms)}
        for half, label, ms in TRUTH]}))
    command("page", root / "out", "--labels", root / "labels")
    return root


def command(*arguments):
    report.main(report.parse_args([str(argument) for argument in arguments]))


def exported(root, out, kind, *flags):
    """{name: text} that the command writes."""
    command("export", root / "out", "--format", kind, "--out", out, *flags)
    return {path.name: path.read_text() for path in sorted((out / MATCH).iterdir())}


def same(kind, text, expected):
    """Whether two exports are; of JSON the content counts."""
    read = json.loads if kind == "osl" else str
    return read(text) == read(expected)


# ------------------------------------------------------------------ 1. exports
def test_a_table_is_read_back(spotted, tmp_path):
    text, = exported(spotted, tmp_path, "csv").values()
    assert text.splitlines()[0] == "video,half,time,label,confidence" and text.count("\n") == 6
    exported(spotted, tmp_path, "csv", "--threshold", 0)
    found = soccernet.find_labels(tmp_path / MATCH / "actions.csv")
    assert [(row.half, row.name, row.position_ms) for row in found[MATCH].rows] == [
        (half, CLASSES[label], ms) for half, label, ms, _ in SPOTS]


def write_results(folder, label="Dive", half="1", **more):
    soccernet.write_text(folder / PREDICTIONS, json.dumps({"predictions": [
        {"half": half, "label": label, "position": "1500", "confidence": 0.5}]} | more))


@pytest.mark.parametrize("match", ["season/1", "224p", "derby.mp4", "2_720p", "a, b", "game01"])
def test_names_of_videos_come_back_in_a_table(match, tmp_path):
    write_results(tmp_path / match, half="2")
    command("export", tmp_path, "--format", "csv")
    found = soccernet.find_labels(tmp_path / match / "actions.csv")
    assert {name: labels.rows for name, labels in found.items()} == {
        match: [(2, "Dive", 1500, True, None)]}


@pytest.mark.parametrize("match, label, reason", [
    ("m", "", "line 2: a time without a label"), ("m", "a\0b", "zero bytes"),
    ("m", "x" * 140_000, "field limit"), ("caf\udce9", "Dive", "not UTF-8"),
    ("a\\b", "Dive", "as another match")])
def test_no_table_that_is_not_read_back(match, label, reason, tmp_path):
    write_results(tmp_path / match, label)
    with pytest.raises(DataError, match=f"{PREDICTIONS}: the table of .* read.*{reason}"):
        command("export", tmp_path, "--format", "csv")
    assert not (tmp_path / match / "actions.csv").exists()


@pytest.mark.parametrize("kind, left", [
    ("vtt", []), ("srt", []), ("sportscode", []), ("csv", ["actions.csv"])])
def test_nothing_to_write_prints_a_line(kind, left, spotted, tmp_path, capsys):
    """And no file of an older export stays."""
    assert exported(spotted, tmp_path, kind)
    assert list(exported(spotted, tmp_path, kind, "--threshold", 0.95)) == left
    printed = capsys.readouterr().out
    assert f"report: {MATCH}: no action of 0.95 or more" in printed
    assert printed.count("removed") == 2 * (not left) == 2 * printed.count("nothing written")
    if not left:                                           # of one half there is something
        assert len(exported(spotted, tmp_path, kind)) == 2
        assert len(exported(spotted, tmp_path, kind, "--threshold", 0.85)) == 1


@pytest.mark.parametrize("half, classes, times", [
    ("3", ["Dive"], 2), ("1", ["Goal"], 2), ("1", [], 1)])
def test_actions_that_are_left_out_are_counted(half, classes, times, tmp_path, capsys):
    write_results(tmp_path, half=half, about={"classes": classes})
    command("export", tmp_path, "--format", "vtt")         # the page has the classes of the scores
    soccernet.write_scores(tmp_path / SCORES, "m", ("Goal",), [
        Half("m", 1, "", "", 8, ".jpg", 1, 80)], [torch.zeros(40, 1)], [None], 0.0)
    command("page", tmp_path)
    said = f"{PREDICTIONS}: 1 of 1 actions are left out: their half"
    assert capsys.readouterr().out.count(said) == times


@pytest.mark.parametrize("kind, ends", [
    ("vtt", "00:00:00.000 --> 00:00:00.001"), ("srt", "00:00:00,000 --> 00:00:00,001"),
    ("sportscode", "<start>0.000</start><end>0.001<")])
def test_a_cue_ends_after_it_begins(kind, ends):
    text, = export.texts("m", [export.Action(1, 0, "a", 1.0)], ("a",), {}, kind, 0, 0).values()
    assert ends in text


def test_opensportslab_is_read_back(spotted, tmp_path):
    text, = exported(spotted, tmp_path, "osl").values()
    first, second = json.loads(text)["data"]
    assert first["inputs"][0]["path"] == f"{MATCH}/1_224p.mp4"
    assert [event["confidence"] for event in first["events"]] == [0.9, 0.4, 0.7]
    rows = soccernet.find_labels(tmp_path / MATCH / "actions.json")[MATCH].rows
    assert [row.half for row in rows] == [1, 1, 1, 2, 2] and rows[3].position_ms == 5_250


@pytest.mark.parametrize("kind", ["vtt", "srt"])
def test_ffmpeg_reads_the_subtitles(spotted, tmp_path, kind):
    """Times and texts of half 1, 3 s before to 5 s after."""
    exported(spotted, tmp_path, kind, "--lag", 5)
    with av.open(str(tmp_path / MATCH / f"actions_1.{kind}")) as file:
        base, = (stream.time_base for stream in file.streams)
        cues = [(packet.pts * base, packet.duration * base, bytes(packet).decode())
                for packet in file.demux() if packet.size]
    foul = "Foul &amp; hands" if kind == "vtt" else "Foul & hands"
    assert cues == [(7.25, 8, "Goal 0.90"), (9.25, 8, f"{foul} 0.40"), (17.25, 8, "Corner 0.70")]


def test_sportscode_is_xml(spotted, tmp_path):
    texts = exported(spotted, tmp_path, "sportscode", "--lead", 12)
    assert list(texts) == ["actions_1.xml", "actions_2.xml"]
    instances = ElementTree.fromstring(texts["actions_1.xml"]).findall("ALL_INSTANCES/instance")
    assert [[child.text for child in instance][:4] for instance in instances] == [
        ["1", "0.000", "13.250", "Goal"], ["2", "0.250", "15.250", "Foul & hands"],
        ["3", "8.250", "23.250", "Corner"]]


def test_results_of_other_programs(tmp_path):
    """Without what ours say about themselves, and with an `about` of any kind."""
    for about in ({}, {"about": 3}, {"about": {"videos": [1], "classes": "Goal"}}):
        (tmp_path / PREDICTIONS).write_text(json.dumps({"predictions": [
            {"half": "1", "label": "Dive", "position": "1500", "confidence": "0.5"}]} | about))
        actions, classes, said = export.actions_of(tmp_path / PREDICTIONS)
        assert actions == [(1, 1500, "Dive", 0.5)] and classes == ("Dive",) and not said


@pytest.mark.parametrize("reason, odd, about", [
    ("inf", {"confidence": 1e400}, {}), ("nan", {"confidence": None}, {}),
    ("1.1", {"confidence": "1.1"}, {}), ("-0.1", {"confidence": -0.1}, {}),
    ("-5", {"position": -5}, {}), ("1e.11", {"position": 10 ** 11}, {}),
    ("ud800", {"label": "x\ud800"}, {}), ("7 is no text", {"label": 7}, {}),
    ("surrogates", {}, {"videos": {"1": "\ud800"}}),
    ("Out of range", {}, {"settings": {"nms": 1e400}})])
def test_what_cannot_be_shown_is_one_line(reason, odd, about, tmp_path):
    """Results of other programs, that the official evaluator takes."""
    entry = {"half": "1", "label": "Dive", "position": "1500", "confidence": 0.5} | odd
    (tmp_path / PREDICTIONS).write_text(json.dumps({"predictions": [entry], "about": about}))
    with pytest.raises(DataError, match=f"{PREDICTIONS}: not results that can be shown .*{reason}"):
        export.actions_of(tmp_path / PREDICTIONS)


def test_the_version_is_one():
    project = (ROOT / "pyproject.toml").read_text()        # Python 3.10 has no tomllib
    assert re.search(r'^version = "(.*)"$', project, re.MULTILINE)[1] == comedian.__version__


# ------------------------------------------------------------------ 2. the file
def data_of(path):
    text = path.read_text()
    return text, json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])


def test_data_cannot_end_the_script(tmp_path):
    name = "</script><script>alert(1)<!-- \u2028"
    page.write_page(tmp_path / "page.html", name, {1: (np.zeros((9, 1)), 1.0, 0.0)}, (name,),
                    [export.Action(1, 1000, name, 0.5)], {"checkpoint": [name], "videos": {
                        "1": name}})
    text, data = data_of(tmp_path / "page.html")
    assert data["match"] == data["classes"][0] == name and name in data["about"]
    assert text.count("</script>") == text.count("<script") == 2 and "<!-- " not in text


def test_the_page_is_small_and_calls_nobody(tmp_path):
    source = "".join((ROOT / "comedian" / f"page.{kind}").read_text() for kind in ("html", "js"))
    assert len(source.splitlines()) < 600
    assert not re.search(r"https?:|//cdn|\bimport\b|fetch\(", source)
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, (224, 398, 3), np.uint8)  # no picture takes more
    actions = [export.Action(1, 1000 * int(s), "Goal", 0.5) for s in rng.integers(0, 2700, 4000)]
    page.write_page(tmp_path / "page.html", "m", {1: (rng.random((2700, 17)), 1.0, 0.0)},
                    ("Goal", *map(str, range(16))), actions, {},
                    Listed("", [Row(1, "Goal", 1000 * s, True) for s in range(0, 2700, 9)]),
                    pictures={1: {s + 0.25: page.small_picture(noise) for s in range(2700)}})
    assert 200_000 < (tmp_path / "page.html").stat().st_size < 3_000_000


def test_a_damaged_half_is_an_error(spotted, tmp_path):
    folder = shutil.copytree(spotted / "out" / MATCH, tmp_path / "spots")
    arrays = dict(np.load(folder / SCORES))
    np.savez(folder / SCORES, **arrays | {"curve_2": arrays["curve_2"] + 2})
    with pytest.raises(DataError, match="scores.npz: .*curve_2 is not from 0 to 1"):
        page.from_results(folder, "m")


def test_pictures_are_of_their_time(spotted):
    """The video grows brighter: so do the pictures beside the actions. Half 2 has none."""
    _, data = data_of(spotted / "out" / MATCH / "page.html")
    for half, ms, _, _, picture in data["events"]:
        assert bool(picture) == (half == 1)
        if picture:
            grey = cv2.imdecode(np.frombuffer(base64.b64decode(picture), np.uint8), 0)
            assert abs(grey.mean() - 255 * ms / 40_000) < 8


# ------------------------------------------------------------------ 3. in a browser
@pytest.fixture
def tab(visit, spotted):
    tab = visit(spotted / "out" / MATCH / "page.html")
    tab.wait_for_function("video.readyState >= 1")
    return tab


def chosen(tab, keys):
    """The time of the row that is chosen after these keys."""
    for key in keys:
        tab.keyboard.press(key)
    return tab.text_content("#list li.on b")


def listed(tab):
    """The rows of the list, rendered or not."""
    return tab.evaluate("""[...document.querySelectorAll('#list .go')].map(
        row => [...row.children].map(e => e.textContent).filter(Boolean).join(' '))""")


def saved(tab, kind):
    with tab.expect_download() as download:
        tab.click(f"[data-save={kind}]")
    return Path(download.value.path()).read_text()


def test_the_list_says_what_is_right_and_wrong(tab):
    assert tab.title() == tab.inner_text("h1") == 'Oak 2 - 1 "Kirk" <b>'
    assert tab.locator("header b, footer b").count() == 0  # the name is text
    assert listed(tab) == ["0:10 Goal hit 0.90", "0:12 Foul & hands false alarm 0.40",
                           "0:20 Corner false alarm 0.70", "0:35 Corner missed"]
    assert tab.inner_text("#count") == "1 hit, 1 missed, 2 false alarms"
    tab.fill("#tolerance", "0.5")
    assert tab.inner_text("#count") == "0 hits, 2 missed, 3 false alarms"
    assert "checkpoint best.pt" in tab.inner_text("#about")


def test_a_click_goes_to_three_seconds_before(tab):
    tab.click("#list .go >> nth=2")
    tab.wait_for_function("!video.seeking && Math.abs(video.currentTime - 17.25) < 0.01")
    assert tab.inner_text("#time").startswith("0:17")


def test_next_error_on_a_key(tab):
    assert [chosen(tab, "n") for _ in range(4)] == ["0:12", "0:20", "0:35", "0:12"]
    assert chosen(tab, "rnnn") == "0:20"                   # a rejected one is no error any more


def test_filters_hold_for_list_and_exports(tab, spotted, tmp_path):
    """The same texts as the command's."""
    for kind in ("csv", "osl", "vtt", "srt", "sportscode"):
        text, *_ = exported(spotted, tmp_path / kind, kind, "--threshold", 0.3).values()
        assert same(kind, saved(tab, kind), text), kind
    tab.fill("#least", "0.05")
    assert len(listed(tab)) == 5
    tab.click(".chip >> nth=0")                            # no goals
    assert [row.split()[1] for row in listed(tab)] == ["Foul", "Corner", "Corner"]
    assert "Goal" not in saved(tab, "csv") and saved(tab, "csv").count("Corner") == 2
    tab.click("#list .go >> nth=0")
    chosen(tab, "r")
    assert len(listed(tab)) == 3 and "Foul" not in saved(tab, "csv")  # rejected: shown, not saved
    tab.click("text=none")
    assert listed(tab) == [] and saved(tab, "vtt") == "WEBVTT\n"


def test_odd_names_and_numbers_are_saved_as_by_the_command(browser, tmp_path):
    """Formulas, line breaks, blanks of all kinds, two actions at one time, halves of a digit."""
    names = ("=1+1", "+a", "-b", "@c", "\td", "\re", "'=f", "g\nh", 'i",j;', "进\xa0!\u3000球",
             "k\u2028l\x85m\x1fn\ufffe", "<&> \u200d\u202eo", "'p")
    folder = tmp_path / "=1 - 2"
    soccernet.write_scores(folder / SCORES, "m", names, [Half("m", 1, "", "", 8, ".jpg", 1, 80)],
                           [torch.zeros(40, len(names))], [None], 0.0)
    soccernet.write_predictions(folder / PREDICTIONS, "m", Detections(
        np.ones(28, int), np.arange(28) % 13, np.arange(28) // 3 * 1001,
        np.tile([0.625, 0.29996, 0.9, 0.375], 7)), names, {
        "classes": names, "videos": {"1": "caf\udce9/.."}})
    page.from_results(folder, ".")
    command("export", folder, "--format", "csv", "--threshold", "0.3")
    tab = browser.new_page()
    tab.goto((folder / "page.html").as_uri())
    actions = export.actions_of(folder / PREDICTIONS, 0.3)
    for kind in ("csv", "osl", "vtt", "srt", "sportscode"):
        text, *_ = export.texts("=1 - 2", *actions, kind).values()
        assert same(kind, tab.evaluate(f"text('{kind}')"), text), kind
    assert [(folder / "actions.csv").read_bytes().decode()] == [
        *export.texts("=1 - 2", *actions, "csv").values()]
    tab.close()


def test_both_halves_and_the_keys(tab):
    tab.keyboard.press("2")
    assert listed(tab) == ["0:05 Corner hit 0.80", "0:15 Goal false alarm 0.35"]
    assert "the results do not say" in tab.inner_text("#why")        # that half has no video
    assert (chosen(tab, "jj"), chosen(tab, "k")) == ("0:15", "0:05")
    shown = "view[1] - view[0]"
    before = tab.evaluate(shown)
    for key, wide in (("+", before / 2), ("0", before)):
        tab.keyboard.press(key)
        assert tab.evaluate(shown) == wide


def test_the_file_picker_takes_a_video(tab, spotted):
    tab.keyboard.press("2")
    tab.set_input_files("#file", str(spotted / "videos" / MATCH / "1_224p.mp4"))
    tab.wait_for_function("video.readyState >= 1 && Math.round(video.duration) === 40")
    assert tab.locator("#none").is_hidden()


def test_labels_saved_in_the_page_are_read_by_evaluate(tab, spotted, tmp_path, capsys):
    """The alarm at 0:12 is accepted and moved, the missed corner at 0:35 is rejected."""
    tab.click("#list .go >> nth=1")
    chosen(tab, "a]]]")
    tab.click("#list .go >> nth=3")
    chosen(tab, "r")
    path = tmp_path / MATCH / LABELS
    path.parent.mkdir(parents=True)
    path.write_text(saved(tab, "labels"))
    events = soccernet.read_labels(path, CLASSES)
    assert [(event.half, event.label, event.position_ms) for event in events] == [
        (1, 0, 11_000), (1, 1, 13_750), (2, 2, 5_000)]
    evaluate.main(evaluate.parse_args(["--predictions", str(spotted / "out"),
                                       "--labels", str(tmp_path)]))
    assert "matches: 1, events: 3" in capsys.readouterr().out


CONTRAST = """() => {                    // what people read below 4.5 to 1
    const light = v => v > .04045 ? ((v + .055) / 1.055) ** 2.4 : v / 12.92
    const sum = c => c.reduce((s, v, i) => s + light(v / 255) * [.2126, .7152, .0722][i], .05)
    const color = (e, name) => getComputedStyle(e)[name].match(/[\\d.]+/g).map(Number)
    const under = e => { while (e && color(e, "backgroundColor")[3] === 0) e = e.parentElement
                         return e ? color(e, "backgroundColor").slice(0, 3) : [255, 255, 255] }
    return [...document.querySelectorAll("body *")].filter(e => e.checkVisibility() &&
        [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim())).map(e => {
            const [a, b] = [sum(color(e, "color").slice(0, 3)), sum(under(e))]
            return [Math.max(a, b) / Math.min(a, b), e.textContent] }).filter(([c]) => c < 4.5) }"""


@pytest.mark.parametrize("width, height, scheme", [(390, 844, "light"), (1280, 800, "dark")])
def test_it_can_be_read(tab, width, height, scheme):
    """On a phone, in the dark, and by a screen reader."""
    tab.set_viewport_size({"width": width, "height": height})
    tab.emulate_media(color_scheme=scheme)
    tab.click(".chip >> nth=1")
    for keys in ("jr", "ja", "jr", "n", "i"):
        chosen(tab, keys)
        assert tab.evaluate(CONTRAST) == []
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    names = tab.evaluate("""[...document.querySelectorAll('button, input, select')].filter(
        e => !(e.textContent.trim() || e.ariaLabel || e.labels?.length)).map(e => e.outerHTML)""")
    assert names == []                                     # a screen reader has a word for each


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(scheme, tab, visit, spotted, tmp_path):
    """In the rules of axe-core: the page as it opens, in work, with nothing to play, and to label
    on."""
    shutil.copy(spotted / "videos" / MATCH / "1_224p.mp4", tmp_path / "a.mp4")
    (tmp_path / "classes.txt").write_text("Goal\nFoul\n")
    command("page", "--video", tmp_path / "a.mp4", "--classes", tmp_path / "classes.txt",
            "--out", tmp_path)
    empty = visit(tmp_path / "a" / "page.html")
    for page_, keys in ((tab, ""), (tab, "jrjajrnizZ"), (tab, "2j]"), (empty, "ii")):
        page_.emulate_media(color_scheme=scheme)
        for key in keys:
            page_.keyboard.press(key)
        page_.evaluate("document.querySelector('details').open = true")
        assert conftest.axe_findings(page_) == [], (scheme, keys)


def test_the_focus_stays(tab):
    """On the row that Enter pressed, on the next one for j, on a button of a row; a space plays."""
    here = "document.activeElement.textContent + document.activeElement.closest('li').innerText"
    tab.keyboard.press("Tab")
    tab.keyboard.press("Enter")                            # the first stop leads to the list
    assert tab.evaluate(here).startswith("0:10Goal")
    tab.keyboard.press("Enter")
    assert tab.evaluate(here).startswith("0:10Goal")
    chosen(tab, "j")
    assert tab.evaluate(here).startswith("0:12Foul")
    tab.focus("#edit button >> nth=0")
    for key, row in (("Enter", "0:12"), ("j", "0:20"), ("a", "0:20")):
        tab.keyboard.press(key)
        assert tab.evaluate(here).startswith("accept" + row), key
    tab.focus("li.on .go")
    tab.keyboard.press(" ")
    tab.wait_for_function("!video.paused")


# ------------------------------------------------------------------ 4. reviews
def labels_of(tab):
    """(half, class, ms) of the labels as they would be saved."""
    return [(int(a["gameTime"][0]), a["label"], int(a["position"]))
            for a in json.loads(tab.evaluate("text('labels')"))["annotations"]]


FOUL = "Foul & hands"
REVIEWS = (                           # rows: hit, alarm, alarm, missed; labels that go and come
    (0, "a", [], []), (0, "r", [], []), (0, "ra", [], []), (0, "d", [0], []), (0, "da", [], []),
    (0, "dr", [], []), (0, "]", [0], [(1, "Goal", 11_500)]), (1, "r", [], []),
    (0, "..,r", [0], [(1, "Goal", 11_100)]), (0, "]da", [0], [(1, "Goal", 11_500)]),
    (1, "a", [], [(1, FOUL, 12_250)]),
    (1, "[[", [], [(1, FOUL, 11_250)]), (1, "ar", [], []), (1, "d", [], []), (3, "a", [], []),
    (3, "d", [1], []), (3, "[", [1], [(1, "Corner", 34_500)]), (3, "da", [], []),
    (2, "]", [], [(1, "Corner", 20_750)]), (0, "rd", [], []))


def test_a_review_changes_the_label_that_was_seen(tab):
    """Accepting keeps a label's time, rejecting an action keeps the label; the tolerance says
    nothing afterwards, and undoing brings all back."""
    for row, keys, gone, come in REVIEWS:
        tab.click(f"#list .go >> nth={row}")
        chosen(tab, keys)
        after = sorted({*TRUTH, *come} - {TRUTH[i] for i in gone}, key=lambda r: (r[0], r[2]))
        for tolerance in ("2.5", "0.5", "30"):
            tab.fill("#tolerance", tolerance)
            assert labels_of(tab) == after, (row, keys, tolerance)
        tab.fill("#tolerance", "2.5")
        tab.evaluate("while (done.length) undo()")
        assert labels_of(tab) == TRUTH


def test_far_labels_are_of_a_review_only_as_long_as_they_are_seen(tab):
    """At 30 s the corner at 0:20 is of the label at 0:35: the review stays there at 2.5 s."""
    tab.fill("#tolerance", "30")
    tab.click("#list .go >> nth=2")
    buttons = tab.inner_text("#edit")
    assert "reject, keep the label" in buttons and "delete the label" in buttons
    chosen(tab, "a")
    tab.fill("#tolerance", "2.5")
    assert labels_of(tab) == TRUTH and listed(tab)[2] == "0:35 Corner accepted 0.70"


def state(tab):
    return tab.evaluate("JSON.stringify([...items.values()].map(e => "
                        "[e.half, e.ms, e.label, e.state, e.pin]))")


def test_every_step_is_undone_and_done_again(tab):
    tab.evaluate("seek(25)")
    for row in range(4):
        for key in "ard[],.mi":
            tab.evaluate(f"choose(rows.filter(e => e.what !== 'added')[{row}], false)")
            before = state(tab)
            chosen(tab, key)
            after = state(tab)
            tab.keyboard.press("z")
            assert state(tab) == before, (row, key)
            tab.keyboard.press("Z")
            assert state(tab) == after
    for _ in range(41):
        tab.keyboard.press("Control+z")
    assert labels_of(tab) == TRUTH and tab.evaluate("dirty()") is False
    assert "nothing to undo" in tab.inner_text("#note")


def test_reviews_outlive_a_reload(tab, visit, spotted, tmp_path):
    """Kept at once; asked before leaving until they are saved; told to other tabs."""
    other = visit(spotted / "out" / MATCH / "page.html")
    tab.click("#list .go >> nth=1")
    chosen(tab, "]")
    assert tab.inner_text("#reviewed") == "reviewed 1 of 4"
    other.wait_for_function("reviewed.textContent === 'reviewed 1 of 4'")
    rows = listed(tab)
    for asked in (["beforeunload"], ["beforeunload"] * 2):
        tab.reload()
        assert (tab.asked, listed(tab)) == (asked, rows)
        assert "0:12 Foul & hands accepted 0.40" in rows
        tab.click("#list .go >> nth=0")
    (tmp_path / "saved.json").write_text(saved(tab, "labels"))
    for _ in range(2):
        tab.reload()
        assert len(tab.asked) == 2 and listed(tab) == rows
        tab.click("#list .go >> nth=0")
    tab.evaluate("localStorage.clear()")                   # another computer
    tab.reload()
    assert labels_of(tab) == TRUTH
    tab.set_input_files("#load", str(tmp_path / "saved.json"))
    tab.wait_for_function("$('note').textContent.includes('4 labels loaded')")
    assert listed(tab) == rows


def test_a_changed_result_starts_clean_and_says_so(tab, visit, spotted):
    """What fits it is taken over at a press; nothing is lost, nothing comes twice."""
    for row, keys in ((1, "a"), (2, "r"), (0, "]")):
        tab.click(f"#list .go >> nth={row}")
        chosen(tab, keys)
    tab.evaluate("seek(38)")
    chosen(tab, "i")
    labels = labels_of(tab)
    path = spotted / "out" / MATCH / "page.html"
    text, data = data_of(path)
    data["events"] = [e for e in data["events"] if e[1] != 20_250]
    for name, truth in (("same", data["truth"]), (
            "new", [[half, ms, label, {}, ""] for half, label, ms in labels])):
        data["hash"], data["truth"], changed = name, truth, path.with_name(f"{name}.html")
        changed.write_text(re.sub('(id="data">).*?(</script>)', lambda m: m[1] + json.dumps(
            data).replace("<", "\\u003c") + m[2], text, flags=re.DOTALL))
        late = visit(changed)
        assert "starts clean" in late.inner_text("#note") and late.evaluate("dirty()") is False
        late.click("#note button")
        assert "1 fit nothing here" in late.inner_text("#note")
        assert labels_of(late) == labels, name
        late.keyboard.press("z")
        assert late.evaluate("dirty()") is False
        changed.unlink()


@pytest.mark.parametrize("name, text, said", [
    ("a.json", "[]", "no labels"), ("a.json", '{"annotations": [{"label": "Goal"}]}', "no labels"),
    ("a.txt", "", "neither a video nor"), ("a.json", "\0", "no labels"), ("a.json", json.dumps({
        "annotations": [], "review": {"hash": "HASH", "reviews": {"x": {"label": "?"}}}}), "no l"),
    ("a.json", json.dumps({"UrlLocal": "Elm", "annotations": [
        {"gameTime": "1 - 00:11", "label": "Goal"}, {"gameTime": "2 - 00:09", "label": "Corner",
         "visibility": "not shown"}, {"gameTime": "1 - 00:00", "position": "-5", "label": "Goal"},
        {"gameTime": "1 - 00:03", "position": "3004", "label": "Nap"}]}),
     "4 labels loaded; 1 of no class"),
    *[("a.json", json.dumps({"annotations": [{"gameTime": "1 - 00:11", "label": "Goal",
        "position": position}]}), "no labels") for position in ("", "0x10", None)]])
def test_a_file_is_dropped(name, text, said, tab):
    """Labels of others take the place of those here; a wrong file changes nothing."""
    tab.evaluate("""([name, text]) => { const drop = new DataTransfer()
        drop.items.add(new File([text.replace("HASH", D.hash)], name))
        document.dispatchEvent(new DragEvent("drop", { dataTransfer: drop })) }""", [name, text])
    tab.wait_for_function("$('note').textContent")
    assert said in tab.inner_text("#note")
    assert labels_of(tab) == ([
        (1, "Goal", -5), (1, "Nap", 3004), (1, "Goal", 11_000), (2, "Corner", 9_000)]
        if "4 la" in said else TRUTH)
    assert ("not shown" in tab.evaluate("text('labels')")) == ("not shown" in text)
    tab.keyboard.press("z")
    assert labels_of(tab) == TRUTH


TIMES = (                             # an annotation, its (half, ms); None: it is refused
    ({"gameTime": "1 - 12:34"}, (1, 754_000)), ({"gameTime": "1 - 1:05"}, (1, 65_000)),
    ({"gameTime": "1 - 100:10"}, (1, 10_000)),             # as officially
    ({"gameTime": "1 - 100:10", "position": "6010000"}, (1, 6_010_000)),
    ({"gameTime": "10 - 12:34"}, (1, 754_000)), ({"gameTime": "2nd, 12.34"}, (2, 754_000)),
    ({"gameTime": "1 - 00:75"}, (1, 75_000)), *(({"gameTime": text}, None) for text in (
        "", "1", " 1 - 00:10", "1 - 5:7", "1 - 00:10.5", "x - 00:10", None, 5)),
    ({"gameTime": "1 - xx:10", "position": 5}, None), ({"position": 5}, None),
    *(({"gameTime": "2 - 00:10", "position": position}, ms and (2, ms)) for position, ms in (
        (-5.7, -5), (5.7, 5), (" +7 ", 7), ("-7", -7), (True, 1), (2 ** 53, 2 ** 53),
        (2 ** 54, None), ("5.5", None), ("", None), (" ", None), ("1e3", None), ("0x10", None),
        (None, None), ([5], None), ({}, None), ("9" * 400, None))))


@pytest.mark.parametrize("annotation, time", TIMES)
def test_times_in_labels(annotation, time, tmp_path):
    (tmp_path / LABELS).write_text(json.dumps({"annotations": [{"label": "Goal"} | annotation]}))
    with pytest.raises(DataError) if time is None else contextlib.nullcontext():
        row, = soccernet.read_rows(tmp_path / LABELS)
        assert (row.half, row.position_ms) == time


def test_times_are_the_same_in_the_page(tab):
    read = ("a => { try { const r = read({ label: 'Goal', ...a }); return [r.half, r.ms] } "
            "catch { return null } }")
    assert [tuple(found) if found else None for found in tab.evaluate(
        f"all => all.map({read})", [annotation for annotation, _ in TIMES])] == [
            time for _, time in TIMES]


KINDS = ("labels", "csv", "osl", "vtt", "srt", "sportscode")
MORE = [                              # of Labels-v2.json, what no page shows
    {"gameTime": "1 - 00:11", "position": "11000", "label": "Goal", "team": "home", "visibility":
     "visible", "player": {"name": "Zoé", "number": 9}},
    {"gameTime": "1 - 00:20", "position": "20500", "label": "Nap", "team": "away", "visibility":
     "visible"},
    {"gameTime": "1 - 00:35", "position": "35000", "label": "Corner", "team": "away", "visibility":
     "not shown"},
    {"gameTime": "2 - 00:05", "position": "5000", "label": "Corner", "team": "away", "visibility":
     "visible", "sure": [1, None, "x"]},
    {"gameTime": "3 - 00:01", "position": "1000", "label": "Goal", "team": "home", "visibility":
     "visible"}]


def texts_of(tab):
    """What each button would save, in each half."""
    return [tab.evaluate(f"setHalf(D.halves[{h}]); text('{kind}')") for h in (0, 1)
            for kind in KINDS]


@pytest.mark.parametrize("labelled", [True, False])
def test_saved_and_loaded_again_nothing_changed(labelled, spotted, tmp_path, visit):
    """Every form, with corrections, with labels of no class or half of the page, in this page, in
    an empty browser, in a page of other results, and in one made from the file that was saved."""
    folder = shutil.copytree(spotted / "out" / MATCH, tmp_path / "m")
    (tmp_path / LABELS).write_text(json.dumps({
        "UrlLocal": "x/m/", "UrlYoutube": "y", "annotations": MORE}))
    labels = tmp_path / LABELS if labelled else None
    tab = visit(page.from_results(folder, ".", labels))
    if not labelled:
        tab.set_input_files("#load", str(tmp_path / LABELS))
        tab.wait_for_function("$('note').textContent.includes('5 labels loaded; 2 of no class or')")
    content = json.loads(tab.evaluate("text('labels')"))
    assert (content["annotations"], content["UrlYoutube"]) == (MORE, "y")      # untouched
    tab.fill("#least", "0.05")
    tab.evaluate("$('tolerance').value = 1.5; update()")
    for row, keys in ((0, "a]"), (1, "a,"), (2, "r"), (3, "]"), (4, "a")):
        tab.click(f"#list .go >> nth={row}")
        chosen(tab, keys)
    tab.evaluate("seek(38); edit('c', 'Foul & hands'); seek(39); add()")
    tab.evaluate("setHalf(D.halves[1]); choose(rows[0]); edit('d')")
    tab.click(".chip >> nth=2")
    before = texts_of(tab)
    assert len({*before}) == 9                             # three kinds hold both halves
    (tmp_path / "saved.json").write_text(saved(tab, "labels"))
    tab.evaluate("localStorage.clear()")
    tab.reload()
    assert texts_of(tab) != before
    other = visit(page.from_results(shutil.copytree(folder, tmp_path / "n"), "m", None))
    other.evaluate("choose(rows[0]), edit('a')")
    for place, name in ((tab, "this"), (other, "of other results")):
        place.set_input_files("#load", str(tmp_path / "saved.json"))
        place.wait_for_function("$('note').textContent.includes('labels loaded')")
        same_page = texts_of(place) == before
        after = [json.loads(texts)["annotations"] for texts in (before[0], texts_of(place)[0])]
        assert after[0] == after[1] and (same_page or place is other), name
        assert place.evaluate("dirty()") is False
    assert "confirm" in (*tab.asked, *other.asked)         # before a file takes what is not saved
    again = visit(page.from_results(folder, ".", tmp_path / "saved.json"))
    assert json.loads(texts_of(again)[0])["annotations"] == after[0]
    assert again.evaluate("'review' in head") is False     # it is of the page that saved it


def test_all_of_a_label_comes_back(spotted, tmp_path):
    """A table's and other programs' columns, too."""
    results = shutil.copytree(spotted / "out" / MATCH, tmp_path / "m")
    for name, content in {
            "labels.csv": "video,time,label,team,Player,visibility\nm,1,Goal,home,Zoé,not shown\n",
            "labels.json": json.dumps({"data": [{"id": "m", "events": [
                {"label": "Goal", "position_ms": 1000, "head": "action", "team": "home",
                 "player": "Zoé", "visibility": "not shown"}]}]}),
            "val.json": json.dumps([{"video": "m", "fps": 25, "events": [
                {"frame": 25, "label": "Goal", "comment": "not shown", "team": "home",
                 "player": "Zoé"}]}]),
            "m.xml": "<file><ALL_INSTANCES><instance><start>1</start><code>Goal</code>" + "".join(
                f"<label><group>{group}</group><text>{text}</text></label>" for group, text in (
                    ("team", "home"), ("player", "Zoé"), ("visibility", "not shown")))
            + "</instance></ALL_INSTANCES></file>"}.items():
        (tmp_path / name).write_text(content)
        labels = soccernet.find_labels(tmp_path / name, ["m"])["m"]
        _, data = data_of(page.from_results(results, ".", labels))
        (*row, more, _), = data["truth"]
        assert row == [1, 1000, "Goal"], name
        assert more | {"comment": 0} == {"team": "home", "player": "Zoé", "visibility":
                                         "not shown", "comment": 0}, name
    (tmp_path / LABELS).write_text('{"annotations": [{"gameTime": "1 - 00:01", "label": "Goal", '
                                   '"x": 1e999}], "y": -1e999}')
    _, data = data_of(page.from_results(results, ".", tmp_path / LABELS))
    assert data["head"] == {"y": "-Infinity"} and data["truth"][0][3]["x"] == "Infinity"


def test_a_browser_that_keeps_nothing_says_so(visit, spotted):
    tab = visit(spotted / "out" / MATCH / "page.html", "Object.defineProperty(window, "
                "'localStorage', { get() { throw new DOMException('no') } })")
    assert "keeps nothing" in tab.inner_text("#note")
    tab.click("#list .go >> nth=1")
    assert chosen(tab, "a") == "0:12" and (1, "Foul & hands", 12_250) in labels_of(tab)
    tab.reload()
    assert tab.asked == ["beforeunload"]


def test_what_to_label_next(tab):
    """Those first whose confidence is nearest to a half: 0.4, 0.7, 0.9, and the label at 0:35,
    where the network is sure of nothing; what is reviewed is passed over."""
    tab.click("#order")
    assert [row.split()[0] for row in listed(tab)] == ["0:12", "0:20", "0:10", "0:35"]
    assert [chosen(tab, key) for key in ("u", "u", "ru", "u", "u")] == [
        "0:12", "0:20", "0:10", "0:35", "0:12"]


def test_labels_without_a_place_on_the_page_are_kept(spotted, tmp_path, visit):
    """Of a class that the network does not know, of a half without results."""
    folder = tmp_path / "m"
    write_results(folder, "Goal", about={"classes": ["Goal"]})
    soccernet.write_scores(folder / SCORES, "m", ("Goal",), [
        Half("m", 1, "", "", 8, ".jpg", 1, 80)], [torch.zeros(40, 1)], [None], 0.0)
    labels = tmp_path / LABELS
    rows = [(1, "Goal", 1000), (1, "Nap", 2000), (2, "Goal", 3000)]
    labels.write_text(json.dumps({"annotations": [
        {"gameTime": f"{n} - 00:00", "label": name, "position": ms} for n, name, ms in rows]}))
    tab = visit(page.from_results(folder, ".", labels))
    assert labels_of(tab) == rows
    assert len(listed(tab)) == 1
    assert tab.locator("#halves").is_hidden()              # one file is no first half


def test_a_video_is_labelled_from_nothing(spotted, tmp_path, visit, capsys, monkeypatch):
    """Keys and buttons alone; stage 3 takes what is saved."""
    monkeypatch.chdir(tmp_path)
    names = ("Goal", 'Foul "hard"', "Parade à Zoé")
    (tmp_path / "classes.txt").write_text("\n".join(names))
    (tmp_path / "videos").mkdir()
    shutil.copy(spotted / "videos" / MATCH / "1_224p.mp4", tmp_path / "videos" / "Spiel ü.mp4")
    command("page", "--video", "videos/Spiel ü.mp4", "--classes", "classes.txt")
    path = tmp_path / "runs" / "page" / "Spiel ü" / "page.html"
    assert f"report: {path.relative_to(tmp_path)}" in capsys.readouterr().out
    tab = visit(path)
    tab.wait_for_function("video.readyState >= 1")
    assert (listed(tab), tab.inner_text("#count")) == ([], "0 actions")
    assert tab.inner_text("header").count("Spiel ü") == 1  # its title is its name
    assert not tab.locator(".spots, .truth, #halves").filter(visible=True).count()
    for key in "jknuard[],.mzZ+-0121":                     # nothing to do, and nothing breaks
        tab.keyboard.press(key)
    for second, keys in ((4, "ii"), (10.04, "icF"), (20, "icP")):
        tab.evaluate(f"seek({second})")
        for key in keys:
            tab.keyboard.press(key)                        # its first letter chooses a class
        if "c" in keys:
            tab.keyboard.press("Enter")
    assert listed(tab) == ["0:04 Goal added", '0:10 Foul "hard" added', "0:20 Parade à Zoé added"]
    tab.click("#list .go >> nth=0")
    chosen(tab, ["Delete"])
    tab.select_option("#class", index=2)
    tab.click("#add")                                      # 3 s before it
    tab.click("#list .go >> nth=1")
    tab.click("#edit button >> text=+½ s")
    folder = tmp_path / "videos" / "Spiel ü"
    folder.mkdir()
    (folder / LABELS).write_text(saved(tab, "labels"))
    prepare.extract(prepare.parse_args("frames --videos videos --out frames --jobs 1".split()))
    _, events, _ = soccernet.labelled_halves("frames", "videos", classes=names)
    assert events == {"Spiel ü": [(1, 2, 1000, True), (1, 1, 10_540, True), (1, 2, 20_000, True)]}
    (tmp_path / "one.txt").write_text(names[1])
    capsys.readouterr()
    for flags, n, said in (("--classes classes.txt", 3, ""), ("", 3, "classes: 2 from the labels"),
                           ("--classes one.txt", 1, "not shown, but saved: 'Parade à Zoé' (2)")):
        command("page", "--video", "videos", "--labels", "videos", *flags.split())
        assert len(listed(visit(path))) == n and said in capsys.readouterr().out


@pytest.mark.parametrize("flags, said", [
    ("", "give the folder that infer.py wrote, or --video"), ("out --video a.mp4", "give the fol"),
    ("out --classes a.txt", "--classes is for --video"), ("out --out a", "--out is for --video"),
    ("--video a.mp4 --videos .", "--videos is for results"),
    ("--video a.mp4 --match m", "--match is for results")])
def test_a_page_is_of_results_or_of_a_video(flags, said, capsys):
    with pytest.raises(SystemExit):
        command("page", *flags.split())
    assert said in capsys.readouterr().err


def test_a_video_that_does_not_play(spotted, tmp_path, visit):
    """It gets the line that makes one of it which does."""
    folder = shutil.copytree(spotted / "out" / MATCH, tmp_path / "out")
    source = tmp_path / 'a "$1" b\'c.mpg'
    write_video(source, 5, "mpeg2video", 25)
    content = json.loads((folder / PREDICTIONS).read_text())
    content["about"]["videos"] = {"1": f"../{source.name}"}
    (folder / PREDICTIONS).write_text(json.dumps(content))
    tab = visit(page.from_results(folder, "m"))
    tab.wait_for_selector("#ffmpeg")
    line = shlex.split(tab.inner_text("#ffmpeg"))
    made = f"../{source.stem}.browser.mp4"
    assert line[:3] == ["ffmpeg", "-i", f"../{source.name}"] and line[-1] == made
    assert tab.locator("#video").is_hidden()
    if shutil.which("ffmpeg"):
        subprocess.run([*line, "-v", "error"], cwd=folder, check=True)
        tab.set_input_files("#file", str(folder / made))
        tab.wait_for_function("video.duration > 4 && !video.hidden")


def test_results_of_frames_show_the_video(spotted, tmp_path, visit, capsys):
    """--videos finds it by the name of the match; without it the frames stand in their shape."""
    folder = shutil.copytree(spotted / "out" / MATCH, tmp_path / "out" / MATCH)
    content, frames = json.loads((folder / PREDICTIONS).read_text()), tmp_path / "frames"
    frames.mkdir()
    for n in range(1, 81):
        cv2.imwrite(str(frames / f"{n:08d}.jpg"), np.full((60, 30, 3), 200, np.uint8))
    content["about"]["videos"] = {"1": f"{'../' * (MATCH.count('/') + 2)}frames"}
    (folder / PREDICTIONS).write_text(json.dumps(content))
    command("page", tmp_path / "out")
    tab = visit(folder / "page.html")
    tab.wait_for_function("!frame.hidden && frame.naturalWidth === 30")
    assert tab.evaluate("document.querySelector('#list img').naturalWidth") == 32          # of 63
    command("page", tmp_path / "out", "--videos", spotted / "videos")
    assert "note" not in capsys.readouterr().out
    visit(folder / "page.html").wait_for_function("video.duration === 40 && frame.hidden")
    command("page", tmp_path / "out", "--videos", spotted / "videos" / "cup")
    assert f"note: {MATCH}: no video of it" in capsys.readouterr().out
