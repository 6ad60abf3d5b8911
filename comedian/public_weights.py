"""
Weights that others have published: their file formats, and their names -> ours. Renaming only:
model.load_checkpoint finds out which network they fit, and whether they do.

    official COMEDIAN, .pth or Lightning's .ckpt   all weights                 as if from stage 3
    ViT-T, ViT-S, Swin-T for images                the spatial encoder         as if from stage 1
        (timm 0.6 and 1.0, Microsoft's Swin, Google's AugReg .npz)

Our names are those of model.Comedian: "spatial.", "temporal." and "head.", then timm's names.
"""
import json
import math
import re
import zipfile
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from comedian import DataError
from comedian.frames import CLIP_FRAMES


# ------------------------------------------------------------------ files of any origin
def read_file(path):
    """What the file holds: torch's pickle (tensors only), numpy's .npz, or safetensors."""
    try:
        if zipfile.is_zipfile(path):                      # torch writes zip files, too
            with zipfile.ZipFile(path) as archive:
                is_npz = all(name.endswith(".npy") for name in archive.namelist())
            if is_npz:
                with np.load(path) as arrays:
                    return {name: torch.from_numpy(arrays[name]) for name in arrays}
        if Path(path).suffix == ".safetensors":
            return read_safetensors(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise DataError(f"{path}: no such checkpoint") from None
    except Exception as error:  # noqa: BLE001  (torch.load raises whatever the bytes lead to)
        if "Unsupported global" in str(error):
            raise DataError(f"{path}: holds Python objects beside its weights, and those could run "
                            "any code; if you trust it, save its dict of tensors alone with torch, "
                            "and give that file") from None
        raise DataError(f"{path}: not a checkpoint, or damaged") from None


SAFETENSORS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16,
               "BF16": torch.bfloat16, "I64": torch.int64}


def read_safetensors(path):
    """{name: tensor}. The format: 8 bytes with the header's length, a header in JSON (for each
    name dtype, shape, first and last byte of the data), then the data, little-endian."""
    content = bytearray(Path(path).read_bytes())
    data_start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:data_start])
    header.pop("__metadata__", None)
    return {name: torch.frombuffer(content, dtype=SAFETENSORS[entry["dtype"]],
                                   count=math.prod(entry["shape"]),
                                   offset=data_start + entry["data_offsets"][0])
            .reshape(entry["shape"]) for name, entry in header.items()}


# ------------------------------------------------------------------ public weights -> ours
BUFFERS = ("relative_position_index", "attn_mask")        # Swin computes them
HEADS = ("head.", "pre_logits.")                          # an image network's classes
TRUNK, HEAD = "trunk.transformer.", "head_class.layers.0."
OFFICIAL = {                          # beginning of a name below TRUNK -> ours; the first that fits
    "spatial_transformer.": "spatial.", "spatial_cls_token": "spatial.cls_token",
    "temporal_transformer.": "temporal.", "temporal_mask_token": "temporal.mask_token",
    "time_embed": "temporal.pos_embed", "": "spatial."}
AUGREG = {                            # parts of a name in the .npz -> timm's
    "Transformer/posembed_input/pos_embedding": "pos_embed", "Transformer/encoder_norm/": "norm.",
    "Transformer/encoderblock_": "blocks.", "/LayerNorm_0/": ".norm1.", "/LayerNorm_2/": ".norm2.",
    "/MultiHeadDotProductAttention_1/": ".attn.", "out/": "proj.",
    "/MlpBlock_3/Dense_0/": ".mlp.fc1.", "/MlpBlock_3/Dense_1/": ".mlp.fc2.",
    "embedding/": "patch_embed.proj.", "kernel": "weight", "scale": "weight", "/": "."}


class Renamed(NamedTuple):
    """Weights of public origin under our names."""
    weights: dict                     # {name: tensor}
    what: str                         # what they are, in words
    source: str                       # "comedian" or "image"
    stage: int                        # as whose result they count: 3, or 1 (spatial encoder alone)
    left_out: str                     # what was left out, counted by kind; "" if nothing


def rename(weights):
    """{name: tensor} of public origin -> Renamed. DataError if the origin is not recognised."""
    weights = {name.removeprefix("opt/target/"): value for name, value in weights.items()}
    source, stage = "image", 1
    if f"{TRUNK}time_embed" in weights:
        what, source, stage = "official COMEDIAN weights", "comedian", 3
        weights, left_out = from_official(weights)
    elif "Transformer/encoder_norm/scale" in weights:
        what = "an image ViT in Google's AugReg layout"
        weights, left_out = from_image_network(from_augreg(weights))
    elif "cls_token" in weights and "blocks.0.attn.qkv.weight" in weights:
        what = "an image ViT with timm's names"
        weights, left_out = from_image_network(weights)
    elif "layers.0.blocks.0.attn.relative_position_bias_table" in weights:
        what = "an image Swin with timm's or Microsoft's names"
        weights, left_out = from_image_network(from_swin(weights))
    else:
        raise DataError("not recognised: no checkpoint of these stages, not COMEDIAN's official "
                        "weights, no ViT or Swin by timm, Microsoft or AugReg; it has "
                        f"{len(weights)} entries: {', '.join([*weights][:3])}, ...")
    return Renamed(weights, what, source, stage, summary(left_out))


def summary(names):
    """What was left out, counted by kind: "12 relative_position_index, 2 head"."""
    leaves = [name.rsplit(".", 1)[-1] for name in names]
    kinds = Counter(leaf if leaf in BUFFERS else name.split(".")[0]
                    for name, leaf in zip(names, leaves, strict=True))
    return ", ".join(f"{n} {kind}" for kind, n in kinds.items())


def from_official(weights):
    """The released files are the whole Lightning module: the trunk, the head, and constants of the
    augmentations, which differ from file to file. Returns (weights with our names, left out)."""
    ours, left_out = {}, []
    for key, value in weights.items():
        if key.startswith(HEAD):
            ours["head." + key.removeprefix(HEAD)] = value
        elif key.startswith(TRUNK) and not key.endswith(BUFFERS):
            name = key.removeprefix(TRUNK)
            theirs = next(start for start in OFFICIAL if name.startswith(start))
            ours[OFFICIAL[theirs] + name.removeprefix(theirs)] = value
        else:
            left_out.append(key)
    return ours, left_out


def from_image_network(weights):
    """timm's names -> (ours, left out). The patch kernel (D, 3, P, P) is repeated over a clip's
    frames and divided by their number: a still image then gives what it gave (official code)."""
    left_out = [name for name in weights if name.startswith(HEADS) or name.endswith(BUFFERS)]
    ours = {f"spatial.{name}": value for name, value in weights.items() if name not in left_out}
    kernel = ours.get("spatial.patch_embed.proj.weight")
    if kernel is not None and kernel.dim() == 4:
        ours["spatial.patch_embed.proj.weight"] = (
            kernel[:, :, None].repeat(1, 1, CLIP_FRAMES, 1, 1) / CLIP_FRAMES)     # (D, 3, 2, P, P)
    return ours, left_out


def from_swin(weights):
    """timm 1.0 opens a stage with its `downsample`; timm 0.6, Microsoft and model.py end the one
    before with it. layers.1 and layers.2 have one in either case, only not the same one."""
    if "layers.0.downsample.reduction.weight" in weights:
        return weights
    return {re.sub(r"^layers\.(\d+)\.downsample", lambda m: f"layers.{int(m[1]) - 1}.downsample",
                   name): value for name, value in weights.items()}


def from_augreg(arrays):
    """Google's names and layouts -> timm's. There, kernels are (in, out), with the heads as a
    dimension of their own: query, key, value (D, h, 64), out (h, 64, D)."""
    weights = {"cls_token" if key == "cls" else key: value for key, value in arrays.items()}
    for theirs, timm in AUGREG.items():
        weights = {name.replace(theirs, timm): value for name, value in weights.items()}
    for name, value in weights.items():
        if name.endswith(".weight") and value.dim() == 4:
            weights[name] = value.permute(3, 2, 0, 1)           # (P, P, 3, D) -> (D, 3, P, P)
        elif name.endswith(".weight") and value.dim() > 1:
            value = value.flatten(0, -2) if name.endswith("proj.weight") else value.flatten(1)
            weights[name] = value.T                                       # (out, in)
        elif name.endswith(".bias"):
            weights[name] = value.flatten()
    for query in [name for name in weights if ".attn.query." in name]:
        qkv = [weights.pop(query.replace("query", part), torch.empty(0))
               for part in ("query", "key", "value")]                     # each (D, D) or (D,)
        if qkv[0].dim() and qkv[0].shape == qkv[1].shape == qkv[2].shape:
            weights[query.replace("query", "qkv")] = torch.cat(qkv)       # else it will be missed
    return weights
