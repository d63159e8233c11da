"""Signals that end a command: Ctrl-C, and what schedulers and closed terminals send."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

#: SIGTERM comes from SLURM, Kubernetes and spot machines, SIGHUP from a terminal that closes.
SIGNALS = [one for one in signal.Signals if one.name in {"SIGINT", "SIGTERM", "SIGHUP"}]
#: The process ends so many seconds after the first signal, whatever hangs. Kubernetes and SLURM
#: kill after 30.
LAST_SECONDS = 20.0
#: A signal so soon after another is part of the same request, which is being honoured.
SAME_REQUEST_SECONDS = 5.0


class Interrupts:
    """What has interrupted the command of this process, and what the user was told about it."""

    def __init__(self) -> None:
        self.number: int | None = None
        #: Whether the line that says how to go on is printed.
        self.told = False
        #: The command that goes on, before a display knows a better one; "" if there is none.
        self.command = ""
        self._last = 0.0

    @property
    def exit_code(self) -> int:
        """As a shell gives it: 130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP."""
        return 128 + (self.number or signal.SIGINT)

    def __call__(self, number: int, frame: object) -> None:
        """Handle a signal: the command ends as by Ctrl-C."""
        first = self.number is None
        if first:
            self.number = number
            timer = threading.Timer(LAST_SECONDS, self._leave)
            timer.daemon = True
            timer.start()
        if first or time.monotonic() - self._last > SAME_REQUEST_SECONDS:
            self._last = time.monotonic()
            raise KeyboardInterrupt

    def tell(self, command: str, write: Callable[[str], object]) -> None:
        """Say once how to go on. A terminal that is closed is no error."""
        if not self.told:
            self.told = True
            with suppress(OSError):
                write(f"interrupted; go on with: {command}" if command else "interrupted")

    def _leave(self) -> None:
        """End the process although something hangs, for example a database that is away."""
        self.tell(self.command, lambda text: print(text, file=sys.stderr, flush=True))
        os._exit(self.exit_code)


#: Of this process.
interrupts = Interrupts()


@contextmanager
def ended_by_signals(command: str) -> Iterator[Interrupts]:
    """Inside, each of :data:`SIGNALS` raises KeyboardInterrupt, unless the user ignores it (nohup).

    ``command``: what goes on, as long as no display says it better.
    """
    interrupts.__init__()  # type: ignore[misc]
    interrupts.command = command
    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.getsignal(number) for number in SIGNALS}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, interrupts)
    try:
        yield interrupts
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def flush_output() -> None:
    """Write out what was printed. What can't be written to a closed terminal or pipe is dropped."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
