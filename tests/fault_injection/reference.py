"""The undisturbed sweep of two arms and one epoch, against which :mod:`tests.fault_injection.chaos` holds the others."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from core.atomic_files import atomic_write
from core.locks import file_lock
from tests.conftest import TINY, image_folder
from tests.fault_injection.sweep_command import Command

LIMIT = 600.0  # seconds for one command
TRIES = 3  # of a command for which Ray did not start, before it had anything to do with a fault


def too_busy(command: Command) -> bool:
    """Whether a command ended because Ray (2.60) did not start within its 30 seconds, as on a machine that does much else."""
    return "timed out during startup" in command.log.read_text(errors="replace")


@dataclass
class Reference:
    """The sweep that nobody disturbed: its points, and its finished storage, kept to be damaged."""

    folder: Path

    @property
    def command(self) -> Command:
        return Command(self.folder / "whole", self.folder / "chaos.yaml", self.folder / "data")

    @property
    def kept(self) -> Path:
        return self.folder / "kept"

    @property
    def points(self) -> list[str]:
        events = self.command.events()
        named = [f"{e['what']} {e.get('name') or ' '.join(filter(None, (e['trial'], str(e['epoch'] or ''))))}" for e in events]
        return sorted(set(named))

    @property
    def files(self) -> list[str]:
        found = [p for part in ("trials", "sweeps") for p in (self.kept / part).rglob("*") if p.is_file()]
        return sorted(str(p.relative_to(self.kept)) for p in found)

    def make(self) -> None:
        """Runs it, unless it is there."""
        with file_lock(self.folder / "lock"):
            if (self.folder / "made.json").exists():
                return
            for name in ("whole", "kept", "images", "data"):
                shutil.rmtree(self.folder / name, ignore_errors=True)
            images = image_folder(self.folder / "images", train=120, test=40)
            base = {**TINY, "dataset": f"folder:{images}", "anomaly_datasets": [], "epochs": 1}
            grid = {"question": "Is anything lost?", "base": base, "arms": {"n": {"pairing": "neighbors"}}}
            (self.folder / "chaos.yaml").write_text(yaml.safe_dump(grid))
            command = self.command
            command.environment = {"CHAOS_STORAGE": str(command.storage)}
            for _ in range(TRIES):
                command.audit.unlink(missing_ok=True)
                began = time.monotonic()
                command.start()
                if command.end(LIMIT) == 0 or not too_busy(command):
                    break
            if command.process.returncode != 0:
                raise RuntimeError(command.log.read_text())
            shutil.copytree(command.storage, self.kept)
            with atomic_write(self.folder / "made.json") as made:
                made.write_text(json.dumps({"seconds": time.monotonic() - began}))


@contextmanager
def reference(folder: Path | None) -> Iterator[Reference]:
    """The undisturbed sweep: in a folder, where it stays, or in one of a moment."""
    with ExitStack() as stack:
        given = folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="c-", dir="/tmp")))
        whole = Reference(given.resolve())
        whole.folder.mkdir(parents=True, exist_ok=True)
        whole.make()
        yield whole
