"""A program in a pseudo-terminal, and the screen that a person would see."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import termios
import threading
import time
from collections.abc import Callable

#: Escape sequences that a terminal obeys; what rich's live display uses of them.
ESCAPE = re.compile(r"\x1b\[(\?)?([\d;]*)([A-Za-z])")
#: A display that draws itself anew begins with this.
ANEW = re.compile(r"\r\x1b\[2K")
#: Bars alone in a line, and a training's line: its name, its bar, and how far it is.
BAR = re.compile(r"[━╸╺ ]+|\S.* [━╸╺]+ +(\d+/\d+|waiting)")
#: Rows of a table with a frame: they end as they begin.
FRAMED = {"┏": "┓", "┃": "┃", "┡": "┩", "│": "│", "└": "┘"}
#: How long a screen may take to show what a test waits for, in seconds.
PATIENCE = 300.0


def _take_terminal() -> None:
    """In the child: the terminal controls it, and Ctrl-C interrupts it as in a user's shell.

    Tests in the background of a shell ignore SIGINT, under ``nohup`` SIGHUP; children inherit that.
    """
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


class Terminal:
    """Runs a program in a terminal of its own, so that Ctrl-C is the key and not a signal."""

    def __init__(self, arguments: list[str], columns: int = 200, lines: int = 50) -> None:
        self.columns = columns
        self.output = ""
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        environment = {**os.environ, "TERM": "xterm-256color"}
        for name in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR"):
            environment.pop(name, None)
        self.process = subprocess.Popen(
            arguments,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environment,
            start_new_session=True,
            preexec_fn=_take_terminal,
        )
        os.close(slave)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        pending = b""
        while True:
            try:
                chunk = os.read(self._master, 65536)
            except OSError:  # the program has closed its side
                chunk = b""
            if not chunk:
                return
            pending += chunk
            text = pending.decode("utf-8", errors="ignore")
            if text.encode() == pending:
                self.output += text
                pending = b""

    def press(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def wait_for(self, shown: Callable[[list[str]], object]) -> list[str]:
        """Wait until the screen is as wanted; returns the screen. Fails if the program ends."""
        deadline = time.monotonic() + PATIENCE
        while True:
            ended = self.process.poll() is not None
            screen = self.screen
            if shown(screen):
                return screen
            assert not ended, "\n".join(["the program has ended", *screen])
            assert time.monotonic() < deadline, "\n".join(["nothing happens", *screen])
            time.sleep(0.05)

    def wait(self, seconds: float = PATIENCE) -> int:
        """Wait until the program ends; returns its exit code."""
        code = self.process.wait(timeout=seconds)
        self._reader.join(timeout=10)
        return code

    @property
    def screen(self) -> list[str]:
        """The lines on the screen now, those that have scrolled away included."""
        return drawn(self.output, self.columns)


def drawn(output: str, columns: int) -> list[str]:
    """What a terminal shows of a program's output: colours are left out, moves are obeyed."""
    lines, row, column, position = [""], 0, 0, 0
    while position < len(output):
        character = output[position]
        if character == "\x1b":
            match = ESCAPE.match(output, position)
            if match is None:
                break  # the rest of the sequence has not arrived yet
            private, argument, command = match.groups()
            position = match.end()
            if command == "A":
                row -= int(argument or 1)
                assert row >= 0, "the program moves above the screen"
            elif command == "K" and argument == "2":
                lines[row] = ""
            else:
                assert private or command == "m", f"unknown sequence {match.group()!r}"
            continue
        position += 1
        if character == "\r":
            column = 0
        elif character == "\n":
            row, column = row + 1, 0
        elif character != "\a":
            if column == columns:
                row, column = row + 1, 0
            while row >= len(lines):
                lines.append("")
            lines[row] = lines[row].ljust(column)[:column] + character + lines[row][column + 1 :]
            column += 1
        while row >= len(lines):
            lines.append("")
    return [line.rstrip() for line in lines]


def frames(output: str, columns: int, count: int = 10) -> list[list[str]]:
    """Screens that a program showed, each before it drew itself anew, and the last one.

    At most ``count``, evenly spread.
    """
    ends = [match.start() for match in ANEW.finditer(output)]
    chosen = [ends[place * len(ends) // count] for place in range(count)] if ends else []
    return [drawn(output[:end], columns) for end in [*dict.fromkeys(chosen), len(output)]]


def broken(screen: list[str]) -> list[str]:
    """Lines of a search's screen that something else runs into, and old displays left on it."""
    found = [line for line in screen if FRAMED.get(line[:1], line[-1:]) != line[-1:]]
    bars = [line for line in screen if "━" in line and line[0] not in FRAMED]
    found += [line for line in bars if not BAR.fullmatch(line)]
    return found + [line for line in screen if "trials done, " in line][1:]
