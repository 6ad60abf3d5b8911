"""
Writes and checks checkpoints. A checkpoint is a dict of tensors and plain values, which
torch.load(weights_only=True) reads:

    model       the weights, {name: tensor}, names as in model.Comedian
    config      the fields of model.Config
    stage       1, 2 or 3: which parts have been trained
    step, args, log, optimizer, ...     what that stage needs to be resumed

The networks are arguments (`models`: {name: Config}; `network`: builds one from a Config), so that
this file imports nothing above it. Public weights become such a dict, too (public_weights.py).
"""
import dataclasses
import re
import reprlib

import torch
from torch import nn

from comedian import DataError, public_weights, write_file
from comedian.labels import is_text
from comedian.soccernet import MAX_CLASSES


def save_checkpoint(path, **content):
    """Writes a checkpoint, whole or not at all. DataError if it cannot be written."""
    write_file(path, lambda file: torch.save(content, file))


def load_checkpoint(path, models, network):
    """The dict that `save_checkpoint` wrote, on the CPU, its "config" a Config. Public weights
    become such a dict, with "model", "config", "stage" and "source" ("comedian" or "image"), and
    one line is printed about them. DataError for what is damaged, unknown or does not fit.
    """
    content = public_weights.read_file(path)
    if isinstance(content, dict) and {"model", "config", "stage"} <= set(content):
        if type(content["stage"]) is not int or content["stage"] not in (1, 2, 3):
            raise DataError(f"{path}: its stage is {reprlib.repr(content['stage'])}, not 1, 2 or "
                            "3; use the version that wrote it")
        check_weights(content["model"], path)
        cfg = read_config(content["config"], models, path)
        check_fit(content["model"], cfg, network, trained_parts(content), path)
        return content | {"config": cfg}
    weights = content
    for wrapping in ("state_dict", "model"):              # Lightning's .ckpt, Microsoft's .pth
        if isinstance(content, dict) and wrapping in content:
            weights = content[wrapping]
    check_weights(weights, path)
    return from_public(weights, models, network, path)


def check_fit(weights, cfg, network, parts, path, what="weights"):
    """DataError unless the weights whose names begin with one of `parts` are those of `cfg`, name
    by name. It needs no memory: a config may describe more than there is. what: the message's word
    for the weights."""
    with torch.device("meta"):                            # names and shapes only
        own = network(cfg).state_dict()
    wrong = differences(own, weights, parts)
    if wrong:
        raise DataError(f"{path}: {what}, but they do not fit {cfg.model}: {wrong}; use the "
                        "version that wrote them, or other weights")


def from_public(weights, models, network, path):
    """{name: tensor} of public origin -> a checkpoint. DataError if it does not fit one for one.

    Read from shapes: width, temporal depth, window. The shapes do not say the number of heads, nor
    the LayerNorms' eps: `models` does (timm's own Swin has an eps of 1e-5; the official ViSwin runs
    its weights with 1e-6, and so do we). All public weights see (x - 0.45) / 0.225.
    """
    try:
        renamed = public_weights.rename(weights)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    cfg = config_from_shapes(renamed.weights, models)
    if cfg is None:
        raise DataError(f"{path}: {renamed.what}, but not as wide as ViT-T, ViT-S or Swin-T; "
                        "use weights of one of these")
    extra = [name for name in renamed.weights
             if renamed.source == "image" and not name.startswith("spatial.")]
    if extra:
        raise DataError(f"{path}: {renamed.what}, but also {extra[0]}, which no image network "
                        "has; use other weights")
    parts = ["spatial."] if renamed.source == "image" else [""]
    check_fit(renamed.weights, cfg, network, parts, path, renamed.what)
    print(f"weights: {path}: {renamed.what}, {cfg.model}"
          + (f", {cfg.window_tokens} tokens, temporal depth {cfg.temporal_depth}"
             if renamed.source == "comedian"
             else ", spatial encoder only, patch kernel inflated to 2 frames")
          + (f"; left out: {renamed.left_out}" if renamed.left_out else ""))
    return {"model": {name: value.float() for name, value in renamed.weights.items()},
            "config": cfg, "stage": renamed.stage, "source": renamed.source}


def config_from_shapes(weights, models):
    """The Config that weights with our names are for, from their shapes; None if there is none."""
    spatial = "vit" if "spatial.cls_token" in weights else "swin"
    kernel = weights.get("spatial.patch_embed.proj.weight", torch.empty(0))
    cfg = next((cfg for cfg in models.values()
                if cfg.spatial == spatial and kernel.shape[:1] == (cfg.embed_dim,)), None)
    if cfg is None or "temporal.pos_embed" not in weights:
        return cfg
    # Blocks are counted. The official code takes a flag and loads with strict=False: with too small
    # a depth it drops blocks without a word, and its logits differ by 1.5.
    blocks = [int(m[1]) for m in (re.match(r"temporal\.blocks\.(\d{1,2})\.", name)
                                  for name in weights) if m]
    return dataclasses.replace(cfg, temporal_depth=max(blocks, default=-1) + 1,
                               window_tokens=weights["temporal.pos_embed"].numel() // cfg.width)


# What a Config's numbers may be: far beyond what anybody trains, and small enough to build.
LIMITS = {"image_size": (1, 4096), "patch_size": (1, 512), "embed_dim": (1, 8192),
          "mlp_ratio": (0.01, 64), "temporal_depth": (1, 128), "temporal_heads": (1, 128),
          "window_tokens": (1, 16384), "drop_path": (0, 0.99), "head_width": (1, 65536),
          "depth": (1, 128), "num_heads": (1, 128)}


def read_config(config, models, path):
    """The Config that a checkpoint stores as a dict. Fields that are newer than the checkpoint take
    the values of `models`, with which it was made. DataError for unknown fields and values that
    fit no network."""
    if not isinstance(config, dict) or config.get("model") not in tuple(models):
        raise DataError(f"{path}: its config names no model of this version "
                        f"({', '.join(models)}); use the version that wrote it")
    known = dataclasses.asdict(models[config["model"]])
    unknown = [reprlib.repr(name) for name in config if name not in known]
    if unknown:
        raise DataError(f"{path}: its config has {', '.join(unknown[:5])}, which this version "
                        "does not know; use the version that wrote it")
    config = known | config
    for name, (low, high) in LIMITS.items():
        values = config[name] if name in ("depth", "num_heads") else [config[name]]
        whole = name not in ("mlp_ratio", "drop_path")
        if (not isinstance(values, (list, tuple)) or not 0 < len(values) <= 8
                or not all(type(v) in ((int,) if whole else (int, float)) and low <= v <= high
                           for v in values)):
            raise DataError(f"{path}: its config has {name} {reprlib.repr(config[name])}; use "
                            f"numbers from {low} to {high}")
    classes = config["classes"]
    if (not isinstance(classes, (list, tuple)) or not 0 < len(classes) <= MAX_CLASSES
            or not all(is_text(name) for name in classes)
            or len(set(classes)) < len(classes)):
        raise DataError(f"{path}: its config has no list of different class names; use the version "
                        "that wrote it")
    for name in ("depth", "num_heads", "classes"):        # a list, where others wrote the file
        config[name] = tuple(config[name])
    cfg = dataclasses.replace(models[config["model"]], **config)
    if not is_buildable(cfg):
        raise DataError(f"{path}: its config fits no network (image {cfg.image_size}, patch "
                        f"{cfg.patch_size}, width {cfg.embed_dim}, depth {cfg.depth}, heads "
                        f"{cfg.num_heads}, {reprlib.repr(cfg.spatial)}); use the version that "
                        "wrote it")
    return cfg


def is_buildable(cfg):
    """Whether the numbers of a Config divide each other as the modules of model.py require."""
    widths = [cfg.embed_dim * 2 ** i for i in range(len(cfg.depth))]
    patches = 1 if cfg.spatial == "vit" else 7 * 2 ** (len(cfg.depth) - 1)     # a side is n times
    return (cfg.spatial in ("vit", "swin") and type(cfg.normalize_per_frame) is bool
            and len(cfg.num_heads) == len(cfg.depth)
            and (cfg.spatial == "swin" or len(cfg.depth) == 1)
            and not any(width % heads for width, heads in zip(widths, cfg.num_heads, strict=True))
            and not cfg.width % cfg.temporal_heads
            and not cfg.image_size % (cfg.patch_size * patches))


def check_weights(weights, path):
    """DataError unless `weights` is {name: tensor}, dense and finite."""
    if not isinstance(weights, dict) or not weights or not all(
            isinstance(name, str) and isinstance(value, torch.Tensor)
            for name, value in weights.items()):
        raise DataError(f"{path}: neither a checkpoint of this project nor public weights: not a "
                        "dict {name: tensor}; save the weights as one")
    for name, value in weights.items():
        check_tensor(value, name, path)


DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.int32,
          torch.int16, torch.int8, torch.uint8, torch.bool)


def check_tensor(value, name, path):
    """DataError unless a tensor is dense, of plain numbers, finite, and all in the file: a view may
    promise a million times what was stored."""
    if (value.layout != torch.strided or value.is_nested or value.device.type != "cpu"
            or value.dtype not in DTYPES
            or value.numel() * value.itemsize > value.untyped_storage().nbytes()):
        raise DataError(f"{path}: {name} is no plain dense tensor; save it as one")
    if value.is_floating_point() and not value.isfinite().all():
        raise DataError(f"{path}: {name} has values that are not finite; use an earlier "
                        "checkpoint")


def trained_parts(checkpoint):
    """What has been trained, as prefixes for `load_parts`: the spatial encoder in stage 1, the
    temporal transformer too in stage 2, the head too in stage 3."""
    return ["spatial.", "temporal.", "head."][:checkpoint["stage"]]


def differences(own, given, parts=("",)):
    """Where two dicts of weights, those whose names begin with one of `parts`, differ in names,
    shapes or kind: a text; "" if nowhere."""
    own, given = ({name: value for name, value in weights.items() if name.startswith(tuple(parts))}
                  for weights in (own, given))
    wrong = [f"{name} missing" for name in own if name not in given]
    wrong += [f"{name} unknown" for name in given if name not in own]
    wrong += [f"{name} is {tuple(given[name].shape)}, model has {tuple(own[name].shape)}"
              for name in own if name in given and given[name].shape != own[name].shape]
    wrong += [f"{name} is {given[name].dtype}" for name in own
              if name in given and not given[name].is_floating_point()]
    return "; ".join(wrong[:5]) + (f" and {len(wrong) - 5} more" if len(wrong) > 5 else "")


def load_parts(model, checkpoint, parts, path):
    """Copies the weights whose names begin with one of `parts` ("spatial.", ...) into `model`.

    Every parameter of those parts must be there with its shape; DataError lists what does not fit.
    """
    given = {name: value for name, value in checkpoint["model"].items()
             if name.startswith(tuple(parts))}
    wrong = differences(model.state_dict(), given, parts)
    if wrong:
        raise DataError(f"{path}: does not fit this model: {wrong}; use the checkpoint of a stage "
                        "of the same --model")
    model.load_state_dict(given, strict=False)            # complete by the check above


# ------------------------------------------------------------------ start, resume
def start_from(model, init, path, temporal_init, stage):
    """Copies into a new network what the stages before `stage` have trained, from the checkpoint
    `init` at `path` (--init; None: all its weights stay random), and prints it. A temporal
    transformer that is missing starts as a copy of the spatial blocks ("copy", only for a ViT) or
    at random. Returns the network."""
    if init:
        parts = trained_parts(init)[:stage - 1]
        load_parts(model, init, parts, path)
        if "temporal." not in parts and temporal_init == "copy" and model.cfg.spatial == "vit":
            model.copy_spatial_to_temporal()
        what = {2: "the spatial encoder of stage {}",
                3: " and ".join(part.strip(".") for part in parts)
                + " transformer of stage {}; the head starts anew"}[stage]
        print(f"init: {path}: {model.cfg.model}, {what.format(init['stage'])}")
    return model


def restore(parts, state, path):
    """Restores modules, optimizer and queue from a checkpoint. parts: {section: a module, an AdamW
    or a tensor}. DataError if one is missing or its names or shapes differ."""
    for section, part in parts.items():
        given = state.get(section)
        if given is None:
            raise DataError(f"{path}: has no {section} and cannot be resumed; use the version that "
                            "wrote it, or start again in another --out")
        if isinstance(part, torch.optim.Optimizer):
            restore_optimizer(part, given, path)
            continue
        own = part.state_dict() if isinstance(part, nn.Module) else {section: part}
        given = given if isinstance(part, nn.Module) else {section: given}
        check_weights(given, path)
        wrong = differences(own, given)
        if wrong:
            raise DataError(f"{path}: its {section} does not fit this run: {wrong}; resume with "
                            "the same flags and data, or start again in another --out")
        with torch.no_grad():
            for name, value in own.items():
                value.copy_(given[name])


def restore_optimizer(optimizer, given, path):
    """Restores AdamW's moments and step of every parameter. Learning rates come from the flags."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    states = given.get("state") if isinstance(given, dict) else None
    if not isinstance(states, dict):
        raise DataError(f"{path}: its optimizer has no state; start again in another --out")
    for index, moments in states.items():
        if type(index) is not int or not 0 <= index < len(parameters):
            raise DataError(f"{path}: its optimizer has more parameters than this run; resume with "
                            "the same flags")
        shape = parameters[index].shape
        wanted = {"step": (), "exp_avg": shape, "exp_avg_sq": shape}
        check_weights(moments, path)
        if {name: value.shape for name, value in moments.items()} != wanted or not all(
                value.is_floating_point() for value in moments.values()):
            raise DataError(f"{path}: its optimizer does not fit parameter {index} of shape "
                            f"{tuple(shape)}; resume with the same flags")
        if moments["step"] < 1 or (moments["exp_avg_sq"] < 0).any():
            raise DataError(f"{path}: its optimizer has a negative square or step; use an earlier "
                            "checkpoint")
    # The mask token has no state if nothing was masked.
    if sum(p.requires_grad for p in parameters) - len(states) > 1:
        raise DataError(f"{path}: its optimizer has the state of {len(states)} of "
                        f"{len(parameters)} parameters; start again in another --out")
    optimizer.load_state_dict({"state": states,
                               "param_groups": optimizer.state_dict()["param_groups"]})
