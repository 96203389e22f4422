"""When garbage is collected and what may go then, by literal times: 2027-01-15 08:00 UTC is 1_800_000_000."""

from __future__ import annotations

from math import inf

import pytest
from holdfast.config import CollectionSection, ConfigInvalid
from holdfast.config_file import from_table
from holdfast.resources.model import GarbageCollection
from holdfast.storage.collection_schedule import found_for, next_run, rule_of, settings_of
from holdfast_core.record import CollectionRule

NOW = 1_800_000_000.0
MIDNIGHT = 1_800_057_600.0
DAY = 86_400.0


def test_without_a_word_it_is_every_midnight() -> None:
    config = from_table({}).garbage_collection
    assert (config.enabled, config.schedule, config.lease) == (True, "0 0 * * *", "P1D")
    assert (config.untagged_after, config.cached_after) == ("", "P1D")
    assert next_run(settings_of(config, None), NOW, NOW) == MIDNIGHT


def test_what_was_missed_is_made_up_for_once() -> None:
    settings = settings_of(CollectionSection(), None)
    assert next_run(settings, NOW, NOW + 10 * DAY) == MIDNIGHT, "due since then"
    assert next_run(settings, NOW + 10 * DAY, NOW + 10 * DAY) == MIDNIGHT + 10 * DAY


def test_a_clock_that_was_wrong_stops_nothing() -> None:
    assert next_run(settings_of(CollectionSection(), None), NOW + 1000 * DAY, NOW) == MIDNIGHT


def test_switched_off_it_never_comes() -> None:
    assert next_run(settings_of(CollectionSection(enabled=False), None), NOW, NOW + 99 * DAY) == inf


def test_the_word_of_the_parent_counts() -> None:
    hourly = GarbageCollection(enabled=True, schedule="30 * * * *")
    assert settings_of(CollectionSection(enabled=False), hourly) == hourly
    assert next_run(hourly, NOW, NOW) == NOW + 1800
    off = GarbageCollection(enabled=False, schedule="30 * * * *")
    assert next_run(settings_of(CollectionSection(), off), NOW, NOW) == inf


def test_leases_become_moments() -> None:
    assert rule_of(CollectionSection(), NOW) == CollectionRule(NOW - DAY, None, NOW - DAY, deleted_before=NOW)
    config = CollectionSection(lease="PT1H", untagged_after="P7D", cached_after="")
    assert rule_of(config, NOW) == CollectionRule(NOW - 3600, NOW - 7 * DAY, None, deleted_before=NOW)


def test_what_was_deleted_is_kept_so_long_with_the_manifests_of_its_tags() -> None:
    config = CollectionSection(untagged_after="P1D", deleted_after="P7D")
    rule = rule_of(config, NOW)
    assert (rule.manifests_before, rule.deleted_before) == (NOW - 7 * DAY, NOW - 7 * DAY)
    long = CollectionSection(untagged_after="P30D", deleted_after="P7D")
    assert rule_of(long, NOW).manifests_before == NOW - 30 * DAY
    assert rule_of(CollectionSection(deleted_after="P7D"), NOW).manifests_before is None
    assert rule_of(config, NOW, is_pressed=True).deleted_before == NOW - 600
    assert (
        from_table({"garbage_collection": {"deleted_after": "P90D"}}).garbage_collection.deleted_after
        == "P90D"
    )


def test_what_synchronisation_is_bringing_stays() -> None:
    config = CollectionSection()
    before = rule_of(config, NOW, NOW - 3 * DAY).cached_before
    assert before is not None
    assert NOW - 3 * DAY - 1 < before < NOW - 3 * DAY, "what came at that very moment stays"
    assert rule_of(config, NOW, NOW - 3600).cached_before == NOW - DAY
    assert rule_of(config, NOW, -inf) == CollectionRule(NOW - DAY, None, None, deleted_before=NOW)


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ({"schedule": "0 0 31 2 *"}, "garbage_collection.schedule: the schedule '0 0 31 2 \\*' "),
        ({"schedule": "daily"}, "garbage_collection.schedule: the schedule 'daily' is no cron expression"),
        ({"lease": ""}, "garbage_collection.lease: found ''; allowed: an ISO 8601 duration"),
        ({"lease": "PT0S"}, "garbage_collection.lease: found 'PT0S'; allowed"),
        ({"untagged_after": "7 days"}, "garbage_collection.untagged_after: found '7 days'; allowed"),
        ({"cached_after": "P1M"}, "garbage_collection.cached_after: found 'P1M'; allowed"),
        ({"deleted_after": "PT23H"}, "garbage_collection.deleted_after: found 'PT23H'; allowed: P1D to P90D"),
        ({"deleted_after": "P91D"}, "garbage_collection.deleted_after: found 'P91D'; allowed: P1D to P90D"),
        ({"deleted_after": "7"}, "garbage_collection.deleted_after: found '7'; allowed: P1D to P90D"),
    ],
)
def test_a_setting_that_cannot_be_read_is_refused_at_the_start(table: dict[str, str], sentence: str) -> None:
    with pytest.raises(ConfigInvalid, match=sentence):
        from_table({"garbage_collection": table})


def test_beside_a_connection_string_the_parent_decides() -> None:
    text = "ConnectedRegistryName=plant;SyncTokenName=plant;SyncTokenPassword=x;ParentGatewayEndpoint=a:1;"
    gateway = {"connection_string": text + "ParentEndpointProtocol=http"}
    with pytest.raises(ConfigInvalid, match="garbage_collection: found enabled or schedule beside a conn"):
        from_table({"gateway": gateway, "garbage_collection": {"schedule": "0 3 * * *"}})
    assert from_table({"gateway": gateway, "garbage_collection": {"lease": "PT2H"}})


def test_who_finds_a_blob_has_an_hour_for_its_manifest_or_half_a_short_lease() -> None:
    assert found_for(CollectionSection()) == 23 * 3600
    assert found_for(CollectionSection(lease="PT2H", cached_after="P1D")) == 3600
    assert found_for(CollectionSection(lease="P1D", cached_after="PT20M")) == 600
    assert found_for(CollectionSection(lease="", cached_after="")) == inf


def test_on_a_full_disk_little_is_waited_for() -> None:
    """No push can be completed there; what has no name and was used a moment ago goes."""
    pressed = rule_of(CollectionSection(untagged_after="P7D"), NOW, is_pressed=True)
    assert pressed == CollectionRule(NOW - 600, NOW - 7 * DAY, NOW, deleted_before=NOW)
    short = CollectionSection(lease="PT1M", cached_after="")
    assert rule_of(short, NOW, is_pressed=True) == CollectionRule(NOW - 60, None, None, deleted_before=NOW)
    assert rule_of(CollectionSection(), NOW, -inf, is_pressed=True).cached_before is None


def test_nothing_goes_by_a_time_that_is_longer_than_the_clock_was_steady() -> None:
    config = CollectionSection(lease="PT1H", untagged_after="P7D", cached_after="P1D", deleted_after="P1D")
    assert rule_of(config, NOW, steady=3599.0) == CollectionRule(None, None, None, None)
    assert rule_of(config, NOW, steady=DAY) == CollectionRule(NOW - 3600, None, NOW - DAY, NOW - DAY)
    assert rule_of(config, NOW, steady=7 * DAY).manifests_before == NOW - 7 * DAY
    pressed = rule_of(config, NOW, is_pressed=True, steady=599.0)
    assert pressed == CollectionRule(None, None, NOW, None)
    assert rule_of(config, NOW, is_pressed=True, steady=600.0).blobs_before == NOW - 600
