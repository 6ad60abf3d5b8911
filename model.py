"""
The network: a spatial encoder turns each 2-frame clip into one token, a temporal transformer lets
the tokens of a window see each other, a linear head spots the actions of each token.

    frames (B, T, 3, H, W)
        -> clips of T_s = 2 frames -> spatial encoder, one token per clip      (B, L, D)
        -> masked tokens replaced, positions added -> temporal transformer     (B, L, D)
        -> projector (stage 2)                                                 (B, L, D_t)
           or head (stage 3)                                                   (B, L, K)

Paper Sec. 3 and App. A.1. Modules carry timm's parameter names (patch_embed, cls_token,
pos_embed, blocks.i.attn.qkv, ...), so that timm's weights need little renaming. Nothing here reads
data or trains.

Letters, here and in every file: B batch, T frames, H W pixels, D width of a token, K classes, and L
tokens of a window (the paper's T_l); in a function B is the batch that it is given. Here N is the
positions of an attention, of a clip its patches. A clip is T_s = 2 frames and becomes one token: at
2 fps token k of a half covers the second [k, k + 1). All letters and terms: docs/method.md.
"""
import dataclasses
from dataclasses import dataclass

# Before torch: importing comedian checks that the packages are installed.
from comedian import checkpoint
from comedian.frames import CLIP_FRAMES
from comedian.processes import mean_of_all
from comedian.soccernet import SOCCERNET_CLASSES

import torch
import torch.nn.functional as F
from torch import nn

LN_EPS = 1e-6                         # everywhere, Swin included (timm's own Swin has 1e-5)


@dataclass(frozen=True)
class Config:
    """Everything that decides the shape of the weights, plus what the weights expect as input.

    Stored in every checkpoint as a plain dict. The next stage builds from it, and sets what it
    trains anew: window and temporal depth in stage 2, classes in stage 3.
    """
    model: str                        # a name of MODELS
    spatial: str = "vit"              # "vit": CLS token per clip; "swin": mean over the last map
    image_size: int = 224
    patch_size: int = 16
    embed_dim: int = 192              # at Swin's first resolution
    depth: tuple = (12,)              # blocks; for Swin one number per resolution
    num_heads: tuple = (3,)
    mlp_ratio: float = 4.0
    temporal_depth: int = 4
    temporal_heads: int = 3
    window_tokens: int = 64           # T_l: positions of the temporal transformer
    drop_path: float = 0.1            # rises linearly to this over the depth (official code)
    normalize_per_frame: bool = False  # see augment.normalize
    head_width: int = 1024            # hidden width of the projectors of stages 1 and 2 (paper);
                                      # nothing to do with Comedian.head
    classes: tuple = SOCCERNET_CLASSES

    @property
    def width(self):
        """D, the width of a token. Swin doubles it from resolution to resolution."""
        return self.embed_dim * (2 ** (len(self.depth) - 1))


MODELS = {
    "vivit_tiny": Config("vivit_tiny", temporal_depth=6),       # paper's best, Tab. 6; Tab. 1 has 4
    "vivit_small": Config("vivit_small", embed_dim=384, num_heads=(6,), temporal_heads=6,
                          head_width=2048),                 # official code; the paper says 1024
    "viswin_tiny": Config("viswin_tiny", spatial="swin", patch_size=4, embed_dim=96,
                          depth=(2, 2, 6, 2), num_heads=(3, 6, 12, 24), temporal_heads=3),
    # Ours, for two CPU cores and 48-pixel frames: what the demo trains.
    "vivit_micro": Config("vivit_micro", image_size=48, patch_size=12, embed_dim=128, depth=(3,),
                          num_heads=(4,), mlp_ratio=2.0, temporal_depth=2, temporal_heads=4,
                          drop_path=0.0, normalize_per_frame=True),
}


def with_changes(name_or_config, **changes):
    """A Config from a name of MODELS (or a Config) with fields replaced; None keeps a field."""
    cfg = MODELS[name_or_config] if isinstance(name_or_config, str) else name_or_config
    return dataclasses.replace(cfg, **{k: v for k, v in changes.items() if v is not None})


# ------------------------------------------------------------------ transformer blocks
class Attention(nn.Module):
    """Multi-head self-attention over (B, N, D). `bias`, broadcast to (B, heads, N, N), is added to
    the logits (Swin). With n_out only the first n_out positions are queries and are returned."""

    def __init__(self, dim, num_heads):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x, bias=None, n_out=None):
        B, N, D = x.shape
        qkv = self.qkv(x).view(B, N, 3, self.num_heads, D // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)                     # each (B, heads, N, D / heads)
        q = q[:, :, :n_out]
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)       # (B, heads, n_out, ...)
        return self.proj(x.transpose(1, 2).flatten(2))                    # (B, n_out, D)


class Mlp(nn.Module):
    def __init__(self, dim, hidden):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x)))


class DropPath(nn.Module):
    """Drops a sample's whole residual branch with probability p (stochastic depth)."""

    def __init__(self, p):
        super().__init__()
        self.p = p

    def forward(self, x):
        if not self.training or self.p == 0:
            return x
        keep = 1 - self.p
        kept = x.new_empty(len(x), *[1] * (x.dim() - 1)).bernoulli_(keep)     # (B, 1, ...): 0 or 1
        return x * kept.div_(keep)


class Block(nn.Module):
    """Pre-norm transformer block around an attention."""

    def __init__(self, dim, attn, mlp_ratio, drop_path):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=LN_EPS)
        self.attn = attn
        self.norm2 = nn.LayerNorm(dim, eps=LN_EPS)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.drop_path = DropPath(drop_path)

    def forward(self, x, n_out=None):
        x = x[:, :n_out] + self.drop_path(self.attn(self.norm1(x), n_out=n_out))
        return x + self.drop_path(self.mlp(self.norm2(x)))


def drop_path_rates(drop_path, depth):
    """Drop path grows linearly from 0 at the first block to `drop_path` at the last."""
    return [drop_path * i / max(1, depth - 1) for i in range(depth)]


def make_blocks(depth, dim, num_heads, mlp_ratio, drop_path):
    return nn.Sequential(*[Block(dim, Attention(dim, num_heads), mlp_ratio, rate)
                           for rate in drop_path_rates(drop_path, depth)])


class TubeletEmbed(nn.Module):
    """Non-overlapping 2 x P x P tubelets -> D. The weight is that of a Conv3d, as in timm and the
    official code; with stride = kernel that convolution is one matrix product."""

    def __init__(self, patch_size, dim, norm=False):
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv3d(3, dim, (CLIP_FRAMES, patch_size, patch_size),
                              (CLIP_FRAMES, patch_size, patch_size))
        self.norm = nn.LayerNorm(dim, eps=LN_EPS) if norm else nn.Identity()

    def forward(self, clips):                                             # (B, 2, 3, H, W)
        B, T, C, H, W = clips.shape
        P = self.patch_size
        x = clips.view(B, T, C, H // P, P, W // P, P).permute(0, 3, 5, 2, 1, 4, 6)
        x = x.reshape(B, (H // P) * (W // P), C * T * P * P)              # (B, N, 3 * 2 * P * P)
        return self.norm(F.linear(x, self.proj.weight.flatten(1), self.proj.bias))    # (B, N, D)


# ------------------------------------------------------ spatial encoders: clips -> tokens
class ViT(nn.Module):
    """A clip's token is its CLS token after the last norm. The CLS token has its own position."""

    def __init__(self, cfg):
        super().__init__()
        n_patches = (cfg.image_size // cfg.patch_size) ** 2
        self.patch_embed = TubeletEmbed(cfg.patch_size, cfg.embed_dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, cfg.embed_dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + n_patches, cfg.embed_dim))
        self.blocks = make_blocks(cfg.depth[0], cfg.embed_dim, cfg.num_heads[0], cfg.mlp_ratio,
                                  cfg.drop_path)
        self.norm = nn.LayerNorm(cfg.embed_dim, eps=LN_EPS)

    def forward(self, clips, all_tokens=False):                           # (B, 2, 3, H, W)
        """(B, D); with all_tokens (B, 1 + N, D), the patches' too, for tests. As only the CLS token
        is wanted, the last block computes nothing else: the same for 6 % less work (ViT-T)."""
        x = self.patch_embed(clips)                                       # (B, N, D)
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], 1)  # (B, 1 + N, D)
        x = self.blocks[:-1](x + self.pos_embed)
        if all_tokens:
            return self.norm(self.blocks[-1](x))
        return self.norm(self.blocks[-1](x, n_out=1)[:, 0])               # (B, D)


class WindowAttention(Attention):
    """Self-attention inside 7 x 7 windows, with a learned bias per head and relative position."""

    def __init__(self, dim, num_heads, window):
        super().__init__(dim, num_heads)
        self.relative_position_bias_table = nn.Parameter(
            torch.zeros((2 * window - 1) ** 2, num_heads))
        row, column = torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")
        place = torch.stack([row.flatten(), column.flatten()])            # (2, 49)
        relative = place[:, :, None] - place[:, None] + window - 1        # (2, 49, 49), from 0
        index = relative[0] * (2 * window - 1) + relative[1]              # (49, 49)
        self.register_buffer("relative_position_index", index, persistent=False)

    def forward(self, x, mask=None):                # x (B * windows, 49, D), mask (windows, 49, 49)
        bias = self.relative_position_bias_table[self.relative_position_index]     # (49, 49, heads)
        bias = bias.permute(2, 0, 1)[None]                                # (1, heads, 49, 49)
        if mask is not None:
            bias = bias + mask[:, None]                                   # (windows, heads, 49, 49)
            bias = bias.repeat(x.shape[0] // len(mask), 1, 1, 1)     # (B * windows, heads, 49, 49)
        return super().forward(x, bias.to(x.dtype))


class SwinBlock(Block):
    """A block whose attention runs in windows; every second block shifts the windows by half of
    one, so that information crosses their borders."""

    def __init__(self, dim, num_heads, side, window, shifted, mlp_ratio, drop_path):
        super().__init__(dim, WindowAttention(dim, num_heads, window), mlp_ratio, drop_path)
        self.side, self.window = side, window
        self.shift = window // 2 if shifted and side > window else 0
        self.register_buffer("attn_mask", self.make_mask() if self.shift else None,
                             persistent=False)

    def make_mask(self):
        """(windows, 49, 49): -100 between positions that the cyclic shift brought together from
        opposite borders of the map, 0 elsewhere."""
        band = torch.zeros(self.side)                                     # three bands per axis
        band[-self.window:-self.shift], band[-self.shift:] = 1, 2
        region = 3 * band[:, None] + band                                 # (side, side): up to 9
        region = self.to_windows(region[None, :, :, None])[:, :, 0]       # (windows, 49)
        return (region[:, :, None] != region[:, None]).float() * -100.0

    def to_windows(self, x):                                              # (B, side, side, D)
        B, side, _, D = x.shape
        n, w = side // self.window, self.window
        return x.view(B, n, w, n, w, D).transpose(2, 3).reshape(B * n * n, w * w, D)

    def from_windows(self, x):                                            # (B * n * n, 49, D)
        n, w, D = self.side // self.window, self.window, x.shape[2]
        return x.view(-1, n, n, w, w, D).transpose(2, 3).reshape(-1, self.side, self.side, D)

    def forward(self, x):                                                 # (B, side * side, D)
        B, N, D = x.shape
        y = self.norm1(x).view(B, self.side, self.side, D)
        if self.shift:
            y = torch.roll(y, (-self.shift, -self.shift), (1, 2))
        y = self.from_windows(self.attn(self.to_windows(y), self.attn_mask))
        if self.shift:
            y = torch.roll(y, (self.shift, self.shift), (1, 2))
        x = x + self.drop_path(y.reshape(B, N, D))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class PatchMerging(nn.Module):
    """Halves the map's side and doubles its width: four neighbours -> norm -> linear."""

    def __init__(self, dim, side):
        super().__init__()
        self.side = side
        self.norm = nn.LayerNorm(4 * dim, eps=LN_EPS)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x):                                                 # (B, side * side, D)
        B, _, D = x.shape
        x = x.view(B, self.side // 2, 2, self.side // 2, 2, D)
        x = x.permute(0, 1, 3, 4, 2, 5)          # neighbours in the order (0,0) (1,0) (0,1) (1,1)
        return self.reduction(self.norm(x.reshape(B, -1, 4 * D)))        # (B, side * side / 4, 2 D)


class Swin(nn.Module):
    """Swin-T; a clip's token is the mean of the last 7 x 7 map. Names as in timm 0.6: `layers` are
    the resolutions, and each but the last ends with its `downsample`."""

    def __init__(self, cfg, window=7):
        super().__init__()
        self.patch_embed = TubeletEmbed(cfg.patch_size, cfg.embed_dim, norm=True)
        rates = iter(drop_path_rates(cfg.drop_path, sum(cfg.depth)))
        self.layers = nn.ModuleList()
        for i, depth in enumerate(cfg.depth):
            dim, side = cfg.embed_dim * 2 ** i, cfg.image_size // cfg.patch_size // 2 ** i
            layer = nn.Module()
            layer.blocks = nn.Sequential(*[
                SwinBlock(dim, cfg.num_heads[i], side, window, j % 2 == 1, cfg.mlp_ratio,
                          next(rates))
                for j in range(depth)])
            if i < len(cfg.depth) - 1:
                layer.downsample = PatchMerging(dim, side)
            self.layers.append(layer)
        self.norm = nn.LayerNorm(cfg.width, eps=LN_EPS)

    def forward(self, clips):                                             # (B, 2, 3, H, W)
        x = self.patch_embed(clips)                                       # (B, 56 * 56, 96)
        for layer in self.layers:
            x = layer.blocks(x)
            if hasattr(layer, "downsample"):
                x = layer.downsample(x)                           # a quarter as many, twice as wide
        return self.norm(x).mean(1)                                       # (B, 768)


# ------------------------------------------------------ temporal transformer: tokens -> tokens
class Temporal(nn.Module):
    """Full attention over the tokens of a window; learned positions, no CLS token."""

    def __init__(self, cfg):
        super().__init__()
        self.mask_token = nn.Parameter(torch.zeros(1, 1, cfg.width))      # stays 0 until trained
        self.pos_embed = nn.Parameter(torch.zeros(1, cfg.window_tokens, cfg.width))
        self.blocks = make_blocks(cfg.temporal_depth, cfg.width, cfg.temporal_heads, cfg.mlp_ratio,
                                  cfg.drop_path)
        self.norm = nn.LayerNorm(cfg.width, eps=LN_EPS)

    def forward(self, h):                                            # (B, L, D), L <= window_tokens
        return self.norm(self.blocks(h + self.pos_embed[:, :h.shape[1]]))


# ------------------------------------------------------------------ the whole
def initialize(module):
    """The official ViViT's initialisation: truncated normal of 0.02 for linear weights, positions
    and CLS token, He for the patch embedding, zero for biases and the mask token. Returns the
    module."""
    for name, parameter in module.named_parameters():
        leaf = name.rsplit(".", 1)[-1]
        if leaf == "bias" or leaf == "mask_token":
            nn.init.zeros_(parameter)
        elif parameter.dim() == 5:
            nn.init.kaiming_normal_(parameter, mode="fan_in", nonlinearity="relu")
        elif parameter.dim() > 1:                         # norm weights are 1-d and stay 1
            nn.init.trunc_normal_(parameter, std=0.02)
    return module


def spatial_encoder(cfg):
    """f_s alone, as stage 1 trains it: clips (B, 2, 3, H, W) -> tokens (B, D)."""
    return initialize({"vit": ViT, "swin": Swin}[cfg.spatial](cfg))


class Comedian(nn.Module):
    """The whole network. Stages call `encode`, `contextualize`, `tokens` and `spot`, and name its
    parts `spatial`, `temporal` and `head` to say which of them learn."""

    def __init__(self, cfg):
        super().__init__()
        self.cfg = cfg
        self.spatial = spatial_encoder(cfg)
        self.temporal = initialize(Temporal(cfg))
        self.head = initialize(nn.Linear(cfg.width, len(cfg.classes)))
        nn.init.normal_(self.head.weight, std=0.01)            # smaller than others (official code)

    def encode(self, clips):
        """f_s: clips (B, 2, 3, H, W) -> tokens (B, D). Clips never see each other."""
        return self.spatial(clips)

    def contextualize(self, h):
        """t_s: spatial tokens (B, L, D) -> tokens with the context of their window (B, L, D)."""
        return self.temporal(h)

    def tokens(self, frames, keep=None):
        """t_s(f_s(X)), the tokens in context: frames (B, T, 3, H, W) -> (B, L, D), L = T / 2.

        keep (B, n) int64: the tokens of each window that are *not* masked (see `random_keep`). The
        masked ones are dropped before the spatial encoder and replaced by the mask token after it:
        as the clips do not see each other this equals encoding all and replacing, for less work."""
        B, T, C, H, W = frames.shape
        L = T // CLIP_FRAMES
        n = L if keep is None else keep.shape[1]                          # clips that are encoded
        clips = frames.reshape(B, L, CLIP_FRAMES, C, H, W)
        if keep is not None:
            clips = clips[torch.arange(B, device=keep.device)[:, None], keep]   # (B, n, 2, C, H, W)
        h = self.encode(clips.reshape(B * n, CLIP_FRAMES, C, H, W)).view(B, n, -1)     # (B, n, D)
        if keep is not None:
            masked = self.temporal.mask_token.to(h.dtype).expand(B, L, -1)             # (B, L, D)
            h = masked.scatter(1, keep[:, :, None].expand(-1, -1, h.shape[2]), h)
        return self.contextualize(h)

    def spot(self, tokens):
        """c_s: (B, L, D) -> (B, L, K) logits; a sigmoid makes them scores."""
        return self.head(tokens)

    def forward(self, x, keep=None):
        """Logits (B, L, K) from frames (B, T, 3, H, W), or from spatial tokens (B, L, D), which
        stage 3 may have cached."""
        return self.spot(self.tokens(x, keep) if x.dim() == 5 else self.contextualize(x))

    def copy_spatial_to_temporal(self):
        """Starts the temporal transformer from the first spatial blocks and the spatial norm: so
        does the official code for ViViT when stage 2 begins; the paper does not say. Temporal
        blocks beyond the spatial depth stay random."""
        for block, source in zip(self.temporal.blocks, self.spatial.blocks, strict=False):
            block.load_state_dict(source.state_dict())
        self.temporal.norm.load_state_dict(self.spatial.norm.state_dict())


def random_keep(noise, ratio, device="cpu"):
    """The tokens of each window that are not masked: the mask hits those with the smallest noise.
    noise (B, L) -> (B, L - floor(ratio L)) int64 on `device`, sorted; None if nothing is masked.
    Proved by test_random_keep."""
    n_masked = int(noise.shape[1] * ratio)
    return noise.argsort(1)[:, n_masked:].sort(1).values.to(device) if n_masked else None


class Projector(nn.Sequential):
    """An MLP with GELU between its layers. No later stage uses it. dims: in, hidden, ..., out.
    `last_bias` is False for stage 1's predictor. norm: "none" (official code), or "batch" before
    each GELU."""

    def __init__(self, *dims, last_bias=True, norm="none"):
        layers = []
        for i in range(len(dims) - 1):
            last = i == len(dims) - 2
            layers += [nn.Linear(dims[i], dims[i + 1], bias=last_bias if last else True),
                       *[BatchNorm(dims[i + 1])] * (norm == "batch"), nn.GELU()]
        super().__init__(*layers[:-1 - (norm == "batch")])
        initialize(self)


class BatchNorm(nn.Module):
    """Normalises each of the E numbers over the clips of a pass, of all processes: (n, E) -> (n,
    E). It keeps no running statistics: a head is only used in training, the target's too. Proved by
    test_batch_norm and test_two_processes_equal_one."""

    def __init__(self, dim):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(dim)), nn.Parameter(torch.zeros(dim))

    def forward(self, x):
        mean = mean_of_all(x.float().mean(0))                         # (E,)
        x = x - mean
        variance = mean_of_all(x.float().square().mean(0))            # (E,)
        return x * torch.rsqrt(variance + 1e-5) * self.weight + self.bias


def decay_groups(*modules, weight_decay):
    """AdamW's parameter groups: no decay for biases, norms, positions, CLS and mask tokens."""
    decay, rest = [], []
    for module in modules:
        for name, parameter in module.named_parameters():
            leaf = name.rsplit(".", 1)[-1]
            exempt = parameter.dim() < 2 or leaf in ("pos_embed", "cls_token", "mask_token")
            (rest if exempt else decay).append(parameter)
    return [{"params": decay, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]


# ------------------------------------------------------------------ what a stage starts from
def load_checkpoint(path):
    """The checkpoint of any stage, or public weights as one: a dict with the weights ("model"),
    their Config ("config"), "stage", and what that stage needs to be resumed. DataError for what is
    damaged, unknown or does not fit."""
    return checkpoint.load_checkpoint(path, MODELS, Comedian)
