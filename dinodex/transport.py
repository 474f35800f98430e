"""The transport of the client: straight to a service on this machine, through the proxy that the environment names to any other.

httpx reads the same variables, but sends also what is meant for this machine through a proxy, key and picture included, and says in its
errors nothing of it.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path
from urllib.request import getproxies

import httpx

from dinodex.errors import FileUnreadable, ServiceUnreachable

# Besides addresses; the second and third stand for ::1 in the /etc/hosts of Debian and its kin.
_NAMES_OF_THIS_MACHINE = ("localhost", "ip6-localhost", "ip6-loopback", "localhost.localdomain")


@dataclass(frozen=True)
class ProxyOfEnvironment:
    """A proxy and the variable that names it."""

    address: str
    variable: str

    def __str__(self) -> str:
        """Name it without its password, for errors."""
        scheme, _, rest = self.address.rpartition("://")
        host = rest.rpartition("@")[2].partition("/")[0]
        return f"the proxy {scheme or 'http'}://{host} ({self.variable})"


def transport_to(url: httpx.URL) -> tuple[httpx.HTTPTransport, ProxyOfEnvironment | None]:
    """Return how a service is reached, and the proxy that this goes through.

    Raises:
        ServiceUnreachable: the proxy's address is none, or of a kind that needs another package.
        FileUnreadable: the certificates that the environment names cannot be read.
    """
    proxy = proxy_to(url)
    context = _certificates() if url.scheme == "https" else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # not used
    if proxy is None:
        return httpx.HTTPTransport(verify=context), None
    address = proxy.address if "://" in proxy.address else f"http://{proxy.address}"
    try:
        return httpx.HTTPTransport(verify=context, proxy=address), proxy
    except ImportError as error:
        raise ServiceUnreachable(
            f"{proxy} needs another package: pip install 'httpx[socks]', or name an HTTP proxy, or except the host with NO_PROXY."
        ) from error
    except (httpx.InvalidURL, ValueError) as error:  # whose words may hold a part of the password
        raise ServiceUnreachable(
            f"{proxy} is not an address of a proxy; write it as http://proxy.example:3128, or unset the variable."
        ) from error


def proxy_to(url: httpx.URL) -> ProxyOfEnvironment | None:
    """Return the proxy of the environment for an address, as httpx chooses it; None on this machine and for what NO_PROXY names."""
    if url.scheme not in ("http", "https") or is_this_machine(url.host):
        return None
    proxies = {scheme: address.strip(" \t\r\n") for scheme, address in getproxies().items()}
    scheme = next((scheme for scheme in (url.scheme, "all") if proxies.get(scheme)), None)
    if scheme is None or any(_excepts(entry.strip(), url) for entry in proxies.get("no", "").split(",")):
        return None
    names = (f"{scheme}_proxy", f"{scheme}_proxy".upper())
    variable = next((name for name in names if os.environ.get(name)), "the system's settings")
    return ProxyOfEnvironment(proxies[scheme], variable)


def is_this_machine(host: str) -> bool:
    """Say whether a host can be nothing but this machine, which no proxy reaches better: loopback, or no address at all (0.0.0.0)."""
    name = host.rstrip(".").lower()
    if name in _NAMES_OF_THIS_MACHINE or name.endswith(".localhost"):
        return True
    address = _address(name)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address is not None and (address.is_loopback or address.is_unspecified)


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return the address that is written as a host, also in the short forms that the system reads, such as 127.1."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        pass
    try:
        return ipaddress.IPv4Address(socket.inet_aton(host))
    except (OSError, ValueError):
        return None


def _excepts(entry: str, url: httpx.URL) -> bool:
    """Say whether an entry of NO_PROXY names the host.

    An entry is `*`, a domain with all below it, `.domain` for those alone, an address, or a network; a scheme before it and a port
    behind it narrow it down.
    """
    if entry == "*":
        return True
    scheme, _, host = entry.lower().rpartition("://")
    if scheme not in ("", "all", url.scheme) or not host:
        return False
    if "/" in host:
        return _is_within(url.host, host)
    if host in (url.host, f"[{url.host}]"):
        return True
    domain, _, port = host.rpartition(":") if host.rpartition(":")[2].isdigit() else (host, "", "")
    if port and int(port) != (url.port or {"http": 80, "https": 443}[url.scheme]):
        return False
    if domain.startswith((".", "*.")):
        return url.host.endswith(domain.removeprefix("*"))
    return url.host == domain.strip("[]") or url.host.endswith(f".{domain}")


def _is_within(host: str, network: str) -> bool:
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(network, strict=False)
    except ValueError:
        return False


def _certificates() -> ssl.SSLContext:
    """Return what certificates are checked with: those of SSL_CERT_FILE or SSL_CERT_DIR, or those that come with httpx."""
    folder = None if os.environ.get("SSL_CERT_FILE") else os.environ.get("SSL_CERT_DIR")
    try:
        if folder:
            # OpenSSL does not look at it before the first certificate, and then silently.
            next(Path(folder).iterdir(), None)
        return httpx.create_ssl_context()
    except OSError as error:  # ssl.SSLError is one, for a file that holds no certificates
        variable = "SSL_CERT_DIR" if folder else "SSL_CERT_FILE"
        reason = "it holds no certificate" if isinstance(error, ssl.SSLError) else error.strerror
        raise FileUnreadable(
            f"the certificates in {os.environ.get(variable)} cannot be read ({reason}); correct {variable}, or unset it."
        ) from error
