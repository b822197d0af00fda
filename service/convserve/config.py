"""Every setting of the server, once: command-line flag, `CONVSERVE_*` variable and TOML key follow from here.

A field `max_batch_size` of the section `model` is the flag `--model-max-batch-size`, the variable
`CONVSERVE_MODEL_MAX_BATCH_SIZE` and the key `max_batch_size` in the table `[model]`. A flag beats a variable, a
variable beats the file, the file beats the default. `[models.NAME]` in the file overrides `[model]` for one model.
Unknown keys are errors.
"""

from __future__ import annotations

import argparse
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import msgspec

from convserve import docstrings
from convserve.devices import Device, RuntimeName
from convserve.errors import ConfigError
from convserve.lifecycle import VersionPolicy
from convserve.routing import check_alias

ENV_PREFIX = "CONVSERVE_"

Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]
Count = Annotated[int, msgspec.Meta(ge=1)]
CountOrAuto = Annotated[int, msgspec.Meta(ge=0)]
Processes = Annotated[int, msgspec.Meta(ge=1, le=1024)]  # a typing error must not fill the machine with them
ThreadsOrAuto = Annotated[int, msgspec.Meta(ge=0, le=1024)]
VersionNumber = Annotated[int, msgspec.Meta(ge=1, lt=10**18)]  # as a version directory can be named
Seconds = Annotated[float, msgspec.Meta(ge=0, le=366 * 86400)]  # no clock waits for ever
GrpcSeconds = Annotated[float, msgspec.Meta(ge=0, le=24 * 86400)]  # gRPC takes milliseconds, as a C int
GrpcCount = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 2)]  # the largest C int aborts it


LOOPBACK = ("127.0.0.1", "[::1]", "::1", "localhost")
"""Addresses that only this machine reaches."""


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Frozen, and strict about unknown keys."""


class ModelSettings(_Section, frozen=True, kw_only=True):
    """How a model is batched and run."""

    max_batch_size: Annotated[int, msgspec.Meta(ge=1, le=65536)] = 64
    """Rows (images) that one batch may have. Larger: more throughput under load, more latency for its first row."""
    max_queue_delay: Annotated[float, msgspec.Meta(ge=0, le=10)] = 0.0
    """Seconds a batch may wait for more rows, counted from its first row. 0: run whatever waits when a slot is free."""
    allowed_batch_sizes: tuple[Count, ...] = ()
    """Batch sizes that are run, ascending; batches are padded up to the next one. Empty: any size on a CPU, powers of
    two on a GPU. The last one must be max_batch_size."""
    max_queue_rows: CountOrAuto = 0
    """Rows that may wait; more are refused with RESOURCE_EXHAUSTED. Also the most images one request may bring.
    0: 16 times max_batch_size."""
    max_queue_bytes: Count = 256 * 2**20
    """Bytes of pixels that may wait; more are refused with RESOURCE_EXHAUSTED. Nor may one request bring more."""
    runtime: RuntimeName = "onnxruntime"
    """What computes the model: onnxruntime (an ONNX file) or tensorflow (the SavedModel; needs that extra)."""
    device: Device = "cpu"
    """What the model computes on. A device that is missing is an error, never a fallback."""
    variant: Literal["fp32", "optimized", "int8"] = "fp32"
    """Which ONNX file of the version computes; the others exist only if they were published."""
    execution_slots: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1
    """Batches of one version that may run at the same time."""
    prefetch_batches: Annotated[int, msgspec.Meta(ge=0, le=8)] = 0
    """Batches formed ahead of a free slot. On a CPU 0 is best: a batch formed early is a smaller batch."""
    version_policy: str = "latest"
    """Which versions are served: latest, latest:N, all, or specific:N,N. Versions with an alias are served besides.
    In place of a version that cannot be proved, latest serves the next older one."""
    aliases: dict[str, VersionNumber] = {}
    """Version by alias; requests without a version go to the alias `stable` if it is set. Only in the file."""
    split: dict[str, Annotated[float, msgspec.Meta(ge=0, le=100)]] = {}
    """Percent of the requests without a version that go to an alias, chosen by request id. Only in the file."""
    shadow: str = ""
    """Alias of a version that gets a copy of such requests; its answers are compared and thrown away. Empty: none."""
    shadow_percent: Annotated[float, msgspec.Meta(ge=0, le=100)] = 100.0
    """Percent of the requests that are copied to the shadow."""

    def __post_init__(self) -> None:
        """Check what a type cannot say."""
        sizes = self.allowed_batch_sizes
        if sizes and (list(sizes) != sorted(set(sizes)) or sizes[-1] != self.max_batch_size):
            raise ValueError(
                f"allowed_batch_sizes is {list(sizes)}; it must be ascending and end with max_batch_size"
                f" ({self.max_batch_size})"
            )
        if self.runtime == "tensorflow" and self.variant != "fp32":
            raise ValueError(f"variant is {self.variant!r}, which needs runtime = 'onnxruntime'")
        VersionPolicy.parse(self.version_policy)
        for alias in self.aliases:
            check_alias(alias)
        for alias in {*self.split, *([self.shadow] if self.shadow else [])} - set(self.aliases):
            raise ValueError(f"{alias!r} is used in split or shadow, and aliases has only {sorted(self.aliases)}")
        if sum(self.split.values()) > 100:
            raise ValueError(f"split adds up to {sum(self.split.values()):g} percent; at most 100 can be split off")
        if 0 < self.max_queue_rows < self.max_batch_size:
            raise ValueError(
                f"max_queue_rows is {self.max_queue_rows}, less than max_batch_size ({self.max_batch_size})"
            )


class LimitSettings(_Section, frozen=True, kw_only=True):
    """What a caller may send."""

    max_message_bytes: Annotated[int, msgspec.Meta(ge=1024, le=2**31 - 1)] = 64 * 2**20
    """Bytes of one gRPC message, in either direction. gRPC's own default is 4 MiB; a client must raise its side too."""
    max_image_pixels: Count = 25_000_000
    """Pixels of one encoded image, judged by its header before anything is decoded."""
    max_header_bytes: Annotated[int, msgspec.Meta(ge=1024, le=2**20)] = 16 * 2**10
    """Bytes of one call's metadata."""
    max_connections: GrpcCount = 4096
    """Connections to one worker; more are closed at once."""
    max_streams_per_connection: GrpcCount = 1024
    """Calls that may be under way on one connection; a client holds more back by itself."""
    max_connection_age: GrpcSeconds = 600.0
    """Seconds after which a connection is asked to close and to open anew, so that callers spread over new workers and
    replicas. 0: never."""
    max_connection_age_grace: GrpcSeconds = 60.0
    """Seconds that calls on such a connection get to finish; shorter than a request takes would cut it."""
    max_concurrent_requests: Count = 256
    """Requests that one worker handles at the same time, each on a thread of its own; more wait in line."""


class TlsSettings(_Section, frozen=True, kw_only=True):
    """Encryption of the gRPC port. The files may change: new connections get what they hold then."""

    cert_file: str = ""
    """PEM file with the server's certificate and those that lead to its authority. Empty: no encryption."""
    key_file: str = ""
    """PEM file with the certificate's private key, not encrypted."""
    client_ca_file: str = ""
    """PEM file with authorities; clients must bring a certificate that one of them has signed (mTLS). Empty: clients
    need none."""

    def __post_init__(self) -> None:
        """Check that certificate and key come together."""
        if bool(self.cert_file) != bool(self.key_file):
            missing, given = ("key_file", "cert_file") if self.cert_file else ("cert_file", "key_file")
            raise ValueError(f"tls.{missing} is empty; tls.{given} is useless without it")
        if self.client_ca_file and not self.cert_file:
            raise ValueError("tls.cert_file is empty; tls.client_ca_file is useless without it")


class AuthSettings(_Section, frozen=True, kw_only=True):
    """Bearer tokens, by group of methods. Each file holds one token in a line; changes count without a restart."""

    inference_tokens_file: str = ""
    """File with the tokens that may classify. Empty: everybody may."""
    metadata_tokens_file: str = ""
    """File with the tokens that may ask about models and use reflection. Empty: everybody may."""
    admin_tokens_file: str = ""
    """File with the tokens that may call LoadModel, UnloadModel and SetAlias, where they are enabled. Empty: everybody
    may; not allowed where another group has a file and admin methods are enabled."""
    health_tokens_file: str = ""
    """File with the tokens that may check health. Empty: everybody may; probes and load balancers bring no token."""


class DrainSettings(_Section, frozen=True, kw_only=True):
    """How the server goes away after SIGTERM."""

    delay: Seconds = 0.0
    """Seconds between saying NOT_SERVING and refusing connections, for load balancers to notice."""
    timeout: Seconds = 30.0
    """Seconds that accepted requests get to finish; what is left then is cut and counted."""


class Settings(_Section, frozen=True, kw_only=True):
    """The server's settings."""

    model_repository: Path = Path("models")
    """Directory with one folder per model, each with one folder per version."""
    require_signature: str = ""
    """PEM file with Ed25519 public keys; only versions that one of them has signed are served. Empty: any are."""
    host: str = "127.0.0.1"
    """Address to listen on, for gRPC and HTTP. 0.0.0.0 or [::] lets other machines in."""
    port: Port = 8001
    """gRPC port. 0: any free one, told in the JSON line on stdout."""
    http_port: Port = 8002
    """Port of /metrics, /livez and /readyz. 0: any free one."""
    workers: Literal["auto"] | Processes = 1
    """Processes that share the port, each with its own copy of the models. auto: one for each core to use."""
    worker_timeout: Seconds = 30.0
    """Seconds after which a process counts as hung: one batch has been running for so long, or one of several workers
    does not answer the supervisor, although it does while it loads. The supervisor kills and replaces such a worker; a
    server that stands alone says so in `/livez` and gRPC's `liveness`. 0: never, as for a debugger."""
    repository_poll_interval: Seconds = 5.0
    """Seconds between two looks at the model repository for new versions. 0: look only at start and at LoadModel."""
    admin_methods: bool = False
    """Whether LoadModel, UnloadModel and SetAlias are answered on the gRPC port. Better: admin_port."""
    admin_port: Literal["off"] | Port = "off"
    """gRPC port where LoadModel, UnloadModel and SetAlias are answered, beside the rest. 0: any free one. off: none."""
    admin_host: str = "127.0.0.1"
    """Address of admin_port. One that other machines reach needs tokens for admin methods, or clients' certificates."""
    intra_op_threads: ThreadsOrAuto = 0
    """Threads that compute one batch, in each worker. 0: the cores to use, shared out among the workers."""
    fast_lane: bool = True
    """Whether Classify, ModelInfer and Predict are answered by a loop of their own, which is about twice as fast. It
    needs a version of grpcio that it was tested with; others serve them as everything else, as does `false`."""
    exit_on_error: bool = True
    """Whether a model that cannot be proved at start-up ends the server. If not, it is listed as failed. Under latest
    that is a model without any version that can be proved; under all and specific, or with an alias, each must be."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severity that is logged, to stderr."""
    log_format: Literal["auto", "json", "text"] = "auto"
    """Form of the log. auto: text on a terminal, JSON lines elsewhere."""
    access_log_share: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0
    """Share of the answered requests that have a line in the log, 0 to 1, chosen by request id. Failed ones always have
    one, up to 50 in a second; health checks have none."""
    traces: Literal["off", "otlp", "console"] = "off"
    """Where OpenTelemetry spans go: to a collector by OTLP, or to stderr. Needs the extra otel. The rest is set by its
    own variables, such as OTEL_EXPORTER_OTLP_ENDPOINT and OTEL_TRACES_SAMPLER."""
    model: ModelSettings = ModelSettings()
    """Settings of every model."""
    limits: LimitSettings = LimitSettings()
    """Limits on what callers may send."""
    tls: TlsSettings = TlsSettings()
    """Encryption."""
    auth: AuthSettings = AuthSettings()
    """Who may call what."""
    drain: DrainSettings = DrainSettings()
    """Shutdown."""
    models: dict[str, ModelSettings] = {}
    """Settings of single models by name, where they differ; only in the file, as [models.NAME]."""

    def __post_init__(self) -> None:
        """Check what a type cannot say."""
        auth = self.auth
        others = auth.inference_tokens_file or auth.metadata_tokens_file or auth.health_tokens_file
        if self.admin_methods and others and not auth.admin_tokens_file:
            raise ValueError(
                "admin_methods is on and auth.admin_tokens_file is empty, while other methods need tokens; give admin"
                " methods a file too"
            )
        if (
            self.admin_port != "off"
            and self.admin_host not in LOOPBACK
            and not (auth.admin_tokens_file or self.tls.client_ca_file)
        ):
            raise ValueError(
                f"admin_host is {self.admin_host}, which others reach, and nothing tells who they are; set"
                " auth.admin_tokens_file or tls.client_ca_file"
            )

    def for_model(self, name: str) -> ModelSettings:
        """The settings that hold for a model."""
        return self.models.get(name, self.model)


class Option(msgspec.Struct, frozen=True):
    """One setting as a flag and a variable."""

    path: tuple[str, ...]
    """Where it lies: (field,) or (section, field)."""
    help: str
    """Its docstring."""
    default: Any
    """Its default."""
    choices: tuple[str, ...]
    """What it may be, when that is a short list."""
    is_list: bool
    """Whether several values are given, separated by commas."""

    @property
    def flag(self) -> str:
        """`--section-field`."""
        return "--" + "-".join(self.path).replace("_", "-")

    @property
    def variable(self) -> str:
        """`CONVSERVE_SECTION_FIELD`."""
        return ENV_PREFIX + "_".join(self.path).upper()

    @property
    def default_text(self) -> str:
        """The default as a flag or variable would give it; empty where nothing is the default."""
        if self.is_list:
            return ",".join(map(str, self.default))
        return str(self.default).lower() if isinstance(self.default, bool) else str(self.default)


def options(section: type[msgspec.Struct] = Settings, prefix: tuple[str, ...] = ()) -> Iterator[Option]:
    """Every setting that has a flag, in the order of the classes above."""
    helps = docstrings.of_fields(section)
    hints = get_type_hints(section)
    for field in msgspec.structs.fields(section):
        hint = hints[field.name]
        if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
            yield from options(hint, (*prefix, field.name))
        elif (origin := getattr(hint, "__origin__", None)) is not dict:  # tables are for the file
            literal = getattr(hint, "__args__", ()) if origin is Literal else ()
            is_list = origin is tuple
            yield Option((*prefix, field.name), helps[field.name], field.default, tuple(literal), is_list)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a parser `--config` and a flag for every setting."""
    parser.add_argument("--config", metavar="FILE", type=Path, help="TOML file with settings")
    for option in options():
        parser.add_argument(
            option.flag,
            metavar="{" + ",".join(option.choices) + "}" if option.choices else "VALUE",
            help=f"{option.help} (default: {option.default_text or 'none'}; {option.variable})".replace("%", "%%"),
        )


def load(arguments: Mapping[str, Any], environment: Mapping[str, str]) -> Settings:
    """Put the settings together from flags, variables and the file that `config` names.

    Args:
        arguments: parsed flags, by option name with underscores; None means not given. `config` names the file.
        environment: variables.

    Raises:
        ConfigError: names the setting, where it came from, what came and what is wanted.
    """
    environment = _without_service_links(environment)
    file = arguments.get("config") or environment.get(ENV_PREFIX + "CONFIG")
    tree = _read_file(Path(file)) if file else {}
    sources: list[str] = []
    known = list(options())
    _refuse_unknown_variables(environment, {option.variable for option in known})
    for option in known:
        text = arguments.get("_".join(option.path))
        source = option.flag
        if text is None:
            text, source = environment.get(option.variable), option.variable
        if text is None:
            continue
        value = [part for part in text.split(",") if part] if option.is_list else text
        _check_one(option, value, text, source)
        at = tree
        for name in option.path[:-1]:
            at = _table(at, name, file)
        at[option.path[-1]] = value
        sources.append(f"{source}={text}")
    base, models = _table(tree, "model", file), _table(tree, "models", file)
    tree["models"] = {name: {**base, **_table(models, name, file, "models.")} for name in models}
    try:
        return msgspec.convert(tree, Settings, strict=False, dec_hook=_decode_path)
    except (msgspec.ValidationError, ValueError) as error:
        origin = ", ".join(([str(file)] if file else []) + sources)
        raise ConfigError(f"{error} (from {origin or 'the defaults'})") from error


def _table(tree: dict[str, Any], name: str, file: Path | str | None, prefix: str = "") -> dict[str, Any]:
    """A table of the file; an empty one where there is none.

    Raises:
        ConfigError: the name is there, as something else.
    """
    table = tree.setdefault(name, {})
    if not isinstance(table, dict):
        raise ConfigError(f"--config: {file}: {prefix}{name} is {table!r}; it must be a table, [{prefix}{name}]")
    return table


def _check_one(option: Option, value: Any, text: str, source: str) -> None:
    """Check one value alone, so that the error can name its source."""
    section = Settings
    for name in option.path[:-1]:
        section = get_type_hints(section)[name]
    hint = get_type_hints(section, include_extras=True)[option.path[-1]]
    try:
        msgspec.convert(value, hint, strict=False, dec_hook=_decode_path)
    except (msgspec.ValidationError, ValueError) as error:
        wanted = f"; it must be one of {', '.join(option.choices)}" if option.choices else ""
        raise ConfigError(f"{source} is {text!r}: {error}{wanted}") from error


def _without_service_links(environment: Mapping[str, str]) -> dict[str, str]:
    """Leave out what Kubernetes sets in every pod for a Service named `convserve`; CONVSERVE_PORT is one of them."""
    return {
        name: value
        for name, value in environment.items()
        if name.startswith(ENV_PREFIX) and not _SERVICE_LINK.search(name) and not value.startswith(("tcp://", "udp://"))
    }


_SERVICE_LINK = re.compile(r"_SERVICE_(HOST|PORT(_.*)?)$|_PORT_\d+_(TCP|UDP)(_.*)?$")


def _refuse_unknown_variables(environment: Mapping[str, str], known: set[str]) -> None:
    unknown = sorted(name for name in environment if name not in known | _OTHER_VARIABLES)
    if unknown:
        raise ConfigError(f"{unknown[0]} is set, and there is no such setting; `convserve serve --help` lists them")


_OTHER_VARIABLES = {ENV_PREFIX + "CONFIG", ENV_PREFIX + "TARGET"}
"""Variables with the prefix that are not settings of the server."""


def _read_file(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"--config: {path} cannot be read ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config: {path} is not valid TOML: {error}") from error


def _decode_path(kind: type, value: Any) -> Any:
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise TypeError(f"Expected `str`, got `{type(value).__name__}`")
