"""What may keep a client from working with a server, and what to do about it."""

from __future__ import annotations

from enum import Enum


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
    NO_SOCKET = (
        "host",
        "no server listens at the socket {where}, or this user may not use it",
        "Check the path and its rights (`unixsocket`, `unixsocketperm`), and that the server runs.",
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
        "Check that the port is that of Redis, and the log: over TLS, a full server just hangs up.",
    )
    NOT_REDIS = (
        "port",
        "something at {where} answers that is not Redis",
        "Check the port: it may be that of an HTTP or another server.",
    )
    NO_RESP3 = (
        "protocol",
        "{where} does not speak RESP3",
        "Use protocol=2: it is an old server, or a proxy.",
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
    INCOMPLETE_CERTIFICATE = (
        "TLS",
        "the certificate of {where} or of its authority is not made as RFC 5280 asks for",
        "Make it with all that Python verifies from 3.13 on, as deploy/tls.sh does.",
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
        "Give PEM files that this user may read; certificate and key of one pair, not encrypted.",
    )
    TLS_FAILED = ("TLS", "{where} and this machine agree on no TLS", "Compare their versions.")
    NO_CREDENTIALS = (
        "password",
        "the credential provider tells none for {where}",
        "See what it needs on this machine: the server was not asked.",
    )
    PASSWORD_WANTED = (
        "password",
        "{where} wants a password, and none was given",
        "Give it, and the user if it is not `default`.",
    )
    PASSWORD_UNWANTED = (
        "password",
        "{where} has no password for the default user, and was given one",
        "Leave it out, or give the ACL user whose it is.",
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
        "Allow PING, and where used SELECT, CLIENT|SETNAME, SENTINEL|MASTERS and CLUSTER|SLOTS.",
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
