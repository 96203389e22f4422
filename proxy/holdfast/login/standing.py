"""What the control plane means for logins on this node, as of one revision of it (connected-registry 4.4)."""

from __future__ import annotations

from typing import NamedTuple

from holdfast.config import Configuration
from holdfast.control.catalogue import Catalogue
from holdfast.control.resource import REGISTRY, TOKEN, Identity, lowered, name_in
from holdfast.login.caller import Level


class Standing(NamedTuple):
    """`level` is what strangers may; `invites` says that somebody can log in here, so that `/v2/` asks for it.
    `listed` are the tokens, in lower case, that may log in; None is every one. `mode` is what the parent made of this
    node, None when it is nobody's."""

    revision: int
    level: Level
    invites: bool
    listed: frozenset[str] | None
    mode: str | None

    def lists(self, token: str) -> bool:
        """Whether a token may log in here at all."""
        return self.listed is None or lowered(token) in self.listed


def stand(catalogue: Catalogue, config: Configuration) -> Standing:
    """The standing now. On a managed node its client tokens log in, and the sync tokens of those directly below it; on
    any other every token does."""
    revision, identity = catalogue.revision, catalogue.identity()
    tokens = catalogue.count(TOKEN) > 0
    if identity is None and not _is_to_be_managed(config):
        rules = catalogue.count(REGISTRY) > 0
        return Standing(revision, config.anonymous or ("none" if rules else "pull"), tokens, None, None)
    listed, mode = _managed(catalogue, identity)
    return Standing(revision, config.anonymous or "none", True, listed, mode)


def _is_to_be_managed(config: Configuration) -> bool:
    """Whether it is a connected registry that never reached its parent yet."""
    return bool(config.gateway.connection_string or config.gateway.connection_string_file)


def _managed(catalogue: Catalogue, identity: Identity | None) -> tuple[frozenset[str], str | None]:
    own = catalogue.registry(identity.name) if identity is not None else None
    if own is None:
        return frozenset(), None
    below = [child.parent.sync_properties.token_id for child in catalogue.children(own.name)]
    return frozenset(name_in(id).lower() for id in (*own.client_token_ids, *below)), own.mode
