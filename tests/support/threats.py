"""Every threat that Holdfast answers, by number, with what it does, and the tests that carry the number.

`docs/security.md` prints the table; `tests/test_security.py` holds the two to each other.
"""

from __future__ import annotations

import re
from collections import defaultdict
from typing import NamedTuple

from support.programs import ROOT

DOCUMENT = ROOT / "docs" / "security.md"
BEGIN, END = "<!-- threats -->\n", "<!-- /threats -->"


class Threat(NamedTuple):
    """What somebody could try, and what stands against it."""

    threat: str
    answer: str


THREATS: dict[int, Threat] = {
    1: Threat(
        "a parent names a token server of its choice, and gets our credentials",
        "a realm is asked only at the parent's own origin, or when it is listed in `parent[].realms`",
    ),
    2: Threat(
        "a realm or redirect leads into our own network",
        "addresses are checked after the lookup and those are connected to; private ones only where configured",
    ),
    3: Threat(
        "credentials follow a redirect",
        "another origin gets an allow-list of headers; at most five hops, never from https to http",
    ),
    4: Threat(
        "the parent names another host as the place of an upload, and gets our credentials and content there",
        "an upload goes on at the parent's own origin alone, also one that was remembered; redirects of it are refused",
    ),
    5: Threat(
        "a manifest's `urls` make the node fetch from anywhere",
        "`urls` are never fetched; the manifest is kept as it is and the blob is 404 unless somebody pushed it",
    ),
    6: Threat(
        "a host that looks like the parent gets its credentials",
        "credentials are kept by exact origin, never by suffix or part of a name",
    ),
    7: Threat(
        "the parent's address is changed and the stored password goes to the new one",
        "credentials stand in the same table as the URL, and what a login file holds belongs to one URL",
    ),
    8: Threat(
        "a connection falls back to cleartext",
        "http only where `insecure` says so, and each start logs it; the realm is built from the configured address",
    ),
    9: Threat(
        "a client writes X-Forwarded-* itself",
        "believed from `login.trusted_proxies` alone, which is empty; never an identity",
    ),
    10: Threat(
        "what one client may read is served from the cache to all",
        "every request is authorised by the scope map before any lookup; the node's own login widens nothing",
    ),
    11: Threat(
        "a blob's digest is enough to read it through any repository",
        "bytes are readable through repositories that link them, elsewhere they are unknown; another parent's word that"
        " it has them links nothing: it has to send them",
    ),
    12: Threat(
        "a grant outlives the delete", "the link is looked up for each request; nothing is remembered"
    ),
    13: Threat(
        "a mount reads a repository that the caller may not read",
        "the same caller needs the right to pull the source; every failure is the same plain session",
    ),
    14: Threat(
        "who pulls first owns the repository",
        "repositories have no owner; pulling gives no right to push or delete",
    ),
    15: Threat(
        "a delete passes as a push",
        "one table from route and method to right; what is not in it is denied",
    ),
    16: Threat(
        "an overwrite passes as a create",
        "conditions, locks and tag moves are decided inside the transaction that changes the tag",
    ),
    17: Threat(
        "a read-only node is changed by a way round its endpoints",
        "the store itself refuses, below every endpoint",
    ),
    18: Threat(
        "one client goes on with another's upload",
        "a session's name is made of 128 random bits, the repository and the caller; elsewhere it does not exist",
    ),
    19: Threat(
        "a stranger's token reaches everything",
        "strangers get what `anonymous` says; the catalog is off, and filtered when it is on",
    ),
    20: Threat(
        "an encoded or doubled slash passes authorisation and reaches something else",
        "paths are decoded once and refused when they are not canonical; rights are asked of what is routed",
    ),
    21: Threat(
        "the operator's side is open where the clients' is not",
        "a listener of its own; every route there needs the operator's credentials",
    ),
    22: Threat(
        "a revoked client goes on",
        "tokens live five minutes at most, and what they grant is compared with the present scope map",
    ),
    23: Threat(
        "a pattern matches more than it says",
        "patterns match by segment; a scope map's `/*` matches below its prefix and nothing beside it",
    ),
    24: Threat(
        "a page elsewhere makes an operator's browser act",
        "no cookies and no CORS: a request without the operator's header is refused whatever its origin",
    ),
    25: Threat(
        "a name or annotation runs as script in a browser",
        "answers are JSON with their exact type, and `X-Content-Type-Options: nosniff` on the operator's side",
    ),
    26: Threat("a login redirects to another site", "nothing on either listener answers with a redirect"),
    27: Threat(
        "a token brings its own key",
        "a token's header is compared byte for byte with the one header there is; it is never parsed",
    ),
    28: Threat("a token is signed with another algorithm", "EdDSA alone, by the same comparison"),
    29: Threat(
        "a token of one node is used at another", "issuer and audience are this node and are compared exactly"
    ),
    30: Threat(
        "the token endpoint grants more than the map",
        "granted is what was asked for and is allowed; at most 20 scopes; no other service",
    ),
    31: Threat(
        "a secret that everybody knows",
        "there are no defaults; keys and the operator's password are made at the first start, examples refused",
    ),
    32: Threat(
        "the time of a refusal tells who exists",
        "constant-time comparison, the same work and the same body for unknown names",
    ),
    33: Threat("a long password is cut", "argon2id over all of it; over 1 KiB is refused"),
    34: Threat("a token that is a bomb", "8 KiB at most and exactly two dots, before anything is decoded"),
    35: Threat(
        "secrets in logs and URLs",
        "paths are logged without their query; what holds a secret does not show it",
    ),
    36: Threat(
        "secrets lie about on the disk",
        "nobody else gets into the data directory; keys and the operator's password are files of their own there",
    ),
    37: Threat(
        "a digest or name is used as a path",
        "both are parsed once into what can be nothing else than they are",
    ),
    50: Threat(
        "a webhook's receiver leads the node into the network, or elsewhere with the event and its headers",
        "redirects are not followed; addresses are checked after the lookup: link-local and metadata services never",
    ),
    51: Threat(
        "a connected registry tells its parent of what did not happen, or makes others' events look like repetitions",
        "only the active instance, with the right `message/write`, tells of itself and those below it, of what it may"
        " read; ids begin with the name of the registry where it happened",
    ),
    52: Threat(
        "a connected registry hears of repositories, tags or manifests that it may not pull",
        "messages and contents are held to the present scope map of its sync token and of the caller, and to locks;"
        " what is left out moves the cursor and nothing else, and a place that was made up shows nothing",
    ),
}

TEST = re.compile(r"^ *(?:async )?def (test_(?:s[0-9]+_)+\w+)\(", re.MULTILINE)


def numbers(name: str) -> list[int]:
    """The threats that a test's name says it answers: `test_s20_s37_hostile_paths` 20 and 37."""
    found = re.match(r"test_((?:s[0-9]+_)+)", name)
    return [int(part[1:]) for part in found[1].split("_")[:-1]] if found else []


def named_tests() -> dict[int, list[str]]:
    """Threat to the tests that carry its number, as `file::name`."""
    found: dict[int, list[str]] = defaultdict(list)
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for name in TEST.findall(path.read_text()):
            for number in numbers(name):
                found[number].append(f"{path.relative_to(ROOT / 'tests')}::{name}")
    return found


def markdown() -> str:
    """The table of the document."""
    tests = named_tests()
    lines = ["| | somebody tries | what stands against it | tests |", "|---|---|---|---|"]
    for number, row in THREATS.items():
        cells = "<br>".join(f"`{test}`" for test in tests[number])
        lines.append(f"| S{number} | {row.threat} | {row.answer} | {cells} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Put the table of this moment into the document."""
    before, _, rest = DOCUMENT.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    DOCUMENT.write_text(before + BEGIN + markdown() + END + after)


if __name__ == "__main__":
    main()
