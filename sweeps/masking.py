"""Hides passwords in addresses, wherever these are printed or stored."""

from __future__ import annotations

import re
from urllib.parse import unquote

#: Stands for a password.
MASK = "***"

#: ``scheme://user:password@``; a password may hold any character but a space, so it ends at the last @.
_USER_INFO = re.compile(r"(?P<before>[A-Za-z][\w+.-]*://[^\s:/?#@]*:)(?P<secret>\S*)(?=@)")
#: ``?password=...``, also with ``%3D`` for ``=`` (inside ``odbc_connect=``).
_IN_QUERY = re.compile(
    r"(?P<before>(?:[?&;]|%3B)\s*(?:[\w-]*(?:password|passwd|pwd|passwort|token|secret)[\w-]*|[\w-]*(?:api|access)_?key[\w-]*)"
    r"(?:=|%3D))(?P<secret>(?:(?!%3B)[^\s&;#'\"])+)",
    re.IGNORECASE,
)
#: Shorter passwords are hidden where they stand in an address, but not elsewhere in a text, which would become unreadable.
_SHORTEST_ALONE = 5


def mask(text: str, *addresses: str) -> str:
    """Return a text with ``***`` in place of each password.

    Args:
        text: any text; what has the form of an address with a password, or of a password in a query, is masked.
        addresses: addresses whose passwords are masked wherever the text holds them.
    """
    for pattern in (_USER_INFO, _IN_QUERY):
        text = pattern.sub(rf"\g<before>{MASK}", text)
    for secret in sorted({secret for address in addresses for secret in _secrets(address)}, key=len, reverse=True):
        if len(secret) >= _SHORTEST_ALONE:
            text = text.replace(secret, MASK)
    return text


def _secrets(address: str) -> set[str]:
    """Return the passwords in an address, as they are written there and decoded."""
    found = {match["secret"] for pattern in (_USER_INFO, _IN_QUERY) for match in pattern.finditer(address)}
    return (found | {unquote(secret) for secret in found}) - {MASK}
