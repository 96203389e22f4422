"""The configuration: every key, its type, default, unit and bounds. `docs/operate.md` is printed from it.

A file is TOML. An unknown key, a wrong type or a value out of range is refused with the key's name, the value found and
the values allowed; nothing is guessed and nothing is ignored.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, field


def key(what: str, unit: str = "", **bounds: Any) -> Meta:
    """A key's documentation and bounds, kept beside its type."""
    return Meta(description=what, extra={"unit": unit}, **bounds)


class Section(Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """Base of every table of the file."""


class TlsSection(Section, frozen=True):
    """Serve HTTPS. Both files, or neither."""

    cert: Annotated[str, key("certificate chain, PEM", "file")] = ""
    key: Annotated[str, key("private key, PEM", "file")] = ""


class LimitsSection(Section, frozen=True):
    """Bounds on what a client may send and hold (design.md, "Serving")."""

    head_bytes: Annotated[int, key("request head", "bytes", ge=1024, le=1 << 20)] = 32 * 1024
    headers: Annotated[int, key("header lines of a request", "", ge=8, le=1000)] = 100
    target_bytes: Annotated[int, key("request target", "bytes", ge=256, le=1 << 16)] = 8 * 1024
    head_timeout: Annotated[float, key("whole head, from its first byte", "s", gt=0, le=600)] = 10.0
    idle_timeout: Annotated[float, key("keep-alive connection without a request", "s", gt=0, le=3600)] = 75.0
    stall_timeout: Annotated[float, key("a reader that takes no byte", "s", gt=0, le=3600)] = 60.0
    #: counts while nothing but the node is waited for: from the end of a request's body, and not while an upload
    #: is being verified and committed, which takes as long as its bytes take (`push.turn.STEP_SECONDS`)
    answer_timeout: Annotated[
        float, key("headers of an answer start within; longer while an upload is verified", "s", gt=0, le=28)
    ] = 25.0
    drain_timeout: Annotated[float, key("finish transfers after SIGTERM", "s", ge=0, le=3600)] = 300.0
    manifest_bytes: Annotated[int, key("manifest, either way", "bytes", ge=4 << 20, le=64 << 20)] = 8 << 20
    connections: Annotated[
        int, key("client connections a worker; 0 = 0.7 × descriptor limit − 200", "", ge=0, le=1_000_000)
    ] = 0
    page_size: Annotated[int, key("largest n of a list", "", ge=1, le=100_000)] = 1000
    ranges: Annotated[int, key("ranges in one request", "", ge=1, le=1024)] = 256


class TagsSection(Section, frozen=True):
    """How long a held tag is served before it is confirmed at the parent. The first class that matches wins."""

    immutable: Annotated[tuple[str, ...], key("patterns of tags that never move", "regex")] = (
        r"sha256-[0-9a-f]{64}(\.[a-z]+)?",
    )
    version: Annotated[tuple[str, ...], key("patterns of tags that seldom move", "regex")] = (
        r"v?[0-9]+\.[0-9]+(\.[0-9]+)?([._-].*)?",
    )
    immutable_ttl: Annotated[float, key("immutable tags", "s", ge=0)] = 30 * 86400.0
    version_ttl: Annotated[float, key("version tags", "s", ge=0)] = 3600.0
    floating_ttl: Annotated[float, key("every other tag", "s", ge=0)] = 60.0
    confirm_budget: Annotated[
        float, key("how long a client waits for the parent to confirm a held tag", "s", ge=0, le=25)
    ] = 1.0
    negative_ttl: Annotated[float, key("how long a parent's 404 is remembered", "s", ge=0, le=30)] = 30.0
    list_ttl: Annotated[float, key("tag lists and referrers", "s", ge=0)] = 60.0
    on_parent_404: Annotated[Literal["serve", "refuse"], key("a held tag that the parent no longer has")] = (
        "serve"
    )


class FillsSection(Section, frozen=True):
    """How blobs are fetched for misses."""

    on_leave: Annotated[
        Literal["finish", "finish_if", "park"],
        key(
            "when the last client leaves a whole-blob pull: go on, go on past finish_share, or stop and keep"
        ),
    ] = "finish_if"
    finish_share: Annotated[float, key("finish_if: share already here", "0..1", ge=0, le=1)] = 0.5
    holdback_bytes: Annotated[
        int, key("tail of a full body kept back until the digest matches", "bytes", ge=1, le=1 << 20)
    ] = 64 * 1024
    checkpoint_bytes: Annotated[int, key("progress recorded every", "bytes", ge=1 << 20)] = 64 << 20
    checkpoint_interval: Annotated[float, key("progress recorded every", "s", gt=0)] = 5.0
    transfers: Annotated[int, key("transfers at once, whole node", "", ge=1, le=1024)] = 32
    ranges_per_fill: Annotated[int, key("range transfers at once in one fill", "", ge=1, le=32)] = 4
    reserve_bytes: Annotated[
        int,
        key(
            "free space below which fills stream unstored, whatever the budget of [store] has", "bytes", ge=0
        ),
    ] = 0
    unstored_bytes: Annotated[
        int, key("memory of all blobs that pass through unstored, whole node", "bytes", ge=8 << 20)
    ] = 128 << 20


class ShareSection(Section, frozen=True):
    """A part of the store's budget for some repositories; the first row that matches counts."""

    parent: Annotated[
        str, key("name of a parent, `default` for the one without; empty or *: every parent")
    ] = ""
    repositories: Annotated[
        tuple[str, ...], key("patterns of repositories; * within a segment, ** across; none given: all")
    ] = ()
    soft: Annotated[
        float, key("share of the budget below which they go after all others", "0..1", ge=0, le=1)
    ] = 0.0
    hard: Annotated[
        float, key("share of the budget; what they have over it goes first", "0..1", gt=0, le=1)
    ] = 1.0


class StoreSection(Section, frozen=True):
    """How much of the disk the store may take, and what goes when there is no room (operate.md, "Space")."""

    max_bytes: Annotated[
        int, key("bytes that the store may take, all of its files; 0 = what min_free leaves", "bytes", ge=0)
    ] = 0
    min_free: Annotated[
        str,
        key(
            "free space of the file system that is left, whoever takes the rest; empty: a tenth, at most 32 GiB, which"
            " pushes may take; 0: none, and without max_bytes nothing is evicted",
            "10%, 20GB, 500MiB",
        ),
    ] = ""
    high_water: Annotated[float, key("share of the budget above which images go", "0..1", gt=0, le=1)] = 0.97
    low_water: Annotated[float, key("share of the budget down to which they are", "0..1", gt=0, le=1)] = 0.95
    evict_offline: Annotated[
        Literal["last", "never"],
        key("images of a parent that cannot be reached: evicted when nothing else is left, or not at all"),
    ] = "last"
    evict_confirmed: Annotated[bool, key("evict what was pushed here once its parent confirmed it")] = True
    shares: Annotated[tuple[ShareSection, ...], key("parts of the budget")] = ()
    volume: Annotated[
        str,
        key(
            "mount point in which the data directory lies; a start is refused while nothing is mounted there; empty:"
            " none",
            "directory",
        ),
    ] = ""
    uuid: Annotated[
        str,
        key(
            "uuid of the one store that is taken, as its store.json has it; any other is refused and none is made;"
            " empty: any",
            "uuid",
            pattern=r"^([0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})?$",
        ),
    ] = ""


class PushSection(Section, frozen=True):
    """What a push must contain, and when sessions and unlinked bytes are removed."""

    require_blobs: Annotated[
        bool,
        key(
            "refuse an image whose config or layers are neither here nor known at the parent; foreign layers,"
            " indexes and subjects are never checked"
        ),
    ] = True
    sessions: Annotated[int, key("upload sessions at once, whole node", "", ge=1, le=1_000_000)] = 10_000
    sessions_by_client: Annotated[
        int,
        key("upload sessions at once, one token, or one address without a token", "", ge=1, le=1_000_000),
    ] = 1_000
    expiry: Annotated[float, key("age at which an upload session without writes is removed", "s", ge=60)] = (
        7 * 86400.0
    )
    sweep_interval: Annotated[
        float, key("between two collections of bytes that no repository links", "s", ge=1)
    ] = 3600.0
    sweep_grace: Annotated[float, key("least age of such bytes when they are removed", "s", ge=0)] = 86400.0


class CollectionSection(Section, frozen=True):
    """When content is removed that no tag and no manifest names any more. The parent of a connected registry decides
    `enabled` and `schedule`."""

    enabled: Annotated[
        bool,
        key(
            "collect by the schedule; `holdfast gc` does it at any time; a connected registry: as its parent says"
        ),
    ] = True
    schedule: Annotated[str, key("cron, UTC, 5 fields; a connected registry: as its parent says")] = (
        "0 0 * * *"
    )
    lease: Annotated[
        str,
        key("how long a pushed blob is kept that no manifest names, or names any more", "ISO 8601 duration"),
    ] = "P1D"
    untagged_after: Annotated[
        str,
        key(
            "how long a manifest is kept that no tag and no index names, since it lost its last name; one from a parent"
            " also since its last use; empty: for good",
            "ISO 8601 duration",
        ),
    ] = ""
    cached_after: Annotated[
        str,
        key(
            "how long content from a parent is kept that nothing names, since its last use; empty: for good",
            "ISO 8601 duration",
        ),
    ] = "P1D"
    deleted_after: Annotated[
        str,
        key(
            "how long a manifest or tag that was deleted here can be restored, P1D to P90D; empty: not at all",
            "ISO 8601 duration",
        ),
    ] = ""


class ScrubSection(Section, frozen=True):
    """How often all bytes on the disk are read and compared with their hashes."""

    period: Annotated[
        float, key("every byte of the content is read from the disk within; 0 = only by order", "s", ge=0)
    ] = 7 * 86400.0
    bytes_per_second: Annotated[
        int, key("most that is read for it, also by `holdfast scrub --now`", "bytes/s", ge=1 << 20)
    ] = 64 << 20


class LoginSection(Section, frozen=True):
    """How clients log in, and the address by which they reach this node (design.md, "Control plane")."""

    server: Annotated[
        str,
        key(
            "external address of this node, as clients type it; when set, requests for another host are refused;"
            " without it the Host of each request is taken",
            "host[:port]",
        ),
    ] = ""
    scheme: Annotated[
        Literal["", "http", "https"],
        key("scheme of that address, where a proxy in front ends TLS; empty: as the connection is"),
    ] = ""
    trusted_proxies: Annotated[
        tuple[str, ...],
        key(
            "proxies whose X-Forwarded-For, -Host and -Proto are used; others' are ignored",
            "CIDR",
        ),
    ] = ()
    token_ttl: Annotated[float, key("life of a token given to a client", "s", ge=60, le=300)] = 300.0
    failures: Annotated[
        int, key("failed logins a minute by name and by address, before 429", "1/min", ge=1, le=1_000_000)
    ] = 30
    anonymous_repositories: Annotated[
        tuple[str, ...],
        key(
            "repositories that can be pulled without login, whatever `anonymous` says; * within a segment, ** across"
        ),
    ] = ()
    client_ca: Annotated[
        str, key("authorities whose client certificates may pull without login, PEM", "file")
    ] = ""
    client_addresses: Annotated[tuple[str, ...], key("addresses that may pull without login", "CIDR")] = ()


class AdminSection(Section, frozen=True):
    """The admin API, which has a listener of its own."""

    listen: Annotated[
        str, key("address of the admin API; port 0 picks one; empty: no admin API", "host:port")
    ] = "127.0.0.1:0"


class ControlSection(Section, frozen=True):
    """Bounds of the control plane; the defaults are the original's (references.md 1.20)."""

    tokens: Annotated[int, key("tokens at most", "", ge=1, le=10_000_000)] = 20_000
    scope_maps: Annotated[int, key("scope maps at most", "", ge=1, le=10_000_000)] = 20_000
    permissions: Annotated[int, key("permissions in one scope map at most", "", ge=1, le=100_000)] = 500
    client_tokens: Annotated[int, key("client tokens of one connected registry", "", ge=1, le=100_000)] = 50
    connected_registries: Annotated[int, key("connected registries at most", "", ge=1, le=1_000_000)] = 50


class EgressSection(Section, frozen=True):
    """The egress proxy, for parents and for webhooks."""

    proxy: Annotated[
        str,
        key(
            "egress proxy; none: none; empty: that of HTTPS_PROXY, or for an http URL of HTTP_PROXY, with what NO_PROXY"
            " leaves out",
            "http://host:port",
        ),
    ] = ""
    direct: Annotated[
        tuple[str, ...],
        key(
            "destinations without the proxy: a host with its subdomains, .domain, an address or a range; each with"
            " :port or without, and * for all",
            "host",
        ),
    ] = ()


class ParentSettings(EgressSection, frozen=True, kw_only=True):
    """How a parent is reached: each of `[[parent]]`, and under `[gateway]` that of the connection string."""

    insecure: Annotated[
        bool,
        key(
            "allow http, and https without a valid certificate; to a connection string's parent http is allowed by"
            " ParentEndpointProtocol=http"
        ),
    ] = False
    ca: Annotated[str, key("certificate authorities instead of the system's, PEM", "file")] = ""
    realms: Annotated[
        tuple[str, ...], key("token servers allowed beside the parent's own origin", "origin")
    ] = ()
    redirects: Annotated[
        tuple[str, ...], key("private hosts that a redirect may lead to", "host[:port]")
    ] = ()
    connections: Annotated[int, key("connections at once", "", ge=1, le=1024)] = 32
    requests_per_second: Annotated[float, key("requests a second; 0 = no cap", "1/s", ge=0)] = 0.0
    connect_timeout: Annotated[float, key("one connection attempt", "s", gt=0, le=60)] = 5.0
    answer_timeout: Annotated[float, key("headers of an answer", "s", gt=0, le=300)] = 20.0
    stall_timeout: Annotated[
        float, key("a transfer with less than 1 KiB/s for so long is cancelled", "s", gt=0, le=600)
    ] = 60.0
    probe_interval: Annotated[float, key("between probes while offline", "s", gt=0)] = 10.0


class GatewaySection(ParentSettings, frozen=True, kw_only=True):
    """Parent and child of a managed tree (references.md 1.13)."""

    connection_string: Annotated[
        str, key("makes this node a connected registry of its parent; ACR_REGISTRY_CONNECTION_STRING as well")
    ] = ""
    connection_string_file: Annotated[str, key("file that holds it", "file")] = ""
    namespaces: Annotated[
        tuple[str, ...],
        key(
            "further registry names that clients may send as `ns`, as containerd's mirrors do; passed to the connected"
            " registries below together with this node's own name; * is any name",
            "host[:port]",
        ),
    ] = ()
    poll: Annotated[float, key("between requests for configuration while connected", "s", gt=0, le=3600)] = (
        60.0
    )
    lease: Annotated[
        float, key("an activated instance that is silent this long may be replaced by another", "s", ge=1)
    ] = 300.0
    messages: Annotated[
        int,
        key(
            "changes that are kept for connected registries below and for notifications; a registry that missed more"
            " compares everything once",
            "",
            ge=1000,
            le=100_000_000,
        ),
    ] = 1_000_000


class SyncRepositorySection(Section, frozen=True):
    """The selection of one repository (sync.md, "Synchronisation")."""

    name: Annotated[
        str,
        key(
            "a repository, or a pattern of those in the parent's catalogue: * within a segment, ** across; of several"
            " rows for one repository the first counts"
        ),
    ]
    parent: Annotated[str, key("name of the parent that has it; empty: the default parent")] = ""
    tags: Annotated[
        tuple[str, ...], key("tags selected, besides those of `regex`; neither given: all", "glob")
    ] = ()
    regex: Annotated[tuple[str, ...], key("tags selected, matched as a whole", "regex")] = ()
    exclude: Annotated[tuple[str, ...], key("tags left out", "glob")] = ()
    exclude_regex: Annotated[tuple[str, ...], key("tags left out, matched as a whole", "regex")] = ()
    semver: Annotated[
        str,
        key('only tags that are versions in this range, e.g. ">=1.4 <2 || ^3.1"; other tags are left out'),
    ] = ""
    newest: Annotated[int, key("only so many, the highest versions; 0 = all", "", ge=0)] = 0
    newer_than: Annotated[
        str,
        key(
            "only images created within this time, by their own metadata; one without it is selected; empty: all",
            "ISO 8601 duration",
        ),
    ] = ""
    platforms: Annotated[
        tuple[str, ...],
        key(
            "children of an index that are fetched; the index itself stays as it is; none given: all",
            "os/arch[/variant]",
        ),
    ] = ()
    referrers: Annotated[
        tuple[str, ...],
        key("artifact types of referrers that are fetched with an image; * for all, [] for none"),
    ] = ("*",)


class SyncSection(Section, frozen=True):
    """What a node fetches before clients request it, and when. With a connection string the parent decides which
    repositories and when, and rows narrow that."""

    schedule: Annotated[
        str, key("cron, UTC, 5 fields; `* * * * *` stays connected; empty: no synchronisation")
    ] = ""
    window: Annotated[
        str,
        key("from each occurrence on; empty: until it is done; ignored while connected", "ISO 8601 duration"),
    ] = ""
    message_ttl: Annotated[
        str,
        key(
            "after half of it without a complete run /readyz reports that; after all of it the next run is a full one",
            "ISO 8601 duration",
        ),
    ] = "P2D"
    misses: Annotated[
        Literal["always", "window"],
        key(
            "when a client's miss is fetched from a parent: always, or within the window alone; outside it a miss is"
            " 503 until the window opens"
        ),
    ] = "always"
    transfers: Annotated[int, key("images at once", "", ge=1, le=256)] = 8
    referrers_every: Annotated[
        str,
        key(
            "how often the referrers of a held image are requested again from a polled parent, one request each",
            "ISO 8601 duration",
        ),
    ] = "P7D"
    requests: Annotated[
        int,
        key(
            "most requests to one parent in an hour (lists, tags, manifests, referrers; not blobs); 0 = no cap",
            "1/h",
            ge=0,
        ),
    ] = 0
    reserve: Annotated[
        float,
        key(
            "share of the parent's own limit (`ratelimit-remaining`) that is left to clients",
            "0..1",
            ge=0,
            le=0.95,
        ),
    ] = 0.2
    conflict: Annotated[
        Literal["parent-wins", "child-wins", "reject"],
        key(
            "a tag that was moved here and at the parent: the parent's is kept, this node's, or each its own until an"
            " operator decides"
        ),
    ] = "parent-wins"
    on_parent_delete: Annotated[
        Literal["keep", "remove"],
        key("a held tag that two runs in a row did not find at the parent"),
    ] = "keep"
    prune: Annotated[
        Literal["", "never", "always"],
        key(
            "whether synchronised repositories are removed when they are not selected any more; empty: always in"
            " ReadOnly, never in ReadWrite"
        ),
    ] = ""
    prune_grace: Annotated[
        str, key("how long they are kept after they ceased to be selected", "ISO 8601 duration")
    ] = "P1D"
    repositories: Annotated[tuple[SyncRepositorySection, ...], key("what to synchronise")] = ()


class WebhookSection(EgressSection, frozen=True, kw_only=True):
    """A receiver of events on pushes and deletes (operate.md, "Webhooks and events")."""

    name: Annotated[
        str,
        key(
            "its name on this node; under another name it starts with the next event",
            "letters, digits and -, at most 40",
            pattern=r"^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$",
        ),
    ]
    url: Annotated[str, key("where events are posted to; shown and logged up to its host", "https://…")]
    secret: Annotated[
        str, key("secret of the signature of events, in the file itself; none: no signature")
    ] = ""
    secret_file: Annotated[str, key("file that holds the secret; read again when it changes", "file")] = ""
    secret_env: Annotated[str, key("environment variable that holds the secret")] = ""
    patterns: Annotated[
        tuple[str, ...], key("events that are sent: name[:tag][@digest]:action, with *", "pattern")
    ] = ("*:*",)
    format: Annotated[
        Literal["eventgrid", "acr"],
        key("format of bodies: Event Grid's, or that of the original's registry webhooks"),
    ] = "eventgrid"
    headers: Annotated[tuple[str, ...], key("sent with every event", "Name: value")] = ()
    keep: Annotated[
        float, key("an event that cannot be delivered is dropped when it is older", "s", ge=1, le=90 * 86400)
    ] = 2 * 86400.0
    timeout: Annotated[float, key("from the connection to the answer", "s", gt=0, le=120)] = 10.0
    insecure: Annotated[bool, key("allow http, and https without a valid certificate")] = False
    ca: Annotated[str, key("certificate authorities instead of the system's, PEM", "file")] = ""


class CapSection(Section, frozen=True):
    """An upper bound on the link; all that match apply at once."""

    mbit: Annotated[
        float,
        key(
            "bodies of blobs, both ways; 0: none of it, allowed for `sync` and `push` alone",
            "Mbit/s",
            ge=0,
        ),
    ]
    parent: Annotated[
        str, key("name of a parent, `default` for the one without; empty: all together; *: each for itself")
    ] = ""
    work: Annotated[
        Literal["", "interactive", "sync", "push"],
        key("bodies that clients wait for, that synchronisation fetches, that the outbox sends; empty: all"),
    ] = ""
    hours: Annotated[
        str, key("of the day, UTC; 22:00-06:00 spans midnight; empty: always", "HH:MM-HH:MM")
    ] = ""


class LinkSection(Section, frozen=True):
    """How the link to the parents is shared (sync.md, "Shares of the link")."""

    minimum_share: Annotated[
        float,
        key(
            "share of the link for synchronisation and the outbox while clients wait for a miss",
            "0..1",
            ge=0.01,
            le=0.5,
        ),
    ] = 0.05
    caps: Annotated[tuple[CapSection, ...], key("upper bounds")] = ()


class CredentialsSection(Section, frozen=True):
    """Where a parent's credentials come from. One form only; none means anonymous."""

    username: Annotated[str, key("user name")] = ""
    password: Annotated[str, key("password, in the file itself")] = ""
    password_file: Annotated[str, key("file that holds the password; read again when it changes", "file")] = (
        ""
    )
    password_env: Annotated[str, key("environment variable that holds the password")] = ""
    exec: Annotated[
        tuple[str, ...],
        key(
            'docker credential helper: called with "get" and the server on its input, '
            'prints {"Username":…,"Secret":…}'
        ),
    ] = ()


class ParentSection(ParentSettings, frozen=True, kw_only=True):
    """One parent registry. `name` is its namespace here: `ns` value, path prefix, and store key."""

    url: Annotated[str, key("base URL", "https://host[:port]", pattern=r"^https?://")]
    name: Annotated[str, key("namespace, usually the host, e.g. docker.io; empty for the default parent")] = (
        ""
    )
    default: Annotated[bool, key("takes requests that name no parent")] = False
    mirrors: Annotated[tuple[str, ...], key("base URLs that are tried in order before `url`")] = ()
    hosts: Annotated[tuple[str, ...], key("Host or SNI names of this node that select this parent")] = ()
    prefixes: Annotated[
        tuple[str, ...], key("path prefixes that select this parent; its name always does")
    ] = ()
    namespaces: Annotated[
        tuple[str, ...], key("`ns` values that select this parent; its name always does")
    ] = ()
    repositories: Annotated[
        tuple[str, ...], key("patterns of repositories allowed; * within a segment, ** across")
    ] = ("**",)
    credentials: Annotated[CredentialsSection, key("credentials")] = field(default_factory=CredentialsSection)


class Configuration(Section, frozen=True):
    """The whole file."""

    listen: Annotated[str, key("address to serve on; port 0 picks one and prints it", "host:port")] = (
        "127.0.0.1:5000"
    )
    data: Annotated[str, key("directory of the store", "directory")] = "holdfast-data"
    workers: Annotated[
        int, key("worker processes; 0 = everything in one process; -1 = one per core", "", ge=-1, le=256)
    ] = -1
    on_miss: Annotated[Literal["parent", "strict"], key("a miss: fetch from the parent, or answer 404")] = (
        "parent"
    )
    mode: Annotated[
        Literal["", "ReadWrite", "ReadOnly"],
        key(
            "whether this node takes pushes and deletes; empty: ReadOnly with a parent, ReadWrite without;"
            " Registry and Mirror are read as ReadWrite and ReadOnly"
        ),
    ] = ""
    anonymous: Annotated[
        Literal["", "none", "pull", "push"],
        key(
            "rights of a caller without login; push includes deleting and locking; empty: none on a node that manages"
            " connected registries or is one, pull on every other"
        ),
    ] = ""
    catalog: Annotated[bool, key("answer /v2/_catalog")] = False
    inline_bytes: Annotated[
        int, key("values up to this size live in the index", "bytes", ge=0, le=1 << 20)
    ] = 16 * 1024
    map_bytes: Annotated[
        int,
        key(
            "address space for the index, and so its largest size; it is not memory",
            "bytes",
            ge=1 << 20,
        ),
    ] = 64 << 30
    ballast_bytes: Annotated[
        int,
        key(
            "space reserved for deletes on a full disk; 0 = none; -1 = a hundredth of the file system, 4 to 16 MiB",
            "bytes",
            ge=-1,
        ),
    ] = -1
    scrub_interval: Annotated[
        float, key("a chunk that was verified longer ago is verified again when it is read", "s", ge=0)
    ] = 7 * 86400.0
    log_level: Annotated[Literal["debug", "info", "warning", "error"], key("least level logged")] = "info"
    log_format: Annotated[
        Literal["auto", "json", "text"],
        key(
            "one JSON line for each event, or text, coloured on a terminal unless NO_COLOR is set; auto: text on a"
            " terminal, JSON elsewhere"
        ),
    ] = "auto"
    access_log: Annotated[
        bool, key("log each answered request, at level info: client, request, result, hit or miss")
    ] = True
    tls: Annotated[TlsSection, key("")] = field(default_factory=TlsSection)
    limits: Annotated[LimitsSection, key("")] = field(default_factory=LimitsSection)
    tags: Annotated[TagsSection, key("")] = field(default_factory=TagsSection)
    fills: Annotated[FillsSection, key("")] = field(default_factory=FillsSection)
    store: Annotated[StoreSection, key("")] = field(default_factory=StoreSection)
    push: Annotated[PushSection, key("")] = field(default_factory=PushSection)
    garbage_collection: Annotated[CollectionSection, key("")] = field(default_factory=CollectionSection)
    scrub: Annotated[ScrubSection, key("")] = field(default_factory=ScrubSection)
    login: Annotated[LoginSection, key("")] = field(default_factory=LoginSection)
    admin: Annotated[AdminSection, key("")] = field(default_factory=AdminSection)
    control: Annotated[ControlSection, key("")] = field(default_factory=ControlSection)
    gateway: Annotated[GatewaySection, key("")] = field(default_factory=GatewaySection)
    sync: Annotated[SyncSection, key("")] = field(default_factory=SyncSection)
    link: Annotated[LinkSection, key("")] = field(default_factory=LinkSection)
    webhook: Annotated[tuple[WebhookSection, ...], key("receivers of events on pushes and deletes")] = ()
    parent: Annotated[tuple[ParentSection, ...], key("parents; none makes this node a root")] = ()

    @property
    def store_mode(self) -> Literal["root", "ReadWrite", "ReadOnly"]:
        """The mode that the store enforces. A root in ReadOnly is a frozen registry: it serves its content
        and nothing changes."""
        if self.mode == "ReadOnly":
            return "ReadOnly"
        if not self.parent:
            return "root"
        return self.mode or "ReadOnly"


class ConfigInvalid(Exception):
    """A configuration that cannot be used. The text names the key, the value found and the values allowed."""


def listen_address(listen: str) -> tuple[str, int]:
    """HOST:PORT, [V6]:PORT or :PORT as (host, port). Raises ValueError."""
    host, colon, port = listen.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError("no valid port")
    return host.strip("[]") or "0.0.0.0", int(port)
