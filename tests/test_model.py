"""
What these tests prove about model.py:
  1. its sizes and costs are the paper's
  2. it computes what the official model computes on the same (synthetic) weights, from pixels on
     (timm's image networks: test_weights.py)
  3. masked clips may be dropped before the spatial encoder; windows of any length go through
  4. initialisation, drop path, weight-decay groups, copied temporal blocks: as the official code
The weights, the frames and the expected numbers are explained in fixtures/weights/SPEC.md.
"""
import copy
import functools
import json
import math
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from comedian import augment
from model import (
    CLIP_FRAMES, MODELS, Comedian, DropPath, Projector, decay_groups, random_keep, spatial_encoder,
    with_changes)

WEIGHTS = Path(__file__).parent / "fixtures" / "weights"
SEED = json.loads((WEIGHTS / "seed.json").read_text())["seed"]


# ------------------------------------------------------------------ numbers of SPEC.md 1 and 2
def words(name, n):
    """The first n 64-bit words of a stream: splitmix64 over a counter, keyed by the name."""
    def mix(z):
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))

    with np.errstate(over="ignore"):                      # modulo 2^64 is meant
        start = mix(np.array([SEED * 2 ** 32 + zlib.crc32(name.encode())], np.uint64))
        counter = np.arange(1, n + 1, dtype=np.uint64)
        return mix(start + counter * np.uint64(0x9E3779B97F4A7C15))


def fill(name, shape):
    """The synthetic weight of this name: a float32 tensor."""
    leaf, fan_in = name.rsplit(".", 1)[-1], math.prod(shape[1:])
    offset = int(len(shape) == 1 and leaf != "bias")
    if len(shape) == 1:
        scale = 0.03 if leaf == "bias" else 0.2
    elif len(shape) == 3:
        scale = 1 if leaf in ("time_embed", "temporal_mask_token") else 0.1
    elif leaf == "relative_position_bias_table":
        scale = 0.5
    else:
        of_kind = 0.1 if len(shape) > 3 else 1.5 if name.endswith("qkv.weight") else 1
        scale = of_kind / math.sqrt(fan_in)
    unit = (words(name, math.prod(shape)) >> np.uint64(11)).astype(np.float64) * 2.0 ** -53
    unit = (2 * unit - 1) * 1.7320508075688772
    return torch.from_numpy((offset + scale * unit).astype(np.float32)).reshape(shape)


def fixture_frames(tag, B, T, H=224, W=224):
    """(B, 3, T, H, W) uint8: global, 16x16-cell and pixel noise, averaged."""
    def noise(name, *shape):
        name = f"frames/{tag}/{name}"
        return (words(name, math.prod(shape)) >> np.uint64(56)).astype(np.int64).reshape(shape)

    cell = noise("cell", B, 3, T, -(-H // 16), -(-W // 16)).repeat(16, 3).repeat(16, 4)
    noises = noise("global", B, 3, T, 1, 1) + cell[..., :H, :W] + 2 * noise("pixel", B, 3, T, H, W)
    return (noises >> 2).astype(np.uint8)


def key_list(file):
    return json.loads((WEIGHTS / f"keys_{file}.json").read_text())["rows"]


def ours(key):
    """An official key -> the name in Comedian."""
    key = key.replace("head_class.layers.0", "head").replace("trunk.transformer.", "")
    for theirs, name in (
            ("spatial_cls_token", "spatial.cls_token"), ("time_embed", "temporal.pos_embed"),
            ("temporal_mask_token", "temporal.mask_token"),
            ("spatial_transformer.", "spatial."), ("temporal_transformer.", "temporal.")):
        if key.startswith(theirs):
            return key.replace(theirs, name, 1)
    return f"spatial.{key}" if key.startswith(("pos_embed", "patch_embed")) else key


@functools.lru_cache(maxsize=1)
def official(kind, window):
    """Comedian with the official model's synthetic weights, float32, eval."""
    rows = [row for row in key_list(f"official_{kind}_tiny_f128_d6") if row[3] == "fill"]
    model = Comedian(with_changes(f"{kind}_tiny", window_tokens=window, temporal_depth=6)).eval()
    weights = {ours(key): fill(key, shape) for key, shape, *_ in rows}
    weights["temporal.pos_embed"] = weights["temporal.pos_embed"][:, :window]
    assert set(weights) == set(model.state_dict()), "the names must correspond one to one"
    model.load_state_dict(weights)
    return model


def test_the_filler_is_the_fixtures():
    """Otherwise every comparison below would compare something else."""
    for key, shape, _, kind, crc in key_list("official_vivit_tiny_f128_d6")[:12]:
        assert kind == "fill" and zlib.crc32(fill(key, shape).numpy().tobytes()) == crc, key


# ------------------------------------------------------------------ 1. sizes and costs
def n_parameters(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("name, depth, window, total, spatial", [
    ("vivit_tiny", 4, 32, 7_458_048, 5_671_872), ("vivit_tiny", 6, 64, 8_353_920, 5_671_872),
    ("vivit_small", 4, 32, 29_071_872, None), ("viswin_tiny", 4, 32, 55_902_330, 27_523_962),
    ("viswin_tiny", 6, 64, 70_102_650, 27_523_962)])
def test_parameter_counts(name, depth, window, total, spatial):
    """Tab. 1, 2, 11, to the last parameter: without head, mask token included."""
    with torch.device("meta"):
        model = Comedian(with_changes(name, temporal_depth=depth, window_tokens=window))
    assert n_parameters(model.spatial) + n_parameters(model.temporal) == total
    assert n_parameters(model) - n_parameters(model.head) == total
    assert spatial in (None, n_parameters(model.spatial))
    assert model.temporal.mask_token.numel() == model.cfg.width


def cost(module, *inputs, **options):
    """Multiply-adds by the paper's rule (fvcore's): one each in linear layers, convolutions and
    attention products, 5 per element of a LayerNorm."""
    norms = []
    hooks = [m.register_forward_hook(lambda m, i, out: norms.append(5 * out.numel()))
             for m in module.modules() if isinstance(m, nn.LayerNorm)]
    with FlopCounterMode(display=False) as counter:
        module(*inputs, **options)
    for hook in hooks:
        hook.remove()
    return counter.get_total_flops() // 2 + sum(norms)


@pytest.mark.parametrize("name, printed_g, within, temporal_g", [
    ("vivit_tiny", 41.19, 0.005, 0.058), ("vivit_small", 149.30, 0.005, 0.230),
    ("viswin_tiny", 144.68, 0.7, 0.914)])
def test_costs(name, printed_g, within, temporal_g):
    """Tab. 11: 64 frames are 32 clips; ViT to its digits, Swin within 0.5 %. For the temporal
    transformer the paper prints 0.06 / 0.24 / 0.96, and what it counted there is unknown."""
    with torch.device("meta"):
        model = Comedian(with_changes(name, temporal_depth=4, window_tokens=32))
        clip, whole = torch.empty(1, CLIP_FRAMES, 3, 224, 224), {}
        if model.cfg.spatial == "vit":                     # what we run computes less
            whole = {"all_tokens": True}
            assert cost(model.spatial, clip) < 0.95 * cost(model.spatial, clip, **whole)
        per_clip = cost(model.spatial, clip, **whole)
        temporal = cost(model.temporal, torch.empty(1, 32, model.cfg.width))
    assert 32 * per_clip / 1e9 == pytest.approx(printed_g, abs=within)
    assert per_clip == 1_287_120_576 or name != "vivit_tiny"
    assert temporal / 1e9 == pytest.approx(temporal_g, abs=1e-3)


# ------------------------------------------------------------------ 2. equal to the official model
CASES = json.loads((WEIGHTS / "official_cases.json").read_text())


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize("tag, dtype", [
    ("vivit_tiny_f16_d6_b2", torch.float32), ("vivit_tiny_f16_d6_b2", torch.float64),
    ("vivit_tiny_f16_d6_b2_masked", torch.float64), slow("viswin_tiny_f16_d6_b2", torch.float64),
    slow("vivit_tiny_f128_d6_b1", torch.float64)])
@torch.no_grad()
def test_equals_the_official_model(tag, dtype):
    case, B, T = CASES[tag], CASES[tag]["config"]["batch"], CASES[tag]["config"]["frames"]
    frames = fixture_frames(tag, B, T)
    assert zlib.crc32(frames.tobytes()) == case["frames_crc32"]
    masked = case.get("masked_tokens")
    keep = masked and torch.tensor([sorted(set(range(T // 2)) - set(m)) for m in masked])
    model = copy.deepcopy(official(case["config"]["kind"], T // 2))
    with np.load(WEIGHTS / "official_expected.npz") as stored:
        expected = {key.split("/")[1]: torch.from_numpy(stored[key]).double()
                    for key in stored if key.startswith(f"{tag}/")}
    B = 1 if model.cfg.spatial == "swin" else B     # Swin takes its time

    model = model.to(dtype)
    x = torch.from_numpy(frames[:B]).permute(0, 2, 1, 3, 4).to(dtype)              # (B, T, 3, H, W)
    x = (x / 255 - 0.45) / 0.225
    tokens = model.tokens(x, keep)                                                 # (B, T / 2, D)
    got = {"tokens_first2": tokens[:, :2], "tokens_all": tokens, "logits_f64": model.spot(tokens)}
    got["logits_f32"] = got["logits_f64"]
    if not masked:
        clips = x.view(B, T // 2, 2, 3, 224, 224)[:, :2].flatten(0, 1)
        got["spatial_first2"] = model.encode(clips).view(B, 2, -1)
    for name, value in expected.items():
        tolerance = 5e-5
        if dtype == torch.float64 and name != "logits_f32":
            tolerance = 1e-10 if name == "logits_f64" else 5e-7  # stored as float32
        off = (got[name].double() - value[:B]).abs().max().item()
        assert off <= tolerance, name


def test_preprocessing_is_the_official_one():
    """398x224 squeezed to 224x224, with antialiasing, rounded to grey levels, then normalised."""
    case = json.loads((WEIGHTS / "preprocess_case.json").read_text())
    frames = fixture_frames("preprocess", 1, 2, 224, 398)
    assert zlib.crc32(frames.tobytes()) == case["input_crc32"]
    frames = torch.from_numpy(frames).permute(0, 2, 3, 4, 1)                       # (B, T, H, W, 3)
    x = augment.resize(augment.to_float(frames, torch.device("cpu")), 224)    # (B, T, 3, 224, 224)
    grey = (x * 255).round().permute(0, 2, 1, 3, 4).numpy()    # (B, 3, T, 224, 224)
    with np.load(WEIGHTS / "preprocess_expected.npz") as stored:
        for name, rows in (("uint8_corner", slice(0, 16)), ("uint8_centre", slice(104, 120)),
                           ("uint8_opposite_corner", slice(-16, None))):
            off = np.abs(grey[..., rows, rows] - stored[name].astype(np.float64))
            assert off.max() <= 1 and (off > 0).mean() < 1e-3, name   # ties at .5 round either way
        normal = augment.normalize(x).permute(0, 2, 1, 3, 4)[..., :16, :16].numpy()
        close = np.abs(normal - stored["normalised_corner"]) < 1e-5
        assert close.mean() > 1 - 1e-3
    assert abs(grey.sum() - case["output_uint8_sum"]) < 1e-3 * grey.size
    assert augment.normalize(x).mean().item() == pytest.approx(case["output_norm_mean"], abs=1e-4)


# ------------------------------------------------------------------ 3. clips, masks, windows
def micro():
    """A small network with every weight random, masks and biases too, in float64."""
    torch.manual_seed(0)
    model = Comedian(with_changes("vivit_micro", image_size=24, window_tokens=8)).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model


def assert_alike(one, other, weights, **apart):
    """Values, and the gradients of these weights."""
    torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    for a, b in zip(*(torch.autograd.grad(y.pow(3).sum(), weights) for y in (one, other)),
                    strict=True):
        torch.testing.assert_close(a, b, **apart)


def test_only_the_cls_token_is_computed_at_the_end():
    """The short last block gives the CLS token, and the gradients, of the full one."""
    encoder, clips = micro().spatial, torch.randn(3, 2, 3, 24, 24, dtype=torch.float64)
    short, full = encoder(clips), encoder(clips, all_tokens=True)[:, 0]
    assert_alike(short, full, list(encoder.parameters()), rtol=1e-10, atol=1e-12)


def test_dropping_masked_clips_equals_replacing_their_tokens():
    """Values and all gradients, the mask token's included."""
    model, frames = micro(), torch.randn(3, 16, 3, 24, 24, dtype=torch.float64)
    keep = random_keep(torch.rand(3, 8), 0.25)                                     # (3, 6)
    dropped = model.tokens(frames, keep)

    h = model.encode(frames.view(24, 2, 3, 24, 24)).view(3, 8, -1)                 # all encoded
    masked = torch.ones(3, 8, dtype=torch.bool).scatter(1, keep, False)
    replaced = model.contextualize(torch.where(masked[:, :, None], model.temporal.mask_token, h))
    weights = [p for name, p in model.named_parameters() if not name.startswith("head")]
    assert_alike(dropped, replaced, weights, rtol=1e-9, atol=1e-9)


def test_masked_frames_have_no_influence():
    model, frames = micro(), torch.randn(1, 16, 3, 24, 24, dtype=torch.float64)
    keep = torch.tensor([[0, 1, 3, 4, 5, 7]])
    before = model.tokens(frames, keep)
    frames[:, [4, 5, 12, 13]] += 1                        # clips 2 and 6
    assert torch.equal(model.tokens(frames, keep), before)
    frames[:, 6] += 1                                     # clip 3
    assert not torch.equal(model.tokens(frames, keep), before)


def test_random_keep():
    """Exactly floor(ratio L) tokens go, each equally often, other ones in other windows; sorted."""
    torch.manual_seed(0)
    keep = random_keep(torch.rand(4000, 10), 0.25)
    assert keep.shape == (4000, 8) and (keep.diff(dim=1) > 0).all()
    share = torch.bincount(keep.flatten(), minlength=10) / 4000
    assert (share - 0.8).abs().max() < 0.03               # 5 standard deviations
    assert random_keep(torch.rand(4, 64), 0.25).shape == (4, 48)        # 16 of 64: official
    assert random_keep(torch.rand(4, 64), 0.0) is None


def test_clips_of_a_window_do_not_see_each_other_before_the_temporal_transformer():
    model = micro().eval()
    clips = torch.randn(5, 2, 3, 24, 24, dtype=torch.float64)
    one_by_one = torch.cat([model.encode(clip[None]) for clip in clips])
    torch.testing.assert_close(model.encode(clips), one_by_one, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("window", [32, 64, 128])
@torch.no_grad()
def test_window_lengths(window):
    model = Comedian(with_changes("vivit_micro", window_tokens=window)).eval()
    tokens = model.tokens(torch.randn(1, 2 * window, 3, 48, 48))
    assert tokens.shape == (1, window, 128)
    assert model.spot(tokens).shape == (1, window, 17)
    assert model.temporal.pos_embed.shape == (1, window, 128)
    # A half shorter than the window takes the first positions.
    assert model.contextualize(torch.randn(1, 5, 128)).shape == (1, 5, 128)


def test_positions_are_added_after_the_mask_tokens():
    """Two masked tokens at different places must differ, or they could not be told apart."""
    model = micro()
    with torch.no_grad():
        model.temporal.blocks = nn.Identity()
        frames = torch.randn(1, 16, 3, 24, 24, dtype=torch.float64)
        tokens = model.tokens(frames, torch.tensor([[0, 1, 2]]))
        expected = model.temporal.norm(model.temporal.mask_token + model.temporal.pos_embed)[:, 3:]
    torch.testing.assert_close(tokens[:, 3:], expected)


# ------------------------------------------------------------------ 4. training details
def test_drop_path():
    """Whole samples go with probability p, the others make up for it; not so in evaluation."""
    torch.manual_seed(0)
    drop, x = DropPath(0.2), torch.rand(5000, 3, 4) + 1
    factor = drop(x) / x
    assert torch.equal(factor.amax((1, 2)) > 0, factor.amin((1, 2)) > 0)
    assert ((factor == 0) | ((factor - 1.25).abs() < 1e-6)).all()
    assert factor.mean() == pytest.approx(1, abs=0.04)    # 5 standard deviations
    assert drop.eval()(x) is x
    assert DropPath(0.0)(x) is x


@pytest.mark.parametrize("name", ["vivit_tiny", "viswin_tiny"])
def test_drop_path_rises_over_the_depth(name):
    with torch.device("meta"):
        model = Comedian(MODELS[name])
    for part in (model.spatial, model.temporal):          # each linear from 0, as officially
        rates = [m.p for m in part.modules() if isinstance(m, DropPath)]
        np.testing.assert_allclose(rates, np.linspace(0, 0.1, len(rates)), atol=1e-7)


def test_initialisation():
    torch.manual_seed(0)
    model = Comedian(with_changes("vivit_tiny", temporal_depth=1))
    for name, p in model.named_parameters():
        if name == "head.weight":
            std = 0.01
        elif name == "spatial.patch_embed.proj.weight":
            std = 0.0361                                  # He: sqrt(2 / (3 * 2 * 16 * 16))
        elif name.endswith("bias") or name == "temporal.mask_token":
            std = 0
        elif "norm" in name:
            assert (p == 1).all(), name
            continue
        else:
            std = 0.02
        assert p.std().item() == pytest.approx(std, rel=5 / (2 * p.numel()) ** 0.5, abs=1e-6), name
        assert abs(p.mean().item()) <= 5 * std / p.numel() ** 0.5, name
    attention = spatial_encoder(MODELS["viswin_tiny"]).layers[0].blocks[0].attn
    assert attention.relative_position_bias_table.std().item() == pytest.approx(0.02, rel=0.2)


def test_temporal_blocks_start_as_the_first_spatial_ones():
    model = micro()
    before = {name: p.clone() for name, p in model.named_parameters()}
    model.copy_spatial_to_temporal()
    spatial = dict(model.spatial.named_parameters())
    for name, p in model.temporal.named_parameters():
        if name in ("pos_embed", "mask_token"):
            assert torch.equal(p, before[f"temporal.{name}"])
        else:
            assert torch.equal(p, spatial[name]) and p is not spatial[name], name
    assert all(torch.equal(p, before[f"spatial.{name}"]) for name, p in spatial.items())


def test_weight_decay_spares_what_the_official_code_spares():
    with torch.device("meta"):
        model, projector = Comedian(MODELS["vivit_tiny"]), Projector(192, 1024, 1024, 512)
        swin = spatial_encoder(MODELS["viswin_tiny"])
    decay, rest = decay_groups(model, projector, swin, weight_decay=0.05)
    assert (decay["weight_decay"], rest["weight_decay"]) == (0.05, 0)
    spared = {id(p) for p in rest["params"]}
    assert not spared & {id(p) for p in decay["params"]}
    assert len(decay["params"]) + len(rest["params"]) == sum(
        1 for module in (model, projector, swin) for _ in module.parameters())
    for module in (model, projector, swin):
        for name, p in module.named_parameters():
            leaf = name.rsplit(".", 1)[-1]
            official = (leaf in ("bias", "pos_embed", "cls_token", "mask_token")
                        or ("norm" in name and leaf == "weight"))
            assert (id(p) in spared) == official, name


def test_projector():
    """Linear, GELU, linear, GELU, linear; biases everywhere but at a predictor's end; no norm."""
    projector = Projector(6, 8, 8, 4)
    assert [type(layer) for layer in projector] == [nn.Linear, nn.GELU] * 2 + [nn.Linear]
    assert all(layer.bias is not None for layer in list(projector)[::2])
    predictor = Projector(4, 8, 4, last_bias=False)
    assert predictor[0].bias is not None and predictor[-1].bias is None
    x, (one, two, three) = torch.randn(5, 6), list(projector)[::2]
    gelu = nn.functional.gelu
    torch.testing.assert_close(projector(x), three(gelu(two(gelu(one(x))))))


def test_config_with_changes():
    cfg = with_changes("vivit_tiny", window_tokens=32, temporal_depth=None)
    assert cfg.window_tokens == 32 and cfg.temporal_depth == 6        # Tab. 6: the paper's best
    assert MODELS["vivit_tiny"].window_tokens == 64       # the table is untouched
    assert MODELS["vivit_small"].temporal_depth == MODELS["viswin_tiny"].temporal_depth == 4
    assert with_changes("viswin_tiny").width == 768 and with_changes("vivit_small").width == 384


@pytest.mark.proof
def test_batch_norm():
    """Torch's own, without running statistics: values and gradients. Several processes:
    test_two_processes_equal_one."""
    projector = Projector(6, 8, 4, norm="batch")
    assert " ".join(type(layer).__name__ for layer in projector) == ("Linear BatchNorm GELU Linear")
    ours, theirs = projector[1], torch.nn.BatchNorm1d(8, track_running_stats=False)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(10, 8).mul(3).add(5).requires_grad_()
    grads = []
    for norm in (ours, theirs):
        y = norm(x)
        grads.append([y, *torch.autograd.grad(y.pow(3).sum(), [x, norm.weight, norm.bias])])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
