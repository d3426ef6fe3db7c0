"""The command line: parse, run one command, turn its errors and signals into exit codes."""

from __future__ import annotations

import argparse
import errno
import gc
import importlib.util
import os
import signal
import sys
from typing import Any

from conversion.display import size
from conversion.errors import MMMRSError, OutputError
from mmm_rs_cli.arguments import parser
from mmm_rs_cli.retry import with_options
from mmm_rs_cli.terminal import note

ADDRESS_SPACE = 1_200_000_000  # bytes that importing pyarrow and starting a command reserve; measured: 1.0 GB


class Terminated(BaseException):
    """SIGTERM."""


def main(argv: list[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: The words after `mmm-rs` (default: those of this process).

    Returns:
        The exit code (see `conversion.errors`).
    """
    _prepare_streams()
    words = parser()
    if "_ARGCOMPLETE" in os.environ:  # set by the shell that `mmm-rs completion` has prepared
        import argcomplete

        argcomplete.autocomplete(words)
    arguments = words.parse_args(argv)
    arguments.words = sys.argv[1:] if argv is None else argv
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        _import()
        return arguments.run(arguments)
    except MMMRSError as error:
        first, *rest = error.lines
        for line in (f"mmm-rs: {first}", *rest):
            note(line, "red")
        if error.options:
            note(f"Run: {with_options(arguments.words, error.options)}", "cyan")
        return error.exit_code
    except MemoryError:
        note("mmm-rs: not enough memory. Free some, or use a larger machine, then run the same command again")
        return OutputError.exit_code
    except OSError as error:
        if error.errno not in (errno.EMFILE, errno.ENFILE):
            raise
        note("mmm-rs: too many open files. Allow more with `ulimit -n`, then run the same command again")
        return OutputError.exit_code
    except KeyboardInterrupt:
        note(f"mmm-rs: interrupted. {_next_time(arguments)}")
        return 130
    except Terminated:
        note(f"mmm-rs: terminated. {_next_time(arguments)}")
        return 143
    finally:
        signal.signal(signal.SIGTERM, before)


def _prepare_streams() -> None:
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by the process that started this one
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a name that the terminal cannot show must not end the work


def _next_time(arguments: argparse.Namespace) -> str:
    return f"Run the same command again to {'continue' if arguments.resumes else 'start over'}"


def _import() -> None:
    """Import what every command needs, without collecting garbage: that would take a quarter of a short command's time,
    during the import and again at the end. Signals wait meanwhile: if their exception rises inside the body of a class,
    Python turns it into another one."""
    if "mmm_rs" not in sys.modules:
        _check_address_space()
        masked = None
        if hasattr(signal, "pthread_sigmask"):
            masked = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
        gc.disable()
        try:
            import mmm_rs  # noqa: F401
        finally:
            gc.freeze()
            gc.enable()
            if masked is not None:
                signal.pthread_sigmask(signal.SIG_SETMASK, masked)


def _check_address_space() -> None:
    """Raises OutputError if `ulimit -v` leaves too little: pyarrow would abort in the middle of its import."""
    if importlib.util.find_spec("resource") is None:  # Windows
        return
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY and limit < ADDRESS_SPACE:
        raise OutputError(
            f"{size(limit)} of address space are not enough to begin. Allow {size(ADDRESS_SPACE)} with "
            f"`ulimit -v {ADDRESS_SPACE // 1024}`"
        )


def _terminate(number: int, frame: Any) -> None:
    raise Terminated


if __name__ == "__main__":
    sys.exit(main())
