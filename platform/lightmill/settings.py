"""The environment of this deployment: read once, at an entry point, then passed down.

Every field is an environment variable with the prefix LIGHTMILL_, such as LIGHTMILL_HOME.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import ssl
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from lightmill.errors import RequestError

MINIMUM_LOGICAL_CPUS = 8
PRESTARTED_WORKERS = 4
CACHE_BYTES = 20 << 30


def _logical_cpus() -> int:
    """Ray schedules logical CPUs; with at least eight, Data, Train and Serve do not starve one another."""
    return max(os.cpu_count() or 1, MINIMUM_LOGICAL_CPUS)


class Settings(BaseSettings):
    """Where this deployment keeps its things and where it listens."""

    model_config = SettingsConfigDict(env_prefix="LIGHTMILL_", frozen=True, extra="ignore")

    home: Path = Field(default_factory=lambda: Path.home() / ".lightmill")
    store: str = ""
    catalog: str = ""
    passphrase_file: Path | None = None
    workspace: str = "default"
    host: str = "127.0.0.1"
    http_port: int = Field(default=8000, ge=1, le=65535)
    grpc_port: int = Field(default=8001, ge=0, le=65535)
    ray_port: int = Field(default=6379, ge=1, le=65535)
    dashboard_port: int = Field(default=8265, ge=1, le=65535)
    stats_port: int = Field(default=8404, ge=1, le=65535)
    metrics_port: int = Field(default=9101, ge=1, le=65535)
    fallback_port: int = Field(default=8500, ge=1, le=65535)
    num_cpus: int = Field(default_factory=_logical_cpus, ge=2)
    num_gpus: int | None = Field(default=None, ge=0)
    object_store_bytes: int | None = Field(default=None, ge=80_000_000)
    promotion_requires: str = ""
    allow_python_steps: bool = False
    serve_python_steps: bool = False
    cache_path: Path | None = None
    cache_bytes: int | None = Field(default=None, ge=0)
    spill_path: Path | None = None
    log_masking: str = ""
    jwt_issuers: Path | None = None
    tls: Literal["", "generate"] = ""
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    tls_ca: Path | None = None
    trace_url: str = ""
    trace_ratio: float = Field(default=0.0, ge=0, le=1)
    url: str = ""
    api_key: SecretStr | None = None

    @field_validator("home")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    @field_validator("passphrase_file", "spill_path", "jwt_issuers", "tls_certificate", "tls_key", "tls_ca")
    @classmethod
    def _absolute_or_none(cls, value: Path | None) -> Path | None:
        return value.expanduser().absolute() if value and value != Path() else None

    @model_validator(mode="after")
    def _one_certificate(self) -> Self:
        if self.tls_key and not self.tls_certificate:
            raise ValueError("LIGHTMILL_TLS_KEY needs LIGHTMILL_TLS_CERTIFICATE, the certificate that it belongs to")
        if self.tls and self.tls_certificate:
            raise ValueError("LIGHTMILL_TLS=generate and LIGHTMILL_TLS_CERTIFICATE exclude each other; set one of them")
        return self

    @classmethod
    def read(cls) -> Self:
        """Read the environment.

        Raises:
            RequestError: A variable has a wrong type or range.
        """
        try:
            return cls()
        except ValidationError as exc:
            problem = exc.errors()[0]
            if not problem["loc"]:
                raise RequestError(f"{problem['msg'].removeprefix('Value error, ')}.") from exc
            name = "LIGHTMILL_" + "_".join(str(part) for part in problem["loc"]).upper()
            raise RequestError(f"The environment variable {name} is {problem['input']!r}: {problem['msg']}.") from exc

    @property
    def store_url(self) -> str:
        """Where the object store is: a directory, by default inside the home."""
        return (
            self.store if "://" in self.store else str(Path(self.store or self.home / "store").expanduser().absolute())
        )

    @property
    def cache_folder(self) -> Path:
        """Where this node keeps sealed blobs that it has read from a remote store."""
        return (self.cache_path or self.home / "cache").expanduser().absolute()

    @property
    def cache_limit_bytes(self) -> int:
        """The most that this node's cache holds; 0 is none, the default for a store on this machine.

        For a remote store 20 GiB, or a tenth of the disk if that is less.
        """
        if self.cache_bytes is not None:
            return self.cache_bytes
        if "://" not in self.store_url or self.store_url.startswith(("file://", "memory://")):
            return 0
        folder = next(path for path in (self.cache_folder, *self.cache_folder.parents) if path.exists())
        return min(CACHE_BYTES, shutil.disk_usage(folder).total // 10)

    @property
    def spill_folder(self) -> Path:
        """Where Ray puts objects that do not fit its object store, in plaintext: in memory unless chosen otherwise."""
        if self.spill_path:
            return self.spill_path
        return (Path("/dev/shm") if Path("/dev/shm").is_dir() else self.home) / f"lm-spill-{self._digest}"  # noqa: S108 - owner and mode are checked before use

    @property
    def catalog_url(self) -> str:
        """The SQLAlchemy URL of the catalog, by default a SQLite file inside the home."""
        return self.catalog or f"sqlite:///{(self.home / 'catalog.db').absolute()}"

    @property
    def base_url(self) -> str:
        """The platform's HTTP address, as clients use it."""
        return (self.url or self.local_url).rstrip("/")

    @property
    def local_url(self) -> str:
        """The platform's HTTP address on its own machine, which LIGHTMILL_URL does not change."""
        return f"{'https' if self.encrypted else 'http'}://{self.host}:{self.http_port}"

    @property
    def grpc_address(self) -> str:
        """Where gRPC clients find the platform on its own machine, as `host:port`; empty where port 0 turns it off."""
        return f"{self.host}:{self.grpc_port}" if self.grpc_port else ""

    @property
    def encrypted(self) -> bool:
        """Whether the platform's HTTP and gRPC ports speak TLS."""
        return bool(self.tls or self.tls_certificate)

    @property
    def tls_path(self) -> Path:
        """Certificate and private key of the HTTP port in one 0600 file, as HAProxy reads them."""
        return self.home / "keys" / "tls.pem"

    @property
    def tls_certificate_path(self) -> Path:
        """The certificate of the HTTP port without its key, for clients elsewhere to trust if it was generated."""
        return self.home / "keys" / "tls.crt"

    def trust(self, url: str) -> ssl.SSLContext | bool:
        """Return what a client of the platform at `url` trusts, as httpx takes it.

        This machine's platform is known by its very certificate, whatever names stand in it; another one by the
        certificates in LIGHTMILL_TLS_CA, or by those of the system.

        Raises:
            RequestError: LIGHTMILL_TLS_CA names no file of certificates.
        """
        own = url.rstrip("/") == self.local_url and self.tls_certificate_path.is_file()
        if not url.startswith("https:") or not (own or self.tls_ca):
            return True
        file = self.tls_certificate_path if own else self.tls_ca
        try:
            context = ssl.create_default_context(cafile=file)
        except OSError as exc:  # ssl.SSLError is one
            raise RequestError(f"{file} holds no certificates; correct LIGHTMILL_TLS_CA.") from exc
        if own:
            context.check_hostname = False
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        return context

    @property
    def keyring_path(self) -> Path:
        """The key ring, a 0600 file."""
        return self.home / "keys" / "keyring.json"

    @property
    def api_key_path(self) -> Path:
        """The administrator's API key, a 0600 file."""
        return self.home / "keys" / "admin.key"

    @property
    def ray_token_path(self) -> Path:
        """Ray's shared token, a 0600 file."""
        return self.home / "keys" / "ray.token"

    @property
    def jobs_path(self) -> Path:
        """A folder per job: its specification and its progress."""
        return self.home / "jobs"

    @property
    def runs_path(self) -> Path:
        """Ray Train's own bookkeeping: pointers to sealed checkpoints, never weights."""
        return self.home / "runs"

    @property
    def process_path(self) -> Path:
        """What `lightmill up` started, for `status` and `down`."""
        return self.home / "platform.json"

    @property
    def run_path(self) -> Path:
        """Sockets, Ray's session and generated files of the running platform.

        It stands outside the home because a socket's path must be short: HAProxy takes 97 bytes, of which Ray
        uses 70. `lightmill up` makes it for its owner alone and refuses one that somebody else made.
        """
        return Path("/tmp") / f"lm-{self._digest}"  # noqa: S108 - owner and mode are checked before use

    @property
    def _digest(self) -> str:
        return hashlib.sha256(f"{os.getuid()}:{self.home.absolute()}".encode()).hexdigest()[:10]

    @property
    def loopback(self) -> bool:
        """Whether the platform listens on this machine only."""
        return self.host in ("127.0.0.1", "localhost", "::1")

    def node_environment(self) -> dict[str, str]:
        """Return the environment of every Ray process of this platform; docs/performance.md explains each.

        It is for nodes and for drivers that run on them, never for a notebook.
        """
        files = self.run_path / "h"
        return {
            "LIGHTMILL_HOME": str(self.home.absolute()),
            "LIGHTMILL_STORE": self.store_url,
            "LIGHTMILL_WORKSPACE": self.workspace,
            "LIGHTMILL_PROMOTION_REQUIRES": self.promotion_requires,
            "LIGHTMILL_ALLOW_PYTHON_STEPS": str(self.allow_python_steps),
            "LIGHTMILL_SERVE_PYTHON_STEPS": str(self.serve_python_steps),
            "LIGHTMILL_PASSPHRASE_FILE": str(self.passphrase_file or ""),
            "LIGHTMILL_HOST": self.host,
            "LIGHTMILL_HTTP_PORT": str(self.http_port),
            "LIGHTMILL_GRPC_PORT": str(self.grpc_port),
            "LIGHTMILL_RAY_PORT": str(self.ray_port),
            **({"LIGHTMILL_CACHE_PATH": str(self.cache_folder)} if self.cache_path else {}),
            **({} if self.cache_bytes is None else {"LIGHTMILL_CACHE_BYTES": str(self.cache_bytes)}),
            "LIGHTMILL_SPILL_PATH": str(self.spill_folder),
            "LIGHTMILL_LOG_MASKING": self.log_masking,
            "LIGHTMILL_JWT_ISSUERS": str(self.jwt_issuers or ""),
            "LIGHTMILL_TLS": self.tls,
            "LIGHTMILL_TLS_CERTIFICATE": str(self.tls_certificate or ""),
            "LIGHTMILL_TLS_KEY": str(self.tls_key or ""),
            "LIGHTMILL_TLS_CA": str(self.tls_ca or ""),
            "LIGHTMILL_TRACE_URL": self.trace_url,
            "LIGHTMILL_TRACE_RATIO": str(self.trace_ratio),
            "LIGHTMILL_DASHBOARD_PORT": str(self.dashboard_port),
            # Ray closed to strangers: its token on, its ports on loopback (what Ray does on laptops).
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.ray_token_path.absolute()),
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0" if self.loopback else "1",
            "RAY_USAGE_STATS_ENABLED": "0",
            # Serving: HAProxy in front, the replica itself behind it, one hop.
            "RAY_SERVE_ENABLE_HA_PROXY": "1",
            "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
            "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "1",
            "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "lightmill.serving.shortcut:middlewares",
            "RAY_SERVE_HAPROXY_NBTHREAD": str(min(2, os.cpu_count() or 1)),
            "RAY_SERVE_HAPROXY_BINARY_PATH": str(files / "haproxy"),
            "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(files / "haproxy.cfg"),
            "RAY_SERVE_HAPROXY_SOCKET_PATH": str(files / "admin.sock"),
            "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(files / "metrics.sock"),
            "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(files),
            "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(files / "server-state"),
            "RAY_SERVE_HAPROXY_STATS_PORT": str(self.stats_port),
            "RAY_SERVE_HAPROXY_METRICS_PORT": str(self.metrics_port),
            # Where HAProxy sends requests to an endpoint without a replica: Serve's own proxy, which starts one.
            "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(self.fallback_port),
            # Three looks at HAProxy have to fail before it is started again: six seconds instead of half a minute.
            "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "2",
            # HAProxy's start takes longer than the default of 5 s on a busy machine; Serve would kill it.
            "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
            "RAY_worker_niceness": "0",
            # A few workers wait from the start; a batch for every driver would starve a machine of few cores.
            "RAY_prestart_worker_first_driver": "0",
            "RAY_num_prestart_python_workers": str(PRESTARTED_WORKERS),
            # Data: the readers and shuffles that start no extra processes for small data.
            "RAY_DATA_USE_DATASOURCE_V2": "0",
            "RAY_DATA_DEFAULT_SHUFFLE_STRATEGY": "sort_shuffle_pull_based",
            "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
            "RAY_DATA_EXECUTION_NO_PROGRESS_TIMEOUT_S": "300",
            # Train: a busy small machine needs longer to start workers.
            "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "180",
            # A machine of one's own is not preempted; the watcher is a process more for every run.
            "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0" if self.loopback else "1",
            # The controller takes a report every poll, and workers report at most once a second; the default is 2 s.
            "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
        }
