"""Access tokens of this node: JWT, signed with Ed25519, short-lived, valid only at this node.

The key is made at the first start and stays in `token-key.pem` beside the store, readable by the node's user. Every
process of the node signs and checks with it. A token's head is not read: the one head that this key writes is known,
and anything else is no token (security.md S27, S28). Times are looked at by the caller's clock.
"""

from __future__ import annotations

import base64
import hashlib
import os
import secrets
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec
from holdfast_core.errors import StoreRefused

from holdfast.errors import QueryInvalid, Unauthorized
from holdfast.log import log

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey


KEY_FILE = "token-key.pem"
#: of a token; with "Bearer " it fits into a header of 8 KiB
LONGEST = 8 * 1024 - 16
#: a token from another process may be younger than our clock by so much (s)
LEEWAY = 5.0
ALGORITHM: Literal["EdDSA"] = "EdDSA"


class GrantedResource(msgspec.Struct, frozen=True):
    """One resource in a token, as docker's tokens name it (references.md 1.19)."""

    type: str
    name: str
    actions: tuple[str, ...]


class Claims(msgspec.Struct, frozen=True, kw_only=True):
    """The claims of a token. `sub` is the name of the resource `token`, "" for a caller without login. `proof` is the
    mark of the password that was used, and changes when that is generated again. `aud` is the service and the node: the
    second one counts, because a node may have several names."""

    iss: str
    sub: str
    aud: tuple[str, str]
    iat: int
    nbf: int
    exp: int
    jti: str
    grant_type: str
    access: tuple[GrantedResource, ...] = ()
    proof: str = ""
    version: str = "1.0"


class Forged(Unauthorized):
    """Not a token of this node, or an expired one. The answer does not say which."""


class TokenSigner:
    """Makes and checks the tokens of one node: `node` is its id, `place` the directory of its store.

    The key and the libraries are loaded at the first use. That raises what `ensure_key` raises.
    """

    def __init__(self, node: str, place: Path) -> None:
        self.node, self._place = node, place

    @cached_property
    def _signer(self) -> Ed25519PrivateKey:
        return ensure_key(self._place)

    @cached_property
    def _head(self) -> str:
        """The only head that a token of this node has, as PyJWT writes it."""
        import jwt

        return jwt.encode({}, self._signer, ALGORITHM, {"kid": self._kid}).partition(".")[0]

    @cached_property
    def _verifier(self) -> Ed25519PublicKey:
        return self._signer.public_key()

    def _sign(self, payload: object) -> str:
        """A token with the one head (RFC 7515 7.1, RFC 8037 3.1). `jwt.encode` would make the head anew each time,
        which is a third of a login."""
        signed = f"{self._head}.{_base64(msgspec.json.encode(payload))}"
        return f"{signed}.{_base64(self._signer.sign(signed.encode()))}"

    @cached_property
    def _kid(self) -> str:
        return hashlib.sha256(self._signer.public_key().public_bytes_raw()).hexdigest()[:16]

    def issue(
        self,
        subject: str,
        service: str,
        now: float,
        life: float,
        *,
        access: tuple[GrantedResource, ...] = (),
        grant_type: str = "password",
        proof: str = "",
    ) -> str:
        """A token that begins at `now` (wall seconds) and lives `life` seconds. Raises `QueryInvalid` for one that is
        longer than a header may be."""
        start = int(now)
        claims = Claims(
            iss=self.node,
            sub=subject,
            aud=(service, self.node),
            iat=start,
            nbf=start,
            exp=start + int(life),
            jti=secrets.token_hex(16),
            grant_type=grant_type,
            access=access,
            proof=proof,
        )
        text = self._sign(claims)
        if len(text) > LONGEST:
            raise QueryInvalid("the scopes make a token that is too long; ask for fewer at once")
        return text

    def read(self, text: str, now: float) -> Claims:
        """Returns the claims of a token. Raises `Forged` unless this node made it and it is valid now."""
        if len(text) > LONGEST or text.count(".") != 2 or not text.startswith(f"{self._head}."):
            raise Forged("not a token of this node")
        claims = self._verified(text)
        if not claims.nbf - LEEWAY <= now < claims.exp:
            raise Forged("not a token of this node")
        return claims

    def _verified(self, text: str) -> Claims:
        import jwt

        try:
            _require_one_spelling(text)
            claims = jwt.decode(
                text,
                self._verifier,
                algorithms=[ALGORITHM],
                audience=self.node,
                issuer=self.node,
                options={
                    "verify_exp": False,
                    "verify_nbf": False,
                    "verify_iat": False,
                    "require": ["exp", "aud"],
                },
            )
            return msgspec.convert(claims, Claims)
        except (jwt.PyJWTError, ValueError) as error:  # msgspec.ValidationError is a ValueError
            raise Forged("not a token of this node") from error


def _base64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _require_one_spelling(text: str) -> None:
    """Raises ValueError for a signature with other letters for the same bytes: base64 has several, and a token that
    was changed is no token."""
    signature = text.rpartition(".")[2]
    raw = base64.b64decode(signature + "=" * (-len(signature) % 4), altchars=b"-_", validate=True)
    if _base64(raw) != signature:
        raise ValueError("another spelling")


def ensure_key(place: Path) -> Ed25519PrivateKey:
    """The key of the node whose store lies in `place`, made if there is none: 32 bytes of the system's randomness,
    mode 0600, on the disk when this returns. Two processes may do so at once. Raises OSError, and StoreRefused for a
    file that holds something else."""
    file = place / KEY_FILE
    if not file.exists():
        _create(file)
    mode = file.stat().st_mode & 0o777
    if mode & 0o077:  # a volume that sets modes by itself does so at each mount
        log.warning("key was readable by others", file=str(file), mode=f"{mode:04o}")
        file.chmod(0o600)
    return _load(file)


def _create(file: Path) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    pem = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    own = file.with_name(f"{file.name}.{secrets.token_hex(8)}")
    fd = os.open(own, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(fd, "wb") as out:
            out.write(pem)
            out.flush()
            os.fsync(out.fileno())
        try:
            os.link(own, file)  # the first process to link it has made the key
        except FileExistsError:
            return
        _sync(file.parent)
    finally:
        own.unlink()


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _load(file: Path) -> Ed25519PrivateKey:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    try:
        key = serialization.load_pem_private_key(file.read_bytes(), None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise StoreRefused(f"{file} holds no Ed25519 key; remove it and start again, and a new one is made")
    return key
