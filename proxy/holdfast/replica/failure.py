"""What a failure means for an image: whether and when it is tried again."""

from __future__ import annotations

from holdfast_core.errors import Exhausted

from holdfast import errors
from holdfast.fill.errand import DiskFull
from holdfast.manifest import ManifestInvalid
from holdfast.parent.health import State
from holdfast.replica.copy import TooDeep
from holdfast.sync.backoff import Kind

_DENIED = (errors.ParentDenied,)
#: the first row that fits counts
_KINDS: tuple[tuple[tuple[type[Exception], ...], Kind], ...] = (
    # a certificate that ran out, somebody's portal: it ends when the parent is the parent again
    ((errors.ParentUntrusted,), "transient"),
    ((errors.SchemaOne,), "unsupported"),
    ((errors.ParentNotFound, errors.BlobUnknown, errors.ManifestUnknown), "gone"),
    ((errors.ParentBroken, ManifestInvalid, TooDeep), "wrong"),
)


def kind_of(error: Exception, parent: State) -> Kind:
    """The kind of a failure, as `holdfast.sync.backoff` has them; `parent` is the state of the parent now."""
    if isinstance(error, Exhausted | DiskFull):
        return "full"
    if parent == "offline":
        return "offline"
    if isinstance(error, _DENIED) or isinstance(error.__cause__, _DENIED):
        return "denied"
    return next((kind for kinds, kind in _KINDS if isinstance(error, kinds)), "transient")


def reason_of(error: Exception) -> str:
    """A sentence."""
    if isinstance(error, errors.Refusal):
        return error.message
    return str(error) or type(error).__name__
