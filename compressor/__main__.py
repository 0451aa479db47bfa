"""Where the `compress` command starts, also as `python -m compressor`.

Importing the commands takes a quarter of a second. A signal in that time has nothing to save: it ends the process at
once, with the code of an interruption. Then each command takes signals as it needs.
"""

import os
import signal
from types import FrameType

_INTERRUPTED = 130
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def main() -> None:
    """Take signals, then run the command line."""
    for number in _SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:  # as `nohup` and shells' background jobs leave them
            signal.signal(number, _end)
    from compressor.cli import main as command_line

    command_line()


def _end(_number: int, _frame: FrameType | None) -> None:
    os._exit(_INTERRUPTED)


if __name__ == "__main__":
    main()
