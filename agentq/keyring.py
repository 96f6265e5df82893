"""Keys: one's own, to sign with, and the public ones that are trusted here; each is a small file of one folder.

`NAME.key` is a private key (PEM, PKCS #8), for its owner's eyes only; `trusted/ID.json` a public one, with its name.
"""

import base64
import contextlib
import os
import re
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import AwareDatetime, ValidationError, field_validator

from agentq.errors import AgentqError, Conflict, Invalid, NotFound
from agentq.messages import Message, Name, explain, is_key, sha256_hex, utc_now

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

PREFIX = "agentq-ed25519"
KEY_BYTES = 32
LINE_LIMIT = 4096
_ID = re.compile(r"[0-9a-f]{16}")


class Key(Message):
    """A public key, whose it is, and since when it is trusted here, or is not any more."""

    name: Name
    public: str
    added: AwareDatetime
    revoked_at: AwareDatetime | None = None

    @field_validator("public")
    @classmethod
    def _is_a_key(cls, text: str) -> str:
        if len(_decoded(text)) != KEY_BYTES:
            raise ValueError(f"an Ed25519 key has {KEY_BYTES} bytes")
        return text

    @property
    def id(self) -> str:
        """The first 16 hex digits of the SHA-256 digest of the raw public key."""
        return sha256_hex(self.raw)[:16]

    @property
    def raw(self) -> bytes:
        """The public key's 32 bytes."""
        return _decoded(self.public)

    @property
    def line(self) -> str:
        """The key as it is handed over to those who shall trust it."""
        return f"{PREFIX} {self.public} {self.name}"


def _decoded(text: str) -> bytes:
    """The bytes of a text in base64; a ValueError for any other way of writing the same ones."""
    data = base64.b64decode(text, validate=True)
    if base64.b64encode(data).decode() != text:
        raise ValueError("it is not canonical base64")
    return data


def read_line(line: str, name: str | None = None) -> Key:
    """The key in a line as `keys new` prints it; `name` holds over the line's own. Raises Invalid."""
    words = line.split()
    if len(words) not in (2, 3) or words[0] != PREFIX:
        raise Invalid(
            f"{line[:60]!r} is no public key of agentq", hint=f"It is a line like: {PREFIX} BASE64 NAME (keys new)."
        )
    named = name or (words[2] if len(words) == 3 else None)
    if named is None:
        raise Invalid("the line does not say whose key it is", hint="Say it: --name NAME.")
    try:
        return Key(name=named, public=words[1], added=utc_now())
    except ValidationError as error:
        raise Invalid(f"the public key cannot be used: {explain(error)}", hint="Copy the line again.") from error


def read_lines(text: str, name: str | None = None) -> list[Key]:
    """The keys in a text, one a line; empty lines and those that begin with # are left out. Raises Invalid."""
    lines = [line.strip() for line in text.splitlines()]
    keys = [read_line(line[:LINE_LIMIT], name) for line in lines if line and not line.startswith("#")]
    if not keys:
        raise Invalid("there is no public key in it", hint=f"It is a line like: {PREFIX} BASE64 NAME (keys new).")
    return keys


def public_half(name: str, private: "Ed25519PrivateKey") -> Key:
    """The public half of a private key, as that name's."""
    raw = private.public_key().public_bytes_raw()
    return Key(name=name, public=base64.b64encode(raw).decode(), added=utc_now())


class Keyring:
    """The keys of one folder; what is wrong with the folder or a file in it raises `error`, which is Invalid."""

    def __init__(self, folder: Path, error: type[AgentqError] = Invalid) -> None:
        self.folder = folder
        self._trusted = folder / "trusted"
        self._error = error

    # ------------------------------------------------------------------ one's own

    def holds(self, name: str) -> bool:
        """Whether there is a private key of that name; costs a look at the folder, and imports nothing."""
        with contextlib.suppress(OSError):  # a folder that this user may not look into holds nothing of theirs
            return (self.folder / f"{name}.key").exists()
        return False

    def private(self, name: str) -> "Ed25519PrivateKey":
        """The private key of that name; one that others may read, or that is another user's, is refused."""
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        path = self.folder / f"{name}.key"
        try:
            key = load_pem_private_key(self._secret(path), password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise self._error(f"{path} is no private key that can be used here", hint=_OTHER_KEY) from error
        if not isinstance(key, Ed25519PrivateKey):
            raise self._error(f"{path} is a private key, but not of Ed25519", hint=_OTHER_KEY)
        return key

    def public(self, name: str) -> Key:
        """The public half of one's own key, as it is to be trusted."""
        return public_half(name, self.private(name))

    def own(self) -> list[Key]:
        """One's own keys, by name."""
        with self._told(self.folder):
            names = sorted(path.stem for path in self.folder.glob("*.key")) if self.folder.is_dir() else []
        return [self.public(name) for name in names if is_key(name, 64)]

    def make(self, name: str) -> tuple[Key, bool]:
        """Make a key and trust it here; False when there was one, which is answered and nothing overwritten."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

        path, new = self.folder / f"{name}.key", False
        if not self.holds(name):
            pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            new = self._create(path, pem)
        key, _ = self.trust(self.public(name))
        return key, new

    def _secret(self, path: Path) -> bytes:
        with self._told(path), path.open("rb") as stream:
            about = os.fstat(stream.fileno())
            if about.st_uid != os.geteuid():
                raise self._error(f"{path} belongs to another user", hint=f"Run: chown {os.geteuid()} {path}")
            if about.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
                raise self._error(f"{path} may be read by others", hint=f"Run: chmod 600 {path}")
            return stream.read()

    # ------------------------------------------------------------------ those that are trusted

    def check(self) -> None:
        """Raise unless keys can be trusted here: the folder is there, and nobody else can put a key into it."""
        for folder in (self.folder, self._trusted):
            with self._told(folder):
                self._must_be_ours(folder, folder.stat())

    def trusted(self, key_id: str) -> Key | None:
        """The key of that id, revoked or not, None for one that was never trusted here."""
        path = self._trusted / f"{key_id}.json"
        if not (_ID.fullmatch(key_id) and path.exists()):
            return None
        self.check()
        with self._told(path), path.open("rb") as stream:
            self._must_be_ours(path, os.fstat(stream.fileno()))
            return self._key(path, stream.read())

    def __iter__(self) -> Iterator[Key]:
        """All keys that are or were trusted here, by name, the oldest first."""
        with self._told(self._trusted):
            ids = [path.stem for path in self._trusted.glob("*.json")] if self._trusted.is_dir() else []
        return iter(sorted((key for key in map(self.trusted, ids) if key), key=lambda key: (key.name, key.added)))

    def trust(self, key: Key) -> tuple[Key, bool]:
        """Trust a key; False when it was before. Raises Conflict when it is trusted as another's, or was revoked."""
        path = self._trusted / f"{key.id}.json"
        new = self._create(path, key.to_json())
        known = self.trusted(key.id)
        assert known
        if known.name != key.name:
            raise Conflict(
                f"the key {key.id} is trusted as {known.name}'s, not {key.name}'s",
                hint=f"One key is one name's: agentq keys new {key.name} makes another.",
            )
        if known.revoked_at:
            raise Conflict(
                f"the key {key.id} of {key.name} was revoked {known.revoked_at:%Y-%m-%d %H:%M:%SZ}",
                hint=f"Make a new one: agentq keys new NAME. If it was revoked by mistake, remove {path} and repeat.",
            )
        return known, new

    def revoke(self, name_or_id: str) -> list[Key]:
        """Trust keys no more, and sign with none of them; safe to repeat. Raises NotFound."""
        meant = {key.id: key for key in (*self.own(), *self) if name_or_id in (key.name, key.id)}
        if not meant:
            raise NotFound(f"there is no key {name_or_id} in {self.folder}", hint="See: agentq keys list")
        return [self._revoke(key) for key in meant.values()]

    def _revoke(self, key: Key) -> Key:
        path, own = self._trusted / f"{key.id}.json", self.folder / f"{key.name}.key"
        revoked = key.model_copy(update={"revoked_at": key.revoked_at or utc_now()})
        if not self._create(path, revoked.to_json()):
            self._replace(path, revoked.to_json())
        if self.holds(key.name) and self.public(key.name).id == key.id:
            with self._told(own):
                own.rename(self.folder / f"{key.name}.{key.id}.revoked")
        return revoked

    def _key(self, path: Path, data: bytes) -> Key:
        try:
            key = Key.model_validate_json(data)
        except ValidationError as error:
            raise self._error(f"{path} is damaged: {explain(error)}", hint=_TRUST_AGAIN) from error
        if key.id != path.stem:
            raise self._error(f"{path} holds the key {key.id}, which is another one", hint=_TRUST_AGAIN)
        return key

    # ------------------------------------------------------------------ files

    def _must_be_ours(self, path: Path, about: os.stat_result) -> None:
        if about.st_uid not in (0, os.geteuid()):
            raise self._error(f"{path} belongs to another user", hint=f"Run: chown -R {os.geteuid()} {self.folder}")
        if about.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise self._error(f"{path} may be written by others", hint=f"Run: chmod go-w {path}")

    def _create(self, path: Path, data: bytes) -> bool:
        """Create a file whole, for its owner alone; False when there is one."""
        with self._told(path):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            whole = _write_aside(path, data)
            try:
                os.link(whole, path)
            except FileExistsError:
                return False
            finally:
                whole.unlink()
            return True

    def _replace(self, path: Path, data: bytes) -> None:
        with self._told(path):
            _write_aside(path, data).rename(path)

    @contextlib.contextmanager
    def _told(self, path: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._error(f"{path} cannot be used: {error.strerror}", hint=_FOLDER) from error


_OTHER_KEY = "Move it away, then: agentq keys new NAME"
_TRUST_AGAIN = "Remove it, and trust the key again: agentq keys trust LINE"
_FOLDER = "The folder is `keys` in agentq.toml or AGENTQ_KEYS; make a key with: agentq keys new NAME"


def _write_aside(path: Path, data: bytes) -> Path:
    """Write a file under another name beside it, durable and for its owner alone."""
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    return aside
