"""Hides passwords in addresses, wherever these are printed or stored."""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import unquote

#: Stands for a password.
MASK = "***"

#: ``://user:`` of ``scheme://user:password@``; a password may hold any character but a space, so it ends at the last @.
_USER = re.compile(r"://[^:/?#@]*:")
#: ``http://token@``, also ``http://token:@``: who stands alone there, with 20 characters or more, is taken for a token.
_TOKEN = re.compile(r"https?://(?P<secret>[^\s:/?#@]{20,}):?@", re.IGNORECASE)
#: The name in ``?password=...``, also with ``%3D`` for ``=`` (inside ``odbc_connect=``), and what follows a name.
_IN_QUERY = re.compile(r"(?:[?&;]|%3B)\s*(?P<name>[\w-]+)(?:=|%3D)", re.IGNORECASE)
_VALUE = re.compile(r"(?:(?!%3B)[^\s&;#'\"])*", re.IGNORECASE)
_SECRET_NAME = re.compile(r"password|passwd|pwd|passwort|token|secret|(?:api|access)_?key|signature|^sig$", re.IGNORECASE)
#: Shorter passwords are hidden where they stand in an address, but not elsewhere in a text, which would become unreadable.
_SHORTEST_ALONE = 5


def mask(text: str, *addresses: str) -> str:
    """Return a text with ``***`` in place of each password.

    Args:
        text: any text; what has the form of an address with a password, or of a password in a query, is masked.
        addresses: addresses whose passwords are masked wherever the text holds them.
    """
    for find in _FINDERS:
        text = _replaced(text, find(text))
    for secret in sorted({secret for address in addresses for secret in _secrets(address)}, key=len, reverse=True):
        if len(secret) >= _SHORTEST_ALONE:
            text = text.replace(secret, MASK)
    return text


def _secrets(address: str) -> set[str]:
    """Return the passwords in an address, as they are written there and decoded."""
    found = {address[start:end] for find in _FINDERS for start, end in find(address)}
    return (found | {unquote(secret) for secret in found}) - {MASK}


def _replaced(text: str, spans: Sequence[tuple[int, int]]) -> str:
    ends = [0, *(end for _, end in spans)]
    starts = [*(start for start, _ in spans), len(text)]
    return MASK.join(text[end:start] for end, start in zip(ends, starts, strict=True))


# Each finds, in one pass over the text, where secrets begin and end: an error's text may be long.


def _tokens(text: str) -> list[tuple[int, int]]:
    return [match.span("secret") for match in _TOKEN.finditer(text)]


def _in_user_info(text: str) -> list[tuple[int, int]]:
    found = []
    for word in re.finditer(r"\S+", text):  # a word holds one address, for a password may hold what begins another
        end = word.start() + max(word[0].rfind("@"), 0)
        if (user := _USER.search(text, word.start(), end)) is not None:
            found.append((user.end(), end))
    return found


def _in_query(text: str) -> list[tuple[int, int]]:
    found, at = [], 0
    while (key := _IN_QUERY.search(text, at)) is not None:
        at = key.end()
        if _SECRET_NAME.search(key["name"]) and (value := _VALUE.match(text, at)) and value[0]:
            found.append(value.span())
            at = value.end()
    return found


_FINDERS = (_tokens, _in_user_info, _in_query)
