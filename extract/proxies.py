"""The HTTP proxies of the environment: which one a request uses, and one sentence for one that fails."""

from __future__ import annotations

import base64
import os
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from extract.errors import FinalError, OutsideError, RetriableError, UsageError

LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "::1")
"""Names of this machine, which no proxy can reach."""


@dataclass(frozen=True)
class Proxy:
    """A proxy, and the environment variable that names it. `headers` authenticate the client to it."""

    variable: str
    address: str
    """`http(s)://host:port`, without credentials."""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)

    def failure(self, chain: list[BaseException]) -> OutsideError:
        """The error for a request that the proxy did not transmit, from the exception and its causes.

        FinalError if the proxy refuses the request, RetriableError otherwise.
        """
        name = f"The proxy {self.address} of {self.variable}"
        for error in chain:
            # http.client raises OSError("Tunnel connection failed: 407 Proxy Authentication Required").
            _, is_answer, status = str(error).partition("Tunnel connection failed: ")
            if is_answer and type(error) is OSError:
                return self.refusal(status)
        reasons = [str(error) for error in chain if isinstance(error, OSError)]
        reason = reasons[-1] if reasons else str(chain[0])
        return RetriableError(f"{name} cannot be reached: {reason}")

    def refusal(self, status: str) -> OutsideError:
        """The error for an HTTP status, `407 Proxy Authentication Required`, with which the proxy itself answered."""
        text = f"The proxy {self.address} of {self.variable} refuses the request: HTTP {status.strip()}"
        if status.startswith("5"):
            return RetriableError(text)
        needs_login = "; name it as http://name:password@host:port" if status.startswith("407") else ""
        return FinalError(f"{text}{needs_login}.")


def find_proxy(url: str) -> Proxy | None:
    """The proxy for requests to `url`: that of HTTPS_PROXY, HTTP_PROXY or ALL_PROXY, unless NO_PROXY excludes the host.

    None for loopback. Raises UsageError for a proxy that is neither http nor https, and for a malformed address.
    """
    target = urlsplit(url)
    host = target.hostname or ""
    proxies = urllib.request.getproxies_environment()
    kind = target.scheme if proxies.get(target.scheme) else "all"
    text = proxies.get(kind)
    if not text or host in LOOPBACK_HOSTS or urllib.request.proxy_bypass(target.netloc.rpartition("@")[2]):
        return None
    variable = f"{kind}_proxy"
    variable = variable if os.environ.get(variable) else variable.upper()
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        port, name = f":{parts.port}" if parts.port else "", parts.hostname
    except ValueError:
        name = None
    if not name:
        raise UsageError(f"{variable} is not the address of a proxy; name it as http://host:port.")
    address = f"{parts.scheme}://{f'[{name}]' if ':' in name else name}{port}"
    if parts.scheme not in ("http", "https"):
        raise UsageError(
            f"{variable} names the proxy {address}, and only http:// and https:// proxies are supported, SOCKS is not: "
            f"name another one, or connect directly with NO_PROXY={host}."
        )
    headers = {}
    if parts.username is not None:
        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        headers["proxy-authorization"] = f"Basic {base64.b64encode(login.encode()).decode()}"
    return Proxy(variable, address, headers)


def exclude_loopback_from_proxies() -> None:
    """Add loopback to NO_PROXY of this process, for libraries that read it themselves."""
    excluded = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    if excluded.strip() != "*":
        names = dict.fromkeys([*filter(None, excluded.split(",")), *LOOPBACK_HOSTS])
        os.environ |= dict.fromkeys(("no_proxy", "NO_PROXY"), ",".join(names))
