"""
What these tests prove about augment.py:
  1. each batched operation equals a plain per-sample reference
  2. frames of a sample share one draw, samples do not, and a sample's draw depends on seed, step
     and its place in the batch alone: not on how the batch is split
"""
import colorsys

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from comedian import augment
from conftest import record


# ------------------------------------------------------------------ 1. operations
def drawn_for(n, seed=0):
    return augment.Draws(seed, 0, n)


def images(B=3, T=2, H=9, W=13):
    """(B, T, 3, H, W) in [0, 1], every frame another."""
    torch.manual_seed(1)
    return torch.rand(B, T, 3, H, W)


def grey(frame):
    return 0.299 * frame[0] + 0.587 * frame[1] + 0.114 * frame[2]


def plain_hue(frame, shift):
    out = np.empty_like(frame)
    for r, c in np.ndindex(frame.shape[1:]):
        h, s, v = colorsys.rgb_to_hsv(*frame[:, r, c])
        out[:, r, c] = colorsys.hsv_to_rgb((h + shift) % 1, s, v)
    return out


PLAIN = {                             # of one frame (3, H, W), numpy
    "brightness": lambda frame, factor: np.clip(frame * factor, 0, 1),
    "contrast": lambda frame, factor: np.clip(
        factor * frame + (1 - factor) * grey(frame).mean(), 0, 1),
    "saturation": lambda frame, factor: np.clip(factor * frame + (1 - factor) * grey(frame), 0, 1),
    "hue": plain_hue}


def per_sample(x, plain, draws):
    """The reference: one sample, one frame after the other."""
    samples = zip(x.double().numpy(), draws, strict=True)
    return torch.from_numpy(np.stack([[plain(frame, draw) for frame in sample]
                                      for sample, draw in samples]))


@pytest.mark.parametrize("name, draws", [
    ("brightness", [0.0, 0.7, 1.6]), ("contrast", [0.0, 0.7, 1.8]), ("saturation", [0.0, 0.4, 1.7]),
    ("hue", [-0.5, 0.13, 0.4])])
def test_colour_operations(name, draws):
    x = images()
    x[1, 0, :, :3] = torch.tensor([0.3, 0.3, 0.3])[:, None, None]    # grey has no hue
    x[2, 1, :, 0], x[2, 1, :, 1] = 0, 1                                           # black and white
    got = getattr(augment, name)(x.clone(), torch.tensor(draws))
    torch.testing.assert_close(got.double(), per_sample(x, PLAIN[name], draws), rtol=0, atol=2e-6)


@pytest.mark.parametrize("operation, plain", [
    (augment.grayscale, lambda frame, _: np.broadcast_to(grey(frame), frame.shape)),
    (augment.solarize, lambda frame, _: np.where(frame >= 0.5, 1 - frame, frame)),
    (augment.hflip, lambda frame, _: frame[:, :, ::-1])])
def test_operations_without_a_strength(operation, plain):
    x = images()
    x[0, 0, 0, 0, :3] = torch.tensor([0.5, 0.75, 0.25])
    got = operation(x.clone(), drawn_for(3), p=1.0)
    torch.testing.assert_close(got.double(), per_sample(x, plain, [None] * 3), rtol=0, atol=1e-6)


def test_colour_jitter(monkeypatch):
    """Four operations in one of 24 orders, each with a factor per sample within its strength."""
    calls = []
    for name, operation in [(name, getattr(augment, name)) for name in PLAIN]:
        monkeypatch.setattr(augment, name, lambda x, draw, name=name, operation=operation:
                            calls.append((name, draw)) or operation(x, draw))
    orders, drawn = set(), {name: [] for name in PLAIN}
    for seed in range(60):
        x = images(B=4, T=1, H=3, W=3)
        calls.clear()
        got = augment.color_jitter(x.clone(), drawn_for(4, seed), [0.8, 0.7, 0.4, 0.2], p=1.0)
        expected = x
        for name, draw in calls:
            expected = per_sample(expected, PLAIN[name], draw.tolist())
            drawn[name].append(draw)
        torch.testing.assert_close(got.double(), expected, rtol=0, atol=1e-5)
        orders.add(tuple(name for name, _ in calls))
    assert len(orders) > 15 and all(sorted(order) == sorted(PLAIN) for order in orders)
    for name, low, high in (("brightness", 0.2, 1.8), ("contrast", 0.3, 1.7),
                            ("saturation", 0.6, 1.4), ("hue", -0.2, 0.2)):
        draws = torch.cat(drawn[name])
        assert draws.min() >= low and draws.max() <= high
        spread = (draws - low) / (high - low)             # uniform: mean 1/2, deviation 0.29
        assert spread.mean() == pytest.approx(0.5, abs=0.1)
        assert spread.std() == pytest.approx(0.289, abs=0.05)


def test_strength_0_is_off(monkeypatch):
    """Stage 3 leaves the hue alone: cards keep their colour, to the last bit."""
    monkeypatch.setattr(augment, "hue", None)
    x = images()
    draw = drawn_for(3)
    assert not torch.equal(augment.color_jitter(x.clone(), draw, [0.4, 0.4, 0.4, 0], p=1.0), x)
    assert torch.equal(augment.color_jitter(x.clone(), draw, [0, 0, 0, 0], p=1.0), x)


@pytest.mark.parametrize("size", [(20, 224), (48, 48), (30, 112)])
def test_gaussian_blur(size, monkeypatch):
    """An explicit convolution, edges reflected; sigma and the 23 taps are those of 224 pixels."""
    sigmas, original = [], augment.blur_matrix
    monkeypatch.setattr(augment, "blur_matrix", lambda *a: sigmas.append(a[0]) or original(*a))
    x = images(3, 1, *size)
    got = augment.gaussian_blur(x.clone(), drawn_for(3), p=1.0)
    radius = {224: 11, 48: 2, 112: 6}[size[1]]            # 11 x 48 / 224 = 2.36; 5.5 rounds to even
    assert torch.equal(sigmas[0], sigmas[1])              # the same for rows and columns
    assert sigmas[0].min() >= 0.1 * size[1] / 224 and sigmas[0].max() <= 2 * size[1] / 224
    for b, sigma in enumerate(sigmas[0].double().tolist()):
        kernel = np.array([np.exp(-d * d / (2 * sigma ** 2)) for d in range(-radius, radius + 1)])
        kernel /= kernel.sum()
        frame = x[b, 0].double().numpy()
        frame = np.pad(frame, ((0, 0), (radius,) * 2, (radius,) * 2), mode="reflect")
        rows = sum(w * frame[:, i:i + size[0]] for i, w in enumerate(kernel))
        expected = sum(w * rows[:, :, i:i + size[1]] for i, w in enumerate(kernel))
        np.testing.assert_allclose(got[b, 0].double().numpy(), expected, atol=2e-6)


def assert_resized(got, pixels, size):
    """got: torch's antialiased bilinear resize of `pixels`, rounded to grey levels."""
    expected = F.interpolate(pixels, (size, size), mode="bilinear", antialias=True).round()
    off = (got * 255 - expected).abs()
    assert got.shape == expected.shape
    assert off.max() < 1.001 and (off > 0.001).float().mean() < 1e-3          # ties at .5


def test_crop_and_resize():
    """One box per sample."""
    torch.manual_seed(0)
    x = torch.randint(0, 256, (5, 2, 3, 40, 71)).float()
    box = torch.tensor([[0., 0, 40, 71], [3, 10, 30, 50], [0, 0, 7, 5], [39, 70, 1, 1],
                        [10, 20, 24, 24]])
    got = augment.crop_resize(x.clone(), box, 24)             # (B, T, 3, 24, 24)
    for b, (top, left, height, width) in enumerate(box.int().tolist()):
        assert_resized(got[b], x[b, :, :, top:top + height, left:left + width], 24)
    assert torch.allclose(got[4], x[4, :, :, 10:34, 20:44] / 255)      # nothing to resize


def test_resize():
    torch.manual_seed(0)
    x = torch.randint(0, 256, (2, 2, 3, 30, 50)).float()
    assert_resized(augment.resize(x.clone(), 24).flatten(0, 1), x.flatten(0, 1), 24)
    square = torch.randint(0, 256, (2, 2, 3, 24, 24)).float()
    assert torch.equal(augment.resize(square.clone(), 24), square / 255)


def test_rows_that_stay_are_not_multiplied(monkeypatch):
    """A frame of the network's height: the same bits as by both products, without the second."""
    x = torch.randint(0, 256, (2, 2, 3, 24, 71), generator=torch.Generator().manual_seed(0)).float()
    zero, both = torch.zeros(2), augment.separable
    rows, columns = (augment.resize_matrix(zero, zero + n, n, 24) for n in (24, 71))
    assert torch.equal(rows[0], torch.eye(24))
    expected = both(x, rows, columns).round_().clamp_(0, 255).div_(255)
    asked = record(monkeypatch, augment, "separable")
    assert torch.equal(augment.resize(x.clone(), 24), expected)
    ((_, given, *_), _), = asked
    assert given is None


@pytest.mark.parametrize("n_in, n_out", [(398, 224), (224, 224), (720, 224), (1280, 224), (48, 48),
                                         (130, 224), (57, 113), (7, 224)])
def test_no_weight_lies_outside_the_blocks(n_in, n_out):
    """Nor does a block hold many zeros; and what it makes is what the whole product makes."""
    zero = torch.zeros(1)
    matrices = [(augment.resize_matrix(zero, zero + n_in, n_in, n_out), max(1, n_in / n_out))]
    if n_in == n_out:
        matrices += [(augment.blur_matrix(torch.tensor([sigma]), n_in, radius), radius)
                     for sigma, radius in ((2.0, 11), (0.1, 11), (0.4, 2))]
    for matrix, reach in matrices:
        outside, blocks = matrix[0].clone(), augment.blocks(n_in, n_out, reach)
        for made, used in blocks:
            outside[made, used] = 0
            scale = n_in / n_out
            assert used.stop - used.start <= (made.stop - made.start) * scale + 2 * reach + 2
        assert not outside.any() and blocks[-1][0].stop == n_out
        x = torch.rand(1, 2, 3, n_in, n_in)
        whole = augment.separable(x, matrix, matrix)
        torch.testing.assert_close(augment.separable(x, matrix, matrix, blocks, blocks), whole,
                                   rtol=0, atol=2e-6)
        assert (len(blocks) > 1) == (n_out > 56)           # small frames: one product, same bits


def test_a_crop_does_not_depend_on_its_batch():
    """Another sample's box changes no bit, and no block cuts a crop: it is the whole product."""
    torch.manual_seed(0)
    x = torch.randint(0, 256, (2, 2, 3, 224, 398)).float()
    box = torch.tensor([[0., 0., 224., 398.], [100., 200., 60., 90.]])
    both = augment.crop_resize(x.clone(), box, 224)
    for i in range(2):
        alone = augment.crop_resize(x[[i, i]].clone(), box[[i, i]], 224)
        assert torch.equal(both[i], alone[0])
    top, left, height, width = box.unbind(1)
    whole = augment.separable(x, augment.resize_matrix(top, height, 224, 224),
                              augment.resize_matrix(left, width, 398, 224))
    assert ((both * 255 - whole).abs() > 0.501).float().mean() < 1e-4


def plain_box(rng, height, width, scale, ratio):
    """torchvision's RandomResizedCrop, one box: its documented rule."""
    for _ in range(10):
        area = height * width * rng.uniform(*scale)
        aspect = np.exp(rng.uniform(*np.log(ratio)))
        w, h = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
        if 0 < w <= width and 0 < h <= height:
            return rng.integers(0, height - h + 1), rng.integers(0, width - w + 1), h, w
    if width / height < ratio[0]:
        w, h = width, round(width / ratio[0])
    elif width / height > ratio[1]:
        w, h = round(height * ratio[1]), height
    else:
        w, h = width, height
    return (height - h) // 2, (width - w) // 2, h, w


@pytest.mark.parametrize("height, width, scale, ratio", [
    (224, 398, (0.2, 1.0), (1.3275, 2.2125)),             # stage 1's crops (facts, section 2)
    (20, 60, (0.5, 1.0), (0.8, 1.2)),                     # most tries do not fit
    (6, 8, (0.2, 1.0), (0.25, 4.0))])                      # few pixels, wide range
def test_random_boxes(height, width, scale, ratio):
    """Legal, and spread like the boxes of the plain rule: each tenth of the frame has its share."""
    boxes = augment.random_boxes(drawn_for(40_000), height, width, scale, ratio).numpy()
    top, left, h, w = boxes.T
    assert (boxes == boxes.round()).all()
    assert (boxes[:, :2] >= 0).all() and (boxes[:, 2:] >= 1).all()
    assert (top + h <= height).all() and (left + w <= width).all()
    rng = np.random.default_rng(0)
    plain = np.array([plain_box(rng, height, width, scale, ratio) for _ in range(20_000)])
    for column, full in zip(range(4), (height, width, height, width), strict=True):
        got, expected = (np.histogram(b[:, column], bins=10, range=(0, full))[0] / len(b)
                         for b in (boxes, plain))
        np.testing.assert_allclose(got, expected, atol=0.02)      # 5 standard deviations


@pytest.mark.parametrize("height, width, ratio, box", [
    (10, 10, (4.0, 4.0), [4, 0, 2, 10]),                  # 2.5 rows round to even; centred
    (10, 60, (0.8, 1.2), [0, 24, 10, 12]),
    (60, 10, (0.8, 1.2), [24, 0, 12, 10])])
def test_box_when_no_try_fits(height, width, ratio, box):
    boxes = augment.random_boxes(drawn_for(50), height, width, (1.0, 1.0), ratio)
    assert boxes.tolist() == [box] * 50
    assert plain_box(np.random.default_rng(0), height, width, (1.0, 1.0), ratio) == tuple(box)


def test_normalize():
    x = images()
    torch.testing.assert_close(augment.normalize(x.clone()), (x - 0.45) / 0.225)
    got = augment.normalize(x.clone(), per_frame=True)
    for b, t, c in np.ndindex(3, 2, 3):
        channel = x[b, t, c].double()
        expected = (channel - channel.mean()) / (channel.std(correction=0) + 1e-3)
        torch.testing.assert_close(got[b, t, c].double(), expected, rtol=0, atol=1e-5)
    flat = torch.full((1, 1, 3, 4, 4), 0.3)               # a black screen must not explode
    assert augment.normalize(flat, per_frame=True).abs().max() < 1e-3


def test_to_float():
    frames = torch.randint(0, 256, (2, 3, 4, 5, 3), dtype=torch.uint8)    # (B, T, H, W, 3)
    x = augment.to_float(frames, torch.device("cpu"))
    assert x.dtype == torch.float32 and torch.equal(x, frames.permute(0, 1, 4, 2, 3).float())


RANDOM = {                            # an operation, and its share of touched samples
    "colour": (lambda x, draw, p: augment.color_jitter(x, draw, [0.4, 0.4, 0.4, 0.1], p), 0.8),
    "grey": (augment.grayscale, 0.2), "solarize": (augment.solarize, 0.2),
    "flip": (augment.hflip, 0.5),                                     # and a blur that can be seen
    "blur": (lambda x, draw, p: augment.gaussian_blur(x, draw, p, sigma=(2.0, 4.0)), 0.5)}


@pytest.mark.parametrize("name", RANDOM)
def test_a_draw_per_sample_that_all_frames_share(name):
    """Of B samples a share p is touched, all T frames alike; others not by a bit; draws differ."""
    torch.manual_seed(0)
    (operation, p), frame = RANDOM[name], torch.rand(3, 6, 80)
    x = frame.expand(800, 3, -1, -1, -1).clone()     # (B, T, 3, H, W)
    got = operation(x.clone(), drawn_for(800), p)
    assert torch.equal(got[:, 0], got[:, 1]) and torch.equal(got[:, 0], got[:, 2])
    assert got.isfinite().all() and got.min() >= 0 and got.max() <= 1 + 1e-5
    touched = (got[:, 0] != frame).flatten(1).any(1)    # (B,)
    assert touched.float().mean().item() == pytest.approx(p, abs=5 * (p * (1 - p) / 800) ** 0.5)
    changes = (touched[1:] != touched[:-1]).float().mean().item()
    assert changes == pytest.approx(2 * p * (1 - p), abs=0.09)   # neighbours are independent
    assert torch.equal(operation(x.clone(), drawn_for(800), 0.0), x)
    assert (operation(x.clone(), drawn_for(800), 1.0) != x).flatten(1).any(1).all()
    if name in ("colour", "blur"):
        some = got[touched, 0][:20].flatten(1)
        assert torch.pdist(some, torch.inf).min() > 1e-6


def test_same_seed_and_step_same_draws():
    x = images(B=8, T=2, H=6, W=80)
    for operation, p in RANDOM.values():
        same, again, other_seed, other_step = (
            operation(x.clone(), augment.Draws(seed, step, 8), p)
            for seed, step in ((7, 3), (7, 3), (8, 3), (7, 4)))
        assert torch.equal(same, again)
        assert not torch.equal(same, other_seed) and not torch.equal(same, other_step)


def test_a_sample_gets_the_same_however_its_batch_is_split():
    """Passes and processes each see some rows of a batch: together they do what one pass does."""
    x = images(B=9, T=2, H=6, W=80)
    chain = [*RANDOM.values(), RANDOM["blur"]]             # an operation that comes twice, too

    def run(rows):
        draw, part = augment.Draws(5, 11, 9, rows), x[rows].clone()
        part = augment.crop_resize(
            part * 255, augment.random_boxes(draw, 6, 80, (0.5, 1.0), (4.0, 20.0)), 48)
        for operation, p in chain:
            part = operation(part, draw, p)
        return part, draw.beta(0.1)

    whole, beta = run(slice(None))
    pieces, betas = zip(*(run(slice(i, i + 3)) for i in (0, 3, 6)), strict=True)
    assert torch.equal(torch.cat(betas), beta) and len(beta.unique()) > 5
    # Batched matrix products may round otherwise for another batch size: 1e-6, not a grey level.
    torch.testing.assert_close(torch.cat(pieces), whole, rtol=0, atol=1e-6)
