"""What keeps a client from working with a server, told from the error that it ran into.

Where the error leaves it open, as it does when somebody just hangs up, the server is asked again in
the other way: by TLS if it was not, and without if it was.
"""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import Iterator
from enum import Enum
from typing import Any

from redis import exceptions

from nexus_redis_provider.core.endpoint import Endpoint

_PING = b"*1\r\n$4\r\nPING\r\n"


class Fault(Enum):
    """A reason why nothing works.

    Attributes:
        field: what to correct, in a word or two.
        what: is the matter; `{where}` stands for the server.
        advice: the next step.
    """

    UNKNOWN_HOST = (
        "host",
        "the host's name in {where} is not known",
        "Check how it is written, and the DNS of the machine that connects.",
    )
    REFUSED = (
        "port",
        "nothing listens at {where}",
        "Check the port, that the server runs, and that its `bind` includes this address.",
    )
    NO_WAY = (
        "port",
        "{where} does not take connections in time",
        "Check host and port, and what is on the way: a firewall, a security group, a VPN.",
    )
    SILENT = (
        "port",
        "{where} takes connections and then says nothing",
        "Check that the port is that of Redis, and that the server is not stopped or busy.",
    )
    HANGS_UP = (
        "port",
        "{where} takes connections and hangs up",
        "Check that the port is that of Redis, and the server's log.",
    )
    NOT_REDIS = (
        "port",
        "something at {where} answers that is not Redis",
        "Check the port: it may be that of an HTTP or another server.",
    )
    TLS_WANTED = (
        "TLS",
        "{where} speaks TLS, and was spoken to without",
        "Use rediss:// in place of redis://, or ssl=true in the connection.",
    )
    TLS_UNWANTED = (
        "TLS",
        "{where} speaks no TLS on this port",
        "Use redis:// in place of rediss://, or ssl=false in the connection, or its TLS port.",
    )
    UNKNOWN_CA = (
        "TLS",
        "the certificate of {where} is of an authority that is not trusted here",
        "Give the authority's certificate as ssl_ca_certs, a PEM file on each machine.",
    )
    EXPIRED_CERTIFICATE = (
        "TLS",
        "the certificate of {where} is not valid today",
        "Renew it on the server, or set this machine's clock.",
    )
    WRONG_HOST_NAME = (
        "TLS",
        "the certificate of {where} is for another name",
        "Use a name that stands in it, or, on a network you trust, ssl_check_hostname=false.",
    )
    CLIENT_CERTIFICATE_WANTED = (
        "TLS",
        "{where} wants a certificate of the client",
        "Give ssl_certfile and ssl_keyfile, or set tls-auth-clients no on the server.",
    )
    CLIENT_CERTIFICATE_REFUSED = (
        "TLS",
        "{where} does not accept the client's certificate",
        "Check that ssl_certfile is valid today, and of an authority of its tls-ca-cert-file.",
    )
    CERTIFICATE_FILES = (
        "TLS",
        "a certificate for {where} cannot be used here",
        "Check ssl_ca_certs, ssl_certfile and ssl_keyfile: PEM files, readable, and of one pair.",
    )
    TLS_FAILED = ("TLS", "{where} and this machine agree on no TLS", "Compare their versions.")
    PASSWORD_WANTED = (
        "password",
        "{where} wants a password, and none was given",
        "Give it, and the user if it is not `default`.",
    )
    WRONG_PASSWORD = (
        "password",
        "the password of the default user is wrong at {where}",
        "Check the password, or give the ACL user whose it is.",
    )
    WRONG_USER_OR_PASSWORD = (
        "user or password",
        "the user or its password is wrong at {where}, or the user is disabled",
        "The server does not say which: check both, by ACL GETUSER as its administrator.",
    )
    FORBIDDEN = (
        "permissions",
        "the user may not do what each client must at {where}",
        "Allow PING, and where used CLIENT|SETNAME, SENTINEL|MASTERS and CLUSTER|SLOTS.",
    )
    PROTECTED_MODE = (
        "server",
        "{where} is in protected mode, and takes no connections of other machines",
        "Set a password for its default user, or protected-mode no behind a firewall.",
    )
    DATABASE = ("database", "{where} has no such database", "Check the number, from 0.")
    LOADING = (
        "server",
        "{where} still loads its data",
        "Wait: INFO persistence says how long (loading_eta_seconds).",
    )
    PRIMARY_AWAY = (
        "server",
        "{where} is a replica that has lost its primary",
        "Check the primary, and masterauth, or connect to another server.",
    )
    TOO_MANY_CLIENTS = (
        "server",
        "{where} has as many clients as it takes",
        "Raise its maxclients, or find by CLIENT LIST who keeps so many connections.",
    )
    UNKNOWN_MASTER = (
        "Sentinel master name",
        "no Sentinel of {where} watches a primary by that name",
        "Use a name of `SENTINEL MASTERS`.",
    )
    PRIMARY_DOWN = (
        "server",
        "the Sentinels see the primary of {where} down, and no other one is elected yet",
        "Wait for the failover, or see the Sentinels' log for why there is none.",
    )
    NO_SENTINEL = (
        "topology",
        "{where} is no Sentinel",
        "Give the Sentinels' addresses, or use redis:// for a single server.",
    )
    A_SENTINEL = (
        "topology",
        "{where} is a Sentinel, not a server with data",
        "Use redis+sentinel://, or topology=sentinel, with the master's name.",
    )
    NO_CLUSTER = (
        "topology",
        "{where} is no node of a Cluster",
        "Use redis://, or topology=standalone.",
    )
    A_CLUSTER = (
        "topology",
        "{where} is a node of a Cluster, which has some of the keys",
        "Use redis+cluster://, or topology=cluster.",
    )
    CLUSTER_DOWN = (
        "server",
        "the Cluster of {where} is down, or has slots that no node serves",
        "See CLUSTER NODES for nodes that failed.",
    )
    OTHER = ("server", "{where} cannot be used", "See its log.")

    def __init__(self, field: str, what: str, advice: str) -> None:
        self.field = field
        self.what = what
        self.advice = advice

    def told(self, where: object, detail: object = "") -> str:
        """The message: what to correct, what is the matter, and the next step."""
        said = f" ({str(detail).rstrip('.')})" if str(detail) else ""
        return f"{self.field}: {self.what.format(where=where)}{said}. {self.advice}"


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
    return _asked_the_other_way(server), str(causes[-1])


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


# A part of what a server says, where redis-py has no class for it.
_REPLIES = (
    ("DENIED Redis", Fault.PROTECTED_MODE),
    ("max number of clients", Fault.TOO_MANY_CLIENTS),
    ("DB index is out of range", Fault.DATABASE),
    ("cluster support disabled", Fault.NO_CLUSTER),
    ("unknown command 'SENTINEL'", Fault.NO_SENTINEL),
)
_CLASSES: tuple[tuple[Any, Fault], ...] = (
    (exceptions.NoPermissionError, Fault.FORBIDDEN),
    (exceptions.BusyLoadingError, Fault.LOADING),
    (exceptions.MasterDownError, Fault.PRIMARY_AWAY),
    (exceptions.InvalidResponse, Fault.NOT_REDIS),
    # Any other answer.
    (exceptions.ResponseError, Fault.OTHER),
)


def _of_reply(error: BaseException, server: Endpoint) -> Fault | None:
    if isinstance(error, exceptions.AuthenticationError):
        if server.password is None:
            return Fault.PASSWORD_WANTED
        return Fault.WRONG_USER_OR_PASSWORD if server.username else Fault.WRONG_PASSWORD
    if isinstance(error, exceptions.RedisError):
        for part, fault in _REPLIES:
            if part in str(error):
                return fault
    return next((fault for kind, fault in _CLASSES if isinstance(error, kind)), None)


# By OpenSSL's X509_V_ERR_*.
_VERIFICATION = {
    9: Fault.EXPIRED_CERTIFICATE,
    10: Fault.EXPIRED_CERTIFICATE,
    62: Fault.WRONG_HOST_NAME,
    64: Fault.WRONG_HOST_NAME,
}
# By a part of OpenSSL's reason.
_TLS_REASONS = (
    ("CERTIFICATE_REQUIRED", Fault.CLIENT_CERTIFICATE_WANTED),
    ("HANDSHAKE_FAILURE", Fault.CLIENT_CERTIFICATE_WANTED),
    ("ALERT_UNKNOWN_CA", Fault.CLIENT_CERTIFICATE_REFUSED),
    ("ALERT_BAD_CERTIFICATE", Fault.CLIENT_CERTIFICATE_REFUSED),
    ("ALERT_CERTIFICATE", Fault.CLIENT_CERTIFICATE_REFUSED),
    ("PROTOCOL_VERSION", Fault.TLS_FAILED),
    ("KEY_VALUES_MISMATCH", Fault.CERTIFICATE_FILES),
    ("NO_CERTIFICATE_OR_CRL_FOUND", Fault.CERTIFICATE_FILES),
    ("NO_START_LINE", Fault.CERTIFICATE_FILES),
)


def _of_tls(error: BaseException, server: Endpoint) -> Fault | None:
    if isinstance(error, ssl.SSLCertVerificationError):
        return _VERIFICATION.get(error.verify_code, Fault.UNKNOWN_CA)
    if isinstance(error, ssl.SSLError):
        reason = error.reason or ""
        return next((fault for part, fault in _TLS_REASONS if part in reason), None)
    if server.tls and isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError):
        return Fault.CERTIFICATE_FILES
    return None


_NO_WAY = (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ETIMEDOUT)


def _of_network(error: BaseException, _: Endpoint) -> Fault | None:
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
