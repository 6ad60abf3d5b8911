"""
Post-processing and metric as operators in C++: window scores -> a score per token -> detections ->
average precision.

    merged = ops.merge_windows(scores, start, half, length, edge=12)   # (N, L, K) -> (S, K)
    kept = ops.soft_nms(merged, length, window=20)                     # (S, K), -1 = no detection
    half, cls, token, score = ops.detections(kept, length)             # (M,) each
    ap = ops.average_map(half, cls, token, score.double(), *labels, H, K, delta_frames)  # (3, D, K)

reference.py defines each in a few lines of Python, under the same name, with the same letters and
units. The fast kernels in csrc/ return the same bits. Proved by test_from_windows_to_precision.

All tensors are on the CPU. If the first is on the meta device, so is the result, and nothing is
computed. A wrong argument raises ValueError, or TypeError if it should be a tensor, or torch's own
error (for an edge of 1.5, say). No operator has a gradient, so a tensor that requires one raises
ValueError. This file can be imported before the kernels are built. Then each operator raises
ImportError, with a line that says what to run.
"""
import hashlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from comedian.reference import per_class

# ----- the compiled extension -------------------------------------------------------------------
BUILD = "python setup.py build_ext --inplace   (or: pip install --no-build-isolation -e .)"
CSRC = Path(__file__).resolve().parent.parent / "csrc"


def load_kernels():
    """Imports the extension, which registers torch.ops.comedian. Returns "" if it was built from
    this csrc/, for this Python and torch; else a line: what is wrong and what to run."""
    try:
        from comedian._C import source_hash as built_from
    except ModuleNotFoundError:
        return f"the kernels are not built for this Python; run: {BUILD}"
    except ImportError as e:              # built, but cannot be loaded: for another torch, mostly
        return f"the kernels do not fit torch {torch.__version__}: {e}; run: {BUILD}"
    if not (CSRC / "average_map.cpp").is_file():           # only the wheel is installed
        return ""
    sources = sorted(f for f in CSRC.iterdir() if f.suffix in (".cpp", ".h"))
    source_hash = hashlib.sha256(b"".join(f.read_bytes() for f in sources)).hexdigest()
    return "" if source_hash == built_from else (
        f"the kernels were built from other sources than csrc/; run: {BUILD}")


BUILD_ERROR, kernels = load_kernels(), torch.ops.comedian


def require_build():
    """ImportError if the kernels cannot be used: called at the start of a long run."""
    if BUILD_ERROR:
        raise ImportError(BUILD_ERROR)


def require_tensors(operator, **arguments):
    """Raises TypeError for an argument that is no tensor, ValueError for one on the wrong device or
    with a gradient. (csrc/bindings.cpp checks types, shapes and values.)"""
    require_build()
    (first, leader), *_ = arguments.items()
    for name, x in arguments.items():
        if not isinstance(x, Tensor):
            raise TypeError(f"{name} must be a tensor, got {type(x).__name__}; "
                            f"pass torch.as_tensor({name})")
        if x.device.type not in ("cpu", "meta"):
            raise ValueError(f"{name} must be on the CPU, got a tensor on {x.device}; "
                             f"pass {name}.cpu()")
        if x.device.type == "meta" and leader.device.type != "meta":
            raise ValueError(f"{name} must be on the CPU as {first} is, got a tensor on meta")
        if x.requires_grad and torch.is_grad_enabled():
            raise ValueError(f"{name} must not require a gradient, {operator} has none; "
                             f"pass {name}.detach()")


def require_one_of(name, value, allowed):
    if value not in allowed:
        raise ValueError(f"{name} must be {' or '.join(map(repr, allowed))}, got {value!r}")


# ----- the operators ----------------------------------------------------------------------------
def merge_windows(scores: Tensor, start: Tensor, half: Tensor, length: Tensor,
                  edge: int = 0, mode: Literal["max", "mean"] = "max") -> Tensor:
    """Merges overlapping windows into one score per token and class, without the `edge` outer
    tokens of each window.

    scores (N, L, K); start (N,) first token of each window in its half, >= 0; half (N,) which half,
    not decreasing; length (H,) tokens per half. Returns (S, K). Proved by TestMergeWindows.
    """
    require_tensors("merge_windows", scores=scores, start=start, half=half, length=length)
    require_one_of("mode", mode, ("max", "mean"))
    return kernels.merge_windows(scores, start, half, length, edge, mode == "mean")


def default_ignore(window):
    """Tokens to ignore at each edge of a window of `window` tokens: 12 of 64 and 6 of 32, the
    paper's choices, and in proportion."""
    return window * 3 // 16


def soft_nms(scores: Tensor, length: Tensor, window: float | Sequence[float] | Tensor,
             threshold: float = 0.001, min_weight: float = 0.0) -> Tensor:
    """Linear soft NMS, per half and class: the neighbours of a detection lose score.

    scores (S, K); length (H,); window: total width in tokens, >= 0, whole or not, or K of them;
    threshold: lowest score of a detection; min_weight: the least share that neighbours keep.
    Returns (S, K): each detection's score when it was picked, -1 elsewhere. Proved by TestNMS.
    """
    require_tensors("soft_nms", scores=scores, length=length)
    window = per_class(window, scores)
    require_tensors("soft_nms", scores=scores, window=window)
    return kernels.soft_nms(scores, length, window, threshold, min_weight)


def hard_nms(scores: Tensor, length: Tensor, window: float | Sequence[float] | Tensor,
             threshold: float = 0.001, mode: Literal["greedy", "local"] = "greedy") -> Tensor:
    """Hard NMS, per half and class: the neighbours of a detection ("greedy") or of any higher
    score ("local") are removed.

    scores (S, K); length (H,); window: total width in tokens, >= 0, whole or not, or K of them;
    threshold: lowest score of a detection. Returns (S, K): the detection's score, -1 elsewhere.
    Proved by TestNMS.
    """
    require_tensors("hard_nms", scores=scores, length=length)
    require_one_of("mode", mode, ("greedy", "local"))
    window = per_class(window, scores)
    require_tensors("hard_nms", scores=scores, window=window)
    return kernels.hard_nms(scores, length, window, threshold, mode == "local")


# All kinds, by the names that --nms takes; as in reference.py.
NMS = {"soft": soft_nms,
       "greedy": partial(hard_nms, mode="greedy"), "local": partial(hard_nms, mode="local")}


def detections(kept: Tensor, length: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What an NMS kept, as a list: (half, class, token, score), each (M,), in that order.

    kept (S, K), length (H,). token counts from the start of its half. Proved by TestDetections.
    """
    require_tensors("detections", kept=kept, length=length)
    return kernels.detections(kept, length)


def average_map(
        pred_half: Tensor, pred_class: Tensor, pred_frame: Tensor, pred_score: Tensor,
        gt_half: Tensor, gt_class: Tensor, gt_frame: Tensor, gt_visible: Tensor,
        n_halves: int, n_classes: int, delta_frames: Tensor) -> Tensor:
    """Average precision of spotted events, equal to SoccerNet 0.2.0's evaluator to the last bit.

        predictions = half, class, frame (P,) int64, score (P,) float64       # as detections has it
        labels      = half, class, frame (G,) int64, visible (G,) bool
        ap          = average_map(*predictions, *labels, n_halves, n_classes, delta_frames)

    delta_frames (D,) int64: full widths of the tolerance. Returns (3, D, K) float64: AP over [any,
    visible, unshown] labels. Proved by TestAverageMap.
    """
    require_tensors("average_map", pred_half=pred_half, pred_class=pred_class,
                    pred_frame=pred_frame, pred_score=pred_score, gt_half=gt_half,
                    gt_class=gt_class, gt_frame=gt_frame, gt_visible=gt_visible,
                    delta_frames=delta_frames)
    return kernels.average_map(pred_half, pred_class, pred_frame, pred_score, gt_half, gt_class,
                               gt_frame, gt_visible, n_halves, n_classes, delta_frames)


def resampled_map(
        pred_half: Tensor, pred_class: Tensor, pred_frame: Tensor, pred_score: Tensor,
        gt_half: Tensor, gt_class: Tensor, gt_frame: Tensor, gt_visible: Tensor, n_halves: int,
        n_classes: int, delta_frames: Tensor, match_halves: int, picks: Tensor) -> Tensor:
    """average_map of resamples of the matches, each as if it were evaluated outright.

    picks (R, M) int64: the matches of each resample; halves match_halves * m and the next
    match_halves - 1 are those of match m. Returns (R, 3, D, K) float64. Proved by TestResampledMap.
    """
    require_tensors("resampled_map", pred_half=pred_half, pred_class=pred_class,
                    pred_frame=pred_frame, pred_score=pred_score, gt_half=gt_half,
                    gt_class=gt_class, gt_frame=gt_frame, gt_visible=gt_visible,
                    delta_frames=delta_frames, picks=picks)
    return kernels.resampled_map(pred_half, pred_class, pred_frame, pred_score, gt_half, gt_class,
                                 gt_frame, gt_visible, n_halves, n_classes, delta_frames,
                                 match_halves, picks)


# ----- shapes without data, for torch.compile and torch.export ----------------------------------
def register_shapes(operator):
    """Registers a function that computes an operator's output shapes, if the operator is built."""
    return (lambda fake: fake) if BUILD_ERROR else torch.library.register_fake(operator)


@register_shapes("comedian::merge_windows")
def _(scores, start, half, length, edge, mean):
    return scores.new_empty(torch.library.get_ctx().new_dynamic_size(), scores.shape[2])


@register_shapes("comedian::soft_nms")
def _(scores, length, window, threshold, min_weight):
    return scores.new_empty(scores.shape)


@register_shapes("comedian::hard_nms")
def _(scores, length, window, threshold, local):
    return scores.new_empty(scores.shape)


@register_shapes("comedian::detections")
def _(kept, length):
    n_found = torch.library.get_ctx().new_dynamic_size()
    half, cls, token = (kept.new_empty(n_found, dtype=torch.int64) for _ in range(3))
    return half, cls, token, kept.new_empty(n_found)


@register_shapes("comedian::average_map")
def _(pred_half, pred_class, pred_frame, pred_score,
      gt_half, gt_class, gt_frame, gt_visible, n_halves, n_classes, delta_frames):
    return pred_half.new_empty(3, delta_frames.shape[0], n_classes, dtype=torch.float64)


@register_shapes("comedian::resampled_map")
def _(pred_half, pred_class, pred_frame, pred_score, gt_half, gt_class, gt_frame, gt_visible,
      n_halves, n_classes, delta_frames, match_halves, picks):
    return pred_half.new_empty(picks.shape[0], 3, delta_frames.shape[0], n_classes,
                               dtype=torch.float64)
