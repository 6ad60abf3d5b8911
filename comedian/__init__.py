"""
The pantry: what the five scripts import and do not explain. Frames and labels on disk, image
operations, kernels, the metric, stop and resume.

Nothing in this folder imports a file above it, so a reader of `stage1_spatial.py` never goes in
circles. This file has the check for missing packages, the error for users' mistakes (DataError),
`write_file`, which writes a file whole or not at all, and the lock of a run's folder.
"""
import contextlib
import fcntl
import glob
import importlib.util
import os
import re
import sys
from pathlib import Path

__version__ = "0.1.0"                 # as in pyproject.toml


def need(*packages):
    """Ends the program with one line if packages are not installed; the line names them."""
    missing = [name for name in packages if not importlib.util.find_spec(name)]
    if missing and "comedian.check" not in sys.orig_argv:  # that one tells more
        print(f"error: {sys.executable}: has no {', '.join(missing)}; use the Python of .venv, "
              "which `make demo` sets up (source .venv/bin/activate), or pip install -r "
              "requirements.txt", file=sys.stderr)
        sys.exit(2)


need("numpy", "torch")                # all that `from comedian import ops` needs


def quiet_when_interrupted(kind, error, trace):
    """Ctrl-C during the imports ends a command without a traceback."""
    if kind is not KeyboardInterrupt:
        sys.__excepthook__(kind, error, trace)


# Of our own commands alone: "-m" while `python -m comedian.x` is being started, else a script.
if sys.argv[0] == "-m" or Path(sys.argv[0]).resolve().parent == Path(__file__).parents[1]:
    sys.excepthook = quiet_when_interrupted


def short(text):
    """A message that a person can read: a name in it, from a file, may have 100,000 letters."""
    text = re.sub(r"[^\s/]{256,}", lambda word: f"{word[0][:60]}...", text)
    return text if len(text) <= 2000 else f"{text[:1500]} ... {text[-400:]}"


class DataError(ValueError):
    """A mistake in a file or on the command line.

    The message is one line for the user: FILE: what is wrong; what to do.
    """

    def __str__(self):
        return short(super().__str__())


def write_file(path, save):
    """Writes a file that appears whole or not at all. save(file) fills it; `file` is binary.

    It is written under another name in the same folder, flushed to the disk and then renamed. So a
    full disk, a kill or a power cut at any moment leaves the old file as it was. Missing folders
    are made. Raises DataError if the file cannot be written, and removes what it has written. If a
    process was killed, the next one that writes `path` removes its unfinished file. A link stays,
    and its target is replaced; a device or a fifo (/dev/stdout) is written to directly.
    """
    given, path, host = path, Path(os.path.realpath(path)), os.uname().nodename
    unfinished = path.with_name(f".{path.name}.{host}.{os.getpid()}.unfinished")
    try:
        if os.path.exists(given) and not os.path.isfile(given) and not os.path.isdir(given):
            descriptor = os.open(given, os.O_WRONLY | os.O_NONBLOCK)   # a fifo that nobody reads
            os.set_blocking(descriptor, True)
            with open(descriptor, "wb") as file:
                save(file)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in path.parent.glob(glob.escape(f".{path.name}.{host}.") + "*.unfinished"):
            if not is_alive(pid=left.name.split(".")[-2]):
                left.unlink(missing_ok=True)
        with open(unfinished, "wb") as file:
            save(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except (OSError, RuntimeError) as error:               # torch's word for a full disk
        causes = [e for e in (error, error.__context__) if isinstance(e, OSError)]
        if not causes:
            raise
        # numpy counts the bytes that did not fit, and gives no reason.
        reason = causes[0].strerror or "not all of it was written: is the disk full?"
        raise DataError(f"{given}: cannot be written ({reason}); make room or choose another "
                        "place") from None
    finally:
        with contextlib.suppress(OSError):                 # gone by now, if all went well
            unfinished.unlink()


def write_text(path, text):
    """`write_file` for a str, in UTF-8. Names of files that are not UTF-8 keep their bytes."""
    write_file(path, lambda file: file.write(text.encode(errors="surrogateescape")))


def lock(folder):
    """Locks the folder of a run for this process; returns the lock, a file descriptor. DataError if
    another process has it. The lock ends with the process, however that ends."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise DataError(f"{folder}: another run is writing there; wait for its end or choose "
                        "another --out") from None
    except OSError:                   # a file system without locks: nothing is promised there
        pass
    return descriptor


def is_alive(pid):
    """Whether a process of this number runs on this machine."""
    return Path("/proc", pid).exists()
