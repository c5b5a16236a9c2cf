"""Keys, thresholds and signatures of the roles of a repository, in memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from securesystemslib.exceptions import UnverifiedSignatureError
from securesystemslib.signer import Key, Signer
from tuf.api.exceptions import RepositoryError, UnsignedMetadataError
from tuf.api.metadata import DelegatedRole, Metadata, Role, Root, TargetFile, Targets

from edgeinc.errors import EdgeincError, UsageError
from edgeinc.schema import RepoRole
from edgeinc.update._tree import Published
from edgeinc.update.roles import LIFETIME_DAYS, kind_of, patterns


def unwritten(signed: Any) -> Metadata[Any]:
    """Metadata before its version 1."""
    signed.version = 0
    return Metadata(signed)


def target_of(path: str, content: bytes) -> TargetFile:
    """What metadata says of a file."""
    return TargetFile.from_data(path, content, ["sha256"])


def lifetime(role: str) -> timedelta:
    """How long what a role signs is good for."""
    return timedelta(days=LIFETIME_DAYS[kind_of(role)])


def advance(metadata: Metadata[Any], role: str, now: datetime) -> None:
    """Make it the next version, with a full lifetime and no signature."""
    metadata.signed.version += 1
    metadata.signed.expires = now + lifetime(role)
    metadata.signatures.clear()


def sign(metadata: Metadata[Any], signer: Signer) -> None:
    """Add a signature, which is looked at as a device will.

    Raises:
        EdgeincError: The key's token or service refuses, or signs something else.
    """
    key = signer.public_key
    try:
        signature = metadata.sign(signer, append=True)
        key.verify_signature(signature, metadata.signed_bytes)
    except UnsignedMetadataError as err:
        raise EdgeincError(str(err), hint="check your access to the key") from err
    except UnverifiedSignatureError as err:
        raise EdgeincError(
            f"what key {key.keyid[:8]} signed does not verify as {key.scheme}: no device would "
            "take it, and nothing was written",
            hint="the token or service signs in another way, or its key was replaced",
        ) from err


def sign_as(
    published: Published, role: str, metadata: Metadata[Any], signers: Iterable[Signer]
) -> None:
    """Sign with every key of a role that was given.

    Raises:
        UsageError: These are fewer than its threshold.
        EdgeincError: A key's token or service refuses.
    """
    wanted = published.delegator(role)[1].get_delegated_role(role)
    given = [signer for signer in signers if signer.public_key.keyid in wanted.keyids]
    if len({signer.public_key.keyid for signer in given}) < wanted.threshold:
        raise UsageError(
            f"{role} needs {_count(wanted.threshold, len(wanted.keyids))}, {len(given)} given",
            hint=f"add --key URI of {_short(wanted.keyids)}",
        )
    for signer in given:
        sign(metadata, signer)


def able(published: Published, role: str, signers: Iterable[Signer]) -> bool:
    """Whether the keys given are enough to sign as a role."""
    wanted = published.delegator(role)[1].get_delegated_role(role)
    given = {signer.public_key.keyid for signer in signers}
    return len(given & set(wanted.keyids)) >= wanted.threshold


def verifies(root: Metadata[Root], role: str, metadata: Metadata[Any]) -> bool:
    """Whether metadata is signed as a root asks."""
    try:
        root.signed.verify_delegate(role, metadata.signed_bytes, metadata.signatures)
    except (RepositoryError, ValueError):
        return False
    return True


def sign_root(new: Metadata[Root], old: Metadata[Root] | None, signers: Iterable[Signer]) -> bool:
    """Sign a root with every key given that it or the root before lists.

    Returns:
        Whether a signature was added that was not there.

    Raises:
        EdgeincError: A key's token or service refuses.
    """
    before = set(new.signatures)
    wanted = {key for root in (new, old or new) for key in root.signed.roles["root"].keyids}
    for signer in signers:
        if signer.public_key.keyid in wanted - before:
            sign(new, signer)
    return set(new.signatures) != before


def lacking(new: Metadata[Root], old: Metadata[Root] | None) -> list[str]:
    """Which signatures a root lacks before devices with the old root take it."""
    found = new.signed.get_root_verification_result(
        old.signed if old else None, new.signed_bytes, new.signatures
    )
    texts = []
    for which, result in (("old", found.first), ("new", found.second)):
        if result.missing:
            count = f"{result.missing} more signature{'s' if result.missing > 1 else ''}"
            texts.append(f"{count} of the {which} root by {_short(result.unsigned)}")
    return texts if old else texts[:1]


def give_keys(
    delegator: Root | Targets, role: str, keys: Sequence[Key], *, model: str = ""
) -> None:
    """Make `keys` all the keys of a role; a delegated role that is not there is made.

    Raises:
        UsageError: No key, or the same key twice.
    """
    ids = {key.keyid for key in keys}
    if not keys or len(ids) < len(keys):
        raise UsageError(f"{role} gets {len(keys)} keys, {len(ids)} different", hint="check --key")
    held = _delegated(delegator, role)
    if held is None:
        held = DelegatedRole(role, [], 1, terminating=True, paths=patterns(role, model=model))
        assert isinstance(delegator, Targets)
        assert delegator.delegations is not None
        assert delegator.delegations.roles is not None
        delegator.delegations.roles[role] = held
    for keyid in list(held.keyids):
        delegator.revoke_key(keyid, role)
    for key in keys:
        delegator.add_key(key, role)


def set_threshold(role: Role, threshold: int | None, name: str) -> None:
    """Set how many signatures a role needs; None leaves it.

    Raises:
        UsageError: Less than one, or more than the role has keys.
    """
    role.threshold = role.threshold if threshold is None else threshold
    refuse_threshold(role.threshold, len(role.keyids), name)


def refuse_threshold(threshold: int, keys: int, name: str) -> None:
    """Refuse a threshold that a role cannot meet with so many keys.

    Raises:
        UsageError: It is less than one, or more than these.
    """
    if not 1 <= threshold <= keys:
        raise UsageError(
            f"{name} cannot need {_count(threshold, keys)}",
            hint="give more keys, or another --threshold",
        )


def described(role: str, published: Published, now: datetime) -> RepoRole:
    """A role as it is published."""
    tops: dict[str, Metadata[Any]] = {
        "root": published.root,
        "snapshot": published.snapshot,
        "timestamp": published.timestamp,
    }
    signed = (tops.get(role) or published.roles[role]).signed
    held = published.delegator(role)[1].get_delegated_role(role)
    return RepoRole(
        role,
        signed.version,
        signed.expires.isoformat(),
        (signed.expires - now) / timedelta(days=1),
        held.threshold,
        tuple(held.keyids),
        tuple(getattr(held, "paths", None) or ()),
        len(signed.targets) if isinstance(signed, Targets) else 0,
    )


def _delegated(delegator: Root | Targets, role: str) -> Role | None:
    try:
        return delegator.get_delegated_role(role)
    except ValueError:
        return None


def _count(needed: int, keys: int) -> str:
    return f"{needed} of its {keys} key{'' if keys == 1 else 's'}"


def _short(keyids: Iterable[str] | Mapping[str, Key]) -> str:
    return ", ".join(keyid[:8] for keyid in keyids)
