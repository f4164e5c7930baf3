"""An MLflow server that goes away for a while: nothing lost, nothing said twice (a real one: tests/cluster/test_urls.py)."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from sweeps.tracking import tracker
from tests.servers import server_of_health
from tests.sweeps.test_engine import tiny_plan


def test_what_a_server_that_is_away_did_not_hear_is_told_in_order_once_it_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracker, "_PAUSE", 0.05)
    monkeypatch.setattr(tracker.Tracker, "_open", lambda _: None)
    monkeypatch.setattr(tracker.Tracker, "_close", lambda *_: None)
    said: list[str] = []
    heard: list[int] = []
    with server_of_health() as server:
        tracker = tracker.Tracker(
            f"http://127.0.0.1:{server.server_port}", tmp_path, tiny_plan(tmp_path, {}), None, "", said.append  # type: ignore[arg-type]
        )  # fmt: skip

        def hear(number: int) -> None:
            if number == 2 and server.healthy and not said:  # type: ignore[attr-defined]
                server.healthy = False  # type: ignore[attr-defined]
                threading.Timer(0.5, lambda: setattr(server, "healthy", True)).start()
            if not server.healthy:  # type: ignore[attr-defined]
                raise ConnectionError("gone")
            heard.append(number)

        for number in range(5):
            tracker._queue.put(lambda number=number: hear(number))  # type: ignore[misc]
        tracker.close(status="FINISHED", metrics={}, moment=0, artifacts=[])
    assert heard == [0, 1, 2, 3, 4] and tracker.problem is None
    assert "is away" in said[0] and "120 s at most" in said[1] and "back after" in said[2] and len(said) == 3


@pytest.mark.parametrize("healthy", [True, False])
def test_a_server_that_stays_away_or_refuses_is_given_up_in_the_end(
    healthy: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracker, "_PAUSE", 0.05)
    monkeypatch.setattr(tracker.Tracker, "_open", lambda _: None)
    tries: list[int] = []
    with server_of_health() as server:
        server.healthy = healthy  # type: ignore[attr-defined]
        tracker = tracker.Tracker(f"http://127.0.0.1:{server.server_port}", tmp_path, tiny_plan(tmp_path, {}), None, "")  # type: ignore[arg-type]

        def refuse() -> None:
            tries.append(1)
            raise ValueError("no such thing")

        tracker._queue.put(refuse)
        time.sleep(1)
        assert healthy or tracker.problem is None, "while trials run it is waited for"
        tracker.close(status="FINISHED", metrics={}, moment=0, artifacts=[], patience=0.3)
        tracker.close(status="FAILED", metrics={}, moment=0, artifacts=[])  # as after a second Ctrl-C: no more waiting
    assert tracker.problem == "ValueError: no such thing" and len(tries) == (tracker._ATTEMPTS if healthy else 1)
