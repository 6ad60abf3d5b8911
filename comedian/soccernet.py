"""
Files in SoccerNet's formats, read as the official evaluator reads them: classes, labels,
predictions, submissions. And scores.npz, the windows' scores that infer.py leaves for the sweep.

    <root>/<league>/<season>/<match>/Labels-v2.json            labels, if the match has any
    <root>/<match>/Labels-ball.json                            the same, of the ball actions
    <root>/labels.csv, <root>/labels.json                      of many matches: see `read_csv`
    <out>/<league>/<season>/<match>/results_spotting.json      what was spotted
    <out>/<league>/<season>/<match>/scores.npz                 scores before merging and NMS

A match is called after its folder below the root. Below one root labels and predictions of a match
are found by that name, in a folder or in a zip.
"""
import collections
import csv
import itertools
import json
import os
import re
import zipfile
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from comedian import DataError, formats, write_file, write_text
from comedian.frames import read_games, walk, what_lies_in

LABELS, PREDICTIONS, SCORES = "Labels-v2.json", "results_spotting.json", "scores.npz"
BALL_LABELS = "Labels-ball.json"      # the ball action data set's, beside 224p.mp4; the same schema
LABEL_LISTS = ("labels.csv", "labels.json")           # of many matches, at the root of them all
MAX_CLASSES = 1000                    # far more than anybody labels

# SoccerNet-v2's classes in the order of the official evaluator.
SOCCERNET_CLASSES = (
    "Penalty", "Kick-off", "Goal", "Substitution", "Offside", "Shots on target", "Shots off target",
    "Clearance", "Ball out of play", "Throw-in", "Foul", "Indirect free-kick", "Direct free-kick",
    "Corner", "Yellow card", "Red card", "Yellow->red card")


def read_classes(path=None):
    """Class names: SoccerNet's 17, or one per line of the file `path`. Returns a tuple of str."""
    if path is None:
        return SOCCERNET_CLASSES
    names = tuple(formats.read_lines(path, "a list of classes"))
    if (not 0 < len(names) <= MAX_CLASSES or len(set(names)) < len(names)
            or not all(name.isprintable() for name in names)):
        raise DataError(f"{path}: wants one class name per line, each once, {MAX_CLASSES} at most; "
                        f"got {len(names)} names, or no text")
    return names


# ------------------------------------------------------------------ files in a folder or a zip
def find_files(source, *names):
    """{match: path} of every file called `name` below a folder or in a zip, sorted by match; of
    several names the first that a folder has.

    The match is the file's folder relative to `source`.
    In a zip the paths are formats.Member: all that formats.py reads takes either.
    """
    source, found = Path(source), {}
    if source.is_dir():
        for folder, below, files in walk(source):
            if name := next((name for name in names if name in files), None):
                found[Path(folder).relative_to(source).as_posix()] = Path(folder) / name
                below.clear()         # a match holds no other match, but thousands of frames
    elif source.is_file() and formats.is_zip(source):
        for name in reversed(names):
            found |= {os.path.dirname(member.info.filename) or ".": member
                      for member in formats.open_zip(source, f"a zip of {name}", name)}
    else:
        raise DataError(f"{source}: no such folder, and not a zip file either"
                        + what_lies_in(source.parent))
    if not found:
        others = f" (nor {' nor '.join(names[1:])})" if len(names) > 1 else ""
        raise DataError(f"{source}: no {names[0]} in it{others}; "
                        f"it must lie at <league>/<season>/<match>/{names[0]}, "
                        f"or in any other folder of its own per match{what_lies_in(source)}")
    return dict(sorted(found.items()))


def read_list(path, key, what):
    """The list under `key` of a JSON file; `path` may lie in a zip (formats.Member)."""
    content = formats.read_json(path, what)
    if not isinstance(content, dict) or not isinstance(content.get(key), list):
        raise formats.refused(path, what, f"it has no list called {key!r}")
    return content[key]


def count_names(files, key="annotations", without=()):
    """How often each name of a label is in these files, but those in `without`: a Counter."""
    return collections.Counter(
        name for path in files
        for name in ([row.name for row in path.rows] if isinstance(path, Listed) else
                     [entry["label"] for entry in read_list(path, key, "a list")])
        if name not in without)


def label_names(files, key="annotations", without=()):
    """These names in words, the commonest first: "'Foul' (11), 'Goal' (9) and 3 other names"; "" if
    there is none."""
    names = count_names(files, key, without)
    more = f" and {len(names) - 6} other names" if len(names) > 6 else ""
    return ", ".join(f"{name!r} ({n:,})" for name, n in names.most_common(6)) + more


def tell_foreign(files, key, classes):
    """Says which names in these files, already read, are no class. Nobody else would: such entries
    are left out, here and in the official evaluator, and a misspelt class looks like a bad one."""
    names = label_names(files, key, without=classes)
    if names:
        print(f"warning: {key} of no class are left out: {names}")


def whole_ms(value):
    """A position, whole ms. ValueError beyond what float64 counts one by one, 285,000 years."""
    ms = int(value)
    if abs(ms) > 2 ** 53:
        raise ValueError("a position beyond all halves")
    return ms


# ------------------------------------------------------------------ labels
class Event(NamedTuple):
    """One annotated action. `position_ms` counts from the start of the half's video."""
    half: int
    label: int                        # index into the classes
    position_ms: int
    visible: bool                     # False: annotated although the broadcast does not show it


class Row(NamedTuple):
    """One annotated action under the name that its file gives it."""
    half: int
    name: str
    position_ms: int
    visible: bool


class Listed(NamedTuple):
    """The labels of one match out of a file with those of many."""
    path: str
    rows: list                        # [Row], in file order

    def __str__(self):
        return str(self.path)


def find_labels(source, matches=None):
    """{match: its labels, for `read_labels`} in a folder, in a file of many matches, or in a zip.

    matches: the names of those wanted, looked for at their places alone, and not in a zip; None:
    all that are found, DataError if none is. What a match has in its own folder goes before a list
    at the root.
    """
    source, found = Path(source), {}
    if source.suffix.lower() in (".csv", ".json") and not source.is_dir():
        found = read_list_of_matches(source)
    else:
        for path in (source / name for name in LABEL_LISTS):
            if os.path.lexists(path):
                found |= read_list_of_matches(path)
        if matches is None:
            try:
                found |= find_files(source, LABELS, BALL_LABELS)
            except DataError:
                if not found:
                    raise
        else:
            for match, name in itertools.product(matches, (BALL_LABELS, LABELS)):
                if os.path.lexists(source / match / name):
                    found[match] = source / match / name
    wanted = found if matches is None else set(matches)
    return {match: found[match] for match in sorted(found) if match in wanted}


def read_labels(labels, classes):
    """The [Event] of a match, in file order; labels outside `classes` are left out.

    labels: a path of Labels-v2.json or Labels-ball.json, or a Listed. DataError if it is malformed.
    """
    index = {name: k for k, name in enumerate(classes)}
    rows = labels.rows if isinstance(labels, Listed) else read_rows(labels)
    return [Event(row.half, index[row.name], row.position_ms, row.visible)
            for row in rows if row.name in index]


def read_rows(path):
    """The [Row] of a Labels-v2.json as the official evaluator reads them, in file order.

    `position` counts if there is one, else `gameTime`'s minutes and seconds (its last two
    digits each, as there). Raises DataError for what that program crashes on.
    """
    rows = []
    for number, annotation in enumerate(read_list(path, "annotations", "a SoccerNet label file")):
        try:
            time = annotation["gameTime"]
            half, minutes, seconds = int(time[0]), int(time[-5:-3]), int(time[-2:])
            position_ms = (whole_ms(annotation["position"]) if "position" in annotation
                           else 1000 * (60 * minutes + seconds))
            hash(annotation["label"])                      # a list is no name
            rows.append(Row(half, annotation["label"], position_ms,
                            annotation.get("visibility") != "not shown"))
        except (KeyError, ValueError, TypeError, IndexError, OverflowError) as error:
            raise DataError(f"{path}: annotation {number} has a malformed or missing gameTime, "
                            f"position or label ({type(error).__name__}: {error})") from None
    return rows


def read_list_of_matches(path):
    """{match: Listed} of a file with the labels of many matches: .csv, or OpenSportsLab's .json."""
    read = read_csv if Path(path).suffix.lower() == ".csv" else read_osl
    found = read(path)
    if not found:
        raise formats.refused(path, "a list of labels", "no video is named in it")
    return {match: Listed(str(path), rows) for match, rows in found.items()}


def read_csv(path):
    """{match: [Row]} of a table with a line per action and a head: video,time,label

        video,time,label                  the columns in any order, after , ; or a tab; others that
        cup/derby.mp4,12:34.5,Goal        may be there are half (1 or 2) and visibility ("not shown"
        league/2 - 1/2_224p.mkv,754,Foul  by the broadcast); what else is there is not looked at

    video: its path below the folder where the videos lie; time: in that file, seconds, mm:ss or
    h:mm:ss. A line without time and label says that the video was watched: nothing happened in it.
    """
    what, found = "a table of labels", {}
    lines = formats.read_text(path, what, formats.JSON_BYTES).splitlines()
    head = next(filter(str.strip, lines), "")
    try:
        table = csv.reader(lines, delimiter=max(",;\t", key=head.count), strict=True)
        columns = [name.strip().lower() for name in next(filter(any, table), ())]
        missing = [name for name in ("video", "time", "label") if name not in columns]
        if missing:
            raise ValueError(f"no column is called {missing[0]}; its first line must be "
                             "video,time,label")
        for cells in filter(any, table):
            row = dict(zip(columns, map(str.strip, cells), strict=False))
            match, half = video_of(row["video"])
            rows = found.setdefault(match, [])
            if row["time"] or row["label"]:
                if not row["label"]:
                    raise ValueError("a time without a label")
                rows.append(Row(int(row.get("half") or half), row["label"],
                                round(1000 * clock_s(row["time"].replace(",", "."))),
                                row.get("visibility") != "not shown"))
    except (csv.Error, ValueError, KeyError) as error:
        line = f"line {table.line_num}: " if head else ""
        reason = f"no {error}" if isinstance(error, KeyError) else error
        raise formats.refused(path, what, f"{line}{reason}") from None
    return found


def read_osl(path):
    """{match: [Row]} of OpenSportsLab's JSON: data[] with inputs[].path and events[]."""
    what, found = "labels of OpenSportsLab's kind", {}
    for number, item in enumerate(read_list(path, "data", what)):
        try:
            videos = [entry["path"] for entry in item.get("inputs") or ()
                      if entry.get("type", "video") == "video"]
            match, half = video_of(videos[0] if videos else item["id"])
            rows = found.setdefault(match, [])
            for event in item.get("events") or ():
                of_half = event.get("half") or str(event.get("gameTime") or half)[0]
                if not isinstance(event["label"], str):
                    raise TypeError("a label that is no text")
                rows.append(Row(int(of_half), event["label"], whole_ms(event["position_ms"]),
                                event.get("visibility") != "not shown"))
        except (KeyError, ValueError, TypeError, IndexError, AttributeError,
                OverflowError) as error:
            raise DataError(f"{path}: entry {number} of data has a malformed or missing input, "
                            f"label, half or position_ms ({type(error).__name__}: {error})"
                            ) from None
    return found


def video_of(name):
    """(match, half) of a video, from its path below the root: the names that infer.py and
    comedian.prepare give it. cup/derby.mp4 -> ("cup/derby", 1), game/2_224p.mkv -> ("game", 2)."""
    from comedian import video        # here: it needs PyAV, which is not there only to score
    path = PurePosixPath(name.replace("\\", "/"))
    if not name or path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{name[:80]!r} is not the path of a video below the folder of all videos")
    half = video.half_number(path)
    if not half and path.suffix.lower() not in video.SUFFIXES:
        return path.as_posix(), 1                          # the name of a match, dots and all
    return (path.parent if half else path.with_suffix("")).as_posix(), half or 1


def clock_s(text):
    """Seconds, mm:ss or h:mm:ss, with or without a fraction -> seconds; else ValueError."""
    parts = text.split(":")
    numbers = [float(part) for part in parts]
    if not all(0 <= part < 1e6 for part in numbers) or len(parts) > 3:
        raise ValueError(f"{text[:40]!r} is no time: seconds or mm:ss")
    return sum(60 ** i * part for i, part in enumerate(reversed(numbers)))


def same_names(labels, matches):
    """`labels`, {match: ...}, under the names that other files give the same matches: the same one,
    or one that is the end of the other, of folders further up, where that is no question."""
    def are_same(one, other):
        one, other = PurePosixPath(one).parts, PurePosixPath(other).parts
        n = min(len(one), len(other))
        return one[-n:] == other[-n:]

    found = {}
    for name, value in labels.items():
        near = [match for match in matches if match not in labels and are_same(name, match)]
        alone = len(near) == 1 and name not in matches and sum(
            are_same(other, near[0]) for other in labels) == 1
        found[near[0] if alone else name] = value
    return dict(sorted(found.items()))


def classes_of(labels, known=SOCCERNET_CLASSES):
    """The classes of these labels (values of `find_labels`) where nobody names them: `known` if
    half of the annotations or more are of those, else all names, sorted. Says which, if others."""
    counts = count_names(labels)
    if 2 * sum(counts[name] for name in known) >= counts.total():
        return known
    names = tuple(sorted(counts))
    if len(names) > MAX_CLASSES or not all(name.isprintable() for name in names):
        raise DataError(f"{next(iter(labels))}: its {len(names)} names of labels are not those of "
                        "classes; give --classes FILE")
    print(f"classes: {len(names)} from the labels: {', '.join(names)}")
    return names


# ------------------------------------------------------------------ predictions
class Detections(NamedTuple):
    """The spotted actions of one match: four arrays (n,), a row each, in file order."""
    half: np.ndarray                  # 1 or 2
    label: np.ndarray                 # index into the classes
    position_ms: np.ndarray           # from the start of the half's video
    confidence: np.ndarray            # float64


def read_predictions(path, classes):
    """Detections of a results_spotting.json as the official evaluator reads them, in file order.

    Numbers may be written as strings. Labels outside `classes` and halves other than 1 and 2
    are left out. Raises DataError for what that program crashes on: `position` must be whole
    milliseconds, for one.
    """
    index = {name: k for k, name in enumerate(classes)}
    rows = []
    for number, entry in enumerate(read_list(path, "predictions", "a SoccerNet prediction file")):
        try:
            position_ms, half = whole_ms(entry["position"]), int(entry["half"])
            label = index.get(entry["label"])
            if label is None or half not in (1, 2):
                continue
            confidence = entry["confidence"]          # null is NaN there, and so never counts
            rows.append((half, label, position_ms,
                         float("nan") if confidence is None else float(confidence)))
        except (KeyError, ValueError, TypeError, OverflowError) as error:
            raise DataError(f"{path}: prediction {number} has a malformed or missing "
                            "label, half, position (whole ms) or confidence "
                            f"({type(error).__name__}: {error})") from None
    table = np.array(rows, np.float64).reshape(-1, 4)                    # (n, 4)
    return Detections(table[:, 0].astype(np.int64), table[:, 1].astype(np.int64),
                      table[:, 2], table[:, 3])


def about_results(path):
    """What results say about themselves, the dict `about` that infer.py writes; {} in others'. Its
    "videos", {half: path}, and "classes" are checked, for they are used."""
    content = formats.read_json(path, "a SoccerNet prediction file")
    about = content.get("about") if isinstance(content, dict) else None
    about = about if isinstance(about, dict) else {}
    videos, names = about.get("videos"), about.get("classes")
    if not isinstance(videos, dict) or not all(
            half in ("1", "2") and isinstance(video, str) for half, video in videos.items()):
        about.pop("videos", None)
    if (not isinstance(names, list) or not 0 < len(names) <= MAX_CLASSES
            or not all(isinstance(name, str) for name in names) or len(set(names)) < len(names)):
        about.pop("classes", None)
    return about


def classes_of_results(paths):
    """The classes that all these results say they were made with (infer.py's do), or None."""
    said = {tuple(about_results(path).get("classes", ())) for path in paths}
    return said.pop() or None if len(said) == 1 else None


def write_predictions(path, url_local, detections, classes, about=None):
    """Writes results_spotting.json as the official evaluator and the challenge server take it,
    sorted by half, then time. about: {name: value}, what they were made from and with; those two
    do not look at it."""
    predictions = []
    for i in np.lexsort((detections.position_ms, detections.half)).tolist():
        half, position_ms = int(detections.half[i]), int(detections.position_ms[i])
        minutes, seconds = divmod(position_ms // 1000, 60)
        predictions.append({"gameTime": f"{half} - {minutes:02d}:{seconds:02d}",
                            "label": classes[detections.label[i]], "position": str(position_ms),
                            "half": str(half), "confidence": float(detections.confidence[i])})
    write_text(path, json.dumps({"UrlLocal": url_local, "predictions": predictions}
                                | ({"about": about} if about else {}), allow_nan=False))


# ------------------------------------------------------------------ scores
class Stored(NamedTuple):
    """Window scores of many matches, end to end for ops.merge_windows; 2 halves a match."""
    matches: list
    classes: tuple
    token_s: float                    # seconds from token to token
    windows: tuple                    # scores (N, L, K), start (N,), half (N,), length (H,)
    start_s: float = 0.0              # where the first token stands in its video (infer.py --start)
    merged: bool = False              # True: every half is one window, merged before it was stored


def read_scores(root):
    """The Stored of all scores.npz below `root`. Raises DataError if they are not of one model.

    Merged scores become one window per half. It begins and ends with the half (or, padded, later),
    so merging it again returns it, whatever is ignored at a window's edges.
    """
    files, parts, length, kinds = find_files(root, SCORES), [], [], []
    import torch                      # here: who reads labels and predictions need not wait for it
    for g, path in enumerate(files.values()):
        what = "scores that infer.py stored"
        arrays = formats.read_npz(path, what)
        merged = any(f"merged_{h}" in arrays for h in (1, 2))
        name = "merged" if merged else "windows"
        halves = [h for h in (1, 2)
                  if arrays.keys() & {f"{name}_{h}", f"starts_{h}", f"tokens_{h}"}]
        try:
            common = classes_and_times(arrays)
            for h in halves:
                scores, start, n_tokens = stored_half(arrays, f"{name}_{h}", h, len(common[0]))
                parts.append((torch.from_numpy(scores), torch.from_numpy(start),
                              torch.full((len(start),), 2 * g + h - 1)))
                length.append((2 * g + h - 1, n_tokens))
                kinds.append((*common, merged, scores.shape[1 + merged:]))
        except ValueError as error:
            raise formats.refused(path, what, error) from None
        if len(set(kinds)) > 1:
            raise DataError(f"{path}: other classes, or another length of windows or tokens, "
                            "than the matches before; sweep over the scores of one model")
    if not parts:
        raise DataError(f"{root}: its {SCORES} files hold no half 1 or 2")
    scores, start, half = zip(*parts, strict=True)
    longest = max(part.shape[1] for part in scores)
    scores = [torch.nn.functional.pad(part, (0, 0, 0, longest - part.shape[1])) for part in scores]
    classes, token_s, start_s, merged, _ = kinds[0]
    length = [dict(length).get(number, 0) for number in range(2 * len(files))]
    windows = torch.cat(scores), torch.cat(start), torch.cat(half), torch.tensor(length)
    return Stored(list(files), classes, token_s, windows, start_s, merged)


def read_curve(folder, half):
    """The merged scores (n_tokens, K) of a half that scores.npz in `folder` holds beside the
    windows, or None: of a file written before they were."""
    path, what = Path(folder) / SCORES, "scores that infer.py stored"
    arrays = formats.read_npz(path, what)
    if f"curve_{half}" not in arrays:
        return None
    try:
        curve = formats.take(arrays, f"curve_{half}", "f", 2)
        n_tokens = int(formats.take(arrays, f"tokens_{half}", "iu", 0))
        if curve.shape != (n_tokens, len(classes_and_times(arrays)[0])):
            raise ValueError(f"curve_{half} has shape {curve.shape}")
        if curve.size and not 0 <= curve.min() <= curve.max() <= 1:
            raise ValueError(f"curve_{half} is not from 0 to 1")
    except ValueError as error:
        raise formats.refused(path, what, error) from None
    return curve


def classes_and_times(arrays):
    """(classes, token_s, start_s) of a scores.npz; ValueError if they are none."""
    classes = tuple(formats.take(arrays, "classes", "U", 1).tolist())
    if not classes or len(set(classes)) < len(classes):
        raise ValueError("classes are not names, each once")
    token_s = float(formats.take(arrays, "token_s", "fiu", 0))
    start_s = float(formats.take(arrays, "start_s", "fiu", 0)) if "start_s" in arrays else 0.0
    if not 0.001 <= token_s <= 1000 or not 0 <= start_s <= 1e7:
        raise ValueError(f"token_s {token_s:g} or start_s {start_s:g} is no time in a half")
    return classes, token_s, start_s


def stored_half(arrays, name, h, n_classes):
    """Windows of half h: scores (N, L, K) float32, start (N,) int64, and how many tokens it has.
    ValueError unless windows follow each other without a gap and end with the half, or, as the only
    one, later: then they say no more than the file holds."""
    scores = formats.take(arrays, name, "f", 3)                                   # (N, L, K)
    start = formats.take(arrays, f"starts_{h}", "iu", 1).astype(np.int64)         # (N,)
    n_tokens = int(formats.take(arrays, f"tokens_{h}", "iu", 0))
    if 0 in scores.shape or scores.shape[2] != n_classes or len(start) != len(scores):
        raise ValueError(f"{name} of shape {scores.shape} does not fit {len(start)} starts and "
                         f"{n_classes} classes")
    if scores.min() < 0 or scores.max() > 1:
        raise ValueError(f"{name} are not all from 0 to 1")
    window, step = scores.shape[1], np.diff(start)
    end = start[-1] + window
    if (start[0] != 0 or (step < 1).any() or (step > window).any()
            or not (n_tokens == end or 0 < n_tokens <= end and len(start) == 1)):
        raise ValueError(f"starts_{h} and tokens_{h} {n_tokens} do not cover a half")
    return scores.astype(np.float32), start, n_tokens


def write_scores(path, match, classes, halves, merged, windows, start_s, bf16=False):
    """scores.npz of a match. Per half: merged (n_tokens, K), and the windows of the one network
    (scores (N, L, K), starts (N,)), or None of several; then the merged scores are stored as one
    window (see `read_scores`). The merged scores are there in any case, as curve_1 and curve_2:
    what NMS saw, a row per token. start_s: where token 0 stands in its video. bf16, for the record:
    whether the network computed in bfloat16."""
    arrays = {"classes": np.array(classes), "url_local": match, "token_s": halves[0].token_s,
              "start_s": start_s, "bf16": bf16}
    for half, table, of_half in zip(halves, merged, windows, strict=True):
        name, scores, starts = "merged", table[None], np.zeros(1, np.int64)
        if of_half:
            name, (scores, starts) = "windows", of_half
        arrays |= {f"{name}_{half.number}": np.asarray(scores),
                   f"starts_{half.number}": np.asarray(starts),
                   f"tokens_{half.number}": len(table), f"curve_{half.number}": np.asarray(table)}
    write_file(path, lambda file: np.savez(file, **arrays))


def called(match):
    """How people call a match: the last part of its name, _ as blanks, without date and time, as
    in "2031-03-08 - 18-00 Oak 2 - 1 Kirk"."""
    name = match.split("/")[-1].replace("_", " ").strip()
    return re.sub(r"^\d{4}-\d\d-\d\d( - \d\d-\d\d)? (- )?", "", name) or name


# ------------------------------------------------------------------ submissions
def games_of(halves, root, split):
    """{match: its game on the lists `split`}, of halves that frames.in_split returned."""
    names, games = {}, read_games(split)
    for match in {half.match for half in halves}:
        path = (Path(root).resolve() / match).as_posix().replace(" ", "_")
        names[match] = next(game for game in games if path.endswith(game.replace(" ", "_")))
    return names


def check_games(found, wanted, where):
    """Raises DataError unless the matches `found` are exactly those `wanted`, naming the others."""
    for matches, what in ((sorted(set(wanted) - set(found)), "missing"),
                          (sorted(set(found) - set(wanted)), "not of this split")):
        if matches:
            more = f" and {len(matches) - 3} more" if len(matches) > 3 else ""
            raise DataError(f"{where}: nothing is zipped, for {len(matches)} games are {what}:"
                            f" {'; '.join(matches[:3])}{more}; a submission wants the games "
                            "of its --split, and an --out of its own")


def write_zip(path, out, names):
    """The submission: <league>/<season>/<game>/results_spotting.json of every match below the
    folder `out`, called as `names` (match -> game) says. Refuses if they are not the same."""
    files = find_files(out, PREDICTIONS)
    check_games(files, names, out)

    def save(file):
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for match, game in sorted(names.items()):
                archive.write(files[match], f"{game}/{PREDICTIONS}")

    write_file(path, save)
    print(f"infer: {path}: {len(files)} games")
