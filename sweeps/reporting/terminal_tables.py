"""Tables for the terminal: numbers and verdicts are whole at every width, and columns that do not fit are named."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sweeps.analysis.arm_summary import ArmSummary
from sweeps.analysis.search_result import SearchResult
from sweeps.analysis.shapley import Decomposition
from sweeps.formatting import interval_text
from sweeps.planning.trial import Plan
from sweeps.reporting.tables import QUANTITIES, cell, columns_of
from sweeps.storage.records import LOST, TrialStatus
from sweeps.terminal import readable

#: Rows of a table that are printed unless all are asked for.
MAX_ROWS = 40
_LEAST = 10  # characters of a column of words, whose longer words are broken
_LEAST_NAME = 4  # characters of a name, which is broken only where nothing else helps
#: How a table is made to fit: deviations below their means and columns left out; no borders; names broken.
_FORMS = ((False, False, False), (True, False, False), (True, False, True), (True, True, True))


@dataclass
class TextColumn:
    """A column of a table for the terminal.

    Attributes:
        name: its name, also for the line that says what is not shown.
        head: what stands above it.
        cells: its texts.
        right: whether it is set to the right.
        needed: whether it is shown at every width.
        kind: ``number``: breaks before ``±`` alone; ``name``: is broken where nothing else helps; ``words``: breaks between
            words.
    """

    name: str
    head: str
    cells: list[str]
    right: bool = False
    needed: bool = False
    kind: str = "number"

    def natural(self) -> int:
        """Characters of its widest text."""
        return max(cell_len(text) for text in (self.head, *self.cells))

    def least(self, *, stacked: bool = False, broken: bool = False) -> int:
        """Characters of its widest part that stays together.

        Args:
            stacked: whether a deviation may stand below its mean.
            broken: whether names may be broken.
        """
        head = _longest_word(self.head)
        if self.kind == "words":
            return max(head, min(_LEAST, max(map(_longest_word, self.cells), default=0)))
        if self.kind == "name" and broken:
            return max(head, _LEAST_NAME)
        texts = [line for text in self.cells for line in (_stack(text) if stacked else text).split("\n")]
        return max([head, *map(cell_len, texts)])


def show(
    console: Console,
    title: str,
    columns: Sequence[TextColumn],
    where: str = "a wider window",
    *,
    total: int | None = None,
    verbose: bool = False,
) -> None:
    """Print a table as wide as the console at most, and lines that say which rows and columns are left out.

    Args:
        console: where to print.
        title: what stands above the table.
        columns: all columns, in order; those that are not ``needed`` are left out from the last one on.
        where: where to find the columns that are left out.
        total: how many rows there are in all, if ``columns`` holds only the first :data:`MAX_ROWS` of them.
        verbose: whether to print every row; else the first :data:`MAX_ROWS`.
    """
    total = len(columns[0].cells) if total is None else total
    if not verbose:
        columns = [replace(column, cells=column.cells[:MAX_ROWS]) for column in columns]
    for column in columns:
        column.head, column.cells = readable(column.head, console), [readable(text, console) for text in column.cells]
    table, left_out = _fitted(title, columns, console.width)
    console.print(table)
    if more := total - len(columns[0].cells):
        console.print(f"{more} more rows: --verbose shows them", highlight=False, soft_wrap=True)
    if left_out:
        console.print(f"not shown: {', '.join(left_out)}: see {where}", highlight=False, soft_wrap=True)


def results_columns(
    plan: Plan, summaries: Sequence[ArmSummary], verdicts: Mapping[str, str]
) -> list[TextColumn]:  # fmt: skip
    """Return the columns of the table at the end: mean, standard deviation over several seeds, and each arm's verdict."""
    columns = [
        TextColumn("arm", "arm", [summary.arm for summary in summaries], needed=True, kind="name"),
        TextColumn("n", "n", [str(len(summary.done)) for summary in summaries], right=True, needed=True),
    ]
    for name in columns_of(plan):
        cells = [cell(summary, name) for summary in summaries]
        columns.append(TextColumn(name, name.replace("_", " "), cells, right=True, needed=name == plan.grid.primary))
    if verdicts:
        cells = [verdicts.get(summary.arm, "") for summary in summaries]
        columns.append(TextColumn("verdict", f"{plan.grid.primary.replace('_', ' ')} to base", cells, needed=True))
    if any(summary.state != TrialStatus.DONE for summary in summaries):
        columns.append(TextColumn("state", "state", [_state(summary) for summary in summaries], needed=True, kind="words"))
    return columns


def contributions_title(found: Decomposition, *, provisional: bool) -> str:
    """Return the title of the table of what a factorial's switches contribute."""
    left_out = f" (without seed {', '.join(map(str, found.missing))})" if found.missing else ""
    return (
        f"{'provisional: ' if provisional else ''}what each part contributes to {found.metric.replace('_', ' ')}, "
        f"n = {len(found.seeds)}{left_out}; intervals are not corrected"
    )


def contributions_columns(found: Decomposition) -> list[TextColumn]:
    """Return the columns of the table of what a factorial's switches contribute, with the sums over them."""
    parts = found.contributions
    columns = [TextColumn("part", "part", [*(part.name for part in parts), "sum"], needed=True, kind="name")]
    for name in QUANTITIES:
        estimates = [getattr(part, name) for part in parts]
        head = {"shapley": "Shapley value", "left_out": "left out", "alone": "alone"}[name]
        cells = [*(f"{estimate.value:+.4f}" for estimate in estimates), f"{sum(e.value for e in estimates):+.4f}"]
        columns.append(TextColumn(head, head, cells, right=True, needed=True))
        if name == "shapley":
            intervals = [*(interval_text(estimate.interval) for estimate in estimates), ""]
            columns.append(TextColumn("95 % interval", "95 % interval", intervals, right=True))
    return columns


def points_columns(result: SearchResult) -> list[TextColumn]:
    """Return the columns of the table of a search's points."""
    objectives = result.search.objectives
    head, rows = result.rows()
    columns = []
    for i, name in enumerate(head):
        cells = [row[i] for row in rows]
        if name in objectives:
            cells = [f"{float(text):.4f}" if text else "" for text in cells]
        kind = {"point": "name", "reason": "words"}.get(name, "number")
        columns.append(TextColumn(name, name, cells, needed=name in ("point", "chosen", *objectives), kind=kind))
    return columns


def _state(summary: ArmSummary) -> str:
    lost = next((record.reason for record in summary.records if record.status in LOST), None)
    return summary.state + (f": {textwrap.shorten(lost, 60)}" if lost else "")


def _fitted(title: str, columns: Sequence[TextColumn], width: int) -> tuple[Table, list[str]]:
    """Return the table, in the first of four forms that fits, and the names of the columns that are left out."""
    if _total([column.natural() for column in columns], plain=False) <= width:
        return _table(title, columns, [None] * len(columns), str, plain=False), []
    for stacked, broken, plain in _FORMS:
        least = {column.name: column.least(stacked=stacked, broken=broken) for column in columns}
        shown = [column for column in columns if column.needed or not stacked]
        for column in columns:
            if column not in shown and _total([least[c.name] for c in (*shown, column)], plain=plain) <= width:
                shown.append(column)
        shown = [column for column in columns if column in shown]
        widths = [least[column.name] for column in shown]
        room = width - _total(widths, plain=plain)
        if room >= 0 or (stacked, broken, plain) == _FORMS[-1]:
            break
    widths = _widened(shown, widths, room, stacked=stacked)
    left_out = [column.name for column in columns if column not in shown]
    return _table(title, shown, widths, _stack if stacked else str, plain=plain), left_out


def _widened(columns: Sequence[TextColumn], widths: Sequence[int], room: int, *, stacked: bool) -> list[int]:
    """Return the widths with the room that is left given to those that gain by it: names, words, then heads of numbers."""
    given = list(widths)
    for kind in ("name", "words", "number"):
        for i, column in enumerate(columns):
            if column.kind == kind and room > 0:
                wanted = max(column.least(stacked=stacked), cell_len(column.head)) if kind != "words" else column.natural()
                more = max(0, wanted - given[i])
                if kind == "words" or more <= room:
                    more = min(room, more)
                    given[i], room = given[i] + more, room - more
    return given


def _total(widths: Sequence[int], *, plain: bool) -> int:
    """Characters of a line; with borders each column takes three more, plain ones are parted by one space."""
    return sum(widths) + (len(widths) - 1 if plain else 3 * len(widths) + 1)


def _table(
    title: str, columns: Sequence[TextColumn], widths: Sequence[int | None], shown: Callable[[str], str], *, plain: bool
) -> Table:  # fmt: skip
    table = Table(
        title=Text(title, style="table.title"),
        title_justify="left",
        box=box.SIMPLE_HEAD if plain else box.HEAVY_HEAD,
        padding=(0, 0) if plain else (0, 1),
        show_edge=not plain,
    )
    for column, width in zip(columns, widths, strict=True):
        table.add_column(column.head, justify="right" if column.right else "left", width=width, overflow="fold",
                         no_wrap=width is None and column.kind == "name")  # fmt: skip
    for row in zip(*(column.cells for column in columns), strict=True):
        table.add_row(*map(shown, row))
    return table


def _stack(text: str) -> str:
    return text.replace(" ± ", "\n± ").replace(" +- ", "\n+- ")


def _longest_word(text: str) -> int:
    return max((cell_len(word) for word in text.split()), default=0)
