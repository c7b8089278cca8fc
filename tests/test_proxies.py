"""The proxy of a request, from the environment: never for loopback, and one sentence for one that cannot be used."""

from __future__ import annotations

import os

import pytest

from extract.errors import FinalError, RetriableError, UsageError
from extract.proxies import Proxy, exclude_loopback_from_proxies, find_proxy

EXCHANGE = "https://www.deribit.com/api/v2"
PASSWORD = "a-secret-of-the-proxy"


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("env", "address", "variable"),
    [
        ({"HTTPS_PROXY": "http://proxy.test:3128"}, "http://proxy.test:3128", "HTTPS_PROXY"),
        ({"https_proxy": "proxy.test:3128"}, "http://proxy.test:3128", "https_proxy"),
        ({"ALL_PROXY": "https://proxy.test"}, "https://proxy.test", "ALL_PROXY"),
        ({"HTTPS_PROXY": "http://[::2]:8080"}, "http://[::2]:8080", "HTTPS_PROXY"),
        (
            {"HTTPS_PROXY": "http://a.test:1", "ALL_PROXY": "http://b.test:2"},
            "http://a.test:1",
            "HTTPS_PROXY",
        ),
        ({"HTTP_PROXY": "http://proxy.test:3128"}, None, None),
        ({"HTTPS_PROXY": "http://proxy.test:3128", "NO_PROXY": "other.test,.deribit.com"}, None, None),
        ({"HTTPS_PROXY": "http://proxy.test:3128", "no_proxy": "*"}, None, None),
        ({"ALL_PROXY": ""}, None, None),
        ({}, None, None),
    ],
)
def test_proxy_is_that_of_the_scheme_unless_the_host_is_excluded(
    env: dict[str, str], address: str | None, variable: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    proxy = find_proxy(EXCHANGE)
    assert (proxy and proxy.address, proxy and proxy.variable) == (address, variable)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]"])
@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("proxy", ["http://proxy.test:3128", "socks5://proxy.test:1080", "nonsense://"])
def test_loopback_has_no_proxy(host: str, scheme: str, proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even an error for a proxy that could not be used."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, proxy)
    assert find_proxy(f"{scheme}://{host}:8123") is None


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "socks5://me:{}@proxy.test:1080",
            "names the proxy socks5://proxy.test:1080, and only http:// and https://",
        ),
        ("socks5h://proxy.test:1080", "SOCKS is not"),
        ("foo://{}@proxy.test", "names the proxy foo://proxy.test, and"),
        ("http://proxy.test:port{}", "is not the address of a proxy; name it as http://host:port"),
        ("http://[::1{}", "is not the address of a proxy"),
        ("http://", "is not the address of a proxy"),
    ],
)
def test_unusable_proxy_is_one_sentence_without_its_password(
    text: str, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALL_PROXY", text.format(PASSWORD))
    with pytest.raises(UsageError, match=r"^ALL_PROXY ") as raised:
        find_proxy(EXCHANGE)
    assert sentence in str(raised.value)
    assert PASSWORD not in str(raised.value)


def test_credentials_are_sent_and_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoded from the URL."""
    monkeypatch.setenv("HTTPS_PROXY", f"http://me%40home:{PASSWORD}@proxy.test:3128")
    proxy = find_proxy(EXCHANGE)
    assert proxy is not None
    assert proxy.headers == {"proxy-authorization": "Basic bWVAaG9tZTphLXNlY3JldC1vZi10aGUtcHJveHk="}
    assert PASSWORD not in repr(proxy) + proxy.address
    assert "Basic" not in repr(proxy)


@pytest.mark.parametrize(
    ("status", "error"),
    [
        ("403 Forbidden", FinalError("refuses the request: HTTP 403 Forbidden.")),
        (
            "407 Proxy Authentication Required",
            FinalError(
                "refuses the request: HTTP 407 Proxy Authentication Required; name it as "
                "http://name:password@host:port."
            ),
        ),
        ("503 Service Unavailable", RetriableError("refuses the request: HTTP 503 Service Unavailable")),
    ],
)
def test_refusal_of_a_proxy_is_retried_only_if_its_own_server_failed(status: str, error: Exception) -> None:
    refusal = Proxy("HTTPS_PROXY", "http://proxy.test:1").refusal(status)
    assert type(refusal) is type(error)
    assert str(refusal) == f"The proxy http://proxy.test:1 of HTTPS_PROXY {error}"


@pytest.mark.parametrize("excluded", [None, "intern.test", "*"])
def test_libraries_reach_loopback_without_a_proxy(
    excluded: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was excluded stays excluded; a second call changes nothing."""
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, excluded or "")
    exclude_loopback_from_proxies()
    once = os.environ["NO_PROXY"], os.environ["no_proxy"]
    exclude_loopback_from_proxies()
    assert (os.environ["NO_PROXY"], os.environ["no_proxy"]) == once
    assert once[0] == once[1]
    if excluded == "*":
        assert once[0] == "*"
    else:
        assert once[0].split(",") == [*filter(None, [excluded]), "localhost", "127.0.0.1", "::1"]
