"""The operations of the admin API: routing, `Allow`, checks and the OpenAPI document all come from this one table."""

from __future__ import annotations

import re
from dataclasses import replace

from holdfast_core.store import Store

from holdfast.admin import documents, request_bodies
from holdfast.admin import operation as of
from holdfast.admin.filter import read_filter
from holdfast.admin.openapi import document as openapi_document
from holdfast.admin.operation import AdminCall, Operation, Parameter
from holdfast.admin.operations import (
    events,
    garbage_collection,
    images,
    outbox,
    parents,
    registries,
    scope_maps,
    scrub_order,
    settings,
    space_usage,
    status,
    synchronisation,
    tokens,
    webhooks,
)
from holdfast.admin.request_reading import read_body, read_query, read_struct
from holdfast.control.catalogue import Catalogue
from holdfast.endpoint.node import Answer, Node
from holdfast.errors import ControlInvalid, MethodNotAllowed, PathUnknown
from holdfast.notify.delivery_record import Pinged
from holdfast.storage.collection_report import CollectionStatus
from holdfast.storage.images.deleted_images import DeletedList, RestoredImage
from holdfast.storage.images.pinned_images import PinList
from holdfast.storage.images.repository_removal import RepositoryRemoval
from holdfast.storage.scrubbing.scrub_report import ScrubStatus
from holdfast.storage.usage_report import NodeUsage, RepositoryUsageList, TagUsageList
from holdfast.sync.report import PlanReport, PrefetchList, SyncReport
from holdfast.wire.message import Reply, Request

MATCH, NONE_MATCH = "If-Match", "If-None-Match"
FILTER = Parameter(
    "$filter",
    read_filter,
    {"type": "string", "minLength": 1, "examples": ["mode eq 'ReadOnly' and connectionState eq 'Online'"]},
    "eq on parent.id, mode and connectionState, joined by and.",
)
REGISTRIES, SCOPE_MAPS, TOKENS, OUTBOX = "connectedRegistries", "scopeMaps", "tokens", "outbox"
REGISTRY, SCOPE_MAP, TOKEN, ENTRY = (f"{one}/{{name}}" for one in (REGISTRIES, SCOPE_MAPS, TOKENS, OUTBOX))
COLLECTION, USAGE, PINS, PREFETCH = "collection", "usage", "pins", "prefetch"
SCRUB, DELETED = "scrub", "deleted"
WEBHOOKS, WEBHOOK, PARENT = "webhooks", "webhooks/{name}", "parents/{name}"

ONE = {200: (documents.RegistryDocument,)}
CHANGE = {200: (documents.ChangeDocument,)}
ONE_MAP, ONE_TOKEN = {200: (documents.ScopeMapDocument,)}, {200: (documents.TokenDocument,)}


async def show_document(_call: AdminCall) -> Reply:
    """GET of the OpenAPI document."""
    return of.reply(openapi_document(OPERATIONS))


OPERATIONS: tuple[Operation, ...] = (
    Operation(
        "getOpenApi", "GET", "openapi.json", "This document.", show_document, {200: (documents.OpenApi,)}
    ),
    Operation(
        "listConnectedRegistries",
        "GET",
        REGISTRIES,
        "List connected registries, all levels, by name.",
        registries.show_list,
        {200: (documents.RegistryList,)},
        refusals=(404,),
        query=(*of.PAGE, FILTER, of.PARENT, of.NO_CHILDREN),
    ),
    Operation(
        "getConnectedRegistry",
        "GET",
        REGISTRY,
        "Show a connected registry.",
        registries.show,
        ONE,
        refusals=(404,),
        versioned=True,
    ),
    Operation(
        "putConnectedRegistry",
        "PUT",
        REGISTRY,
        "Create a connected registry with its sync token and scope map, or replace what may change of it.",
        registries.put,
        {200: (documents.RegistryDocument, documents.ChangeDocument), 201: (documents.RegistryDocument,)},
        refusals=(404, 409, 412),
        query=(of.DRY_RUN,),
        body=request_bodies.NewRegistry,
        conditional=(MATCH, NONE_MATCH),
        versioned=True,
    ),
    Operation(
        "updateConnectedRegistry",
        "PATCH",
        REGISTRY,
        "Change a connected registry; fields that are left out stay.",
        registries.change,
        {200: (documents.RegistryDocument, documents.ChangeDocument)},
        refusals=(404, 409, 412),
        query=(of.DRY_RUN,),
        body=request_bodies.RegistryChange,
        conditional=(MATCH,),
        versioned=True,
    ),
    Operation(
        "deleteConnectedRegistry",
        "DELETE",
        REGISTRY,
        "Delete a connected registry. What its node holds stays there.",
        registries.delete,
        CHANGE,
        refusals=(404, 409, 412),
        query=(of.CLEANUP, of.DRY_RUN),
        conditional=(MATCH,),
    ),
    Operation(
        "deactivateConnectedRegistry",
        "POST",
        f"{REGISTRY}/deactivate",
        "Cut the active instance loose, so that another may take its place.",
        registries.deactivate,
        ONE,
        refusals=(404, 409),
        versioned=True,
    ),
    Operation(
        "resyncConnectedRegistry",
        "POST",
        f"{REGISTRY}/resync",
        "Have it synchronise everything anew, at its next contact.",
        registries.resync,
        ONE,
        refusals=(404, 409),
        versioned=True,
    ),
    Operation(
        "getPermissions",
        "GET",
        f"{REGISTRY}/permissions",
        "Show the scope map of its sync token.",
        registries.permissions,
        ONE_MAP,
        refusals=(404,),
        versioned=True,
    ),
    Operation(
        "updatePermissions",
        "POST",
        f"{REGISTRY}/permissions",
        "Add repositories to it and every ancestor, remove repositories from it and every descendant.",
        registries.change_permissions,
        {200: (documents.ScopeMapDocument, documents.ChangeDocument)},
        refusals=(404, 409, 412),
        query=(of.DRY_RUN,),
        body=request_bodies.PermissionsChange,
        conditional=(MATCH,),
        versioned=True,
    ),
    Operation(
        "listClientTokens",
        "GET",
        f"{REGISTRY}/clientTokens",
        "List the tokens that its clients may use.",
        registries.client_tokens,
        {200: (documents.TokenList,)},
        refusals=(404,),
    ),
    Operation(
        "getSettings",
        "POST",
        f"{REGISTRY}/settings",
        "What its node needs to start. A password is made anew only when generatePassword says which.",
        settings.show,
        {200: (documents.SettingsDocument,)},
        refusals=(404, 409),
        body=request_bodies.SettingsWanted,
    ),
    Operation(
        "listScopeMaps",
        "GET",
        SCOPE_MAPS,
        "List scope maps by name, the system's own included.",
        scope_maps.show_list,
        {200: (documents.ScopeMapList,)},
        query=of.PAGE,
    ),
    Operation(
        "getScopeMap",
        "GET",
        SCOPE_MAP,
        "Show a scope map.",
        scope_maps.show,
        ONE_MAP,
        refusals=(404,),
        versioned=True,
    ),
    Operation(
        "putScopeMap",
        "PUT",
        SCOPE_MAP,
        "Create a scope map. One that is there and equal is no change; another is refused.",
        scope_maps.put,
        {**ONE_MAP, 201: (documents.ScopeMapDocument,)},
        refusals=(409, 412),
        body=request_bodies.NewScopeMap,
        conditional=(NONE_MATCH,),
        versioned=True,
    ),
    Operation(
        "updateScopeMap",
        "PATCH",
        SCOPE_MAP,
        "Change a scope map, and with it every token that has it.",
        scope_maps.change,
        ONE_MAP,
        refusals=(404, 409, 412),
        body=request_bodies.ScopeMapChange,
        conditional=(MATCH,),
        versioned=True,
    ),
    Operation(
        "deleteScopeMap",
        "DELETE",
        SCOPE_MAP,
        "Delete a scope map that no token has.",
        scope_maps.delete,
        CHANGE,
        refusals=(404, 409, 412),
        conditional=(MATCH,),
    ),
    Operation(
        "listTokens",
        "GET",
        TOKENS,
        "List tokens by name.",
        tokens.show_list,
        {200: (documents.TokenList,)},
        query=of.PAGE,
    ),
    Operation(
        "getToken",
        "GET",
        TOKEN,
        "Show a token, without its passwords.",
        tokens.show,
        ONE_TOKEN,
        refusals=(404,),
        versioned=True,
    ),
    Operation(
        "putToken",
        "PUT",
        TOKEN,
        "Create a token; its passwords are in this one answer. One that is there and equal is no change.",
        tokens.put,
        {**ONE_TOKEN, 201: (documents.TokenDocument,)},
        refusals=(404, 409, 412),
        body=request_bodies.NewToken,
        conditional=(NONE_MATCH,),
        versioned=True,
    ),
    Operation(
        "updateToken",
        "PATCH",
        TOKEN,
        "Change a token's scope map or status.",
        tokens.change,
        ONE_TOKEN,
        refusals=(404, 409, 412),
        body=request_bodies.TokenChange,
        conditional=(MATCH,),
        versioned=True,
    ),
    Operation(
        "deleteToken",
        "DELETE",
        TOKEN,
        "Delete a token and its passwords. Its scope map stays.",
        tokens.delete,
        CHANGE,
        refusals=(404, 409, 412),
        conditional=(MATCH,),
    ),
    Operation(
        "generateCredentials",
        "POST",
        f"{TOKEN}/credentials",
        "Make passwords anew; their values are in this one answer, and the old ones end.",
        tokens.generate,
        {200: (documents.NewCredentials,)},
        refusals=(404, 409),
        body=request_bodies.CredentialsWanted,
    ),
    Operation(
        "deleteCredentials",
        "DELETE",
        f"{TOKEN}/credentials",
        "End passwords at once.",
        tokens.end_credentials,
        ONE_TOKEN,
        refusals=(404, 409),
        body=request_bodies.CredentialsGone,
        versioned=True,
    ),
    Operation(
        "getSync",
        "GET",
        "sync",
        "Where the node's own synchronisation stands.",
        synchronisation.show,
        {200: (SyncReport,)},
        refusals=(409,),
    ),
    Operation(
        "runSync",
        "POST",
        "sync/run",
        "Synchronise everything now, whatever the window.",
        synchronisation.begin,
        {200: (SyncReport,)},
        refusals=(409,),
    ),
    Operation(
        "planSync",
        "GET",
        "sync/plan",
        "What the next run would fetch. While it is not ready, ask again.",
        synchronisation.plan,
        {200: (PlanReport,)},
        refusals=(409,),
    ),
    Operation(
        "getStatus",
        "GET",
        "status",
        "How the node is: what is wrong, and where its parents, synchronisation, outbox and disk stand.",
        status.show,
        {200: (documents.NodeStatusDocument,)},
    ),
    Operation(
        "getCollection",
        "GET",
        COLLECTION,
        "When garbage is collected, and the report of the collection under way or of the last one.",
        garbage_collection.show,
        {200: (CollectionStatus,)},
        query=(of.OF_DRY_RUN,),
    ),
    Operation(
        "runCollection",
        "POST",
        f"{COLLECTION}/run",
        "Collect garbage now, or say what would go. While it is running, ask for the report again.",
        garbage_collection.begin,
        {200: (CollectionStatus,)},
        refusals=(409,),
        query=(of.DRY_RUN,),
    ),
    Operation(
        "getScrub",
        "GET",
        SCRUB,
        "How far the bytes on the disk are compared with their hashes, and what the last full pass found.",
        scrub_order.show,
        {200: (ScrubStatus,)},
    ),
    Operation(
        "runScrub",
        "POST",
        f"{SCRUB}/run",
        "Read all bytes of the disk now. While a pass is under way, ask for its report again.",
        scrub_order.begin,
        {200: (ScrubStatus,)},
    ),
    Operation(
        "getUsage",
        "GET",
        USAGE,
        "Where the disk went: the content, by parent, and what lies beside it.",
        space_usage.show,
        {200: (NodeUsage,)},
    ),
    Operation(
        "listRepositoryUsage",
        "GET",
        f"{USAGE}/repositories",
        "What each repository has, by name, and how much of it no other one has.",
        space_usage.repositories,
        {200: (RepositoryUsageList,)},
        query=of.PAGE,
    ),
    Operation(
        "listTagUsage",
        "GET",
        f"{USAGE}/tags",
        "What each image of a repository has, by tag, and what its delete frees.",
        space_usage.tags,
        {200: (TagUsageList,)},
        refusals=(404,),
        query=(*of.PAGE, of.IN_REPOSITORY),
    ),
    Operation(
        "listPins",
        "GET",
        PINS,
        "List the images that no eviction and no collection takes, those whose time is over as well.",
        images.pins,
        {200: (PinList,)},
    ),
    Operation(
        "pinImage",
        "POST",
        PINS,
        "Keep an image, whether it is here yet or not, in place of an earlier pin on it; the answer has all pins.",
        images.pin,
        {200: (PinList,)},
        refusals=(404,),
        body=request_bodies.NewPin,
    ),
    Operation(
        "unpinImage",
        "DELETE",
        PINS,
        "End the pin of an image; the answer has those that are left.",
        images.unpin,
        {200: (PinList,)},
        refusals=(404,),
        query=(of.OF_IMAGE,),
    ),
    Operation(
        "listDeleted",
        "GET",
        DELETED,
        "List what clients and the operator deleted and what can be restored, a page of it by repository.",
        images.deleted,
        {200: (DeletedList,)},
        query=of.PAGE,
    ),
    Operation(
        "undeleteImage",
        "POST",
        DELETED,
        "Restore a deleted image: it is as if it were pushed again.",
        images.undelete,
        {200: (RestoredImage,)},
        refusals=(404, 409),
        body=request_bodies.ImageToRestore,
    ),
    Operation(
        "listPrefetches",
        "GET",
        PREFETCH,
        "List the prefetches under way, and those of this process that are over.",
        images.prefetches,
        {200: (PrefetchList,)},
    ),
    Operation(
        "prefetchImages",
        "POST",
        PREFETCH,
        "Bring images from their parents now, by the way of synchronisation.",
        images.prefetch,
        {200: (PrefetchList,)},
        refusals=(404, 409),
        body=request_bodies.ImagesWanted,
    ),
    Operation(
        "deleteRepository",
        "DELETE",
        "repositories",
        "Delete a repository as clients delete what it has, a thousand manifests and tags a request.",
        images.delete_repository,
        {200: (RepositoryRemoval,)},
        refusals=(404, 409),
        query=(of.IN_REPOSITORY,),
    ),
    Operation(
        "listParents",
        "GET",
        "parents",
        "List the parents: whether they are there, and the operator's switch.",
        parents.show_list,
        {200: (documents.ParentStateList,)},
    ),
    Operation(
        "getParent",
        "GET",
        PARENT,
        "Show a parent.",
        parents.show,
        {200: (documents.ParentStateDocument,)},
        refusals=(404,),
    ),
    Operation(
        "updateParent",
        "PATCH",
        PARENT,
        "Switch a parent off, or let the node find out itself; obeyed when this is answered, and after a restart.",
        parents.change,
        {200: (documents.ParentStateDocument,)},
        refusals=(404,),
        body=request_bodies.ParentChange,
    ),
    Operation(
        "listOutbox",
        "GET",
        OUTBOX,
        "List what is still to go up to a parent, in its order, and the last conflicts over tags.",
        outbox.show_list,
        {200: (documents.OutboxList,)},
        query=of.PAGE,
    ),
    Operation(
        "getBacklog",
        "GET",
        f"{OUTBOX}/status",
        "How much is still to go up, since when, and how fast it goes.",
        outbox.backlog,
        {200: (documents.BacklogDocument,)},
    ),
    Operation(
        "getOutboxEntry",
        "GET",
        ENTRY,
        "Show what holds an entry back, and how a conflict was decided.",
        outbox.show,
        {200: (documents.OutboxDocument,)},
        refusals=(404,),
    ),
    Operation(
        "retryOutboxEntry",
        "POST",
        f"{ENTRY}/retry",
        "Have it tried now. One in conflict goes up as if this side had won.",
        outbox.retry,
        {200: (documents.OutboxDocument,)},
        refusals=(404,),
    ),
    Operation(
        "listEvents",
        "GET",
        "events",
        "List what changed here and in the connected registries below, the oldest first.",
        events.show_list,
        {200: (documents.EventList,)},
        refusals=(409,),
        query=(of.TOP, of.AFTER, of.OF_REGISTRY, of.OF_REPOSITORY),
    ),
    Operation(
        "listWebhooks",
        "GET",
        WEBHOOKS,
        "List the webhooks of the configuration by name, and how far each is.",
        webhooks.show_list,
        {200: (documents.WebhookList,)},
        query=of.PAGE,
    ),
    Operation(
        "getWebhook",
        "GET",
        WEBHOOK,
        "Show how far a webhook is, and its receiver's last answer.",
        webhooks.show,
        {200: (documents.WebhookDocument,)},
        refusals=(404,),
    ),
    Operation(
        "pingWebhook",
        "POST",
        f"{WEBHOOK}/ping",
        "Send its receiver an event of nothing, now.",
        webhooks.ping,
        {200: (Pinged,)},
        refusals=(404,),
    ),
)


def _routes() -> dict[tuple[str, ...], dict[str, Operation]]:
    """The operations by the segments of their path, then by method."""
    routes: dict[tuple[str, ...], dict[str, Operation]] = {}
    for one in OPERATIONS:
        routes.setdefault(tuple(one.path.split("/")), {})[one.method] = one
    return routes


ROUTES = _routes()


class Table:
    """Answers the operations, over one store."""

    def __init__(self, store: Store) -> None:
        self._catalogue = Catalogue(store)

    def answer(self, node: Node, request: Request, clients: tuple[str, int]) -> Answer:
        """The coroutine that will have the reply. Raises `PathUnknown`, `MethodNotAllowed` and `QueryInvalid`."""
        one, name = find(request)
        query = read_query(request.query, one.readers)
        _check_conditions(request, one)
        return self._performed(one, AdminCall(node, self._catalogue, request, name, query, None, clients))

    async def _performed(self, one: Operation, call: AdminCall) -> Reply:
        content = await read_body(call.request)
        if one.body is not None:
            call = replace(call, body=read_struct(content, one.body))
        elif content.strip():
            raise ControlInvalid("the body: found one; allowed: none", field="")
        return await one.handler(call)


def find(request: Request) -> tuple[Operation, str]:
    """The operation of a request, and the name in its path."""
    parts = request.route.name.split("/")
    methods, name = ROUTES.get(tuple(parts)), ""
    if methods is None and len(parts) > 1:
        name = parts[1]
        methods = ROUTES.get((parts[0], of.NAME, *parts[2:])) if name else None
    if methods is None:
        raise PathUnknown("no such operation; GET /api/v1/openapi.json lists them")
    operation = methods.get(request.method)
    if operation is None:
        allow = ", ".join(methods)
        raise MethodNotAllowed(
            f"the operation does not take this method; it takes {allow}",
            detail=request.method[:20],
            headers=(("Allow", allow),),
        )
    return operation, name


def _check_conditions(request: Request, one: Operation) -> None:
    """Refuses a condition that the operation does not check: a client that sends it relies on it."""
    for header, pattern in of.CONDITIONS.items():
        values = request.header_lines(header.lower())
        if not values or (request.method == "GET" and header not in one.conditional):
            continue
        if header not in one.conditional:
            raise ControlInvalid(f"{header}: this operation takes no such condition", field=header)
        if len(values) > 1 or not re.fullmatch(pattern, values[0]):
            allowed = "*, or one ETag in quotes" if header == MATCH else "*"
            raise ControlInvalid(f"{header}: found {values[0][:80]!r}; allowed: {allowed}", field=header)
