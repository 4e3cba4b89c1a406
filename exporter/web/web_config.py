"""The format of a web configuration file: that of Prometheus's exporter-toolkit, read strictly.

https://github.com/prometheus/exporter-toolkit/blob/master/docs/web-configuration.md

The toolkit is written in Go. What its TLS library offers and Python's does not is refused by name.
"""

import ipaddress
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import yaml

from exporter.errors import StartupError

FILE_BYTES: Final = 2**20
_COST_LIMIT: Final = 16
"""About 5 s of one core for each password that is tried; the format's documentation uses 10."""
_BCRYPT: Final = re.compile(r"\$2[aby]\$(0[4-9]|[12][0-9]|3[01])\$[./A-Za-z0-9]{53}")
_DURATION: Final = re.compile(r"(?:\d+(?:\.\d*)?(?:h|m|s|ms|us|µs|ns))+")
_DURATION_PART: Final = re.compile(r"(\d+(?:\.\d*)?)(h|ms|m|s|us|µs|ns)")
_UNIT_SECONDS: Final = {"h": 3600, "m": 60, "s": 1, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_HEADER_VALUES: Final = {
    "X-Content-Type-Options": ("nosniff",),
    "X-Frame-Options": ("deny", "sameorigin"),
}
_VISIBLE: Final = re.compile(r"[\t -~]*")
"""What a header's value may hold (RFC 9110, section 5.5), without the obsolete rest."""

_PLACED: Final = re.compile(r"(?P<what>.*) - at (?:`key` in )?`\$\.?(?P<place>.*)`")
"""An error of msgspec that says where."""

Header = Literal[
    "Content-Security-Policy",
    "Strict-Transport-Security",
    "X-Content-Type-Options",
    "X-Frame-Options",
    "X-XSS-Protection",
]
ClientAuth = Literal[
    "",
    "NoClientCert",
    "RequestClientCert",
    "RequireClientCert",
    "RequireAnyClientCert",
    "VerifyClientCertIfGiven",
    "RequireAndVerifyClientCert",
]
Version = Literal["TLS10", "TLS11", "TLS12", "TLS13"]
Cipher = Literal[
    "TLS_AES_128_GCM_SHA256",
    "TLS_AES_256_GCM_SHA384",
    "TLS_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
]
"""The suites that Go considers secure (crypto/tls, `CipherSuites`)."""
Curve = Literal["CurveP256", "CurveP384", "CurveP521", "X25519"]


class WebConfigError(StartupError):
    """The file, or one that it names, cannot be used. The text names the field and no secret."""


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class TlsSection(_Section, frozen=True):
    """`tls_server_config`."""

    cert: str = ""
    key: str = ""
    client_ca: str = ""
    cert_file: str = ""
    key_file: str = ""
    client_ca_file: str = ""
    client_auth_type: ClientAuth = ""
    client_allowed_sans: tuple[str, ...] = ()
    min_version: Version = "TLS12"
    max_version: Version = "TLS13"
    cipher_suites: tuple[Cipher, ...] = ()
    prefer_server_cipher_suites: bool = True
    curve_preferences: tuple[Curve, ...] = ()

    def __post_init__(self) -> None:
        """Check what involves more than one field, and what Python's TLS lacks."""
        if not (self.cert or self.cert_file):
            raise ValueError("cert_file is missing: it or cert must hold the certificate")
        if not (self.key or self.key_file):
            raise ValueError("key_file is missing: it or key must hold the certificate's key")
        for field in ("min_version", "max_version"):
            if getattr(self, field) in ("TLS10", "TLS11"):
                raise ValueError(f"{field}: TLS before 1.2 is not offered: choose TLS12 or TLS13")
        if self.min_version > self.max_version:
            raise ValueError("min_version is above max_version: no client could connect")
        if len(self.curve_preferences) > 1:
            raise ValueError("curve_preferences: only one curve can be set: name one or none")
        self._check_clients()

    def _check_clients(self) -> None:
        if self.client_auth_type in (
            "RequestClientCert",
            "RequireClientCert",
            "RequireAnyClientCert",
        ):
            raise ValueError(
                f"client_auth_type {self.client_auth_type} would accept certificates of any CA, "
                "which is not supported: use RequireAndVerifyClientCert"
            )
        has_authorities = bool(self.client_ca or self.client_ca_file)
        if has_authorities and not self.wants_clients:
            raise ValueError("client_ca_file needs client_auth_type: RequireAndVerifyClientCert")
        if self.wants_clients and not has_authorities:
            raise ValueError(f"client_auth_type {self.client_auth_type} needs client_ca_file")
        if self.client_allowed_sans and not self.requires_clients:
            raise ValueError(
                "client_allowed_sans needs client_auth_type: RequireAndVerifyClientCert"
            )

    @property
    def wants_clients(self) -> bool:
        """Whether clients are asked for a certificate."""
        return self.client_auth_type not in ("", "NoClientCert")

    @property
    def requires_clients(self) -> bool:
        """Whether only clients with a certificate may read the metrics."""
        return self.client_auth_type == "RequireAndVerifyClientCert"

    @property
    def allowed_names(self) -> frozenset[str]:
        """The names of which a client's certificate must have one; empty for any."""
        return frozenset(map(normalize_name, self.client_allowed_sans))


class HttpSection(_Section, frozen=True):
    """`http_server_config`."""

    http2: bool = True
    headers: dict[Header, str] = {}

    def __post_init__(self) -> None:
        """Check the values of the headers."""
        for name, value in self.headers.items():
            allowed = _HEADER_VALUES.get(name)
            if allowed and value and value not in allowed:
                raise ValueError(f"{name} is {value!r}: choose one of {', '.join(allowed)}")
            if not _VISIBLE.fullmatch(value):
                raise ValueError(f"{name} has a character that is not printable ASCII")


class RateSection(_Section, frozen=True):
    """`rate_limit`."""

    interval: str | int = 0
    burst: int = 0

    def __post_init__(self) -> None:
        """Check that some requests are admitted."""
        if self.seconds and self.burst < 1:
            raise ValueError("burst is below 1: no request would be answered")

    @property
    def seconds(self) -> float:
        """The time between two requests in seconds; 0 for no limit."""
        written = str(self.interval)
        if written == "0":
            return 0.0
        if not _DURATION.fullmatch(written):
            raise ValueError(f"interval {written!r} is not a duration such as 1s or 200ms")
        parts = _DURATION_PART.findall(written)
        return sum(float(number) * _UNIT_SECONDS[unit] for number, unit in parts)


class WebFile(_Section, frozen=True):
    """A whole file."""

    tls_server_config: TlsSection | None = None
    http_server_config: HttpSection = HttpSection()
    basic_auth_users: dict[str, str] = {}
    rate_limit: RateSection = RateSection()

    def __post_init__(self) -> None:
        """Check the users; the text never shows a hash."""
        for user, hashed in self.basic_auth_users.items():
            where = f"basic_auth_users: the password of {user!r}"
            found = _BCRYPT.fullmatch(hashed)
            if not found:
                raise ValueError(f"{where} is not a bcrypt hash: make one with htpasswd -nBC 10 ''")
            if int(found[1]) > _COST_LIMIT:
                raise ValueError(f"{where} has cost {found[1]}, above {_COST_LIMIT}: use 10")
            if ":" in user:
                raise ValueError(
                    f"basic_auth_users: {user!r} has a colon, which no client can send"
                )


def parse(content: bytes) -> WebFile:
    """Read the content of a file.

    Raises:
        WebConfigError: It is not YAML, or a field is unknown or malformed.
    """
    if len(content) > FILE_BYTES:
        raise WebConfigError(f"it is larger than {FILE_BYTES} bytes")
    try:
        tree = yaml.load(content, _Loader)  # noqa: S506 - a SafeLoader
        return msgspec.convert({} if tree is None else tree, WebFile)
    except yaml.MarkedYAMLError as error:  # its own text may quote a secret
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise WebConfigError(f"{line}{error.problem}") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError):
        raise WebConfigError("it is not YAML") from None
    except msgspec.ValidationError as error:
        raise WebConfigError(_explain(str(error))) from None


def normalize_name(name: str) -> str:
    """Return a certificate's name in the form in which names are compared."""
    try:
        return str(ipaddress.ip_address(name.strip()))
    except ValueError:
        return name


def named_files(section: TlsSection, directory: Path) -> Mapping[str, Path]:
    """Return the files that a section names, by field; relative ones are in a directory."""
    fields = ("cert_file", "key_file", "client_ca_file")
    return {field: directory / name for field in fields if (name := getattr(section, field))}


def _explain(text: str) -> str:
    """Put the place of an error first, as in `tls_server_config: …`."""
    found = _PLACED.fullmatch(text)
    return f"{found['place']}: {found['what']}" if found and found["place"] else text


class _Loader(yaml.SafeLoader):
    """Reads YAML as Go's strict decoder does: a repeated key is an error, an empty value absent."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002 - the base class's
        seen: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                problem = f"{key.value} is repeated"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(key.value)
        mapping = super().construct_mapping(node, deep)
        return {key: value for key, value in mapping.items() if value is not None}
