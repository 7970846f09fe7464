"""HTTP with one registry: TLS, tokens, redirects, retries. What it answers is bounded and never believed."""

from __future__ import annotations

import json
import re
import ssl
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, Final, NamedTuple
from urllib.parse import SplitResult, parse_qsl, urlencode, urljoin, urlsplit, urlunsplit
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3 import exceptions
from urllib3.exceptions import ConnectTimeoutError, HTTPError, InsecureRequestWarning, NewConnectionError, SSLError

from store.oci import limits
from store.oci.credentials import Credential
from store.oci.errors import Denied, NotInRegistry, RegistryError
from store.oci.settings import Endpoint

Response = urllib3.BaseHTTPResponse
Find = Callable[[], Credential | None]

_REDIRECTS: Final = (301, 302, 303, 307, 308)
_BUSY: Final = (408, 429, 500, 502, 503, 504)
_CHALLENGE: Final = re.compile(r'([A-Za-z][A-Za-z0-9_-]*)=(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')


class _Token(NamedTuple):
    header: str
    until: float


class Wire:
    """Requests to one registry. Thread-safe."""

    def __init__(self, endpoint: Endpoint, find: Find, *, agent: str = "monofs") -> None:
        self.endpoint = endpoint
        self._find = find
        self._agent = agent
        self._tls = _context(endpoint)
        self._lock = threading.Lock()
        self._scheme = ""  # not known before the first request
        self._managers: dict[str | None, urllib3.PoolManager] = {}
        self._tokens: dict[str, _Token] = {}
        self._active: set[Response] = set()
        self._stopped = threading.Event()

    def close(self) -> None:
        """Break off everything that is going on in other threads, and leave no connection behind."""
        self._stopped.set()
        with self._lock:
            active, managers = list(self._active), list(self._managers.values())
        for response in active:
            with suppress(Exception):  # it may just have ended
                response.shutdown()
        for manager in managers:
            for key in manager.pools.keys():  # noqa: SIM118, it is not iterable itself
                if (pool := manager.pools.get(key)) is not None:
                    pool.close()

    # Requests

    def ask(
        self,
        method: str,
        path: str,
        scope: str,
        *,
        headers: dict[str, str] | None = None,
        body: bytes | None = None,
        good: tuple[int, ...] = (200,),
        retried: bool = True,
    ) -> Response:
        """Return an answer whose status is one of `good`, its body not read yet: use `reading` or `document`.

        `path` may be a whole URL that the registry gave. Raises NotInRegistry, Denied, RegistryError.
        """
        for number in range(limits.tries_max):
            last = number + 1 == limits.tries_max or not retried
            try:
                response = self._authorized(method, self._url(path), scope, headers or {}, body)
            except (HTTPError, OSError) as error:
                if last or _is_final(error, number):
                    raise self._unreachable(error) from None
                self.pause(number)
                continue
            if response.status in good:
                return response
            problem = self._problem(response)
            if last or response.status not in _BUSY:
                raise problem
            self.pause(number, response.headers.get("Retry-After"))
        raise AssertionError

    def fetched(self, path: str, scope: str, headers: dict[str, str], size_max: int) -> tuple[bytes, str]:
        """Return a document and what it is said to be; asks again if it breaks off. Raises as `ask` does."""
        for number in range(limits.tries_max):
            response = self.ask("GET", path, scope, headers=headers)
            try:
                return self._whole(response, size_max), response.headers.get("Content-Type", "")
            except (HTTPError, OSError) as error:
                problem = self._unreachable(error)
            self.pause(number)
        raise problem

    def document(self, response: Response, size_max: int) -> bytes:
        """Return the body. Raises RegistryError if it is over the limit or breaks off."""
        try:
            return self._whole(response, size_max)
        except (HTTPError, OSError) as error:
            raise self._unreachable(error) from None

    def _whole(self, response: Response, size_max: int) -> bytes:
        data = b""
        for piece in self.reading(response):
            data += piece
            if len(data) > size_max:
                raise RegistryError(f"{self.endpoint.registry} sent a document of over {size_max} bytes")
        return data

    def reading(self, response: Response) -> Iterator[bytes]:
        """Yield the body as it comes. Raises HTTPError, OSError when it breaks off."""
        with self._lock:
            self._active.add(response)
        try:
            if self._stopped.is_set():
                raise RegistryError("broken off")
            yield from response.stream(limits.feed_bytes, decode_content=False)
            response.release_conn()
        finally:
            with self._lock:
                self._active.discard(response)
            response.close() if not response.closed else None

    def pause(self, number: int, wanted: str | None = None) -> None:
        """Wait before trying again, longer each time."""
        seconds = limits.back_off_seconds * 2**number
        if wanted is not None and wanted.isascii() and wanted.isdigit():
            seconds = max(seconds, float(wanted[:9]))
        if self._stopped.wait(min(seconds, limits.back_off_seconds_max)):
            raise RegistryError("broken off")

    def _unreachable(self, error: Exception) -> RegistryError:
        return RegistryError(f"cannot speak to {self.endpoint.registry}: {_reason(error)}")

    def _problem(self, response: Response) -> RegistryError:
        """Return the error that an answer stands for; its body is read for an explanation."""
        said = ""
        with suppress(RegistryError, ValueError, RecursionError, LookupError, TypeError, AttributeError):
            doc = json.loads(self.document(response, limits.answer_bytes_max))
            first = doc["errors"][0] if "errors" in doc else doc
            said = str(first.get("message") or first.get("details") or first.get("code") or "")
        text = f"{self.endpoint.registry} answers {response.status}" + (f": {_printable(said)}" if said else "")
        if response.status == 404:
            return NotInRegistry(text)
        return Denied(text) if response.status in (401, 403) else RegistryError(text)

    # The way there

    def _url(self, path: str) -> str:
        if self._scheme == "":
            with self._lock:
                known = self._scheme
            if not known:
                known = self._probed()
                with self._lock:
                    self._scheme = known
        return urljoin(f"{self._scheme}://{self.endpoint.host}/", path)

    def _probed(self) -> str:
        """Return the scheme. Plain HTTP only where that is allowed, and the other side does not know TLS."""
        if not self.endpoint.plain:
            return "https"
        try:
            self._send("GET", f"https://{self.endpoint.host}/v2/", {}, None).close()
        except (HTTPError, OSError) as error:
            text = str(error)
            if "WRONG_VERSION_NUMBER" in text or "RECORD_LAYER_FAILURE" in text or "HTTP_REQUEST" in text:
                return "http"
        return "https"

    def _send(self, method: str, url: str, headers: dict[str, str], body: bytes | None) -> Response:
        """Send one request and follow where it is redirected; who we are is told to no other host."""
        origin = urlsplit(url)
        for _ in range(limits.redirects_max + 1):
            here = self._split(url)
            if here.scheme != "https" and (here.scheme != "http" or origin.scheme == "https"):
                raise RegistryError(f"{self.endpoint.registry} leads away from TLS; that is not followed")
            sent = {"User-Agent": self._agent, "Accept-Encoding": "identity", **headers}
            if (here.scheme, here.netloc) != (origin.scheme, origin.netloc):
                sent.pop("Authorization", None)
            response = self._manager(here.scheme, here.hostname or "").request(
                method, url, headers=sent, body=body, preload_content=False, redirect=False, retries=False
            )
            where = response.headers.get("Location")
            if response.status not in _REDIRECTS or where is None or method not in ("GET", "HEAD"):
                return response
            response.close()
            url = urljoin(url, self._split(where).geturl())
        raise RegistryError(f"{self.endpoint.registry} redirects over {limits.redirects_max} times")

    def _split(self, url: str) -> SplitResult:
        try:
            return urlsplit(url)
        except ValueError:
            raise RegistryError(f"{self.endpoint.registry} leads to what is no address") from None

    def _manager(self, scheme: str, host: str) -> urllib3.PoolManager:
        proxy = getproxies().get(scheme)
        if proxy is not None and (proxy_bypass(host) or self._is_own_machine(host)):
            proxy = None
        with self._lock:
            found = self._managers.get(proxy)
            if found is None:
                options: dict[str, Any] = {
                    "ssl_context": self._tls,
                    "timeout": urllib3.Timeout(limits.connect_seconds, limits.read_seconds),
                    "maxsize": limits.parallel_layers + 1,
                }
                made = urllib3.ProxyManager(proxy, **options) if proxy else urllib3.PoolManager(**options)
                found = self._managers[proxy] = made
        return found

    def _is_own_machine(self, host: str) -> bool:
        return host in ("localhost", "::1") or host.startswith("127.")

    # Tokens

    def _authorized(self, method: str, url: str, scope: str, headers: dict[str, str], body: bytes | None) -> Response:
        own = urlsplit(url)[:2] == urlsplit(self._url("/"))[:2]
        for fresh in (False, True):
            with self._lock:
                token = self._tokens.get(scope)
            sent = dict(headers)
            if own and token is not None and token.until > time.monotonic():
                sent["Authorization"] = token.header
            response = self._send(method, url, sent, body)
            if response.status != 401 or fresh or not own:
                return response
            offered = response.headers.getlist("WWW-Authenticate")
            self._skim(response)
            made = self._answer(offered, scope)
            with self._lock:
                self._tokens[scope] = made
        raise AssertionError

    def _skim(self, response: Response) -> None:
        """Read a short body, so that its connection can be used again."""
        with suppress(RegistryError):
            self.document(response, limits.answer_bytes_max)

    def _answer(self, offered: list[str], scope: str) -> _Token:
        """Return what a challenge asks for. Raises Denied."""
        challenges = {text.partition(" ")[0].lower(): text for text in offered}
        credential = self._find()
        if "bearer" in challenges:
            fields = {
                name.lower(): re.sub(r"\\(.)", r"\1", quoted) or bare
                for name, quoted, bare in _CHALLENGE.findall(challenges["bearer"])
            }
            return self._fetch(fields, scope, credential)
        if "basic" in challenges:
            if credential is None or not credential.user:
                raise Denied(f"{self.endpoint.registry} wants to know who we are: 'monofs login {self._name}'")
            return _Token(credential.basic, float("inf"))
        raise Denied(f"{self.endpoint.registry} wants to know who we are in a way that is not known here")

    @property
    def _name(self) -> str:
        return self.endpoint.registry

    def _fetch(self, fields: dict[str, str], scope: str, credential: Credential | None) -> _Token:
        realm = self._split(fields.get("realm", ""))
        if realm.scheme not in ("https", "http") or not realm.hostname:
            raise RegistryError(f"{self._name} names no server for tokens")
        if realm.scheme == "http" and self._scheme != "http":
            raise RegistryError(f"{self._name} wants a password sent without TLS; that is not done")
        query = [("service", fields["service"])] if "service" in fields else []
        query += [("scope", part) for part in (scope or fields.get("scope", "")).split()]
        if credential is not None and credential.token:
            form = [("grant_type", "refresh_token"), ("client_id", "monofs"), ("refresh_token", credential.token)]
            joined = " ".join(value for key, value in query if key == "scope")
            form += [pair for pair in query if pair[0] == "service"] + [("scope", joined)]
            headers = {"Content-Type": "application/x-www-form-urlencoded"}
            response = self._patiently("POST", urlunsplit(realm), headers, urlencode(form).encode())
        else:
            headers = {}
            if credential is not None:
                headers["Authorization"] = credential.basic
                query.append(("account", credential.user))
            where = realm._replace(query=urlencode(parse_qsl(realm.query) + query), fragment="")
            response = self._patiently("GET", urlunsplit(where), headers, None)
        if response.status != 200:
            problem = self._problem(response)
            hint = f"; 'monofs login {self._name}'" if isinstance(problem, Denied) else ""
            raise type(problem)(f"{problem} (asked for a token){hint}")
        return self._token(self.document(response, limits.answer_bytes_max))

    def _patiently(self, method: str, url: str, headers: dict[str, str], body: bytes | None) -> Response:
        for number in range(limits.tries_max):
            last = number + 1 == limits.tries_max
            try:
                response = self._send(method, url, headers, body)
            except (HTTPError, OSError) as error:
                if last:
                    raise self._unreachable(error) from None
            else:
                if last or response.status not in _BUSY:
                    return response
                response.close()
            self.pause(number)
        raise AssertionError

    def _token(self, data: bytes) -> _Token:
        try:
            doc = json.loads(data)
            text = doc.get("token") or doc.get("access_token")
            seconds = doc.get("expires_in")
        except (ValueError, RecursionError, AttributeError):
            text = seconds = None
        if not isinstance(text, str) or not re.fullmatch(r"[\x21-\x7e]+", text) or len(text) > limits.token_bytes_max:
            raise RegistryError(f"{self._name}: the server for tokens gave none")
        if type(seconds) is not int or seconds < 1:
            seconds = limits.token_seconds_default
        return _Token(f"Bearer {text}", time.monotonic() + min(seconds, limits.token_seconds_max) * 0.9)


def _context(endpoint: Endpoint) -> ssl.SSLContext:
    try:
        made = ssl.create_default_context(cafile=endpoint.ca)
    except (OSError, ssl.SSLError) as error:
        raise RegistryError(f"cannot use the certificates in {endpoint.ca}: {error.strerror or error}") from None
    if endpoint.insecure:
        warnings.simplefilter("ignore", InsecureRequestWarning)  # that is what the person wrote
        made.check_hostname = False
        made.verify_mode = ssl.CERT_NONE
    return made


def _is_final(error: Exception, number: int) -> bool:
    """True if trying again will not help: nobody vouches for the other side, or nobody is there."""
    nobody = isinstance(error, (NewConnectionError, ConnectTimeoutError))
    return isinstance(error, SSLError) or (nobody and number >= limits.refusals_max)


def _reason(error: BaseException) -> str:
    """Return the innermost reason in a few words; urllib3 wraps them several times."""
    if isinstance(error, exceptions.TimeoutError) and not isinstance(error, NewConnectionError):
        return "it does not answer"
    for inner in (error.__cause__, *error.args):
        if isinstance(inner, ssl.SSLCertVerificationError):
            return f"its certificate is not good ({_printable(inner.verify_message)})"
        if isinstance(inner, OSError) and inner.strerror:
            return _printable(inner.strerror)
    return _printable(re.sub(r"^.*?: |<[^>]*> ?", "", str(error), count=1) or type(error).__name__)


def _printable(text: str) -> str:
    """What somebody else wrote, on one short line."""
    return "".join(char if char.isprintable() else " " for char in text[:300]).strip()
