"""Settings of a process for the length of a training: what the C library is told of memory."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from core import compute_settings as module
from core.compute_settings import compute_settings


def test_memory_is_kept_where_the_c_library_can_do_so(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[int, int]] = []
    library = SimpleNamespace(mallopt=lambda *option: told.append(option))
    monkeypatch.setattr(module, "ctypes", SimpleNamespace(CDLL=lambda _: library))
    with compute_settings(1):
        assert told == [(-3, 32 * 2**20), (-1, 2**30)], "glibc's M_MMAP_THRESHOLD and M_TRIM_THRESHOLD"


@pytest.mark.parametrize("missing", [OSError, AttributeError, TypeError])
def test_another_c_library_is_left_alone(missing: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: Any) -> Any:
        raise missing

    monkeypatch.setattr(module, "ctypes", SimpleNamespace(CDLL=refuse))
    with compute_settings(1):
        pass
