"""
A network to give away.

    python -m comedian.share weights runs/stage3/best.pt comedian-vit/      # then upload the folder
    python -m comedian.share weights runs/stage1/last.pt encoder/           # for --init

Writes <out>/model.safetensors, and <out>/config.json with what the network is (classes, window,
...), what it was trained on and the command. --checkpoint and --init take the folder;
docs/extend.md has its way to the Hugging Face Hub and back.
"""
import json
from pathlib import Path

from comedian import DataError, __version__, command, formats, write_text
from comedian.formats import CONFIG, WEIGHTS, sha256


# ------------------------------------------------------------------ weights
def write_weights(args):
    """A checkpoint of a stage -> a folder that others can read; nothing is written over."""
    from comedian import checkpoint, public_weights
    path, out = args.checkpoint, Path(args.out)
    state = public_weights.read_file(path)
    given_away = formats.weights_file(path).suffix == ".safetensors"
    if given_away or not isinstance(state, dict) or not {"model", "config", "stage"} <= set(state):
        raise DataError(f"{path}: not a checkpoint of this project's stages; give a best.pt or "
                        "last.pt")
    checkpoint.check_weights(state["model"], path)
    there = [name for name in (WEIGHTS, CONFIG) if (out / name).exists()]
    if there:
        raise DataError(f"{out / there[0]}: exists already; choose another folder")
    run = Path(path).with_name("run.json")
    starts = formats.read_json(run, "a record of a run") if run.exists() else []
    last = starts[-1] if isinstance(starts, list) and starts else {}
    last = last if isinstance(last, dict) else {}
    about = {"cfg": state["config"], "stage": state["stage"], "step": state.get("step"),
             "comedian": __version__, "trained_on": last.get("data"),
             "command": last.get("command"), "flags": state.get("args")}
    try:
        text = json.dumps(about, indent=1, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise DataError(f"{path}: its config or flags are no plain values ({error}); give a "
                        "checkpoint of a stage") from None
    public_weights.write_safetensors(out / WEIGHTS, state["model"])
    write_text(out / CONFIG, text + "\n")
    n = sum(value.numel() for value in state["model"].values())
    print(f"share: {out}: {n:,} weights of stage {state['stage']}, SHA-256 "
          f"{sha256(out)[:12]}...; --checkpoint and --init take this folder")


def parse_args(argv=None):
    p = command.Parser(__doc__)
    commands = p.add_subparsers(dest="command", required=True, prog=p.prog)
    s = commands.add_parser("weights", help="a checkpoint -> model.safetensors and config.json")
    s.add_argument("checkpoint", help="a stage's best.pt or last.pt")
    s.add_argument("out", help="folder to make")
    s.set_defaults(run=write_weights)
    return p.parse_args(argv)


if __name__ == "__main__":
    args = parse_args()
    command.run_as_command(args.run, args)
