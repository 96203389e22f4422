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
    """A threat and the defence against it."""

    threat: str
    answer: str


THREATS: dict[int, Threat] = {
    1: Threat(
        "a parent names a token server of its choice, and gets our credentials",
        "a token server is used only at the parent's own origin, or when `parent[].realms` lists it",
    ),
    2: Threat(
        "a realm or redirect leads into our own network",
        "addresses are checked after the lookup, and the connection goes to a checked one; private ones only"
        " where configured",
    ),
    3: Threat(
        "credentials follow a redirect",
        "another origin gets only the headers of an allow-list; at most five hops, never from https to http",
    ),
    4: Threat(
        "the parent names another host as the place of an upload, and gets our credentials and content there",
        "an upload continues at the parent's own origin alone, also at a stored location; redirects of it are refused",
    ),
    5: Threat(
        "a manifest's `urls` make the node fetch from anywhere",
        "`urls` are never fetched; the manifest is stored unchanged, and the blob is 404 unless a client pushed it",
    ),
    6: Threat(
        "a host that looks like the parent gets its credentials",
        "credentials are selected by exact origin, never by a suffix or part of a name",
    ),
    7: Threat(
        "the parent's address is changed and the stored password goes to the new one",
        "credentials are in the same table as the URL, and an entry of a login file is for one URL",
    ),
    8: Threat(
        "a connection falls back to cleartext",
        "http only with `insecure`, which each start logs; the realm is built from the configured address",
    ),
    9: Threat(
        "a client writes X-Forwarded-* itself",
        "used from `login.trusted_proxies` alone, which is empty by default; never as an identity",
    ),
    10: Threat(
        "what one client may read is served from the cache to all",
        "every request is authorised by the scope map before any lookup; the node's own login at the parent"
        " gives clients no rights",
    ),
    11: Threat(
        "a blob's digest is enough to read it through any repository",
        "bytes are readable through the repositories that link them, in others they are unknown; a HEAD of"
        " another parent"
        " does not link them: it has to send the bytes",
    ),
    12: Threat("access outlives a delete", "the link is looked up for each request, without a cache"),
    13: Threat(
        "a mount reads a repository that the caller may not read",
        "the caller needs the right to pull from the source; every failure is answered alike, by a session",
    ),
    14: Threat(
        "the first client that pulls from a repository owns it",
        "repositories have no owner; pulling gives no right to push or delete",
    ),
    15: Threat(
        "a delete passes as a push",
        "one table has the right for each route and method; all else is denied",
    ),
    16: Threat(
        "an overwrite passes as a create",
        "conditions, locks and tag moves are checked inside the transaction that changes the tag",
    ),
    17: Threat(
        "a read-only node is changed without its endpoints",
        "the store itself refuses, below every endpoint",
    ),
    18: Threat(
        "a client continues the upload of another",
        "a session's name is made of 128 random bits, the repository and the caller; for any other it does not exist",
    ),
    19: Threat(
        "the token of a client without login gives access to everything",
        "clients without login have the rights of `anonymous`; the catalog is off, and filtered when it is on",
    ),
    20: Threat(
        "an encoded or doubled slash passes authorisation and reaches something else",
        "paths are decoded once and refused when they are not canonical; rights are checked for the"
        " repository that is routed to",
    ),
    21: Threat(
        "the admin API is less protected than the clients' API",
        "a listener of its own; every route there needs the operator's credentials",
    ),
    22: Threat(
        "a revoked token stays in use",
        "tokens live five minutes at most, and each request is checked by the present scope map",
    ),
    23: Threat(
        "a pattern matches more than is written",
        "patterns match by segment; a scope map's `/*` matches below its prefix alone",
    ),
    24: Threat(
        "a web page makes an operator's browser send requests",
        "no cookies and no CORS: a request without the operator's header is refused whatever its origin",
    ),
    25: Threat(
        "a name or annotation runs as script in a browser",
        "answers are JSON with their exact type, and with `X-Content-Type-Options: nosniff` on the admin API",
    ),
    26: Threat("a login redirects to another site", "nothing on either listener answers with a redirect"),
    27: Threat(
        "a token brings its own key",
        "a token's header is compared byte for byte with the only valid one, and never parsed",
    ),
    28: Threat("a token is signed with another algorithm", "EdDSA alone, by the same comparison"),
    29: Threat(
        "a token of one node is used at another",
        "issuer and audience are this node, and are compared exactly",
    ),
    30: Threat(
        "the token endpoint grants more than the map",
        "only requested and allowed actions are granted; at most 20 scopes; no other service",
    ),
    31: Threat(
        "a well-known default secret",
        "there are no defaults; keys and the operator's password are generated at the first start, and"
        " examples are refused",
    ),
    32: Threat(
        "the time of a refusal reveals which names exist",
        "constant-time comparison, the same work and the same body for unknown names",
    ),
    33: Threat("a long password is truncated", "argon2id over the whole password; over 1 KiB is refused"),
    34: Threat(
        "a token that is expensive to decode",
        "8 KiB at most and exactly two dots, before anything is decoded",
    ),
    35: Threat(
        "secrets in logs and URLs",
        "paths are logged without their query; values with a secret do not print it",
    ),
    36: Threat(
        "other users of the machine read secrets on the disk",
        "only the node's user can read the data directory; keys and the operator's password are files of"
        " their own there",
    ),
    37: Threat(
        "a digest or name is used as a path",
        "both are parsed once into types that no path can be made of",
    ),
    38: Threat(
        "a parent sends other bytes than the digest names",
        "a body is hashed before a client has all of it: its end waits until the digest matched, and bytes that do not"
        " match are not stored",
    ),
    39: Threat(
        "one document is an image to one client and an index to another",
        "both `manifests` and `layers` or `config`, or a `mediaType` that is not the Content-Type: refused; the type is"
        " kept with the digest",
    ),
    40: Threat(
        "two JSON parsers read one manifest differently",
        "a duplicate key is refused, and one that some parsers take for a known key",
    ),
    41: Threat(
        "a manifest that is expensive to parse: nested without end, or with cyclic children",
        "64 deep and 500,000 members at most; each child of an index is read once, 8 levels down",
    ),
    42: Threat(
        "an endless answer of the parent",
        "each kind of answer has a limit, headers too, at which reading ends",
    ),
    43: Threat(
        "compressed content that unpacks to any size, or to other bytes",
        "nothing is decompressed: `identity` is requested, and any other Content-Encoding is refused",
    ),
    44: Threat(
        "a tag gets a digest that the parent never gave it",
        "the digest of a tag is that of the bytes of a GET; another Docker-Content-Digest is refused",
    ),
    45: Threat(
        "content that was missing or refused for a moment stays so",
        "a 404 is cached for 30 seconds at most, refusals and errors are not",
    ),
    46: Threat(
        "many ranges make an answer larger than the body",
        "at most `limits.ranges`, and together no longer than the body; else the answer is the whole body, or 416",
    ),
    47: Threat(
        "uploads that never end fill the node",
        "sessions are limited by client and in total, idle ones of the client with the most end first, and all expire",
    ),
    48: Threat(
        "many clients of one blob make the node fetch it as often",
        "all clients follow one transfer; connections to a parent and transfers are limited",
    ),
    49: Threat(
        "another package is installed than the chosen one",
        "the lock has the version and the SHA-256 of the files of every package, and nothing else is installed",
    ),
    50: Threat(
        "a webhook's receiver redirects the node into the local network, or to another host with event and headers",
        "redirects are not followed; addresses are checked after the lookup, link-local ones and metadata"
        " services are refused",
    ),
    51: Threat(
        "a connected registry reports false events to its parent, or makes events of others look like duplicates",
        "only the active instance, with the right `message/write`, reports events: its own and those of"
        " registries below"
        " it, on content that it may read; ids begin with the name of the registry of the event",
    ),
    52: Threat(
        "a connected registry gets messages on repositories, tags or manifests that it may not pull",
        "messages and contents are filtered by the present scope maps of its sync token and of the caller,"
        " and by locks;"
        " filtered messages only advance the cursor, and an invented position shows nothing",
    ),
    53: Threat(
        "an answer that is kept in memory outlives the right, the login, the lock or the content that it was given by",
        "it is given again only to the very same bytes on the same kind of connection, while every row that it was made"
        " of is the same, among them the control plane's revision, and before anything that it depends on expires",
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
    lines = ["| | threat | defence | tests |", "|---|---|---|---|"]
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
