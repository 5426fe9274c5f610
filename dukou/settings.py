"""Every setting of the hub: typed, frozen, read once from the environment and shown by ``dukou settings``."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit, urlunsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import PydanticCustomError

from hub.errors import Fault, Misconfigured

_PREFIX = "DUKOU_"
# Names that belong to tests and measurements, not to a running hub.
_FOREIGN_PREFIXES = ("DUKOU_TEST_", "DUKOU_BENCH_", "DUKOU_DEMO_")
_MASK = "***"
_PARTNER_STAND_INS = 4

Port = Annotated[int, Field(ge=1, le=65535)]


def _said(en: str, zh: str) -> dict[str, Any]:
    """What `dukou settings` says about a setting, kept beside its type."""
    return {"en": en, "zh": zh}


@dataclass(frozen=True, slots=True)
class SettingRow:
    """One line of ``dukou settings``: passwords inside URLs are masked."""

    name: str
    value: str
    given: bool
    en: str
    zh: str


class Settings(BaseModel):
    """What an operator may choose. Every field is the environment variable ``DUKOU_<FIELD>``.

    Paths are absolute; a relative one is taken from ``DUKOU_ROOT``, so that it means the same in every process.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    root: Path = Field(
        default=Path(__file__).resolve().parent.parent,
        json_schema_extra=_said(
            "Project folder that holds schemas/, mappings/, matters/, connectors/ and dags/.",
            "项目根目录，含 schemas/、mappings/、matters/、connectors/、dags/。",
        ),
    )
    var: Path = Field(
        default=Path("var"),
        json_schema_extra=_said(
            "Folder of everything that the hub writes: databases, keys, logs, anchors.",
            "运行数据目录：数据库、密钥、日志、锚点都写在这里。",
        ),
    )
    database_url: str = Field(
        default="",
        json_schema_extra=_said(
            "The ledger: sqlite:////absolute/path or postgresql://…",
            "台账数据库：sqlite:////绝对路径 或 postgresql://…",
        ),
    )
    broker_url: str = Field(
        default="filesystem://",
        json_schema_extra=_said(
            "Where hints travel: filesystem:// (one host) or amqp://… (RabbitMQ).",
            "唤醒提示走哪里：filesystem://（单机）或 amqp://…（RabbitMQ）。",
        ),
    )
    gateway_port: Port = Field(default=8800, json_schema_extra=_said("Port of the gateway.", "网关端口。"))
    airflow_port: Port = Field(
        default=8080, json_schema_extra=_said("Port of Airflow's pages and API.", "Airflow 页面与接口端口。")
    )
    sandbox_port: Port = Field(
        default=8900,
        json_schema_extra=_said(
            "Control port of the sandbox; its partners answer on the ports above it.",
            "沙箱控制端口，各模拟部门依次占用其后的端口。",
        ),
    )
    clock_window_s: int = Field(
        default=300,
        ge=1,
        le=86_400,
        json_schema_extra=_said(
            "How far a caller's rtime may be from our clock, in seconds.", "调用方 rtime 与本机时钟允许的偏差（秒）。"
        ),
    )
    retry_scale: float = Field(
        default=1.0,
        gt=0,
        le=1_000,
        json_schema_extra=_said(
            "Divides every wait before a retry; above 1 only in tests and the demo.",
            "重试等待时间的除数，仅测试与演示取大于 1 的值。",
        ),
    )
    environment: Literal["demo", "test", "production"] = Field(
        default="demo",
        json_schema_extra=_said(
            "Which endpoints of the declarations are used; a test hub cannot reach a real department.",
            "使用声明中哪一套地址；测试环境不可能连到真实部门。",
        ),
    )
    keys: str = Field(
        default="",
        json_schema_extra=_said(
            "Where keys come from: file:/absolute/path of a file with mode 0600.",
            "密钥来源：file:/绝对路径，文件权限须为 0600。",
        ),
    )
    max_body_bytes: int = Field(
        default=2 * 1024 * 1024,
        ge=1_024,
        le=64 * 1024 * 1024,
        json_schema_extra=_said(
            "Largest body that the gateway reads, in bytes; more is 413.", "网关接收报文的最大字节数，超过返回 413。"
        ),
    )
    airflow_home: Path = Field(
        default=Path(),
        json_schema_extra=_said(
            "Airflow's own folder: its database and password file.", "Airflow 自己的目录：数据库与口令文件。"
        ),
    )
    airflow_database_url: str = Field(
        default="",
        json_schema_extra=_said(
            "Airflow's own database: sqlite:////absolute/path or postgresql://…; never the ledger's.",
            "Airflow 自己的数据库：sqlite:////绝对路径 或 postgresql://…，不得与台账共用。",
        ),
    )
    airflow_keep_h: int = Field(
        default=24,
        ge=1,
        le=24 * 365,
        json_schema_extra=_said(
            "Hours that finished Airflow runs and their logs are kept; the ledger keeps its own records.",
            "Airflow 运行记录与日志保留的小时数；台账记录不受影响。",
        ),
    )

    @model_validator(mode="before")
    @classmethod
    def _absolute(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Fill what depends on another setting, so that a frozen value is complete from its birth."""
        values = dict(given)
        root = Path(values.get("root") or cls.model_fields["root"].default).absolute()
        var = root / Path(values.get("var") or "var")
        values |= {"root": root, "var": var, "airflow_home": root / (values.get("airflow_home") or var / "airflow")}
        values.setdefault("database_url", f"sqlite:///{var / 'dukou.db'}")
        values.setdefault("airflow_database_url", f"sqlite:///{values['airflow_home'] / 'airflow.db'}")
        values.setdefault("keys", f"file:{var / 'keys' / 'keys.json'}")
        return values

    @field_validator("root")
    @classmethod
    def _root_has_declarations(cls, root: Path) -> Path:
        if not (root / "connectors").is_dir():
            raise _wrong("holds no connectors/ folder", "目录下没有 connectors/")
        return root

    @field_validator("database_url", "airflow_database_url")
    @classmethod
    def _known_database(cls, url: str) -> str:
        scheme = url.partition("://")[0].partition("+")[0]
        if scheme not in {"sqlite", "postgresql"}:
            raise _wrong("must begin with sqlite:// or postgresql://", "须以 sqlite:// 或 postgresql:// 开头")
        if scheme == "sqlite" and not url.partition("://")[2].startswith("//"):
            raise _wrong("needs an absolute path: sqlite:////path", "须为绝对路径：sqlite:////路径")
        return url

    @field_validator("broker_url")
    @classmethod
    def _known_broker(cls, url: str) -> str:
        if url.partition("://")[0] not in {"filesystem", "memory", "amqp", "amqps", "pyamqp"}:
            raise _wrong("must begin with filesystem:// or amqp://", "须以 filesystem:// 或 amqp:// 开头")
        return url

    @field_validator("keys")
    @classmethod
    def _known_keys(cls, keys: str) -> str:
        if not keys.startswith("file:/"):
            raise _wrong("must be file:/absolute/path", "须为 file:/绝对路径")
        return keys

    @model_validator(mode="after")
    def _ports_apart(self) -> Self:
        sandbox = range(self.sandbox_port, self.sandbox_port + _PARTNER_STAND_INS + 1)
        if sandbox[-1] > 65_535:
            raise _wrong("DUKOU_SANDBOX_PORT leaves no room for the partners' ports", "沙箱端口之后没有空余端口")
        if self.gateway_port == self.airflow_port or {self.gateway_port, self.airflow_port} & set(sandbox):
            raise _wrong("gateway, Airflow and sandbox ports overlap", "网关、Airflow、沙箱的端口互相冲突")
        return self

    @model_validator(mode="after")
    def _databases_apart(self) -> Self:
        if self.database_url == self.airflow_database_url:
            raise _wrong("DUKOU_AIRFLOW_DATABASE_URL is the ledger's database", "Airflow 不得使用台账数据库")
        return self

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Settings:
        """Read the environment.

        Raises:
            Misconfigured: ``settings_invalid``, with one fault per wrong variable; no fault repeats a value.
        """
        known = {_PREFIX + field.upper(): field for field in cls.model_fields}
        ours = {name: env[name] for name in env if name.startswith(_PREFIX) and not name.startswith(_FOREIGN_PREFIXES)}
        faults = [_unknown(name, known) for name in ours if name not in known]
        given = {known[name]: value for name, value in ours.items() if name in known and value != ""}
        try:
            settings = cls(**given)
        except ValidationError as wrong:
            faults.extend(_fault(error["loc"], error["msg"], error.get("ctx", {})) for error in wrong.errors())
        else:
            if not faults:
                return settings
        names = ", ".join(fault.path.removeprefix("/") or "ports" for fault in faults)
        raise Misconfigured(
            "settings_invalid", f"settings are wrong: {names}", f"设置有误：{names}", faults=tuple(faults)
        )

    def to_env(self) -> dict[str, str]:
        """Every setting as its variable, so that a child process sees exactly what its parent saw."""
        return {_PREFIX + field.upper(): str(getattr(self, field)) for field in type(self).model_fields}

    def rows(self) -> tuple[SettingRow, ...]:
        """Every setting with its meaning; secrets inside URLs are masked."""
        return tuple(
            SettingRow(
                name=_PREFIX + name.upper(),
                value=masked(str(getattr(self, name))),
                given=name in self.model_fields_set and self._differs(name),
                **_texts(field.json_schema_extra),
            )
            for name, field in type(self).model_fields.items()
        )

    def _differs(self, name: str) -> bool:
        return bool(getattr(self, name) != getattr(Settings(root=self.root), name))


def masked(value: str) -> str:
    """The value with the password of a URL replaced, and nothing else changed."""
    parts = urlsplit(value)
    if not parts.hostname or parts.password is None:
        return value
    user, _, place = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{user.partition(':')[0]}:{_MASK}@{place}"))


def _texts(said: object) -> dict[str, str]:
    return {"en": str(said["en"]), "zh": str(said["zh"])} if isinstance(said, dict) else {"en": "", "zh": ""}


def _wrong(en: str, zh: str) -> PydanticCustomError:
    return PydanticCustomError("setting_invalid", "{en}", {"en": en, "zh": zh})


def _fault(loc: tuple[int | str, ...], message: str, context: Mapping[str, Any]) -> Fault:
    name = _PREFIX + str(loc[0]).upper() if loc else ""
    zh = context.get("zh", "取值不正确")
    return Fault(f"/{name}" if name else "", "setting_invalid", message, str(zh))


def _unknown(name: str, known: Mapping[str, str]) -> Fault:
    near = difflib.get_close_matches(name, known, n=1) or [", ".join(sorted(known))]
    return Fault(
        f"/{name}", "setting_unknown", f"no such setting; did you mean {near[0]}?", f"没有这个设置，是否为 {near[0]}？"
    )
