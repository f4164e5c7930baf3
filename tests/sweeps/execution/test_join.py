"""Joining a cluster: why it cannot be joined is one message that names the address and where it comes from."""

from __future__ import annotations

import pytest
import ray

from core.errors import InputError
from sweeps.execution import cluster, ray_private, watch
from tests.servers import free_port


@pytest.fixture(autouse=True)
def nothing_is_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(_: str) -> None:
        raise AssertionError("it was joined")

    monkeypatch.setattr(cluster, "_init", init)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def test_an_address_at_which_nothing_listens_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(_: str) -> None:
        raise AssertionError("Ray was asked, which waits")

    monkeypatch.setattr(ray_private, "check_answer", ask)
    address = f"127.0.0.1:{free_port()}"
    with pytest.raises(InputError, match=rf"^--address {address}: no Ray cluster answers there \(.*refused"):
        cluster.join(address)
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(InputError, match=rf"^RAY_ADDRESS={address} \(environment\): no Ray cluster answers there"):
        cluster.join(address)
    with pytest.raises(InputError, match="HOST:PORT of a cluster's head is needed"):
        cluster.join("http://127.0.0.1:8265")


@pytest.mark.skipif(not ray_private.authentication_errors(), reason="before Ray 2.52 there were no tokens")
def test_a_token_that_the_cluster_does_not_accept_is_named_with_where_tokens_come_from(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: str) -> None:
        raise ray.exceptions.AuthenticationError("invalid token")

    monkeypatch.setattr(watch, "connect_problem", lambda _: None)
    monkeypatch.setattr(ray_private, "check_answer", refuse)
    with pytest.raises(InputError, match=r"^--address h:1: the cluster asks for a token.* RAY_AUTH_TOKEN_PATH names"):
        cluster.join("h:1")


def test_another_version_of_ray_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: str) -> None:
        raise RuntimeError("Version mismatch: The cluster was started with:\n    Ray: 2.1.0")

    monkeypatch.setattr(watch, "connect_problem", lambda _: None)
    monkeypatch.setattr(ray_private, "check_answer", lambda _: None)
    monkeypatch.setattr(cluster, "_init", refuse)
    with pytest.raises(InputError, match=r"^--address h:1: Version mismatch: The cluster was started with: Ray: 2\.1\.0$"):
        cluster.join("h:1")
