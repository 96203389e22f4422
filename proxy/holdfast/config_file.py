"""Reads a configuration file and lays flags over it. Every refusal names the key, the value and the rule."""

from __future__ import annotations

import re
import ssl
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from difflib import get_close_matches
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints
from urllib.parse import SplitResult, urlsplit

import msgspec
from msgspec import Meta

from holdfast import timestamps
from holdfast.bandwidth.share import hours_of
from holdfast.config import (
    CollectionSection,
    ConfigInvalid,
    Configuration,
    EgressSection,
    ParentSection,
    ParentSettings,
    Section,
    SyncSection,
    WebhookSection,
    listen_address,
)
from holdfast.gateway.environment import EnvironmentInvalid, overlaid
from holdfast.http.egress import NONE, no_proxy_row
from holdfast.oci.names import is_repository
from holdfast.resources.cron import Cron, ScheduleInvalid
from holdfast.resources.rules import is_notification
from holdfast.routing import ANY, default_parent
from holdfast.storage.budget import store_contradictions
from holdfast.sync.schedule import Schedule
from holdfast.sync.source.selection import problems

#: a host name, an IPv4 address, or an IPv6 address in brackets
HOST = r"(?:[\w-]+(?:\.[\w-]+)*\.?|\[[0-9A-Fa-f:.]+\])"
#: what follows `//` in a URL: user information, host, port
AUTHORITY = re.compile(rf"(?:[^@]*@)?{HOST}(?::[0-9]{{1,5}})?")
#: keys whose values a refusal does not show; the URL of a webhook is often a secret
SECRETS = re.compile(r"credentials|^webhook(\[[0-9]+\](\.(url|secret|headers).*)?)?$")
#: what `parent.url` begins with
URL_BEGINS = r"^https?://"
#: a header line of a webhook, and the headers that this node sets itself
HEADER = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+): *([\t\x20-\x7e]*)")
OWN_HEADERS = {
    *("connection", "content-encoding", "content-length", "content-type", "expect", "host", "te", "trailer"),
    *("transfer-encoding", "upgrade", "x-holdfast-signature"),
}
#: former names of the modes; accepted, and never shown (references.md 1.2)
FORMER_MODES = {"Registry": "ReadWrite", "Mirror": "ReadOnly"}


def load(
    path: Path | None,
    flags: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Configuration:
    """The configuration of a file (None: all defaults), over which first the original's variables in `environ` and then
    `flags` are laid.

    Raises ConfigInvalid, also when the file cannot be read or is not TOML.
    """
    try:
        table = overlaid(read_table(path) if path else {}, environ or {})
    except EnvironmentInvalid as error:
        raise ConfigInvalid(str(error)) from None
    for key, value in (flags or {}).items():
        section = table.get(key)
        table[key] = {**section, **value} if isinstance(section, dict) and isinstance(value, dict) else value
    return from_table(table)


def read_table(path: Path) -> dict[str, Any]:
    """The TOML table of a file, without the byte order mark that some editors write. Raises ConfigInvalid."""
    try:
        return tomllib.loads(path.read_text("utf-8-sig"))
    except OSError as error:
        raise ConfigInvalid(f"{path}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigInvalid(f"{path}: not TOML: {error}") from None


def from_table(table: dict[str, Any]) -> Configuration:
    """The configuration of a table. Raises ConfigInvalid."""
    refuse_unknown_keys(table, Configuration, "")
    if isinstance(mode := table.get("mode"), str):
        table = {**table, "mode": FORMER_MODES.get(mode, mode)}
    try:
        config = msgspec.convert(table, Configuration)
    except msgspec.ValidationError as error:
        raise ConfigInvalid(explain(error, table)) from None
    for problem in contradictions(config):
        raise ConfigInvalid(problem)
    return config


def refuse_unknown_keys(table: Mapping[str, Any], section: type[Section], prefix: str) -> None:
    """Raises ConfigInvalid for the first key of the table that its struct does not have."""
    hints = get_type_hints(section)
    for name, value in table.items():
        if name not in hints:
            advice = f"did you mean {near}? " if (near := nearest(name, hints, prefix)) else ""
            raise ConfigInvalid(
                f"{prefix}{name}: unknown key; {advice}allowed here: {', '.join(sorted(hints))}"
            )
        kind = hints[name]
        if is_section(kind) and isinstance(value, dict):
            refuse_unknown_keys(value, kind, f"{prefix}{name}.")
        elif get_origin(kind) is tuple and is_section(get_args(kind)[0]) and isinstance(value, list):
            for number, row in enumerate(value):
                if isinstance(row, dict):
                    refuse_unknown_keys(row, get_args(kind)[0], f"{prefix}{name}[{number}].")


def is_section(kind: Any) -> bool:
    """Whether a type is one of the tables of the file."""
    return isinstance(kind, type) and issubclass(kind, Section)


def nearest(name: str, hints: Mapping[str, Any], prefix: str) -> str:
    """The key that was probably meant: a similar one of this table, or one of the same name in another; "" for none."""
    if close := get_close_matches(name.replace("-", "_"), hints, n=1):
        return f"{prefix}{close[0]}"
    others = {row[0].rpartition(".")[2]: row[0] for row in reversed(key_table())}
    close = get_close_matches(name.replace("-", "_"), others, n=1, cutoff=0.85)
    if not close:
        return ""
    table, _, key = others[close[0]].rpartition(".")
    return f"{key} under [[{table.replace('[]', '')}]]" if "[]" in table else others[close[0]]


def explain(error: msgspec.ValidationError, table: Mapping[str, Any]) -> str:
    """The text of a msgspec error in the form "key: found …; allowed: …"."""
    text, _, where = str(error).partition(" - at `$")
    where = where.rstrip("`").lstrip(".")
    missing = re.fullmatch(r"Object missing required field `(\w+)`", text)
    if missing:
        return f"{where}.{missing[1]}: missing; it must be given"
    value: Any = table
    for step in re.findall(r"\w+", where):
        value = value[int(step)] if step.isdigit() else value[step]
    kind, meta = kind_at(where)
    shown = "***" if SECRETS.search(where) else show(value)
    is_quoted = isinstance(value, str) and kind in (int, float, bool)
    advice = "; write it without quotes" if is_quoted else ""
    return f"{where}: found {shown}; allowed: {in_words(kind, meta, where)}{advice}"


def kind_at(where: str) -> tuple[Any, Meta]:
    """The type and the bounds of the value at a path such as `parent[0].url`."""
    kind: Any = Configuration
    meta = Meta()
    for step in re.findall(r"\w+", where):
        if step.isdigit():
            kind, meta = get_args(kind)[0], Meta()
        else:
            meta = _meta(get_type_hints(kind, include_extras=True)[step])
            kind = get_type_hints(kind)[step]
    return kind, meta


def in_words(kind: Any, meta: Meta, where: str) -> str:
    """The allowed values of a key, as a text."""
    if literals := [value for value in get_args(kind) if isinstance(value, str)]:
        return " or ".join(f'"{value}"' for value in literals)
    if get_origin(kind) is tuple:
        tables = is_section(get_args(kind)[0])
        return f"tables, each under [[{where}]]" if tables else 'a list of texts, such as ["a", "b"]'
    if is_section(kind):
        name = re.sub(r"\[[0-9]+\]", "", where)
        return f"a table, under [{name}]" if name == where else f"a table, under [[{name}]]"
    if kind is bool:
        return "true or false"
    if kind is str:
        return _text_allowed(meta)
    return _number_allowed(kind, meta)


def _text_allowed(meta: Meta) -> str:
    if meta.pattern == URL_BEGINS:
        return "a URL that begins with https:// or http://"
    unit = (meta.extra or {}).get("unit", "")
    return f"text in quotes: {unit}" if unit else "text in quotes"


def _number_allowed(kind: Any, meta: Meta) -> str:
    unit = str((meta.extra or {}).get("unit", ""))
    of = {"s": " of seconds", "bytes": " of bytes"}.get(unit, "")
    number = f"a {'whole ' if kind is int else ''}number{of}"
    if meta.ge is not None and meta.le is not None:
        return f"{number} from {meta.ge:.16g} to {meta.le:.16g}"
    bounds = [
        f"{relation} {value:.16g}"
        for relation, value in (("at least", meta.ge), ("above", meta.gt), ("at most", meta.le))
        if value is not None
    ]
    return f"{number}, {', '.join(bounds)}" if bounds else number


def show(value: Any) -> str:
    """A value as a refusal shows it: a URL without its user information, tables and lists without their content.

    All before the last `@` is removed, because a password that is not percent-encoded may contain any character.
    """
    if isinstance(value, dict | list):
        return "a table" if isinstance(value, dict) else "a list"
    return re.sub(r"//.*@", "//***@", repr(value))


def contradictions(config: Configuration) -> Iterator[str]:
    """Problems that the types and bounds of single keys do not exclude, each as a text."""
    if bool(config.tls.cert) != bool(config.tls.key):
        missing = "tls.key" if config.tls.cert else "tls.cert"
        yield f"{missing}: found nothing; give both tls.cert and tls.key, or neither"
    if not config.data:
        yield "data: found ''; allowed: a directory"
    for key, listen in (("listen", config.listen), ("admin.listen", config.admin.listen)):
        try:
            if listen or key == "listen":
                listen_address(listen)
        except ValueError as error:
            yield f"{key}: found {listen!r}; allowed: HOST:PORT with a port from 0 to 65535 ({error})"
    for name, patterns in (("immutable", config.tags.immutable), ("version", config.tags.version)):
        for pattern in patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                yield f"tags.{name}: found {pattern!r}; allowed: a regular expression ({error})"
    yield from parent_contradictions(config.parent)
    yield from store_contradictions(config.store, [parent.name for parent in config.parent])
    yield from login_contradictions(config)
    yield from gateway_contradictions(config)
    yield from sync_contradictions(config)
    yield from collection_contradictions(config)
    for number, hook in enumerate(config.webhook):
        yield from (f"webhook[{number}].{problem}" for problem in webhook_problems(hook))
        yield from egress_problems(f"webhook[{number}]", hook)
        if [other.name for other in config.webhook].count(hook.name) > 1:
            yield f"webhook[{number}].name: found {hook.name!r} twice; every webhook needs a name of its own"
    yield from link_contradictions(config)


def login_contradictions(config: Configuration) -> Iterator[str]:
    """Problems of `[login]`."""
    login = config.login
    if login.server and ("@" in login.server or not AUTHORITY.fullmatch(login.server)):
        yield f"login.server: found {show(login.server)}; allowed: host[:port], without scheme and path"
    for key, ranges in (
        ("trusted_proxies", login.trusted_proxies),
        ("client_addresses", login.client_addresses),
    ):
        for text in ranges:
            try:
                ip_network(text)
            except ValueError as error:
                yield f"login.{key}: found {text!r}; allowed: an address or a range such as 10.0.0.0/8 ({error})"
    if login.client_ca and not config.tls.cert:
        yield "login.client_ca: found without tls.cert; client certificates are proved over TLS alone"
    if login.client_ca and (why := authorities_problem(login.client_ca)):
        yield f"login.client_ca: found {login.client_ca!r}; allowed: a readable file of PEM certificates ({why})"


def gateway_contradictions(config: Configuration) -> Iterator[str]:
    """Problems of `[gateway]`, and of keys that the parent of a connected registry decides. Before `joined`."""
    gateway = config.gateway
    if gateway.connection_string and gateway.connection_string_file:
        yield "gateway.connection_string: found beside gateway.connection_string_file; allowed: one of the two"
    yield from settings_problems("gateway", gateway)
    yield from namespace_problems("gateway", gateway.namespaces)
    if not (gateway.connection_string or gateway.connection_string_file):
        return
    if config.mode:
        yield f"mode: found {config.mode!r} beside a connection string; the parent says the mode, so leave it out"
    for number, parent in enumerate(config.parent):
        if parent.default or not parent.name:
            yield (
                f"parent[{number}]: found a default parent beside a connection string, which names one; give this"
                " one a name and no `default`, or leave it out"
            )


def sync_contradictions(config: Configuration) -> Iterator[str]:
    """Problems of `[sync]`."""
    sync, managed = config.sync, config.gateway.connection_string or config.gateway.connection_string_file
    if sync == SyncSection():
        return
    if managed:
        yield from managed_problems(sync)
    elif sync.schedule or sync.window:
        yield from schedule_problems(sync.schedule, sync.window, sync.message_ttl)
    yield from duration_problems("sync.prune_grace", sync.prune_grace)
    yield from duration_problems("sync.referrers_every", sync.referrers_every)
    if sync.schedule and not config.parent:
        yield "sync.schedule: found without a parent; name one under [[parent]], or leave [sync] out"
    names = {parent.name for parent in config.parent}
    for number, row in enumerate(sync.repositories):
        yield from (f"sync.repositories[{number}].{key}: {problem}" for key, problem in problems(row))
        if row.parent and row.parent not in names and not managed:
            yield f"sync.repositories[{number}].parent: found {show(row.parent)}; allowed: the name of a parent"
        if not row.parent and config.parent and not managed and default_parent(config.parent) is None:
            yield f"sync.repositories[{number}].parent: found nothing, and no parent is the default; name one"
    if managed:
        return
    if sync.misses == "window" and not sync.window:
        yield "sync.misses: found 'window' without sync.window; give the window that misses wait for, or leave it out"
    if sync.schedule and not sync.repositories:
        yield "sync.repositories: found nothing; name what the schedule is for under [[sync.repositories]]"
    if sync.repositories and not sync.schedule:
        yield "sync.schedule: found nothing beside sync.repositories; give it, such as '0 22 * * *'"


def collection_contradictions(config: Configuration) -> Iterator[str]:
    """Problems of `[garbage_collection]`."""
    given, usual = config.garbage_collection, CollectionSection()
    managed = config.gateway.connection_string or config.gateway.connection_string_file
    if managed and (given.enabled, given.schedule) != (usual.enabled, usual.schedule):
        yield (
            "garbage_collection: found enabled or schedule beside a connection string; the parent says both, so leave"
            " them out and change them there: holdfast connected-registry update --gc-enabled, --gc-schedule"
        )
    try:
        Cron(given.schedule)
    except ScheduleInvalid as error:
        yield f"garbage_collection.schedule: {error}"
    for name in ("lease", "untagged_after", "cached_after"):
        if (text := getattr(given, name)) or name == "lease":
            yield from duration_problems(f"garbage_collection.{name}", text)
    if text := given.deleted_after:
        kept = timestamps.duration(text)
        if kept is None or not timedelta(days=1) <= kept <= timedelta(days=90):
            yield f"garbage_collection.deleted_after: found {text!r}; allowed: P1D to P90D, or empty"


def managed_problems(sync: SyncSection) -> Iterator[str]:
    """Keys of `[sync]` that the parent of a connected registry decides."""
    decided = {"schedule": sync.schedule, "window": sync.window}
    decided |= {"message_ttl": sync.message_ttl} if sync.message_ttl != SyncSection().message_ttl else {}
    for key, value in decided.items():
        if value:
            yield (
                f"sync.{key}: found {value!r} beside a connection string; the parent says it, so leave it out and"
                " change it there: holdfast connected-registry update"
            )
    for number, row in enumerate(sync.repositories):
        if row.parent:
            yield (
                f"sync.repositories[{number}].parent: found {row.parent!r} beside a connection string; only the"
                " repositories that its parent names are synchronised, so leave the row out"
            )


def duration_problems(key: str, text: str) -> Iterator[str]:
    """Problems of a length of time."""
    length = timestamps.duration(text)
    if length is None or length.total_seconds() <= 0:
        yield f"{key}: found {text!r}; allowed: an ISO 8601 duration in weeks, days, hours, minutes, such as P1D"


def link_contradictions(config: Configuration) -> Iterator[str]:
    """Problems of `[[link.caps]]`. `default` is the parent without a name, also that of a connection string."""
    names = {parent.name or "default" for parent in config.parent}
    if config.gateway.connection_string or config.gateway.connection_string_file:
        names.add("default")
    for number, cap in enumerate(config.link.caps):
        where = f"link.caps[{number}]"
        if cap.parent not in ("", "*", *names):
            yield f"{where}.parent: found {show(cap.parent)}; allowed: the name of a parent, default, or *"
        if not cap.mbit and cap.work not in ("sync", "push"):
            yield f"{where}.mbit: found 0; allowed: 0 with work sync or push, because clients would wait for ever"
        if cap.hours and hours_of(cap.hours) is None:
            yield f"{where}.hours: found {cap.hours!r}; allowed: HH:MM-HH:MM, such as 08:00-17:00"


def schedule_problems(schedule: str, window: str, ttl: str) -> Iterator[str]:
    """Problems of a schedule, its window and the TTL."""
    if not schedule:
        yield f"sync.window: found {window!r} without sync.schedule; give the schedule whose occurrences open it"
        return
    try:
        Schedule.parse(schedule, window, ttl)
    except ScheduleInvalid as error:
        yield f"sync.schedule: {error}"


def webhook_problems(hook: WebhookSection) -> Iterator[str]:
    """Problems of one webhook, as texts without its secrets."""
    parts = split(hook.url)
    if parts is None or parts.scheme not in ("http", "https") or parts.fragment:
        yield "url: found something else; allowed: https://host[:port][/path][?query]"
    elif parts.username is not None:
        yield "url: found a user name in the URL; give it under headers as Authorization instead"
    elif parts.scheme == "http" and not hook.insecure:
        yield "url: found http; allowed: https, or http with `insecure = true`"
    if sum(map(bool, (hook.secret, hook.secret_file, hook.secret_env))) > 1:
        yield "secret: found several; allowed: one of secret, secret_file, secret_env"
    if hook.ca and (why := authorities_problem(hook.ca)):
        yield f"ca: found {hook.ca!r}; allowed: a readable file of PEM certificates ({why})"
    for pattern in hook.patterns:
        if not is_notification(pattern):
            actions = "push, delete, conflict or *"
            yield f"patterns: found {pattern!r}; allowed: name[:tag][@digest]:action, action {actions}"
    if not hook.patterns:
        yield 'patterns: found none; give the events to send, such as "*:*", or leave the webhook out'
    for line in hook.headers:
        if (header := HEADER.fullmatch(line)) is None:
            yield "headers: found a line that is no header; allowed: Name: value"
        elif header[1].lower() in OWN_HEADERS:
            yield f"headers: found {header[1]}, which this node sets; leave it out"


def parent_contradictions(parents: tuple[ParentSection, ...]) -> Iterator[str]:
    """Problems of `[[parent]]`."""
    names = [parent.name for parent in parents]
    for number, parent in enumerate(parents):
        where = f"parent[{number}]"
        if parent.name == "default" and "" in names:
            yield f"{where}.name: found 'default' beside a parent without a name, which is called so; allowed: another"
        if names.count(parent.name) > 1:
            yield f"{where}.name: found {show(parent.name)} twice; every parent needs a name of its own"
        yield from place_problems(where, parent)
        for prefix in parent.prefixes:
            if not is_repository(prefix):
                yield f"{where}.prefixes: found {show(prefix)}; allowed: repository name components"
        source = parent.credentials
        forms = [source.password, source.password_file, source.password_env, source.exec]
        if sum(map(bool, forms)) > 1:
            yield f"{where}.credentials: found several; allowed: one of password, password_file, password_env, exec"
    if sum(parent.default or not parent.name for parent in parents) > 1:
        yield "parent: found several default parents; allowed: one (`default = true`, or no name)"


def place_problems(where: str, parent: ParentSection) -> Iterator[str]:
    """Problems of the URLs, hosts and files of one parent."""
    yield from url_problems(f"{where}.url", parent.url, parent.insecure)
    for url in parent.mirrors:
        yield from url_problems(f"{where}.mirrors", url, parent.insecure)
    for text in parent.hosts:
        if not re.fullmatch(HOST, text):
            yield f"{where}.hosts: found {show(text)}; allowed: a host name without scheme and port"
    yield from namespace_problems(where, parent.namespaces)
    yield from settings_problems(where, parent)


def namespace_problems(where: str, names: Iterable[str]) -> Iterator[str]:
    """Values of `namespaces` that no client can send as `ns`."""
    for text in names:
        if text != ANY and not is_authority(text):
            yield f"{where}.namespaces: found {show(text)}; allowed: host[:port], or {ANY} for any name"


def settings_problems(where: str, settings: ParentSettings) -> Iterator[str]:
    """Problems of the settings by which a parent is reached."""
    for realm in settings.realms:
        yield from url_problems(f"{where}.realms", realm, settings.insecure, path=False)
    yield from egress_problems(where, settings)
    for text in settings.redirects:
        if not is_authority(text):
            yield f"{where}.redirects: found {show(text)}; allowed: host[:port]"
    if settings.ca and (why := authorities_problem(settings.ca)):
        yield f"{where}.ca: found {settings.ca!r}; allowed: a readable file of PEM certificates ({why})"


def egress_problems(where: str, settings: EgressSection) -> Iterator[str]:
    """Problems of the egress proxy."""
    if settings.proxy not in ("", NONE) and not is_url(split(settings.proxy), path=False):
        yield f"{where}.proxy: found {show(settings.proxy)}; allowed: http://host[:port], or {NONE}"
    for text in settings.direct:
        if no_proxy_row(text) is None:
            allowed = "host, .domain, address or range, each with :port or without"
            yield f"{where}.direct: found {show(text)}; allowed: {allowed}"


def url_problems(where: str, url: str, insecure: bool, *, path: bool = True) -> Iterator[str]:
    """Problems of a URL that this node connects to; without `path` it is an origin."""
    parts = split(url)
    if parts is None or not is_url(parts, path=path):
        yield f"{where}: found {show(url)}; allowed: https://host[:port]{'[/path]' if path else ''}"
    elif parts.username is not None:
        yield f"{where}: found a user name in the URL; give it under credentials instead"
    elif parts.scheme == "http" and not insecure:
        yield f"{where}: found {show(url)}; allowed: https, or http with `insecure = true` (--parent-insecure)"


def split(url: str) -> SplitResult | None:
    """The parts of a URL, None when its host or port is invalid. The port is 1 to 65535, or absent."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:  # not shown: the text of the error may contain the URL's password
        return None
    plain = re.fullmatch(r"[^\s\\]+", url) and AUTHORITY.fullmatch(parts.netloc)
    return parts if plain and port != 0 else None


def is_authority(text: str) -> bool:
    """Whether this is host[:port] and nothing more."""
    parts = split(f"//{text}")
    return parts is not None and parts.netloc == text and "@" not in text


def is_url(parts: SplitResult | None, *, path: bool) -> bool:
    """Whether this is an http or https URL without query and fragment, and without `path` also without path."""
    if parts is None or parts.scheme not in ("http", "https") or parts.query or parts.fragment:
        return False
    return path or parts.path in ("", "/")


def secret_problems(config: Configuration, environ: Mapping[str, str]) -> Iterator[str]:
    """Secrets of a joined configuration that cannot be read now. They are read again at each use, so that a node starts
    and serves what it holds without them."""
    joined = int(bool(config.gateway.connection_string))  # the first parent is that of the connection string
    named = [
        (
            f"parent[{number}].credentials.password",
            one.credentials.password_file,
            one.credentials.password_env,
        )
        for number, one in enumerate(config.parent[joined:])
    ]
    named += [
        (f"webhook[{number}].secret", hook.secret_file, hook.secret_env)
        for number, hook in enumerate(config.webhook)
    ]
    for where, file, variable in named:
        if file and (why := reading_problem(file)):
            yield f"{where}_file: found {file!r}; allowed: a file that this user may read ({why})"
        if variable and not environ.get(variable):
            yield f"{where}_env: found {variable!r}; allowed: an environment variable that is set (it is not)"


def reading_problem(file: str) -> str:
    """The reason why a text file cannot be read; "" when it can."""
    try:
        Path(file).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        return getattr(error, "strerror", None) or "it is not UTF-8"
    return ""


def authorities_problem(file: str) -> str:
    """The reason why a file of certificate authorities cannot be used; "" when it can."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(file)
    except ssl.SSLError:
        return "no certificate can be read from it"
    except OSError as error:
        return error.strerror or type(error).__name__
    return ""


def key_table() -> list[tuple[str, str, str, str, str]]:
    """(key, type and bounds, default, unit, description) of every key, in file order, for the docs."""
    return list(_rows(Configuration, ""))


def _rows(section: type[Section], prefix: str) -> Iterator[tuple[str, str, str, str, str]]:
    plain, annotated = get_type_hints(section), get_type_hints(section, include_extras=True)
    defaults = {f.name: _default(f) for f in msgspec.structs.fields(section)}
    # keys that a section shares with others come last
    for name in dict.fromkeys([*section.__annotations__, *plain]):
        kind = plain[name]
        if is_section(kind):
            yield from _rows(kind, f"{prefix}{name}.")
        elif get_origin(kind) is tuple and is_section(get_args(kind)[0]):
            yield from _rows(get_args(kind)[0], f"{prefix}{name}[].")
        else:
            meta = _meta(annotated[name])
            unit = str((meta.extra or {}).get("unit", ""))
            yield f"{prefix}{name}", _allowed(kind, meta), defaults[name], unit, meta.description or ""


def _meta(annotation: Any) -> Meta:
    if get_origin(annotation) is Annotated:
        return next(a for a in get_args(annotation)[1:] if isinstance(a, Meta))
    return Meta()


def _default(field: msgspec.structs.FieldInfo) -> str:
    if field.required:
        return "required"
    value = field.default_factory() if field.default is msgspec.NODEFAULT else field.default
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return "[" + ", ".join(f'"{v}"' for v in value) + "]"
    return f'"{value}"' if isinstance(value, str) else f"{value}"


def _allowed(kind: Any, meta: Meta) -> str:
    if args := [a for a in get_args(kind) if isinstance(a, str)]:
        return " or ".join(f'"{a}"' for a in args)
    name = "list of strings" if get_origin(kind) is tuple else kind.__name__
    bounds = [f"{sign} {value}" for sign, value in _bounds(meta) if value is not None]
    return " ".join([name, *bounds])


def _bounds(meta: Meta) -> tuple[tuple[str, Any], ...]:
    return (("≥", meta.ge), (">", meta.gt), ("≤", meta.le))
