"""Commands, one by one: what they do, what they refuse, and that a refusal changes nothing."""

from __future__ import annotations

import pytest
from holdfast.control import command as c
from holdfast.control.draft import etag_of
from holdfast.errors import (
    ControlConflict,
    ControlInvalid,
    ControlMistake,
    ControlUnknown,
    PreconditionFailed,
    Refusal,
)
from holdfast.resources.actions import OF_MODE, of_gateway, of_repository
from holdfast.resources.model import REGISTRY, SCOPE_MAP, TOKEN, Identity
from support.control import Plane, create_registry, registry, update_registry

READ = ("repositories/team/app/content/read", "repositories/team/app/metadata/read")
WRITE = ("repositories/team/app/content/write",)


@pytest.fixture
def plane() -> Plane:
    return Plane()


def refused(
    plane: Plane, command: c.Command, kind: type[Refusal], text: str, field: str | None = None
) -> None:
    """The command raises, says why and where, and leaves everything as it was."""
    before = plane.state()
    with pytest.raises(kind, match=text) as refusal:
        plane.do(command)
    if field is not None:
        assert refusal.value.detail == field
    assert plane.state() == before


def unchanged(plane: Plane, command: c.Command) -> None:
    """The command is taken, and says that all was so already."""
    before = plane.state()
    result = plane.do(command)
    assert (result.changed, result.difference, result.passwords) == (False, (), ())
    assert plane.state() == before


# --- tokens and scope maps ---------------------------------------------------------------------------------


def test_a_token_brings_its_scope_map_and_two_passwords_shown_once(plane: Plane) -> None:
    result = plane.do(c.CreateToken(name="Reader", actions=READ, expiry="2027-01-01T00:00:00Z"))
    assert [(p.name, p.value, p.expiry) for p in result.passwords] == [
        ("password1", "secret-1", "2027-01-01T00:00:00Z"),
        ("password2", "secret-2", "2027-01-01T00:00:00Z"),
    ]
    token = plane.token("reader")
    assert (token.name, token.scope_map_id, token.status) == (
        "Reader",
        "/scopeMaps/Reader-scope-map",
        "enabled",
    )
    assert [p.verifier for p in token.passwords] == ["verifier-1", "verifier-2"]
    assert plane.scope("reader-scope-map").actions == READ
    assert b"secret" not in b"".join(plane.state().values())


def test_the_same_token_again_is_no_change_and_keeps_its_passwords(plane: Plane) -> None:
    plane.do(c.CreateToken(name="reader", actions=READ))
    unchanged(plane, c.CreateToken(name="READER", actions=tuple(reversed(READ))))
    unchanged(plane, c.CreateToken(name="reader", scope_map="/scopeMaps/READER-scope-map"))
    refused(
        plane,
        c.CreateToken(name="reader", actions=READ, status="disabled"),
        ControlConflict,
        "update it",
        "status",
    )
    refused(
        plane, c.CreateToken(name="reader", actions=READ[:1]), ControlConflict, "other actions", "actions"
    )
    refused(
        plane,
        c.CreateToken(name="reader", scope_map="_repositories_pull"),
        ControlConflict,
        "exists",
        "scopeMapId",
    )
    refused(plane, c.CreateToken(name="reader", actions=READ, only_new=True), PreconditionFailed, "exists")


def test_a_scope_map_that_is_equal_is_used(plane: Plane) -> None:
    plane.do(c.CreateScopeMap(name="reader-scope-map", actions=READ))
    plane.do(c.CreateToken(name="reader", actions=READ, no_passwords=True))
    assert plane.token("reader").passwords == ()
    plane.do(c.CreateScopeMap(name="other-scope-map", actions=WRITE))
    refused(
        plane,
        c.CreateToken(name="other", actions=READ),
        ControlConflict,
        "exists with other actions",
        "actions",
    )


@pytest.mark.parametrize(
    ("command", "kind", "text"),
    [
        (c.CreateToken(name="reader"), ControlInvalid, "exactly one"),
        (
            c.CreateToken(name="reader", actions=READ, scope_map="_repositories_pull"),
            ControlInvalid,
            "exactly one",
        ),
        (c.CreateToken(name="reader", scope_map="absent"), ControlInvalid, "there is no scope map 'absent'"),
        (c.CreateToken(name="reader", actions=("pull",)), ControlInvalid, "action 'pull' is none"),
        (c.CreateToken(name="bad name", actions=READ), ControlInvalid, "allowed: letters"),
        (
            c.CreateToken(name="reader", actions=READ, expiry="2020-01-01T00:00:00Z"),
            ControlInvalid,
            "is past",
        ),
        (c.UpdateToken(name="absent"), ControlUnknown, "no token 'absent'"),
        (c.DeleteToken(name="absent"), ControlUnknown, "no token 'absent'"),
        (c.GenerateCredentials(token="absent"), ControlUnknown, "no token"),
        (c.DeleteCredentials(token="absent"), ControlUnknown, "no token"),
        (c.CreateScopeMap(name="_mine", actions=READ), ControlInvalid, "allowed"),
        (
            c.CreateScopeMap(name="mymap", actions=READ, description="x" * 257),
            ControlInvalid,
            "257 characters",
        ),
        (c.CreateScopeMap(name="_repositories_pull", actions=READ), ControlConflict, "defined by the system"),
        (c.UpdateScopeMap(name="_repositories_PULL", add=WRITE), ControlConflict, "defined by the system"),
        (c.DeleteScopeMap(name="_repositories_admin"), ControlConflict, "defined by the system"),
        (c.UpdateScopeMap(name="absent"), ControlUnknown, "no scope map 'absent'"),
        (c.DeleteScopeMap(name="absent"), ControlUnknown, "no scope map 'absent'"),
        (update_registry(name="absent"), ControlUnknown, "no connected registry 'absent'"),
        (c.DeleteRegistry(name="absent"), ControlUnknown, "no connected registry 'absent'"),
        (c.Deactivate(name="absent"), ControlUnknown, "no connected registry"),
        (c.Resync(name="absent"), ControlUnknown, "no connected registry"),
        (c.UpdatePermissions(name="absent", add=("a",)), ControlUnknown, "no connected registry"),
        (c.Activate(name="absent", instance="i", lease_seconds=1), ControlUnknown, "no connected registry"),
    ],
)
def test_what_is_refused_on_an_empty_node(
    plane: Plane, command: c.Command, kind: type[Refusal], text: str
) -> None:
    refused(plane, command, kind, text)


def test_system_scope_maps_can_be_used_and_are_not_stored(plane: Plane) -> None:
    plane.do(c.CreateToken(name="reader", scope_map="_Repositories_Pull"))
    assert plane.token("reader").scope_map_id == "/scopeMaps/_repositories_pull"
    assert plane.view.count(SCOPE_MAP) == 0


def test_a_token_changes_scope_map_and_status(plane: Plane) -> None:
    plane.do(c.CreateToken(name="reader", actions=READ))
    plane.do(c.UpdateToken(name="/tokens/reader", scope_map="_repositories_push", status="disabled"))
    assert (plane.token("reader").scope_map_id, plane.token("reader").status) == (
        "/scopeMaps/_repositories_push",
        "disabled",
    )
    unchanged(plane, c.UpdateToken(name="reader", status="disabled"))
    refused(
        plane, c.UpdateToken(name="reader", scope_map="absent"), ControlInvalid, "no scope map", "scopeMapId"
    )
    plane.do(c.DeleteScopeMap(name="reader-scope-map"))  # nobody has it any more


def test_a_scope_map_that_a_token_has_is_not_deleted(plane: Plane) -> None:
    plane.do(c.CreateToken(name="reader", actions=READ))
    refused(
        plane, c.DeleteScopeMap(name="reader-scope-map"), ControlConflict, "that of the token reader", "name"
    )
    plane.do(c.DeleteToken(name="reader"))
    plane.do(c.DeleteScopeMap(name="reader-scope-map"))
    assert plane.state() == {}


def test_a_scope_map_changes_by_the_piece_and_as_a_whole(plane: Plane) -> None:
    plane.do(c.CreateScopeMap(name="mymap", actions=READ, description="first"))
    unchanged(plane, c.CreateScopeMap(name="MyMap", actions=READ, description="first"))
    refused(
        plane,
        c.CreateScopeMap(name="mymap", actions=READ),
        ControlConflict,
        "other description",
        "description",
    )
    result = plane.do(c.UpdateScopeMap(name="mymap", add=WRITE, remove=READ[:1], description="second"))
    assert (result.difference[0].added, result.difference[0].removed) == (WRITE, READ[:1])
    assert (plane.scope("mymap").actions, plane.scope("mymap").description) == ((READ[1], *WRITE), "second")
    plane.do(c.UpdateScopeMap(name="mymap", actions=READ))
    assert plane.scope("mymap").actions == READ
    unchanged(plane, c.UpdateScopeMap(name="mymap", add=tuple(a.upper() for a in READ)))
    refused(plane, c.UpdateScopeMap(name="mymap", add=READ, remove=READ), ControlInvalid, "Update ambiguity")
    refused(plane, c.UpdateScopeMap(name="mymap", add=READ, actions=READ), ControlConflict, "replaces all")


def test_one_password_rotates_while_the_other_serves(plane: Plane) -> None:
    plane.do(c.CreateToken(name="reader", actions=READ))
    result = plane.do(c.GenerateCredentials(token="reader", passwords=("password1",)))
    assert [(p.name, p.value) for p in result.passwords] == [("password1", "secret-3")]
    assert [p.verifier for p in plane.token("reader").passwords] == ["verifier-3", "verifier-2"]
    plane.do(c.DeleteCredentials(token="reader", passwords=("password1",)))
    assert [p.name for p in plane.token("reader").passwords] == ["password2"]
    refused(
        plane,
        c.DeleteCredentials(token="reader", passwords=("password1",)),
        ControlUnknown,
        "has no password1",
    )
    both = plane.do(c.GenerateCredentials(token="reader"))
    assert [p.name for p in both.passwords] == ["password1", "password2"]
    plane.do(c.DeleteCredentials(token="reader"))
    unchanged(plane, c.DeleteCredentials(token="reader"))


def test_a_chosen_secret_is_kept_as_the_verifier_that_was_made_of_it(plane: Plane) -> None:
    plane.do(c.CreateToken(name="reader", actions=READ, no_passwords=True))
    order = c.GenerateCredentials(
        token="reader", passwords=("password2",), secret="a horse of another colour"
    )
    assert plane.do(order, verifier="$argon2id$…").passwords == ()
    assert plane.token("reader").passwords[0].verifier == "$argon2id$…"
    for names in ((), ("password1", "password2")):
        refused(
            plane,
            c.GenerateCredentials(token="reader", passwords=names, secret="x"),
            ControlInvalid,
            "exactly one",
        )


# --- conditions --------------------------------------------------------------------------------------------


def test_a_condition_that_does_not_hold_changes_nothing(plane: Plane) -> None:
    plane.do(registry("plant"))
    plane.do(c.CreateToken(name="reader", actions=READ))
    etags = {
        kind: etag_of(plane.view.get(kind, name)) for kind, name in ((REGISTRY, "plant"), (TOKEN, "reader"))
    }
    plane.do(update_registry(name="plant", log_level="Debug", if_match=etags[REGISTRY]))
    plane.do(c.UpdateToken(name="reader", status="disabled", if_match="*"))
    for command in (
        update_registry(name="plant", log_level="Error", if_match=etags[REGISTRY]),
        c.DeleteRegistry(name="plant", if_match=etags[REGISTRY]),
        c.UpdateToken(name="reader", status="enabled", if_match=etags[TOKEN]),
        c.DeleteToken(name="reader", if_match=etags[TOKEN]),
        c.UpdateScopeMap(name="reader-scope-map", add=WRITE, if_match='"0"'),
        c.DeleteScopeMap(name="reader-scope-map", if_match='"0"'),
        c.UpdatePermissions(name="plant", add=("b",), if_match='"0"'),
    ):
        refused(plane, command, PreconditionFailed, "has changed: its ETag is")


def test_a_heartbeat_changes_no_etag(plane: Plane) -> None:
    plane.do(registry("plant"))
    before = plane.view.get(REGISTRY, "plant")
    plane.do(c.Activate(name="plant", instance="i", lease_seconds=300))
    plane.do(c.RecordReport(name="plant", instance="i", generation=1, lease_seconds=300))
    assert plane.view.get(REGISTRY, "plant") == before


# --- connected registries ----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["ReadOnly", "ReadWrite"])
def test_a_registry_brings_a_sync_token_of_its_mode(plane: Plane, mode: str) -> None:
    result = plane.do(registry("Plant", "team/app", "tools/*", mode=mode))
    assert [(d.kind, d.name, d.change) for d in result.difference] == [
        ("connected-registry", "Plant", "created"),
        ("scope-map", "Plant", "created"),
        ("token", "Plant", "created"),
    ]
    wanted = [a for r in ("team/app", "tools/*") for a in of_repository(r, OF_MODE[mode])]
    assert plane.scope("plant").actions == (*wanted, *of_gateway("plant"))
    token = plane.token("plant")
    assert (token.status, token.passwords) == ("enabled", ())
    assert plane.registry("plant").parent.sync_properties.token_id == "/tokens/Plant"


BAD_REGISTRIES = [
    (create_registry(name="plant", mode="ReadOnly"), ControlInvalid, "exactly one", "repositories"),
    (
        create_registry(name="plant", mode="ReadOnly", repositories=("a",), sync_token="token"),
        ControlInvalid,
        "exactly one",
        "repositories",
    ),
    (
        create_registry(name="plant", mode="ReadOnly", repositories=()),
        ControlInvalid,
        "is empty",
        "repositories",
    ),
    (registry("pla-nt"), ControlInvalid, "5 to 40", "name"),
    (registry("plant", "a/*/b"), ControlInvalid, "no repository", "repositories"),
    (registry("plant", parent="absent"), ControlInvalid, "no connected registry 'absent'", "parent.id"),
    (registry("plant", parent="plant"), ControlInvalid, "no connected registry 'plant'", "parent.id"),
    (
        create_registry(name="plant", mode="ReadOnly", repositories=("a",), schedule="0 9 * * *"),
        ControlInvalid,
        "syncWindow is missing",
        "syncWindow",
    ),
    (
        create_registry(name="plant", mode="ReadOnly", repositories=("a",), message_ttl="P91D"),
        ControlInvalid,
        "P1D to P90D",
        "messageTtl",
    ),
    (
        create_registry(name="plant", mode="ReadOnly", repositories=("a",), gc_schedule="daily"),
        ControlInvalid,
        "no schedule",
        "garbageCollection.schedule",
    ),
    (
        create_registry(name="plant", mode="ReadOnly", repositories=("a",), notifications=("x",)),
        ControlInvalid,
        "no pattern",
        "notificationsList",
    ),
    (
        create_registry(name="plant", mode="ReadOnly", repositories=("a",), client_tokens=("absent",)),
        ControlConflict,
        "no token absent",
        "clientTokenIds",
    ),
    (
        create_registry(name="plant", mode="ReadOnly", sync_token="absent"),
        ControlInvalid,
        "no token 'absent'",
        "parent.syncProperties.tokenId",
    ),
]


@pytest.mark.parametrize(("command", "kind", "text", "field"), BAD_REGISTRIES)
def test_a_registry_that_breaks_a_rule(
    plane: Plane, command: c.Command, kind: type[Refusal], text: str, field: str
) -> None:
    refused(plane, command, kind, text, field)


def test_created_again_it_is_replaced_where_it_can_change(plane: Plane) -> None:
    first = registry("plant", "team/app")
    plane.do(first)
    unchanged(plane, first)
    unchanged(plane, registry("PLANT", "Team/App"))
    plane.do(create_registry(name="plant", mode="ReadOnly", repositories=("team/app",), log_level="Error"))
    assert plane.registry("plant").logging.log_level == "Error"
    refused(plane, registry("plant", mode="ReadWrite"), ControlConflict, "mode cannot be changed", "mode")
    refused(plane, registry("plant", "other"), ControlConflict, "permissions update", "repositories")
    plane.do(registry("upper"))
    refused(
        plane, registry("plant", parent="upper"), ControlConflict, "parent.id cannot be changed", "parent.id"
    )
    given = create_registry(name="plant", mode="ReadOnly", sync_token="other")
    refused(plane, given, ControlConflict, "tokenId cannot be changed", "parent.syncProperties.tokenId")
    only = create_registry(name="plant", mode="ReadOnly", repositories=("team/app",), only_new=True)
    refused(plane, only, PreconditionFailed, "exists")


def test_the_former_names_of_modes_are_stored_as_the_present_ones(plane: Plane) -> None:
    for name, mode, stored in (("works", "Registry", "ReadWrite"), ("plant", "Mirror", "ReadOnly")):
        plane.do(create_registry(name=name, mode=mode, repositories=("team/app",)))
        assert plane.registry(name).mode == stored
        unchanged(plane, create_registry(name=name, mode=stored, repositories=("team/app",)))


def test_an_update_changes_what_it_names(plane: Plane) -> None:
    plane.do(registry("plant"))
    plane.do(
        update_registry(
            name="plant",
            schedule="0 9 * * *",
            sync_window="PT3H",
            message_ttl="P5D",
            log_level="Warning",
            audit_log_status="Enabled",
            add_notifications=("*:*", "a:push"),
            gc_enabled=False,
            gc_schedule="5 4 * * *",
        )
    )
    held = plane.registry("plant")
    sync = held.parent.sync_properties
    assert (sync.schedule, sync.sync_window, sync.message_ttl) == ("0 9 * * *", "PT3H", "P5D")
    assert (held.logging.log_level, held.logging.audit_log_status) == ("Warning", "Enabled")
    assert (held.garbage_collection.enabled, held.garbage_collection.schedule) == (False, "5 4 * * *")
    unchanged(plane, update_registry(name="plant", log_level="Warning", add_notifications=("*:*",)))
    refused(plane, update_registry(name="plant", sync_window=None), ControlInvalid, "syncWindow is missing")
    plane.do(
        update_registry(name="plant", sync_window=None, schedule="* * * * *", remove_notifications=("*:*",))
    )
    assert plane.registry("plant").parent.sync_properties.sync_window is None
    assert plane.registry("plant").notifications_list == ("a:push",)


def test_client_tokens_are_a_set_whatever_their_casing(plane: Plane) -> None:
    plane.do(registry("plant"))
    for name in ("Alpha", "bravo"):
        plane.do(c.CreateToken(name=name, actions=READ))
    plane.do(update_registry(name="plant", add_client_tokens=("Alpha", "ALPHA", "/tokens/bravo")))
    assert plane.registry("plant").client_token_ids == ("/tokens/Alpha", "/tokens/bravo")
    unchanged(plane, update_registry(name="plant", add_client_tokens=("alpha",)))
    plane.do(update_registry(name="plant", client_tokens=("bravo",)))
    plane.do(update_registry(name="plant", remove_client_tokens=("BRAVO", "absent")))
    assert plane.registry("plant").client_token_ids == ()
    both = update_registry(
        name="plant", add_client_tokens=("Alpha",), remove_client_tokens=("/tokens/alpha",)
    )
    refused(plane, both, ControlInvalid, "Update ambiguity", "clientTokenIds")
    whole = update_registry(name="plant", client_tokens=("Alpha",), add_client_tokens=("bravo",))
    refused(plane, whole, ControlInvalid, "replaces the whole list", "clientTokenIds")


def test_client_tokens_of_a_read_only_registry_only_read_however_one_tries(plane: Plane) -> None:
    plane.do(registry("plant"))
    plane.do(registry("works", mode="ReadWrite"))
    plane.do(c.CreateToken(name="reader", actions=READ))
    plane.do(c.CreateToken(name="writer", actions=(*READ, *WRITE)))
    add = update_registry(name="plant", add_client_tokens=("writer",))
    refused(
        plane,
        add,
        ControlConflict,
        "writer of plant has repositories/team/app/content/write",
        "clientTokenIds",
    )
    plane.do(update_registry(name="works", add_client_tokens=("writer",)))
    plane.do(update_registry(name="plant", add_client_tokens=("reader",)))
    refused(
        plane, c.UpdateScopeMap(name="reader-scope-map", add=WRITE), ControlConflict, "reader of plant has"
    )
    refused(
        plane,
        c.UpdateToken(name="reader", scope_map="_repositories_push"),
        ControlConflict,
        "reader of plant has",
    )
    created = create_registry(name="third", mode="ReadOnly", repositories=("a",), client_tokens=("writer",))
    refused(plane, created, ControlConflict, "writer of third has")


def test_a_deleted_token_leaves_every_list(plane: Plane) -> None:
    plane.do(c.CreateToken(name="reader", actions=READ))
    for name in ("plant", "works"):
        plane.do(registry(name))
        plane.do(update_registry(name=name, add_client_tokens=("reader",)))
    result = plane.do(c.DeleteToken(name="reader"))
    assert {d.name for d in result.difference} == {"plant", "works", "reader"}
    assert plane.registry("plant").client_token_ids == plane.registry("works").client_token_ids == ()


def test_a_sync_token_is_kept_while_its_registry_is(plane: Plane) -> None:
    plane.do(registry("plant"))
    refused(plane, c.DeleteToken(name="plant"), ControlConflict, "disable the token", "name")
    refused(
        plane,
        c.UpdateToken(name="plant", scope_map="_repositories_admin"),
        ControlConflict,
        "cannot be changed",
    )
    refused(
        plane,
        update_registry(name="plant", add_client_tokens=("plant",)),
        ControlConflict,
        "is a sync token",
    )
    plane.do(c.UpdateToken(name="plant", status="disabled"))
    plane.do(c.DeleteRegistry(name="plant"))
    plane.do(c.DeleteToken(name="plant"))


def test_the_scope_map_of_a_sync_token_is_its_own(plane: Plane) -> None:
    plane.do(registry("plant"))
    shared = c.CreateToken(name="spyer", scope_map="plant")
    refused(plane, shared, ControlConflict, "that of the sync token plant", "scopeMapId")
    plane.do(c.CreateToken(name="spyer", actions=READ))
    refused(
        plane, c.UpdateToken(name="spyer", scope_map="plant"), ControlConflict, "that of the sync token plant"
    )


def test_a_given_sync_token_gets_the_gateway(plane: Plane) -> None:
    plane.do(c.CreateToken(name="given", actions=READ))
    plane.do(create_registry(name="plant", mode="ReadOnly", sync_token="given"))
    assert plane.scope("given-scope-map").actions == (*READ, *of_gateway("plant"))
    second = create_registry(name="works", mode="ReadOnly", sync_token="given")
    refused(plane, second, ControlConflict, "another connected registry", "parent.syncProperties.tokenId")


@pytest.mark.parametrize(
    ("mode", "given", "text"),
    [
        ("ReadOnly", READ[:1], "lacks repositories/team/app/metadata/read"),
        ("ReadWrite", READ, "lacks repositories/team/app/content/write"),
        ("ReadOnly", (*READ, *WRITE), "has repositories/team/app/content/write"),
        ("ReadOnly", (*READ, "gateway/other/config/read"), "has gateway/other/config/read"),
        ("ReadOnly", (), "names no repository"),
    ],
)
def test_a_given_sync_token_has_what_its_mode_needs(
    plane: Plane, mode: str, given: tuple[str, ...], text: str
) -> None:
    plane.do(c.CreateToken(name="given", actions=given))
    order = create_registry(
        name="plant", mode="ReadWrite" if mode == "ReadWrite" else "ReadOnly", sync_token="given"
    )
    refused(plane, order, ControlConflict, text, "parent.syncProperties.tokenId")


def test_a_given_sync_token_is_nobody_elses(plane: Plane) -> None:
    plane.do(c.CreateToken(name="given", scope_map="_repositories_pull_metadata_read"))
    order = create_registry(name="plant", mode="ReadOnly", sync_token="given")
    refused(plane, order, ControlConflict, "cannot be changed")
    plane.do(c.CreateScopeMap(name="shared", actions=READ))
    plane.do(c.CreateToken(name="first", scope_map="shared"))
    plane.do(c.CreateToken(name="second", scope_map="shared"))
    refused(
        plane,
        create_registry(name="plant", mode="ReadOnly", sync_token="first"),
        ControlConflict,
        "shares it with no other",
    )
    plane.do(registry("works"))
    plane.do(c.CreateToken(name="client", actions=READ))
    plane.do(update_registry(name="works", add_client_tokens=("client",)))
    refused(
        plane,
        create_registry(name="plant", mode="ReadOnly", sync_token="client"),
        ControlConflict,
        "is a sync token",
    )


def test_a_name_in_use_is_not_taken_over(plane: Plane) -> None:
    plane.do(c.CreateToken(name="plant", actions=READ))
    refused(
        plane,
        registry("plant"),
        ControlConflict,
        "the token plant exists and is used for something else",
        "name",
    )
    plane.do(c.CreateScopeMap(name="works", actions=READ))
    plane.do(c.CreateToken(name="other", scope_map="works"))
    refused(plane, registry("works"), ControlConflict, "the scope map works exists and is used", "name")


def test_what_an_earlier_registry_left_is_taken_over_without_its_passwords(plane: Plane) -> None:
    plane.do(registry("plant", "old"))
    plane.do(c.GenerateCredentials(token="plant"))
    plane.do(c.DeleteRegistry(name="plant"))
    plane.do(registry("plant", "new"))
    assert plane.token("plant").passwords == ()
    assert not any("old" in action for action in plane.scope("plant").actions)


def test_deleted_without_cleanup_it_says_what_is_left(plane: Plane) -> None:
    plane.do(registry("plant"))
    plane.do(registry("line1", parent="plant"))
    refused(plane, c.DeleteRegistry(name="plant"), ControlConflict, "has 1 below it", "name")
    dry = plane.do(c.DeleteRegistry(name="line1", dry_run=True))
    assert dry.changed
    assert dry.follow_up == (
        "holdfast token delete --name line1",
        "holdfast scope-map delete --name line1",
        "holdfast scope-map update --name plant --remove-gateway line1 config/read config/write message/read"
        " message/write",
    )
    assert plane.do(c.DeleteRegistry(name="line1")).follow_up == dry.follow_up
    assert plane.token("line1").name == "line1"
    assert set(of_gateway("line1")) <= set(plane.scope("plant").actions)
    refused(plane, c.DeleteRegistry(name="line1"), ControlUnknown, "no connected registry")


def test_deleted_with_cleanup_nothing_is_left(plane: Plane) -> None:
    empty = plane.state()
    plane.do(registry("plant"))
    plane.do(registry("line1", parent="plant"))
    plane.do(c.Activate(name="plant", instance="i", lease_seconds=60))
    assert plane.do(c.DeleteRegistry(name="line1", cleanup=True)).follow_up == ()
    assert not any("gateway/line1" in action for action in plane.scope("plant").actions)
    plane.do(c.DeleteRegistry(name="plant", cleanup=True))
    assert plane.state() == empty


# --- everything --------------------------------------------------------------------------------------------


LIMITED = [
    ("tokens", c.CreateToken(name="token3", scope_map="_repositories_pull"), "3 tokens; allowed: 2", "name"),
    ("scope_maps", c.CreateScopeMap(name="map03", actions=READ), "3 scope maps; allowed: 2", "name"),
    ("connected_registries", registry("third"), "3 connected registries; allowed: 2", "name"),
]


@pytest.mark.parametrize(("key", "command", "text", "field"), LIMITED)
def test_limits_are_kept_and_lowered_ones_stop_no_clean_up(
    key: str, command: c.Command, text: str, field: str
) -> None:
    plane = Plane()
    plane.do(registry("first"))
    plane.do(registry("other"))
    plane.limits = Plane(**{key: 2}).limits
    refused(plane, command, ControlConflict, text, field)
    plane.limits = Plane(**{key: 1}).limits
    plane.do(update_registry(name="first", log_level="Debug"))
    plane.do(c.DeleteRegistry(name="other", cleanup=True))
    refused(plane, command, ControlConflict, "allowed: 1")


def test_permissions_and_clients_are_limited_too() -> None:
    plane = Plane(permissions=4, client_tokens=1)
    plane.do(registry("plant", "a", "b"))  # four, and the gateway's do not count
    refused(
        plane,
        c.UpdatePermissions(name="plant", add=("c",)),
        ControlConflict,
        "6 permissions .* allowed: 4",
        "actions",
    )
    refused(plane, registry("works", "a", mode="ReadWrite"), ControlConflict, "5 permissions")
    plane.do(registry("line1", "a", parent="plant"))
    refused(
        plane, registry("line2", "c", parent="plant"), ControlConflict, "in the scope map plant"
    )  # by widening
    for name in ("first", "second"):
        plane.do(c.CreateToken(name=name, scope_map="_repositories_pull"))
    plane.do(update_registry(name="plant", add_client_tokens=("first",)))
    more = update_registry(name="plant", add_client_tokens=("second",))
    refused(plane, more, ControlConflict, "2 client tokens of plant; allowed: 1", "clientTokenIds")


def test_a_dry_run_answers_the_same_and_changes_nothing(plane: Plane) -> None:
    plane.do(registry("plant", "a", "b"))
    plane.do(registry("line1", "a", parent="plant"))
    for command, dry in (
        (registry("line2", "c", parent="plant"), True),
        (c.UpdatePermissions(name="plant", remove=("a",)), True),
        (update_registry(name="plant", log_level="Debug"), True),
    ):
        before = plane.state()
        fields = {**{f: getattr(command, f) for f in command.__struct_fields__}, "dry_run": dry}
        answer = plane.do(type(command)(**fields))
        assert plane.state() == before
        assert plane.do(command) == answer
        assert answer.changed


def test_a_managed_node_takes_no_operators_commands(plane: Plane) -> None:
    plane.do(registry("plant"))
    plane.do(c.Receive(identity=Identity(name="plant", instance="i")))
    for command in (
        registry("other"),
        update_registry(name="plant"),
        c.DeleteRegistry(name="plant"),
        c.Deactivate(name="plant"),
        c.Resync(name="plant"),
        c.UpdatePermissions(name="plant", add=("a",)),
        c.CreateScopeMap(name="mymap", actions=()),
        c.UpdateScopeMap(name="plant"),
        c.DeleteScopeMap(name="plant"),
        c.CreateToken(name="token"),
        c.UpdateToken(name="plant"),
        c.DeleteToken(name="plant"),
        c.GenerateCredentials(token="plant"),
        c.DeleteCredentials(token="plant"),
    ):
        refused(plane, command, ControlConflict, "managed by its parent; change it there")


def test_a_command_that_is_none_is_refused_by_field() -> None:
    for raw, text in (
        (b"", "no command"),
        (b'{"command":"Format"}', "Format"),
        (b'{"command":"Deactivate"}', "name"),
        (b'{"command":"Deactivate","name":1}', "name"),
        (b'{"command":"Deactivate","name":"plant","force":true}', "force"),
        (b'{"command":"CreateRegistry","name":"plant","properties":{"mode":"Neither"}}', "mode"),
    ):
        with pytest.raises(ControlInvalid, match=text):
            c.decode_command(raw)


def test_every_refusal_names_a_status() -> None:
    assert {kind.__name__ for kind in ControlMistake.__subclasses__()} == {
        "ControlInvalid",
        "ControlConflict",
        "ControlGone",
        "ControlUnknown",
    }
