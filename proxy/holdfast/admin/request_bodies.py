"""What requests to the admin API carry: one struct a body, with the original's property names (references.md 1.1,
1.6, 1.17). The schema that the OpenAPI document shows is made of these very structs.

A body has only what its caller may set. What is read-only, or cannot change after creation, is no field here; the
reader of bodies says so by name (`holdfast.admin.request_reading`). Ids are paths (`/tokens/plant`) or plain names.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Meta, UnsetType

from holdfast.http.health import Switch
from holdfast.resources.model import EnabledStatus, PasswordName, Text
from holdfast.resources.registry_requests import (
    AdminBody,
    NewRegistryProperties,
    RegistryChangeProperties,
    Repositories,
)

# what follows says more in the schema; the rules themselves are the control plane's, with better sentences
Moment = Annotated[
    str,
    Meta(max_length=512, description="RFC 3339", extra_json_schema={"examples": ["2099-01-31T00:00:00Z"]}),
]
Actions = Annotated[
    tuple[Text, ...],
    Meta(extra_json_schema={"examples": [["repositories/team/app/content/read"]]}),
]
Description = Annotated[str, Meta(max_length=256)]
Days = Annotated[int, Meta(ge=1, le=36500, description="days from now")]


class NewRegistry(AdminBody, frozen=True):
    """PUT of a connected registry."""

    properties: NewRegistryProperties


class ParentChange(AdminBody, frozen=True):
    """`offline`: no request is sent to this parent; `auto`: its state is what the node observes."""

    switch: Switch


ImageName = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=512,
        description="NAME:TAG or NAME@DIGEST",
        extra_json_schema={"examples": ["team/app:v1"]},
    ),
]


TagName = Annotated[str, Meta(pattern="^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$")]


class NewPin(AdminBody, frozen=True):
    """POST of a pin. Without `until` it holds for good; with `withReferrers` it keeps what refers to the image, too."""

    image: ImageName
    until: Moment | UnsetType = UNSET
    with_referrers: bool = False


class ImageToRestore(AdminBody, frozen=True):
    """POST of a deleted image. With `tags` it gets these, without them those that it had and that name nothing now."""

    image: ImageName
    tags: tuple[TagName, ...] = ()


class ImagesWanted(AdminBody, frozen=True):
    """Images to bring."""

    images: Annotated[tuple[ImageName, ...], Meta(min_length=1, max_length=100)]


class RegistryChange(AdminBody, frozen=True):
    """PATCH of a connected registry."""

    properties: RegistryChangeProperties


class PermissionsChange(AdminBody, frozen=True):
    """Repositories to add to a connected registry and all its ancestors, and to remove from it and all its
    descendants."""

    add: Repositories = ()
    remove: Repositories = ()


class SettingsWanted(AdminBody, frozen=True):
    """`generatePassword` makes a new password of that number and thereby ends the old one; without it nothing changes.
    `parentEndpoint` is host[:port] of the parent where this node does not know it."""

    parent_protocol: Literal["http", "https"]
    generate_password: Literal[1, 2] | None = None
    parent_endpoint: Text | None = None


class NewScopeMapProperties(AdminBody, frozen=True):
    """Actions as `repositories/<name>/content/read`."""

    actions: Actions
    description: Description = ""


class NewScopeMap(AdminBody, frozen=True):
    """PUT of a scope map."""

    properties: NewScopeMapProperties


class ScopeMapChangeProperties(AdminBody, frozen=True):
    """`actions` replaces the whole list; the add and remove lists change it."""

    actions: Actions | UnsetType = UNSET
    description: Description | UnsetType = UNSET
    add_actions: Actions = ()
    remove_actions: Actions = ()


class ScopeMapChange(AdminBody, frozen=True):
    """PATCH of a scope map."""

    properties: ScopeMapChangeProperties


class NewTokenProperties(AdminBody, frozen=True):
    """Exactly one of `scopeMapId` and `actions`; with `actions` a scope map `<token>-scope-map` is made. Both
    passwords are generated unless `noPasswords`."""

    scope_map_id: Text | None = None
    actions: Actions | None = None
    status: EnabledStatus = "enabled"
    no_passwords: bool = False
    expiry: Moment | None = None
    expiration_in_days: Days | None = None


class NewToken(AdminBody, frozen=True):
    """PUT of a token."""

    properties: NewTokenProperties


class TokenChangeProperties(AdminBody, frozen=True):
    """A field that is left out stays."""

    scope_map_id: Text | UnsetType = UNSET
    status: EnabledStatus | UnsetType = UNSET


class TokenChange(AdminBody, frozen=True):
    """PATCH of a token."""

    properties: TokenChangeProperties


class CredentialsWanted(AdminBody, frozen=True):
    """Passwords to generate; both when none is named. `value` is a chosen password, for one of them."""

    passwords: tuple[PasswordName, ...] = ()
    expiry: Moment | None = None
    expiration_in_days: Days | None = None
    value: Annotated[str, Meta(max_length=1024)] | None = None


class CredentialsGone(AdminBody, frozen=True):
    """Passwords to end."""

    passwords: Annotated[tuple[PasswordName, ...], Meta(min_length=1)]
