"""A Ray dashboard's address, the way to it, and the token that this machine has for it."""

from __future__ import annotations

import os
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cluster.errors import UserError
from cluster.local_cluster import cluster_at
from cluster.session import RAY_TOKEN_FILE


def is_loopback(host: str | None) -> bool:
    """Whether a host is this machine, by its name alone."""
    return host in ("localhost", "::1") or (host or "").startswith("127.")


def proxy_for(url: str) -> str | None:
    """The proxy that the environment names for an address; none for this machine, whatever it names."""
    parts = urlsplit(url)
    if is_loopback(parts.hostname) or urllib.request.proxy_bypass(parts.netloc):
        return None
    proxy = urllib.request.getproxies().get(parts.scheme)
    return proxy if proxy is None or "://" in proxy else f"http://{proxy}"


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A token is shown to the address that was named, and to no other."""

    def redirect_request(self, *arguments: Any, **named: Any) -> None:
        return None


def opener(proxy: str | None) -> urllib.request.OpenerDirector:
    """What opens addresses by this proxy, or by none, and goes nowhere else; :func:`proxy_for` knows the proxy."""
    proxies = {"http": proxy, "https": proxy} if proxy else {}
    return urllib.request.build_opener(urllib.request.ProxyHandler(proxies), _NoRedirect())


def normalise(address: str) -> str:
    """The dashboard's URL without a trailing slash.

    Raises:
        UserError: it is none.
    """
    text = address if "://" in address else f"http://{address}"
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(
            "is not the URL of a Ray dashboard",
            where=f"--address {address}",
            next_step="for example http://127.0.0.1:8265; `raymill cluster status` shows local ones",
        )
    return text.rstrip("/")


def token_for(address: str) -> str | None:
    """The token to show an address: what the environment names, a local cluster's own, or Ray's usual file."""
    if token := os.environ.get("RAY_AUTH_TOKEN"):
        return token
    file = token_file(address)
    return file.read_text(encoding="utf-8").strip() if file else None


def token_file(address: str) -> Path | None:
    """The file with the token for an address, where it is in one.

    Raises:
        UserError: the environment names one that is not there.
    """
    if os.environ.get("RAY_AUTH_TOKEN"):
        return None
    named, local = os.environ.get("RAY_AUTH_TOKEN_PATH"), cluster_at(address)
    if named and not Path(named).is_file():
        raise UserError("no such file", where=f"RAY_AUTH_TOKEN_PATH={named}", next_step="correct it, or unset it")
    places = (named, local.token_file if local else None, str(RAY_TOKEN_FILE))
    return next((Path(place) for place in places if place and Path(place).is_file()), None)


def others_may_read(file: Path) -> bool:
    """Whether users of this machine other than its owner may read a file."""
    return bool(file.stat().st_mode & 0o077)
