"""What a user may change in MLflow's UI, a run's name and its description: overwritten only as far as it is what we wrote."""

from __future__ import annotations

import re
from collections.abc import Mapping

from core.config import digest

RUN_NAME = "mlflow.runName"
NOTE = "mlflow.note.content"
#: Tag of a run: the name that we gave it last.
NAME_MARK = "name_given"
#: Tag of the sweep's run: length and digest of the description that we wrote last.
NOTE_MARK = "note_given"
FORMER_SUFFIX = " (former)"

#: Characters that MLflow keeps of a tag.
_LONGEST = 8000
#: A description of ours from before there was a mark.
_UNMARKED = re.compile(
    r"\*\*[^\n]*\*\*\n\n\| arm \| n \|.*?`report\.html` among the artifacts has [^\n]* differs from base\.", re.DOTALL
)


def name_tags(present: Mapping[str, str], wanted: str) -> dict[str, str]:
    """Return the tags to set so that a run is named as wanted; none of them is the name if the user gave it another one.

    Args:
        present: the run's tags.
        wanted: the name that we would give it.
    """
    name, given = present.get(RUN_NAME), present.get(NAME_MARK)
    ours = name is None or name in (given, wanted) or (given is None and _is_old_name(name, present))
    if not ours:
        return {}
    wanted_tags = {RUN_NAME: wanted, NAME_MARK: wanted}
    return {tag: value for tag, value in wanted_tags.items() if present.get(tag) != value}


def _is_old_name(name: str, tags: Mapping[str, str]) -> bool:
    """Return whether a run from before there was a mark has the name that its tags would have given it."""
    return tags.get("arm", "").startswith(re.sub(r" · seed \d+$", "", name))


def note_tags(present: Mapping[str, str], text: str) -> dict[str, str]:
    """Return the tags to set so that a run has this description, and what the user wrote before or after it; maybe none.

    Args:
        present: the run's tags.
        text: our description.
    """
    text, note, mark = text.strip(), present.get(NOTE), present.get(NOTE_MARK)
    if note is None and mark is None:
        before = after = ""
    elif (span := _span_of_ours(note or "", mark)) is not None:
        before, after = (note or "")[: span[0]], (note or "")[span[1] :]
    else:
        return {}  # the user's own, or one that the user deleted
    text = text[: max(0, _LONGEST - len(before) - len(after))]
    tags = {NOTE: before + text + after, NOTE_MARK: _mark(text)}
    return {tag: value for tag, value in tags.items() if present.get(tag) != value}


def _mark(text: str) -> str:
    return f"{len(text)} {digest(text)}"


def _span_of_ours(note: str, mark: str | None) -> tuple[int, int] | None:
    """Return where in a description the part is that we wrote last; None if it was changed."""
    if mark is None:
        found = _UNMARKED.search(note)
        return None if found is None else found.span()
    length = int(mark.split()[0])
    starts = range(len(note) - length + 1) if length else ()
    return next(((start, start + length) for start in starts if _mark(note[start : start + length]) == mark), None)
