"""Deviations of single registries, as data. A row is found by exact host, by a pattern of
the whole host (so `docker.io.example.com` and `evildocker.io` match nothing), or by the `service` of the
registry's challenge, for software that runs under any name. Each row names its source.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from holdfast.oci.names import DOCKER_HUB_HOSTS


@dataclass(frozen=True, slots=True)
class Quirk:
    """One row.

    `endpoint` is the API's host where it differs from the host people write. `project` is put before
    names of one component. `realms` are token servers on another origin that belong to this registry.
    `stale` are the statuses that may mean "your token or password expired" when one was sent.
    `confirm_head`: a 404 to HEAD of a blob does not mean that GET has none.
    """

    registry: str
    source: str
    hosts: tuple[str, ...] = ()
    pattern: str = ""
    services: tuple[str, ...] = ()
    endpoint: str = ""
    project: str = ""
    realms: tuple[str, ...] = ()
    stale: frozenset[int] = frozenset({401})
    confirm_head: bool = False


PLAIN = Quirk("any other", "distribution-spec; token authentication of the distribution project")

TABLE = (
    Quirk(
        "Docker Hub",
        "docs.docker.com/registry: library/ for official images, auth.docker.io for tokens",
        hosts=DOCKER_HUB_HOSTS,
        endpoint="registry-1.docker.io",
        project="library",
        realms=("https://auth.docker.io",),
    ),
    Quirk(
        "Amazon ECR Public",
        "aws/containers-roadmap#2835: 400 without a challenge for an expired token",
        hosts=("public.ecr.aws",),
        stale=frozenset({400, 401, 403}),
    ),
    Quirk(
        "Amazon ECR",
        "flipt-io/flipt#3043: 403 without a challenge for an expired password; aws/containers-roadmap#2835",
        pattern=r"[0-9]{12}\.dkr\.ecr(-fips)?\.[a-z0-9-]+\.amazonaws\.com(\.cn)?",
        stale=frozenset({400, 401, 403}),
    ),
    Quirk(
        "GitLab.com",
        "deitch/docker_registry2#14: realm https://gitlab.com/jwt/auth",
        hosts=("registry.gitlab.com",),
        realms=("https://gitlab.com",),
    ),
    Quirk(
        "Elastic",
        "hashicorp/terraform-provider-docker#243: realm https://docker-auth.elastic.co/auth",
        hosts=("docker.elastic.co",),
        realms=("https://docker-auth.elastic.co",),
    ),
    Quirk(
        "Harbor",
        "goharbor/harbor#22609: a proxy project answers 404 to HEAD of a blob it has not cached",
        services=("harbor-registry",),
        confirm_head=True,
    ),
)


def quirk_of(host: str) -> Quirk:
    """The row for a host (lower case, without port), or PLAIN."""
    for row in TABLE:
        if host in row.hosts or (row.pattern and re.fullmatch(row.pattern, host)):
            return row
    return PLAIN


def quirk_of_service(service: str) -> Quirk | None:
    """The row for software known by its challenge's `service`, or None."""
    return next((row for row in TABLE if service in row.services), None)
