"""Brokers that want to know who comes: passwords, tokens and certificates."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path
from typing import Any

import trustme
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)
from cryptography.hazmat.primitives import serialization

from tests.kafka.broker import Broker
from tests.kafka.client import WAIT_S

USER, PASSWORD = "ann", "a password"
MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "OAUTHBEARER")
LISTENERS = {"SASL": "SASL_PLAINTEXT", "TLS": "SSL"}
_MODULES = {
    "PLAIN": f'plain.PlainLoginModule required user_{USER}="{PASSWORD}"',
    "SCRAM-SHA-256": "scram.ScramLoginModule required",
    # Kafka's tokens for tests: nobody signs them.
    "OAUTHBEARER": 'oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub="x"',
}


def secured_broker(folder: Path) -> Broker:
    """A broker, not started, with two more ways in: ``SASL`` by all mechanisms, and ``TLS``.

    Over TLS it asks for a certificate by the same authority, as its own is.

    Args:
        folder: Of the broker; ``ca.pem``, ``client.pem`` and ``client.key`` are put there too.
    """
    folder.mkdir(parents=True)
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    _write_pair(authority, folder / "server.pem", folder / "server.key")
    _write_pair(authority, folder / "client.pem", folder / "client.key")
    store = folder / "server-store.pem"
    store.write_bytes((folder / "server.key").read_bytes() + (folder / "server.pem").read_bytes())
    logins = {
        f"listener.name.sasl.{mechanism.lower()}.sasl.jaas.config": (
            f"org.apache.kafka.common.security.{module};"
        )
        for mechanism, module in _MODULES.items()
    }
    settings = {
        "sasl.enabled.mechanisms": ",".join(MECHANISMS),
        **logins,
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(store),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(folder / "ca.pem"),
        "ssl.client.auth": "required",
        # Topics and groups are everybody's until somebody says whose they are.
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "allow.everyone.if.no.acl.found": "true",
        "super.users": "User:ANONYMOUS",
    }
    return Broker(folder, listeners=LISTENERS, settings=settings)


def _write_pair(authority: trustme.CA, certificate: Path, key: Path) -> None:
    issued = authority.issue_cert("127.0.0.1", "localhost")
    issued.cert_chain_pems[0].write_to_path(str(certificate))
    # Java reads no other form of a key.
    loaded = serialization.load_pem_private_key(issued.private_key_pem.bytes(), None)
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8)
    key.write_bytes(loaded.private_bytes(*form, serialization.NoEncryption()))


def add_scram_user(broker: Broker) -> None:
    """Let the user in by ``SCRAM-SHA-256``, which the broker must run for."""
    info = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_256, 4096)
    change = UserScramCredentialUpsertion(USER, info, PASSWORD.encode())
    broker.admin.alter_user_scram_credentials([change])[USER].result(WAIT_S)


def keep_for_somebody_else(broker: Broker, kind: ResourceType, name: str, *, see: bool) -> None:
    """Take a topic, a group or transactional ids that begin so from the user.

    Args:
        broker: Which runs.
        kind: What it is.
        name: Its name, or how it begins.
        see: Whether the user may still see that it is there.
    """
    allowed = [("User:bob", AclOperation.ALL)]
    if see:
        allowed.append((f"User:{USER}", AclOperation.DESCRIBE))
    rules = [
        AclBinding(
            kind, name, ResourcePatternType.PREFIXED, who, "*", what, AclPermissionType.ALLOW
        )
        for who, what in allowed
    ]
    for made in broker.admin.create_acls(rules).values():
        made.result(WAIT_S)


def unsigned_token(life_s: float, *, until_s: float | None = None) -> tuple[str, float]:
    """A token for the user, as an `oauth_cb` gives it.

    Args:
        life_s: Seconds from now on until it is no longer valid; it may be over already.
        until_s: What the client is told instead, in seconds since 1970.
    """
    now_s = time.time()
    claims = {"sub": USER, "iat": now_s + min(0.0, life_s - 1), "exp": now_s + life_s}
    parts = [
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()
        for part in ({"alg": "none"}, claims)
    ]
    return ".".join([*parts, ""]), now_s + life_s if until_s is None else until_s


def sasl_config(broker: Broker, mechanism: str, password: str = PASSWORD) -> dict[str, Any]:
    """How a client comes in by a mechanism, address included."""
    login: dict[str, Any] = {"sasl.username": USER, "sasl.password": password}
    if mechanism == "OAUTHBEARER":
        token = {"sasl.oauthbearer.config": f"principal={USER}"}
        login = {"enable.sasl.oauthbearer.unsecure.jwt": True, **token}
    return {
        "bootstrap.servers": broker.address_of("SASL"),
        "security.protocol": "SASL_PLAINTEXT",
        "sasl.mechanism": mechanism,
        **login,
    }


def tls_config(broker: Broker) -> dict[str, Any]:
    """How a client comes in with a certificate, address included."""
    return {
        "bootstrap.servers": broker.address_of("TLS"),
        "security.protocol": "SSL",
        "ssl.ca.location": str(broker.folder / "ca.pem"),
        "ssl.certificate.location": str(broker.folder / "client.pem"),
        "ssl.key.location": str(broker.folder / "client.key"),
    }
