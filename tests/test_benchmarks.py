"""
What these tests prove about benchmarks/: every line of the table of gpu.py, which people run once
on a machine with a GPU, comes about, here on a CPU at small sizes; and the hours that the README
computes.
"""
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LINES = ["matrix product, .* bfloat16", "bandwidth", "logits in float32 against the CPU",
         "gradient in float32 against the CPU", "stage 2's loss, complete", "stage 2's loss, queue",
         "the recipe on 300 matches", "minutes of frames", "45 minutes of video",
         "stage 1, stopped .* same bits", "two processes, stage 1 +done", "fused AdamW",
         *(f"stage {stage}, vivit_micro, {what}" for stage in (1, 2, 3)
           for what in (r"\d+ clips a pass +\d.*floor", "from JPEGs"))]


def test_the_hours_to_plan_with(monkeypatch):
    """Those of docs/training.md are those that cost.py computes."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    cost = __import__("cost")
    assert cost.planned_hours("vivit_tiny", 300) == pytest.approx(
        2336e15 * 2 / (0.3 * 989.4e12) / 3600, rel=1e-3)           # 2,336: the table there
    text = " ".join((ROOT / "docs/training.md").read_text(encoding="utf-8").split())
    said = re.search(r"300 matches take ([\d.]+) hours on one H100 SXM", text)
    assert float(said[1]) == round(cost.planned_hours("vivit_tiny", 300), 1)


@pytest.mark.slow
def test_the_rehearsal_of_make_gpu():
    ran = subprocess.run([sys.executable, "benchmarks/gpu.py", "--device", "cpu", "--small"],
                         cwd=ROOT, capture_output=True, text=True,
                         env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert ran.returncode == 0, ran.stdout + ran.stderr
    missing = [line for line in LINES if not re.search(line, ran.stdout)]
    assert missing == [], ran.stdout


def test_without_a_gpu_it_says_so():
    ran = subprocess.run([sys.executable, "benchmarks/gpu.py"], cwd=ROOT, capture_output=True,
                         text=True, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""})
    assert ran.returncode == 1 and ran.stderr.startswith("error: torch sees no GPU here")


def test_what_fails_or_comes_too_late_is_a_line(monkeypatch, capsys):
    """And the others follow."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.setattr(sys, "path", [str(ROOT), *sys.path])          # infer.py is the top's
    gpu = __import__("gpu")

    def broken():
        raise RuntimeError("no such\nkernel")

    monkeypatch.setattr(gpu, "sections", lambda s: iter([
        ("first", broken), ("second", lambda: gpu.say("second", "fine"))]))
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--device", "cpu", "--small"])
    with pytest.raises(SystemExit) as ended:
        gpu.main()
    printed = capsys.readouterr().out
    assert ended.value.code == 1 and "1 lines failed" in printed
    assert re.search(r"first +failed +RuntimeError: no such kernel\n +second +fine", printed)
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--device", "cpu", "--small", "--minutes", "0"])
    with pytest.raises(SystemExit):
        gpu.main()
    assert re.search(r"second +not measured +0 minutes are over", capsys.readouterr().out)
