"""
Files of weights: this project's checkpoints.

A checkpoint is a dict of tensors and plain values, readable with `torch.load(weights_only=True)`:
"model" (names as in model.Comedian), "config" (fields of model.Config), "stage" (1, 2 or 3), and
what that stage needs to go on.
"""
import os
from pathlib import Path

import torch

from data import DataError
from model import Config


def save_checkpoint(path, **content):
    """Tensors and plain values only, so that `torch.load(weights_only=True)` reads it. Written
    beside the old file and then renamed over it: a kill at any moment leaves a whole checkpoint."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, f"{path}.tmp")
    os.replace(f"{path}.tmp", path)


def load_checkpoint(path):
    """The dict that `save_checkpoint` wrote, on the CPU."""
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise DataError(f"{path}: no such checkpoint") from None
    except Exception as error:  # noqa: BLE001  (torch.load raises whatever the bytes lead to)
        raise DataError(f"{path}: not a checkpoint, or damaged ({type(error).__name__})") from None
    if not isinstance(checkpoint, dict) or not {"model", "config", "stage"} <= set(checkpoint):
        raise DataError(f"{path}: not a checkpoint of this project's stages")
    return checkpoint


def config_of(checkpoint):
    """Config from the plain dict in a checkpoint."""
    return Config(**checkpoint["config"])


def load_parts(model, checkpoint, parts, path):
    """Copies the weights whose names begin with one of `parts` ("spatial.", ...) into `model`.

    Every parameter of those parts must be there with its shape; DataError lists what does not fit.
    """
    own = {name: value for name, value in model.state_dict().items()
           if name.startswith(tuple(parts))}
    given = {name: value for name, value in checkpoint["model"].items()
             if name.startswith(tuple(parts))}
    wrong = [f"{name} missing" for name in own if name not in given]
    wrong += [f"{name} unknown" for name in given if name not in own]
    wrong += [f"{name} is {tuple(given[name].shape)}, model has {tuple(own[name].shape)}"
              for name in own if name in given and given[name].shape != own[name].shape]
    if wrong:
        raise DataError(f"{path}: does not fit this model: {'; '.join(wrong[:5])}"
                        f"{f' and {len(wrong) - 5} more' if len(wrong) > 5 else ''}")
    model.load_state_dict(given, strict=False)            # complete by the check above
