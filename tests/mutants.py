"""
Breaks the code on purpose, one line at a time, and asks whether a test notices.

    make mutants
    python tests/mutants.py --only stage3       # those whose file, change or test holds this text

A mutant is a row of MUTANTS: a file, a text that stands in it exactly once, what stands there
instead, and the test that must go red. First all the named tests must pass as they are. Then each
mutant is written into a copy of the tracked files, and only its test runs.

    killed      the test failed
    SURVIVED    it passed: nobody would notice this mistake
    INVALID     the text is not there exactly once, the test took too long, or pytest could not even
                collect or run it, which proves nothing

Exit code 0 if all are killed. Each test runs in a process forked from this one, which has imported
torch, so that its start costs no seconds; two run at a time, one thread each.
"""
import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
sys.dont_write_bytecode = True        # a .pyc of the same second and size would hide a mutant

# What takes long to import: here once, not in every test.
import av  # noqa: E402, F401
import cv2  # noqa: E402, F401
import matplotlib.figure  # noqa: E402, F401
import pytest  # noqa: E402
import torch._dynamo  # noqa: E402, F401

ROOT = Path(__file__).resolve().parents[1]
WORKERS = 2
TIMEOUT_S = 180                       # of one test on a busy machine

MUTANTS = [
    # -- stage 3: the step
    ("stage3_finetune.py", "nn.utils.clip_grad_norm_(learning, args.clip_grad)",
     "nn.utils.clip_grad_norm_(learning, 1e9)", "test_stage3.py::test_steps_by_hand"),
    ("stage3_finetune.py", "*learning, weight_decay=args.weight_decay",
     "*learning, weight_decay=0.0", "test_stage3.py::test_steps_by_hand"),
    ("stage3_finetune.py", "lr = lr_at(step, head_steps", "lr = lr_at(step + 1, head_steps",
     "test_stage3.py::test_steps_by_hand"),
    ("stage3_finetune.py", "if step == head_steps and head_steps:", "if False:",
     "test_stage3.py::test_the_phases"),
    ("stage3_finetune.py", "student, optimizer = start_phase(model, False, args, process)",
     "student = start_phase(model, False, args, process)[0]", "test_stage3.py::test_steps_by_hand"),
    ("stage3_finetune.py", "0 if head_phase else args.mask)", "args.mask)",
     "test_stage3.py::test_steps_by_hand"),
    ("stage3_finetune.py", "model.train(not head_phase)  ", "model.train()  ",
     "test_stage3.py::test_the_phases"),
    ("stage3_finetune.py", "            model.train(not head_phase)\n            better",
     "            better", "test_stage3.py::test_steps_by_hand"),
    ("stage3_finetune.py", "draw.seed_torch()  ", "pass  ", "test_stage3.py::test_steps_by_hand"),
    ("stage3_finetune.py", "(loss / args.accumulate).backward()", "loss.backward()",
     "test_stage3.py::test_steps_by_hand"),
    ("stage3_finetune.py", "requires_grad_(not head_phase and args.mask > 0)",
     "requires_grad_(True)", "test_stage3.py::test_what_learns"),
    ("stage3_finetune.py", "return mix(x), mix(y)", "return mix(x), y",
     "test_stage3.py::test_mixup"),
    ("stage3_finetune.py", "x, y = mixup(x, y, draw.beta(args.mixup))",
     "x = mixup(x, y, draw.beta(args.mixup))[0]", "test_stage3.py::test_steps_by_hand"),
    ("stage3_finetune.py", "draw.beta(args.mixup)", "draw.beta(0.1)",
     "test_stage3.py::test_steps_by_hand"),
    ("stage3_finetune.py", "other = torch.arange(len(x)) ^ 1 ", "other = torch.arange(len(x)) ^ 2 ",
     "test_stage3.py::test_mixup"),
    ("stage3_finetune.py", "base_losses.append(bce_loss(base.expand_as(y), y))",
     "base_losses.append(bce_loss(logits.detach().float(), y))",
     "test_stage3.py::test_steps_by_hand"),
    ("stage3_finetune.py", "    return F.binary_cross_entropy_with_logits(logits, y)",
     "    return -(y * F.logsigmoid(logits)).mean()", "test_stage3.py::test_equation_7"),
    # -- stage 3: flags and schedule
    ("stage3_finetune.py", "args.lr if args.head_lr is None else args.head_lr", "args.lr",
     "test_stage3.py::test_learning_rate"),
    ("stage3_finetune.py", "args.lr if args.head_lr is None else args.head_lr",
     "args.head_lr or args.lr", "test_stage3.py::test_learning_rate"),
    ("stage3_finetune.py", "    peak = peak * args.batch / 256 * CLIP_FRAMES * args.window / 64",
     "    peak = peak * args.batch / 256", "test_stage3.py::test_learning_rate_scales"),
    ("stage3_finetune.py", "math.log(args.prior / (1 - args.prior))", "0.0",
     "test_stage3.py::test_steps_by_hand"),
    ("stage3_finetune.py", "head_steps = args.head_steps or args.head_epochs *",
     "head_steps = args.head_steps or args.epochs *",
     "test_stage3.py::test_from_scratch_with_a_depth"),
    ("stage3_finetune.py", "round(128 * 32 / args.window)", "64",
     "test_stage3.py::test_defaults_follow_the_window"),
    ("stage3_finetune.py", '"epochs": 10 if swin else 20', '"epochs": 20',
     "test_stage3.py::test_defaults_of_viswin"),
    ("stage3_finetune.py", "if getattr(args, flag) is None:", "if not getattr(args, flag):",
     "test_stage3.py::test_given_flags_win"),
    ("stage3_finetune.py", 'cfg.classes if "head." in trained else SOCCERNET_CLASSES',
     "SOCCERNET_CLASSES", "test_stage3.py::test_the_checkpoint_says_what_it_was_trained_with"),
    ("stage3_finetune.py", "parts = trained_parts(init)[:2] ", "parts = trained_parts(init)[:1] ",
     "test_stage3.py::test_from_stage_2_or_3"),
    # -- stage 3: labels, sampler, view
    ("stage3_finetune.py", "        if event.half == half.number:", "        if event.half == 1:",
     "test_stage3.py::test_labels_of_a_half"),
    ("stage3_finetune.py", "token_labels(truth[h], frame, args.window) for h, frame in picks",
     "token_labels(truth[0], frame, args.window) for h, frame in picks",
     "test_stage3.py::test_steps_by_hand"),
    ("stage3_finetune.py", "half, args.radius, len(cfg.classes))", "half, 0.5, len(cfg.classes))",
     "test_stage3.py::test_steps_by_hand"),
    ("stage3_finetune.py", "last = math.floor((time_s + radius_s) * fps)",
     "last = math.ceil((time_s + radius_s) * fps) - 1", "test_stage3.py::test_labels_of_a_frame"),
    ("stage3_finetune.py", "fps = Fraction(half.fps).limit_denominator(1001) ", "fps = half.fps ",
     "test_stage3.py::test_labels_of_a_frame"),
    ("stage3_finetune.py", "CLIP_FRAMES, -1).any(1)", "CLIP_FRAMES, -1).all(1)",
     "test_stage3.py::test_labels_of_a_token"),
    ("stage3_finetune.py", "starts = [0, frames - window_frames, *", "starts = [*",
     "test_stage3.py::test_windows"),
    ("stage3_finetune.py", "divmod(step * args.batch + len(picks), per_epoch)",
     "divmod(step * args.batch, per_epoch)",
     "test_stage3.py::test_the_steps_walk_through_the_epochs"),
    ("stage3_finetune.py", "    x = augment.hflip(x, draw, p=0.5)\n", "",
     "test_stage3.py::test_the_views_recipe"),
    ("stage3_finetune.py", "color_jitter(x, draw, args.color, p=0.8)",
     "color_jitter(x, draw, [0.4, 0.4, 0.4, 0.0], p=0.8)", "test_stage3.py::test_steps_by_hand"),
    # -- stage 3: the cached head phase
    ("stage3_finetune.py", "for flip in (False, True))", "for flip in (False, False))",
     "test_stage3.py::test_steps_by_hand"),
    ("stage3_finetune.py", "mirrored = (draw.uniform(0, 1) < 0.5).long()",
     "mirrored = (draw.uniform(0, 1) > 0.5).long()", "test_stage3.py::test_steps_by_hand"),
    ("stage3_finetune.py", "torch.stack([tokens[h][:, s:s + args.window]",
     "torch.stack([tokens[h][:, :args.window]",
     "test_stage3.py::test_steps_by_hand"),
    ("stage3_finetune.py", '[model.temporal] * (args.head_phase == "temporal")', "[]",
     "test_stage3.py::test_steps_by_hand"),
    # -- stage 3: validation
    ("stage3_finetune.py", "network = infer.as_network(model.eval(), args)",
     "network = infer.Network(model.eval(), model.cfg.window_tokens // 2, 2)",
     "test_stage3.py::test_validation"),
    ("stage3_finetune.py", "len(h), args.merge))", 'len(h), "max"))',
     "test_stage3.py::test_validation"),
    ("stage3_finetune.py", "predictions[match] = infer.spot(of_match, merged, args)",
     "predictions[match] = infer.spot(of_match, merged, infer.parse_args(\n"
     '            ["--data", "x", "--checkpoint", "x"]))', "test_stage3.py::test_validation"),
    ("stage3_finetune.py", "network = infer.as_network(model.eval(), args)",
     "network = infer.as_network(model, args)", "test_stage3.py::test_validation"),
    ("stage3_finetune.py", "amap > best, max(amap, best)", "True, max(amap, best)",
     "test_stage3.py::test_best_survives_a_resume"),
    ("stage3_finetune.py", 'best = state["best"] if state else -1.0', "best = -1.0",
     "test_stage3.py::test_best_survives_a_resume"),
    ("infer.py", "ops.default_ignore(window) if args.ignore is None else args.ignore",
     "ops.default_ignore(window)", "test_stage3.py::test_validation"),
    # -- stage 3: refused before the work
    ("stage3_finetune.py", "    if not counts.sum():", "    if False:",
     "test_stage3.py::test_labels_without_an_event_of_the_classes"),
    ("stage3_finetune.py", "    if valid:\n", "    if False:\n", "test_stage3.py::test_mistakes"),
    ("comedian/soccernet.py", 'if entry["label"] not in without)', "if True)",
     "test_stage3.py::test_labels_of_no_class_are_named"),
    # -- the layout
    ("comedian/augment.py", "import torch\n\nLUMA",
     "import torch\n\n\ndef late():\n    import infer\n\n\nLUMA",
     "test_layout.py::test_nothing_in_the_pantry_imports_a_file_above_it"),
    ("comedian/frames.py", "\nfrom comedian import DataError\n",
     "\nfrom comedian import DataError, soccernet\n", "test_layout.py::test_no_circles"),
    ("stage2_distill.py", "\nimport math\n", "\nimport infer\nimport math\n",
     "test_layout.py::test_among_the_five_all_import_the_model_and_stage_3_infers"),
    ("stage1_spatial.py", "--- schedules\n", "--- schedule\n",
     "test_layout.py::test_the_stages_have_the_same_headings"),
    ("stage3_finetune.py", "    stop = run.Stop()\n", "    stop = run.Stop()\n" + 2 * "    pass\n",
     "test_layout.py::test_main_is_short_before_its_loop"),
    ("stage3_finetune.py", "Proved by test_equation_7", "Proved by test_equation_8",
     "test_layout.py::test_named_tests_exist[stage3_finetune]"),
    ("stage3_finetune.py", '"--labels", help="root of the labels; default: --data")', '"--labels")',
     "test_layout.py::test_every_flag_has_a_help_text"),
    ("infer.py", "{n_tokens * halves[0].token_s", "{bar.n * halves[0].token_s",
     "test_layout.py::test_no_state_comes_from_a_progress_bar"),
    ("infer.py", "Reads   --video:", "Reads   ../shared/frames or --video:",
     "test_layout.py::test_no_path_of_the_workshop"),
]


# ------------------------------------------------------------------ the runner
def test_id(name):
    return name if name.startswith("tests/") else f"tests/{name}"


def copy_to(folder):
    """The tracked files as they stand now, and the built kernels."""
    tracked = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT,
                             check=True, capture_output=True, text=True).stdout
    built = [str(path.relative_to(ROOT)) for where in ("*.so", "comedian/*.so")
             for path in ROOT.glob(where)]
    for name in [*filter(None, tracked.split("\0")), *built]:
        if (ROOT / name).is_file():
            target = Path(folder, name)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target)


def start(folder, tests):
    """Forks a process that runs these tests in `folder`; returns its pid. It prints into
    output.txt there, and its exit code is pytest's."""
    pid = os.fork()
    if pid == 0:
        code = 3
        try:
            os.setsid()                                    # with what it starts, to end them all
            os.chdir(folder)
            output = os.open("output.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(output, 1), os.dup2(output, 2)
            sys.path[:] = [p for p in sys.path if Path(p).resolve() not in (ROOT, ROOT / "tests")]
            code = pytest.main(["-q", "-x", "-p", "no:cacheprovider", "--rootdir", str(folder),
                                *map(test_id, tests)])
        finally:
            sys.stdout.flush()
            os._exit(code)
    return pid


def run_all(jobs, folders, report):
    """Runs jobs (name, change or None, tests), one per folder at a time. Calls report(name, code,
    output, seconds) when one is done; code None: it took too long."""
    waiting, running, idle = list(reversed(jobs)), {}, list(folders)
    try:
        while waiting or running:
            while waiting and idle:
                name, change, tests = waiting.pop()
                folder, text = idle.pop(), None
                if change:
                    file, old, new = change
                    text = (folder / file).read_text()
                    (folder / file).write_text(text.replace(old, new))
                running[start(folder, tests)] = (name, change, text, folder, time.monotonic(),
                                                 len(tests))
            time.sleep(0.05)
            for pid, (name, change, text, folder, since, n) in list(running.items()):
                done, status = os.waitpid(pid, os.WNOHANG)
                seconds = time.monotonic() - since
                late = not done and seconds > TIMEOUT_S * n
                if late:
                    os.killpg(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)
                if done or late:
                    del running[pid]
                    if change:
                        (folder / change[0]).write_text(text)
                    output = (folder / "output.txt").read_text(errors="replace")
                    idle.append(folder)
                    report(name, None if late else os.waitstatus_to_exitcode(status), output,
                           seconds)
    finally:
        for pid in running:
            os.killpg(pid, signal.SIGKILL)


def main():
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--only", default="", help="those whose file, change or test holds this")
    args = parser.parse_args()
    since = time.monotonic()
    mutants = [m for m in MUTANTS if any(args.only in part for part in m)]
    if not mutants:
        sys.exit(f"error: no mutant holds {args.only!r}")
    tests = sorted({test_id(mutant[3]) for mutant in mutants})
    by_file, verdicts, red = {}, {}, {}
    for test in tests:
        by_file.setdefault(test.split("::")[0], []).append(test)

    def unchanged(name, code, output, seconds):
        print(f"{name}: {len(by_file[name])} tests, unchanged: "
              f"{'pass' if code == 0 else 'DO NOT PASS'} ({seconds:.0f} s)", flush=True)
        if code != 0:
            red[name] = output

    def judged(i, code, output, seconds):
        words = re.findall(r"^E  +(\S.*)", output, re.MULTILINE)
        why = words[0] if words else ""
        verdict = {0: "SURVIVED", 1: "killed"}.get(code, "INVALID")
        if code is None:
            why = f"no end after {TIMEOUT_S} s"
        elif verdict == "INVALID":
            why = f"pytest ended with {code}: {output.strip().splitlines()[-1:]}"
        show(i, verdict, why, seconds)

    def show(i, verdict, why, seconds=0):
        verdicts[i] = verdict
        file, old, new, test = mutants[i]
        old, new = (" ".join(text.split()) for text in (old, new))
        print(f"{verdict:8} {seconds:4.0f} s  {file}: {old[:70]!r} -> {new[:50]!r}\n"
              f"{'':17}{test.removeprefix('tests/')}: {why[:90]}", flush=True)

    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        folders = [Path(folder, str(i)) for i in range(WORKERS)]
        for copy in folders:
            copy_to(copy)
        run_all([(name, None, ids) for name, ids in by_file.items()], folders, unchanged)
        if red:
            print(*red.values(), sep="\n")
            sys.exit("error: tests that do not pass cannot judge a mutant; mend them first")
        jobs = []
        for i, (file, old, new, test) in enumerate(mutants):
            there = folders[0] / file                      # as copied: ROOT may change meanwhile
            n = there.read_text().count(old) if there.exists() else 0
            if n != 1 or old == new:
                show(i, "INVALID", f"the text stands in the file {n} times; it must once")
            else:
                jobs.append((i, (file, old, new), [test]))
        run_all(jobs, folders, judged)

    alive = [i for i in verdicts if verdicts[i] != "killed"]
    print(f"\n{len(mutants) - len(alive)} of {len(mutants)} mutants killed in "
          f"{(time.monotonic() - since) / 60:.1f} min" + "; the others:" * bool(alive))
    for i in alive:
        print(f"  {verdicts[i]} {mutants[i][0]}: {' '.join(mutants[i][1].split())[:80]!r}")
    sys.exit(bool(alive))


if __name__ == "__main__":
    main()
