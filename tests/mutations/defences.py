"""For each threat of `support.threats` a place in the source that stands against it, and how the source would look
without it. `old` is found in the file once; the tests carry the number of the threat, and fail when it is replaced by
`new`."""

from __future__ import annotations

from typing import NamedTuple


class Defence(NamedTuple):
    """What to take out of a file, and the tests that miss it. A rule that nothing does is shown by doing it once."""

    file: str
    old: str
    new: str
    tests: tuple[str, ...]


def _out(file: str, old: str, new: str, *tests: str) -> Defence:
    return Defence(f"proxy/holdfast/{file}", old, new, tests)


DEFENCES: dict[int, tuple[Defence, ...]] = {
    1: (
        _out(
            "http/challenge.py",
            "if origin(url) != self.home and origin(url) not in self.listed:",
            "if False:",
            "test_s1_a_realm_elsewhere_gets_nothing",
        ),
    ),
    2: (
        _out(
            "http/address.py",
            "return configured or not any(address in network for network in PRIVATE)",
            "return True",
            "test_s2_addresses",
            "test_s2_a_name_that_resolves_inside_is_refused",
        ),
    ),
    3: (
        _out(
            "http/redirect.py",
            "    if hop.home:\n        return dict(headers)",
            "    if True:\n        return dict(headers)",
            "test_s3_the_origin_decides_what_goes_along",
        ),
    ),
    4: (
        _out(
            "http/endpoint.py",
            '        if origin(url) != origin(self.base):\n            raise ParentBroken(f"the parent wants',
            '        if False:\n            raise ParentBroken(f"the parent wants',
            "test_s04_an_upload_never_goes_on_at_another_origin",
        ),
    ),
    5: (
        _out(
            "oci/manifest.py",
            "    notes, platform = _annotations(entry, where)",
            "    import socket\n\n"
            "    for url in urls:\n"
            "        host, _, port = url.split('/')[2].partition(':')\n"
            "        socket.create_connection((host, int(port or 80))).close()\n"
            "    notes, platform = _annotations(entry, where)",
            "test_s05_urls_of_a_foreign_layer_are_never_fetched",
        ),
    ),
    6: (
        _out(
            "http/redirect.py",
            "return f\"{url.scheme}://{(url.raw_host or '').lower()}:{url.port}\"",
            "return f\"{url.scheme}://{(url.raw_host or '').lower()}\"",
            "test_s06_a_host_that_looks_like_the_parent_gets_nothing",
        ),
    ),
    7: (
        _out(
            "http/credentials.py",
            "        return StaticLogin(settings.username, settings.password)\n    return Anonymous()",
            "        globals()['_LAST'] = StaticLogin(settings.username, settings.password)\n"
            "    return globals().get('_LAST') or Anonymous()",
            "test_s07_credentials_belong_to_one_parent_and_go_with_it",
        ),
    ),
    8: (
        _out(
            "http/redirect.py",
            'if hop.url.scheme == "https" and url.scheme != "https":',
            "if False:",
            "test_s8_https_is_never_left",
        ),
    ),
    9: (
        _out(
            "login/realm.py",
            "if not self._proxies or address not in self._proxies:",
            "if False:",
            "test_s09_forwarded_headers_count_from_trusted_proxies_alone",
        ),
    ),
    10: (
        _out(
            "endpoint/dispatch.py",
            "    authorization.require(node, request, caller)\n",
            "",
            "test_s10_every_request_is_authorised_before_anything_is_looked_up",
        ),
    ),
    11: (
        Defence(
            "core/holdfast_core/facets/stored_blobs.py",
            "return None if row is None else layout.decode_blob(digest, row[1])",
            "return self.anywhere(digest)",
            ("test_s11_a_digest_known_elsewhere_is_unknown_here",),
        ),
    ),
    12: (
        Defence(
            "core/holdfast_core/facets/stored_blobs.py",
            "return None if row is None else layout.decode_blob(digest, row[1])",
            "kept = self.__dict__.setdefault('kept', {})\n"
            "        if row is not None:\n"
            "            kept[repository, digest] = layout.decode_blob(digest, row[1])\n"
            "        return kept.get((repository, digest))",
            (
                "test_s12_what_was_deleted_is_gone_for_the_next_request",
                "test_s12_a_token_reads_nothing_that_was_deleted",
            ),
        ),
    ),
    13: (
        _out(
            "endpoint/upload.py",
            '    if not caller.may("content/read", name):\n        return False\n',
            "",
            "test_s13_mount_identical_202",
        ),
    ),
    14: (
        _out(
            "endpoint/authorization.py",
            "return caller.may(right.value, name)",
            'return caller.may(right.value, name) or caller.may("content/read", name)',
            "test_s14_who_pulls_owns_nothing",
        ),
    ),
    15: (
        _out(
            "endpoint/authorization.py",
            '(Noun.MANIFEST, "DELETE"): Right.CONTENT_DELETE',
            '(Noun.MANIFEST, "DELETE"): Right.CONTENT_WRITE',
            "test_s15_each_right_opens_its_own_rows_and_no_other",
        ),
        _out(
            "endpoint/authorization.py",
            '(Noun.BLOB, "DELETE"): Right.CONTENT_DELETE',
            '(Noun.BLOB, "DELETE"): Right.CONTENT_WRITE',
            "test_s15_each_right_opens_its_own_rows_and_no_other",
        ),
        _out(
            "endpoint/authorization.py",
            "return Right.CONTENT_DELETE, Right.METADATA_WRITE",
            "return Right.CONTENT_DELETE, Right.METADATA_WRITE, Right.CONTENT_WRITE",
            "test_s15_each_right_opens_its_own_rows_and_no_other",
        ),
    ),
    16: (
        _out(
            "keeper/pushes.py",
            "                    require(condition, present(self._store, repository, condition[0]))\n",
            "",
            "test_s16_of_a_hundred_who_create_a_tag_one_does",
        ),
        Defence(
            "core/holdfast_core/changes/client_changes.py",
            'targets = [LockTarget("tag", name) for name in tags]\n    if digest',
            "targets: list[LockTarget] = []\n    if digest",
            ("test_s16_a_locked_tag_is_not_moved_by_a_push_under_another_name",),
        ),
    ),
    17: (
        Defence(
            "core/holdfast_core/write_access.py",
            'if self._mode == "ReadOnly":',
            "if False:",
            ("test_s17_read_only_refuses_on_the_call_itself",),
        ),
    ),
    18: (
        _out(
            "endpoint/upload.py",
            "of = (id, self.scope.key, self.request.caller.name.lower())",
            'of = (id, self.scope.key, "")',
            "test_s18_an_upload_belongs_to_who_began_it",
        ),
        _out(
            "endpoint/upload.py",
            "of = (id, self.scope.key, self.request.caller.name.lower())",
            'of = (id, "", self.request.caller.name.lower())',
            "test_s18_an_upload_belongs_to_its_repository",
        ),
    ),
    19: (
        _out(
            "endpoint/lists.py",
            "tuple(filter(caller.lists, page.names))",
            "page.names",
            "test_s19_the_catalog_shows_what_its_asker_may_pull_and_list",
        ),
        _out(
            "login/caller.py",
            "        if right in self.rights:\n            return True",
            "        if right:\n            return True",
            "test_s19_a_stranger_crawls_in_vain",
        ),
    ),
    20: (
        _out(
            "wire/query.py",
            'if "%2f" in lowered or "%5c" in lowered or "%00" in lowered:',
            "if False:",
            "test_s20_no_spelling_reaches_what_its_canonical_form_does_not",
        ),
    ),
    21: (
        _out(
            "admin/auth.py",
            "        if not is_right:\n",
            "        if said and not is_right:\n",
            "test_s21_every_operation_wants_credentials",
        ),
    ),
    22: (
        _out(
            "login/access.py",
            "if caller is None or kept.revision != revision or caller.until <= now:",
            "if caller is None:",
            "test_s22_revocation_reaches_tokens_already_issued",
        ),
    ),
    23: (
        _out(
            "resources/actions.py",
            'table = self._below if name.endswith("/*") else self._exact',
            "table = self._below",
            "test_s23_the_matcher_is_the_naive_reading",
        ),
    ),
    24: (
        _out(
            "admin/auth.py",
            "        _refuse_foreign_pages(request)\n",
            "",
            "test_s24_a_page_of_another_site_cannot_use_the_operators_browser",
        ),
    ),
    25: (
        _out(
            "admin/listener.py",
            '    ("X-Content-Type-Options", "nosniff"),\n',
            "",
            "test_s25_what_was_sent_comes_back_as_json_only",
        ),
    ),
    26: (
        _out(
            "endpoint/dispatch.py",
            "    noun = request.route.noun\n    plan = ",
            '    if (place := request.parameter("next")) is not None:\n'
            '        return Reply(302, [("Location", place)])\n'
            "    noun = request.route.noun\n    plan = ",
            "test_s26_nothing_answers_with_a_redirect",
        ),
    ),
    27: (
        _out(
            "login/access_token.py",
            ' or not text.startswith(f"{self._head}."):',
            ":",
            "test_s27_a_head_that_is_not_ours_is_not_read",
        ),
    ),
    28: (
        _out(
            "login/access_token.py",
            "                options={\n",
            '                options={\n                    "verify_signature": False,\n',
            "test_s28_no_other_algorithm_and_not_the_public_key_as_a_secret",
            "test_s28_a_flipped_byte_anywhere_in_a_token_fails",
        ),
    ),
    29: (
        _out(
            "login/access_token.py",
            "                issuer=self.node,\n",
            "",
            "test_s29_a_token_is_for_one_node_one_door_and_one_time",
        ),
    ),
    30: (
        _out(
            "login/caller.py",
            "tuple(action for action in actions if caller.may(token_scope.RIGHTS[action][0], scope.name))",
            "tuple(actions)",
            "test_s30_what_is_granted_is_never_more_than_the_map",
        ),
    ),
    31: (
        _out(
            "admin/auth.py",
            "if problem := weakness(kept.username, kept.password):",
            "if problem := None:",
            "test_s31_an_example_secret_is_refused",
        ),
    ),
    32: (
        _out(
            "login/password_check.py",
            "for _ in range(self._rounds[1] - len(slow)):",
            "for _ in range(0):",
            "test_s32_where_people_chose_passwords_every_failure_costs_as_much",
        ),
    ),
    33: (
        _out(
            "resources/password.py",
            "    if not 0 < len(raw) <= LONGEST_BYTES:\n        return False\n    if not is_slow",
            "    raw = raw[:LONGEST_BYTES]\n    if not is_slow",
            "test_s33_every_byte_of_a_password_counts",
        ),
    ),
    34: (
        _out(
            "login/authorization_header.py",
            "if len(text) > LONGEST:",
            "if False:",
            "test_s34_a_header_is_8_kib_at_most",
        ),
        _out(
            "login/access_token.py",
            'if len(text) > LONGEST or text.count(".") != 2 or',
            'if text.count(".") != 2 or',
            "test_s34_a_bomb_costs_nothing",
        ),
        _out(
            "login/access_token.py",
            'if len(text) > LONGEST or text.count(".") != 2 or',
            "if len(text) > LONGEST or",
            "test_s34_a_bomb_costs_nothing",
        ),
    ),
    35: (
        _out(
            "server/connection.py",
            "        request.path,\n",
            "        f'{request.path}{request.query}',\n",
            "test_s35_secrets_never_reach_the_log",
        ),
        _out(
            "admin/auth.py",
            "return f\"Operator({self.username!r}, '***')\"",
            'return f"Operator({self.username!r}, {self.password!r})"',
            "test_s35_its_text_tells_no_password",
        ),
    ),
    36: (
        _out(
            "admin/auth.py",
            "os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)",
            "os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)",
            "test_s36_the_secret_is_its_owners_alone",
        ),
        _out(
            "admin/auth.py",
            "            _require_private(file, os.fstat(source.fileno()))\n",
            "",
            "test_s36_a_secret_that_others_read_is_refused",
        ),
    ),
    37: (
        _out(
            "oci/names.py",
            "return len(text) <= NAME_LENGTH and _NAME.fullmatch(text) is not None",
            "return True",
            "test_s37_case_05_06_09_10_names_outside_the_grammar",
        ),
        Defence(
            "core/holdfast_core/digest.pyx",
            "if high < 0 or low < 0:",
            "if high < -1:",
            ("test_s37_case_01_02_03_digests_outside_the_grammar",),
        ),
    ),
    38: (
        _out(
            "endpoint/blobs.py",
            "self._verified = holdback == 0",
            "self._verified = True",
            "test_s38_the_tail_of_a_whole_body_waits_for_the_digest",
        ),
        _out(
            "fill/fill.py",
            "if self.received.frontier.digest() != self.digest:",
            "if False:",
            "test_s38_a_wrong_digest_never_completes_a_body_and_is_never_stored",
            "test_s38_wrong_bytes_are_held_back_without_a_store_too",
        ),
        _out(
            "parent/client.py",
            "if _known_digest(expected) and actual != expected:",
            "if False:",
            "test_s38_wrong_byte_in_a_manifest",
        ),
    ),
    39: (
        _out(
            "oci/manifest.py",
            'if "layers" in document or "config" in document:',
            "if False:",
            "test_s39_s40_what_clients_could_read_differently_is_refused",
        ),
        _out(
            "oci/manifest.py",
            "if own and own != media_type:",
            "if False:",
            "test_s39_s40_what_clients_could_read_differently_is_refused",
        ),
    ),
    40: (
        _out(
            "oci/manifest.py",
            "if len(members) != len(pairs):",
            "if False:",
            "test_s39_s40_what_clients_could_read_differently_is_refused",
        ),
        _out(
            "oci/manifest.py",
            "        if meant != name:",
            "        if False:",
            "test_s39_s40_what_clients_could_read_differently_is_refused",
        ),
    ),
    41: (
        _out(
            "sync/plan.py",
            "        if digest in work.seen:\n            work.present += 1\n            return\n",
            "",
            "test_s41_indexes_that_share_their_children_cost_each_of_them_once",
        ),
        _out(
            "oci/manifest.py",
            "    _check_depth(document)\n",
            "",
            "test_s41_bombs_of_nesting",
        ),
    ),
    42: (
        _out(
            "http/transport.py",
            "            if size > limit:\n                raise ",
            "            if size > 16 * limit:\n                raise ",
            "test_s42_endless_manifest_is_cut_off_at_the_limit",
        ),
    ),
    43: (
        _out(
            "http/endpoint.py",
            'if (answer.header("Content-Encoding") or "identity").strip().lower() != "identity":',
            "if False:",
            "test_s43_gzipped_blob_and_manifest_are_refused",
        ),
    ),
    44: (
        _out(
            "parent/client.py",
            'expected = reference if ":" in reference else (header or "").strip()',
            'expected = reference if ":" in reference else ""',
            "test_s44_a_digest_header_that_lies_is_broken_by_tag",
        ),
    ),
    45: (
        _out(
            "keeper/misses/tag_cache.py",
            "        if now < expiry:\n",
            "        if True:\n",
            "test_s45_a_404_is_remembered_for_30_seconds",
        ),
        _out(
            "keeper/misses/manifest_misses.py",
            "        except errors.ParentDenied as failure:\n"
            '            raise errors.ManifestUnknown(f"no manifest {reference}"',
            "        except errors.ParentDenied as failure:\n"
            "            self._access.remember_missing(*key)\n"
            '            raise errors.ManifestUnknown(f"no manifest {reference}"',
            "test_s45_a_refused_credential_is_a_404_and_not_remembered",
        ),
    ),
    46: (
        _out(
            "wire/ranges.py",
            "    if sum(run.end - run.start for run in runs) > size:\n        return Choice(Form.AMPLIFYING)\n",
            "",
            "test_s46_case_15_ranges_longer_than_the_body",
        ),
        _out(
            "wire/ranges.py",
            "if not spans or len(spans) > limit:",
            "if not spans:",
            "test_s46_case_15_too_many_ranges",
        ),
    ),
    47: (
        Defence(
            "core/holdfast_core/blob_files/upload_files.py",
            "_part((limit if most is None else most) - counts[client])",
            "_part(limit - counts[client])",
            ("test_s47_case_trust_23_one_client_does_not_take_all_sessions",),
        ),
    ),
    48: (
        _out(
            "single_flight.py",
            "        task = self._running.get(key)\n",
            "        key, task = (key, object()), None\n",
            "test_s48_a_cold_digest_costs_one_get_for_a_herd",
        ),
    ),
    49: (
        Defence(
            "Makefile",
            "--require-hashes -r requirements.lock",
            "-r requirements.lock",
            ("test_s49_nothing_is_installed_that_is_not_pinned",),
        ),
    ),
    50: (
        _out(
            "http/transport.py",
            "allow_redirects=False",
            "allow_redirects=True",
            "test_s50_a_redirect_is_not_followed",
        ),
        _out(
            "http/address.py",
            "    if any(address in network for network in NEVER):\n        return False\n",
            "",
            "test_s50_metadata_services_and_link_local_addresses_are_never_asked",
        ),
    ),
    51: (
        _out(
            "control/notice_commands.py",
            ' and notice.event.id.lower().startswith(f"{registry}/")',
            "",
            "test_s51_a_child_speaks_for_itself_and_those_below_alone",
        ),
        _out(
            "control/notice_commands.py",
            "    require_active(registry, draft.status(registry.name), order.instance, order.generation)\n",
            "",
            "test_s51_who_is_not_the_active_instance_tells_nothing",
        ),
    ),
    52: (
        _out(
            "endpoint/gateway/messages.py",
            'may = own.allows(listed, "content/read") and grants.allows(listed, "content/read")',
            "may = True",
            "test_s52_what_does_not_concern_the_child_only_moves_its_cursor",
            "test_s52_another_token_hears_no_more_than_it_may_pull_itself",
        ),
    ),
    53: (
        _out(
            "server/hits.py",
            "self._reads.is_same",
            "lambda _: True",
            "test_s53_what_ends_a_login_or_a_right_ends_its_answers_at_once",
            "test_s53_a_row_that_changes_ends_what_was_made_of_it",
        ),
        _out(
            "login/access.py",
            "        request.note.end(holder.until)\n",
            "",
            "test_s53_a_token_that_expires_ends_its_answers",
        ),
        _out(
            "server/hits.py",
            'exchange.client if self._node.access.knows_addresses else ""',
            '""',
            "test_s53_facts_of_the_connection_are_part_of_the_request",
        ),
    ),
}
