"""Writers that take turns, one file operation at a time, in an order that a test chooses; one may die at any of them."""

from __future__ import annotations

import fcntl
import os
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

_OPERATIONS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "fcntl.flock"}
_active: list[Turns] = []  # the one that the audit hook asks; a hook cannot be taken away again


class Death(BaseException):
    """A writer's end at an instant: whatever it still tries on the files (to tidy up, say) fails the same way."""


class Turns:
    """Runs functions in threads of which one goes on at a time, from one file operation to the next."""

    def __init__(self, folder: Any, order: Sequence[int], dies: tuple[int, int] | None, look: Callable[[], None]) -> None:
        """Nothing runs yet.

        Args:
            folder: operations below it count.
            order: the writers' numbers; who goes on next, over and over.
            dies: the writer that dies, and before which of its operations; None: nobody.
            look: called between any two operations; may raise.
        """
        self._folder, self._order, self._dies, self._look = str(folder), list(order), dies, look
        self._condition = threading.Condition()
        self._numbers: dict[int, int] = {}
        self._able: set[int] = set()  # neither over nor waiting for a lock
        self._steps: dict[int, int] = {}
        self._turn, self._position = -1, 0
        self._looking: int | None = None  # whose operations are look's: they count for nobody
        self.errors: dict[int, BaseException] = {}

    def run(self, *writers: Callable[[], None]) -> None:
        """Runs the writers to their ends. What one raised is in ``errors`` under its number."""
        threads = [threading.Thread(target=self._live, args=(i, w), daemon=True) for i, w in enumerate(writers)]
        self._able = set(range(len(writers)))
        self._steps = dict.fromkeys(self._able, 0)
        with self._condition:
            self._pass_on()
        _active[:] = [self]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(60)
                assert not thread.is_alive(), "the writers wait for each other"
        finally:
            _active.clear()

    def _live(self, number: int, writer: Callable[[], None]) -> None:
        self._numbers[threading.get_ident()] = number
        try:
            writer()
        except BaseException as error:
            self.errors[number] = error
        finally:
            with self._condition:
                self._able.discard(number)
                self._pass_on()

    def _pass_on(self) -> None:
        """Chooses who goes on; in the condition's lock."""
        if self._able:
            while self._order[self._position % len(self._order)] not in self._able and len(self._able) < len(self._steps):
                self._position += 1
                if self._position % len(self._order) == 0:  # the order names nobody who can
                    break
            wanted = self._order[self._position % len(self._order)]
            self._turn = wanted if wanted in self._able else min(self._able)
            self._position += 1
        self._condition.notify_all()

    def step(self, event: str, arguments: tuple[Any, ...]) -> None:
        """An operation of this thread is next: the turn goes to whoever is to have it, and this thread waits for its own."""
        number = self._numbers.get(threading.get_ident())
        if number is None or self._looking == number:
            return
        if event != "fcntl.flock" and not _text(arguments[0]).startswith(self._folder):
            return
        if isinstance(self.errors.get(number), Death):
            raise Death
        with self._condition:
            if event == "fcntl.flock" and not arguments[1] & fcntl.LOCK_NB:
                self._able.discard(number)  # until the system gives it the lock
                self._pass_on()
                return
            self._able.add(number)
            self._pass_on()
            while self._turn != number:
                self._condition.wait(60)
            self._looking = number
            try:
                self._look()
            finally:
                self._looking = None
            self._steps[number] += 1
            if self._dies == (number, self._steps[number]):
                self.errors[number] = Death()
                raise Death


def _text(path: Any) -> str:
    try:
        return os.fsdecode(path) if not isinstance(path, int) else ""
    except TypeError:
        return ""


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _active and event in _OPERATIONS:
        _active[0].step(event, arguments)


def install() -> None:
    """Have Python tell of file operations; once in a process."""
    if not getattr(sys, "_tells_of_files", False):
        sys._tells_of_files = True  # type: ignore[attr-defined]
        sys.addaudithook(_hook)
