"""The one way bytes come over HTTP.

What holds for every request and every redirect of it:

- https only; plain http only from this machine to itself;
- a public server cannot redirect us to a service on this machine;
- the caller's headers (a token) go to the first origin and to no other;
- bytes arrive as they are stored: no content coding, and a range exactly as asked;
- five seconds to connect, thirty between two reads, one attempt.

Retrying is the caller's business: it knows how much it already has.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager

import httpx2

from freehold.domain.errors import (
    CannotResume,
    InvalidReference,
    InvalidSetting,
    SourceUnavailable,
)
from freehold.domain.hosts import is_loopback
from freehold.weights.addresses import objection

CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 30.0
TIMEOUT = httpx2.Timeout(READ_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
MAX_REDIRECTS = 5

# Sent everywhere: no version, no platform.
OWN_HEADERS: Mapping[str, str] = {"User-Agent": "freehold", "Accept-Encoding": "identity"}

# A proxy set for the network has no business with this machine's own ports.
DIRECT_HOSTS: Mapping[str, httpx2.BaseTransport | None] = {
    "all://localhost": None,
    "all://127.0.0.1": None,
    "all://[::1]": None,
}

_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)", re.ASCII)
_RATE_LIMIT = re.compile(r"\br\s*=\s*0\s*;\s*t\s*=\s*([0-9]{1,6})\b", re.ASCII)
_ERROR_CODE = re.compile(r"[A-Za-z]{1,40}", re.ASCII)


class HttpStatusError(SourceUnavailable):
    """A server answered, but not with the file.

    ``error_code`` is the hub's ``X-Error-Code``; ``retry_after_s`` is how many
    seconds the server asked us to wait; ``redirected`` tells that another origin
    than the one asked gave the answer.
    """

    def __init__(
        self,
        message: str,
        *,
        host: str,
        status: int,
        error_code: str | None = None,
        retry_after_s: int | None = None,
        redirected: bool = False,
    ) -> None:
        super().__init__(message, values={"host": host, "status": status})
        self.status = status
        self.error_code = error_code
        self.retry_after_s = retry_after_s
        self.redirected = redirected


def parse_address(text: str) -> httpx2.URL:
    """Read a URL that may be asked for bytes.

    Raises `InvalidReference` when it is not one, carries a password, or is plain
    http to another machine.
    """
    try:
        url = httpx2.URL(text)
    except httpx2.InvalidURL as error:
        raise InvalidReference("This is not a well-formed URL.") from error
    reason = _objection(url)
    if reason is not None:
        raise InvalidReference(f"{url.scheme}://{url.host} {reason}.")
    return url


def check_hop(url: httpx2.URL, start: httpx2.URL) -> None:
    """Check one redirect of a request that began at ``start``.

    Raises `SourceUnavailable` when the redirect leaves https, or leads from
    another machine to this one.
    """
    reason = _objection(url)
    if reason is None and is_loopback(url.host) and not is_loopback(start.host):
        reason = "is this machine"
    if reason is not None:
        raise SourceUnavailable(
            f"{start.host} redirects to {url.scheme}://{url.host}, which {reason}.",
            values={"host": start.host},
        )


@contextmanager
def stream_range(
    url: str, *, offset: int = 0, headers: Mapping[str, str] | None = None
) -> Iterator[Iterator[bytes]]:
    """Deliver what ``url`` holds from byte ``offset`` to its end, as non-empty chunks.

    ``headers`` go to the origin of ``url`` only. Raises `InvalidReference` for a
    URL that may not be asked, and `SourceUnavailable` (as `HttpStatusError` when
    a status says why) when the server cannot be reached, does not have the file,
    cannot begin at ``offset``, or stops before the end.
    """
    if offset < 0:
        raise ValueError("offset is negative")
    start = parse_address(url)
    wanted = {"Range": f"bytes={offset}-"} if offset else {}
    with _client() as client, closing(_open(client, "GET", start, wanted, headers)) as response:
        if offset:
            _require_range(response, offset, start)
        elif response.status_code != httpx2.codes.OK:
            raise _status_error_of(response, start)
        _require_identity(response)
        yield _chunks(response)


def declared_size(url: str, *, headers: Mapping[str, str] | None = None) -> int | None:
    """Ask how many bytes ``url`` holds; None when the server does not say.

    Raises what `stream_range` raises.
    """
    start = parse_address(url)
    with _client() as client:
        with closing(_open(client, "HEAD", start, {}, headers)) as response:
            if response.status_code == httpx2.codes.OK:
                return _content_length(response)
        # Many stores sign or allow GET alone; its headers say the same.
        with closing(_open(client, "GET", start, {}, headers)) as response:
            if response.status_code == httpx2.codes.OK:
                return _content_length(response)
            raise _status_error_of(response, start)


def status_error(
    host: str, status: int, headers: Mapping[str, str], *, redirected: bool = False
) -> HttpStatusError:
    """Say in one sentence what an HTTP status means here; quotes nothing the server wrote."""
    retry_after_s = _retry_after_s(headers)
    code = headers.get("X-Error-Code")
    return HttpStatusError(
        _explanation(host, status, retry_after_s),
        host=host,
        status=status,
        error_code=code if code is not None and _ERROR_CODE.fullmatch(code) else None,
        retry_after_s=retry_after_s,
        redirected=redirected,
    )


def unreachable(host: str, error: httpx2.HTTPError) -> SourceUnavailable:
    """Say in one sentence that no answer came."""
    if isinstance(error, httpx2.TimeoutException):
        return SourceUnavailable(f"{host} did not answer in time.", values={"host": host})
    return SourceUnavailable(f"{host} cannot be reached.", values={"host": host})


def _client() -> httpx2.Client:
    with proxies_are_usable():
        return httpx2.Client(timeout=TIMEOUT, follow_redirects=False, mounts=DIRECT_HOSTS)


@contextmanager
def proxies_are_usable() -> Iterator[None]:
    """Turn what httpx2 raises for a proxy setting it cannot use into `InvalidSetting`."""
    try:
        yield
    except (ImportError, ValueError) as error:
        raise InvalidSetting(
            "The proxy named in the environment cannot be used.",
            hint="http and https proxies work, SOCKS does not; see HTTPS_PROXY and ALL_PROXY.",
        ) from error


def _open(
    client: httpx2.Client,
    method: str,
    start: httpx2.URL,
    wanted: Mapping[str, str],
    private: Mapping[str, str] | None,
) -> httpx2.Response:
    url = start
    for _ in range(MAX_REDIRECTS + 1):
        headers = {**(private or {}), **OWN_HEADERS, **wanted}
        response = _send(client, client.build_request(method, url, headers=headers))
        if not response.has_redirect_location:
            return response
        response.close()
        url = _next_hop(url, response.headers["Location"], start)
        if url.origin != start.origin:
            # For good: a way back through another origin is not to be trusted either.
            private = None
    raise SourceUnavailable(
        f"{start.host} redirects more than {MAX_REDIRECTS} times.", values={"host": start.host}
    )


def _send(client: httpx2.Client, request: httpx2.Request) -> httpx2.Response:
    try:
        return client.send(request, stream=True)
    except httpx2.TransportError as error:
        raise unreachable(request.url.host, error) from error


def _next_hop(url: httpx2.URL, location: str, start: httpx2.URL) -> httpx2.URL:
    try:
        target = url.join(location)
    except httpx2.InvalidURL as error:
        raise SourceUnavailable(
            f"{url.host} redirects to something that is no URL.", values={"host": url.host}
        ) from error
    check_hop(target, start)
    return target


def _objection(url: httpx2.URL) -> str | None:
    return objection(url.scheme, url.host, private=bool(url.userinfo))


def _require_range(response: httpx2.Response, offset: int, start: httpx2.URL) -> None:
    status = response.status_code
    if status in (httpx2.codes.OK, httpx2.codes.RANGE_NOT_SATISFIABLE):
        raise _cannot_resume(response, offset)
    if status != httpx2.codes.PARTIAL_CONTENT:
        raise _status_error_of(response, start)
    match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if match is None or int(match[1]) != offset:
        raise _cannot_resume(response, offset)
    if match[3] != "*" and int(match[2]) + 1 != int(match[3]):
        raise _cannot_resume(response, offset)


def _cannot_resume(response: httpx2.Response, offset: int) -> CannotResume:
    host = response.request.url.host
    return CannotResume(f"{host} cannot resume the file at byte {offset}.", values={"host": host})


def _require_identity(response: httpx2.Response) -> None:
    # Offsets and digests are about the stored bytes, and a coded body may unpack without end.
    if response.headers.get("Content-Encoding", "identity").strip().lower() != "identity":
        host = response.request.url.host
        raise SourceUnavailable(
            f"{host} sends the file compressed although it was asked not to.",
            values={"host": host},
        )


def _chunks(response: httpx2.Response) -> Iterator[bytes]:
    host = response.request.url.host
    try:
        for chunk in response.iter_raw():
            if chunk:
                yield chunk
    except httpx2.TimeoutException as error:
        raise SourceUnavailable(
            f"{host} stopped sending before the file ended.", values={"host": host}
        ) from error
    except httpx2.TransportError as error:
        raise SourceUnavailable(
            f"The connection to {host} broke before the file ended.", values={"host": host}
        ) from error


def _content_length(response: httpx2.Response) -> int | None:
    text = response.headers.get("Content-Length", "")
    if "Content-Encoding" in response.headers or not re.fullmatch(r"[0-9]{1,18}", text):
        return None
    return int(text)


def _status_error_of(response: httpx2.Response, start: httpx2.URL) -> HttpStatusError:
    url = response.request.url
    return status_error(
        url.host,
        response.status_code,
        response.headers,
        redirected=url.origin != start.origin,
    )


def _retry_after_s(headers: Mapping[str, str]) -> int | None:
    seconds = headers.get("Retry-After", "").strip()
    if re.fullmatch(r"[0-9]{1,6}", seconds):
        return int(seconds)
    match = _RATE_LIMIT.search(headers.get("RateLimit", ""))
    return int(match[1]) if match is not None else None


def _explanation(host: str, status: int, retry_after_s: int | None) -> str:
    if status == httpx2.codes.TOO_MANY_REQUESTS:
        wait = "" if retry_after_s is None else f" and asks us to wait {retry_after_s} seconds"
        return f"{host} is limiting requests{wait}."
    if status >= httpx2.codes.INTERNAL_SERVER_ERROR:
        return f"{host} has a fault of its own (HTTP {status})."
    if status in (httpx2.codes.UNAUTHORIZED, httpx2.codes.FORBIDDEN):
        return f"{host} refuses access (HTTP {status})."
    if status in (httpx2.codes.NOT_FOUND, httpx2.codes.GONE):
        return f"{host} does not have what was asked for (HTTP {status})."
    return f"{host} gave an answer we do not understand (HTTP {status})."
