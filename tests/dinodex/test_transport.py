"""The way to a service: straight on this machine, through the proxy of the environment elsewhere, and errors that say so."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import certifi
import httpx
import pytest
from pictures import encoded, picture
from typer.testing import CliRunner

from dinodex import Client
from dinodex.cli import app
from dinodex.errors import AnswerInvalid, ClientError, FileUnreadable, NotAllowed, ServiceUnreachable, Unavailable
from dinodex.exits import IO, exit_code
from dinodex.transport import is_this_machine, proxy_to

VARIABLES = ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy")
VARIABLES += ("SSL_CERT_FILE", "SSL_CERT_DIR")
NOBODY = "http://127.0.0.1:9"  # the port `discard`, which nothing has had for decades


@pytest.fixture(autouse=True)
def no_variables_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the variables of whoever runs the tests."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


class Server(HTTPServer):
    """A server that answers everything alike, and keeps what it was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answering)
        self.asked: list[tuple[str, str, str | None]] = []
        self.answer = (200, b'{"result": []}')

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Answering(BaseHTTPRequestHandler):
    server: Server

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.server.asked.append((self.command, self.path, self.headers.get("authorization")))
        status, body = self.server.answer
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PUT = do_CONNECT = answer  # noqa: N815 - as the base class calls them

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        yield made
        made.shutdown()


@pytest.fixture
def proxy() -> Iterator[Server]:
    with Server() as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        yield made
        made.shutdown()


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"])
def test_u09_key_and_picture_for_this_machine_go_to_no_proxy(
    server: Server, proxy: Server, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, proxy.url)
    for host in ("127.0.0.1", "localhost", "service.localhost", "127.1", "0.0.0.0", "[::ffff:127.0.0.1]"):
        server.asked.clear()
        with Client(f"http://{host}:{server.server_port}", api_key="secret") as client:
            try:
                assert client.collections() == []
            except ServiceUnreachable:
                assert host == "service.localhost"  # resolved by some systems alone
            else:
                assert server.asked == [("GET", "/v1/collections", "Bearer secret")]
    assert proxy.asked == []


@pytest.mark.parametrize("value", ["socks5://127.0.0.1:1080", "ftp://nonsense", "http://host:port", ":", "socks4://x"])
def test_u09_a_proxy_that_cannot_be_used_does_not_matter_on_this_machine(
    server: Server, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    for name in ("HTTP_PROXY", "ALL_PROXY", "HTTPS_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.setenv(name, value)
    with Client(server.url) as client:
        assert client.collections() == []


@pytest.mark.parametrize(
    ("host", "here"),
    [
        *[(host, True) for host in ("127.0.0.1", "127.255.0.1", "::1", "::ffff:127.0.0.1", "0.0.0.0", "::")],
        *[(host, True) for host in ("localhost", "LOCALHOST", "localhost.", "a.localhost", "ip6-localhost", "127.1", "2130706433")],
        *[(host, False) for host in ("128.0.0.1", "126.255.255.255", "::2", "::ffff:10.0.0.1", "10.0.0.1", "1.127")],
        *[(host, False) for host in ("localhost.example.com", "notlocalhost", "service", "", "127.0.0.1.example.com")],
    ],
)  # fmt: skip
def test_u09_this_machine_has_many_names(host: str, here: bool) -> None:
    assert is_this_machine(host) is here


def test_u09_other_machines_are_reached_through_the_proxy_and_its_password_is_sent_to_it_alone(
    proxy: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", proxy.url.replace("://", "://me:hidden@"))
    with Client("http://service.example:8000") as client:
        assert client.collections() == []
    assert proxy.asked == [("GET", "http://service.example:8000/v1/collections", None)]


@pytest.mark.parametrize(
    "entry", ["service.example", "example", "*", "a, service.example:8000", "http://service.example"]
)
def test_u09_what_no_proxy_names_goes_direct(monkeypatch: pytest.MonkeyPatch, entry: str) -> None:
    monkeypatch.setenv("HTTP_PROXY", NOBODY)
    url = httpx.URL("http://service.example:8000")
    assert proxy_to(url) is not None
    monkeypatch.setenv("NO_PROXY", entry)
    assert proxy_to(url) is None


@pytest.mark.parametrize(
    ("entry", "url", "direct"),
    [
        ("10.0.0.0/8", "http://10.1.2.3", True),
        ("10.0.0.0/8", "http://11.0.0.0", False),
        ("10.1.2.3/8", "http://10.0.0.1", True),
        ("fd00::/8", "http://[fd00::5]:8000", True),
        ("10.0.0.0/99", "http://10.1.2.3", False),
        ("[fd00::5]", "http://[fd00::5]:8000", True),
        ("fd00::5", "http://[fd00::5]:8000", True),
        ("[fd00::5]:8000", "http://[fd00::5]:8000", True),
        (".example", "http://service.example", True),
        (".example", "http://example", False),
        ("*.example", "http://service.example", True),
        ("service.example:9", "http://service.example:8000", False),
        ("service.example:80", "http://service.example", True),
        ("https://service.example", "http://service.example", False),
        ("ample", "http://service.example", False),
        ("", "http://service.example", False),
        ("://, [, :", "http://service.example", False),
    ],
)
def test_u09_entries_of_no_proxy(monkeypatch: pytest.MonkeyPatch, entry: str, url: str, direct: bool) -> None:
    monkeypatch.setenv("ALL_PROXY", NOBODY)
    monkeypatch.setenv("no_proxy", entry)
    assert (proxy_to(httpx.URL(url)) is None) is direct


def failure(url: str = "http://service.example:8000") -> ClientError:
    with pytest.raises(ClientError) as error, Client(url) as client:
        client.embed(encoded(picture()))
    assert exit_code(error.value) in (IO, 65, 78)
    assert "hidden" not in str(error.value)
    return error.value


@pytest.mark.parametrize("url", ["http://service.example:8000", "https://service.example"])
def test_u09_an_error_names_the_proxy_without_its_password(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("ALL_PROXY", NOBODY.replace("://", "://me:hidden@"))
    error = failure(url)
    assert isinstance(error, ServiceUnreachable)
    assert f"cannot be reached through the proxy {NOBODY} (ALL_PROXY)" in str(error)


@pytest.mark.parametrize(
    ("status", "kind"), [(403, NotAllowed), (503, Unavailable), (200, AnswerInvalid)], ids=["403", "503", "200"]
)
def test_u09_what_a_proxy_answers_itself_is_not_taken_for_the_services(
    proxy: Server, monkeypatch: pytest.MonkeyPatch, status: int, kind: type[ClientError]
) -> None:
    proxy.answer = (status, b"<html>Access to private address denied by policy</html>")
    monkeypatch.setenv("http_proxy", proxy.url)
    with (
        pytest.raises(kind, match=rf"through the proxy {proxy.url} \(http_proxy\)"),
        Client("http://a.example") as client,
    ):
        client.model()


@pytest.mark.parametrize("address", ["socks5://me:hidden@proxy:1080", "socks5h://me:hidden@proxy"])
def test_u09_a_socks_proxy_needs_a_package_and_says_which(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("ALL_PROXY", address)
    error = failure()
    assert "proxy:1080" in str(error) or "//proxy (" in str(error)
    assert "httpx[socks]" in str(error)


@pytest.mark.parametrize(
    "address", ["ftp://me:hidden@proxy", "http://proxy:port", "http://me:hidden", "proxy:hidden:x", "://", "\u2028"]
)
def test_u09_a_proxy_that_is_none_is_one_sentence(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("HTTP_PROXY", address)
    with pytest.raises(
        ServiceUnreachable, match=r"HTTP_PROXY\) is not an address of a proxy|cannot be reached through"
    ):
        Client("http://service.example").model()


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
@pytest.mark.parametrize("kind", ["missing", "empty", "folder"])
def test_u09_certificates_that_cannot_be_read_are_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str, kind: str
) -> None:
    path = tmp_path / kind
    if kind == "empty":
        path.write_bytes(b"")
    if kind == "folder":
        path.mkdir()
    monkeypatch.setenv(variable, str(path))
    if (variable, kind) == ("SSL_CERT_DIR", "folder"):
        Client("https://service.example").close()  # may be filled later
        return
    with pytest.raises(FileUnreadable, match=rf"{path} cannot be read .*{variable}"):
        Client("https://service.example")


def test_u09_certificates_of_the_environment_are_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", certifi.where())
    Client("https://service.example").close()
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / "missing"))  # not looked at where there is a file
    Client("https://localhost").close()


def test_u09_a_command_says_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://proxy:1080")
    done = CliRunner().invoke(app, ["collections", "list", "--url", "http://service.example"])
    assert isinstance(done.exception, ServiceUnreachable)
    assert "ALL_PROXY" in str(done.exception)
    assert os.environ["ALL_PROXY"] == "socks5://proxy:1080"


def test_u09_a_variable_of_blanks_names_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "  ")
    assert proxy_to(httpx.URL("http://example.test")) is None
    monkeypatch.setenv("ALL_PROXY", " http://proxy:3128\n")
    assert str(proxy_to(httpx.URL("http://example.test"))) == "the proxy http://proxy:3128 (ALL_PROXY)"


@pytest.mark.parametrize("url", ["http://me:hidden@[::1:8", "http://me:hidden@host:port"])
def test_u09_an_address_that_is_none_is_named_without_its_password(url: str) -> None:
    with pytest.raises(ServiceUnreachable, match="is not an address") as refused:
        Client(url)
    assert "hidden" not in str(refused.value)
