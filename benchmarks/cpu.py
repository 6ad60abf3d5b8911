"""
What makes inference on a CPU faster, each change beside what it replaced.

    python benchmarks/cpu.py                          # some minutes; its output is cpu.txt
    pip install openvino                              # for that peer, of the network alone

Frames of SoccerNet's 398x224. "before" resizes with both matrix products and encodes 64 clips at a
time; the next lines take one change each, and the last has all that this machine's processor is
given by default. bfloat16 pays where the processor multiplies matrices in it: run.bf16_pays_on_cpu
is the rule. Elsewhere PyTorch emulates it, and the line shows why the rule says no.

One thread, milliseconds of CPU a clip; all take turns, so that a slow minute hits all of them.
Every line but those in bfloat16 is checked to give the tokens of "before".
"""
import functools
import statistics
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import infer  # noqa: E402
from benchmarks.throughput import machine  # noqa: E402
from comedian import augment, command, run  # noqa: E402
from model import MODELS, Comedian  # noqa: E402

try:
    import openvino
except ImportError:
    openvino = None

HEIGHT, WIDTH, BEFORE = 224, 398, 64
CPU = torch.device("cpu")


def turns(functions, n):
    """{name: [CPU seconds, of all threads], a value each turn}; the first turn warms up."""
    seconds = {name: [] for name in functions}
    for _ in range(n + 1):
        for name, function in functions.items():
            began = time.process_time()
            function()
            seconds[name].append(time.process_time() - began)
    return {name: all_[1:] for name, all_ in seconds.items()}


def both_products(x, size):
    """augment.resize as it was: the rows are multiplied even where they stay."""
    if x.shape[3] == x.shape[4] == size:
        return x / 255
    zero = torch.zeros(len(x))
    rows, columns = (augment.resize_matrix(zero, zero + n, n, size) for n in x.shape[3:])
    return augment.separable(x, rows, columns).round_().clamp_(0, 255).div_(255)


def encode(network, frames, batch, bf16, resize):
    kept, augment.resize = augment.resize, resize
    try:
        autocast = torch.autocast("cpu", torch.bfloat16, enabled=bf16)
        return torch.cat([infer.encode_clips(network, part, CPU, autocast)
                          for part in frames.split(batch)])
    finally:
        augment.resize = kept


@torch.no_grad()
def all_tokens(network, x):
    """The last block computes every token, not the CLS token's alone."""
    network.spatial(x, all_tokens=True)


class Spatial(torch.nn.Module):
    """Comedian.encode as a module of its own, which is what OpenVINO converts."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network.encode(x)


@torch.no_grad()
def in_openvino(network, x, precision):
    """The network alone in OpenVINO, with one thread; precision: f32 or bf16."""
    model = openvino.convert_model(Spatial(network), example_input=x, input=[list(x.shape)])
    request = openvino.Core().compile_model(model, "CPU", {
        "INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": precision}).create_infer_request()
    off = np.abs(request.infer([x.numpy()])[0] - network.encode(x).numpy()).max()
    assert off < (1e-4 if precision == "f32" else 0.1), off
    return lambda: request.infer([x.numpy()])


def row(name, seconds, n, base):
    ms = [1000 * s / n for s in seconds]
    print(f"  {name:44}{statistics.median(ms):9.2f}{min(ms):9.2f}{max(ms):9.2f}"
          f"{base / statistics.median(ms):9.2f}", flush=True)


def table(name, args):
    torch.manual_seed(0)
    network = Comedian(MODELS[name]).eval()
    n = args.clips
    frames = torch.randint(0, 256, (n, 2, HEIGHT, WIDTH, 3), dtype=torch.uint8)
    few, rule = infer.clips_at_a_time(CPU), run.bf16_pays(CPU, network.cfg.width)
    ways = {"before: both products, 64 at a time": (BEFORE, False, both_products),
            "one product": (BEFORE, False, augment.resize),
            f"one product, {few} at a time": (few, False, augment.resize),
            f"... {few} clips in bfloat16": (few, True, augment.resize),
            f"by default here: bf16 {'on' if rule else 'off'}": (few, rule, augment.resize)}
    # Emulated bfloat16 is slow: one batch of it.
    clips = {what: few if "clips in" in what else n for what in ways}
    bf16 = {what for what, (_, on, _) in ways.items() if on}
    ways = {what: functools.partial(encode, network, frames[:clips[what]], *how)
            for what, how in ways.items()}
    tokens = {what: way() for what, way in ways.items()}
    expected = next(iter(tokens.values()))
    off = {what: float((got - expected[:len(got)]).abs().max() / expected.abs().max())
           for what, got in tokens.items()}
    assert all(far < (0.05 if what in bf16 else 1e-4) for what, far in off.items()), off
    x = torch.rand(min(n, few), 2, 3, network.cfg.image_size, network.cfg.image_size)
    spatial = torch.no_grad()(network.encode)
    alone = {"network alone": lambda: spatial(x)}
    if network.cfg.spatial == "vit":
        alone["... its last block for all tokens"] = lambda: all_tokens(network, x)
    if openvino:
        alone["... in OpenVINO, float32"] = in_openvino(network, x, "f32")
    if rule:
        alone["... in bfloat16"] = torch.autocast("cpu", torch.bfloat16)(lambda: spatial(x))
    if rule and openvino:
        alone["... in OpenVINO, bfloat16"] = in_openvino(network, x, "bf16")
    seconds = turns(ways | alone, args.turns)
    base = statistics.median(seconds[[*ways][0]]) * 1000 / n
    print(f"{name}, ms a clip{'':31}median      min      max   faster")
    for what in ways:
        row(what, seconds[what], clips[what], base)
    for what in alone:
        row(what, seconds[what], len(x),
            1000 * statistics.median(seconds["network alone"]) / len(x))
    far = max(off[what] for what in bf16)
    print(f"  bfloat16 moves a token by {100 * far:.2f} % of the largest at most\n")


def jpeg(args):
    rng = np.random.default_rng(0)
    image = cv2.resize(rng.integers(0, 256, (28, 50, 3), np.uint8), (WIDTH, HEIGHT))
    _, content = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 95])
    ways = {"decoded to BGR, then turned": lambda: cv2.cvtColor(
                cv2.imdecode(content, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB),
            "straight to RGB": lambda: cv2.imdecode(content, cv2.IMREAD_COLOR_RGB)}
    first, second = (way() for way in ways.values())
    assert np.array_equal(first, second)
    seconds = turns({name: lambda way=way: [way() for _ in range(50)]
                     for name, way in ways.items()}, args.turns)
    print(f"a JPEG of 398x224, ms{'':25}median      min      max   faster")
    for what in ways:
        row(what, seconds[what], 50, 20 * statistics.median(seconds[[*ways][0]]))


def main():
    p = command.Parser(__doc__)
    p.add_argument("--models", nargs="+", choices=MODELS,
                   default=["vivit_micro", "vivit_tiny", "vivit_small", "viswin_tiny"])
    p.add_argument("--clips", type=int, default=BEFORE)
    p.add_argument("--turns", type=int, default=5)
    args = p.parse_args()
    run.keep_freed_memory()                                           # as infer.py does
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    print(machine(CPU))
    flags = sorted(run.cpu_flags() & {"avx2", "avx512f", "avx512_bf16", "amx_bf16"})
    print(f"of the instructions that matter here it has: {', '.join(flags)}\n")
    for name in args.models:
        table(name, args)
    jpeg(args)


if __name__ == "__main__":
    main()
