"""
What people have labelled, from each form that it is kept in: {match: [Row]}.

    Labels-v2.json   SoccerNet's, of one match: see `read_rows`
    a table          of many matches, a line per action: see `read_csv`
    OSL JSON         OpenSportsLab's, of many matches: see `read_osl`

And how a name in them tells the video, and a text the time. soccernet.py finds such files, and the
matches that they are of.
"""
import argparse
import codecs
import csv
import io
import itertools
import re
import unicodedata
import urllib.parse
from pathlib import PurePosixPath
from typing import NamedTuple

from comedian import DataError, formats
from comedian.formats import malformed, read_list
from comedian.frames import VIDEO_SUFFIXES, half_number


class Row(NamedTuple):
    """One annotated action under the name that its file gives it."""
    half: int
    name: str
    position_ms: int
    visible: bool


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
            position_ms = (whole_ms(annotation["position"]) if "position" in annotation
                           else 1000 * (60 * minutes + seconds))
            hash(annotation["label"])                      # a list is no name
            rows.append(Row(half, annotation["label"], position_ms,
                            annotation.get("visibility") != "not shown"))
    return rows


COLUMNS = ("video", "time", "label", "half", "visibility")       # of a table, those that are read
EXPORTED = ["video", "half", "time", "label", "confidence"]      # the head that export.py writes
CONFIDENCES = ("confidence", "confidence_score", "score", "probability")  # of OSL's predictions
GUARD = re.compile(r"^'(?='*[=+\-@\t\r])")   # what it writes before a cell that is no formula


def read_csv(path, encoding=None):
    """({match: [Row]}, whether there are confidences) of a table with a line per action and a head:

        video,time,label                  the columns in any order, after , ; or a tab; others that
        cup/derby.mp4,12:34.5,Goal        may be there are half (1 or 2) and visibility ("not shown"
        league/2 - 1/2_224p.mkv,754,Foul  by the broadcast); what else is there is not looked at

    time: in that video, see `clock_s`. A line without time and label says that the video was
    watched: nothing happened in it. Blanks around a cell do not count, but in a table of export.py,
    which comes back to the byte. DataError names the line.
    """
    what, found, is_spotted = "a table of labels", {}, False
    text = table_text(path, what, encoding)
    head = (re.search(r".*\S.*", text) or [""])[0]
    declared = re.match(r'"?sep=([^"\r])', head, re.IGNORECASE)      # Excel's word for ; or ,
    delimiter = declared[1] if declared else max(",;\t", key=head.count)
    try:
        table = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        lines = (cells for cells in table if any(map(str.strip, cells)))
        columns = [name.strip().lower() for name in next(itertools.islice(
            lines, bool(declared), None), ())]
        while columns and not columns[-1]:
            columns.pop()
        for name in COLUMNS:
            if name not in columns and name in COLUMNS[:3]:
                raise ValueError(f"no column is called {name}; its first line must be "
                                 "video,time,label")
            if columns.count(name) > 1:
                raise ValueError(f"{columns.count(name)} columns are called {name}; rename others")
        blanks = "" if columns == EXPORTED else " \t\xa0\u3000"
        for cells in lines:
            if any(map(str.strip, cells[len(columns):])):
                raise ValueError(f"{len(cells)} cells under {len(columns)} columns; a cell that has"
                                 f" a {delimiter!r} in it must be in quotes, and 62,5 may be 62.5")
            row = {name: GUARD.sub("", cell.strip(blanks) if blanks else cell)
                   for name, cell in zip(columns, cells, strict=False)}
            match, named = named_half(row["video"])
            rows = found.setdefault(match, [])
            time, is_spotted = row["time"].strip(), is_spotted or bool(row.get("confidence"))
            if time or row["label"]:
                if not row["label"]:
                    raise ValueError("a time without a label")
                if re.fullmatch(r"[1-9]\d{0,2},\d{3}", time):
                    raise ValueError(f"{time!r} may be {time.replace(',', '.')} or "
                                     f"{time.replace(',', '')} seconds: write which")
                rows.append(Row(half_of(row.get("half", "").strip(), named=[named]), row["label"],
                                round(1000 * clock_s(time.replace(",", "."))),
                                is_visible(row.get("visibility"))))
    except (csv.Error, ValueError, TypeError, KeyError) as error:
        line = f"line {table.line_num}: " if head else ""
        reason = f"no {error}" if isinstance(error, KeyError) else error
        raise DataError(f"{path}: not {what} ({line}{reason}); correct it") from None
    return found, is_spotted


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


def read_osl(path):
    """The same of OpenSportsLab's JSON: data[] with inputs[].path and events[], each with its
    position_ms or gameTime."""
    what, found, is_spotted = "labels of OpenSportsLab's kind", {}, False
    entries, content = read_list(path, "data", what), formats.read_json(path, what)
    for about in map(dict_of, (content, *entries)):
        for key, of in (("type", about), ("metadata.type", dict_of(about.get("metadata")))):
            if re.search("predict|infer", str(of.get("type")), re.IGNORECASE):
                raise DataError(f"{path}: has predictions by its {key}, not labels; give what "
                                "people have labelled, or, if they have checked these, take that "
                                "line out")
    for number, item in enumerate(entries):
        with malformed(path, f"entry {number} of data", "input, label, half or position_ms"):
            videos = [entry["path"] for entry in item.get("inputs") or ()
                      if entry.get("type", "video") == "video"]
            named = [named_half(name) for name in videos or [item["id"]]]
            match, halves = named[0][0], [half for _, half in named]
            rows = found.setdefault(match, [])
            for event in item.get("events") or ():
                time = re.fullmatch(r"(?:(\d+) ?- ?)?(\d+:[0-5]\d(?:[.,]\d+)?)",
                                    str(event.get("gameTime") or "00:00").strip())
                position = event.get("position_ms")
                if time is None or position is None and not event.get("gameTime"):
                    raise KeyError("position_ms, and no gameTime such as 1 - 00:07")
                if position is None:
                    position = round(1000 * clock_s(time[2].replace(",", ".")))
                if not re.fullmatch(r" *-?\d+(\.\d+)? *", str(position)):
                    raise ValueError(f"position_ms {str(position)[:40]!r} is no number")
                if not isinstance(event["label"], str) or not event["label"].strip():
                    raise TypeError(f"label {str(event['label'])[:40]!r} is no text")
                rows.append(Row(half_of(event.get("half"), time[1], named=halves), event["label"],
                                whole_ms(position), is_visible(event.get("visibility"))))
                is_spotted |= any(event.get(key) is not None for key in CONFIDENCES)
    return found, is_spotted


def dict_of(value):
    """A JSON object, or {} for what is none."""
    return value if isinstance(value, dict) else {}


# ------------------------------------------------------------------ names and times
def video_of(name):
    """(match, half) of a video, from its path below the root: the names that infer.py and
    comedian.prepare give it. cup/derby.mp4 -> ("cup/derby", 1), game/2_224p.mkv -> ("game", 2).
    One that begins elsewhere (/videos/, C:\\, https://) stays whole: see `same_names`."""
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
        return path.as_posix(), None  # a match's name, dots and all; or a suffix: see `same_names`
    return (path.parent if half else path.with_suffix("")).as_posix(), half


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
        raise ValueError(f"{text[:40]!r} is no time: seconds, mm:ss or h:mm:ss from the start of "
                         f"the video{meant}")
    return sum(60 ** i * part for i, part in enumerate(reversed(numbers)))


def clock_flag(text):
    """`clock_s` for argparse."""
    try:
        return clock_s(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"wants seconds or mm:ss, got {text[:40]!r}") from None
