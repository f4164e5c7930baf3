"""What was planned and what verdicts were shown: a sweep's file ``looks.json``, by which the test of a verdict is chosen.

A look is a verdict shown. The first one, at the number of seeds that was planned before it, is made by the test for a fixed
number of seeds. Whoever looks again with more seeds, or stops before the planned number, chose the number by what was seen:
from then on the verdicts are made by the test that stays valid under that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from sweeps.storage.checked_folder import CheckedFolder, DamagedFileError
from sweeps.storage.trial_state import parse_mapping

LOOKS = "looks.json"


@dataclass(frozen=True)
class Looks:
    """The looks at a sweep.

    Attributes:
        planned: arm -> the largest number of seeds that a command planned before the arm's first verdict.
        shown: arm -> the numbers of seeds at which verdicts were shown, in order.
        lost: whether the record of earlier looks was damaged or removed.
    """

    planned: Mapping[str, int] = field(default_factory=dict)
    shown: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    lost: bool = False

    def is_planned(self, seeds: Mapping[str, int]) -> bool:
        """Return whether verdicts at these numbers of seeds are first looks, or the same again, at the planned numbers."""
        first = all(self.shown.get(arm, (n,)) == (n,) and self.planned.get(arm, n) == n for arm, n in seeds.items())
        return first and not self.lost

    @property
    def count(self) -> int:
        """How many looks there were: the most of an arm."""
        return max(map(len, self.shown.values()), default=0)

    def with_plan(self, seeds: Mapping[str, int]) -> Looks:
        """Return the looks after a command planned these numbers of seeds."""
        more = {arm: max(n, self.planned.get(arm, 0)) for arm, n in seeds.items() if arm not in self.shown}
        return replace(self, planned={**self.planned, **more})

    def with_look(self, seeds: Mapping[str, int]) -> Looks:
        """Return the looks after verdicts were shown at these numbers of seeds."""
        more = {arm: (*self.shown.get(arm, ()), n) for arm, n in seeds.items() if n not in self.shown.get(arm, ())}
        return replace(self, shown={**self.shown, **more})


def read_looks(files: CheckedFolder) -> Looks:
    """Return the looks at a sweep; if their file is damaged or gone, they are lost, and no look counts as the first.

    Args:
        files: the sweep's folder.
    """
    try:
        found = files.load(LOOKS, _parse)
    except DamagedFileError:
        found = None
    return Looks(lost=files.digest(LOOKS) is not None) if found is None else found


def write_looks(files: CheckedFolder, looks: Looks) -> None:
    """Write the looks, if they are others than those in the file."""
    if looks not in (read_looks(files), Looks()):
        shown = {arm: list(numbers) for arm, numbers in looks.shown.items()}
        files.write_json(LOOKS, {"planned": dict(looks.planned), "shown": shown, "lost": looks.lost})


def _parse(content: bytes) -> Looks:
    found = parse_mapping(content)
    planned = {str(arm): int(n) for arm, n in found["planned"].items()}
    shown = {str(arm): tuple(int(n) for n in numbers) for arm, numbers in found["shown"].items()}
    return Looks(planned, shown, bool(found["lost"]))
