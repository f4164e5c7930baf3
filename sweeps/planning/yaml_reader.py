"""Reads YAML as people mean it: the line of everything, and no text that silently becomes a number, a date or true.

PyYAML reads YAML 1.1, in which ``3:4`` is 184, ``010`` is 8, ``off`` is false and ``2024-01-01`` is a date. These are refused
with the line and the words "quote it". Limits on size and depth keep a file from filling the memory (aliases of aliases) or
ending in a RecursionError.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml
from yaml.composer import Composer
from yaml.resolver import Resolver

from core.messages import Place, shown, unseen

#: Mappings and lists within one another, and values, aliases followed.
MAX_DEPTH, MAX_VALUES = 20, 20_000
#: Characters of one text, and digits of one number.
MAX_TEXT, MAX_DIGITS = 10_000, 40
#: Keys whose value is true or false, for which YAML 1.1's yes, no, on and off are no mistake.
_BOOLEANS = frozenset({"joint_forward", "early_stopping", "log", "zero"})
_TAG = "tag:yaml.org,2002:"


class NotReadableError(ValueError):
    """A text is no YAML, or more than is read; the message names the line."""


@dataclass
class Document:
    """What a YAML text says.

    Attributes:
        value: mappings, lists, texts, numbers, true, false and null.
        lines: place -> line, from 1.
        errors: values that YAML 1.1 takes for something else, keys that are given twice, and so on: place -> text.
    """

    value: Any = None
    lines: dict[Place, int] = field(default_factory=dict)
    errors: dict[Place, str] = field(default_factory=dict)

    def line(self, place: Place) -> int | None:
        """Return the line of a place, or of the nearest place around it; None if there is none."""
        return next((self.lines[place[:n]] for n in range(len(place), -1, -1) if place[:n] in self.lines), None)


def read_yaml(text: str, place: Place = ()) -> Document:
    """Read a YAML text.

    Args:
        text: the text.
        place: where the value belongs; decides whether ``on`` and ``off`` are meant as true and false.

    Raises:
        NotReadableError: if nothing can be read; whatever else is wrong is among the document's errors.
    """
    for number, line in enumerate(text.replace("\r\n", "\n").replace("\r", "\n").split("\n"), 1):
        if (code := unseen(line)) is not None:
            raise NotReadableError(f"line {number}: the character {code} does not belong there")
    try:
        root = _Nodes(_events(text)).get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = " ".join(filter(None, (error.context, error.problem)))
        hint = "; indent with spaces, not with tabs" if "\\t" in problem else ""
        raise NotReadableError((f"line {mark.line + 1}: " if mark else "") + f"no valid YAML: {problem}{hint}") from None
    except yaml.YAMLError as error:
        raise NotReadableError(f"no valid YAML: {' '.join(str(error).split())}") from None
    document = Document()
    if root is not None:
        _Measure().check(root)
        document.value = _Reading(document).value(root, place)
        document.lines = {found[len(place) :]: line for found, line in document.lines.items()}
        document.errors = {found[len(place) :]: error for found, error in document.errors.items()}
    return document


def _events(text: str) -> Iterator[yaml.Event]:
    depth = count = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise _too_deep(event)
        count += isinstance(event, yaml.NodeEvent)
        if count > MAX_VALUES:
            raise NotReadableError(f"more than {MAX_VALUES:,} values")
        yield event


def _too_deep(at: yaml.Event | yaml.Node) -> NotReadableError:
    line = f"line {at.start_mark.line + 1}: " if at.start_mark else ""
    return NotReadableError(f"{line}more than {MAX_DEPTH} mappings and lists within one another")


class _Nodes(Composer, Resolver):
    """Makes nodes of events, as PyYAML's own loaders do."""

    def __init__(self, events: Iterator[yaml.Event]) -> None:
        Composer.__init__(self)
        Resolver.__init__(self)
        self._events = events
        self._next: yaml.Event | None = next(events)

    def check_event(self, *choices: type[yaml.Event]) -> bool:
        return self._next is not None and (not choices or isinstance(self._next, choices))

    def peek_event(self) -> yaml.Event | None:
        return self._next

    def get_event(self) -> yaml.Event | None:
        event, self._next = self._next, next(self._events, None)
        return event


class _Measure:
    """Refuses what aliases make endless, too deep or too much."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[int, int] | None] = {}

    def check(self, root: yaml.Node) -> None:
        size, _ = self._measure(root)
        if size > MAX_VALUES:
            raise NotReadableError(f"more than {MAX_VALUES:,} values, with what its aliases stand for")

    def _measure(self, node: yaml.Node) -> tuple[int, int]:
        """Return the number of values and the depth of a node. Anchors stand before their aliases, so recursion is bounded."""
        if not isinstance(node, yaml.CollectionNode):
            return 1, 0
        if id(node) in self._known:
            known = self._known[id(node)]
            if known is None:
                raise NotReadableError(
                    f"line {node.start_mark.line + 1}: an alias stands within what it stands for, without end"
                )
            return known
        self._known[id(node)] = None
        children = [part for entry in node.value for part in (entry if isinstance(entry, tuple) else (entry,))]
        measured = [self._measure(child) for child in children]
        size, depth = 1 + sum(part for part, _ in measured), 1 + max((part for _, part in measured), default=0)
        if depth > MAX_DEPTH:
            raise _too_deep(node)
        self._known[id(node)] = size, depth
        return size, depth


class _Reading:
    """Turns nodes into values, and notes lines and errors."""

    def __init__(self, document: Document) -> None:
        self._document, self._resolver = document, Resolver()

    def value(self, node: yaml.Node, place: Place) -> Any:
        """Return the node's value; an erroneous one is noted, and returned as its text."""
        self._document.lines.setdefault(place, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            self._check_tag(node, place, "map")
            return self._mapping(node, place)
        if isinstance(node, yaml.SequenceNode):
            self._check_tag(node, place, "seq")
            return [self.value(child, (*place, index)) for index, child in enumerate(node.value)]
        assert isinstance(node, yaml.ScalarNode)
        value, error = self._scalar(node, place)
        self._note(place, error)
        return value

    def _note(self, place: Place, error: str | None) -> None:
        if error is not None:
            self._document.errors.setdefault(place, error)

    def _check_tag(self, node: yaml.Node, place: Place, kind: str) -> None:
        if node.tag != _TAG + kind:
            self._note(place, f"the tag {node.tag.replace(_TAG, '!!')} is not known here; write the value without it")

    def _mapping(self, node: yaml.MappingNode, place: Place) -> dict[str, Any]:
        own: dict[str, Any] = {}
        merges: list[yaml.Node] = []
        for key_node, value_node in node.value:
            if key_node.tag == f"{_TAG}merge":
                merges += value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]
                continue
            key, error = self._key(key_node, place)
            here = (*place, key)
            if key in own:
                error = f"the key {shown(key)} is given twice"
            self._document.lines[here] = key_node.start_mark.line + 1
            own[key] = self.value(value_node, here)
            if error is not None:
                self._document.errors[here] = error
        return {**self._merged(merges, place, own), **own}

    def _merged(self, merges: list[yaml.Node], place: Place, own: Mapping[str, Any]) -> dict[str, Any]:
        """Return what ``<<`` adds to a mapping's own keys; of several the first counts."""
        found: dict[str, Any] = {}
        for node in merges:
            if not isinstance(node, yaml.MappingNode):
                self._note(place, "a mapping, or a list of mappings, is needed after <<, e.g. <<: *name")
                continue
            apart = Document()  # lines and errors of keys that do not count are left there
            for name, value in _Reading(apart)._mapping(node, place).items():
                if name not in own and name not in found:
                    found[name] = value
                    self._take(apart, (*place, name))
            self._note(place, apart.errors.get(place))
        return found

    def _take(self, other: Document, place: Place) -> None:
        """Take over the lines and errors of a place and of all within it."""
        n = len(place)
        self._document.lines |= {at: line for at, line in other.lines.items() if at[:n] == place}
        self._document.errors |= {at: error for at, error in other.errors.items() if at[:n] == place}

    def _key(self, node: yaml.Node, place: Place) -> tuple[str, str | None]:
        if not isinstance(node, yaml.ScalarNode):
            return "?", "a key must be a text, not a list or a mapping"
        value, error = self._scalar(node, place)
        if error is None and not isinstance(value, str):
            what = f"the key {node.value} is" if node.value else "a key is empty, and"
            error = f"{what} read as {_kind(value)}; quote it: '{node.value}'"
        return node.value, error

    def _scalar(self, node: yaml.ScalarNode, place: Place) -> tuple[Any, str | None]:
        text, kind = node.value, node.tag.removeprefix(_TAG)
        if len(text) > MAX_TEXT:
            return text[:MAX_TEXT], f"a text of {len(text):,} characters; at most {MAX_TEXT:,} are possible"
        if (code := unseen(text)) is not None:
            return text, f"the character {code} does not belong there"
        if kind == "str":
            return text, None
        plain: str = self._resolver.resolve(yaml.ScalarNode, text, (True, False))  # type: ignore[no-untyped-call]
        if node.style or node.tag != plain:
            return text, f"the tag {node.tag.replace(_TAG, '!!')} is not known here; write the value without it"
        if kind == "null":
            return None, None
        if kind == "bool":
            return _boolean(text, place)
        return _number(text, kind)


def _boolean(text: str, place: Place) -> tuple[bool | str, str | None]:
    meant = text.lower() in ("true", "yes", "on")
    named = [part for part in place if isinstance(part, str)]
    if text.lower() in ("true", "false") or (named and named[-1] in _BOOLEANS):
        return meant, None
    return text, f"{text} is read as {'true' if meant else 'false'}; quote it: '{text}'"


def _number(text: str, kind: str) -> tuple[Any, str | None]:
    """Return the number that a plain scalar means, and what is wrong with it."""
    if kind == "timestamp":
        return text, f"{shown(text)} is read as a date; quote it: '{text}'"
    if kind not in ("int", "float"):
        return text, f"{text} has a meaning of its own in YAML; quote it: '{text}'"
    if ":" in text:
        return text, f"{text} is read as a number of base 60; quote it: '{text}'"
    if len(text) > MAX_DIGITS:
        return text, f"a number of {len(text):,} digits; at most {MAX_DIGITS} are possible"
    plain = text.replace("_", "").lower()
    bare = plain.lstrip("+-")
    if kind == "float":
        special = {".inf": math.inf, ".nan": math.nan}
        return (special[bare] * (-1 if plain.startswith("-") else 1) if bare in special else float(plain)), None
    if len(bare) > 1 and bare.isdigit() and bare.startswith("0"):
        return text, f"{text} is read as a number of base 8; write it without leading zeros, or quote it: '{text}'"
    try:
        return int(plain, 0), None
    except ValueError:  # 0x_
        return text, f"{text} is read as a number, and is none; quote it: '{text}'"


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    return shown(value) if isinstance(value, bool) else "a number"
