"""Scope maps: what spends a permission."""

from __future__ import annotations

from holdfast.control import command as c
from support.control import Plane, create_registry


def test_case_trust_18_what_a_pattern_covers_spends_no_permission() -> None:
    plane = Plane()
    below, web = "repositories/apps/*/content/read", "repositories/apps/web/content/read"
    plane.do(c.CreateScopeMap(name="mymap", actions=(below,)))
    before = plane.state()
    plane.do(c.UpdateScopeMap(name="mymap", add=(web, web.upper())))
    assert plane.state() == before
    other, write = "repositories/other/*/content/read", "repositories/apps/web/content/write"
    several = (write, other, "repositories/other/x/content/read", "repositories/other/x/*/content/read")
    plane.do(c.UpdateScopeMap(name="mymap", add=several))
    assert set(plane.scope("mymap").actions) >= {below, write, other}
    assert "repositories/other/x/content/read" not in plane.scope("mymap").actions
    # where the pattern goes with the same command, what it covered is granted
    plane.do(c.UpdateScopeMap(name="mymap", add=(web,), remove=(below,)))
    assert web in plane.scope("mymap").actions
    plane.do(create_registry(name="plant", mode="ReadOnly", repositories=("team/*",)))
    before = plane.state()
    plane.do(c.UpdatePermissions(name="plant", add=("team/app",)))
    assert plane.state() == before
