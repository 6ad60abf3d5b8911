"""
Two tiny matches in SoccerNet's layout, for the tests that run whole stages; a spy; which tests are
proofs (pytest -m proof); and what tests say whose kernels are not built.
"""
import json
import os
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from comedian import ops

# Processes that a test starts find the scripts and comedian/ from any folder.
ROOT = Path(__file__).resolve().parents[1]
os.environ["PYTHONPATH"] = str(ROOT)

CLASSES = ("Goal", "Foul", "Corner")
N_FRAMES = {("one", 1): 61, ("one", 2): 40, ("two", 1): 52, ("two", 2): 47}    # odd, and odd tokens
SIZE = (64, 48)                     # pixels, width x height: not square, so that frames are resized


def named_tests(text):
    """The tests that docstrings name: "Proved by test_a and test_b."."""
    return {test for sentence in re.findall(r"Proved\s+by\s+([^.]*)\.", text)
            for test in re.findall(r"\b[tT]est_?\w+", sentence)}


@pytest.hookimpl(tryfirst=True)                  # before pytest chooses by -m
def pytest_collection_modifyitems(items):
    """Marks `proof` what a docstring names: of a stage, in its own tests and those of all runs; of
    other files, anywhere."""
    named = {path.stem: named_tests(path.read_text(encoding="utf-8"))
             for path in (*ROOT.glob("*.py"), *ROOT.glob("comedian/*.py"))}
    for item in items:
        own = (tests for stem, tests in named.items() if not stem.startswith("stage")
               or item.path.stem in ("test_runs", f"test_{stem.partition('_')[0]}"))
        if {item.originalname, item.cls and item.cls.__name__} & set().union(*own):
            item.add_marker("proof")


def pytest_report_header():
    return ops.BUILD_ERROR or None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(call):
    """A test that needs kernels which are not built fails with the line that says what to run."""
    report = yield
    if call.excinfo and ops.BUILD_ERROR and str(call.excinfo.value) == ops.BUILD_ERROR:
        report.longrepr = ops.BUILD_ERROR
    return report


def write_half(folder, n_frames, rng):
    """Coarse coloured patterns, another for every frame, with some noise."""
    folder.mkdir(parents=True)
    for i in range(n_frames):
        pattern = rng.integers(40, 216, (3, 4, 3), np.uint8).repeat(16, 0).repeat(16, 1)
        noise = rng.integers(0, 40, (SIZE[1], SIZE[0], 3), np.uint8)
        cv2.imwrite(str(folder / f"{i + 1:08d}.png"), pattern + noise)


@pytest.fixture(scope="session")
def matches(tmp_path_factory):
    """The root: 2 matches with labels, teacher features ("teacher", 1 per second) and classes.txt.

    Tests only read it.
    """
    root, rng = tmp_path_factory.mktemp("matches"), np.random.default_rng(0)
    for match in ("one", "two"):
        annotations = []
        for half in (1, 2):
            n_frames, folder = N_FRAMES[match, half], root / "league" / match
            write_half(folder / f"{half}_224p", n_frames, rng)
            np.save(folder / f"{half}_teacher.npy",
                    rng.standard_normal((n_frames // 2, 12)).astype(np.float32))
            for position_ms in rng.integers(0, 500 * n_frames, 8).tolist():
                seconds = position_ms // 1000
                annotations.append({"gameTime": f"{half} - 00:{seconds:02d}",
                                    "label": CLASSES[seconds % 3], "position": str(position_ms),
                                    "visibility": "visible" if seconds % 2 else "not shown"})
        (folder / "Labels-v2.json").write_text(json.dumps({"annotations": annotations}))
    (root / "classes.txt").write_text("\n".join(CLASSES))
    return root


def record(monkeypatch, owner, name):
    """Wraps owner.name; returns the list of its calls as pairs (args, kwargs), tensors copied."""
    calls, original = [], getattr(owner, name)

    def wrapped(*args, **kwargs):
        calls.append((copied(args), copied(kwargs)))
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, wrapped)
    return calls


def copied(value):
    """A value whose tensors no step changes any more."""
    if isinstance(value, dict):
        return {key: copied(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [copied(v) for v in value]
    return value.detach().clone() if isinstance(value, torch.Tensor) else value
