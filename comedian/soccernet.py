"""
Files in SoccerNet's formats, read as the official evaluator reads them: classes, labels,
predictions, submissions. And scores.npz, the windows' scores that infer.py stores for the sweep.

    <root>/<league>/<season>/<match>/Labels-v2.json            labels, if the match has any
    <root>/<match>/Labels-ball.json                            the same, of the ball actions
    <root>/labels.csv, <root>/labels.json                      of many matches: see labels.py
    <out>/<league>/<season>/<match>/results_spotting.json      what was spotted
    <out>/<league>/<season>/<match>/scores.npz                 scores before merging and NMS

A match is called after its folder below the root. Below one root labels and predictions of a match
are found by that name, in a folder or in a zip.
"""
import collections
import contextlib
import datetime
import difflib
import itertools
import json
import os
import re
import zipfile
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from comedian import DataError, formats, short, write_file, write_text
from comedian.formats import malformed, read_list, value_of
from comedian.frames import (
    VIDEO_SUFFIXES, describe, describe_content, find_halves, in_split, read_games, walk)
from comedian.labels import (
    Listed, dict_of, folded, is_text, name_of, nfc, read_many, read_rows, whole_ms)

LABELS, PREDICTIONS, SCORES = "Labels-v2.json", "results_spotting.json", "scores.npz"
BALL_LABELS = "Labels-ball.json"      # the ball action data set's, beside 224p.mp4; the same schema
LABEL_LISTS = ("labels.csv", "labels.json")           # of many matches, at the root of them all
SUFFIXES = {*VIDEO_SUFFIXES, *".dav .rm .rmvb .ogg .dat .vro .eaf".split()}    # that tables name
ELSEWHERE = re.compile(r"/|[a-z][a-z\d+.-]*:", re.IGNORECASE)        # begins a path from the top
LISTS = (".csv", ".tsv", ".txt", ".json", ".json.gz", ".xml")    # endings, if a flag names the file
MAX_CLASSES = 1000                    # far more than anybody labels

# SoccerNet-v2's classes in the order of the official evaluator.
SOCCERNET_CLASSES = (
    "Penalty", "Kick-off", "Goal", "Substitution", "Offside", "Shots on target", "Shots off target",
    "Clearance", "Ball out of play", "Throw-in", "Foul", "Indirect free-kick", "Direct free-kick",
    "Corner", "Yellow card", "Red card", "Yellow->red card")


def read_classes(path=None):
    """The class names, a tuple: SoccerNet's 17, or one per line of the file `path`."""
    if path is None:
        return SOCCERNET_CLASSES
    names = tuple(formats.read_lines(path, "a list of classes"))
    if (not 0 < len(names) <= MAX_CLASSES or len(set(names)) < len(names)
            or not all(map(is_text, names))):
        raise DataError(f"{path}: has {len(names)} lines; write one class name per line, each "
                        f"once, at most {MAX_CLASSES}")
    return names


# ------------------------------------------------------------------ files in a folder or a zip
def find_files(source, *names):
    """{match: path} of every file of this name below a folder or in a zip, sorted by match; of
    several names the first that a folder has. The match is the file's folder relative to `source`.
    In a zip the paths are formats.Member: all that formats.py reads takes either."""
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
        raise DataError(f"{source}: no such folder or zip; give one with {names[0]} files"
                        + describe_content(source.parent))
    if not found:
        others = f" (nor {' nor '.join(names[1:])})" if len(names) > 1 else ""
        raise DataError(f"{source}: no {names[0]} in it{others}; "
                        f"put it at <league>/<season>/<match>/{names[0]}, "
                        f"or into any other folder of one match{describe_content(source)}")
    return dict(sorted(found.items()))


def count_names(files, key="annotations", without=()):
    """How often each name of a label is in these files, but those in `without`: a Counter."""
    return collections.Counter(
        name for path in files
        for name in ([row.name for row in path.rows] if isinstance(path, Listed) else
                     [entry["label"] for entry in read_list(path, key, "a list")])
        if name not in without)


def shorten_list(words, n, comma=", ", others="more"):
    """The first n of these words, and how many more there are: "a, b and 3 more"."""
    more = f" and {len(words) - n} {others}" if len(words) > n else ""
    return short(comma.join(words[:n])) + more


def label_names(files, key="annotations", without=()):
    """The names as a text, the commonest first: "'Foul' (11), 'Goal' (9) and 3 other names"; "" if
    there is none."""
    names = count_names(files, key, without).most_common()
    return shorten_list([f"{name!r} ({n:,})" for name, n in names], 6, others="other names")


def warn_unknown_labels(files, key, classes, where=""):
    """Prints which names in these files, already read, are no class. Such entries are left out,
    here and in the official evaluator, so a misspelt class looks like a badly spotted one. It also
    prints which annotations are perhaps one class under two names."""
    if names := label_names(files, key, without=classes):
        print(f"warning: {where}{key} of no class are left out: {names}")
    alike = collections.defaultdict(list)
    for name in sorted({*classes, *map(str, count_names(files, key))}):
        alike[folded(name)].append(repr(name))
    alike = [" and ".join(same) for same in alike.values() if len(same) > 1]
    if alike and key == "annotations":
        print(f"note: {shorten_list(alike, 4)} differ only by case, by blanks or by how an accent "
              "is stored: one class?")


# ------------------------------------------------------------------ labels
class Event(NamedTuple):
    """One annotated action. `position_ms` counts from the start of the half's video."""
    half: int
    label: int                        # index into the classes
    position_ms: int
    visible: bool                     # False: annotated although the broadcast does not show it


def find_labels(source, matches=None, encoding=None):
    """{match: its labels, for `read_labels`} in a folder, in a file of many matches, or in a zip;
    what a match has in its own folder goes before a list at the root. encoding: of a table.

    matches: the names of those wanted, looked for at their places alone, and not in a zip; None:
    all that are found, DataError if none is.
    """
    if matches is not None:
        return match_labels(source, matches, encoding)[0]
    listed = listed_labels(source, encoding)
    try:
        found = find_files(source, LABELS, BALL_LABELS)
    except DataError:
        found, listed = {}, listed or clip_lists(source)
        if not listed:
            raise
    return dict(sorted(first_read(found, listed).items()))


def match_labels(source, matches, encoding=None):
    """(find_labels of these matches, {name: Listed} that a list has for none of them)."""
    own = {}
    for match, name in itertools.product(sorted(matches), (BALL_LABELS, LABELS)):
        folder = folder_of(source, match)
        if folder and os.path.lexists(folder / name):
            own[match] = folder / name
    listed = listed_labels(source, encoding) or ({} if own else clip_lists(source, matches))
    listed = match_names(listed, matches)
    found = {match: listed.pop(match) for match in sorted(matches) if match in listed}
    return dict(sorted(first_read(own, found).items())), listed


def folder_of(root, match):
    """The folder of a match below `root`, however its accents are stored; None if there is none."""
    folder = Path(root)
    for part in PurePosixPath(match).parts:
        if not os.path.lexists(folder / part):
            try:
                same = [name for name in os.listdir(folder) if nfc(name) == nfc(part)]
            except OSError:
                return None
            if not same:
                return None
            part = same[0]
        folder /= part
    return folder


def first_read(labels, others):
    """`labels`, and `others` of matches that it lacks, {match: ...}; prints which are not read."""
    names = {nfc(match): match for match in labels}
    twice = [match for match in others if nfc(match) in names]
    if twice:
        print(f"warning: {others[twice[0]]}: has labels of "
              f"{shorten_list(list(map(repr, twice)), 3)} that are not read: "
              f"{labels[names[nfc(twice[0])]]} has priority; keep one of them")
    return labels | {match: others[match] for match in others if match not in twice}


def listed_labels(source, encoding=None):
    """{match: Listed} of a file with the labels of many matches, or of those in a folder."""
    source, labels = Path(source), {}
    paths = [path for name in LABEL_LISTS if os.path.lexists(path := source / name)]
    if source.name.lower().endswith(LISTS) and not source.is_dir():
        paths = [source]
    for path in paths:
        found = read_many(path, encoding)
        if any(one not in (None, "") for listed in found.values() for one in listed.confidences):
            print(f"note: {path}: has confidences, like predictions; they are read as labels")
        labels = first_read(found, labels)
    return labels


def clip_lists(source, matches=None):
    """{name: Listed} of Sportscode's XML in a folder, a file per video, for those called as the
    videos of `matches`; None: for all. XML of other kinds is not looked at."""
    paths = []
    for match in sorted(matches or ()):
        above, own = (folder_of(source, PurePosixPath(match).parent), folder_of(source, match))
        paths += [above / f"{PurePosixPath(match).name}.xml"] if above else []
        paths += sorted(own.glob("*.xml")) if own else []
    if matches is None and Path(source).is_dir():
        paths = [Path(folder, name) for folder, _, files in walk(source) for name in sorted(files)]
    return join_listed(
        path for path in paths if path.suffix == ".xml" and path.is_file() and b"ALL_INSTANCES" in
        formats.read_bytes(path, "XML", formats.JSON_BYTES)[:2 ** 16])


def join_listed(paths, **how):
    """{match: Listed} of several files; of one match their rows, of its halves, are joined."""
    found = {}
    for path in paths:
        for name, listed in read_many(path, **how).items():
            if found.setdefault(name, listed) is not listed:
                found[name].rows.extend(listed.rows)
                found[name].confidences.extend(listed.confidences)
    return found


def read_labels(labels, classes):
    """The [Event] of a match, in file order; those outside `classes` are left out. labels: a path
    of Labels-v2.json or Labels-ball.json, or a Listed. DataError if it is malformed."""
    index = {name: k for k, name in enumerate(classes)}
    rows = labels.rows if isinstance(labels, Listed) else read_rows(labels)
    return [Event(row.half, index[row.name], row.position_ms, row.visible)
            for row in rows if row.name in index]


# ------------------------------------------------------------------ labels and videos
def match_names(labels, matches):
    """`labels`, {match: ...}, under the names that other files give the same matches, where only
    one fits: the same in Unicode NFC; else the same but for a video's suffix; else one that is the
    end of the other, of folders further up. What a table has of a match under several names, as
    from two computers, becomes one: see `are_one_match`."""
    def ends_alike(one, other):
        n = min(len(one), len(other))
        return n > 0 and one[-n:] == other[-n:]

    def are_one_match(names):
        """Rows of one table, under names that begin elsewhere, but for one; each two of them are
        alike but for where they begin, or of different halves."""
        some = [labels[name] for name in names]
        if (not all(isinstance(listed, Listed) for listed in some)
                or len({listed.path for listed in some}) > 1
                or sum(not ELSEWHERE.match(name) for name in names) > 1):
            return False
        return all(any(ends_alike(own, path_of[other][0]) for own in path_of[one])
                   or not ({row.half for row in labels[one].rows}
                           & {row.half for row in labels[other].rows})
                   for one, other in itertools.combinations(names, 2))

    path_of = {}                      # name -> (its parts, and those without a video's suffix)
    for name in labels:
        path = PurePosixPath(nfc(name))
        plain = path.with_suffix("") if path.suffix.lower() in SUFFIXES else path
        path_of[name] = path.parts, plain.parts
    parts_of = {match: PurePosixPath(nfc(match)).parts for match in matches}
    found, left = collections.defaultdict(list), list(labels)              # match -> its names
    for are_same in (lambda own, other: own[0] == other, lambda own, other: own[1] == other,
                     lambda own, other: any(ends_alike(one, other) for one in own)):
        pairs = [(name, match) for name in left for match in matches
                 if are_same(path_of[name], parts_of[match])
                 and (match not in found or are_one_match([*found[match], name]))]
        fits = collections.Counter(name for name, _ in pairs)
        for match in dict.fromkeys(match for _, match in pairs):
            names = [name for name, other in pairs if other == match]
            if all(fits[name] == 1 for name in names) and (
                    len(names) == 1 or are_one_match([*found.get(match, []), *names])):
                found[match] += names
        taken = set(itertools.chain(*found.values()))
        left = [name for name in left if name not in taken]
    named = {match: labels[names[0]] if len(names) == 1 else labels[names[0]]._replace(
        rows=[row for name in names for row in labels[name].rows],
        confidences=[one for name in names for one in labels[name].confidences])
        for match, names in found.items()}
    return dict(sorted((named | {name: labels[name] for name in left}).items()))


def nearest_names(names, matches, labelled=()):
    """The names as a text, each with the match that was perhaps meant (equal except for case, or
    the nearest that is not `labelled`): "'spiel 1' (did you mean 'Spiel 1'?) and 3 more"."""
    def key(match):
        return folded(match.split("/")[-1])

    every = {key(match): match for match in sorted(matches)}
    free = [key(match) for match in matches if match not in labelled]

    def with_nearest(name):
        near = [key(name)] if key(name) in every else difflib.get_close_matches(key(name), free, 1)
        return repr(name) + (f" (did you mean {every[near[0]]!r}?)" if near else "")

    names = sorted(names)             # none is looked for that is not named
    return shorten_list([*map(with_nearest, names[:5]), *names[5:]], 5)


def unmatched_folders(source, matches, labelled):
    """The folders below `source` that have labels but are called like no match. If all matches are
    `labelled`, it does not look for them."""
    names, found = {nfc(match) for match in matches}, {}
    if Path(source).is_dir() and not set(matches) <= set(labelled):
        with contextlib.suppress(DataError):               # there is none
            found = find_files(source, LABELS, BALL_LABELS)
    return [name for name in found if nfc(name) not in names]


def warn_unmatched(listed, matches, labelled, folders=()):
    """Warns about names of a list, {name: Listed} from match_labels, that fit no video here, and
    about `folders`, from unmatched_folders."""
    if folders:
        print(f"warning: {len(folders)} of the folders with labels fit no match here: "
              f"{nearest_names(folders, matches, labelled)}")
    if listed:
        print(f"warning: {next(iter(listed.values()))}: {len(listed)} of the videos that it names "
              f"are not here: {nearest_names(listed, matches, labelled)}")


def no_labels(source, matches, names):
    """The message if none of the `matches` has labels. names: the matches that `source` labels."""
    source = Path(source)
    if names:
        return (f"{source}: has no labels of the {len(matches)} matches here (for example "
                f"{min(matches)!r}), but of {nearest_names(names, matches)}; correct these names")
    if source.is_dir():
        return (f"{source}: none of the {len(matches)} matches has a {LABELS}; give --labels the "
                f"folder that has them, or a labels.csv with {min(matches)!r} and the others"
                f"{describe_content(source)}")
    if source.exists():
        return (f"{source}: is neither a folder with a {LABELS} per match nor a table "
                f"({', '.join(LISTS)}); unpack it, or save it as one")
    return (f"{source}: no such folder or table of labels; give one that exists"
            f"{describe_content(source.parent)}")


def unreachable(events, spans, classes, source=None):
    """([(match, event)], how many they are and where) of the events {match: [Event]} that reach no
    frame; ([], "") if there is none. DataError if all are and `source` is given: where to mend it.
    spans: {(match, half): (first_s, last_s)}, from when to when an event reaches one."""
    matches, lost = {match for match, _ in spans}, collections.defaultdict(list)
    for match, event in ((match, event) for match, some in events.items() for event in some):
        first_s, last_s = spans.get((match, event.half), (0, 0))
        why = ("in a match that is not here" if match not in matches else
               "in a half without frames" if (match, event.half) not in spans else
               "after the end" if event.position_ms > 1000 * last_s else
               "before the start" if event.position_ms < 1000 * first_s else None)
        if why:
            lost[why].append((match, event))
    words = ", ".join(
        f"{len(some)} {why} (first: {classes[event.label]} at {'-' * (event.position_ms < 0)}"
        f"{datetime.timedelta(seconds=abs(event.position_ms) // 1000)} in half {event.half} of "
        f"{match!r})" for why, some in lost.items() for match, event in some[:1])
    lost, n_labels = list(itertools.chain(*lost.values())), sum(map(len, events.values()))
    if source and lost and len(lost) == n_labels:
        raise DataError(f"{source}: none of its {n_labels} labels reaches a frame: {words}; times "
                        "count from the start of each video (12:34:00 is what Excel makes of "
                        "12:34; type 0:12:34), and a video whose name does not begin with 2 is "
                        "half 1")
    return lost, words and f"{len(lost)} of {n_labels} labels reach no frame: {words}"


def labelled_halves(root, source, split=None, classes=(), fixed=True, radius_s=0.5,
                    image_size=None, encoding=None):
    """Halves of the labelled matches below `root`, {match: events}, and the classes; prints what it
    found. source: the labels. If `fixed`, the classes are those given; else those or SoccerNet's,
    or the labels' own if most are others. radius_s: a label covers frames within it. DataError if
    no match has labels, if none has a class, or if none reaches a frame."""
    everywhere = find_halves(root)
    halves = in_split(everywhere, split, root) if split else everywhere
    print(describe(halves, root, image_size))
    matches, there = {half.match for half in halves}, {half.match for half in everywhere}
    labels, others = match_labels(source, there, encoding)
    all_labels, folders = labels, unmatched_folders(source, there, labels)
    labels = {match: of_match for match, of_match in labels.items() if match in matches}
    if not labels:
        raise DataError(no_labels(source, matches, [*others, *all_labels, *folders]))
    if not fixed:
        classes = classes_of(labels.values(), classes or SOCCERNET_CLASSES)
    events = {match: read_labels(of_match, classes) for match, of_match in labels.items()}
    counts = np.bincount([event.label for match in events.values() for event in match],
                         minlength=len(classes))
    if not counts.sum():
        if not count_names(labels.values()):
            raise DataError(f"{source}: has no label of these matches; give --labels others")
        raise DataError(f"{source}: none of its labels is one of the {len(classes)} classes; "
                        f"it has {label_names(labels.values())}; give --classes "
                        "a file with these names, one per line")
    elsewhere = {match: read_labels(of_match, classes) for match, of_match in others.items()}
    lost, message = unreachable(events | elsewhere, {
        (half.match, half.number): (-radius_s, (half.n_frames - 1) / half.fps + radius_s)
        for half in halves}, classes, source)
    for match, event in lost:
        counts[event.label] -= match in events
    if message:
        print(f"warning: {message}")
    print(f"data: {len(events)} of {len(matches)} matches have labels: "
          + ", ".join(f"{name} {count}" for name, count in zip(classes, counts, strict=True)))
    warn_unmatched(others, there, all_labels, folders)
    warn_unknown_labels(labels.values(), "annotations", classes)
    return [half for half in halves if half.match in events], events, classes


def classes_of(labels, known=SOCCERNET_CLASSES):
    """The classes of these labels (values of `find_labels`) without --classes: those that their
    file lists; else `known` if half of the annotations or more have those names; else all names,
    sorted. Prints which, and why, unless all are of `known`."""
    listed = classes_of_results(labels) if all(isinstance(of, Listed) for of in labels) else None
    if listed and known == SOCCERNET_CLASSES:
        print(f"classes: {len(listed)}, as the labels list them: {', '.join(listed)}")
        return listed
    counts = count_names(labels)
    n_known = sum(counts[name] for name in known)
    if 2 * n_known >= counts.total():
        if n_known < counts.total():
            whose = "SoccerNet's" if known == SOCCERNET_CLASSES else "the checkpoint's"
            print(f"classes: {whose} {len(known)}, because half of the labels or more have their "
                  f"names ({n_known:,} of {counts.total():,}); --classes FILE overrides this")
        return known
    odd = [f" ({name!r} {'has a character that ' * isinstance(name or None, str)}is no text)"
           for name in counts if not is_text(name)]
    if len(counts) > MAX_CLASSES or odd:
        raise DataError(f"{next(iter(labels))}: its {len(counts)} names of labels cannot be "
                        f"classes{''.join(odd[:1])}; correct it, or give --classes FILE")
    names = tuple(sorted(counts))
    print(f"classes: {len(names)} from the labels: {', '.join(names)}")
    return names


# ------------------------------------------------------------------ predictions
class Detections(NamedTuple):
    """The spotted actions of one match: four arrays (n,), a row each, in file order."""
    half: np.ndarray                  # 1 or 2
    label: np.ndarray                 # index into the classes
    position_ms: np.ndarray           # from the start of the half's video
    confidence: np.ndarray            # float64


def find_predictions(source):
    """{match: its predictions, for `read_predictions`}: in a folder or a zip of files called
    results_spotting.json, SoccerNet's or OpenSportsLab's, or in one file as labels.read_many reads
    it."""
    source = Path(source)
    is_file = source.is_file() and source.name.lower().endswith(LISTS)
    found = {source.absolute().parent.as_posix(): source} if is_file else find_files(
        source, PREDICTIONS)
    first = next(iter(found.values()))
    content = ".json" in str(first) and formats.read_json(first, "a SoccerNet prediction file")
    if "data" in dict_of(content) or is_file and not isinstance(content, dict):
        return dict(sorted(join_listed(found.values(), are_labels=False).items()))
    if is_file:                       # a DataError for what is none
        read_predictions(source, ())
    return found


def read_predictions(path, classes):
    """Detections of a results_spotting.json as the official evaluator reads them, in file order:
    numbers may be strings; labels outside `classes` and halves other than 1 and 2 are left out.
    DataError for what that program crashes on: a position that is not whole ms, for one. path: or a
    Listed, each of its actions with a confidence."""
    index = {name: k for k, name in enumerate(classes)}
    rows = []
    if isinstance(path, Listed):
        for number, (row, one) in enumerate(zip(path.rows, path.confidences, strict=True)):
            with malformed(path, f"action {number}, {row.name!r},", "confidence"):
                one = one.replace(",", ".") if isinstance(one, str) else one
                if row.name in index and row.half in (1, 2):
                    rows.append((row.half, index[row.name], row.position_ms,
                                 value_of({"confidence": one}, "confidence", float)))
    for number, entry in enumerate(() if isinstance(path, Listed) else read_list(
            path, "predictions", "a SoccerNet prediction file")):
        with malformed(path, f"prediction {number}",
                       "label, half, position (whole ms) or confidence"):
            position_ms, half = whole_ms(value_of(entry, "position", int)), value_of(
                entry, "half", int)
            label = index.get(name_of(entry))
            if label is not None and half in (1, 2):       # null is NaN there: it never counts
                rows.append((half, label, position_ms, float("nan") if entry["confidence"] is None
                             else value_of(entry, "confidence", float)))
    half, label, position_ms, confidence = np.array(rows, np.float64).reshape(-1, 4).T
    return Detections(half.astype(np.int64), label.astype(np.int64), position_ms, confidence)


def about_results(path):
    """The dict `about` that infer.py writes into results; {} in others'. Its "videos", {half:
    path}, and "classes" are used, and so they are checked."""
    about = {"classes": [*path.classes]} if isinstance(path, Listed) else dict_of(dict_of(
        formats.read_json(path, "a SoccerNet prediction file")).get("about"))
    videos, names = about.get("videos"), about.get("classes")
    if not isinstance(videos, dict) or not all(
            half in ("1", "2") and isinstance(video, str) for half, video in videos.items()):
        about.pop("videos", None)
    if (not isinstance(names, list) or not 0 < len(names) <= MAX_CLASSES
            or not all(isinstance(name, str) for name in names) or len(set(names)) < len(names)):
        about.pop("classes", None)
    return about


def classes_of_results(paths):
    """The classes stored in all these results (infer.py and OpenSportsLab store them), or None."""
    said = {tuple(about_results(path).get("classes", ())) for path in paths}
    return said.pop() or None if len(said) == 1 else None


def write_predictions(path, url_local, detections, classes, about=None):
    """Writes results_spotting.json as the official evaluator and the challenge server take it,
    sorted by half, then time. about: {name: value}, what they were made with, for ourselves."""
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
STORED = "scores that infer.py stored"


class Stored(NamedTuple):
    """Window scores of many matches, end to end for ops.merge_windows; 2 halves a match."""
    matches: list
    classes: tuple
    token_s: float                    # seconds from token to token
    windows: tuple                    # scores (N, L, K), start (N,), half (N,), length (H,)
    start_s: float = 0.0              # where the first token stands in its video (infer.py --start)
    merged: bool = False              # True: every half is one window, merged before it was stored


def read_scores(root):
    """The Stored of all scores.npz below `root`. DataError if they are not of one model.

    Merged scores become one window per half, from its start to its end (or, padded, later): merging
    it again returns it, whatever is ignored at a window's edges.
    """
    files, parts, length, kinds = find_files(root, SCORES), [], [], []
    import torch                      # here: who reads labels and predictions need not wait for it
    for g, path in enumerate(files.values()):
        arrays = formats.read_npz(path, STORED)
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
            raise formats.refused(path, STORED, error) from None
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
    path = Path(folder) / SCORES
    arrays = formats.read_npz(path, STORED)
    if f"curve_{half}" not in arrays:
        return None
    try:
        curve = formats.checked_array(arrays, f"curve_{half}", "f", 2)
        n_tokens = int(formats.checked_array(arrays, f"tokens_{half}", "iu", 0))
        if curve.shape != (n_tokens, len(classes_and_times(arrays)[0])):
            raise ValueError(f"curve_{half} has shape {curve.shape}")
        if curve.size and not 0 <= curve.min() <= curve.max() <= 1:
            raise ValueError(f"curve_{half} is not from 0 to 1")
    except ValueError as error:
        raise formats.refused(path, STORED, error) from None
    return curve


def classes_and_times(arrays):
    """(classes, token_s, start_s) of a scores.npz; ValueError if they are none."""
    classes = tuple(formats.checked_array(arrays, "classes", "U", 1).tolist())
    if not classes or len(set(classes)) < len(classes):
        raise ValueError("classes are not names, each once")
    token_s = float(formats.checked_array(arrays, "token_s", "fiu", 0))
    start_s = (float(formats.checked_array(arrays, "start_s", "fiu", 0))
               if "start_s" in arrays else 0.0)
    if not 0.001 <= token_s <= 1000 or not 0 <= start_s <= 1e7:
        raise ValueError(f"token_s {token_s:g} or start_s {start_s:g} is no time in a half")
    return classes, token_s, start_s


def stored_half(arrays, name, h, n_classes):
    """Windows of half h: scores (N, L, K) float32, start (N,) int64, and how many tokens it has.
    ValueError unless windows follow each other without a gap and end with the half, or, as the only
    one, later: then they say no more than the file holds."""
    scores = formats.checked_array(arrays, name, "f", 3)                         # (N, L, K)
    start = formats.checked_array(arrays, f"starts_{h}", "iu", 1).astype(np.int64)    # (N,)
    n_tokens = int(formats.checked_array(arrays, f"tokens_{h}", "iu", 0))
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
    """scores.npz of a match. Per half: merged (n_tokens, K), which is what NMS saw, stored as
    curve_1 and curve_2; and the windows of the one network (scores (N, L, K), starts (N,)), or None
    of several: then merged is the only window (see `read_scores`). start_s: where token 0 stands in
    its video. bf16, for the record: whether the network computed in bfloat16."""
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


def match_title(match):
    """A match's name for people: the last part of its path, _ as blanks, without date and time, as
    in "2031-03-08 - 18-00 Oak 2 - 1 Kirk"."""
    name = match.split("/")[-1].replace("_", " ").strip()
    return re.sub(r"^\d{4}-\d\d-\d\d( - \d\d-\d\d)? (- )?", "", name) or name


# ------------------------------------------------------------------ submissions
def games_of(halves, root, split):
    """{match: its game on the lists `split`} of the halves that frames.in_split returned."""
    names, games = {}, read_games(split)
    for match in {half.match for half in halves}:
        path = nfc((Path(root).resolve() / match).as_posix().replace(" ", "_"))
        names[match] = next(game for game in games if path.endswith(nfc(game.replace(" ", "_"))))
    return names


def check_games(found, wanted, where):
    """Raises DataError unless the matches `found` are exactly those `wanted`, naming the others."""
    for matches, what in ((sorted(set(wanted) - set(found)), "missing"),
                          (sorted(set(found) - set(wanted)), "not of this split")):
        if matches:
            raise DataError(f"{where}: not zipped, because {len(matches)} games are {what}: "
                            f"{shorten_list(matches, 3, '; ')}; a submission needs exactly the "
                            "games of --split, in an --out of its own")


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
