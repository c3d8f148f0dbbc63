"""The console script: from its first line on, Ctrl-C ends it with a word and code 130.

It imports little by itself, for what it imports takes longer than some people wait before they change their mind.
"""

import os
import signal

INTERRUPTED = 130


def main() -> None:
    """The console script.

    Raises:
        SystemExit: always; the codes are those of `commands`.
    """
    # Who started us with SIGINT ignored wants it ignored.
    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if ours:
        signal.signal(signal.SIGINT, _leave)
    from furu_async._cli.commands import cli

    try:
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        cli(prog_name="furu-async", standalone_mode=True)
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None
    finally:
        if ours:
            signal.signal(signal.SIGINT, _leave)


def _leave(number: int, frame: object) -> None:
    """Nothing has begun, or all is over: there is nothing to put away."""
    try:
        os.write(2, b"interrupted\n")
    finally:
        os._exit(INTERRUPTED)


if __name__ == "__main__":
    main()
