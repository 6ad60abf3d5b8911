"""
What these tests prove about the page and the exports:
  1. exports are read by parsers that are not ours, and back as labels
  2. the page holds its data safely and stays small
  3. in a real browser: it loads, a click seeks, filters filter list and exports alike, errors are
     found, labels saved there are read by evaluate
The third needs chromium (apt install chromium) and playwright (pip install playwright).
"""
import base64
import json
import re
import shutil
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch

import comedian
from comedian import DataError, evaluate, export, page, report, soccernet
from comedian.frames import Half
from comedian.soccernet import LABELS, PREDICTIONS, SCORES, Detections

ROOT = Path(__file__).resolve().parents[1]
CLASSES = ("Goal", "Foul & hands", "Corner")
MATCH = 'cup/2031-03-08 - 18-00 Oak 2 - 1 "Kirk" <b>'
SPOTS = [                             # half, class, ms, confidence
    (1, 0, 10_250, 0.9), (1, 1, 12_250, 0.4), (1, 2, 20_250, 0.7), (1, 0, 30_250, 0.1),
    (2, 2, 5_250, 0.8), (2, 0, 15_250, 0.35)]
TRUTH = [(1, "Goal", 11_000), (1, "Corner", 35_000), (2, "Corner", 5_000)]


def write_video(path, seconds=40):
    """Ten grey pictures a second, each brighter than the one before."""
    path.parent.mkdir(parents=True)
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=10, options={"g": "10"})
        stream.width, stream.height, stream.pix_fmt = 64, 36, "yuv420p"
        for i in range(10 * seconds):
            grey = np.full((36, 64, 3), i * 255 // (10 * seconds), np.uint8)
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
        match: [(2, "Dive", 1500, True)]}


@pytest.mark.parametrize("match, label, reason", [
    ("m", "", "line 2: a time without a label"), ("m", "a\0b", "zero bytes"),
    ("m", "x" * 140_000, "field limit"), ("caf\udce9", "Dive", "not UTF-8"),
    ("a\\b", "Dive", "as of another match")])
def test_no_table_that_is_not_read_back(match, label, reason, tmp_path):
    write_results(tmp_path / match, label)
    with pytest.raises(DataError, match=f"{PREDICTIONS}: the table of .* read back.*{reason}"):
        command("export", tmp_path, "--format", "csv")
    assert not (tmp_path / match / "actions.csv").exists()


@pytest.mark.parametrize("kind, left", [
    ("vtt", []), ("srt", []), ("sportscode", []), ("csv", ["actions.csv"])])
def test_nothing_to_write_is_told(kind, left, spotted, tmp_path, capsys):
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
    said = f"{PREDICTIONS}: 1 of 1 actions are left out: of a half"
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
    source = (ROOT / "comedian" / "page.html").read_text()
    assert len(source.splitlines()) < 400
    assert not re.search(r"https?:|//cdn|\bimport\b|fetch\(", source)
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, (224, 398, 3), np.uint8)  # no picture takes more
    actions = [export.Action(1, 1000 * int(s), "Goal", 0.5) for s in rng.integers(0, 2700, 4000)]
    page.write_page(tmp_path / "page.html", "m", {1: (rng.random((2700, 17)), 1.0, 0.0)},
                    ("Goal", *map(str, range(16))), actions, {},
                    [soccernet.Event(1, 0, 1000 * s, True) for s in range(0, 2700, 9)],
                    pictures={1: {s + 0.25: page.small_picture(noise) for s in range(2700)}})
    assert 200_000 < (tmp_path / "page.html").stat().st_size < 3_000_000


def test_a_damaged_half_is_told_not_left_out(spotted, tmp_path):
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
@pytest.fixture(scope="module")
def browser():
    driver = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if not chromium:
        pytest.skip("no browser: apt install chromium")
    with driver.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def tab(browser, spotted):
    """The page of the match, loaded; at the end it must have raised no error, and called nobody."""
    tab, errors = browser.new_page(viewport={"width": 1200, "height": 900}), []
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.on("console", lambda message: message.type == "error" and errors.append(message.text))
    tab.on("request", lambda request: request.url.startswith("http") and errors.append(request.url))
    tab.goto((spotted / "out" / MATCH / "page.html").as_uri())
    tab.wait_for_function("video.readyState >= 1")
    yield tab
    tab.close()
    assert errors == []


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


@pytest.mark.parametrize("width, height", [(390, 844), (1280, 800)])
def test_nothing_sticks_out_at_the_side(tab, width, height):
    tab.set_viewport_size({"width": width, "height": height})
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    names = tab.evaluate("""[...document.querySelectorAll('button, input')].filter(
        e => !(e.textContent.trim() || e.ariaLabel || e.labels?.length)).map(e => e.outerHTML)""")
    assert names == []                                     # a screen reader has a word for each
