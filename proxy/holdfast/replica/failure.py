"""What a failure means for an image: whether and when it is tried again."""

from __future__ import annotations

from holdfast_core.errors import Exhausted

from holdfast import errors
from holdfast.fill.errand import DiskFull
from holdfast.manifest import ManifestInvalid
from holdfast.parent.health import State
from holdfast.replica.copy import TooDeep
from holdfast.sync.backoff import Kind

_DENIED = (errors.ParentDenied, errors.ParentUntrusted)
_GONE = (errors.ParentNotFound, errors.BlobUnknown, errors.ManifestUnknown)
_WRONG = (errors.ParentBroken, ManifestInvalid, TooDeep)


def kind_of(error: Exception, parent: State) -> Kind:
    """The kind of a failure, as `holdfast.sync.backoff` has them; `parent` is the state of the parent now."""
    if isinstance(error, Exhausted | DiskFull):
        return "full"
    if parent == "offline":
        return "offline"
    if isinstance(error, _DENIED) or isinstance(error.__cause__, _DENIED):
        return "denied"
    if isinstance(error, errors.SchemaOne):
        return "unsupported"
    if isinstance(error, _GONE):
        return "gone"
    return "wrong" if isinstance(error, _WRONG) else "transient"


def reason_of(error: Exception) -> str:
    """A sentence."""
    if isinstance(error, errors.Refusal):
        return error.message
    return str(error) or type(error).__name__
