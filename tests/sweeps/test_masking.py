"""Passwords in addresses: hidden in every form, and nothing else is."""

from __future__ import annotations

import sys

import pytest

from sweeps.masking import mask
from sweeps.provenance import command_line, continuing_command


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://me:pass@host:5000/x", "http://me:***@host:5000/x"),
        ("postgresql+psycopg2://me:p/a@ss@host/db?x=1", "postgresql+psycopg2://me:***@host/db?x=1"),
        (
            "postgresql://host/db?user=me&password=pass&sslmode=require",
            "postgresql://host/db?user=me&password=***&sslmode=require",
        ),
        (
            "mssql+pyodbc:///?odbc_connect=UID%3Dme%3BPWD%3Dpass%3BX%3D1",
            "mssql+pyodbc:///?odbc_connect=UID%3Dme%3BPWD%3D***%3BX%3D1",
        ),
        ("s3://key:sec/ret@bucket/results", "s3://key:***@bucket/results"),
        ("https://dapi0123456789abcdef@host/x", "https://***@host/x"),
        ("http://dapi0123456789abcdef:@host", "http://***:***@host"),
        ("az://box/results?sv=2022&sig=a%2Fb%3D&se=x", "az://box/results?sv=2022&sig=***&se=x"),
        ("http://host/x?X-Amz-Signature=abc", "http://host/x?X-Amz-Signature=***"),
        ("http://host/?next=http://you:word@there?token=abc", "http://host/?next=http://you:***@there?token=***"),
        ("(see 'http://me:pass@host', or http://you:word@there)", "(see 'http://me:***@host', or http://you:***@there)"),
    ],
)
def test_a_password_is_hidden(text: str, shown: str) -> None:
    assert mask(text) == shown and mask(shown) == shown


@pytest.mark.parametrize(
    "text",
    ["sqlite:////tmp/a:b@c/mlflow.db", "http://127.0.0.1:5000/#/experiments/1/runs?viewStateShareKey=x", "s3://bucket/a:b@c",
     "probe_accuracy: base > no-crop", "token=5", "databricks://profile",
     "http://a.long.user@host", "abfs://a-container-of-a-long-name@account", "http://host/?sight=far"],
)  # fmt: skip
def test_what_holds_no_password_stays(text: str) -> None:
    assert mask(text) == text


@pytest.mark.timeout(60)  # with steps that grow with the square of the length it would take hours
@pytest.mark.parametrize("piece", ["a", "a+", "://a:", "?a", "?password", "?password=", ";a=", "http://a@", "; ", "%3Ba", "a@"])
def test_a_long_text_is_masked_too(piece: str) -> None:
    assert mask(f"http://me:pass@host {piece * (1_000_000 // len(piece))}").startswith("http://me:***@host ")


def test_the_passwords_of_a_known_address_are_hidden_anywhere() -> None:
    assert mask("FATAL: no user me with geh@im", "postgresql://me:geh%40im@host/db") == "FATAL: no user me with ***"
    assert mask("a line", "postgresql://me:a@host/db") == "a line", "one letter is no word to look for"


def test_the_command_line_says_what_stands_for_the_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["run.py", "--grid", "my grid", "--tracking-uri=http://me:pass@host"])
    shown = "python sweeps/run.py --grid 'my grid' '--tracking-uri=http://me:***@host'  # *** stands for the password"
    assert command_line() == shown
    monkeypatch.setattr(sys, "argv", ["run.py", "--grid", "ablations"])
    assert command_line() == "python sweeps/run.py --grid ablations"


def test_the_command_to_continue_with_is_the_one_that_was_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["sweeps/run.py", "--grid", "ablations"])
    monkeypatch.setattr(sys, "orig_argv", [".venv/bin/python", "sweeps/run.py", "--grid", "ablations"])
    assert continuing_command() == ".venv/bin/python sweeps/run.py --grid ablations"
    monkeypatch.setattr(sys, "orig_argv", ["pytest"])
    assert continuing_command() == "python sweeps/run.py --grid ablations"
