"""
Any network for images as the teacher of stage 2: what it makes of every second of every half. The
command is `python -m comedian.prepare features`.

    --backbone timm:NAME           a network of timm, without its classes; timm is installed for it
    --backbone file.py:function    function() -> (network, size, mean, std): a torch module that
                                   makes (B, D) of images (B, 3, size, size) in [0, 1], of which
                                   `mean` was subtracted and which were divided by `std`

A row is the mean over the frames of its second [k, k + 1), of each frame's feature; where a second
has no frame, that of the frame before. Frames are squeezed to size x size, as for our own networks:
nothing at the sides is cut off.
"""
import contextlib
import hashlib
import importlib.util
from pathlib import Path

import numpy as np
import torch

from comedian import DataError, augment, bank, formats, run
from comedian.frames import FrameReader, ahead, of_length, open_halves


@contextlib.contextmanager
def of_user(name, what):
    """Whatever a network or a file that others wrote raises, as one line that names it."""
    try:
        yield
    except (Exception, SystemExit) as error:  # noqa: BLE001
        if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
                "can't allocate memory" in str(error)):
            raise                                         # command.py says what to lower
        raise DataError(f"--backbone {name}: {what} ({formats.shown(error)}); correct it, "
                        "docs/extend.md has an example") from None


def open_backbone(name, weights):
    """(network, size, mean (3,), std (3,)) of --backbone. weights: of a timm network, a file
    instead of those that timm fetches."""
    kind, _, function = name.rpartition(":")
    if kind == "timm":
        with of_user(name, "cannot be made here: pip install timm, name one of timm.list_models(), "
                     "or give its --weights"):
            import timm
            network = timm.create_model(function, pretrained=True, num_classes=0, **(
                {"pretrained_cfg_overlay": {"file": weights}} if weights else {}))
            cfg = timm.data.resolve_model_data_config(network)
        size, mean, std = cfg["input_size"][1], cfg["mean"], cfg["std"]
    elif kind.endswith(".py") and Path(kind).is_file():
        spec = importlib.util.spec_from_file_location("backbone_of_user", kind)
        module = importlib.util.module_from_spec(spec)
        with of_user(name, "needs a function that returns (network, size, mean, std)"):
            spec.loader.exec_module(module)
            network, size, mean, std = getattr(module, function)()
            size, mean, std = int(size), [float(v) for v in mean], [float(v) for v in std]
    else:
        raise DataError(f"--backbone {name}: neither timm:NAME nor a file.py:function that is "
                        "there; correct it")
    if not isinstance(network, torch.nn.Module) or not len(mean) == len(std) == 3 or (
            not 1 <= size <= 4096):
        raise DataError(f"--backbone {name}: needs a torch module, a size in pixels, and three "
                        "numbers each of mean and std")
    return network, size, mean, std


def fingerprint(network):
    """SHA-256 of a network's weights."""
    digest = hashlib.sha256()
    for key, value in sorted(network.state_dict().items()):
        digest.update(key.encode())
        digest.update(value.cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def write_features(args):
    """<out>/<match>/<half>_<name>.npy, (seconds, D), for every half below args.data that has none.
    Under torchrun each process takes its share of the halves."""
    rank, ranks, device = run.join_processes(args.device)
    halves = open_halves(args.data, args.split)
    halves, out = of_length(halves, 1, "one clip"), args.out or args.data
    name = args.name or "".join(c if c.isalnum() else "_" for c in args.backbone.split(":")[-1])
    network, size, mean, std = open_backbone(args.backbone, args.weights)
    with of_user(args.backbone, f"its weights cannot be read or moved to {device}"):
        made_by = {"backbone": args.backbone, "weights_sha256": fingerprint(network), "size": size,
                   "mean": list(mean), "std": list(std), "bf16": bool(args.bf16)}
        network = network.eval().to(device)
    reader, width = FrameReader(args.workers), None
    mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (mean, std))

    @torch.no_grad()
    def features(frames):                                             # (b, 1, H, W, 3) uint8
        x = augment.resize(augment.to_float(frames, device), size)[:, 0]         # (b, 3, S, S)
        with of_user(args.backbone, f"fails on images {tuple(x.shape)}"), torch.autocast(
                device.type, torch.bfloat16, enabled=bool(args.bf16)):
            y = network((x - mean) / std)
        if not isinstance(y, torch.Tensor) or y.dim() != 2 or y.shape != (
                len(x), width or y.shape[1]):
            raise DataError(f"--backbone {args.backbone}: makes "
                            f"{tuple(getattr(y, 'shape', ())) or type(y).__name__} of {len(x)} "
                            f"images, not (images, {width or 'width'}); pool or flatten it in a "
                            "function, without squeeze()")
        if not y.shape[1] or y.is_complex() or not y.isfinite().all():
            raise DataError(f"--backbone {args.backbone}: makes {y.shape[1]} {y.dtype} of an image "
                            "that are none, complex or not finite; correct its function")
        return y.float().cpu().numpy()                                # (b, D)

    def encode(halves):
        for half in halves:
            parts = ahead(reader.read([(half, frame) for frame in range(
                first, min(first + args.batch, half.n_frames))], 1)
                for first in range(0, half.n_frames, args.batch))
            yield half, mean_per_second(np.concatenate([features(part) for part in parts]), half)

    width = features(reader.read([(halves[0], 0)], 1)).shape[1]
    print(f"features: {args.backbone}, {size}x{size} pixels, {width} wide; a row is the mean of a "
          "second's frames")
    with run.stoppable(lambda: "stopped; the same command continues from here"), run.locked(
            out, rank):
        bank.write_missing(out, name, made_by, halves, width, encode, rank, ranks, run.barrier)


def mean_per_second(rows, half):
    """(n_frames, D) -> (seconds, D): row k is the mean of the frames of second [k, k + 1)."""
    seconds = np.arange(bank.n_seconds(half.n_tokens, half) + 1)
    first = np.ceil(seconds * half.fps - 1e-6).astype(int)            # frame at or after its start
    return np.stack([rows[min(a, b - 1, len(rows) - 1):b].mean(0)
                     for a, b in zip(first[:-1], first[1:], strict=True)])
