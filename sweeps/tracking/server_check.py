"""Whether an MLflow server answers, and lets us in. Does not import mlflow, which takes seconds."""

from __future__ import annotations

import configparser
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_SECONDS = 5.0
_QUESTION = "/api/2.0/mlflow/experiments/search"
#: With these MLflow's client signs its requests in ways that are left to it.
_OTHER_WAYS = ("MLFLOW_TRACKING_AUTH", "MLFLOW_TRACKING_AWS_SIGV4")
_CREDENTIALS_FILE = "~/.mlflow/credentials"
_CREDENTIALS = ("mlflow_tracking_username", "mlflow_tracking_password")
_UNAUTHORIZED, _FORBIDDEN, _SERVER_ERROR = 401, 403, 500


def away(uri: str) -> str | None:
    """Return why no server answers at /health, or None if one does (it may still refuse what is asked of it)."""
    import requests

    try:
        with _ask("GET", uri, "/health") as answer:
            status = answer.status_code
    except (requests.RequestException, ValueError, OSError) as error:
        return f"no MLflow server answers at /health ({_reason(error)}){_proxy_hint(uri)}"
    return None if status < _SERVER_ERROR else f"the server is not healthy (status {status}){_proxy_hint(uri)}"


def problem(uri: str) -> str | None:
    """Return why MLflow cannot use the server, with the remedy, or None; it is asked a harmless question, as MLflow asks it."""
    import requests

    if re.match(r"https?://[^/?#@]*[/?#][^@]*@", uri):
        return "a user or password holds / ? or #: write %2F, %3F or %23 for it"
    if (reason := _credentials_problem() or away(uri)) is not None:
        return reason
    if any(os.environ.get(name) for name in _OTHER_WAYS):
        return None
    try:
        with _ask("POST", uri, _QUESTION, {"max_results": 1}) as answer:
            status, kind, text = answer.status_code, answer.headers.get("Content-Type", ""), answer.text.strip()
            is_json = _is_json_object(answer)
    except (requests.RequestException, ValueError, OSError) as error:
        return f"the server does not answer at {_QUESTION} ({_reason(error)})"
    if status == _UNAUTHORIZED:
        return _unauthorized(uri)
    said = f": {text.splitlines()[0][:200]}" if text and "html" not in kind else ""
    if status == _FORBIDDEN:
        return f"the server does not permit it (status 403{said})"
    if status >= _SERVER_ERROR:
        return f"the server cannot answer (status {status}{said}); its own output tells why"
    if status >= 400 or not is_json:
        return (
            f"what answers there is no MLflow server (status {status}, {kind.partition(';')[0] or 'no type'} at {_QUESTION}); "
            "give the address under which MLflow's UI opens, without what follows # in it"
        )
    return None


def _ask(method: str, uri: str, path: str, question: Mapping[str, Any] | None = None) -> Any:
    """Ask a server as MLflow's client does: with the user of the URI, or those of its environment variables and file."""
    import requests

    environment, headers, auth = os.environ, {}, None
    user, password = _credentials()
    if user and password:
        auth = None if _user_of(uri) else (user, password)
    elif token := environment.get("MLFLOW_TRACKING_TOKEN"):
        headers["Authorization"] = f"Bearer {token}"
    insecure = environment.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() in ("true", "1")
    verify = False if insecure else environment.get("MLFLOW_TRACKING_SERVER_CERT_PATH") or True
    certificate = environment.get("MLFLOW_TRACKING_CLIENT_CERT_PATH")
    return requests.request(
        method, uri.rstrip("/") + path, json=question, headers=headers, auth=auth, verify=verify, cert=certificate,
        timeout=_SECONDS,
    )  # fmt: skip


def _credentials() -> tuple[str | None, str | None]:
    """Return the user and the password of MLflow's environment variables, or of its file."""
    try:
        kept = _credentials_file()
    except (OSError, RuntimeError, ValueError, configparser.Error):  # no home, say; or see _credentials_problem
        kept = {}
    user, password = _CREDENTIALS
    return os.environ.get(user.upper()) or kept.get(user), os.environ.get(password.upper()) or kept.get(password)


def _credentials_file() -> dict[str, str]:
    """Return what MLflow's client would read from its file, which it reads whatever the environment says."""
    config = configparser.ConfigParser()
    config.read(Path(_CREDENTIALS_FILE).expanduser())
    return {name: config["mlflow"][name] for name in _CREDENTIALS if config.has_option("mlflow", name)}


def _credentials_problem() -> str | None:
    """Return why MLflow's client would fail at its file, or None."""
    try:
        _credentials_file()
    except configparser.InterpolationError:
        return f"MLflow cannot read {_CREDENTIALS_FILE}: write %% for each % in the user and the password"
    except (ValueError, configparser.Error):
        return f"MLflow cannot read {_CREDENTIALS_FILE}: lines of the form name = value are needed, below a line [mlflow]"
    except (OSError, RuntimeError):  # no home, or no such file
        pass
    return None


def _user_of(uri: str) -> str | None:
    from urllib.parse import urlsplit

    return urlsplit(uri).username


def _unauthorized(uri: str) -> str:
    if _user_of(uri):
        return "the server refuses this user and password (status 401)"
    if all(_credentials()):
        return "the server refuses the user and password of MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD (status 401)"
    if os.environ.get("MLFLOW_TRACKING_TOKEN"):
        return "the server refuses the token of MLFLOW_TRACKING_TOKEN (status 401)"
    return (
        "the server asks who you are (status 401): set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD (or "
        "MLFLOW_TRACKING_TOKEN)"
    )


def _is_json_object(answer: Any) -> bool:
    try:
        return isinstance(answer.json(), dict)
    except ValueError:
        return False


def _proxy_hint(uri: str) -> str:
    """Return a hint if a variable of the environment leads requests to this server through a proxy."""
    import requests

    try:
        used = requests.utils.get_environ_proxies(uri)
    except ValueError:  # not a number as the port; named already
        return ""
    scheme = uri.partition("://")[0]
    for name in (f"{scheme}_proxy", f"{scheme}_proxy".upper(), "all_proxy", "ALL_PROXY"):
        if used and os.environ.get(name):
            return f"; it is asked through the proxy that {name} names: if it needs none, add its host to NO_PROXY"
    return ""


def _reason(error: BaseException) -> str:
    """Return the innermost cause in a few words: requests wraps it several times."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    text = str(error).strip()
    return (text.splitlines()[0] if text else type(error).__name__)[:200]
