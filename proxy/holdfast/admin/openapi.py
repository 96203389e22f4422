"""The OpenAPI 3.1 document of the admin API, made of the very table that answers requests."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib.metadata import version
from typing import Any

import msgspec

from holdfast.admin.documents import Errors
from holdfast.admin.operation import CONDITIONS as PATTERNS
from holdfast.admin.operation import NAME, Operation

PREFIX = "/api/v1/"
JSON = "application/json"
REFERENCE = "#/components/schemas/{name}"

#: Refusals that any operation may answer, and the sentence for each.
REFUSALS = {
    400: "The request breaks a rule; the message names the field, the value found and the values allowed.",
    401: "No credentials, or wrong ones.",
    403: "A browser sent this for a page of another site.",
    404: "No such resource.",
    408: "The body did not arrive in time.",
    409: "Right in itself, and against what is there: a limit, a name that is taken, an immutable field, something in"
    " use. On a managed node every change: its parent decides.",
    412: "If-Match or If-None-Match does not hold.",
    413: "The body is longer than any that is needed.",
    415: "The body is not JSON.",
    429: "Too many wrong passwords from this address; Retry-After says when to try again.",
    503: "The keeper is away for a moment; Retry-After says when to try again.",
}
EVERYWHERE = (400, 401, 403, 429, 503)
WITH_BODY = (408, 413, 415)
ETAG = {"ETag": {"description": "The version of the resource.", "schema": {"type": "string"}}}
CONDITIONS = {
    "If-Match": "Only when the resource has this ETag, or * when there is one at all.",
    "If-None-Match": "With *: only when the resource is not there yet.",
}


def document(operations: Sequence[Operation]) -> dict[str, Any]:
    """The document. Deterministic: the same table gives the same bytes."""
    kinds = sorted(_kinds(operations), key=lambda kind: kind.__name__)
    schemas, components = msgspec.json.schema_components(kinds, ref_template=REFERENCE)
    references = dict(zip(kinds, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        methods = paths.setdefault(PREFIX + operation.path, {})
        methods[operation.method.lower()] = _described(operation, references)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Holdfast admin API",
            "version": version("holdfast"),
            "description": "Connected registries, scope maps and tokens of a node, with the property names of Azure"
            " Container Registry.",
        },
        "security": [{"operator": []}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"operator": {"type": "http", "scheme": "basic"}},
        },
    }


def _kinds(operations: Iterable[Operation]) -> set[type[Any]]:
    structs: set[type[Any]] = {Errors}
    for operation in operations:
        structs.update(kind for kinds in operation.answers.values() for kind in kinds)
        if operation.body is not None:
            structs.add(operation.body)
    return structs


def _described(operation: Operation, references: dict[type[Any], Any]) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": operation.id,
        "summary": operation.summary,
        "tags": [operation.path.partition("/")[0]],
        "parameters": [*_path_parameters(operation), *_query_parameters(operation), *_conditions(operation)],
        "responses": _responses(operation, references),
    }
    if operation.body is not None:
        described["requestBody"] = {
            "required": True,
            "content": {JSON: {"schema": references[operation.body]}},
        }
    return described


def _path_parameters(operation: Operation) -> list[dict[str, Any]]:
    if NAME not in operation.path:
        return []
    return [{"name": "name", "in": "path", "required": True, "schema": operation.name_schema}]


def _query_parameters(operation: Operation) -> list[dict[str, Any]]:
    return [
        {"name": p.name, "in": "query", "required": False, "description": p.description, "schema": p.schema}
        for p in operation.query
    ]


def _conditions(operation: Operation) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "in": "header",
            "required": False,
            "description": CONDITIONS[name],
            "schema": {"type": "string", "pattern": PATTERNS[name]},
        }
        for name in operation.conditional
    ]


def _responses(operation: Operation, references: dict[type[Any], Any]) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    for status, kinds in sorted(operation.answers.items()):
        schemas = [references[kind] for kind in kinds]
        entry: dict[str, Any] = {"description": operation.summary}
        if schemas:
            entry["content"] = {JSON: {"schema": schemas[0] if len(schemas) == 1 else {"anyOf": schemas}}}
        if operation.versioned:
            entry["headers"] = ETAG
        responses[str(status)] = entry
    for status in sorted({*EVERYWHERE, *(WITH_BODY if operation.body else ()), *operation.refusals}):
        responses[str(status)] = {
            "description": REFUSALS[status],
            "content": {JSON: {"schema": references[Errors]}},
        }
    return responses
