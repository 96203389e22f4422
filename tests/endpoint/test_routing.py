"""Four ways to a parent, one cache entry; the allow-list; how long a tag is believed."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase

import pytest
from holdfast.config import Configuration, ParentSection, TagsSection
from holdfast.errors import NameInvalid, NameUnknown, PathUnknown, QueryInvalid
from holdfast.keeper.misses.tag_cache import is_fresh, tag_class, time_to_live
from holdfast.routing import Router, compile_patterns
from holdfast.wire import routes
from holdfast.wire.message import Request
from holdfast_core.digest import Digest
from holdfast_core.record import Tag
from hypothesis import given
from hypothesis import strategies as st

HUB = ParentSection(
    url="https://registry-1.docker.io",
    name="docker.io",
    default=True,
    prefixes=("dockerhub",),
    hosts=("hub.site.example",),
)
QUAY = ParentSection(url="https://quay.io", name="quay.io", repositories=("team/*", "open/**"))
ROUTER = Router(Configuration(parent=(HUB, QUAY)))


def scope(target: str, host: str = "node", sni: str = "", router: Router = ROUTER) -> tuple[str, bool, str]:
    read = routes.read(target)
    request = Request("GET", read.path, read.query, host=host, sni=sni, route=read.route)
    found = router.scope(request)
    return found.key, found.has_parent, found.namespace


WAYS = [
    ("/v2/library/nginx/manifests/1", "node", "", ""),
    ("/v2/library/nginx/manifests/1?ns=docker.io", "node", "", "docker.io"),
    ("/v2/library/nginx/manifests/1?ns=Docker.IO&ns=docker.io", "node", "", "docker.io"),
    ("/v2/library/nginx/manifests/1?ns=registry-1.docker.io", "node", "", "registry-1.docker.io"),
    ("/v2/library/nginx/manifests/1?ns=index.docker.io", "quay", "", "index.docker.io"),
    ("/dockerhub/v2/library/nginx/manifests/1", "node", "", ""),
    ("/dockerhub/v2/library/nginx/manifests/1?ns=docker.io", "node", "", "docker.io"),
    ("/docker.io/v2/library/nginx/manifests/1", "node", "", ""),
    ("/v2/dockerhub/library/nginx/manifests/1", "node", "", ""),
    ("/v2/dockerhub/library/nginx/manifests/1?ns=docker.io", "node", "", "docker.io"),
    ("/v2/docker.io/library/nginx/manifests/1", "node", "", ""),
    ("/v2/library/nginx/manifests/1", "hub.site.example", "", ""),
    ("/v2/library/nginx/manifests/1", "node", "hub.site.example", ""),
]


@pytest.mark.parametrize(("target", "host", "sni", "namespace"), WAYS)
def test_every_way_leads_to_one_entry(target: str, host: str, sni: str, namespace: str) -> None:
    assert scope(target, host, sni) == ("docker.io:library/nginx", True, namespace)


def test_ns_wins_over_host_and_prefix() -> None:
    assert scope("/dockerhub/v2/team/a/tags/list?ns=quay.io", "hub.site.example")[0] == "quay.io:team/a"
    assert scope("/v2/quay.io/team/a/tags/list")[0] == "quay.io:team/a"


REFUSED: list[tuple[str, type[Exception]]] = [
    ("/v2/a/tags/list?ns=evil.example", NameUnknown),
    ("/v2/a/tags/list?ns=quay.io.evil.example", NameUnknown),
    ("/v2/a/tags/list?ns=quay.io&ns=docker.io", QueryInvalid),
    ("/other/v2/a/tags/list", PathUnknown),
    ("/other/v2/a/tags/list?ns=docker.io", PathUnknown),
    ("/v2/secret/a/tags/list?ns=quay.io", NameUnknown),
    ("/v2/team/a/b/tags/list?ns=quay.io", NameUnknown),
    ("/v2/team/tags/list?ns=quay.io", NameUnknown),
    ("/v2/Team/tags/list?ns=quay.io", NameInvalid),
    ("/v2/dockerhub//tags/list", PathUnknown),
]


@pytest.mark.parametrize(("target", "kind"), REFUSED)
def test_what_is_not_allowed_is_refused(target: str, kind: type[Exception]) -> None:
    for _ in range(2):  # the second time from memory
        with pytest.raises(kind):
            scope(target)


def test_a_root_knows_one_namespace() -> None:
    root = Router(Configuration())
    assert scope("/v2/a/b/tags/list?ns=docker.io", router=root) == ("a/b", False, "")
    with pytest.raises(PathUnknown):
        scope("/x/v2/a/tags/list", router=root)


def test_the_default_parent() -> None:
    only = Router(Configuration(parent=(QUAY,)))
    assert scope("/v2/team/a/tags/list", router=only)[0] == "quay.io:team/a"
    unnamed = ParentSection(url="http://127.0.0.1:5001")
    plain = Router(Configuration(parent=(QUAY, unnamed)))
    assert scope("/v2/team/a/tags/list", router=plain)[:2] == ("team/a", True)
    assert scope("/v2/team/a/tags/list?ns=127.0.0.1:5001", router=plain)[0] == "team/a"
    other = ParentSection(url="https://ghcr.io", name="ghcr.io")
    none = Router(Configuration(parent=(QUAY, other)))
    assert scope("/v2/team/a/tags/list", router=none) == ("team/a", False, "")


def test_listed_names_lead_back() -> None:
    for key in ("docker.io:library/nginx", "quay.io:team/a"):
        name = ROUTER.listed(key)
        assert scope(f"/v2/{name}/tags/list")[0] == key
    assert ROUTER.listed("gone.example:a") is None


SEGMENT = st.text(st.sampled_from("ab."), min_size=1, max_size=3)
NAME = st.lists(SEGMENT, min_size=1, max_size=4).map("/".join)


@given(st.lists(st.one_of(SEGMENT, st.sampled_from(["*", "**", "a*", "*b"])), min_size=1, max_size=4), NAME)
def test_s23_patterns_match_by_segment(parts: list[str], name: str) -> None:
    pattern = "/".join(parts)
    found = compile_patterns([pattern]).fullmatch(name) is not None
    segments = name.split("/")
    if "**" not in pattern:
        same = len(parts) == len(segments) and all(map(fnmatchcase, segments, parts))
        assert found == same
    else:
        assert found == (
            re.fullmatch(re.escape(pattern).replace(r"\*\*", ".*").replace(r"\*", "[^/]*"), name) is not None
        )


def test_no_pattern_allows_nothing() -> None:
    assert compile_patterns([]).fullmatch("") is None


TAGS = TagsSection()
DIGEST = Digest.of(b"")


@pytest.mark.parametrize(
    ("name", "kind", "seconds"),
    [
        (f"sha256-{'a' * 64}.sig", "immutable", 30 * 86400.0),
        (f"sha256-{'a' * 64}", "immutable", 30 * 86400.0),
        ("1.27", "version", 3600.0),
        ("v1.27.3-alpine", "version", 3600.0),
        ("1", "floating", 60.0),
        ("latest", "floating", 60.0),
        ("x1.27", "floating", 60.0),
    ],
)
def test_tag_classes(name: str, kind: str, seconds: float) -> None:
    assert tag_class(name, TAGS) == kind
    assert time_to_live(name, TAGS) == seconds
    held = Tag(name, DIGEST, 1000.0, 1000.0, "parent")
    assert is_fresh(held, 1000.0 + seconds - 0.1, TAGS)
    assert not is_fresh(held, 1000.0 + seconds, TAGS)


def test_case_74_a_tag_pushed_here_is_always_fresh_and_a_clock_that_went_back_makes_one_old() -> None:
    assert is_fresh(Tag("a", DIGEST, 0.0, 0.0, "local"), 1e9, TAGS)
    assert not is_fresh(Tag("a", DIGEST, 1000.0, 0.0, "parent"), 999.0, TAGS)


def test_case_trust_24_what_clients_write_as_they_like_is_not_kept() -> None:
    """Each of these was kept with its 28 kB, 4,096 of them in each worker."""
    wild = ParentSection(url="https://any.example", name="any", namespaces=("*",))
    for parents in ((HUB, QUAY), (HUB, wild), ()):
        router = Router(Configuration(parent=parents))
        want = scope("/v2/library/nginx/manifests/1", router=router)
        for number in range(100):
            long = f"{number}-" + "h" * 28_000
            assert scope("/v2/library/nginx/manifests/1", long, long, router) == want
            if HUB not in parents or wild in parents:
                found = scope(f"/v2/library/nginx/manifests/1?ns={long}", router=router)
                assert found[0].endswith("library/nginx")
            assert router.called("library/nginx", long, long)
        assert router._kept.cache_info().currsize == 1
    assert (
        scope("/v2/library/nginx/manifests/1", "hub.site.example")[0]
        == scope("/v2/library/nginx/manifests/1?ns=docker.io")[0]
    )
