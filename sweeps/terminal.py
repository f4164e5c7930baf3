"""What the command prints to: streams that can show every text and survive their reader, and rich's console on them."""

from __future__ import annotations

import codecs
import errno
import io
import os
import re
import sys
import unicodedata
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from core.causes import explain
from sweeps.masking import mask

_REPLACE = "sweeps.readable"
#: What is shown instead of characters that a console lacks.
_READABLE = str.maketrans({"±": "+-", "·": "-", "…": "...", "–": "-", "—": "-", "×": "x", "−": "-", "’": "'", "→": "->"})
#: Control characters save line ends and tabs, what turns the direction of writing, and halves of characters.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_GONE = (errno.EPIPE, errno.EIO, errno.EBADF)  # a pipe or a terminal that nobody reads any more
_LOG_WIDTH = 160  # characters, where the output is no terminal


def escaped(text: str) -> str:
    r"""Return a text with control characters shown as escapes (``\x1b``), so that no terminal obeys them."""
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def readable(text: str, console: Console) -> str:
    """Return a text as the console will show it: escaped, and with characters that its encoding has."""
    shown = escaped(text)
    try:
        shown.encode(console.encoding)
    except (UnicodeEncodeError, LookupError):
        return "".join(c if c.isascii() else _readable(c, console.encoding) for c in shown)
    return shown


def complain(text: str) -> None:
    """Print a line to stderr, with passwords in addresses hidden."""
    print(escaped(mask(text)), file=sys.stderr, flush=True)


class SafeConsole(Console):
    """rich's console, on which control characters within texts are shown and not obeyed."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render, as rich does, and escape the texts."""
        for segment in super().render(renderable, options):
            if segment.control or not _CONTROLS.search(segment.text):
                yield segment
            else:
                yield Segment(escaped(segment.text), segment.style)


def make_console() -> SafeConsole:
    """Return the console for stdout: as wide as the terminal, 160 characters wide in a log file, or as COLUMNS says."""
    follows = "COLUMNS" in os.environ or (sys.stdout is not None and sys.stdout.isatty())
    return SafeConsole(width=None if follows else _LOG_WIDTH, markup=False, emoji=False)


def prepare_streams() -> None:
    """Let stdout and stderr show characters that their encoding lacks by others, and survive that they cannot be written.

    A pipe that closes early (``| head``), a terminal that is gone or a log file on a full disk does not end a sweep: from then
    on the output is dropped.
    """
    codecs.register_error(_REPLACE, _replace)
    sys.stdout, sys.stderr = _prepared(sys.stdout), _prepared(sys.stderr)


def say_when_unread(text: str) -> None:
    """Set the line for stderr when nobody reads stdout any more."""
    if isinstance(sys.stdout, _Enduring):
        sys.stdout.notice = text


def is_complete() -> bool:
    """Write what is left to write; return False if an error of writing lost some of stdout, be it not for want of a reader."""
    if not isinstance(sys.stdout, _Enduring):
        return True
    sys.stdout.flush()
    return sys.stdout.lost is None or sys.stdout.lost.errno in _GONE


def _prepared(stream: TextIO | None) -> TextIO:
    if stream is None:  # closed by the shell: >&-
        return Path(os.devnull).open("w", encoding="utf-8")
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    stream.flush()
    return _Enduring(stream.buffer, encoding=stream.encoding, errors=_REPLACE, line_buffering=stream.line_buffering)


class _Enduring(io.TextIOWrapper):
    """A stream that drops everything once it cannot be written."""

    lost: OSError | None = None  # why it cannot
    notice: str | None = None  # what to say on stderr if that is because nobody reads it

    def write(self, text: str) -> int:
        """Write a text, or drop it."""
        try:
            return super().write(text)
        except OSError as error:
            self._drop(error)
            return len(text)

    def flush(self) -> None:
        """Write what was kept back, or drop it."""
        try:
            super().flush()
        except OSError as error:
            self._drop(error)

    def _drop(self, error: OSError) -> None:
        self.lost = error
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)
        unread = error.errno in _GONE
        told = self.notice if unread else f"the output cannot be written ({explain(error)}); it is dropped from here on"
        if told is not None and self is sys.stdout:
            complain(told)


def _replace(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(_readable(character, error.encoding) for character in error.object[error.start : error.end]), error.end


def _readable(character: str, encoding: str) -> str:
    with suppress(UnicodeEncodeError, LookupError):
        return character.encode(encoding).decode(encoding)
    if unicodedata.category(character) == "Cs":  # half a character: a byte of a file's name that is no UTF-8
        return character.encode("unicode_escape").decode("ascii")
    plain = unicodedata.normalize("NFKD", character.translate(_READABLE))
    shown = plain.encode(encoding, "ignore").decode(encoding)
    return shown or "?"
