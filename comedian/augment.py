"""
Images in batch: what every stage's views are made of.

Each operation takes x (B, T, 3, H, W), float in [0, 1], and one number per sample: all T frames of
a clip or window share it, so that the only motion the network sees is the match's own. `p` is the
probability with which it touches each sample; only those are worked on, and x is changed in place
where it keeps its size. Letters as in model.py.
"""
import math

import numpy as np
import torch

LUMA = (0.299, 0.587, 0.114)          # ITU-R BT.601, as in every image library
BLOCK = 56                            # of 224: pixels that are made by one product


class Draws:
    """Random numbers as a function of (seed, step) and of a sample's place in the batch.

    All `batch` samples are drawn for, and those of `rows` (a slice) are returned. So a sample gets
    the same numbers however its batch is split over passes and processes, and on every device.
    """

    def __init__(self, seed, step, batch, rows=slice(None)):
        self.rng = np.random.default_rng([seed, step, 2])             # 0 and 1 draw what is picked
        self.batch, self.rows = batch, rows
        first = rows.start or 0
        self.torch_seed = ((seed * 1_000_003 + step) * batch + first) % 2 ** 63

    def seed_torch(self):
        """Seeds torch's random numbers, which drop path draws from. Unlike the numbers below, they
        depend on how the batch is split: each part has a seed of its own."""
        torch.manual_seed(self.torch_seed)

    def uniform(self, low, high, *shape):
        """(rows, *shape) float32 on the CPU."""
        drawn = self.rng.random((self.batch, *shape), np.float32)[self.rows]
        return torch.from_numpy(drawn) * (high - low) + low

    def chosen(self, p):
        """Which samples an operation changes: indices on the CPU, each there with probability p."""
        return torch.nonzero(self.uniform(0, 1) < p)[:, 0]

    def beta(self, a):
        """(rows,) float32 from Beta(a, a)."""
        return torch.from_numpy(self.rng.beta(a, a, self.batch)[self.rows]).float()

    def order(self, n):
        """One permutation of 0 .. n - 1 for the whole batch."""
        return self.rng.permutation(n).tolist()


def to_float(frames, device):
    """(B, T, H, W, 3) uint8 on host -> (B, T, 3, H, W) float32 grey levels 0..255 on `device`."""
    return frames.to(device, non_blocking=True).permute(0, 1, 4, 2, 3).contiguous().float()


def per_sample(values, x):
    """(B,) -> (B, 1, 1, 1, 1) on x's device."""
    return values.to(x.device, x.dtype, non_blocking=True).view(-1, 1, 1, 1, 1)


def blocks(n_in, n_out, reach):
    """[(outputs, inputs)], slices: from which of n_in pixels each block of the n_out ones is made,
    if those farther than `reach` have no weight. Where weights are so few, a product with all of
    them would be zeros for the most part. Proved by test_no_weight_lies_outside_the_blocks."""
    scale = n_in / n_out
    return [(slice(a, min(a + BLOCK, n_out)),
             slice(max(0, math.floor(a * scale - reach)),
                   min(n_in, math.ceil(min(a + BLOCK, n_out) * scale + reach))))
            for a in range(0, n_out, BLOCK)]


def separable(x, rows, columns, row_blocks=None, column_blocks=None):
    """rows (B, H', H) @ x (B, T, C, H, W) @ columns (B, W', W)^T -> (B, T, C, H', W').

    Resizing, cropping and blurring are all of this form: two matrix products per sample. rows None:
    those stay as they are. Blocks: what is multiplied; by default everything.
    """
    B, T, C, H, W = x.shape
    whole = [(slice(None), slice(None))]
    x, columns = x.reshape(B, T * C * H, W), columns.to(x).transpose(1, 2)    # (B, W, W')
    x = torch.cat([x[:, :, used] @ columns[:, used, made]
                   for made, used in column_blocks or whole], 2)              # (B, T C H, W')
    if rows is None:
        return x.view(B, T, C, H, columns.shape[2])                           # (B, T, C, H, W')
    x = x.view(B, T * C, H, columns.shape[2]).transpose(1, 2).flatten(2)      # (B, H, T C W')
    x = torch.cat([rows[:, made, used].to(x) @ x[:, used]
                   for made, used in row_blocks or whole], 1)                 # (B, H', T C W')
    x = x.view(B, rows.shape[1], T, C, columns.shape[2])                      # (B, H', T, C, W')
    return x.permute(0, 2, 3, 1, 4).contiguous()


def resize_matrix(start, length, n_in, n_out):
    """(B, n_out, n_in): bilinear resampling of pixels [start, start + length) to n_out pixels.

    With antialiasing, as PIL and torch's antialias=True: the triangle is widened by the shrink
    factor and cut off at the crop's border. start, length: (B,).
    """
    start, length = start.view(-1, 1, 1).float(), length.view(-1, 1, 1).float()
    scale = length / n_out                                    # input pixels per output pixel
    centre = start + (torch.arange(n_out)[:, None] + 0.5) * scale             # (B, n_out, 1)
    pixel = torch.arange(n_in)[None, None] + 0.5                              # (1, 1, n_in)
    weight = (1 - (pixel - centre).abs() / scale.clamp(min=1)).clamp(min=0)
    weight = weight * ((pixel > start) & (pixel < start + length))            # (B, n_out, n_in)
    return weight / weight.sum(2, keepdim=True)


def crop_resize(x, box, size, whole=False):
    """Cuts box (B, 4) = top, left, height, width out of x, in grey levels 0..255, to size x size.
    whole: every box is the frame.

    Rounded to grey levels as if the resized image had been stored, then scaled to [0, 1].
    """
    top, left, height, width = box.unbind(1)
    # SoccerNet's whole frames have the height that ViT and Swin want: their rows stay.
    rows = (None if size == x.shape[3] and (height == size).all()
            else resize_matrix(top, height, x.shape[3], size))
    columns = resize_matrix(left, width, x.shape[4], size)
    # Blocks of the frame alone: were they of the boxes, a sample would depend on its batch.
    row_blocks, column_blocks = (blocks(n, size, max(1, n / size)) if whole else None
                                 for n in x.shape[3:])
    x = separable(x, rows, columns, row_blocks, column_blocks)
    return x.round_().clamp_(0, 255).div_(255)


def resize(x, size):
    """Whole frames squeezed to size x size (398x224 loses its aspect, as in the official code)."""
    if x.shape[3] == x.shape[4] == size:
        return x / 255
    box = torch.tensor([[0, 0, x.shape[3], x.shape[4]]])
    return crop_resize(x, box.expand(len(x), 4), size, whole=True)


def random_boxes(draw, height, width, scale, ratio):
    """(B, 4) boxes of random area (share `scale` of the frame) and aspect `ratio` = width / height.

    Like torchvision's RandomResizedCrop: ten tries per box, then the largest box of legal aspect.
    """
    area = height * width * draw.uniform(*scale, 10)                          # (B, 10)
    aspect = draw.uniform(*np.log(ratio).tolist(), 10).exp()                  # log-uniform
    w, h = (area * aspect).sqrt().round(), (area / aspect).sqrt().round()
    fits = (w >= 1) & (w <= width) & (h >= 1) & (h <= height)
    first = fits.int().argmax(1, keepdim=True)                             # the first try that fits
    w, h = w.gather(1, first)[:, 0], h.gather(1, first)[:, 0]
    none = ~fits.any(1)                                                       # fallback, centred
    legal = min(max(width / height, ratio[0]), ratio[1])
    w[none], h[none] = round(min(width, height * legal)), round(min(height, width / legal))
    place = draw.uniform(0, 1, 2)                                             # (B, 2)
    place[none] = 0.5
    top = (place[:, 0] * (height - h + 1)).floor().minimum(height - h)
    left = (place[:, 1] * (width - w + 1)).floor().minimum(width - w)
    return torch.stack([top, left, h, w], 1)


def luminance(x):
    """(B, T, 3, H, W) -> (B, T, 1, H, W)."""
    red, green, blue = x.split(1, dim=2)
    return LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue


def brightness(x, factor):
    """x times factor (B,); new tensor, like the next three."""
    return (x * per_sample(factor, x)).clamp_(0, 1)


def contrast(x, factor):
    """Away from or towards the frame's mean luminance."""
    mean = luminance(x).mean((3, 4), keepdim=True)
    return torch.lerp(mean, x, per_sample(factor, x)).clamp_(0, 1)


def saturation(x, factor):
    """Away from or towards grey; factor 0 is a grey image."""
    return torch.lerp(luminance(x), x, per_sample(factor, x)).clamp_(0, 1)


def hue(x, shift):
    """Turns the colour circle by `shift` of a full turn, in [-0.5, 0.5] (through HSV)."""
    top, bottom = x.amax(2), x.amin(2)                                        # (B, T, H, W)
    red, green, blue = x.unbind(2)
    chroma = top - bottom
    c = chroma.clamp(min=1e-8)
    h = torch.where(top == red, (green - blue).div_(c),
                    torch.where(top == green, (blue - red).div_(c).add_(2),
                                (red - green).div_(c).add_(4)))
    h += 6 * per_sample(shift, x)[:, :, 0]                                    # sixths of a turn
    h -= 6 * (h / 6).floor_()                                                 # in [0, 6)
    # How much of the chroma each channel lacks at hue h: the closed form of the six-case table
    # from HSV to RGB.
    lacks = torch.stack([2 - (h - 3).abs_(),
                         torch.maximum(1 - h, 2 - (h - 5).abs_()),
                         torch.maximum(h - 5, 2 - (h - 1).abs_())], 2)        # (B, T, 3, H, W)
    return lacks.clamp_(0, 1).mul_(-chroma[:, :, None]).add_(top[:, :, None])


def color_jitter(x, draw, strength, p):
    """Brightness, contrast and saturation by factors within 1 +- strength, hue by a shift within
    +- strength of the circle of colours, in random order.

    strength: four numbers (0 = off). The order is one per batch.
    """
    i = draw.chosen(p)
    part = x[i]
    for k in draw.order(4):
        change = draw.uniform(-strength[k], strength[k])[i]
        if strength[k]:
            part = (hue(part, change) if k == 3
                    else (brightness, contrast, saturation)[k](part, 1 + change))
    x[i] = part
    return x


def grayscale(x, draw, p):
    """Same luminance in all channels."""
    i = draw.chosen(p)
    x[i] = luminance(x[i]).expand(-1, -1, 3, -1, -1)
    return x


def blur_matrix(sigma, n, radius):
    """(B, n, n): Gaussian blur of n pixels with 2 radius + 1 taps, edges reflected.

    sigma (B,) in pixels.
    """
    offset = torch.arange(-radius, radius + 1)
    weight = torch.exp(-0.5 * (offset / sigma[:, None]) ** 2)                 # (B, 2 radius + 1)
    weight[weight < 1e-9] = 0         # no pixel sees it, and CPUs multiply denormal numbers slowly
    weight = weight / weight.sum(1, keepdim=True)
    source = (torch.arange(n)[:, None] + offset).abs()                        # reflected at 0 ...
    source = (n - 1) - ((n - 1) - source).abs()                               # ... and at n - 1
    matrix = torch.zeros(len(sigma), n, n)
    return matrix.scatter_add_(2, source.expand(len(sigma), -1, -1),
                               weight[:, None].expand(-1, n, -1))


def gaussian_blur(x, draw, p, sigma=(0.1, 2.0), radius=11):
    """sigma and radius (11: 23 taps) in pixels of a 224-pixel frame, scaled to x's width."""
    i = draw.chosen(p)
    width = draw.uniform(*sigma)[i] * (x.shape[4] / 224)
    radius = max(1, round(radius * x.shape[4] / 224))
    x[i] = separable(x[i], *(blur_matrix(width, n, radius) for n in x.shape[3:]),
                     *(blocks(n, n, radius) for n in x.shape[3:]))
    return x


def solarize(x, draw, p):
    """Inverts the values from 0.5 on: the smaller of a value and its inverse."""
    i = draw.chosen(p)
    part = x[i]
    x[i] = torch.minimum(part, 1 - part)
    return x


def hflip(x, draw, p):
    """Mirrors left and right."""
    i = draw.chosen(p)
    x[i] = x[i].flip(4)
    return x


def normalize(x, per_frame=False):
    """The network's input: (x - 0.45) / 0.225 (official code, all channels), or, with
    per_frame, each channel of each frame to mean 0 and deviation 1 (ours; small
    networks learn much faster)."""
    if not per_frame:
        return (x - 0.45) / 0.225
    flat = x.flatten(3)                                                       # (B, T, 3, H W)
    flat = flat - flat.mean(3, keepdim=True)
    deviation = flat.norm(dim=3, keepdim=True) / flat.shape[3] ** 0.5
    return flat.div_(deviation + 1e-3).view(x.shape)
