"""
How fast the page of a match answers, at the size of a real one, in headless Chromium.

    python benchmarks/page.py                     # about a minute; it wants ffmpeg
    python benchmarks/page.py --page OLD.html     # the same, of a page that is already there

The match is made up: two halves of 45 minutes with a video, 17 classes, 2,000 spotted actions, 500
labels. A key is timed from its event to the end of the frame that follows, in which all that it
changed is drawn: the largest of 30 presses and the middle one. The cursor: over 4 seconds of play
the times at which the page stood when the browser drew a frame are counted, per second.
It needs chromium (apt install chromium) and playwright (pip install playwright).
"""
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from comedian import command, export, labels, page, soccernet  # noqa: E402

HALF_S, PER_HALF, LABELS = 2700, 1000, 250
KEYS = {"j": "next action", "a": "accept", "r": "reject", "]": "shift", "n": "next error"}
PRESS = """async ([key, times]) => {
    const taken = []
    for (let i = 0; i < times; i++) {
        if (key === "a" || key === "r" || key === "]") choose(rows[(7 * i) % rows.length])
        await new Promise(done => requestAnimationFrame(() => setTimeout(done, 60)))
        const start = performance.now()
        document.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }))
        await new Promise(done => requestAnimationFrame(() => {
            const drawn = new MessageChannel(); drawn.port1.onmessage = done
            drawn.port2.postMessage(0) }))             // after the frame is drawn
        taken.push(performance.now() - start)
    }
    return taken }"""
PLAY = """async seconds => {
    await video.play()
    const end = performance.now() + 1000 * seconds
    let before = position, moves = 0
    while (performance.now() < end) {
        await new Promise(requestAnimationFrame)
        moves += position !== before; before = position
    }
    video.pause()
    return moves / seconds }"""


def write_match(folder):
    """page.html of a made-up match in `folder`, with its video."""
    rng = np.random.default_rng(0)
    subprocess.run(["ffmpeg", "-v", "error", "-f", "lavfi", "-i", "testsrc=size=398x224:rate=25",
                    "-t", "60", "-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p",
                    folder / "minute.mp4"], check=True)
    subprocess.run(["ffmpeg", "-v", "error", "-stream_loop", "44", "-i", folder / "minute.mp4",
                    "-c", "copy", folder / "half.mp4"], check=True)
    curves, actions, rows, pictures = {}, [], [], {}
    picture = page.small_picture(rng.integers(60, 120, (224, 398, 3), np.uint8))
    for half in (1, 2):
        scores = rng.random((HALF_S, 17)) ** 6
        at_s, label = rng.permutation(HALF_S)[:PER_HALF], rng.integers(0, 17, PER_HALF)
        scores[at_s, label] = rng.uniform(0.3, 1, PER_HALF)
        curves[half] = scores, 1.0, 0.0
        actions += [export.Action(half, 1000 * int(s) + 250, soccernet.SOCCERNET_CLASSES[k],
                                  round(float(scores[s, k]), 4))
                    for s, k in zip(at_s, label, strict=True)]
        rows += [labels.Row(half, soccernet.SOCCERNET_CLASSES[k], 1000 * int(s), True)
                 for s, k in zip(at_s[:LABELS], label, strict=False)]
        pictures[half] = {float(s): picture for s in range(HALF_S)}
    page.write_page(folder / "page.html", "cup/A - B", curves, soccernet.SOCCERNET_CLASSES, actions,
                    {"videos": {"1": "half.mp4", "2": "half.mp4"}}, labels.Listed("", rows),
                    pictures)
    return folder / "page.html"


def main():
    parser = command.Parser(__doc__)
    parser.add_argument("--page", type=Path, help="a page.html to time instead")
    args = parser.parse_args()
    from playwright.sync_api import sync_playwright
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        path = args.page or write_match(Path(folder))
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium") or shutil.which("google-chrome"),
            args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 1280, "height": 1000})
        start = time.perf_counter()
        tab.goto(path.resolve().as_uri())
        tab.wait_for_function("video.readyState >= 2 && rows.length > 0")
        print(f"{browser.browser_type.name} {browser.version}, {platform.machine()}, "
              f"{path.stat().st_size / 1e6:.1f} MB, {tab.evaluate('rows.length')} rows in the list")
        print(f"load            {1000 * (time.perf_counter() - start):6.0f} ms")
        for key, what in KEYS.items():
            taken = tab.evaluate(PRESS, [key, 30])
            print(f"{key}  {what:12} {statistics.median(taken):6.0f} ms, "
                  f"at most {max(taken):.0f}")
        print(f"cursor          {tab.evaluate(PLAY, 4):6.1f} a second")
        browser.close()


if __name__ == "__main__":
    main()
