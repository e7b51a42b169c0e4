"""Requests to one registry: TLS, logins, redirects, retries, and limits for everything that comes back."""

from __future__ import annotations

import contextlib
import ssl
import time
from typing import TYPE_CHECKING

import httpx

from profiles.errors import NotInRegistryError, RegistryRefusedError, TransferError
from profiles.oci.descriptor import parse_json
from profiles.oci.reference import is_this_machine
from profiles.oci.registry_login import Login, find_login, login_files, names_helper
from profiles.oci.registry_token import Challenge, parse_token

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from profiles.oci.reference import ImageReference
    from profiles.oci.registry_access import RegistryAccess

TRIES = 6
FIRST_TRIES = 2
"""Tries as long as the registry has not answered anything: it is more likely absent than interrupted."""
FIRST_WAIT_S = 0.25
MAX_WAIT_S = 30.0
"""The longest time that a registry may ask to wait before the next try."""
MAX_REDIRECTS = 5
MAX_ANSWER_BYTES = 2**20
MAX_ANSWER_S = 60.0
"""Seconds for all of a small answer."""
MAX_WORDS_CHARACTERS = 300
"""Limit for what is shown of a registry's own words."""

_OVERLOADED = {429, 500, 502, 503, 504}
_REDIRECTS = {301, 302, 303, 307, 308}


class Interrupted(TransferError):  # noqa: N818 - it says what happened
    """The connection broke, or the registry is overloaded: another try may succeed."""

    def __init__(self, message: str, *, hint: str = "", wait_s: float = 0.0) -> None:
        super().__init__(message, hint=hint)
        self.wait_s = wait_s


class Retries:
    """Waits between tries of one thing, and an end of the tries. Progress begins the count again."""

    def __init__(self, tries: int) -> None:
        self._tries = tries
        self._failed = 0

    def reset(self) -> None:
        """Begin the count again."""
        self._failed = 0

    def wait(self, error: Interrupted) -> None:
        """Wait before the next try. Raises `error` if there were enough."""
        self._failed += 1
        if self._failed >= self._tries:
            raise error
        time.sleep(max(error.wait_s, FIRST_WAIT_S * 2 ** (self._failed - 1)))


class RegistryHttp:
    """Requests about the repository of `reference`. As a context manager, it closes its connections."""

    def __init__(self, reference: ImageReference, access: RegistryAccess) -> None:
        self.reference = reference
        self.access = access
        self._has_answered = False
        self._authorization: dict[bool, str] = {}
        self._login: Login | None = None
        self._scheme = ""
        self._client = httpx.Client(
            verify=_tls_context(access),
            timeout=access.timeout_s,
            follow_redirects=False,
            # A proxy of the environment must not get what is meant for this machine.
            trust_env=not reference.is_loopback,
            headers={"User-Agent": "berth", "Accept-Encoding": "identity"},
        )

    def close(self) -> None:
        self._client.close()

    @property
    def retries(self) -> Retries:
        return Retries(TRIES if self._has_answered else FIRST_TRIES)

    @contextlib.contextmanager
    def request(
        self,
        method: str,
        where: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | Callable[[], Iterable[bytes]] = b"",
        expect: tuple[int, ...] = (200,),
    ) -> Iterator[httpx.Response]:
        """Send one request and provide the answer, whose body is not read yet.

        `where` is a path after the repository's, such as `blobs/uploads/`, or an address from `location`. Logs in if
        the registry asks for it. Raises Interrupted, and TransferError for a status that is not in `expect`.
        """
        url = where if "://" in where else f"{self._base()}/v2/{self.reference.repository}/{where}"
        writes = method not in {"GET", "HEAD"}
        response = self._send(method, url, headers or {}, body, authorized=True)
        try:
            if response.status_code == httpx.codes.UNAUTHORIZED:
                self._answer_challenge(response, writes=writes)
                response.close()
                response = self._send(method, url, headers or {}, body, authorized=True)
            redirects = 0
            while response.status_code in _REDIRECTS and not writes:
                redirects += 1
                if redirects > MAX_REDIRECTS:
                    raise TransferError(f"{self.reference.registry} redirects without an end")
                url = self._redirect_target(url, response)
                response.close()
                response = self._send(method, url, headers or {}, b"", authorized=self._is_own(url))
            if response.status_code not in expect:
                raise self._refusal(method, where, response)
            yield response
        except httpx.HTTPError as error:
            raise self._connection_error(error) from error
        finally:
            response.close()

    def location(self, response: httpx.Response) -> str:
        """Return the address of an upload. Raises TransferError if it is not on the registry."""
        try:
            url = str(response.url.join(response.headers.get("Location", "")))
        except httpx.InvalidURL as error:
            raise TransferError(f"{self.reference.registry} names an invalid address for the upload") from error
        if not response.headers.get("Location") or not self._is_own(url):
            raise TransferError(
                f"{self.reference.registry} wants the upload at another address",
                hint="the registry's own idea of its address is wrong: its administrators can set it",
            )
        return url

    def _base(self) -> str:
        """Return scheme and host: plain http for a registry on this machine that speaks no TLS."""
        if not self._scheme:
            self._scheme = "https"
            if self.reference.is_loopback and self.access.ca is None and not self._speaks_tls():
                self._scheme = "http"
        return f"{self._scheme}://{self.reference.registry}"

    def _speaks_tls(self) -> bool:
        try:
            self._client.head(f"https://{self.reference.registry}/v2/")
        except httpx.ConnectError as error:
            return _certificate_problem(error) is not None
        except httpx.HTTPError:
            return False
        return True

    def _is_own(self, url: str) -> bool:
        """Whether an address is on the registry itself, so that it may get the login."""
        own, other = httpx.URL(self._base()), httpx.URL(url)
        return (own.scheme, own.host, own.port) == (other.scheme, other.host, other.port) and not other.userinfo

    def _redirect_target(self, url: str, response: httpx.Response) -> str:
        """Return where a redirect leads. Raises TransferError if it must not be followed."""
        try:
            target = httpx.URL(url).join(response.headers.get("Location", ""))
        except httpx.InvalidURL as error:
            raise TransferError(f"{self.reference.registry} redirects to an invalid address") from error
        local = is_this_machine(target.host)
        if target.userinfo or (local and not self.reference.is_loopback):
            raise TransferError(f"{self.reference.registry} redirects to an address that it must not name")
        if target.scheme != "https" and not (target.scheme == "http" and local):
            raise TransferError(f"{self.reference.registry} redirects to an address without TLS: {target.host}")
        return str(target)

    def _send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | Callable[[], Iterable[bytes]],
        *,
        authorized: bool,
    ) -> httpx.Response:
        sent = dict(headers)
        authorization = self._authorization.get(method not in {"GET", "HEAD"}, "")
        if authorized and authorization:
            sent["Authorization"] = authorization
        request = self._client.build_request(method, url, headers=sent, content=body() if callable(body) else body)
        try:
            response = self._client.send(request, stream=True)
        except httpx.HTTPError as error:
            raise self._connection_error(error) from error
        except httpx.InvalidURL as error:
            raise TransferError(f"{self.reference.registry} names an invalid address") from error
        self._has_answered = True
        return response

    def _answer_challenge(self, response: httpx.Response, *, writes: bool) -> None:
        """Get what the next request needs: the login itself, or a token. Raises TransferError."""
        challenge = Challenge.parse(response.headers.get_list("WWW-Authenticate"))
        files = login_files() if self.access.login_files is None else list(self.access.login_files)
        self._login = find_login(self.reference.registry, self.reference.repository, files)
        if challenge.is_bearer:
            scope = f"repository:{self.reference.repository}:{'pull,push' if writes else 'pull'}"
            self._authorization[writes] = f"Bearer {self._token(challenge.token_url(scope))}"
        elif self._login is not None:
            self._authorization[writes] = self._login.basic
        else:
            raise self._login_missing()

    def _token(self, url: str) -> str:
        address = httpx.URL(url)
        if address.scheme != "https" and not (is_this_machine(address.host) and self.reference.is_loopback):
            raise TransferError(f"the login service of {self.reference.registry} is without TLS: {address.host}")
        headers = {"Authorization": self._login.basic} if self._login else {}
        try:
            with self._client.stream("GET", url, headers=headers) as answer:
                content = read_answer(answer, MAX_ANSWER_BYTES)
        except httpx.HTTPError as error:
            raise self._connection_error(error) from error
        if answer.status_code in {401, 403}:
            raise self._login_wrong() if self._login else self._login_missing()
        if answer.status_code != httpx.codes.OK:
            raise TransferError(f"the login service of {self.reference.registry} failed: {answer.status_code}")
        return parse_token(content)

    def _login_missing(self) -> RegistryRefusedError:
        registry = self.reference.registry
        files = login_files() if self.access.login_files is None else list(self.access.login_files)
        hint = f"log in with `podman login {registry}` or `skopeo login {registry}`: Berth reads their file"
        if names_helper(registry, files):
            hint = f"your login is with a program (credHelpers, credsStore), which Berth does not run; {hint}"
        return RegistryRefusedError(f"{registry} wants a login", hint=hint)

    def _login_wrong(self) -> RegistryRefusedError:
        assert self._login is not None  # as the callers have seen
        return RegistryRefusedError(
            f"{self.reference.registry} did not accept the login of {self._login.user}",
            hint=f"it is in {self._login.file}: log in again",
        )

    def _refusal(self, method: str, where: str, response: httpx.Response) -> TransferError:
        """Return the error for an answer with an unexpected status."""
        name, status = self.reference, response.status_code
        said = _own_words(response)
        if status == httpx.codes.UNAUTHORIZED:
            return self._login_wrong() if self._login else self._login_missing()
        if status == httpx.codes.FORBIDDEN:
            who = self._login.user if self._login else "a user without a login"
            what = "read" if method in {"GET", "HEAD"} else "write to"
            return RegistryRefusedError(
                f"{name.registry} does not let {who} {what} {name.repository}{said}",
                hint="its administrators give that right" if self._login else f"log in: `podman login {name.registry}`",
            )
        if status == httpx.codes.NOT_FOUND:
            return NotInRegistryError(
                f"{name.registry} has no {_what(where)} in {name.repository}{said}",
                hint="are the name and the tag right? some registries say this also without a sufficient login",
            )
        if status == httpx.codes.REQUEST_ENTITY_TOO_LARGE:
            return TransferError(
                f"{name.registry}, or a proxy in front of it, refuses this much at once{said}",
                hint="its administrators can raise the limit of a request",
            )
        if status in _OVERLOADED:
            return Interrupted(f"{name.registry} failed with status {status}{said}", wait_s=_asked_wait(response))
        return TransferError(f"{name.registry} refused {_what(where)} with status {status}{said}")

    def _connection_error(self, error: httpx.HTTPError) -> TransferError:
        """Return the error for a connection that could not be made, or that broke."""
        registry = self.reference.registry
        if (problem := _certificate_problem(error)) is not None:
            ca = (
                f"{self.access.ca}, the authority of this site for it"
                if self.access.ca
                else "this machine's authorities"
            )
            return TransferError(
                f"the certificate of {registry} is not valid by {ca}: {problem}",
                hint=f"the site's administrators name its authority in profiles.registries: {registry}: {{ca: FILE}}",
            )
        if isinstance(error, httpx.TimeoutException):
            return Interrupted(f"{registry} sent nothing for {self.access.timeout_s:g} s", hint="try again later")
        if isinstance(error, httpx.ConnectError):
            return Interrupted(
                f"{registry} cannot be reached: {error}",
                hint="are the host and the port right? is a proxy needed here?",
            )
        return Interrupted(
            f"the connection to {registry} broke: {error or type(error).__name__}", hint="try again later"
        )


def read_answer(response: httpx.Response, limit: int) -> bytes:
    """Return all of a small answer. Raises TransferError if it is too large, encoded or too slow, httpx.HTTPError."""
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise TransferError(f"{response.url.host} sent an answer in an encoding that was not asked for")
    content = bytearray()
    end = time.monotonic() + MAX_ANSWER_S
    for piece in response.iter_raw():
        content += piece
        if len(content) > limit:
            raise TransferError(f"{response.url.host} sent more than {limit} bytes where it must send a small answer")
        if time.monotonic() > end:
            raise TransferError(f"{response.url.host} took more than {MAX_ANSWER_S:g} s for a small answer")
    return bytes(content)


def _tls_context(access: RegistryAccess) -> ssl.SSLContext:
    if access.ca is None:
        return ssl.create_default_context()
    try:
        return ssl.create_default_context(cafile=str(access.ca))
    except (OSError, ssl.SSLError) as error:
        raise TransferError(
            f"the authorities in {access.ca} cannot be read", hint="profiles.registries names a PEM file"
        ) from error


def _certificate_problem(error: BaseException | None) -> str | None:
    """Return what is wrong with a server's certificate; None if something else failed."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return error.verify_message
        error = error.__cause__ or error.__context__
    return None


def _own_words(response: httpx.Response) -> str:
    """Return what a registry says about an error, `: …`, cut; empty if it says nothing that can be read."""
    try:
        data = parse_json(read_answer(response, MAX_ANSWER_BYTES), "the answer")
        first = data["errors"][0]
        words = str(first.get("message") or first.get("code"))
    except (TransferError, httpx.HTTPError, LookupError, TypeError, AttributeError):
        return ""  # the status alone has to do
    shown = "".join(char if char.isprintable() else " " for char in words[:MAX_WORDS_CHARACTERS]).strip()
    return f": {shown}" if shown else ""


def _asked_wait(response: httpx.Response) -> float:
    """Return the seconds of `Retry-After`, bounded; 0 for another form."""
    asked = response.headers.get("Retry-After", "")
    return min(float(asked), MAX_WAIT_S) if asked.isascii() and asked.isdigit() and len(asked) < 6 else 0.0


def _what(where: str) -> str:
    """Return what a path or an address is about."""
    kind, _, name = where.partition("/")
    if kind == "manifests":
        return f"image {name}"
    return "blob" if "blobs" in where and "uploads" not in where else "upload"
