"""
What these tests prove about report.py and draw.py:
  1. a log is read as the stages write it, resumed runs too, and drawn with the numbers in it
  2. a timeline's marks stand at the times and heights of what infer.py stored, merged as there
  3. the pictures are there and 1200 pixels wide; wrong input is one line
  4. means of several seeds are those of the formulas
"""
import inspect
import json
import re

import cv2
import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgba

from comedian import DataError, draw, page, reference, report, soccernet
from comedian.run import Journal, Log
from comedian.soccernet import LABELS, PREDICTIONS, SCORES, Detections, Event

CLASSES = ("Goal", "Foul", "Corner", "Kick-off")
MATCHES = ("league/2031/Dale 1 - 4 Castle", "league/2031/Hill 2 - 1 North")
STAGE2 = "".join(f"stage 2 | step {line} | 0.6 GB | 00:09 left\n" for line in (
    "50/350 | loss 10.3766 | divergence 1.2345 | lr 1.99e-03 | grad 1.12 | 1575 clips/s",
    "100/350 | loss 10.2483 | divergence 1.1234 | lr 1.81e-03 | grad 1.27 | 1562 clips/s"))
STAGE3 = """\
stage 3 | step 4/8 | loss 0.2345 | base 0.3456 | lr 1.5e-03 | grad 0.05 | 526 clips/s | 0.6 GB
stage 3 | step 4/8 | valid t-AmAP 1.85 % | best 1.85 %
stage 3 | step 8/8 | loss 0.1234 | base 0.3456 | lr 2.0e-05 | grad 0.05 | 526 clips/s | 0.6 GB
stage 3 | step 8/8 | valid t-AmAP 1.25 % | best 1.85 %
"""


def write_run(folder, log):
    folder.mkdir(parents=True)
    (folder / "log.txt").write_text(log)
    return folder


@pytest.fixture
def spotted(tmp_path):
    """(scores, labels): what infer.py leaves for two matches, 40 s of half 1 in windows of 16 s.

    In each, a Goal is spotted at 12.25 s with 0.9, a Foul at 30.25 s with 0.5, a Corner with 0.1.
    What happened: a Goal at 12.4 s, a Kick-off that is not shown at 20 s, and a Foul in half 2.
    Of the second match there are 10 s of half 2 as well, with a Corner in second 6.
    """
    starts = np.array([0, 8, 16, 24])
    windows, second = np.zeros((4, 16, 4), np.float32), np.zeros((1, 16, 4), np.float32)
    for w, start in enumerate(starts):
        for token, label, score in ((12, 0, 0.9), (30, 1, 0.5)):
            if 0 <= token - start < 16:
                windows[w, token - start, label] = score
    windows[1, 15, 2] = 1                 # second 23 at the window's edge: merging ignores it
    second[0, 6, 2] = 0.7
    half_2 = {"windows_2": second, "starts_2": np.array([0]), "tokens_2": 10}
    found = Detections(np.array([1, 1, 1, 2]), np.array([0, 1, 2, 0]),
                       np.array([12250, 30250, 5250, 7250]), np.array([0.9, 0.5, 0.1, 0.9]))
    for match, more in zip(MATCHES, ({}, half_2), strict=True):
        folder, labels = tmp_path / "scores" / match, tmp_path / "labels" / match / LABELS
        soccernet.write_predictions(folder / PREDICTIONS, match, found, CLASSES)
        np.savez(folder / SCORES, classes=np.array(CLASSES), token_s=1.0, url_local=match,
                 windows_1=windows, starts_1=starts, tokens_1=40, **more)
        labels.parent.mkdir(parents=True)
        labels.write_text(json.dumps({"annotations": [
            {"gameTime": f"{half} - 00:00", "label": label, "position": ms, "visibility": seen}
            for half, label, ms, seen in ((1, "Goal", "12400", "visible"),
                                          (1, "Kick-off", "20000", "not shown"),
                                          (2, "Foul", "8000", "visible"))]}))
    return tmp_path / "scores", tmp_path / "labels"


def run(*arguments):
    """The command as a user types it."""
    report.main(report.parse_args([str(argument) for argument in arguments]))


def marks(figure):
    """{first word of the legend: (x, y) of its marks, (n, 2)} of a timeline's dots and flags."""
    return {c.get_label().split()[0].rstrip(":,"): np.asarray(c.get_offsets())
            for c in figure.axes[0].collections if c.get_label().startswith(("spotted", "true"))}


def curves_of(figure):
    """The outlines of a timeline's scores, a row each: [(n, 2)]."""
    return [c.get_paths()[0].vertices for c in figure.axes[0].collections
            if c.get_label().startswith("score")]


def texts_of(texts):
    return [text.get_text() for text in texts]


def timeline(out, spotted, **options):
    """The Figure of half 1 of the first match."""
    scores, labels = spotted[0] / MATCHES[0], spotted[1] / MATCHES[0]
    options.setdefault("events", soccernet.read_labels(labels / LABELS, CLASSES))
    return draw.timeline(out, "Dale 1 - 4 Castle", 1, *page.read_half(scores, 1),
                         soccernet.read_predictions(scores / PREDICTIONS, CLASSES), **options)


# ------------------------------------------------------------------ curves
def test_the_stages_still_write_such_lines(tmp_path):
    """What run.Log writes for them is what read_log looks for."""
    written = Log(tmp_path, "stage 3", 0, 8, torch.device("cpu"), lambda step: [])
    values = {"loss": torch.tensor(0.2345), "base": torch.tensor(0.3456)}
    written.add(4, values, torch.tensor(0.05), clips=64)
    written.line(4, 1.5e-3)
    written.write("step 4/8 | valid t-AmAP 1.85 % | best 1.85 %")
    written.close()
    log = draw.read_log(tmp_path)
    assert (log.stage, log.total) == (3, 8)
    assert log.loss.tolist() == [[4, 0.2345, 1.5e-3]] and log.valid.tolist() == [[4, 1.85]]
    source = inspect.getsource(Journal)
    assert "{self.last} | valid t-AmAP {" in source and 'f"stage {self.stage}"' in source


def test_log_of_a_resumed_run_counts_a_step_once(tmp_path):
    """Killed after step 100, resumed from a checkpoint at 50: the later line of step 100 holds."""
    again = STAGE2.splitlines()[1].replace("10.2483", "10.2000")
    more = again.replace("step 100/350", "step 150/400")
    log = draw.read_log(write_run(tmp_path / "run", f"{STAGE2}{again}\n{more}\nstage 2 | step 2"))
    assert log.total == 400
    assert log.loss[:, :2].tolist() == [[50, 10.3766], [100, 10.2], [150, 10.2]]


def test_curves(tmp_path):
    """Of many runs some take another row; a name that is not UTF-8 is drawn escaped."""
    logs = [draw.read_log(write_run(tmp_path / name, text))
            for name, text in (("two", STAGE2), ("three", STAGE3))]
    assert [(log.stage, log.total, len(log.valid)) for log in logs] == [(2, 350, 0), (3, 8, 2)]
    figure = draw.panels(tmp_path / "new/curves.png", logs, ["runs/two", "caf\udce9/x"])
    height, width, _ = cv2.imread(str(tmp_path / "new/curves.png")).shape
    assert width == 1200 and 400 < height < 500
    lines = {(line.get_label().split(",")[0], *line.get_xdata()): line.get_ydata().tolist()
             for axes in figure.axes for line in axes.lines}
    assert lines == {("loss", 50, 100): [10.3766, 10.2483], ("loss", 4, 8): [0.2345, 0.1234],
                     ("t-AmAP", 4, 8): [1.85, 1.25]}
    words = {word for axes in figure.axes for word in texts_of(
        [*axes.texts, *(axes.get_legend().get_texts() if axes.get_legend() else ())])}
    assert {"learning rate, logged up to 2.0e-03", "t-AmAP, best 1.9 %", "runs/two",
            r"caf\udce9/x"} <= words
    figure = draw.panels(tmp_path / "four.png", [logs[0]] * 4, list("abcd"))
    assert cv2.imread(str(tmp_path / "four.png")).shape[1] == 1200
    panels = [axes for axes in figure.axes if axes.get_title(loc="left")]
    assert [panel.get_subplotspec().rowspan.start for panel in panels] == [0, 0, 0, 1]


def test_runs_on_one_axis(tmp_path):
    runs = [write_run(tmp_path / name, STAGE3) for name in "ab"]
    figure = draw.overlay(tmp_path / "c.png", [draw.read_log(run) for run in runs], ["a", "b"])
    assert [[line.get_label() for line in panel.lines] for panel in figure.axes] == [
        ["a", "b"], ["a, best 1.9 %", "b, best 1.9 %"]]
    run("curves", *runs, "--together", "--out", tmp_path / "c.svg")
    with pytest.raises(DataError, match="needs runs of one stage, these are of stages 2 and 3"):
        run("curves", runs[0], write_run(tmp_path / "two", STAGE2), "--together")


# ------------------------------------------------------------------ timeline
def test_scores_are_merged_as_infer_does(spotted):
    scores, token_s, start_s, classes = page.read_half(spotted[0] / MATCHES[0], 1)
    assert scores.shape == (40, 4) and (token_s, start_s) == (1, 0) and classes == CLASSES
    assert scores[12, 0] == np.float32(0.9) and scores[30, 1] == np.float32(0.5)
    assert np.count_nonzero(scores) == 2  # the score at a window's edge is not among them
    stored = soccernet.read_scores(spotted[0] / MATCHES[0]).windows
    merged = reference.merge_windows(*stored, edge=3)        # 3 / 16 of a window, as infer.py
    assert torch.equal(torch.from_numpy(scores), merged)
    scores, *_ = page.read_half(spotted[0] / MATCHES[1], 2)
    assert scores.shape == (10, 4) and np.argwhere(scores).tolist() == [[6, 2]]


def test_marks_stand_where_things_happened(tmp_path, spotted):
    figure = timeline(tmp_path / "timeline.png", spotted)
    axes, = figure.axes
    assert texts_of(axes.get_yticklabels()) == ["Goal  1 / 1", "Foul  1 / 0", "Kick-off  0 / 1"]
    assert axes.get_title(loc="left") == "Dale 1 - 4 Castle, first half"
    found = marks(figure)                 # the rows' feet are 0, -1, -2
    np.testing.assert_allclose(found["spotted"],
                               [[12.25, 0.9 * draw.ROW], [30.25, -1 + 0.5 * draw.ROW]])
    np.testing.assert_allclose(found["true"], [[12.4, draw.FLAG], [20, -2 + draw.FLAG]])
    assert [tuple(top[top[:, 1].argmax()].round(4)) for top in curves_of(figure)[:2]] == [
        (12.25, round(0.9 * draw.ROW, 4)), (30.25, round(-1 + 0.5 * draw.ROW, 4))]
    assert [text.split()[0].rstrip(":,") for text in texts_of(axes.get_legend().get_texts())] == [
        "score", "spotted", "true"]
    lines = [c for c in axes.collections if np.allclose(c.get_edgecolor(), to_rgba(draw.TRUTH))
             and len(c.get_paths()) == 2]
    assert [path.vertices[:, 0].tolist() for path in lines[0].get_paths()] == [[12.4] * 2, [20] * 2]
    image = cv2.imread(str(tmp_path / "timeline.png"))
    assert image.shape[1] == 1200 and len(np.unique(image.reshape(-1, 3), axis=0)) > 50


@pytest.mark.parametrize("threshold, seconds", [
    (0.6, [12.25]), (0.5, [12.25, 30.25]), (0, [5.25, 12.25, 30.25])])
def test_threshold_chooses_what_is_shown(tmp_path, spotted, threshold, seconds):
    """The sure ones, from 0.5 on, with their time."""
    figure = timeline(tmp_path / "t.png", spotted, threshold=threshold)
    assert marks(figure)["spotted"][:, 0].tolist() == seconds
    assert texts_of(figure.axes[0].texts) == ["0:12", "0:30"][:2 if threshold < 0.6 else 1]


def test_times_are_written_where_there_is_room(tmp_path):
    both = Detections(np.ones(3, int), np.zeros(3, int), np.array([5e3, 6e3, 9e3]), np.ones(3))
    figure = draw.timeline(tmp_path / "t.png", "m", 1, np.zeros((60, 1)), 1.0, 0.0, ("a",), both)
    assert texts_of(figure.axes[0].texts) == ["0:05", "0:09"]


def test_time_is_token_s_and_ticks_read_as_a_clock(tmp_path):
    """A half of 45 minutes, tokens of 2 s, and no event at all: then every class has its row. It is
    wrapped into three strips."""
    none = Detections(*(np.zeros(0, int),) * 3, np.zeros(0))
    figure = draw.timeline(tmp_path / "t.png", "m", 2, np.zeros((1350, 17)), 2.0, 0.0,
                           soccernet.SOCCERNET_CLASSES, none)
    assert [one.get_xlim() for one in figure.axes] == [
        pytest.approx((900 * i - 4.5, 900 * (i + 1) + 4.5)) for i in range(3)]
    assert max(curve[:, 0].max() for curve in curves_of(figure)) == 2698.5    # 1/4 into the last
    assert len(figure.axes[0].get_yticklabels()) == 17 and "true" not in marks(figure)
    ticks = [text for text in texts_of(figure.axes[0].get_xticklabels()) if text]
    assert ticks[ticks.index("0:00"):][:8] == [f"{m}:00" for m in range(0, 16, 2)]
    assert draw.clock(125) == "2:05"
    assert cv2.imread(str(tmp_path / "t.png")).shape[1] == 1200


def test_a_part_of_a_half_stands_at_its_own_time(tmp_path, spotted):
    """infer.py --start 0:12: the first score is that of second 12; what was before is not shown."""
    path = spotted[0] / MATCHES[0] / SCORES
    np.savez(path, **dict(np.load(path)) | {"start_s": 12.4})
    assert page.read_half(path.parent, 1)[2] == 12.4
    figure = timeline(tmp_path / "t.png", spotted, events=[
        Event(1, 0, 12_300, True), Event(1, 1, 12_500, True)])
    assert figure.axes[0].get_xlim() == pytest.approx((12.2, 52.6))
    assert marks(figure)["true"][:, 0].tolist() == [12.5]
    time_s = curves_of(figure)[0][:, 0]
    assert (time_s.min(), time_s.max()) == pytest.approx((12.65, 51.65))


# ------------------------------------------------------------------ the command
def test_the_command(tmp_path, spotted, capsys):
    scores, labels = spotted
    run("timeline", scores, "--labels", labels, "--match", "hill", "--out", tmp_path / "t.png")
    run("curves", write_run(tmp_path / "run", STAGE3), "--out", tmp_path / "c.svg")
    assert capsys.readouterr().out.count("report: ") == 2
    assert (tmp_path / "t.png").stat().st_size > 5000
    assert "Stage 3: spotting" in (tmp_path / "c.svg").read_text()


TABLE = f"{MATCHES[0]},0:05,Goal\n{MATCHES[1]},12:34:00,Foul\nDael,0:05,Goal\n"


@pytest.mark.parametrize("picture, table, said", [
    ("page", TABLE, r"^warning: .*1 of the videos that it names are not here: 'Dael'.*"
     r"\nwarning: 1 of 2 labels reach no frame: 1 after the end \(first: Foul at 12:34:00"),
    ("timeline", TABLE, "^warning: .*1 of the videos that it names are not here: 'Dael'"),
    *((picture, *row) for picture in ("page", "timeline") for row in (
        (f"Castle/{MATCHES[0]},12:34:00,Foul\n", "^refused: .*none of its 1 .*Excel makes of"),
        ("Dael,0:05,Foul\n", "\nrefused: .*no Labels-v2.json for 'league/2031/Dale")))])
def test_labels_are_counted(picture, table, said, spotted, tmp_path, capsys):
    """As by stage 3, infer.py and comedian.evaluate."""
    (tmp_path / "l.csv").write_text(f"video,time,label\n{table}")
    out = ("--out", tmp_path / "t.png") if picture == "timeline" else ()
    try:
        run(picture, spotted[0], "--labels", tmp_path / "l.csv", *out)
    except DataError as error:
        print(f"refused: {error}")
    assert re.search(said, capsys.readouterr().out)


def test_a_match_in_its_own_folder_finds_its_labels(spotted, capsys):
    folder = spotted[0] / MATCHES[0]
    run("page", folder, "--labels", spotted[1])
    assert "not here" not in capsys.readouterr().out
    assert '"truth":[[1,12400' in (folder / "page.html").read_text()


def test_which_match(spotted):
    for name, match in ((None, MATCHES[0]), (MATCHES[1], MATCHES[1]), ("north", MATCHES[1])):
        assert report.find_match(spotted[0], name) == match
    for name, message in (("2031/", "is in 2 of 2 names.*Dale.*Hill"),
                          ("Hull 2 - 1 North", "near it: 'league/2031/Hill")):
        with pytest.raises(DataError, match=message):
            report.find_match(spotted[0], name)


def test_a_match_exported_from_its_own_folder_keeps_its_name(spotted):
    """Not "./1": the folder may be given itself."""
    folder = spotted[0] / MATCHES[0]
    run("export", folder, "--format", "osl")
    entry = json.loads((folder / "actions.json").read_text())["data"][0]
    assert entry["inputs"][0]["path"].startswith(folder.name), entry


def test_refuses(tmp_path, spotted):
    scores, _ = spotted
    write_run(tmp_path / "empty", "Traceback\n")
    (tmp_path / "nothing").mkdir()
    (tmp_path / "other/league").mkdir(parents=True)
    (tmp_path / "other/league" / LABELS).write_text('{"annotations": []}')
    for arguments, message in (
            (["curves", tmp_path / "empty"], "empty.log.txt: no line with a loss"),
            (["curves", tmp_path / "nothing"], "log.txt: cannot be read"),
            (["timeline", tmp_path / "absent"], "absent: no such folder"),
            (["timeline", tmp_path / "nothing"], "nothing: no scores.npz"),
            (["timeline", scores, "--half", 2], "scores.npz: no half 2 in it; see --half 1"),
            (["timeline", scores, "--labels", tmp_path / "other"],
             "no Labels-v2.json for 'league/2031/Dale"),
            (["timeline", scores, "--out", tmp_path / "t.xyz"],
             "t.xyz: 'xyz' is no picture format; name it .png, .svg or .pdf"),
            (["timeline", scores, "--out", tmp_path / "empty/log.txt/t.png"],
             "t.png: cannot be written")):
        with pytest.raises(DataError, match=message):
            run(*arguments)


# ------------------------------------------------------------------ several seeds
def write_metrics(folder, *t_amap):
    """A file per seed."""
    paths = [folder / f"{value}.json" for value in t_amap]
    for path, value in zip(paths, t_amap, strict=True):
        path.write_text(json.dumps(dict.fromkeys(report.NUMBERS.values(), {"a_mAP": value / 100})))
    return paths


def test_spread_by_hand():
    """Of 1, 2, 6: mean 3, sample deviation sqrt(7), interval 4.303 sqrt(7 / 3). With many values
    Student's t of the formula is that of the tables: 2.262 at 9, 2.086 at 20 degrees of freedom."""
    assert report.spread([1, 2, 6]) == (3, pytest.approx(7 ** 0.5),
                                        pytest.approx(4.303 * (7 / 3) ** 0.5))
    for n, student in ((10, 2.262), (21, 2.086), (61, 2.000)):
        _, deviation, half = report.spread(np.arange(n))
        assert half / deviation * n ** 0.5 == pytest.approx(student, abs=0.003)


def test_means_of_seeds(tmp_path, capsys):
    ours, theirs = write_metrics(tmp_path, 80, 82, 84), write_metrics(tmp_path, 70, 73, 73)
    run("mean", *ours, "--against", *theirs)
    first, row, *_ = capsys.readouterr().out.splitlines()
    assert first.startswith("n = 3")
    # Differences 10, 9, 11: their deviation is 1, half the interval 4.303 / sqrt(3) = 2.48.
    assert row.split("   ") == ["t-AmAP", "82.0 +- 2.0 (80.0, 82.0, 84.0)",
                                "72.0 +- 1.7 (70.0, 73.0, 73.0)", "+10.0 (+7.5 to +12.5)"]
    run("mean", *ours)
    assert capsys.readouterr().out.splitlines()[1].endswith("(80.0, 82.0, 84.0)")
    for wrong, message in ((ours[:1], "one seed has no spread"),
                           ([*ours, "--against", *theirs[:2]], "--against: 2 files, and 3 before")):
        with pytest.raises(DataError, match=message):
            run("mean", *wrong)


@pytest.mark.parametrize("content", ["[]", "{}", '{"tight": 3}', '{"tight": {"a_mAP": "x"}}',
                                     '{"tight": {"a_mAP": 2}}', '{"tight": {"a_mAP": NaN}}', "no"])
def test_means_of_something_else(tmp_path, content):
    (tmp_path / "bad.json").write_text(content)
    with pytest.raises(DataError, match=r"bad\.json: "):
        run("mean", *write_metrics(tmp_path, 80), tmp_path / "bad.json")
