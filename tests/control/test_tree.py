"""The tree of connected registries: exact propagation, and no sequence of commands that breaks a rule."""

from __future__ import annotations

import pytest
from holdfast.control import command as c
from holdfast.control.draft import LINK, decoded, links_of
from holdfast.errors import ControlConflict, ControlMistake, PreconditionFailed
from holdfast.resources.actions import OF_MODE, READ_RIGHTS, RIGHTS, Grants, of_gateway, of_repository, parse
from holdfast.resources.model import REGISTRY, SCOPE_MAP, TOKEN, ConnectedRegistry, ScopeMap, Token, name_in
from holdfast.resources.system_scope_maps import SYSTEM_SCOPE_MAPS
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from support.control import Plane, create_registry, registry, update_registry


@pytest.fixture
def tree() -> Plane:
    """plant > hall1 > line1, line2; plant > hall2."""
    plane = Plane()
    plane.do(registry("plant", "base", mode="ReadWrite"))
    plane.do(registry("hall1", "base", parent="plant"))
    plane.do(registry("hall2", "base", parent="plant", mode="ReadWrite"))
    plane.do(registry("line1", "base", parent="hall1"))
    plane.do(registry("line2", "base", parent="hall1"))
    return plane


def held(plane: Plane, name: str, repository: str) -> set[str]:
    """The rights that a registry's sync token has on a repository, by a rule of its own name."""
    found = map(parse, plane.scope(name).actions)
    return {action.right for action in found if (action.noun, action.name) == ("repositories", repository)}


def test_what_is_added_is_added_to_every_ancestor_with_the_rights_of_its_mode(tree: Plane) -> None:
    result = tree.do(c.UpdatePermissions(name="line1", add=("tool",)))
    assert {d.name for d in result.difference} == {"line1", "hall1", "plant"}
    read = set(OF_MODE["ReadOnly"])
    assert [held(tree, name, "tool") for name in ("line1", "hall1", "plant")] == [read, read, read]
    assert held(tree, "line2", "tool") == held(tree, "hall2", "tool") == set()
    tree.do(c.UpdatePermissions(name="hall2", add=("tool",)))
    assert held(tree, "plant", "tool") == set(RIGHTS)


def test_what_is_removed_is_removed_from_every_descendant_of_every_branch(tree: Plane) -> None:
    """All branches: the original's client cleans up only the last child's (references.md 1.8)."""
    result = tree.do(c.UpdatePermissions(name="plant", remove=("base",)))
    assert {d.name for d in result.difference} == {"plant", "hall1", "hall2", "line1", "line2"}
    assert all(held(tree, name, "base") == set() for name in ("plant", "hall1", "hall2", "line1", "line2"))


def test_what_is_removed_below_stays_above(tree: Plane) -> None:
    tree.do(c.UpdatePermissions(name="hall1", remove=("base",)))
    assert held(tree, "line1", "base") == held(tree, "line2", "base") == set()
    assert held(tree, "plant", "base") == set(RIGHTS)


def test_a_new_registry_gives_every_ancestor_its_gateway(tree: Plane) -> None:
    for name in ("hall1", "plant"):
        assert set(of_gateway("line1")) <= set(tree.scope(name).actions)
    assert not set(of_gateway("line1")) & set(tree.scope("hall2").actions)


def test_a_pattern_that_goes_takes_what_it_covered_below(tree: Plane) -> None:
    tree.do(c.UpdatePermissions(name="hall1", add=("team/*",)))
    tree.do(c.UpdatePermissions(name="line1", add=("team/app", "team/x/y")))
    assert held(tree, "hall1", "team/app") == set()  # covered already
    tree.do(c.UpdatePermissions(name="hall1", add=("team/app",), remove=("team/*",)))
    assert held(tree, "line1", "team/app") == set(OF_MODE["ReadOnly"])
    assert held(tree, "line1", "team/x/y") == set()


def test_a_removal_that_a_pattern_makes_void_is_refused(tree: Plane) -> None:
    tree.do(c.UpdatePermissions(name="plant", add=("team/*",)))
    with pytest.raises(ControlConflict, match="team/app would still be synchronised by plant"):
        tree.do(c.UpdatePermissions(name="plant", remove=("team/app",)))


def test_both_at_once_and_neither(tree: Plane) -> None:
    tree.do(c.UpdatePermissions(name="plant", add=("new",), remove=("base",)))
    assert held(tree, "plant", "new") == set(RIGHTS)
    for command, text in (
        (c.UpdatePermissions(name="plant"), "both empty"),
        (c.UpdatePermissions(name="plant", add=("A",), remove=("a",)), "Update ambiguity. Repositories"),
    ):
        with pytest.raises(ControlMistake, match=text):
            tree.do(command)


def test_below_read_only_all_are(tree: Plane) -> None:
    with pytest.raises(
        ControlConflict, match="mode ReadWrite below hall1, which is ReadOnly; allowed: ReadOnly"
    ):
        tree.do(registry("line3", parent="hall1", mode="ReadWrite"))
    tree.do(registry("line3", parent="hall2", mode="ReadWrite"))


def test_scope_maps_of_the_tree_are_not_bent_by_hand(tree: Plane) -> None:
    gateway, base = of_gateway("line1")[:1], of_repository("base", RIGHTS)
    extra = c.UpdateScopeMap(name="line1", add=tuple(of_repository("extra", ("content/read",))))
    for command in (
        c.UpdateScopeMap(name="hall1", remove=tuple(base)),  # line1 needs it
        c.UpdateScopeMap(name="plant", remove=tuple(gateway)),  # hall1 relays for line1
        c.UpdateScopeMap(name="line1", remove=tuple(gateway)),  # its own
        c.UpdateScopeMap(name="plant", actions=()),
        extra,  # hall1 has it not
    ):
        before = tree.state()
        with pytest.raises(ControlConflict, match="permissions update, which does so for the whole tree"):
            tree.do(command)
        assert tree.state() == before
    tree.do(c.UpdateScopeMap(name="plant", add=extra.add))
    tree.do(c.UpdateScopeMap(name="hall1", add=extra.add))
    tree.do(extra)


def test_a_tree_of_any_depth() -> None:
    plane = Plane()
    names = [f"node{n}" for n in range(40)]
    for name, parent in zip(names, [None, *names], strict=False):
        plane.do(registry(name, "base", parent=parent))
    plane.do(c.UpdatePermissions(name=names[-1], add=("deep",)))
    assert held(plane, "node0", "deep")
    plane.do(c.UpdatePermissions(name="node0", remove=("deep", "base")))
    assert held(plane, names[-1], "base") == set()
    assert plane.below("node0") == names[1:]
    for name in reversed(names):
        plane.do(c.DeleteRegistry(name=name, cleanup=True))
    assert plane.state() == {}


# --- any sequence of commands ------------------------------------------------------------------------------

REGISTRIES = ["plant", "hall1", "hall2", "line1", "line2", "line3"]
TOKENS = ["reader", "writer", "other", *REGISTRIES[:2]]
MAPS = [
    "mymap",
    "reader-scope-map",
    "writer-scope-map",
    *REGISTRIES,
    "_repositories_pull",
    "_repositories_push",
]
PATTERNS = ["a", "a/b", "a/*", "c", "*"]
CONCRETE = ["a", "a/b", "a/b/c", "c", "d"]

registries, tokens, maps = st.sampled_from(REGISTRIES), st.sampled_from(TOKENS), st.sampled_from(MAPS)
some_patterns = st.lists(st.sampled_from(PATTERNS), max_size=2, unique=True).map(tuple)
modes = st.sampled_from(["ReadOnly", "ReadWrite"])
some_actions = st.lists(
    st.one_of(
        st.builds("repositories/{}/{}".format, st.sampled_from(PATTERNS), st.sampled_from(RIGHTS)),
        st.builds("gateway/{}/config/read".format, registries),
    ),
    max_size=4,
).map(tuple)


class AnySequence(RuleBasedStateMachine):
    """Commands in any order over a few names. What is refused must change nothing; what is taken must leave every
    rule kept, as it is read here once more from the resources alone."""

    @initialize(tight=st.booleans())
    def start(self, tight: bool) -> None:
        loose = {
            "permissions": 30,
            "client_tokens": 3,
            "tokens": 9,
            "scope_maps": 9,
            "connected_registries": 6,
        }
        limits = {
            "permissions": 7,
            "client_tokens": 1,
            "tokens": 3,
            "scope_maps": 3,
            "connected_registries": 2,
        }
        self.plane = Plane(**(limits if tight else loose))

    def do(self, command: c.Command) -> None:
        before = self.plane.state()
        try:
            self.plane.do(command)
        except (ControlMistake, PreconditionFailed):
            assert self.plane.state() == before

    @rule(name=registries, parent=st.none() | registries, mode=modes, repositories=some_patterns)
    def create(self, name: str, parent: str | None, mode: str, repositories: tuple[str, ...]) -> None:
        self.do(registry(name, *repositories, parent=parent, mode=mode))

    @rule(name=registries, parent=st.none() | registries, token=tokens)
    def create_with_token(self, name: str, parent: str | None, token: str) -> None:
        self.do(create_registry(name=name, mode="ReadOnly", parent=parent, sync_token=token))

    @rule(name=registries, cleanup=st.booleans())
    def delete(self, name: str, cleanup: bool) -> None:
        self.do(c.DeleteRegistry(name=name, cleanup=cleanup))

    @rule(name=registries, add=some_patterns, remove=some_patterns)
    def permit(self, name: str, add: tuple[str, ...], remove: tuple[str, ...]) -> None:
        self.do(c.UpdatePermissions(name=name, add=add, remove=remove))

    @rule(name=registries, add=st.lists(tokens, max_size=2), remove=st.lists(tokens, max_size=1))
    def list_clients(self, name: str, add: list[str], remove: list[str]) -> None:
        self.do(update_registry(name=name, add_client_tokens=tuple(add), remove_client_tokens=tuple(remove)))

    @rule(name=tokens, scope=maps, given=st.none() | some_actions)
    def create_token(self, name: str, scope: str, given: tuple[str, ...] | None) -> None:
        self.do(c.CreateToken(name=name, scope_map=scope if given is None else None, actions=given))

    @rule(name=tokens, scope=maps)
    def update_token(self, name: str, scope: str) -> None:
        self.do(c.UpdateToken(name=name, scope_map=scope))

    @rule(name=tokens)
    def delete_token(self, name: str) -> None:
        self.do(c.DeleteToken(name=name))

    @rule(name=maps, given=some_actions)
    def create_map(self, name: str, given: tuple[str, ...]) -> None:
        self.do(c.CreateScopeMap(name=name, actions=given))

    @rule(name=maps, add=some_actions, remove=some_actions)
    def update_map(self, name: str, add: tuple[str, ...], remove: tuple[str, ...]) -> None:
        self.do(c.UpdateScopeMap(name=name, add=add, remove=remove))

    @rule(name=maps)
    def delete_map(self, name: str) -> None:
        self.do(c.DeleteScopeMap(name=name))

    # what holds

    def read(self) -> tuple[dict[str, ConnectedRegistry], dict[str, Token], dict[str, ScopeMap]]:
        found: dict[str, dict[str, object]] = {REGISTRY: {}, TOKEN: {}, SCOPE_MAP: {**SYSTEM_SCOPE_MAPS}}
        for (kind, name), row in self.plane.view.rows.items():
            if kind in found:
                found[kind][name] = decoded(kind, row.body)
        return found[REGISTRY], found[TOKEN], found[SCOPE_MAP]  # type: ignore[return-value]

    @invariant()
    def every_id_leads_somewhere(self) -> None:
        registries, tokens, maps = self.read()
        assert all(name_in(token.scope_map_id).lower() in maps for token in tokens.values())
        for one in registries.values():
            ids = [one.parent.sync_properties.token_id, *one.client_token_ids]
            assert all(name_in(id).lower() in tokens for id in ids)
            assert one.parent.id is None or name_in(one.parent.id).lower() in registries

    @invariant()
    def every_ancestor_synchronises_what_is_below_it(self) -> None:
        registries, tokens, maps = self.read()

        def grants(one: ConnectedRegistry) -> Grants:
            token = tokens[name_in(one.parent.sync_properties.token_id).lower()]
            return Grants.of(maps[name_in(token.scope_map_id).lower()].actions)

        for one in registries.values():
            mine, above, steps = grants(one), one, 0
            assert all(mine.gateway(one.name, parse(text).right) for text in of_gateway(one.name))
            while above.parent.id is not None:
                above, steps = registries[name_in(above.parent.id).lower()], steps + 1
                assert steps <= len(registries), "a cycle"
                theirs = grants(above)
                for repository in CONCRETE:
                    for right in RIGHTS:
                        assert theirs.allows(repository, right) or not mine.allows(repository, right)
                assert all(theirs.gateway(one.name, parse(text).right) for text in of_gateway(one.name))
                assert above.mode == "ReadWrite" or one.mode == "ReadOnly"

    @invariant()
    def client_tokens_of_a_read_only_registry_only_read(self) -> None:
        registries, tokens, maps = self.read()
        for one in registries.values():
            for id in one.client_token_ids if one.mode == "ReadOnly" else ():
                scope = maps[name_in(tokens[name_in(id).lower()].scope_map_id).lower()]
                found = [parse(text) for text in scope.actions]
                assert all(a.right in READ_RIGHTS for a in found if a.noun == "repositories")

    @invariant()
    def a_sync_token_and_its_scope_map_are_one_registrys(self) -> None:
        registries, tokens, _ = self.read()
        synced = [name_in(one.parent.sync_properties.token_id).lower() for one in registries.values()]
        assert len(synced) == len(set(synced))
        users = [name_in(token.scope_map_id).lower() for token in tokens.values()]
        assert all(users.count(name_in(tokens[name].scope_map_id).lower()) == 1 for name in synced)
        assert not {name_in(id).lower() for one in registries.values() for id in one.client_token_ids} & {
            *synced
        }

    @invariant()
    def no_limit_is_exceeded(self) -> None:
        registries, tokens, maps = self.read()
        limits = self.plane.limits
        assert len(registries) <= limits.connected_registries
        assert len(tokens) <= limits.tokens
        assert len(maps) - len(SYSTEM_SCOPE_MAPS) <= limits.scope_maps
        assert all(len(one.client_token_ids) <= limits.client_tokens for one in registries.values())
        for scope in maps.values():
            assert sum(a.startswith("repositories/") for a in scope.actions) <= limits.permissions

    @invariant()
    def the_links_are_those_of_the_resources(self) -> None:
        registries, tokens, _ = self.read()
        wanted = {link for value in [*registries.values(), *tokens.values()] for link in links_of(value)}
        assert {name for kind, name in self.plane.view.rows if kind == LINK} == wanted


TestAnySequence = AnySequence.TestCase
TestAnySequence.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
