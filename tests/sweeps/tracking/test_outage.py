"""An MLflow server that goes away for a while: nothing lost, nothing said twice (a real one: tests/cluster/test_urls.py)."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from sweeps.storage.trial_store import TrialStore
from sweeps.tracking import queued_writer
from sweeps.tracking.parent_run import SweepSummary
from sweeps.tracking.runs import RunWriter
from tests.servers import server_of_health
from tests.sweeps.tiny import tiny_plan

SUMMARY = SweepSummary("FINISHED", {}, 0.0, ())


def test_what_a_server_that_is_away_did_not_hear_is_told_in_order_once_it_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queued_writer, "_PAUSE", 0.05)
    monkeypatch.setattr(RunWriter, "open", lambda _: None)
    monkeypatch.setattr(RunWriter, "close", lambda *_: None)
    said: list[str] = []
    heard: list[int] = []
    with server_of_health() as server:
        uri = f"http://me:top-secret@127.0.0.1:{server.server_port}"
        plan, store = tiny_plan(tmp_path, {}), TrialStore(tmp_path)
        watcher = queued_writer.QueuedWriter(uri, plan, store, "", said.append)

        def hear(number: int) -> None:
            if number == 2 and server.healthy and not said:  # type: ignore[attr-defined]
                server.healthy = False  # type: ignore[attr-defined]
                threading.Timer(0.5, lambda: setattr(server, "healthy", True)).start()
            if not server.healthy:  # type: ignore[attr-defined]
                raise ConnectionError("gone")
            heard.append(number)

        for number in range(5):
            watcher._tell("", lambda number=number: hear(number))  # type: ignore[misc]
        watcher.close(SUMMARY)
    assert heard == [0, 1, 2, 3, 4] and watcher.problem is None
    assert "is away" in said[0] and "120 s at most" in said[1] and "back after" in said[2] and len(said) == 3
    assert "me:***@127.0.0.1" in said[0] and "top-secret" not in "".join(said)


@pytest.mark.parametrize("healthy", [True, False])
def test_a_server_that_stays_away_or_fails_again_and_again_is_given_up_in_the_end(
    healthy: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queued_writer, "_PAUSE", 0.05)
    monkeypatch.setattr(RunWriter, "open", lambda _: None)
    tries: list[int] = []
    with server_of_health() as server:
        server.healthy = healthy  # type: ignore[attr-defined]
        uri, plan, store = f"http://127.0.0.1:{server.server_port}", tiny_plan(tmp_path, {}), TrialStore(tmp_path)
        watcher = queued_writer.QueuedWriter(uri, plan, store, "")

        def fail() -> None:
            tries.append(1)
            raise ConnectionError("cut")

        watcher._tell("", fail)
        time.sleep(1)
        assert healthy or watcher.problem is None, "while trials run it is waited for"
        watcher.close(SUMMARY, patience=0.3)
        watcher.close(SUMMARY)  # as after a second Ctrl-C: no more waiting
    assert watcher.problem == "ConnectionError: cut" and len(tries) == (queued_writer._ATTEMPTS if healthy else 1)
