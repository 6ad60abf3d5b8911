"""
What numbers were made of: hashes of predictions, labels and checkpoints, kept beside the numbers,
so that `python -m comedian.report verify` can say later whether these files still give them.
"""
import hashlib
from pathlib import Path

from comedian import __version__, formats, soccernet


def content_sha256(source):
    """Of predictions or labels: of a file, also in a zip; of what a table has of a match."""
    content = (repr([tuple(row[:4]) for row in source.rows]).encode(errors="surrogateescape")
               if isinstance(source, soccernet.Listed) else
               formats.read_bytes(source, "predictions or labels", formats.JSON_BYTES))
    return hashlib.sha256(content).hexdigest()


def receipt(predictions, labels, spotted, truth, classes, **flags):
    """What evaluate.score_files was given, as plain values: where, which files, how.

    predictions, labels: their folders or files; spotted, truth: {match: a file of results},
    {match: its labels}; flags: how they were scored.
    """
    for match, found in truth.items():
        if labels is found:           # infer.py found it beside a video: <root>/<match>/LABELS
            labels = (found.path if isinstance(found, soccernet.Listed)
                      else found.parents[len(Path(match).parts)])
    networks = {}
    for path in spotted.values():
        about = soccernet.about_results(path)
        paths, sums = about.get("checkpoint"), about.get("checkpoint_sha256")
        if isinstance(paths, list) and isinstance(sums, list):
            networks |= dict(zip(map(str, paths), map(str, sums), strict=False))
    return {"comedian": __version__, "predictions": str(predictions), "labels": str(labels),
            "classes": list(classes), **flags, "checkpoints": networks,
            "sha256": {match: [content_sha256(spotted[match]), content_sha256(labels)]
                       for match, labels in truth.items()}}
