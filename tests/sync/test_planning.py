"""A plan says what it knows, and what it does not."""

from __future__ import annotations

from pathlib import Path

import pytest
from holdfast.gateway.agent_state import AccessRefused, Deactivated
from holdfast.testing.scripted_parent import ScriptedParent
from support.fills import until
from support.managed import ScriptedLog, configured, managed
from support.replicas import idle, replica_of

pytestmark = pytest.mark.loop("asyncio")

APP = configured("app")


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (Deactivated(), "the operator deactivated this instance"),
        (AccessRefused("the parent refuses the sync token (401)"), "the parent refuses the sync token (401)"),
    ],
)
async def test_case_trust_18_a_plan_of_a_node_that_is_not_active_does_not_say_that_it_fits(
    tmp_path: Path, answer: Deactivated | AccessRefused, why: str
) -> None:
    async with ScriptedParent() as parent:
        log = ScriptedLog(parent)
        async with managed(tmp_path, log, APP) as keeper:
            await until(lambda: replica_of(keeper).record.result.sync_state == "Succeeded")
            await idle(keeper)
            assert (await replica_of(keeper).plan()).verdict.startswith("it fits")
            log.answers += [answer] * 20
            plan = await replica_of(keeper).plan()
            assert (plan.fits, plan.verdict) == (
                None,
                "not known: parent default did not answer",
            )
            assert why in plan.words
