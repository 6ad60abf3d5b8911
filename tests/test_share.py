"""
What these tests prove about what is given away (comedian/share.py, receipt.py, backbone.py):
  1. a checkpoint of any stage survives the way through a folder of safetensors and JSON, bit for
     bit; so it does through huggingface_hub; what is not whole there is one line
  2. numbers say what they were made of, and `report verify` whether they still are
  3. any network makes a teacher: a row per second at the right time, resumed, with its own pixels
  4. make reproduce, on made matches in SoccerNet's layout and made-up released weights
  5. torch.export takes every network with a free batch; slow: docs/deploy.md runs as it stands, and
     onnxruntime gives the scores of torch through merging and NMS
"""
import importlib
import json
import subprocess
import sys
from dataclasses import asdict

import numpy as np
import pytest
import torch
from conftest import ROOT, write_half
from test_docs import FENCE, page, shell
from test_weights import official_file

import infer
import model
from comedian import DataError, backbone, evaluate, prepare, public_weights, report, share
from comedian.checkpoint import save_checkpoint
from comedian.frames import Half, find_halves, read_frame
from comedian.soccernet import SOCCERNET_CLASSES

EVERY_COMMAND = [*(path.name for path in sorted(ROOT.glob("[!s]*.py")) if path.stem == "infer"),
                 *(path.name for path in sorted(ROOT.glob("stage*.py"))), "-m comedian.prepare",
                 "-m comedian.evaluate", "-m comedian.report", "-m comedian.share",
                 "-m comedian.check", "benchmarks/reproduce.py", "docs/exercise.py"]


def save(path, stage=3, **changes):
    """A checkpoint of this stage; returns its network."""
    torch.manual_seed(stage)
    network = model.Comedian(model.with_changes(
        "vivit_micro", image_size=24, window_tokens=8, classes=("Goal", "Foul", "Corner"),
        **changes))
    parts = ("spatial.", "temporal.", "head.")[:stage]
    save_checkpoint(path, stage=stage, step=9, config=asdict(network.cfg), args={"data": "d"},
                    model={name: value for name, value in network.state_dict().items()
                           if name.startswith(parts)})
    return network


def run(module, *words):
    args = module.parse_args([str(word) for word in words])
    return args.run(args) if hasattr(args, "run") else module.main(args)


@pytest.mark.parametrize("name", EVERY_COMMAND)
def test_every_command_says_its_version(name):
    done = subprocess.run([sys.executable, *name.split(), "--version"], cwd=ROOT, text=True,
                          capture_output=True)
    assert (done.returncode, done.stdout) == (0, "comedian 0.1.0\n"), done.stderr


def test_every_script_of_benchmarks_and_docs_has_that_parser():
    scripts = {path.name: path.read_text() for folder in ("benchmarks", "docs")
               for path in ROOT.glob(f"{folder}/**/*.py") if "Parser(" in path.read_text()
               or "__main__" in path.read_text()}
    assert len(scripts) > 16 and scripts.pop("engine.py")       # runs in another Python
    for name, text in scripts.items():
        assert "Parser(__doc__)" in text and "ArgumentParser(" not in text, name


# ------------------------------------------------------------------ 1. weights
@pytest.mark.parametrize("stage", [1, 2, 3])
@pytest.mark.parametrize("given", ["", "model.safetensors"])
def test_weights_come_back(stage, given, tmp_path, capsys):
    save(tmp_path / "last.pt", stage)
    (tmp_path / "run.json").write_text(json.dumps([{}, {"command": "python x", "data": {"a": 1}}]))
    run(share, "weights", tmp_path / "last.pt", tmp_path / "out")
    assert "--init take this folder" in capsys.readouterr().out
    before, after = (model.load_checkpoint(path)
                     for path in (tmp_path / "last.pt", tmp_path / "out" / given))
    assert after["config"] == before["config"] and after["stage"] == stage
    assert after["model"].keys() == before["model"].keys()
    assert all(torch.equal(value, before["model"][name]) for name, value in after["model"].items())
    told = json.loads((tmp_path / "out/config.json").read_text())
    assert (told["command"], told["trained_on"]) == ("python x", {"a": 1})
    assert told["flags"] == {"data": "d"} and told["step"] == 9
    bare = torch.load(tmp_path / "last.pt", weights_only=True)
    torch.save({name: bare[name] for name in ("model", "config", "stage")}, tmp_path / "bare.pt")
    (tmp_path / "run.json").write_text("[7]")                               # not of a stage
    run(share, "weights", tmp_path / "bare.pt", tmp_path / "bare")          # as docs/example has it
    for source, message in (("last.pt", "out/model.safetensors: exists already"),
                            ("out", "out: not a checkpoint of this project's stages")):
        with pytest.raises(DataError, match=message):
            run(share, "weights", tmp_path / source, tmp_path / "out")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int64])
def test_safetensors_are_those_of_the_package(dtype, tmp_path):
    weights = {"a.b": torch.arange(6).view(2, 3).T.to(dtype), "one": torch.tensor(3).to(dtype),
               "none": torch.zeros(0, 2, dtype=dtype)}
    public_weights.write_safetensors(tmp_path / "x.safetensors", weights)
    package = pytest.importorskip("safetensors.torch", reason="needs safetensors")
    for read in (package.load_file, public_weights.read_safetensors):
        found = read(tmp_path / "x.safetensors")
        assert found.keys() == weights.keys()
        assert all(torch.equal(found[name], value) for name, value in weights.items())


def mend(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def named(name):
    """A safetensors file with one tensor of this name, of an unknown type."""
    header = json.dumps({name: {"dtype": "F3"}}).encode()
    return len(header).to_bytes(8, "little") + header


ENDLESS = bytes([120] + [0] * 7) + (b'{"a": {"dtype": "F32", "shape": [0, %d, %d], "data_offsets": '
                                   b'[0, 0]}}' % (2 ** 61, 2 ** 61)).ljust(120)
WRONG = {"no config": (lambda f: (f / "config.json").unlink(), "without their config.json; put it"),
         "no JSON": (lambda f: (f / "config.json").write_text("{"), "config.json: not a config"),
         "a config that is a list": (lambda f: (f / "config.json").write_text("[]"),
                                     "config.json: not the config of model.safetensors"),
         "a name without end": (lambda f: (f / "model.safetensors").write_bytes(
             named("n" * 10 ** 5)), r"not a checkpoint, or damaged \(n{59}\.\.\. is of"),
         "a name of many words": (lambda f: (f / "model.safetensors").write_bytes(
             named("a " * 10 ** 5)), r"a +\.\.\. .*unknown type.*copy or make it again"),
         "no weights": (lambda f: (f / "model.safetensors").unlink(), "safetensors: no such check"),
         "none of endless": (lambda f: (f / "model.safetensors").write_bytes(ENDLESS), "not take"),
         "another stage": (lambda f: mend(f, stage=7), "its stage is 7, not 1, 2 or 3"),
         "another width": (lambda f: mend(f, cfg={"model": "vivit_tiny"}), "they do not fit"),
         "no model": (lambda f: mend(f, cfg={"model": "x"}), "names no model of this version")}


@pytest.mark.parametrize("case", WRONG)
def test_a_folder_that_is_not_whole_is_one_line(case, tmp_path):
    save(tmp_path / "last.pt")
    run(share, "weights", tmp_path / "last.pt", tmp_path / "out")
    change, message = WRONG[case]
    change(tmp_path / "out")
    with pytest.raises(DataError, match=message) as error:
        model.load_checkpoint(tmp_path / "out")
    assert str(tmp_path / "out") in str(error.value) and "\n" not in str(error.value)
    assert len(str(error.value)) < 2000 + len(str(tmp_path))


@pytest.mark.parametrize("content, message", [
    ({"head.weight": torch.zeros(2)}, "not a checkpoint of this project's stages"),
    ({"model": {"a": torch.zeros(2, dtype=torch.int16)}, "config": {}}, "is torch.int16"),
    ({"model": {"a": torch.tensor(np.nan)}, "config": {}}, "not finite"),
    ({"model": {"a": torch.zeros(1)}, "config": {"x": torch.zeros(1)}}, "no plain values")])
def test_what_cannot_be_given_away(content, message, tmp_path):
    torch.save(content | ({"stage": 3, "step": 1} if "model" in content else {}), tmp_path / "x.pt")
    with pytest.raises(DataError, match=message):
        run(share, "weights", tmp_path / "x.pt", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_to_the_hub_and_back(tmp_path, capsys):
    """docs/extend.md's class reads our folder, and what it saves is read here."""
    pytest.importorskip("huggingface_hub", reason="needs huggingface_hub")
    network, names = save(tmp_path / "last.pt"), {}
    run(share, "weights", tmp_path / "last.pt", tmp_path / "out")
    code, = (body for _, title, body in FENCE.findall(page("docs/extend.md"))
             if title == "/tmp/few/hub.py")
    exec(code, names)
    hub = names["HubComedian"].from_pretrained(tmp_path / "out")
    hub.save_pretrained(tmp_path / "again")
    ours, stage = infer.load_network(tmp_path / "again", "cpu")
    assert stage == 3 and "names no stage" in capsys.readouterr().out
    for other in (hub, ours):
        assert other.cfg == network.cfg
        for name, value in other.state_dict().items():
            assert torch.equal(value, network.state_dict()[name]), name


# ------------------------------------------------------------------ 2. receipts
@pytest.fixture(scope="module")
def spotted(matches, tmp_path_factory):
    """metrics.json of a run of infer.py, and its folder."""
    folder = tmp_path_factory.mktemp("spotted")
    save(folder / "net.pt")
    run(infer, "--data", matches, "--checkpoint", folder / "net.pt", "--device", "cpu",
        "--out", folder / "out", "--json", folder / "all.json")
    return folder


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


CHANGES = {
    "nothing": (lambda f: None, "no file has changed", None),
    "a note": (lambda f: edit(f / "out/league/one/results_spotting.json", '"program"', '"Program"'),
               "changed since: predictions of league/one", None),
    "an action": (lambda f: edit(f / "out/league/one/results_spotting.json", '"half": "1"',
                                 '"half": "2"'), None, "the numbers differ .tight"),
    "the network": (lambda f: save(f / "net.pt", 3, drop_path=0.3),
                    "changed since: the checkpoint", None),
    "no network": (lambda f: (f / "net.pt").unlink(), "net.pt: not here, so not compared", None),
    "a number": (lambda f: edit(f / "all.json", '"a_mAP": 0.', '"a_mAP": 0.9'), None,
                 "the numbers differ .tight"),
    "no receipt": (lambda f: edit(f / "all.json", '"receipt"', '"Receipt"'), None,
                   "has no receipt of what it was made of; score again"),
    "no predictions": (lambda f: (f / "out").rename(f / "away"), None,
                       "its predictions .*no such folder.*give --predictions"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_verify(case, spotted, tmp_path, capsys):
    change, told, refused = CHANGES[case]
    for name in ("out/league/one/results_spotting.json", "out/league/two/results_spotting.json",
                 "net.pt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes((spotted / name).read_bytes())
    (tmp_path / "all.json").write_text((spotted / "all.json").read_text().replace(
        str(spotted), str(tmp_path)))
    change(tmp_path)
    if refused:
        with pytest.raises(DataError, match=refused):
            run(report, "verify", tmp_path / "all.json")
        return
    run(report, "verify", tmp_path / "all.json")
    said = capsys.readouterr().out
    assert told in said and "the same numbers, all of them; 2 matches" in said


def test_the_receipt_does_not_depend_on_where_labels_stand(spotted, matches, tmp_path):
    """A table, a zip and folders of labels: each is hashed and found again."""
    run(report, "export", spotted / "out", "--format", "csv", "--threshold", "0.5", "--out",
        tmp_path / "csv")
    table = tmp_path / "labels.csv"
    table.write_text("video,half,time,label\n" + "".join(
        line.rsplit(",", 1)[0] + "\n" for path in sorted((tmp_path / "csv").rglob("*.csv"))
        for line in path.read_text().splitlines()[1:]) or "league/one,1,0:01,Goal\n")
    run(evaluate, "--predictions", spotted / "out", "--labels", table, "--only-predicted", "--json",
        tmp_path / "m.json")
    run(report, "verify", tmp_path / "m.json")
    edit(table, ",1,00:", ",1,01:")
    with pytest.raises(DataError, match="the numbers differ"):
        run(report, "verify", tmp_path / "m.json")


# ------------------------------------------------------------------ 3. any network as the teacher
BACKBONE = """
import torch
class Mean(torch.nn.Module):                 # what it sees, so that the test can say what it should
    def __init__(self): super().__init__(); self.w = torch.nn.Parameter(torch.ones({w}))
    def forward(self, x): return {out}
def make(): return Mean(), 16, (0.5, 0.25, 0), (0.5, 1, 2)
def none(): return Mean()
def text(): return "Mean", 16, (0, 0, 0), (1, 1, 1)
def absent_package(): import absent
def mute():
    network = Mean()
    network.state_dict = lambda: {{"w": None}}
    return network, 16, (0, 0, 0), (1, 1, 1)
def leave(): raise SystemExit(3)
def large(): return Mean(), 10 ** 7, (0, 0, 0), (1, 1, 1)
"""


def write_backbone(path, out="x.flatten(1)", w=1):
    path.write_text(BACKBONE.format(out=out, w=w))
    return f"{path}:make"


@pytest.mark.parametrize("fps, n_frames, expected", [
    (2.0, 7, [[0, 1], [2, 3], [4, 5]]), (1.0, 4, [[0], [1], [2], [3]]),
    (0.5, 4, [[0], [0], [1], [1], [2], [2], [3], [3]]), (2.5, 10, [[0, 1, 2], [3, 4], [5, 6, 7],
                                                                  [8, 9]])])
def test_a_row_is_the_mean_of_its_seconds_frames(fps, n_frames, expected):
    rows = np.random.default_rng(0).standard_normal((n_frames, 3))
    half = Half("m", 1, "f", "", 8, ".jpg", 1, n_frames, fps)
    found = backbone.mean_per_second(rows, half)
    np.testing.assert_allclose(found, [rows[frames].mean(0) for frames in expected])


def test_a_teacher_of_any_network(matches, tmp_path, capsys):
    """Its rows, by hand; whole halves stay; other weights, or another network, are refused."""
    name = write_backbone(tmp_path / "net.py")
    command = ["features", "--data", matches / "league/two", "--backbone", name, "--out",
               tmp_path / "out", "--batch", 7]
    run(prepare, *command)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.5, 0.25, 0), (0.5, 1, 2)))
    for half in find_halves(matches / "league/two"):
        rows = np.load(tmp_path / "out" / half.match / f"{half.number}_make.npy")
        frames = [torch.from_numpy(read_frame(half.path(i))) for i in range(half.n_frames)]
        frames = torch.stack(frames).permute(0, 3, 1, 2)[:, None].float()
        x = (infer.augment.resize(frames, 16)[:, 0] - mean) / std
        n = half.n_frames // 2
        assert rows.shape == (n, 3 * 16 * 16) and rows.dtype == np.float32
        np.testing.assert_allclose(rows, x[:2 * n].unflatten(0, (n, 2)).mean(1).flatten(1),
                                   atol=1e-5)
    (tmp_path / "out" / "." / "1_make.npy").unlink()
    run(prepare, *command)
    assert "1 of 2 halves exist already" in capsys.readouterr().out
    write_backbone(tmp_path / "net.py", w=2)
    with pytest.raises(DataError, match="another network or other flags made"):
        run(prepare, *command)


@pytest.mark.parametrize("function, out, message", [
    ("make", "x", r"makes \(1, 3, 16, 16\) of 1 images, not \(images, width\)"),
    ("make", "[x]", "makes list of 1 images"),
    ("make", "x.mean((2, 3)).squeeze()", r"makes \(3,\) of 1 images"),
    ("make", "x.flatten(1)[:, :len(x)]", r"makes \(\d+, \d+\) of \d+ images, not \(images, 1\)"),
    *(("make", broken, rf"fails on images \(1, 3, 16, 16\) \({kind}") for broken, kind in (
        ("x.absent", "AttributeError"), ("{}[1]", "KeyError"), ("1 // 0", "ZeroDivisionError"),
        ("__import__('absent')", "ModuleNotFoundError No module named 'absent'"))),
    *(("make", f"x.flatten(1){out}", "none, complex or not finite")
      for out in ("[:, :0]", " * torch.nan", " * 1j")),
    ("make", "x.view(7)", r"fails on images \(1, 3, 16, 16\)"),
    ("none", "x", "needs a function that returns"), ("leave", "x", "SystemExit 3"),
    ("absent_package", "x", "net.py:absent_package: .*ModuleNotFoundError No module named"),
    ("mute", "x", "its weights cannot be read"),
    ("large", "x", "needs a torch module, a size"),
    ("text", "x", "needs a torch module, a size"), ("absent", "x", "needs a function that returns"),
    ("timm:no_such_network", "x", "cannot be made .*pip install timm"),
    ("net.txt:make", "x", "neither timm:NAME nor a file.py:function")])
def test_what_is_no_teacher(function, out, message, matches, tmp_path):
    name = write_backbone(tmp_path / "net.py", out).replace("make", function)
    name = function if ":" in function else name
    with pytest.raises(DataError, match=f"--backbone .*{message}") as error:
        run(prepare, "features", "--data", matches, "--backbone", name, "--out", tmp_path / "out")
    assert "\n" not in str(error.value)


def test_a_teacher_of_timm(matches, tmp_path, capsys):
    """Random weights, from a file as where there is no internet; the network's own size."""
    timm = pytest.importorskip("timm", reason="needs timm and torchvision", exc_type=Exception)
    torch.manual_seed(0)
    network = timm.create_model("vit_tiny_patch16_224", num_classes=0).eval()
    torch.save(network.state_dict(), tmp_path / "w.pth")
    run(prepare, "features", "--data", matches / "league/two", "--out", tmp_path / "out", "--name",
        "t", "--backbone", "timm:vit_tiny_patch16_224", "--weights", tmp_path / "w.pth")
    assert "224x224 pixels, 192 wide" in capsys.readouterr().out
    rows = np.load(tmp_path / "out" / "1_t.npy")
    half = find_halves(matches / "league/two")[0]
    frames = torch.stack([torch.from_numpy(read_frame(half.path(i))) for i in (2, 3)])
    x = infer.augment.resize(frames.permute(0, 3, 1, 2)[:, None].float(), 224)[:, 0]
    with torch.no_grad():
        np.testing.assert_allclose(rows[1], network((x - 0.5) / 0.5).mean(0), atol=1e-4)


# ------------------------------------------------------------------ 4. make reproduce
@pytest.fixture(scope="module")
def soccernet(tmp_path_factory):
    """Two games of the test split, two halves each, and released weights: all made up."""
    root, rng = tmp_path_factory.mktemp("soccernet"), np.random.default_rng(0)
    games = (ROOT / "comedian/splits/test.txt").read_text().splitlines()[:2]
    (root / "two.txt").write_text("\n".join(games))
    for game in games:
        for half in (1, 2):
            write_half(root / "frames" / game / f"{half}_224p", 24, rng)
        (root / "labels" / game).mkdir(parents=True)
        (root / "labels" / game / "Labels-v2.json").write_text(json.dumps({"annotations": [
            {"gameTime": f"{half} - 00:{second:02d}", "label": SOCCERNET_CLASSES[second % 5],
             "position": str(1000 * second), "visibility": "visible"}
            for half in (1, 2) for second in (2, 5, 9)] + [
            {"gameTime": "2 - 00:40", "label": "Goal", "position": "40000"}]}))
    torch.save(official_file("vivit"), root / "vivit.pth")
    return root


@pytest.fixture
def reproduce(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    module = importlib.import_module("reproduce")
    monkeypatch.setattr(module, "RESAMPLES", 5)
    return module


def test_reproduce(soccernet, tmp_path, capsys, reproduce):
    """What the Makefile calls: what is off is said, the text is short, and holds no path of the
    machine."""
    printed = subprocess.run(
        ["make", "-n", "reproduce", "GPU_PY=python", f"DATA={soccernet}/frames",
         f"LABELS={soccernet}/labels", f"WEIGHTS={soccernet}/vivit.pth"], cwd=ROOT, text=True,
        capture_output=True, check=True).stdout
    command, = (line.replace('"', "").split()[2:] for line in printed.splitlines()
                if "reproduce.py" in line)
    run(reproduce, *command, "--split", soccernet / "two.txt", "--out", tmp_path / "out",
        "--device", "cpu")
    said, text = capsys.readouterr().out, (tmp_path / "out/report.txt").read_text()
    metrics = json.loads((tmp_path / "out/metrics.json").read_text())
    for part in ("data: 2 of 2 games, 4 halves, 0.01 h, 14 labels; 1 lengths",
                 "weights: ViViT-T, 8,357,201 numbers, SHA-256 ",
                 f"t-AmAP {100 * metrics['tight']['a_mAP']:.2f} % (95 % over matches: ",
                 "the paper: ViViT-T 70.7", "by class: Penalty ",
                 "half 1: frames of (64, 48), not (398, 224)",
                 "Manchester United 1 - 1 Arsenal, half 1: 12 s long, known are 2700 s"):
        assert part in text and part in said, part
    assert len(text.encode()) <= 2000 and str(soccernet) not in text and str(tmp_path) not in text
    assert "half 2: labels up to 40 s, frames to 12 s" in said
    split = {game.split("/")[-1] for game in reproduce.frames.read_games("test")}
    assert len(reproduce.KNOWN_S) > 12 and {game for game, _ in reproduce.KNOWN_S} <= split
    found = {f"m{i}": [reproduce.soccernet.Event(1, i % 2, 5000, True)] for i in range(8)}
    ends = reproduce.evaluate.interval(reproduce.evaluate.resample(
        found, {match: reproduce.soccernet.Detections(*(
            np.array([value]) for value in (1, 0, 5250.0, 0.9))) for match in found},
        ("a", "b"), 200), len(found))
    low, high = (100 * end["tight"]["a_mAP"] for end in ends)
    assert 0 <= low < high <= 50                           # class b is never found


def test_a_reproduction_with_other_weights_says_so(soccernet, tmp_path, reproduce):
    save(tmp_path / "own.pt")
    args = reproduce.parse_args([
        "--data", f"{soccernet}/frames", "--labels", f"{soccernet}/labels",
        "--weights", str(tmp_path / "own.pt"), "--split", f"{soccernet}/two.txt"])
    lines, off, n = reproduce.inspect(args)
    assert "weights: none of the released" in lines[1] and n not in reproduce.RELEASED
    assert any("numbers, not 8357201 or 70115723" in line for line in off)
    done = subprocess.run(["make", "reproduce"], cwd=ROOT, text=True, capture_output=True)
    assert done.returncode and "error: make reproduce DATA=frames WEIGHTS=" in done.stderr


# ------------------------------------------------------------------ 5. deployment
@pytest.mark.parametrize("name", ["vivit_micro", pytest.param("vivit_tiny", marks=pytest.mark.slow),
                                  pytest.param("viswin_tiny", marks=pytest.mark.slow)])
def test_export_with_a_free_batch(name):
    """In torch.export's default mode; the exported program computes the same for another batch."""
    network = model.Comedian(model.with_changes(name, window_tokens=8)).eval()
    size, width = network.cfg.image_size, network.cfg.width
    for part, x in (("spatial", torch.rand(3, 2, 3, size, size)),
                    ("temporal", torch.rand(3, 8, width)), ("head", torch.rand(3, 8, width))):
        module = getattr(network, part)
        program = torch.export.export(module, (x,),
                                      dynamic_shapes=({0: torch.export.Dim("batch")},))
        more = torch.cat([x, x.flip(0)])[:5]
        with torch.no_grad():
            torch.testing.assert_close(program.module()(more), module(more), rtol=0, atol=1e-5)


@pytest.mark.slow
def test_deploy_works_as_it_stands(tmp_path):
    """Every block of the page in its order; the program without torch spots what infer.py spots, of
    a video, and at two batch sizes equals torch to 1e-4 on halves of the network's own size."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason=f"needs {package}", exc_type=Exception)
    net, printed = tmp_path / "net", ""
    for language, title, body in FENCE.findall(page("docs/deploy.md").replace(
            "/tmp/net", str(net))):
        if language == "python":
            net.mkdir(exist_ok=True)
            (net / title.split("/")[-1]).write_text(body)
        elif language == "bash":
            printed += shell(body, ROOT)
    # -- the program, and infer.py
    shell(f"python infer.py --video docs/example/match.mp4 --checkpoint {net}/weights "
          f"--out {net}/example", ROOT)
    path, = (net / "example").rglob("results_spotting.json")
    ours = {(f"{int(row['position']) / 1000:.2f}", row["label"]): row["confidence"]
            for row in json.loads(path.read_text())["predictions"] if row["confidence"] > 0.01}
    theirs = {tuple(line.split(",")[:2]): float(line.split(",")[2])
              for line in (net / "actions.csv").read_text().splitlines()}
    assert len(ours) > 10 and ours.keys() <= theirs.keys()
    assert all(abs(theirs[key] - value) < 2e-3 for key, value in ours.items())
    # -- frames of the network's own size: its three forms
    rows = [line.split(" | ") for line in printed.splitlines() if line.count(" | ") == 3]
    assert len(rows) == 4 and rows[0][1:3] == rows[1][1:3] == ["0.0e+00", "0.0e+00"]
    assert all(float(number) < 1e-4 for row in rows for number in row[1:3])
    assert len({row[3] for row in rows}) == 1 and float(rows[0][3]) > 10
