"""
Reads public weights: their file formats, ours among them, and others' names -> ours. Renaming
only: model.load_checkpoint finds out which network they fit, and whether they do.

    ours, model.safetensors and config.json        comedian.share writes them  as in the checkpoint

    official COMEDIAN, .pth or Lightning's .ckpt   all weights                 as if from stage 3
    ViT-T, ViT-S, Swin-T for images                the spatial encoder         as if from stage 1
        (timm 0.6 and 1.0, Microsoft's Swin, Google's AugReg .npz)

Our names are those of model.Comedian: "spatial.", "temporal." and "head.", then timm's names.
"""
import json
import math
import re
import warnings
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import torch

from comedian import DataError, formats, write_file
from comedian.formats import CONFIG, weights_file
from comedian.frames import CLIP_FRAMES


# ------------------------------------------------------------------ files of any origin
WHAT = "a checkpoint, or damaged"


def read_file(path):
    """Reads a file of weights: torch's pickle (tensors only), numpy's .npz, or safetensors; of a
    folder, its model.safetensors. With our config.json beside it, a checkpoint as a stage's."""
    path = weights_file(path)
    try:
        if not Path(path).is_file():                      # a fifo would never end
            raise DataError(f"{path}: no such checkpoint, or not a file; give another "
                            "(README, 'Weights and results', lists some)")
        zipped = formats.is_zip(path)
    except OSError as error:
        raise formats.refused(path, WHAT, error.strerror) from None
    if zipped:                                            # torch writes zip files, too
        members = formats.open_zip(path, WHAT)
        if all(member.info.filename.endswith(".npy") for member in members):
            return tensors(formats.read_npz(path, WHAT), path)
        if any(member.info.compress_type for member in members):           # torch stores them plain
            raise formats.refused(path, WHAT, "a zip, but not one of torch")
    elif Path(path).suffix == ".safetensors":
        return with_config(read_safetensors(path), path)
    try:
        with warnings.catch_warnings():   # torch's, of old storages and pickles: no second line
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001  (torch.load raises whatever the bytes lead to)
        if "Unsupported global" in str(error):
            raise DataError(f"{path}: contains Python objects besides its weights, which could run "
                            "any code; if you trust it, save only its dict of tensors with torch, "
                            "and give that file") from None
        raise DataError(f"{path}: not {WHAT}; {formats.MEND}") from None


def tensors(arrays, path):
    """{name: array} -> {name: tensor}; DataError for what is no number."""
    for name, array in arrays.items():
        if array.dtype.kind not in "fiu":
            raise formats.refused(path, WHAT, f"{name} is {array.dtype}")
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


SAFETENSORS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16,
               "BF16": torch.bfloat16, "I64": torch.int64, "I32": torch.int32, "U8": torch.uint8}
MAX_HEADER = 2 ** 25                  # the format's own bound is three times that


def read_safetensors(path):
    """{name: tensor}. The format: 8 bytes with the header's length, a header in JSON (for each
    name dtype, shape, first and last byte of the data), then the data, little-endian, one tensor
    after the other without a gap."""
    try:
        with formats.open_file(path) as file:
            length = int.from_bytes(file.read(8), "little")
            if length > MAX_HEADER:
                raise ValueError("its header is longer than any")
            header = formats.parse_json(file.read(length).decode())
            data = bytearray(file.read())
        if not isinstance(header, dict):
            raise ValueError("its header is no table")
        header.pop("__metadata__", None)
        places, end = safetensors_places(header), 0
        for first, last, name, _, _ in places:
            if first != end:
                raise ValueError(f"{name} begins at byte {first}, {end} is the next free one")
            end = last
        if end != len(data):
            raise ValueError(f"it has {len(data):,} bytes of data, its header wants {end:,}")
    except (OSError, ValueError) as error:
        raise formats.refused(path, WHAT, error) from None
    return {name: torch.frombuffer(data, dtype=dtype, count=math.prod(shape), offset=first)
            .reshape(shape) if last > first else torch.empty(shape, dtype=dtype)
            for first, last, name, dtype, shape in places}


def write_safetensors(path, weights):
    """Writes {name: tensor}, one after the other. DataError for a type that the format lacks."""
    types, header, end = {dtype: name for name, dtype in SAFETENSORS.items()}, {}, 0
    for name, value in weights.items():
        if value.dtype not in types:
            raise DataError(f"{path}: {name} is {value.dtype}, which this format cannot hold; give "
                            "a checkpoint of a stage")
        first, end = end, end + value.numel() * value.itemsize
        header[name] = {"dtype": types[value.dtype], "shape": list(value.shape),
                        "data_offsets": [first, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)                       # the data begin at a multiple of 8

    def save(file):
        file.write(len(text).to_bytes(8, "little") + text)
        for value in weights.values():
            file.write(value.contiguous().flatten().view(torch.uint8).numpy().tobytes())

    write_file(path, save)


def with_config(weights, path):
    """A checkpoint of weights that have our config.json beside them, by comedian.share or by
    huggingface_hub's mixin (docs/extend.md); others' weights as they are."""
    beside = path.with_name(CONFIG)
    content = formats.read_json(beside, "a config") if beside.exists() else None
    if isinstance(content, dict) and "cfg" in content:
        if "stage" not in content:
            print(f"weights: {beside}: names no stage; read as stage 3, with all weights trained")
        return {"model": weights, "config": content["cfg"], "stage": content.get("stage", 3)}
    if any(name.startswith(("spatial.", "temporal.")) for name in weights):
        if beside.exists():
            raise formats.refused(beside, f"the config of {path.name}", "it has no cfg")
        raise DataError(f"{path}: weights of this project without their {CONFIG}; put it into the "
                        "same folder")
    return weights


def safetensors_places(header):
    """(first byte, last, name, dtype, shape) of every tensor of a safetensors header, in the order
    of their bytes. ValueError for an entry that is no such thing."""
    places = []
    for name, entry in header.items():
        dtype = entry.get("dtype") if isinstance(entry, dict) else None
        if not isinstance(dtype, str) or dtype not in SAFETENSORS:
            raise ValueError(f"{name} is of the unknown type {str(dtype)[:20]!r}")
        shape, bytes_at = entry.get("shape"), entry.get("data_offsets")
        for numbers in (shape, bytes_at):
            if not isinstance(numbers, list) or not all(
                    type(n) is int and 0 <= n < 2 ** 62 for n in numbers):
                raise ValueError(f"{name} has no shape or place of whole numbers")
        size = math.prod(shape) * SAFETENSORS[dtype].itemsize
        if len(bytes_at) != 2 or len(shape) > 8 or bytes_at[1] - bytes_at[0] != size \
                or math.prod(max(n, 1) for n in shape) >= 2 ** 62:    # torch counts strides so
            raise ValueError(f"{name} of shape {shape[:8]} does not take bytes {bytes_at[:2]}")
        places.append((*bytes_at, name, SAFETENSORS[dtype], shape))
    return sorted(places, key=lambda place: place[:3])


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
        raise DataError(f"unknown weights ({len(weights)} entries: {', '.join([*weights][:3])}, "
                        "...); give a checkpoint of a stage, COMEDIAN's official weights, or a ViT "
                        "or Swin by timm, Microsoft or AugReg")
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
    def moved(name):
        return re.sub(r"^layers\.(\d{1,4})\.downsample",
                      lambda m: f"layers.{int(m[1]) - 1}.downsample", name)

    return {moved(name): value for name, value in weights.items()}


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
