"""
The command line of all scripts: flags, and one line for an error.

Torch takes more than a second to import, so this file does without. A command that needs it only to
compute imports it there, and answers --help and a mistake at once.
"""
import argparse
import contextlib
import math
import os
import re
import signal
import sys
from pathlib import Path

from comedian import DataError, __version__


# ------------------------------------------------------------------ flags
class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows defaults where there is one to show, and paragraphs as they are written."""

    def _get_help_string(self, action):
        nothing = action.default is None or action.default is False or callable(action.default)
        if nothing or isinstance(action, argparse._SubParsersAction):
            return action.help
        return super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """Takes the first paragraph of a script's docstring as its description and the second, the
    commands, as examples. A default may be a function of the given options; the flag's help then
    describes its value. A mistake on the command line is one line and exit code 2."""

    def __init__(self, docstring=None, **more):
        if docstring:
            description, examples, *_ = docstring.strip().split("\n\n")
            more |= {"description": description, "epilog": f"examples:\n{examples}"}
            script = Path(sys.argv[0])                     # a list of all flags would be long here
            module = script.parent.name == "comedian"
            more |= {"usage": "%(prog)s [flags]", "prog": (
                f"python -m comedian.{script.stem}" if module else f"python {script.name}")}
        super().__init__(formatter_class=HelpFormatter, allow_abbrev=False, **more)
        if docstring:
            self.add_argument("--version", action="version", version=f"comedian {__version__}")

    def error(self, message):
        print_error(f"{message} (--help lists the flags)")
        sys.exit(2)

    def parse_args(self, args=None, namespace=None):
        args = super().parse_args(args, namespace)
        for name, value in vars(args).items():             # "" would be taken for this very folder
            if value == "" or (isinstance(value, list) and "" in value):
                self.error(f"argument --{name.replace('_', '-')}: needs a value, got ''")
        for action in self._actions:
            if callable(action.default) and getattr(args, action.dest) is action.default:
                setattr(args, action.dest, action.default(args))
        return args


def number(low, high=None):
    """For argparse: a number within [low, high], whole if `low` is; else a one-line error. If a
    number decides how much memory is needed, `high` is what a large machine has."""
    kind = type(low)
    if high is None:                                      # nobody wants more
        high = 10 ** 9 if kind is int else 1e6

    def parse(text):
        try:
            value = kind(text) if "_" not in text else math.nan       # Python reads 1_0 as 10
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            what = "a whole number" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"must be {what} from {low} to {high}, "
                                             f"got {text[:40]!r}")
        return value

    return parse


def file_name(text):
    """For argparse: a text that can be part of a file's name and names no other folder."""
    if not text.strip(". ") or re.search(r"[/\\\0-\x1f\x7f]", text):
        raise argparse.ArgumentTypeError(f"must be a name without /, \\ and control "
                                         f"characters, got {text[:40]!r}")
    return text


ENCODING_HELP = ("encoding of a table of labels that is neither UTF-8 nor UTF-16, as Python names "
                 "it: cp1252 is Excel's plain CSV in western Europe")


def text_encoding(name):
    """For argparse: a text encoding that Python knows, else a one-line error."""
    try:
        "a".encode(name)
    except (LookupError, ValueError):
        raise argparse.ArgumentTypeError(f"must be a text encoding, such as cp1252, got "
                                         f"{name[:40]!r}") from None
    return name


def device_name(name):
    """For argparse: `name` if torch can compute there, else a one-line error."""
    if name == "cpu":                                     # it always can; no need to ask torch
        return name
    import torch
    try:
        if torch.device(name).type not in ("cpu", "cuda"):
            raise RuntimeError("give cpu or cuda")
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:       # no such device; torch without CUDA
        raise argparse.ArgumentTypeError(f"torch cannot use {name!r} here "
                                         f"({str(error).splitlines()[0]})") from None
    return name


# ------------------------------------------------------------------ errors
# What gloo (between CPUs), torch's store and NCCL (between GPUs) say of a process that has gone.
GONE = "gloo/transport|by peer|Broken pipe|remote process exited"


def run_as_command(main, args, stopped="stopped before anything was saved"):
    """Runs main(args). Errors that the user can mend become one line and exit code 2.
    `stopped` is the message after a Ctrl-C that main does not handle."""
    open_streams()
    try:
        main(args)
        sys.stdout.flush()                                # a full disk behind > raises here
    except KeyboardInterrupt:
        print_error(stopped)
        sys.exit(130)
    except DataError as error:
        print_error(error)
        sys.exit(2)
    except OSError as error:
        place = error.filename if error.filename is not None else "standard output"
        print_error(f"{place}: cannot be read or written ({error.strerror or error}); check the "
                    "path, its permissions and the free space on its disk")
        sys.exit(2)
    except ImportError as error:      # kernels that are not built, say: ops.py says what to run
        print_error(error)
        sys.exit(2)
    except (MemoryError, RuntimeError) as error:
        if re.search(GONE, str(error)):
            has_checkpoint = hasattr(args, "resume") and Path(args.out, "last.pt").exists()
            print_error(
                "another process of this run has ended, killed or with its own error line; "
                + ("continue with --resume" if has_checkpoint else "start the run again"))
            sys.exit(2)
        if "can't start new thread" in str(error):
            print_error("the system allows no more threads; lower --workers or --jobs, or see "
                        "ulimit -u")
            sys.exit(2)
        if not (isinstance(error, MemoryError) or "can't allocate memory" in str(error)
                or type(error).__name__ == "OutOfMemoryError"):          # torch's, for a GPU
            raise
        print_error(f"out of memory on {getattr(args, 'device', 'this machine')}; "
                    f"{less_memory(args)}")
        sys.exit(2)


@contextlib.contextmanager
def stoppable(describe):
    """Ctrl-C, SIGTERM and SIGHUP end the process while the block runs; describe() returns its last
    line. A signal that the caller ignores (nohup ignores SIGHUP) stays ignored."""
    def interrupt(number, _):
        raise KeyboardInterrupt(number)

    before = {number: signal.signal(number, interrupt)
              for number in (signal.SIGTERM, signal.SIGHUP)
              if signal.getsignal(number) != signal.SIG_IGN}
    try:
        yield
    except KeyboardInterrupt as interruption:
        print_error(describe())
        sys.exit(128 + (interruption.args or (signal.SIGINT,))[0])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def open_streams():
    """Opens /dev/null for streams that the caller closed, so that no other file gets their number;
    a stream escapes characters that it cannot show."""
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)                 # the lowest free number: this one
        stream = getattr(sys, name)
        if stream is None or stream.closed:
            stream = open(os.devnull, "r" if name == "stdin" else "w")
            setattr(sys, name, stream)
        if name != "stdin" and hasattr(stream, "reconfigure"):           # not in a notebook
            stream.reconfigure(errors="backslashreplace")


def print_error(message):
    """Prints one line on stderr. A stream that cannot be written is replaced by /dev/null: the
    process ends with its own exit code, and Python prints no further error."""
    for name, text in (("stdout", ""), ("stderr", f"error: {' '.join(str(message).split())}\n")):
        stream = getattr(sys, name)
        try:
            stream.write(text)
            stream.flush()
        except (OSError, ValueError, AttributeError):      # full, closed, or not there
            setattr(sys, name, open(os.devnull, "w"))


def less_memory(args):
    """What to lower after an out-of-memory error, and to what."""
    if not hasattr(args, "batch"):                        # evaluate, report
        return "close other programs, or give fewer matches at a time"
    if not hasattr(args, "accumulate"):                   # infer.py
        return f"try --batch {max(1, args.batch // 2)}"
    own = args.batch // launcher()["WORLD_SIZE"]          # samples of one process
    least = 2 if getattr(args, "mixup", 0) else 1         # mixup mixes the pairs of a pass
    finer = [n for n in range(args.accumulate + 1, own + 1) if own % (n * least) == 0]
    if not finer:
        few = "one sample" if least == 1 else "a pair of samples"
        return f"{few} at a time does not fit: try a shorter --window or a smaller --model"
    same = getattr(args, "negatives", None) != "batch"
    return (f"split the batch into smaller passes: --accumulate {finer[0]} "
            f"({own // finer[0]} at a time instead of {own // args.accumulate}"
            + ("; the result stays the same)" if same else ", and as few negatives)"))


# ------------------------------------------------------------------ torchrun
def launcher():
    """torchrun's environment variables, {name: number}; without torchrun a WORLD_SIZE of 1.
    DataError if some are missing or no numbers."""
    env = {"WORLD_SIZE": 1}
    names = {"WORLD_SIZE": (1, 65536), "RANK": (0, 65535), "LOCAL_RANK": (0, 255),
             "MASTER_PORT": (1, 65535)}
    for name, (low, high) in names.items():
        text = os.environ.get(name, "1" if name == "WORLD_SIZE" else None)
        if env["WORLD_SIZE"] == 1 and name != "WORLD_SIZE":
            break
        try:
            env[name] = number(low, high)(text or "")
        except argparse.ArgumentTypeError as error:
            raise DataError(f"{name}: this environment variable {error} (WORLD_SIZE is "
                            f"{env['WORLD_SIZE']}); start with torchrun, or unset WORLD_SIZE"
                            ) from None
    if env["WORLD_SIZE"] > 1 and ("MASTER_ADDR" not in os.environ
                                  or env["RANK"] >= env["WORLD_SIZE"]):
        raise DataError(f"WORLD_SIZE={env['WORLD_SIZE']} is set, but MASTER_ADDR or a RANK below "
                        "it is missing; start with torchrun, or unset WORLD_SIZE")
    return env
