"""
Two tiny matches in SoccerNet's layout, for the tests that run whole stages; spies; AdamW by hand
and what else the stages' own tests share; which tests are proofs (pytest -m proof); and what tests
say whose kernels are not built; a browser.
"""
import collections
import contextlib
import json
import os
import re
import shutil
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F

import model
from comedian import DataError, augment, draw, ops
from comedian.checkpoint import save_checkpoint
from comedian.frames import Half

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


def pytest_terminal_summary(terminalreporter):
    """A line for each reason why tests were skipped: here they are few, and each leaves a part of
    the project untested."""
    skipped = collections.Counter(report.longrepr[2] for report in terminalreporter.stats.get(
        "skipped", ()) if isinstance(report.longrepr, tuple))
    for reason, n in skipped.items():
        terminalreporter.write_line(f"{n} skipped: {reason.removeprefix('Skipped: ')}")


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
    Tests only read it."""
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


@contextlib.contextmanager
def refused(*parts, match=None, most=10_000, unmade="nothing"):
    """The one line of a mistake: with these parts, or like a regular expression; not longer. What
    was to be written is not begun."""
    with pytest.raises(DataError, match=match) as error:
        yield
    said = str(error.value)
    assert "\n" not in said and len(said) < most and all(part in said for part in parts), said
    assert not Path(unmade).exists()


def half_of(n_frames, number=1, fps=2.0, match="m"):
    return Half(match, number, "f", "", 8, ".jpg", 1, n_frames, fps)


def halves_of(*n_frames, fps=2.0):
    return [half_of(n, fps=fps, match=f"m{i}") for i, n in enumerate(n_frames)]


# ------------------------------------------------------------------ for the tests of the stages
@pytest.fixture
def no_pictures(monkeypatch):
    """Curves have their own tests, and matplotlib takes its time."""
    monkeypatch.setattr(draw, "curves", lambda *args: None)


def unit(*shape, seed=0):
    """Random unit vectors, float64."""
    gen = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=gen, dtype=torch.float64), dim=-1)


def write_init(path, stage, **changes):
    """Writes a checkpoint as stage 1, 2 or 3 leaves it, every weight away from its first value;
    returns its weights. The network: vivit_micro with some drop path, 8 tokens a window."""
    cfg = model.with_changes("vivit_micro", **({"window_tokens": 8, "drop_path": 0.2} | changes))
    torch.manual_seed(17)
    weights = {name: value + 0.02 * torch.randn_like(value)
               for name, value in model.Comedian(cfg).state_dict().items()
               if stage > 1 or name.startswith("spatial.")}
    save_checkpoint(path, stage=stage, step=9, config=asdict(cfg), model=weights)
    return weights


def logged(out, key="loss"):
    """One number of every line of a run's log.txt: [float]."""
    return [float(number) for number in
            re.findall(rf"\| {key} (\S+)", Path(out, "log.txt").read_text())]


def record_augmentations(monkeypatch):
    """The list of what is done to images, as (name, *arguments) without tensors and draws."""
    calls = []

    def spy(name, original):
        def recorded(x, *args, **kwargs):
            calls.append((name, *(a for a in (*args, *kwargs.values())
                                  if not isinstance(a, (augment.Draws, torch.Tensor)))))
            return original(x, *args, **kwargs)
        return recorded

    for name in ("resize", "crop_resize", "color_jitter", "grayscale", "gaussian_blur", "solarize",
                 "hflip", "normalize"):
        monkeypatch.setattr(augment, name, spy(name, getattr(augment, name)))
    return calls


def record_gradients(monkeypatch):
    """The list of every step's gradients before they are clipped, None where there is none."""
    steps, clip = [], torch.nn.utils.clip_grad_norm_

    def spy(parameters, max_norm):
        parameters = list(parameters)
        steps.append([p.grad if p.grad is None else p.grad.clone() for p in parameters])
        return clip(parameters, max_norm)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", spy)
    return steps


def check_accumulation(run, out, monkeypatch, passes, keys):
    """run(out, *flags), of one step, has the same gradients and logs the same from one pass and
    from several, but for rounding."""
    steps = record_gradients(monkeypatch)
    for n in passes:
        run(out / n, "--accumulate", n)
        for key in keys:
            assert logged(out / n, key) == pytest.approx(logged(out / passes[0], key), abs=2e-4)
    first, *others = ([g for g in gradients if g is not None] for gradients in steps)
    assert len(steps) == len(passes) and sum(g.any() for g in first) > len(first) / 2
    scale = torch.stack([g.norm() for g in first]).norm()
    for other in others:
        for one, split in zip(first, other, strict=True):             # float32: small sums cancel
            assert (one - split).norm() <= 1e-3 * one.norm() + 1e-5 * scale


def check_function_of_step(pick):
    """pick(step, seed) is the same in any order of asking, whatever else was drawn in between."""
    forward = [pick(step, 5) for step in range(12)]
    np.random.seed(1)
    torch.manual_seed(1)
    assert [pick(step, 5) for step in reversed(range(12))] == forward[::-1]
    assert [pick(step, 6) for step in range(12)] != forward and forward[0] != forward[1]


def frames_by_hand(half, first, n):
    """(n, H, W, 3) uint8, red first."""
    files = [f"{half.folder}/{first + i + 1:08d}.png" for i in range(n)]
    return torch.from_numpy(np.stack([cv2.imread(file)[:, :, ::-1] for file in files]))


class AdamW:
    """AdamW for one parameter, as its paper has it."""

    def __init__(self, parameter, decay):
        self.parameter, self.decay, self.t = parameter, decay, 0
        self.m = self.v = torch.zeros_like(parameter)

    @torch.no_grad()
    def step(self, gradient, lr):
        self.t += 1
        self.m = 0.9 * self.m + 0.1 * gradient
        self.v = 0.999 * self.v + 0.001 * gradient ** 2
        m, v = self.m / (1 - 0.9 ** self.t), self.v / (1 - 0.999 ** self.t)
        self.parameter.mul_(1 - lr * self.decay).sub_(lr * m / (v.sqrt() + 1e-8))


def adamw_by_hand(parameters, decay):
    """{name: AdamW} for {name: parameter}, first those that decay, as a checkpoint has them."""
    free = [name for name, p in parameters.items() if p.dim() < 2
            or name.split(".")[-1] in ("cls_token", "pos_embed", "mask_token")]
    return {name: AdamW(parameters[name], 0 if name in free else decay)
            for name in sorted(parameters, key=free.__contains__)}


def clipped_step(adams, gradients, clip_grad, lr):
    """A step with gradients {name: tensor}, clipped together; returns their norm."""
    norm = torch.stack([g.double().norm() for g in gradients.values()]).norm().item()
    assert norm > 2 * clip_grad, "clipping must bite"
    for name, gradient in gradients.items():
        adams[name].step(gradient * (clip_grad / norm), lr)
    return norm


def assert_optimizer(saved, adams, lr):
    """An optimiser's state_dict is what the AdamWs {name: AdamW} have by now."""
    decays, of_step = [adam.decay for adam in adams.values()], list(adams.items())
    groups = saved["param_groups"]
    assert [(g["lr"], g["weight_decay"]) for g in groups] == [
        (pytest.approx(lr, rel=1e-9), decay) for decay in (decays[0], 0)]
    assert [len(g["params"]) for g in groups] == [len(decays) - decays.count(0), decays.count(0)]
    assert sum((g["params"] for g in groups), []) == list(range(len(adams)))
    assert set(saved["state"]) == {i for i, (_, adam) in enumerate(of_step) if adam.t}
    for i, moments in saved["state"].items():
        name, adam = of_step[i]
        assert moments["step"] == adam.t
        for got, expected in ((moments["exp_avg"], adam.m), (moments["exp_avg_sq"], adam.v)):
            assert got.shape == expected.shape
            assert (got - expected).norm() <= 1e-3 * expected.norm() + 1e-12, name


def assert_near(got, expected, most, name):
    """No further apart than `most`. Attention's bias of the keys does not count: a softmax does not
    see it, so that its gradient is rounding, of which Adam makes steps."""
    assert got.shape == expected.shape, name
    if name.endswith("qkv.bias"):
        got, expected = (value.view(3, -1)[[0, 2]] for value in (got, expected))
    assert (got - expected).norm() <= most, name


# ------------------------------------------------------------------ in a browser
@pytest.fixture(scope="module")
def browser():
    wants = "pages are not tested in a browser: "
    driver = pytest.importorskip("playwright.sync_api", reason=wants + "pip install playwright")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if not chromium:
        pytest.skip(wants + "apt install chromium")
    with driver.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(browser):
    """Opens a page in one browser; at the end none has raised an error, or called anybody."""
    context, errors = browser.new_context(viewport={"width": 1200, "height": 900}), []
    context.set_default_timeout(8000)

    def visit(path, script=""):
        tab = context.new_page()
        tab.asked = []                                     # the questions; the answer is yes
        tab.add_init_script(script)
        tab.on("dialog", lambda dialog: (tab.asked.append(dialog.type), dialog.accept()))
        tab.on("pageerror", lambda error: errors.append(str(error)))
        tab.on("request", lambda ask: ask.url.startswith("http") and errors.append(ask.url))
        tab.goto(path.as_uri())
        return tab

    yield visit
    context.close()
    assert errors == []


def axe_findings(tab):
    """What is wrong with a page by the rules of axe-core; without it the test is skipped."""
    axe = Path(os.environ.get("AXE", "axe.min.js"))
    if not axe.is_file():
        pytest.skip("axe is absent: npm pack axe-core; tar xzf axe-core-*.tgz; "
                    "AXE=package/axe.min.js")
    tab.evaluate(axe.read_text())
    return tab.evaluate("""async () => (await axe.run()).violations.map(
        rule => [rule.id, ...rule.nodes.map(node => node.html + node.failureSummary)])""")
