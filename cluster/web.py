"""How an address is opened with what is not to be shown to others: by the environment's proxy, and with no detours."""

from __future__ import annotations

import urllib.request
from typing import Any
from urllib.parse import urlsplit


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
    """A token or key is shown to the address that was named, and to no other."""

    def redirect_request(self, *arguments: Any, **named: Any) -> None:
        return None


def opener(proxy: str | None) -> urllib.request.OpenerDirector:
    """What opens addresses by this proxy, or by none, and goes nowhere else; :func:`proxy_for` knows the proxy."""
    proxies = {"http": proxy, "https": proxy} if proxy else {}
    return urllib.request.build_opener(urllib.request.ProxyHandler(proxies), _NoRedirect())
