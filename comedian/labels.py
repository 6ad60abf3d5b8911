"""
What people have labelled or programs have spotted, from each form that it is kept in.

    Labels-v2.json   SoccerNet's, of one match: see `read_rows`
    a table          of many matches, a line per action; BORIS's and ELAN's too: see `table_rows`
    JSON             OpenSportsLab's, Label Studio's or E2E-Spot's, of many, or a Labels-v2.json
                     by itself, of the match that it names: see `json_rows`
    XML              Sportscode's, of one video, called as the video is: see `xml_rows`

`read_many` reads the last three into {match: Listed}. Below them: how a name tells the video, and a
text the time. soccernet.py finds such files, and the matches that they are of.
"""
import argparse
import codecs
import csv
import io
import itertools
import os
import re
import unicodedata
import urllib.parse
import xml.etree.ElementTree as ElementTree
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from comedian import DataError, formats
from comedian.formats import VIDEO_SUFFIXES, half_number, malformed, read_list, value_of


class Row(NamedTuple):
    """One annotated action under the name that its file gives it."""
    half: int
    name: str
    position_ms: int
    visible: bool
    more: dict | None = None          # what else its file says of it: its team, a player


class Listed(NamedTuple):
    """The labels or predictions of one match out of a file that may have those of many."""
    path: str
    rows: list                        # [Row], in file order
    confidences: tuple = ()           # of each row, as the file has it: a text, a number or None
    fps: float | None = None          # frames per second of its video, if the file says it
    classes: tuple = ()               # the names that the file lists, if it does

    def __str__(self):
        return str(self.path)


# ------------------------------------------------------------------ text and numbers
def nfc(name):
    """A name with its accents stored in one way: macOS takes them apart, others do not."""
    return unicodedata.normalize("NFC", name)


def folded(name):
    """A name without what the eye may miss: case, kinds of blanks, signs of no width, how an accent
    is stored."""
    name = "".join(sign for sign in name if unicodedata.category(sign) != "Cf")
    return " ".join(nfc(name).casefold().split())


def is_text(name):
    """Whether this can be a class: a text in one line, not all of it unseen."""
    return (isinstance(name, str) and folded(name) != ""
            and not {"Cc", "Cs", "Zl", "Zp"} & set(map(unicodedata.category, name)))


def whole_ms(value):
    """A position, whole ms. ValueError beyond what float64 counts one by one, 285,000 years."""
    ms = int(value)
    if abs(ms) > 2 ** 53:
        raise ValueError("a position beyond all halves")
    return ms


# ------------------------------------------------------------------ SoccerNet's own, tables, JSON
def read_rows(path):
    """The [Row] of a Labels-v2.json as the official evaluator reads them, in file order: `position`
    counts if there is one, else the minutes and seconds of `gameTime`, the last two digits of each.
    DataError for what that program crashes on."""
    rows = []
    for number, annotation in enumerate(read_list(path, "annotations", "a SoccerNet label file")):
        with malformed(path, f"annotation {number}", "gameTime, position or label"):
            time = annotation["gameTime"]
            half, minutes, seconds = int(time[0]), int(time[-5:-3]), int(time[-2:])
            position_ms = (whole_ms(value_of(annotation, "position", int))
                           if "position" in annotation else 1000 * (60 * minutes + seconds))
            rows.append(Row(half, name_of(annotation), position_ms,
                            annotation.get("visibility") != "not shown",
                            without(annotation, "gameTime", "label", "position")))
    return rows


def read_many(path, encoding=None, are_labels=True):
    """{match: Listed} of a file; names that are equal in Unicode NFC are one match. encoding: of a
    table. DataError if no video is named, and for predictions if labels are wanted."""
    path, found = Path(path), {}
    kind = path.name.lower().removesuffix(".gz").rpartition(".")[2]
    entries = (json_rows(path, are_labels) if kind == "json" else
               xml_rows(path) if kind == "xml" else table_rows(path, encoding))
    for match, row, confidence, *more in entries:
        match, rows, confidences, *_ = found.setdefault(nfc(match), (match, [], [], *more))
        if row:
            rows.append(row)
            confidences.append(confidence)
    if not found:
        raise formats.refused(path, "a list of labels", "no video is named in it")
    return {match: Listed(str(path), *of_match) for match, *of_match in found.values()}


NEEDED = ("video", "time", "label")
EXPORTED = ["video", "half", "time", "label", "confidence"]      # the head that export.py writes
CALLED = {                            # the columns that are read, as other programs call them
    "video": ("media file name", "media file path", "file path"),                # BORIS; ELAN
    "time": ("start (s)", "begin time - ss.msec", "begin time - hh:mm:ss.ms"),
    "label": ("behavior", "annotation"), "kind": ("behavior type",), "half": (), "visibility": (),
    "confidence": ("confidence_score", "probability")}
ELAN = re.compile(r"(begin|end) time - |duration - ")            # its columns besides tiers
ELAN_LINE = re.compile(r"[^\t]*\t[^\t]*\t\d\d:\d\d:\d\d\.\d{3}\t")       # it may leave out the head
CONFIDENCES = ("confidence", "confidence_score", "score", "probability")  # of OSL's predictions
GUARD = re.compile(r"^'(?='*[=+\-@\t\r])")   # what export.py writes before a cell of no formula


def table_rows(path, encoding=None):
    """(match, Row, confidence, None) of each line of a table with a head; Row None: see below.

        video,time,label                  the columns in any order, after , ; or a tab; others that
        cup/derby.mp4,12:34.5,Goal        may be there are half (1 or 2) and visibility ("not shown"
        league/2 - 1/2_224p.mkv,754,Foul  by the broadcast); what else is there is not looked at

    time: in that video, see `clock_s`. A line without time and label says that the video was
    watched: nothing happened in it. Blanks around a cell do not count, but in a table of export.py,
    which comes back to the byte. BORIS's events: the start of each behaviour is an action. ELAN's
    tab-delimited text, of the video that the file is called after: the begin of each annotation,
    under its text or, if that is empty, under its tier. DataError names the line.
    """
    what = "a table of labels"
    text = table_text(path, what, encoding)
    head = (re.search(r'^(?!"?#).*\S.*', text, re.MULTILINE) or [""])[0]    # ELAN's comments: #
    declared = re.match(r'"?sep=([^"\r])', head, re.IGNORECASE)      # Excel's word for ; or ,
    delimiter = declared[1] if declared else max(",;\t", key=head.count)
    is_elan = bool(ELAN_LINE.match(head) or ELAN.search(head.lower()))
    try:
        table = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True,
                           quoting=csv.QUOTE_NONE if is_elan else csv.QUOTE_MINIMAL)
        lines = (cells for cells in table if any(map(str.strip, cells))
                 and not (is_elan and re.match('"?#', cells[0])))
        first = next(itertools.islice(lines, bool(declared), None), [])
        columns = [name.strip().lower() for name in first]
        if ELAN_LINE.match(head):
            columns = ["tier", "participant", "time", *[""] * (len(first) - 4), "label"]
            lines = itertools.chain([first], lines)
        while columns and not columns[-1]:
            columns.pop()
        for name, others in CALLED.items():
            there = [other for other in others if other in columns]
            if name not in columns and there:
                columns[columns.index(there[0])] = name
            if name not in columns and name in NEEDED[is_elan:3 - is_elan]:
                raise ValueError(f"no column is called {name}; its first line must be "
                                 "video,time,label")
            if columns.count(name) > 1:
                raise ValueError(f"{columns.count(name)} columns are called {name}; rename others")
        tiers = [] if "label" in columns else [     # ELAN's other form has a column for each
            name for name in columns if not ELAN.match(name) and name not in ("", *CALLED)]
        blanks = "" if columns == EXPORTED else " \t\xa0\u3000"
        for cells in lines:
            if any(map(str.strip, cells[len(columns):])):
                raise ValueError(f"{len(cells)} cells under {len(columns)} columns; a cell that has"
                                 f" a {delimiter!r} in it must be in quotes, and 62,5 may be 62.5")
            row = {name: GUARD.sub("", cell.strip(blanks) if blanks else cell)
                   for name, cell in zip(columns, cells, strict=False)}
            match, named = named_half(row["video"]) if "video" in columns else of_file(path)
            time = row["time"].strip()
            names = ([row.get(tier) for tier in tiers if row.get(tier)] if tiers else
                     [row["label"] or row.get("tier", "")])
            if row.get("kind", "").lower() == "stop":
                continue
            if not time and not any(names):
                yield match, None, None, None
                continue
            if not all(names):
                raise ValueError("a time without a label")
            if re.fullmatch(r"[1-9]\d{0,2},\d{3}", time):
                raise ValueError(f"{time!r} may be {time.replace(',', '.')} or "
                                 f"{time.replace(',', '')} seconds: write which")
            for name in names:
                yield match, Row(half_of(row.get("half", "").strip(), named=[named]), name,
                                 round(1000 * clock_s(time.replace(",", "."))),
                                 is_visible(row.get("visibility")),
                                 without({name: cell for name, cell in row.items() if cell}, "",
                                         *CALLED, *tiers)), row.get("confidence"), None
    except (csv.Error, ValueError, TypeError, KeyError) as error:
        line = f"line {table.line_num}: " if head else ""
        reason = f"no {error}" if isinstance(error, KeyError) else error
        raise DataError(f"{path}: not {what} ({line}{reason}); correct it") from None


def table_text(path, what, encoding=None):
    """The text of a table: UTF-8 or UTF-16 if it begins with their mark, else `encoding`, which is
    UTF-8 unless somebody says another."""
    content, encoding = formats.read_bytes(path, what, formats.JSON_BYTES), encoding or "UTF-8"
    if content.startswith(codecs.BOM_UTF8):
        encoding = "utf-8-sig"
    elif content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "UTF-16"
    try:
        text = content.decode(encoding)
        wrong = "it has zero bytes, as UTF-16 without a mark" if "\0" in text else ""
    except UnicodeError as error:
        wrong = f"byte {getattr(error, 'start', 0)} is not {encoding}"
    if wrong:
        raise DataError(f"{path}: not {what} ({wrong}); save it as CSV UTF-8, or say what it is, as"
                        " --encoding cp1252 (Excel's plain CSV in western Europe)")
    return text


def json_rows(path, are_labels=True):
    """The same of a JSON, by what it holds, and its fps. DataError for predictions if labels are
    wanted."""
    content = formats.read_json(path, "a list of labels")
    if "annotations" in dict_of(content):
        return match_rows(path, content)
    if not isinstance(content, list) or not content:
        return osl_rows(path, content, are_labels)
    is_e2e = any("events" in dict_of(item) for item in content)
    return frame_rows(path, content) if is_e2e else studio_rows(path, content)


def match_rows(path, content):
    """SoccerNet's, of the match that its UrlLocal names, else of its folder."""
    with malformed(path, "UrlLocal", "name of a match"):
        match, _ = named_half(content.get("UrlLocal") or Path(path).absolute().parent.as_posix())
    yield match, None, None, None
    for row in read_rows(path):
        yield match, row, None, None


def osl_rows(path, content, are_labels):
    """OpenSportsLab's: data[] with inputs[].path and events[], each with its position_ms or
    gameTime. Of several heads each names its labels: "card: yellow". A path may go up from the
    folder of the file."""
    what = "labels of OpenSportsLab's kind"
    entries = read_list(path, "data", what)
    for about in map(dict_of, (content, *entries) if are_labels else ()):
        for key, of in (("type", about), ("metadata.type", dict_of(about.get("metadata")))):
            if re.search("predict|infer", str(of.get("type")), re.IGNORECASE):
                raise DataError(f"{path}: has predictions by its {key}, not labels; give what "
                                "people have labelled, or, if they have checked these, take that "
                                "line out")
    found = []
    for number, item in enumerate(entries):
        with malformed(path, f"entry {number} of data", "input, label, half or position_ms"):
            videos = [entry for entry in value_of(item, "inputs", list, ())
                      if value_of(entry, "type", str, "video") == "video"]
            named = [named_half(from_folder(value_of(entry, "path", str), path))
                     for entry in videos] or [named_half(value_of(item, "id", str))]
            match, halves = named[0][0], [half for _, half in named]
            fps = frame_rate(value_of(videos[0], "fps", float, None)) if videos else None
            found.append((None, match, None, None, fps))
            for event in value_of(item, "events", list, ()):
                said, position = value_of(event, "gameTime", str, ""), event.get("position_ms")
                time = re.fullmatch(r"(?:(\d+) ?- ?)?(\d+:[0-5]\d(?:[.,]\d+)?)",
                                    said.strip() or "00:00")
                if time is None or position is None and not said:
                    raise KeyError("position_ms, and no gameTime such as 1 - 00:07")
                if position is None:
                    position = round(1000 * clock_s(time[2].replace(",", ".")))
                if not re.fullmatch(r" *-?\d+(\.\d+)? *", str(position)):
                    raise ValueError(f"position_ms {str(position)[:40]!r} is no number")
                row = row_of(half_of(event.get("half"), time[1], named=halves), event["label"],
                             position, is_visible(event.get("visibility")), without(
                                 event, "half", "label", "position_ms", "gameTime", "visibility",
                                 "head", "frame", *CONFIDENCES))
                confidences = (event[key] for key in CONFIDENCES if event.get(key) is not None)
                found.append((event.get("head"), match, row, next(confidences, None), fps))
    heads = {str(head) for head, *_ in found} - {"None"}

    def called(head, name):
        return f"{head}: {name}" if len(heads) > 1 else name

    with malformed(path, "labels", "list of names"):
        classes = tuple(called(head, name) for head, of in dict_of(content.get("labels")).items()
                        if head in heads or not heads
                        for name in value_of(dict_of(of), "labels", list, ()))
    for head, match, row, *more in found:
        yield match, row and row._replace(name=called(head, row.name)), *more, classes


def frame_rows(path, content):
    """E2E-Spot's, T-DEED's too: [{"video", "fps", "events": [{"frame", "label", "score"}]}], labels
    without the score. Where fps is not known (-1) 25 is assumed: frames do not depend on it."""
    for number, item in enumerate(content):
        with malformed(path, f"entry {number}", "video, fps, frame or label"):
            match, named = named_half(value_of(item, "video", str))
            fps = frame_rate(max(value_of({"fps": -1} | item, "fps", float), 0) or 25)
            yield match, None, None, fps
            for event in value_of(item, "events", list):
                ms = round(1000 * value_of(event, "frame", int) / fps)
                yield match, row_of(named, event["label"], ms,
                                    "not shown" not in str(event.get("comment")), without(
                                        event, "frame", "label", "score")), event.get("score"), fps


def studio_rows(path, content):
    """Label Studio's timeline labels, JSON or JSON-MIN: the first frame of each range, counted from
    1 at the frameRate of the <Video> tag, which the export does not have: it is read from the
    task's data, "fps"."""
    for number, task in enumerate(content):
        with malformed(path, f"task {number}", "video, fps or timeline labels"):
            data = value_of({"data": task} | dict_of(task), "data", dict)
            video = urllib.parse.unquote(value_of(data, "video", str).rpartition("?d=")[2])
            match, named = named_half(re.sub(r".*/upload/.*/[\da-f]{8}-", "", video))
            if "fps" not in data:
                raise KeyError("fps: give every task a column fps, the frameRate of your <Video> "
                               "tag, which is 24 unless you set it")
            fps, people = frame_rate(data["fps"]), [
                done for done in task.get("annotations", ()) if not done.get("was_cancelled")]
            if len(people) > 1:
                raise ValueError(f"{len(people)} annotations; keep one of them")
            yield match, None, None, fps
            for value in ([result["value"] for done in people for result in done["result"]]
                          if "annotations" in task else task.get("videoLabels", ())):
                if not isinstance(value.get("timelinelabels", []), list):
                    raise TypeError(f"{value['timelinelabels']!r} is no list")
                for span, name in itertools.product(value.get("ranges", ()),
                                                    value.get("timelinelabels", ())):
                    ms = round(1000 * (int(span["start"]) - 1) / fps)
                    yield match, row_of(named, name, ms), None, fps


def xml_rows(path):
    """Sportscode's: the start of each instance, or its position_ms, which export.py writes."""
    what = "XML of Sportscode's kind"
    content = formats.read_bytes(path, what, formats.JSON_BYTES)
    try:
        if b"<!ENTITY" in content:
            raise ValueError("it defines entities")
        instances = ElementTree.fromstring(content).find("ALL_INSTANCES")
        if instances is None:
            raise ValueError("it has no ALL_INSTANCES")
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise formats.refused(path, what, error) from None
    match, half = of_file(path)
    yield match, None, None, None
    for number, instance in enumerate(instances.iter("instance")):
        with malformed(path, f"instance {number}", "start or code"):
            said = {label.findtext("group"): label.findtext("text")
                    for label in instance.iter("label")}
            ms = said.get("position_ms") or 1000 * clock_s(instance.findtext("start").strip())
            yield (match, row_of(half, instance.findtext("code"), round(float(ms)), True, without(
                said, None, "position_ms", "confidence")), said.get("confidence"), None)


def row_of(half, name, ms, visible=True, more=None):
    """The Row of an action; TypeError for a label that is no text."""
    if not isinstance(name, str) or not name.strip():
        raise TypeError(f"label {str(name)[:40]!r} is no text")
    return Row(half or 1, name, whole_ms(ms), visible, more)


def frame_rate(fps):
    """Frames per second, None where None is given; ValueError for what is none."""
    if fps is not None and not 0 < float(fps) <= 1000:
        raise ValueError(f"fps {fps} is no frame rate")
    return fps and float(fps)


def name_of(entry):
    """The label of an annotation or prediction as the official evaluator takes it, a number, too;
    ValueError for a list or an object."""
    if isinstance(entry["label"], (list, dict)):
        raise ValueError(f"label is {str(entry['label'])[:40]}, no text")
    return entry["label"]


def dict_of(value):
    """A JSON object, or {} for what is none."""
    return value if isinstance(value, dict) else {}


def without(entries, *names):
    """What else a dict has, or None."""
    return {name: value for name, value in entries.items() if name not in names} or None


# ------------------------------------------------------------------ names and times
def video_of(name):
    """(match, half) of a video, from its path below the root: the names that infer.py and
    comedian.prepare give it. cup/derby.mp4 -> ("cup/derby", 1), game/2_224p.mkv -> ("game", 2).
    One that begins elsewhere (/videos/, C:\\, https://) stays whole: see `match_names`."""
    match, half = named_half(name)
    return match, half or 1


def named_half(name):
    """`video_of`, with None for the half if the name does not tell it."""
    if re.match(r"[a-z][a-z\d+.-]+://", name, re.IGNORECASE):
        name = urllib.parse.unquote(re.split("[?#]", name)[0])
    path = PurePosixPath(name.replace("\\", "/"))
    if not name or ".." in path.parts:
        raise ValueError(f"{name[:80]!r} is not the path of a video")
    half = half_number(path)
    if not half and path.suffix.lower() not in VIDEO_SUFFIXES:
        return path.as_posix(), None  # a match's name, dots and all; or a suffix: see `match_names`
    return (path.parent if half else path.with_suffix("")).as_posix(), half


def of_file(path):
    """`named_half` of the video that a file is called after: final/2_224p.xml, or what export.py
    writes, final/actions_2.xml."""
    path = Path(path).absolute()
    return named_half(str(path.with_name(re.sub("^actions_(?=[12]$)", "", path.stem))))


def from_folder(name, path):
    """A path in the file `path` that goes up from its folder, from the top."""
    up = isinstance(name, str) and ".." in PurePosixPath(name.replace("\\", "/")).parts
    return os.path.normpath(Path(path).absolute().parent / name.replace("\\", "/")) if up else name


def half_of(*told, named):
    """The number of a half: what a file tells in one place or more (None or "": nothing), else what
    the name of the first video has, else 1. named: what the names of its videos have, or None.
    ValueError for what is no number, and where two of these differ."""
    told = [str(half) for half in told if half not in (None, "")]
    for text in told:
        if not re.fullmatch("[1-9][0-9]?", text):
            meant = re.search("[1-9]", text)
            raise ValueError(f"half {text[:40]!r}: write {meant[0] if meant else '1 or 2'}")
    half = int(told[0]) if told else named[0] or 1
    if len(set(told)) > 1:
        raise ValueError(f"half {told[0]}, but {told[1]} by gameTime")
    if None not in named and half not in named:
        raise ValueError(f"half {half}, but {named[0]} by the name of the video")
    return half


def is_visible(word):
    """Whether the broadcast shows an action: False for "not shown", True for "visible" or nothing;
    else ValueError."""
    words = "visible" if word in (None, "") else folded(str(word))
    if words not in ("visible", "not shown"):
        raise ValueError(f"visibility {str(word)[:40]!r}: write visible or not shown")
    return words == "visible"


def clock_s(text):
    """Seconds, mm:ss or h:mm:ss, with or without a fraction -> seconds; else ValueError."""
    parts = text.split(":")
    try:
        numbers = [float(part) for part in parts]
    except ValueError:
        numbers = [-1.0]
    if (len(parts) > 3 or "_" in text or not all(0 <= part < 1e6 for part in numbers)
            or any(part >= 60 for part in numbers[1:]) or any(part % 1 for part in numbers[:-1])):
        meant = re.fullmatch(r"(\d+)['’′]?\s*(?:\+\s*(\d+))?['’′]?\s*(?::?(\d\d))?[\"″]?", text)
        meant = (f"; for minute {text[:40]} write {int(meant[1]) + int(meant[2] or 0)}:"
                 f"{meant[3] or '00'}" if meant else "")
        raise ValueError(f"{text[:40]!r} is not a time; write seconds, mm:ss or h:mm:ss from the "
                         f"start of the video{meant}")
    return sum(60 ** i * part for i, part in enumerate(reversed(numbers)))


def clock_flag(text):
    """`clock_s` for argparse."""
    try:
        return clock_s(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be seconds or mm:ss, got {text[:40]!r}") from None
