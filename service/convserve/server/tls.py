"""The server's side of TLS: certificate, key, and whose clients' certificates are accepted; read again on change."""

from __future__ import annotations

import datetime
from pathlib import Path

import grpc
import structlog
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

from convserve.clock import Clock, monotonic
from convserve.config import TlsSettings
from convserve.errors import ConfigError
from convserve.server.watched import Watched

log = structlog.get_logger(__name__)

_CURVES = ("secp256r1", "secp384r1", "secp521r1")
"""P-256, P-384 and P-521."""


class Certificates:
    """Certificate and key of the server, as files. Thread-safe.

    New connections get what the files hold now; open ones keep what they were made with, until they come of age
    (`limits.max_connection_age`). Files that do not fit together, as in the middle of a rotation, are not taken.
    """

    def __init__(self, settings: TlsSettings, clock: Clock = monotonic) -> None:
        """Read the files that `settings` names; there is a certificate among them."""
        self._settings = settings
        paths = (settings.cert_file, settings.key_file, settings.client_ca_file)
        self._watched = Watched([Path(path) for path in paths if path], clock)

    def credentials(self) -> grpc.ServerCredentials:
        """Read the files, and make what a listener wants.

        Raises:
            ConfigError: one cannot be read or holds something else, or the key is another certificate's.
        """
        self._watched.changed()
        return grpc.dynamic_ssl_server_credentials(
            self._read(),
            self._reload,  # type: ignore[arg-type]  # None is documented, and its type has been forgotten
            require_client_authentication=bool(self._settings.client_ca_file),
        )

    def _reload(self) -> grpc.ServerCertificateConfiguration | None:
        """What a new connection gets: None for what the last one got. gRPC calls it for every handshake."""
        if not self._watched.changed():
            return None
        try:
            return self._read()
        except ConfigError as error:
            log.error("certificates were not reloaded; those read before are used", reason=str(error))
            return None

    def _read(self) -> grpc.ServerCertificateConfiguration:
        """Read and check the files.

        Raises:
            ConfigError: names the setting, the file, and what is wrong.
        """
        settings = self._settings
        cert = _bytes_of("tls.cert_file", settings.cert_file)
        key = _bytes_of("tls.key_file", settings.key_file)
        chain = _certificates("tls.cert_file", settings.cert_file, cert)
        if _public_key(settings.cert_file, chain[0]) != _private_key(settings.key_file, key).public_key():
            raise ConfigError(
                f"tls.key_file: {settings.key_file} is not the key of the first certificate in {settings.cert_file}"
            )
        authorities = None
        if settings.client_ca_file:
            authorities = _bytes_of("tls.client_ca_file", settings.client_ca_file)
            _certificates("tls.client_ca_file", settings.client_ca_file, authorities)
        _tell(chain[0], asks_clients=authorities is not None)
        return grpc.ssl_server_certificate_configuration([(key, cert)], authorities)


def _bytes_of(setting: str, path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"{setting}: {path} cannot be read ({error.strerror})") from error


def _certificates(setting: str, path: str, content: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(content)
    except ValueError as error:
        raise ConfigError(f"{setting}: {path} holds no certificates in PEM form") from error


def _public_key(path: str, certificate: x509.Certificate) -> RSAPublicKey | EllipticCurvePublicKey:
    try:
        key = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"tls.cert_file: the key of {path} cannot be read ({error})") from error
    if isinstance(key, RSAPublicKey) or (isinstance(key, EllipticCurvePublicKey) and key.curve.name in _CURVES):
        return key
    raise ConfigError(
        f"tls.cert_file: the key of {path} is neither RSA nor ECDSA on P-256, P-384 or P-521; gRPC's TLS knows no other"
    )


def _private_key(path: str, content: bytes) -> PrivateKeyTypes:
    try:
        return serialization.load_pem_private_key(content, password=None)
    except TypeError as error:
        raise ConfigError(f"tls.key_file: {path} is encrypted; a server cannot be asked for its password") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"tls.key_file: {path} holds no private key in PEM form") from error


def _tell(certificate: x509.Certificate, *, asks_clients: bool) -> None:
    """Say in the log which certificate is used, loudly if nobody will accept it."""
    ends = certificate.not_valid_after_utc
    facts = {
        "subject": certificate.subject.rfc4514_string(),
        "serial": f"{certificate.serial_number:x}",
        "not_after": ends.isoformat(),
        "client_certificates": "required" if asks_clients else "not asked for",
    }
    if ends <= datetime.datetime.now(datetime.UTC):
        log.error("the certificate has expired; clients will refuse it", **facts)
    else:
        log.info("certificate in use", **facts)
