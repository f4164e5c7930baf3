"""What the texts of single flags mean: seeds, arms, budgets and places; each is refused with the flag's name."""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass

from core.config import MAX_SEED
from core.errors import InputError
from core.messages import as_typed, unseen
from core.paths import is_remote
from sweeps.command_line import CommandLine
from sweeps.planning.grid import MAX_SEEDS

#: Characters of a flag's text, and bytes of a path and of each name in it, which file systems take.
_MAX_TEXT, _MAX_PATH, _MAX_FILE_NAME = 20_000, 4_000, 255
#: The longest budget, in hours, and the smallest share of a GPU that Ray counts with.
_MAX_HOURS, _MIN_SHARE = 1_000_000, 0.001
_BUDGET = re.compile(r"(?P<amount>\d+(\.\d+)?)\s*(?P<unit>s|m|min|h|(core|gpu)-?(h|hours?))", re.IGNORECASE | re.ASCII)
_SECONDS = {"s": 1, "m": 60, "min": 60, "h": 3600}


@dataclass(frozen=True)
class SeedBudget:
    """Limit on what a command may spend on further seeds.

    Attributes:
        text: the budget as typed.
        amount: seconds of wall time, core-hours or GPU-hours.
        unit: ``wall``, ``core`` or ``gpu``.
    """

    text: str
    amount: float
    unit: str


def text_errors(command: CommandLine) -> list[str]:
    """Return errors of flags that are empty or too long, hold characters that cannot be seen, or name no possible path."""
    given = {
        "--grid": command.grid, "--profile": command.profile, "--seeds": command.seeds, "--arms": command.arms,
        "--budget": command.budget, "--objectives": command.objectives, "--tracking-uri": command.tracking_uri,
        "--address": command.address, "--storage": str(command.storage), "--data": str(command.data_dir),
    }  # fmt: skip
    places = [flag for flag, path in (("--storage", command.storage), ("--data", command.data_dir)) if not is_remote(path)]
    places += ["--tracking-uri"] if (command.tracking_uri or "").startswith("sqlite:") else []
    errors = [f"{flag}: it is empty" for flag, text in given.items() if text is not None and not text.strip()]
    if re.match(r"\w+:/", str(command.data_dir)):
        errors.append(f"--data {as_typed(str(command.data_dir))}: a folder is needed, not a URL")
    texts = [(flag, text) for flag, text in given.items() if text] + [("--set", text) for text in command.settings]
    for flag, text in texts:
        if (code := unseen(text if flag == "--set" else text.replace("\n", "\r"))) is not None:
            errors.append(f"{flag} {as_typed(text)}: the character {code} does not belong there")
        elif len(text) > _MAX_TEXT:
            errors.append(f"{flag} {as_typed(text)}: it has {len(text):,} characters; at most {_MAX_TEXT:,} are possible")
        elif flag in places and (wrong := _path_error(text)):
            errors.append(f"{flag} {as_typed(text)}: {wrong}")
    return errors


def _path_error(text: str) -> str | None:
    longest = max(len(os.fsencode(part)) for part in text.split("/"))
    if longest > _MAX_FILE_NAME:
        return f"a name in it has {longest:,} bytes; file systems take at most {_MAX_FILE_NAME}"
    if len(os.fsencode(text)) > _MAX_PATH:
        return f"it has {len(os.fsencode(text)):,} bytes; at most {_MAX_PATH:,} are possible"
    return None


def parse_seeds(text: str | None) -> tuple[int, ...] | None:
    """Return the seeds: ``3`` means 0, 1 and 2, ``0,3`` is a list; None without a text.

    Raises:
        InputError: if the text is neither, or means too many seeds.
    """
    if text is None:
        return None
    parts = [part.strip() for part in text.removesuffix(",").split(",")]
    if not all(re.fullmatch(r"-?\d{1,30}", part, re.ASCII) for part in parts):
        raise InputError(f"--seeds {as_typed(text)}: a number of seeds, or a list such as 0,3,4, is needed")
    numbers = [int(part) for part in parts]
    count = len(numbers) if "," in text else numbers[0]
    if count > MAX_SEEDS:
        raise InputError(f"--seeds {as_typed(text)}: {count:,} seeds; at most {MAX_SEEDS:,} are possible")
    seeds = tuple(numbers) if "," in text else tuple(range(count))
    if not seeds or min(seeds) < 0 or max(seeds) > MAX_SEED or len(set(seeds)) < len(seeds):
        raise InputError(f"--seeds {as_typed(text)}: at least one seed, none negative, none twice, none above {MAX_SEED:,}")
    return seeds


def parse_arms(text: str | None) -> list[str] | None:
    """Return the pieces of ``--arms`` between commas, of which a name may hold some; None without a text.

    Raises:
        InputError: if it names none.
    """
    if text is None:
        return None
    if not text.replace(",", "").strip():
        raise InputError("--arms: no arm is named")
    return text.split(",")


def parse_budget(command: CommandLine) -> SeedBudget | None:
    """Return the budget: ``30m`` or ``2h`` of wall time, ``4core-h`` or ``1.5gpu-h``; None without ``--until-decided``.

    Raises:
        InputError: if it is missing, or none of these, or without end.
    """
    if not command.until_decided:
        if command.budget is not None:
            raise InputError("--budget: it goes with --until-decided, which is missing")
        return None
    if command.budget is None:
        raise InputError("--until-decided: say what it may cost with --budget, e.g. 30m, 2h, 4core-h or 1.5gpu-h")
    found = _BUDGET.fullmatch(command.budget.strip())
    if found is None or float(found["amount"]) == 0:
        raise InputError(f"--budget {as_typed(command.budget)}: give a time, e.g. 30m, 2h, 4core-h or 1.5gpu-h")
    unit, amount = found["unit"].lower(), float(found["amount"])
    if amount * _SECONDS.get(unit, 3600) > _MAX_HOURS * 3600:
        raise InputError(f"--budget {as_typed(command.budget)}: at most {_MAX_HOURS:,} hours are possible")
    if unit in _SECONDS:
        return SeedBudget(command.budget, amount * _SECONDS[unit], "wall")
    return SeedBudget(command.budget, amount, unit[:4] if unit.startswith("core") else "gpu")


def share_error(share: float | None) -> str | None:
    """Return why a share of a GPU is refused, whatever GPUs there are; None for a possible one."""
    if share is None or share == 0 or (math.isfinite(share) and share >= _MIN_SHARE):
        return None
    return f"--gpus-per-trial {share}: 0, a share of at least {_MIN_SHARE}, or a whole number is needed"
