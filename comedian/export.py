"""
Spotted actions in the forms of other programs: a table, subtitles, Sportscode, OpenSportsLab.

    python -m comedian.report export runs/test --format csv                 # <match>/actions.csv
    python -m comedian.report export runs/test --format sportscode --lead 5 --lag 8

A table and OpenSportsLab's JSON hold the match; they are read back as labels or predictions
(labels.read_many). Subtitles and Sportscode belong to one video: a file per half. page.html writes
the same texts from the browser.
"""
import contextlib
import json
import re
import tempfile
from decimal import ROUND_HALF_UP, Decimal
from pathlib import PurePosixPath
from typing import NamedTuple
from xml.sax.saxutils import escape

from comedian import DataError, formats, labels, soccernet, write_text

OUTPUTS = re.compile(r"page\.html|timeline_[12]\.png|actions(\.(csv|json)|_[12]\.(vtt|srt|xml))")
ENDING = {"csv": "csv", "vtt": "vtt", "srt": "srt", "sportscode": "xml", "osl": "json"}
OF_MATCH = ("csv", "osl")                     # the others are of a half
OSL_FPS = 2                                   # of `frame`: opensportslib's tolerances are of 2 fps
LATEST_MS = 10 ** 10                          # four months into a video: nothing is later


class Action(NamedTuple):
    """A spotted action."""
    half: int
    position_ms: int                          # from the start of the half's video
    label: str
    confidence: float                         # four decimals


def read_results(path, classes=None):
    """(Detections, classes, about) of a results_spotting.json of any program, for a picture, a page
    or a table. DataError for values that these cannot show, even if the metric accepts them.
    Classes, if not given, are those stored in the results, else the labels in it; about is {} for
    other programs."""
    soccernet.read_predictions(path, ())                   # a DataError for what is none
    names = soccernet.count_names([path], "predictions")
    about = soccernet.about_results(path)
    classes = classes or tuple(about.get("classes") or sorted(map(str, names)))
    found = soccernet.read_predictions(path, classes)
    if n_lost := names.total() - len(found.half):
        print(f"warning: {path}: {n_lost} of {names.total()} actions are left out: their half is "
              f"neither 1 nor 2, or their class is none of the {len(classes)}")
    try:
        for name in names:            # half a surrogate pair is no text either
            if not isinstance(name, str) or re.search("[\ud800-\udfff]", name):
                raise ValueError(f"the label {name!r} is no text")
        json.dumps(about, ensure_ascii=False, allow_nan=False).encode(errors="surrogateescape")
        for what, values, most in (("confidence", found.confidence, 1),
                                   ("position", found.position_ms, LATEST_MS)):
            wrong = values[~((values >= 0) & (values <= most))]               # nan is, too
            if len(wrong):
                raise ValueError(f"a {what} of {wrong[0]:g}, not from 0 to {most:g}")
    except (ValueError, RecursionError) as error:          # UnicodeEncodeError is one, too
        raise formats.refused(path, "results that can be shown", error) from None
    return found, classes, about


def actions_of(path, threshold=0.0, classes=None):
    """([Action], classes, about) of `read_results`: actions from `threshold` on, by half and time,
    the surest first of those at one time."""
    found, classes, about = read_results(path, classes)
    rows = zip(*(column.tolist() for column in found), strict=True)
    actions = [Action(half, int(position_ms), classes[label], round(abs(confidence), 4))
               for half, label, position_ms, confidence in rows]             # abs: of -0.0
    return sorted((action for action in actions if action.confidence >= threshold),
                  key=lambda row: (*row[:2], -row.confidence)), classes, about


def clock(ms, decimal=".", hours=False):
    """754250 -> 12:34.250, with hours 00:12:34.250; nothing is before the start."""
    seconds, ms = divmod(max(0, round(ms)), 1000)
    minutes, seconds = divmod(seconds, 60)
    front = f"{minutes // 60:02d}:{minutes % 60:02d}" if hours else f"{minutes:02d}"
    return f"{front}:{seconds:02d}{decimal}{ms:03d}"


def cell(text):
    """A text in a table. Spreadsheets would compute one that begins as a formula does: it gets an
    apostrophe before it, which they and labels.py take off."""
    text = re.sub(r"^(?='*[=+\-@\t\r])", "'", text)
    return '"' + text.replace('"', '""') + '"' if re.search('[",\r\n]', text) else text


def as_csv(match, actions):
    """video,half,time,label,confidence: a line per action; video: see `table_name`."""
    return "video,half,time,label,confidence\n" + "".join(
        f"{cell(table_name(match, half))},{half},{clock(ms)},{cell(label)},{confidence:.4f}\n"
        for half, ms, label, confidence in actions)


def table_name(match, half):
    """The name of the match; of one that a reader would take for a video's, as season/1 or a.mp4,
    that of a half in it."""
    with contextlib.suppress(ValueError):
        if labels.video_of(match)[0] == match:
            return match
    return f"{match}/{half}"


def check_table(path, match, actions):
    """DataError, naming the results `path`, unless these come back as labels from `as_csv`."""
    rows = [labels.Row(half, label, ms, True) for half, ms, label, _ in actions]
    with tempfile.NamedTemporaryFile(suffix=".csv") as file:
        write_text(file.name, as_csv(match, actions))
        try:
            found = labels.read_many(file.name) if rows else {}
        except DataError as error:
            raise DataError(f"{path}: the table of {match!r} could not be read again: "
                            + str(error).removeprefix(f"{file.name}: ")) from None
    if {name: listed.rows for name, listed in found.items()} != ({match: rows} if rows else {}):
        raise DataError(f"{path}: the table of {match!r} would be read as another match's; rename "
                        "its folder")


def one_line(label):
    """A label without line breaks and without characters that XML forbids."""
    return re.sub("[\0-\x1f\x7f-\x9f\u2028\u2029\ufffe\uffff]", " ", label)


def short(confidence):
    """0.125 -> 0.13: two decimals, halves up as in JavaScript."""
    return Decimal(confidence).quantize(Decimal("0.01"), ROUND_HALF_UP)


def span(ms, lead_ms, lag_ms):
    """(start, end) of a cue or clip, ms; a player wants an end after the start."""
    start = max(0, ms - lead_ms)
    return start, max(ms + lag_ms, start + 1)


def as_vtt(actions, lead_ms, lag_ms):
    """WebVTT: a cue from lead before to lag after each action. Players show it over the video."""
    return "WEBVTT\n" + "".join(
        f"\n{n}\n{clock(start, hours=True)} --> {clock(end, hours=True)}\n"
        f"{escape(one_line(label))} {short(confidence)}\n"
        for n, (_, ms, label, confidence) in enumerate(actions, 1)
        for start, end in [span(ms, lead_ms, lag_ms)])


def as_srt(actions, lead_ms, lag_ms):
    """SubRip: the same for older players."""
    return "\n".join(
        f"{n}\n{clock(start, ',', True)} --> {clock(end, ',', True)}\n"
        f"{one_line(label)} {short(confidence)}\n"
        for n, (_, ms, label, confidence) in enumerate(actions, 1)
        for start, end in [span(ms, lead_ms, lag_ms)])


def as_sportscode(actions, lead_ms, lag_ms):
    """XML of Hudl Sportscode, which other editors of clips import as well."""
    return ('<?xml version="1.0" encoding="UTF-8"?>\n<file>\n<ALL_INSTANCES>\n' + "".join(
        f"<instance><ID>{n}</ID><start>{start / 1000:.3f}</start>"
        f"<end>{end / 1000:.3f}</end><code>{escape(one_line(label))}</code><label><group>"
        f"confidence</group><text>{short(confidence)}</text></label><label><group>position_ms"
        f"</group><text>{ms}</text></label></instance>\n"
        for n, (_, ms, label, confidence) in enumerate(actions, 1)
        for start, end in [span(ms, lead_ms, lag_ms)])
        + "</ALL_INSTANCES>\n</file>\n")


def as_osl(match, actions, classes, about):
    """OpenSportsLab's JSON, which opensportslib evaluates: an entry of data[] per half."""
    halves = sorted({action.half for action in actions}
                    | {int(half) for half in about.get("videos", {})})
    data = [{"id": f"{match}/{half}",
             "inputs": [{"type": "video", "path": video_name(match, half, about), "fps": OSL_FPS}],
             "events": [{"head": "action", "label": label, "position_ms": ms,
                         "frame": OSL_FPS * ms // 1000, "half": str(half),
                         "gameTime": f"{half} - {clock(ms)[:-4]}", "confidence": confidence}
                        for of_half, ms, label, confidence in actions if of_half == half]}
            for half in halves]
    text = json.dumps({"version": "2.0", "task": "action_spotting",
                       "labels": {"action": {"type": "single_label", "labels": list(classes)}},
                       "data": data}, ensure_ascii=False, allow_nan=False, indent=1) + "\n"
    return text.encode(errors="backslashreplace").decode()           # names that are not UTF-8


def video_name(match, half, about):
    """The path of a half's video below the folder of all videos, as labels.video_of reads it."""
    name = PurePosixPath(about.get("videos", {}).get(str(half), str(half))).name
    for place in (PurePosixPath(match).parent / name, PurePosixPath(match) / name):
        with contextlib.suppress(ValueError):              # .. is no video
            if labels.video_of(place.as_posix()) == (match, half):
                return place.as_posix()
    return f"{match}/{half}"


def texts(match, actions, classes, about, kind, lead_ms=3000, lag_ms=3000):
    """{name of a file: its text}: actions.csv, or actions_1.vtt and actions_2.vtt."""
    if kind == "csv":
        return {"actions.csv": as_csv(match, actions)}
    if kind == "osl":
        return {"actions.json": as_osl(match, actions, classes, about)}
    write = {"vtt": as_vtt, "srt": as_srt, "sportscode": as_sportscode}[kind]
    return {f"actions_{half}.{ENDING[kind]}":
            write([action for action in actions if action.half == half], lead_ms, lag_ms)
            for half in sorted({action.half for action in actions})}


def remove(path, why=None):
    """Removes an output, and says why."""
    from tqdm import tqdm
    try:
        path.unlink()
    except OSError as error:
        raise DataError(f"{path}: cannot be removed ({error.strerror}); move it away") from None
    if why:
        tqdm.write(f"note: {path}: removed, {why}")
