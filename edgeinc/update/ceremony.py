"""Whose keys make a repository, and whose keys come next: what a person does by hand."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from securesystemslib.signer import Key, Signer

from edgeinc.errors import UsageError
from edgeinc.schema import RepoChange
from edgeinc.update._signing import refuse_threshold
from edgeinc.update._undo import taken_back
from edgeinc.update.keys import Secret, generate, public_key, signer_of, signers_of
from edgeinc.update.repository import Repository
from edgeinc.update.roles import TOP, channel_role, kind_of, model_role

_FILE = "file:"
_ROOT_KEYS = 3
_FOLDERS = {"root": "offline", "targets": "offline", "snapshot": "online", "timestamp": "online"}
"""Where a key lies that is made; those of models and fleets belong to their teams."""


def begin(
    folder: Path,
    *,
    models: Iterable[str],
    fleets: Iterable[str],
    made: Path | None,
    given: Sequence[tuple[str, str]],
    threshold: int = 2,
    secret: Secret | None = None,
) -> RepoChange:
    """Make a repository, and the keys that are not given.

    Args:
        folder: The repository.
        models: Models with a role of their own.
        fleets: Fleets with a role of their own.
        made: New folder for the keys that are made; None makes none.
        given: Roles and URIs of keys that are there.
        threshold: Signatures that a root needs.
        secret: Asks for the PIN of a token.

    Raises:
        UsageError: A role without a key, a name that is none, or a folder that is in use.
        MissingError, EdgeincError: As `signers_of`.
        RunError: The disk is full. Whatever is raised, nothing is left of what was made.
    """
    roles = [*TOP, *map(model_role, models), *map(channel_role, fleets)]
    keys: dict[str, list[Signer]] = {role: [] for role in roles}
    for role, uri in given:
        if role not in keys:
            raise UsageError(f"there is no role {role}", hint=f"roles: {', '.join(keys)}")
        keys[role] += signers_of([uri], secret=secret)
    repository = Repository(folder)
    repository.check_new()
    wanted: dict[str, list[Path]] = {}
    if made is not None:
        if made.resolve().is_relative_to(folder.resolve()):
            raise UsageError(f"{made} would be offered to everyone", hint="keys lie elsewhere")
        refuse_threshold(threshold, len(keys["root"]) or _ROOT_KEYS, "root")
        wanted = {role: _files(made, role) for role in keys if not keys[role]}
    files = [file for role in wanted for file in wanted[role]]
    for file in files:
        if file.exists():
            raise UsageError(f"the key {file} exists", hint="name another folder with --keys")
    with taken_back(*(file.parent for file in files)) as mine:
        for role in wanted:
            for file in wanted[role]:
                keys[role].append(generate(file))
                mine.append(file)
        done = repository.create(keys, threshold=threshold)
    return RepoChange(done.folder, done.versions, True, (), tuple(map(str, files)))


def rotate(
    folder: Path,
    role: str,
    *,
    new: Collection[str],
    given: Iterable[str],
    threshold: int | None = None,
    model: str = "",
    secret: Secret | None = None,
) -> RepoChange:
    """Replace the keys of a role.

    Args:
        folder: The repository.
        role: The role.
        new: URIs of all its keys from now on; a file that is not there is made.
        given: URIs of what signs beside them.
        threshold: Signatures the role needs; None leaves it.
        model: The model of a site that is new.
        secret: Asks for the PIN of a token.

    Raises:
        UsageError, MissingError, EdgeincError: As `Repository.rotate` and `signers_of`. Keys that
            were made are gone then, unless something that was written names them.
    """
    kind_of(role)
    signers = signers_of(given, secret=secret)
    paths = {uri: Path(uri.removeprefix(_FILE)) for uri in new if _is_file(uri)}
    keys: list[Key] = []
    fresh: list[str] = []
    with taken_back(*(path.parent for path in paths.values())) as mine:
        for uri in new:
            if uri in paths and not paths[uri].exists():
                if paths[uri].resolve().is_relative_to(folder.resolve()):
                    raise UsageError(
                        f"{paths[uri]} would be offered to everyone", hint="keys lie elsewhere"
                    )
                fresh.append(generate(paths[uri]).public_key.keyid)
                mine.append(paths[uri])
            keys.append(public_key(uri, secret=secret))
            if not _only_public(uri):
                signers.append(signer_of(uri, secret=secret))
        files = tuple(map(str, mine))
        try:
            done = Repository(folder).rotate(
                role, keys, signers=signers, threshold=threshold, model=model
            )
        except BaseException:
            if _are_named(folder, fresh):
                mine.clear()
            raise
    return RepoChange(done.folder, done.versions, done.published, done.missing, files)


def _are_named(folder: Path, keyids: Iterable[str]) -> bool:
    """Whether something that was written names one of the keys, which then may have to sign.

    A root is in force as soon as it is there, also where the timestamp could not follow.
    """
    written = [*(folder / "metadata").glob("*.json"), *(folder / "pending").glob("*.json")]
    try:
        content = b"".join(file.read_bytes() for file in written)
    except OSError:
        return True  # rather a key too many
    return any(keyid.encode() in content for keyid in keyids)


def _files(folder: Path, role: str) -> list[Path]:
    where = folder / _FOLDERS.get(role, "teams")
    if role == "root":
        return [where / f"root-{n}.pem" for n in range(1, _ROOT_KEYS + 1)]
    return [where / f"{role}.pem"]


def _is_file(uri: str) -> bool:
    return uri.startswith(_FILE) and uri != _FILE


def _only_public(uri: str) -> bool:
    path = Path(uri.removeprefix(_FILE))
    return _is_file(uri) and b"PUBLIC KEY" in path.read_bytes()
