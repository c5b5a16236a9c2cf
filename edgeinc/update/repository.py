"""The publisher's side of trust: a repository whose every change is signed and appears at once.

A change is made and signed in memory, so that a missing key changes nothing; then it is written:
files, metadata of roles, snapshot, root, and `timestamp.json` last. Whoever reads meanwhile, or
after the publisher died in between, sees the state before.

    repo = Repository(Path("repo"))
    repo.add_targets("model-erfnet", {path: content}, signers=signers_of(["file:keys/teams", ...]))
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from copy import deepcopy
from datetime import datetime
from pathlib import Path
from typing import Any

from securesystemslib.signer import Key, Signer
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    Targets,
    Timestamp,
)

from edgeinc.clock import utc_now
from edgeinc.errors import EdgeincError, UsageError
from edgeinc.schema import RepoChange, RepoGarbage, RepoListing, RepoTarget
from edgeinc.update._garbage import garbage
from edgeinc.update._signing import (
    able,
    advance,
    described,
    give_keys,
    lacking,
    set_threshold,
    sign_as,
    sign_root,
    target_of,
    unwritten,
    verifies,
)
from edgeinc.update._tree import Published, Tree
from edgeinc.update.roles import TOP, kind_of

Clock = Callable[[], datetime]
_ONLINE = ("snapshot", "timestamp")


class Repository:
    """A repository in a folder.

    Args:
        folder: The folder that a web server offers.
        now: The clock; expiries count from it.
    """

    def __init__(self, folder: Path, *, now: Clock = utc_now) -> None:
        self.folder = folder
        self._tree = Tree(folder)
        self._now = now

    # ------------------------------------------------------------------------------ what is there

    def listing(self) -> RepoListing:
        """Every role and every signed file.

        Raises:
            UsageError, EdgeincError: As `Tree.read`.
        """
        published = self._tree.read()
        names = ["root", "targets", *sorted(published.roles.keys() - {"targets"}), *_ONLINE]
        targets = [
            RepoTarget(path, name, target.length, target.hashes["sha256"])
            for name, metadata in published.roles.items()
            for path, target in metadata.signed.targets.items()
        ]
        waiting = self._tree.waiting()
        return RepoListing(
            str(self.folder),
            tuple(described(name, published, self._now()) for name in names),
            tuple(sorted(targets, key=lambda target: target.path)),
            None if waiting is None else waiting.signed.version,
        )

    def versions(self) -> dict[str, int]:
        """The version of every role that signs files; `add_targets` tells whether it still holds.

        Raises:
            UsageError, EdgeincError: As `Tree.read`.
        """
        return self._tree.read().versions()

    def read(self, path: str) -> bytes | None:
        """The content of a signed file; None where no role signs such a path.

        Raises:
            UsageError, EdgeincError: As `Tree.read`, or the file is not as it was signed.
        """
        for metadata in self._tree.read().roles.values():
            target = metadata.signed.targets.get(path)
            if target is not None:
                file = self._tree.target_file(target)
                content = file.read_bytes() if file.is_file() else b""
                if target_of(path, content) != target:
                    raise EdgeincError(
                        f"{file} is not as it was signed", hint="restore the file from a copy"
                    )
                return content
        return None

    # ---------------------------------------------------------------------------------- changes

    def check_new(self) -> None:
        """Raise a `UsageError` when the folder holds something already."""
        self._tree.refuse_used()

    def create(self, keys: Mapping[str, Sequence[Signer]], *, threshold: int = 2) -> RepoChange:
        """Make the repository.

        Args:
            keys: Signers by role: the four top roles, and every model-NAME and channel-FLEET.
            threshold: Signatures that a root needs.

        Raises:
            UsageError: The folder is not empty, a role has no key, or root has fewer keys than
                its threshold.
            RunError: The disk is full. Then as ever when it fails, nothing is left of it.
        """
        self.check_new()
        for role in [*TOP, *keys]:
            if not keys.get(role):
                raise UsageError(
                    f"{role} has no key",
                    hint=f"add --keys DIR, a new folder to make keys in, or --key {role}=URI",
                )
        root: Metadata[Root] = unwritten(Root(consistent_snapshot=True))
        targets = Targets(delegations=Delegations({}, {}))
        for role, signers in keys.items():
            public = [signer.public_key for signer in signers]
            give_keys(root.signed if role in TOP else targets, role, public)
        set_threshold(root.signed.roles["root"], threshold, "root")
        advance(root, "root", self._now())
        given = [signer for signers in keys.values() for signer in signers]
        sign_root(root, None, given)
        roles = {role: unwritten(Targets()) for role in keys if role not in TOP}
        published = Published(
            root,
            unwritten(Snapshot()),
            unwritten(Timestamp()),
            {"targets": unwritten(targets), **roles},
        )
        with self._tree.made([*published.roles, "root", "snapshot"]):
            return self._commit(published, list(published.roles), given, root=root)

    def add_targets(
        self,
        role: str,
        files: Mapping[str, bytes],
        *,
        signers: Iterable[Signer],
        remove: Collection[str] = (),
        seen: Mapping[str, int] | None = None,
    ) -> RepoChange:
        """Sign files, in one step: devices see all of them or none.

        Args:
            role: model-NAME, channel-FLEET or site-NAME.
            files: Content by target path (`roles.release_path`, `roles.channel_path`).
            signers: Of the role, of snapshot and of timestamp.
            remove: Paths that are to be signed no longer.
            seen: `versions()` of when the caller looked at what is there; None where what is signed
                does not depend on it.

        Raises:
            UsageError: The role may not sign such a path, does not sign what is to be removed, or
                a signer is missing. Nothing was changed.
            EdgeincError: The repository is in use or damaged, or somebody signed as the role since.
        """
        with self._tree.lock():
            published = self._tree.read()
            published.refuse_changed(role, seen)
            delegated = published.delegator(role)[1].get_delegated_role(role)
            if not isinstance(delegated, DelegatedRole):
                raise UsageError(
                    f"{role} signs no files", hint="model-, channel- or site- roles do"
                )
            signed = published.roles[role].signed
            for path in files:
                if not delegated.is_delegated_path(path):
                    raise UsageError(
                        f"{role} may not sign {path}",
                        hint=f"only {', '.join(delegated.paths or ())}",
                    )
                signed.targets[path] = target_of(path, files[path])
            for path in remove:
                if signed.targets.pop(path, None) is None:
                    raise UsageError(f"{role} does not sign {path}", hint="see `edgeinc repo ls`")
            content = {self._tree.target_file(signed.targets[p]): data for p, data in files.items()}
            return self._commit(published, [role], list(signers), files=content)

    def resign(self, roles: Sequence[str], *, signers: Iterable[Signer]) -> RepoChange:
        """Sign roles again, with a full lifetime from now.

        Args:
            roles: Names; none means every role but root whose keys are given.
            signers: Of these roles and of timestamp; of snapshot, too, unless `roles` is timestamp.

        Raises:
            UsageError: No such role, root beside others, or a signer is missing.
            EdgeincError: The repository is in use or damaged.
        """
        signers = list(signers)
        with self._tree.lock():
            published = self._tree.read()
            if "root" in roles:
                if len(roles) > 1:
                    raise UsageError("root is signed alone", hint="name it in a command of its own")
                return self._new_root(published, self._next_root(published), signers)
            roles = roles or [
                *(role for role in published.roles if able(published, role, signers)),
                *_ONLINE,
            ]
            for role in roles:
                published.delegator(role)
            changed = [role for role in roles if role in published.roles]
            return self._commit(
                published, changed, signers, snapshot=bool(changed) or "snapshot" in roles
            )

    def rotate(
        self,
        role: str,
        keys: Sequence[Key],
        *,
        signers: Iterable[Signer],
        threshold: int | None = None,
        model: str = "",
    ) -> RepoChange:
        """Replace the keys of a role; a delegated role that is not there yet is made.

        A change of root, targets, snapshot or timestamp is a new root. It waits in `pending/`
        until enough keys of the old and of the new root have signed it (`sign`).

        Args:
            role: The role.
            keys: All its keys from now on.
            signers: What signs: the new keys of the role, those of the role that delegates to it,
                and snapshot and timestamp.
            threshold: Signatures the role needs; None leaves it.
            model: The model of a site that is new.

        Raises:
            UsageError: No such role, a threshold without enough keys, or a signer is missing.
            EdgeincError: The repository is in use or damaged, or a root waits already.
        """
        signers = list(signers)
        with self._tree.lock():
            published = self._tree.read()
            if kind_of(role) in TOP:
                new = self._next_root(published)
                give_keys(new.signed, role, keys)
                set_threshold(new.signed.roles[role], threshold, role)
                return self._new_root(published, new, signers)
            parent = published.parent(role, model)
            delegations = published.roles[parent].signed.delegations or Delegations({}, {})
            published.roles[parent].signed.delegations = delegations
            give_keys(published.roles[parent].signed, role, keys, model=model)
            set_threshold((delegations.roles or {})[role], threshold, role)
            published.roles.setdefault(role, unwritten(Targets()))
            return self._commit(published, [parent, role], signers)

    def sign(self, *, signers: Iterable[Signer]) -> RepoChange:
        """Add signatures to the root that waits, and publish it once it has enough.

        Args:
            signers: Keys of the old or the new root; to publish it, snapshot and timestamp, too.

        Raises:
            UsageError: No root waits, or none of the keys is one it waits for.
            EdgeincError: The repository is in use or damaged.
        """
        signers = list(signers)
        with self._tree.lock():
            published, new = self._tree.read(), self._tree.waiting()
            if new is None:
                raise UsageError("no root waits for a signature", hint="see `edgeinc repo ls`")
            return self._new_root(published, new, signers)

    def gc(self, *, dry_run: bool = False) -> RepoGarbage:
        """Remove files that no metadata in force names and that are older than any of it can be.

        Metadata is in force while it is current or has not expired. Roots always stay: a device
        that was off for years walks through all of them.

        Args:
            dry_run: Only say what would go.

        Raises:
            UsageError, EdgeincError: As `Tree.read`, or the repository is in use.
        """
        with self._tree.lock():
            files = garbage(self._tree, self._tree.read(), self._now())
            size = sum(file.stat().st_size for file in files)
            for file in [] if dry_run else files:
                file.unlink()
            names = tuple(file.relative_to(self.folder).as_posix() for file in files)
            return RepoGarbage(str(self.folder), names, size, not dry_run)

    # ------------------------------------------------------------------------------------ root

    def _next_root(self, published: Published) -> Metadata[Root]:
        """A copy of the root under the next version, without signatures.

        Raises:
            EdgeincError: Another root waits already.
        """
        if self._tree.waiting() is not None:
            raise EdgeincError(
                f"{self._tree.pending} waits for signatures",
                hint="finish it with `edgeinc repo sign`, or remove the file",
            )
        new: Metadata[Root] = Metadata(deepcopy(published.root.signed))
        advance(new, "root", self._now())
        return new

    def _new_root(
        self, published: Published, new: Metadata[Root], signers: Sequence[Signer]
    ) -> RepoChange:
        """Sign a root as far as the keys go; publish it once nothing is missing."""
        added = sign_root(new, published.root, signers)
        missing = lacking(new, published.root)
        if not missing:
            published.root = new
            changed = [] if verifies(new, "targets", published.roles["targets"]) else ["targets"]
            wanted = [*changed, *_ONLINE]
            missing = [f"the keys of {r}" for r in wanted if not able(published, r, signers)]
            if not missing:
                done = self._commit(published, changed, signers, root=new)
                self._tree.pending.unlink(missing_ok=True)
                return done
        if not added:
            raise UsageError(
                f"none of the keys given is one that root {new.signed.version} needs",
                hint=f"it needs {', '.join(missing)}",
            )
        self._tree.write(self._tree.pending, new.to_bytes())
        return RepoChange(str(self.folder), {"root": new.signed.version}, False, tuple(missing))

    # --------------------------------------------------------------------------------- writing

    def _commit(
        self,
        published: Published,
        changed: Sequence[str],
        signers: Sequence[Signer],
        *,
        files: Mapping[Path, bytes] | None = None,
        root: Metadata[Root] | None = None,
        snapshot: bool = True,
    ) -> RepoChange:
        """Sign what changed, and only then write it, what devices look at first as the last."""
        versions: dict[str, int] = {}
        writes = list((files or {}).items())

        def signed(role: str, metadata: Metadata[Any]) -> MetaFile:
            advance(metadata, role, self._now())
            sign_as(published, role, metadata, signers)
            content, version = metadata.to_bytes(), metadata.signed.version
            name = "timestamp.json" if role == "timestamp" else f"{version}.{role}.json"
            writes.append((self._tree.metadata / name, content))
            versions[role] = version
            return MetaFile.from_data(version, content, ["sha256"])

        meta = published.snapshot.signed.meta
        for role in dict.fromkeys(changed):
            meta[f"{role}.json"] = signed(role, published.roles[role])
        if snapshot:
            published.timestamp.signed.snapshot_meta = signed("snapshot", published.snapshot)
        if root is not None:
            versions["root"] = root.signed.version
            file = self._tree.metadata / f"{root.signed.version}.root.json"
            writes.append((file, root.to_bytes()))
        signed("timestamp", published.timestamp)
        for path, data in writes:
            self._tree.write(path, data)
        return RepoChange(str(self.folder), versions, True, ())
