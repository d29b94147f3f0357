"""Which fault an error is a sign of.

Where the error leaves it open, as it does when somebody just hangs up, the server is asked again in
the other way: by TLS if it was not, and without if it was.
"""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import Iterator
from typing import Any

from redis import exceptions

from nexus_redis_provider.core.credentials import ProviderError
from nexus_redis_provider.core.endpoint import Endpoint
from nexus_redis_provider.core.faults import Fault
from nexus_redis_provider.core.translations import TOO_MANY_CLIENTS

_PING = b"*1\r\n$4\r\nPING\r\n"


_TIMEOUTS = (TimeoutError, exceptions.TimeoutError)


def fault_of(error: BaseException, server: Endpoint) -> tuple[Fault, str]:
    """Why a client of a single server failed, and what the system says of it.

    Args:
        error: what it raised.
        server: standalone; it may be asked again, for at most twice its timeouts.
    """
    causes = list(_causes(error))
    for cause in causes:
        for judge in (_of_reply, _of_tls, _of_network):
            if fault := judge(cause, server):
                return fault, str(cause)
    fault = _asked_the_other_way(server)
    if fault is Fault.SILENT and not any(isinstance(cause, _TIMEOUTS) for cause in causes):
        # To what it does not understand: it had said something, or had hung up.
        fault = Fault.HANGS_UP
    return fault, str(causes[-1])


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


# A part of what a server says, where redis-py has no class for it.
_REPLIES = (
    ("DENIED Redis", Fault.PROTECTED_MODE),
    ("without any password configured", Fault.PASSWORD_UNWANTED),
    (TOO_MANY_CLIENTS, Fault.TOO_MANY_CLIENTS),
    ("out of range", Fault.DATABASE),
    ("cluster support disabled", Fault.NO_CLUSTER),
    ("unknown command 'SENTINEL'", Fault.NO_SENTINEL),
    # The latter by Redis before 7.0, and by what is made like it.
    ("unknown command 'HELLO'", Fault.NO_RESP3),
    ("unknown command `HELLO`", Fault.NO_RESP3),
)
_CLASSES: tuple[tuple[Any, Fault], ...] = (
    (exceptions.NoPermissionError, Fault.FORBIDDEN),
    (exceptions.BusyLoadingError, Fault.LOADING),
    (exceptions.MasterDownError, Fault.PRIMARY_AWAY),
    # Any other answer.
    (exceptions.ResponseError, Fault.OTHER),
)


def _of_reply(error: BaseException, server: Endpoint) -> Fault | None:
    if isinstance(error, ProviderError):
        return Fault.NO_CREDENTIALS
    if isinstance(error, exceptions.InvalidResponse):
        return Fault.NOT_REDIS
    if isinstance(error, exceptions.RedisError):
        for part, fault in _REPLIES:
            if part in str(error):
                return fault
    if isinstance(error, exceptions.AuthenticationError):
        if server.password is None and server.credential_provider is None:
            return Fault.PASSWORD_WANTED
        is_default = server.username is None and server.credential_provider is None
        return Fault.WRONG_PASSWORD if is_default else Fault.WRONG_USER_OR_PASSWORD
    return next((fault for kind, fault in _CLASSES if isinstance(error, kind)), None)


# By OpenSSL's X509_V_ERR_*.
_VERIFICATION = {
    9: Fault.EXPIRED_CERTIFICATE,
    10: Fault.EXPIRED_CERTIFICATE,
    62: Fault.WRONG_HOST_NAME,
    64: Fault.WRONG_HOST_NAME,
    # Of strict verification, from PATHLEN_INVALID_FOR_NON_CA to EXTENSIONS_REQUIRE_VERSION_3.
    **dict.fromkeys(range(80, 94), Fault.INCOMPLETE_CERTIFICATE),
}
# By a part of OpenSSL's reason.
_TLS_REASONS = (
    ("CERTIFICATE_REQUIRED", Fault.CLIENT_CERTIFICATE_WANTED),
    ("HANDSHAKE_FAILURE", Fault.CLIENT_CERTIFICATE_WANTED),
    ("ALERT_UNKNOWN_CA", Fault.CLIENT_CERTIFICATE_REFUSED),
    ("ALERT_BAD_CERTIFICATE", Fault.CLIENT_CERTIFICATE_REFUSED),
    ("ALERT_CERTIFICATE", Fault.CLIENT_CERTIFICATE_REFUSED),
    ("PROTOCOL_VERSION", Fault.TLS_FAILED),
)


def _of_tls(error: BaseException, _: Endpoint) -> Fault | None:
    if isinstance(error, ssl.SSLCertVerificationError):
        return _VERIFICATION.get(error.verify_code, Fault.UNKNOWN_CA)
    if isinstance(error, ssl.SSLError):
        # One that OpenSSL has no name for stands in the text alone.
        reason = error.reason or str(error)
        return next((fault for part, fault in _TLS_REASONS if part in reason), None)
    return None


_NO_SOCKET = (FileNotFoundError, PermissionError, ConnectionRefusedError)
_NO_WAY = (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ETIMEDOUT)


def _of_network(error: BaseException, server: Endpoint) -> Fault | None:
    if server.nodes[0].is_socket and isinstance(error, _NO_SOCKET):
        return Fault.NO_SOCKET
    if isinstance(error, socket.gaierror):
        return Fault.UNKNOWN_HOST
    if isinstance(error, ConnectionRefusedError):
        return Fault.REFUSED
    if isinstance(error, OSError) and error.errno in _NO_WAY:
        return Fault.NO_WAY
    return None


def _asked_the_other_way(server: Endpoint) -> Fault:
    """What a server is that hung up, said nothing, or spoke nonsense."""
    try:
        if not server.tls:
            return _by_tls(server)
        return _without_tls(server) or _by_tls(server)
    except TimeoutError:
        return Fault.NO_WAY
    except ConnectionRefusedError:
        return Fault.REFUSED
    except OSError:
        return Fault.HANGS_UP


def _line_to(server: Endpoint) -> socket.socket:
    node = server.nodes[0]
    if node.is_socket:
        line = socket.socket(socket.AF_UNIX)
        line.connect(node.host)
    else:
        line = socket.create_connection((node.host, node.port), timeout=server.connect_timeout)
    line.settimeout(server.read_timeout)
    return line


def _without_tls(server: Endpoint) -> Fault | None:
    with _line_to(server) as line:
        try:
            line.sendall(_PING)
            said = line.recv(64)
        except TimeoutError:
            return Fault.SILENT
        except OSError:
            return None
    if said.startswith((b"+", b"-")):
        return Fault.TLS_UNWANTED
    return Fault.NOT_REDIS if said else None


def _by_tls(server: Endpoint) -> Fault:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if server.tls and server.tls.certfile:
        context.load_cert_chain(server.tls.certfile, server.tls.keyfile)
    with _line_to(server) as line:
        try:
            with context.wrap_socket(line, do_handshake_on_connect=False) as secure:
                secure.do_handshake()
                if server.tls:
                    # What it thinks of our certificate it says after the handshake, and who sends
                    # something before that may not hear it.
                    secure.recv(1)
        except TimeoutError:
            return Fault.SILENT
        except ssl.SSLError as error:
            if server.tls:
                return _of_tls(error, server) or Fault.HANGS_UP
            return Fault.TLS_WANTED if "ALERT" in (error.reason or "") else Fault.HANGS_UP
        except OSError:
            return Fault.HANGS_UP
    return Fault.HANGS_UP if server.tls else Fault.TLS_WANTED
