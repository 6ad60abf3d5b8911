"""
What these tests prove about checkpoints (model.py) and public_weights.py:
  1. a checkpoint survives a kill; one without a new field gets the value it was made with; what is
     in it that makes no network, or does not fit, is refused by name
  2. public weights, read from a file of each kind, compute what the networks they come from compute
  3. what is not recognised, or fits only in part, is refused with the list; nothing is half loaded
  4. infer.py and stages 2 and 3 take such files as they take our own
The weights, the frames and the expected numbers are explained in fixtures/weights/SPEC.md.
"""
import argparse
import functools
import json
from dataclasses import asdict

import numpy as np
import pytest
import torch
from conftest import refused, write_half
from test_model import CASES, WEIGHTS, fill, fixture_frames, key_list

import infer
import stage2_distill
import stage3_finetune
from comedian import DataError, augment
from comedian.frames import FrameReader, find_halves
from comedian.soccernet import SOCCERNET_CLASSES
from comedian.checkpoint import (
    from_public, load_parts, read_config, save_checkpoint, trained_parts)
from model import MODELS, Comedian, load_checkpoint, with_changes


# ------------------------------------------------------------------ 1. this project's checkpoints
def save(path, network, **changes):
    content = dict(stage=3, step=7, config=asdict(network.cfg), model=network.state_dict())
    save_checkpoint(path, **(content | changes))


def test_checkpoint_round_trip(tmp_path):
    model = Comedian(with_changes("vivit_micro", classes=("a", "b"), window_tokens=8))
    save(tmp_path / "new" / "last.pt", model)
    assert torch.load(tmp_path / "new" / "last.pt", weights_only=True)["step"] == 7
    checkpoint = load_checkpoint(tmp_path / "new" / "last.pt")
    cfg = checkpoint["config"]
    assert cfg == model.cfg and hash(cfg) == hash(model.cfg)          # tuples again, not lists
    other = Comedian(cfg)
    load_parts(other, checkpoint, [""], "last.pt")
    for (name, a), b in zip(model.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b), name
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["last.pt"]


def test_a_failed_write_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    model, path = Comedian(with_changes("vivit_micro", window_tokens=8)), tmp_path / "last.pt"
    save(path, model)
    old = path.read_bytes()

    def full_disk(content, file):
        file.write(old[:1000])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(DataError, match="last.pt: cannot be written .No space left"):
        save(path, model, step=8)
    assert path.read_bytes() == old and load_checkpoint(path)["step"] == 7
    assert [file.name for file in tmp_path.iterdir()] == ["last.pt"]


def test_what_does_not_fit_is_named(tmp_path):
    """Missing, unknown and misshapen weights are listed and nothing is copied."""
    model, other = (Comedian(with_changes("vivit_micro", window_tokens=8)) for _ in range(2))
    weights = dict(other.state_dict())
    del weights["spatial.cls_token"]
    weights["spatial.extra"] = torch.zeros(1)
    weights["spatial.pos_embed"] = torch.zeros(1, 3, 128)
    before = {name: p.clone() for name, p in model.state_dict().items()}
    with refused("x.pt", "spatial.cls_token missing", "spatial.extra unknown",
                 "spatial.pos_embed is (1, 3, 128), model has (1, 17, 128)"):
        load_parts(model, {"model": weights}, ["spatial."], "x.pt")
    assert all(torch.equal(p, before[name]) for name, p in model.state_dict().items())
    with pytest.raises(DataError, match=r"and \d+ more"):
        load_parts(model, {"model": {}}, ["spatial."], "x.pt")
    load_parts(model, {"model": weights}, ["temporal."], "x.pt")   # what is asked for is complete
    assert torch.equal(model.temporal.pos_embed, other.temporal.pos_embed)
    assert torch.equal(model.spatial.cls_token, before["spatial.cls_token"])


# ---- what a config may say
def config(name, **changes):
    """A checkpoint's config as a file has it: lists, not tuples."""
    return json.loads(json.dumps(asdict(MODELS[name]))) | changes


@pytest.mark.parametrize("name, width", [
    ("vivit_tiny", 1024), ("vivit_small", 2048), ("viswin_tiny", 1024), ("vivit_micro", 1024)])
def test_a_field_that_came_later_has_the_value_it_was_made_with(name, width):
    """Before there was a head_width, ViViT-S alone had heads of 2048."""
    old = config(name, window_tokens=16, drop_path=0.3)
    del old["head_width"]
    cfg = read_config(old, MODELS, "x.pt")
    assert cfg == with_changes(name, window_tokens=16, drop_path=0.3) and cfg.head_width == width


@pytest.mark.parametrize("changes, message", [
    ({"model": "vit_huge"}, "its config names no model of this version .vivit_tiny, vivit_small,"),
    ({"rope": True, "bias": 1}, "its config has 'rope', 'bias', which this version does not know"),
    ({"embed_dim": "192"}, "its config has embed_dim '192'; use numbers from 1 to 8192"),
    ({"embed_dim": 192.5}, "embed_dim 192.5"), ({"embed_dim": 0}, "embed_dim 0"),
    ({"temporal_depth": -1}, "temporal_depth -1"), ({"window_tokens": 10 ** 9}, "window_tokens"),
    ({"head_width": 10 ** 7}, "head_width 10000000; use numbers from 1 to 65536"),
    ({"image_size": 10 ** 6}, "image_size"), ({"mlp_ratio": float("nan")}, "mlp_ratio nan"),
    ({"drop_path": 1.5}, "drop_path 1.5; use numbers from 0 to 0.99"),
    ({"depth": 12}, "depth 12"), ({"depth": []}, r"depth \[\]"), ({"num_heads": [3.5]}, "num_head"),
    ({"classes": "Goal"}, "list of different class"), ({"classes": []}, "list of different class"),
    ({"classes": [1, 2]}, "list of different class"),
    ({"classes": ["a\nb"]}, "list of different class"),
    ({"classes": [""]}, "list of different class")])
def test_a_config_that_makes_no_network_is_one_line(tmp_path, changes, message):
    """Before anything of its size is built."""
    torch.save({"config": config("vivit_tiny", **changes), "stage": 3,
                "model": {"head.bias": torch.zeros(17)}}, tmp_path / "x.pt")
    with refused(match=f"x.pt: .*{message}", most=400):
        load_checkpoint(tmp_path / "x.pt")


@pytest.mark.parametrize("value, message", [
    (torch.tensor([1.0, float("nan")]), "has values that are not finite; use an earlier checkpoi"),
    (torch.tensor([float("inf")]), "not finite"),
    (torch.zeros(2, dtype=torch.complex64), "is no plain dense tensor"),
    (torch.eye(2).to_sparse(), "is no plain dense tensor"),
    ([1.0], "not a dict")])
@pytest.mark.parametrize("whose", ["ours", "public"])
@pytest.mark.filterwarnings("ignore")                      # torch's, of sparse tensors
def test_weights_that_nobody_can_use_are_one_line(tmp_path, whose, value, message):
    weights = {"spatial.cls_token": torch.zeros(2), "spatial.norm.bias": value}
    ours = {"config": config("vivit_tiny"), "stage": 1, "model": weights}
    torch.save(ours if whose == "ours" else weights, tmp_path / "x.pt")
    with refused("spatial.norm.bias" * ("dict" not in message), match=f"x.pt: .*{message}"):
        load_checkpoint(tmp_path / "x.pt")


def test_whole_numbers_are_no_weights(tmp_path):
    model = Comedian(with_changes("vivit_micro", window_tokens=8))
    weights = model.state_dict()
    weights["head.bias"] = torch.zeros(17, dtype=torch.int64)
    save(tmp_path / "x.pt", model, model=weights)
    with refused("x.pt: weights, but they do not fit vivit_micro: head.bias is torch.int64"):
        load_checkpoint(tmp_path / "x.pt")


# ------------------------------------------------------------------ 2. the official weights
TRUNK = "trunk.transformer."


@functools.lru_cache(maxsize=2)
def official_file(kind):
    """What a released file of 128 frames and temporal depth 6 holds, {name: tensor}: as listed, its
    computed buffers and augmentation constants included."""
    return {key: fill(key, shape) if filled == "fill"
            else torch.full(shape, 7, dtype=getattr(torch, dtype))             # must not be used
            for key, shape, dtype, filled, _ in key_list(f"official_{kind}_tiny_f128_d6")}


def shortened(content, window=64, depth=6):
    """The same model for fewer tokens, or fewer temporal blocks."""
    gone = tuple(f"{TRUNK}temporal_transformer.blocks.{i}." for i in range(depth, 6))
    short = {key: value for key, value in content.items() if not key.startswith(gone)}
    short[f"{TRUNK}time_embed"] = short[f"{TRUNK}time_embed"][:, :window]
    return short


def official_vivit():
    return shortened(official_file("vivit"), 4, depth=1)


def loaded(path):
    """The network that a checkpoint file is, ready to infer."""
    checkpoint = load_checkpoint(path)
    model = Comedian(checkpoint["config"])
    load_parts(model, checkpoint, trained_parts(checkpoint), path)
    return model.eval()


def expected_of(tag):
    with np.load(WEIGHTS / "official_expected.npz") as stored:
        return {key.split("/")[1]: torch.from_numpy(stored[key]).double()
                for key in stored if key.startswith(f"{tag}/")}


@pytest.mark.parametrize("kind, tag, dtype, tolerance", [
    ("vivit", "vivit_tiny_f16_d6_b2", torch.float64, 1e-10),
    pytest.param("viswin", "viswin_tiny_f16_d6_b2", torch.float32, 5e-5, marks=pytest.mark.slow)])
@torch.no_grad()
def test_official_file_gives_the_official_logits(tmp_path, capsys, kind, tag, dtype, tolerance):
    T = CASES[tag]["config"]["frames"]
    torch.save(shortened(official_file(kind), T // 2), tmp_path / "released.pth")
    model = loaded(tmp_path / "released.pth").to(dtype)
    said = capsys.readouterr().out
    assert "official COMEDIAN" in said and "train_transform" in said and "head" not in said
    assert model.cfg == with_changes(f"{kind}_tiny", temporal_depth=6, window_tokens=T // 2)
    assert model.cfg.classes == SOCCERNET_CLASSES
    assert model.cfg.temporal_heads == 3

    x = torch.from_numpy(fixture_frames(tag, 2, T)[:1])
    x = (x.permute(0, 2, 1, 3, 4).to(dtype) / 255 - 0.45) / 0.225                  # (1, T, 3, H, W)
    off = model.spot(model.tokens(x)).double() - expected_of(tag)["logits_f64"][:1]
    assert off.abs().max() <= tolerance


def test_other_constants_and_other_wrappings_change_nothing(tmp_path):
    """As the released ViViT-T's constants and Lightning's dict: the same weights."""
    content = shortened(official_file("vivit"), 4, depth=1)
    torch.save(content, tmp_path / "plain.pth")
    plain = load_checkpoint(tmp_path / "plain.pth")["model"]
    extra = json.loads((WEIGHTS / "official_extra_keys.json").read_text())
    names = extra["released_vivit_tiny_2023_10_03_according_to_github_issue_1"]["present"]
    bare = {key: value for key, value in content.items() if "_transform." not in key or
            key.startswith(TRUNK)}
    bare |= {name: torch.zeros(3) for name in names if not name.startswith(TRUNK)} | {
        "train_transform.0._transform.0.transforms.5.mean": torch.zeros(5, 2)}
    for wrapped in (bare, {"state_dict": bare, "epoch": 3, "global_step": 7},
                    {"model": {key: value.half().float().double() for key, value in bare.items()}}):
        torch.save(wrapped, tmp_path / "other.ckpt")
        other = load_checkpoint(tmp_path / "other.ckpt")
        assert other["stage"] == 3 and set(other["model"]) == set(plain)
        for name, value in other["model"].items():
            assert value.dtype == torch.float32
            torch.testing.assert_close(value, plain[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("depth", [1, 4, 6])
def test_temporal_depth_is_read_from_the_blocks(tmp_path, depth):
    """The official loader asked for 4 blocks drops the 5th and 6th of a file silently."""
    torch.save(shortened(official_file("vivit"), 8, depth), tmp_path / "x.pth")
    model = loaded(tmp_path / "x.pth")
    assert model.cfg.temporal_depth == len(model.temporal.blocks) == depth


# ------------------------------------------------------------------ image networks
@functools.lru_cache(maxsize=4)
def image_weights(file):
    """{name: tensor} of a timm key list; computed buffers hold nonsense, as nobody may use them."""
    return {key: torch.full(shape, 7.0) if name is None else fill(name, shape)
            for key, shape, _, name, _ in key_list(file)}


def augreg_arrays():
    """The .npz of ViT-Ti/16, each array made from the timm tensor as keys_npz_*.json says."""
    timm = image_weights("timm1_vit_tiny_patch16_224")
    arrays = {}
    for key, shape, name, how, _ in key_list("npz_vit_tiny_patch16_224"):
        value = timm[name].numpy()
        if how.startswith(("rows", "entries")):
            part = ("query", "key", "value").index(key.split("/")[-2])
            value = value[192 * part:192 * (part + 1)]
        if "(2,3,1,0)" in how:
            value = value.transpose(2, 3, 1, 0)
        elif "transposed" in how:
            value = value.T
        arrays[key] = np.ascontiguousarray(value.reshape(shape))
    return arrays


def write_safetensors(path, weights):
    header, data_, at = {"__metadata__": {"format": "pt"}}, b"", 0
    for name, value in weights.items():
        raw = value.numpy().tobytes()
        header[name] = {"dtype": {4: "F32", 2: "F16"}[value.itemsize],
                        "shape": list(value.shape), "data_offsets": [at, at + len(raw)]}
        data_, at = data_ + raw, at + len(raw)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data_)


def write(path, weights):
    if path.suffix == ".npz":
        np.savez(path, **weights)
    elif path.suffix == ".safetensors":
        write_safetensors(path, weights)
    else:
        torch.save(weights, path)


VIT_T, SWIN = "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"


def timm_vit():
    return image_weights(f"timm1_{VIT_T}")


IMAGE_FILES = {
    "timm ViT-T.pth": (VIT_T, timm_vit),
    "timm ViT-S.pth": ("vit_small_patch16_224",
                       lambda: image_weights("timm1_vit_small_patch16_224")),
    "timm ViT-T.safetensors": (VIT_T, timm_vit),
    "half ViT-T.safetensors": (VIT_T, lambda: {k: v.half() for k, v in timm_vit().items()}),
    "timm 0.6 Swin.pth": (SWIN, lambda: image_weights(f"timm06_{SWIN}")),
    "timm 1.0 Swin.pth": (SWIN, lambda: image_weights(f"timm1_{SWIN}")),
    "Microsoft Swin.pth": (SWIN, lambda: {"model": image_weights(f"timm06_{SWIN}")}),
    "AugReg.npz": (VIT_T, augreg_arrays),
    "AugReg with prefix.npz": (VIT_T, lambda: {
        f"opt/target/{key}": value for key, value in augreg_arrays().items()}),
    "AugReg 21k.npz": (VIT_T, lambda: augreg_arrays() | {      # other classes, and their pre_logits
        "head/kernel": np.ones((192, 21843), np.float32), "head/bias": np.ones(21843, np.float32),
        "pre_logits/kernel": np.ones((192, 192), np.float32)}),
}


@pytest.mark.parametrize("file", ["timm ViT-T.pth", "timm ViT-S.pth", "timm 1.0 Swin.pth",
                                  "AugReg.npz"])
@torch.no_grad()
def test_image_network_sees_a_still_image_as_before(tmp_path, capsys, file):
    """Shown twice, as 2 frames. Swin: at the official eps of 1e-6, not timm's."""
    kind, make = IMAGE_FILES[file]
    write(tmp_path / file, make())
    model = loaded(tmp_path / file)
    said = capsys.readouterr().out
    assert file in said and "spatial encoder only" in said and "2 head" in said
    name = {"vit_t": "vivit_tiny", "vit_s": "vivit_small", "swin_": "viswin_tiny"}[kind[:5]]
    assert model.cfg == MODELS[name]
    image = torch.from_numpy(fixture_frames("timm_image", 2, 1)).transpose(1, 2)   # (2, 1, 3, H, W)
    clips = ((image.double() / 255 - 0.45) / 0.225).expand(-1, 2, -1, -1, -1)
    with np.load(WEIGHTS / "timm_expected.npz") as stored:
        expected = torch.from_numpy(stored[f"{kind}/feature{'_eps1e-6' * (kind == SWIN)}"])
    torch.testing.assert_close(model.double().encode(clips), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("file, same_as", [
    ("timm ViT-T.safetensors", "timm ViT-T.pth"), ("timm 0.6 Swin.pth", "timm 1.0 Swin.pth"),
    ("Microsoft Swin.pth", "timm 1.0 Swin.pth"), ("AugReg with prefix.npz", "timm ViT-T.pth"),
    ("AugReg 21k.npz", "timm ViT-T.pth"), ("half ViT-T.safetensors", "timm ViT-T.pth")])
def test_the_same_weights_from_another_file(tmp_path, capsys, file, same_as):
    for name in (same_as, file):
        write(tmp_path / name, IMAGE_FILES[name][1]())
    expected, got = load_checkpoint(tmp_path / same_as), load_checkpoint(tmp_path / file)
    said = capsys.readouterr().out.splitlines()[1]
    assert ("5 attn_mask" in said) == ("0.6" in file or "Microsoft" in file)
    assert ("1 pre_logits" in said) == ("21k" in file)
    assert set(got["model"]) == set(expected["model"])
    for name, value in got["model"].items():
        off = 1e-3 * ("half" in file)                      # float32 nevertheless
        torch.testing.assert_close(value, expected["model"][name], rtol=off, atol=off / 1000)


def test_what_a_checkpoint_says_about_itself(tmp_path):
    """"source" and "stage" let a stage script decide: an image network has no temporal weights."""
    write(tmp_path / "image.pth", timm_vit())
    torch.save(official_vivit(), tmp_path / "comedian.pth")
    image, comedian = (load_checkpoint(tmp_path / name) for name in ("image.pth", "comedian.pth"))
    assert (image["stage"], image["source"], trained_parts(image)) == (1, "image", ["spatial."])
    assert (comedian["stage"], comedian["source"]) == (3, "comedian")
    assert trained_parts(comedian) == ["spatial.", "temporal.", "head."]
    assert trained_parts({"stage": 2}) == ["spatial.", "temporal."]
    kernel = image["model"]["spatial.patch_embed.proj.weight"]
    still = fill("patch_embed.proj.weight", (192, 3, 16, 16))
    assert torch.equal(kernel[:, :, 0], kernel[:, :, 1]) and torch.equal(kernel.sum(2), still)


# ------------------------------------------------------------------ 3. refusals
def without(weights, name):
    return {other: value for other, value in weights.items() if other != name}


REFUSED = {                           # what is in the file -> what the line must say
    "a block is missing": (lambda: without(timm_vit(), "blocks.7.mlp.fc1.weight"),
                           ["vivit_tiny", "spatial.blocks.7.mlp.fc1.weight missing"]),
    "a distilled DeiT": (lambda: timm_vit() | {"dist_token": torch.zeros(1, 1, 192)},
                         ["spatial.dist_token unknown"]),
    "for 384 pixels": (lambda: timm_vit() | {"pos_embed": torch.zeros(1, 577, 192)},
                       ["spatial.pos_embed is (1, 577, 192), model has (1, 197, 192)"]),
    "ViT-B": (lambda: timm_vit() | {"patch_embed.proj.weight": torch.zeros(768, 3, 16, 16)},
              ["not as wide as"]),
    "no patch embedding": (lambda: without(timm_vit(), "patch_embed.proj.weight"),
                           ["not as wide as"]),
    "a third Swin naming": (lambda: {
        name.replace("layers.0.downsample", "layers.0.merge"): value
        for name, value in image_weights(f"timm06_{SWIN}").items()},
        ["downsample", "missing", "unknown"]),
    "COMEDIAN without head": (lambda: without(official_vivit(), "head_class.layers.0.weight"),
                              ["official COMEDIAN", "head.weight missing"]),
    "COMEDIAN of 4 classes": (lambda: official_vivit() | {
        "head_class.layers.0.weight": torch.zeros(4, 192)},
        ["head.weight is (4, 192), model has (17, 192)"]),
    "COMEDIAN with an unknown part": (lambda: official_vivit() | {
        "trunk.transformer.temporal_cls_token": torch.zeros(1, 1, 192)},
        ["spatial.temporal_cls_token unknown"]),
    "something else": (lambda: {"conv1.weight": torch.zeros(3), "bn1.bias": torch.zeros(3)},
                       ["unknown weights", "2 entries", "conv1.weight, bn1.bias"]),
    "nothing": (dict, ["not a dict"]),
    "a tensor": (lambda: torch.zeros(3), ["not a dict"]),
    "an optimizer": (lambda: {"model": {"lr": 0.1}, "state_dict": timm_vit()},
                     ["not a dict"]),
    "a Namespace": (lambda: {"model": timm_vit(), "args": argparse.Namespace(lr=0.1)},
                    ["Python objects", "if you trust it"]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_the_list(tmp_path, case):
    make, parts = REFUSED[case]
    torch.save(make(), tmp_path / "x.pth")
    with refused(str(tmp_path / "x.pth"), *parts, most=600):
        load_checkpoint(tmp_path / "x.pth")


@pytest.mark.parametrize("name, damage", [
    ("cut.npz", lambda b: b[:len(b) // 2]), ("cut.safetensors", lambda b: b[:len(b) // 2]),
    ("empty.safetensors", lambda b: b""), ("header.safetensors", lambda b: b"\xff" * 64),
    ("cut.pth", lambda b: b[:-30]), ("half.pth", lambda b: b[:len(b) // 2]),
    ("empty.pt", lambda b: b""), ("other.pt", lambda b: b"GIF89a" + b[:100])])
def test_damaged_files(tmp_path, name, damage):
    path = tmp_path / name
    with pytest.raises(DataError, match=f"{path}: no such checkpoint"):
        load_checkpoint(path)
    write(path, {key: torch.from_numpy(value) for key, value in augreg_arrays().items()})
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=f"{path}: .*not a checkpoint, or damaged"):
        load_checkpoint(path)


@pytest.mark.parametrize("make", [
    timm_vit, official_vivit, lambda: image_weights(f"timm06_{SWIN}"), lambda: {
        key: torch.from_numpy(value) for key, value in augreg_arrays().items()}])
def test_any_name_lost_or_shape_changed_is_refused(make):
    """Every 25th one: it ends in one line, no traceback, no success."""
    content = make()
    needed = [name for name in content if "_transform." not in name and
              not name.endswith(("relative_position_index", "attn_mask")) and
              not name.startswith(("head.", "head/"))]
    for name in needed[::25]:
        value = content[name]
        for change in ({}, {name + "x": value}, {name: torch.zeros(())},
                       {name: torch.zeros(value.shape[0] + 1, *value.shape[1:])}):
            with refused(match="^x.pth: "):
                from_public(without(content, name) | change, MODELS, Comedian, "x.pth")


# ------------------------------------------------------------------ 4. in the scripts
@pytest.fixture(scope="module")
def half(tmp_path_factory):
    """A match of one half of 12 frames, with labels and teacher features."""
    root = tmp_path_factory.mktemp("match")
    rng = np.random.default_rng(0)
    write_half(root / "m" / "1_224p", 12, rng)
    np.save(root / "m" / "1_teacher.npy", rng.standard_normal((6, 8)).astype(np.float32))
    (root / "m" / "Labels-v2.json").write_text(json.dumps({"annotations": [
        {"gameTime": "1 - 00:02", "label": "Goal", "position": "2000", "visibility": "visible"}]}))
    return root


@torch.no_grad()
def test_infer_scores_with_an_official_file(half, tmp_path):
    released = tmp_path / "released.pth"
    torch.save(shortened(official_file("vivit"), 4, depth=2), released)
    infer.main(infer.parse_args(f"--data {half} --checkpoint {released} --out {tmp_path}/out "
                                "--ignore 0 --device cpu --no-bf16".split()))
    with np.load(tmp_path / "out" / "m" / "scores.npz") as stored:
        scores, starts = stored["windows_1"], stored["starts_1"]
        assert tuple(stored["classes"]) == SOCCERNET_CLASSES
    clips = FrameReader(1).read([(find_halves(half)[0], 0)], 12)                  # (1, 12, H, W, 3)
    x = augment.resize(augment.to_float(clips, torch.device("cpu")), 224)        # (1, 12, 3, S, S)
    x = (x - 0.45) / 0.225
    model = loaded(released)
    for window, start in zip(scores, starts, strict=True):
        expected = model.spot(model.tokens(x[:, 2 * start:2 * start + 8])).sigmoid()
        np.testing.assert_allclose(window, expected[0].numpy(), atol=1e-4)


@pytest.mark.parametrize("script, stage", [(stage2_distill, 2), (stage3_finetune, 3)])
def test_stages_start_from_an_image_network(half, tmp_path, script, stage):
    """Without learning a stage leaves the image's weights; temporal: its first blocks."""
    write(tmp_path / "image.npz", augreg_arrays())
    script.main(script.parse_args((
        f"--data {half} --init {tmp_path}/image.npz --window 4 --batch 1 --steps 1 --lr 0 --device "
        f"cpu --weight-decay 0 --out {tmp_path}/run " + (
            "--features-name teacher" if stage == 2 else "--head-epochs 0")).split()))
    left = load_checkpoint(tmp_path / "run" / "last.pt")
    image = load_checkpoint(tmp_path / "image.npz")["model"]
    assert left["config"] == with_changes("vivit_tiny", window_tokens=4)
    for name, value in image.items():
        assert torch.equal(left["model"][name], value), name
    depth = MODELS["vivit_tiny"].temporal_depth
    for name, value in left["model"].items():
        if name.startswith(("temporal.blocks.", "temporal.norm.")):
            assert torch.equal(value, image[name.replace("temporal.", "spatial.")]), name
    assert f"spatial.blocks.{depth}.norm1.weight" in image           # there were more to copy from
