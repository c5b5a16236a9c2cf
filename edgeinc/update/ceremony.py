"""Whose keys make a repository, and whose keys come next: what a person does by hand."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from securesystemslib.signer import Key, Signer

from edgeinc.errors import UsageError
from edgeinc.schema import RepoChange
from edgeinc.update.keys import Secret, generate, public_key, signer_of, signers_of
from edgeinc.update.repository import Repository
from edgeinc.update.roles import TOP, channel_role, kind_of, model_role

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
        UsageError: A role without a key, a name that is none, or a folder that is in use; nothing
            was made.
        MissingError, EdgeincError: As `signers_of`.
    """
    roles = [*TOP, *map(model_role, models), *map(channel_role, fleets)]
    keys: dict[str, list[Signer]] = {role: [] for role in roles}
    for role, uri in given:
        if role not in keys:
            raise UsageError(f"there is no role {role}", hint=f"roles: {', '.join(keys)}")
        keys[role] += signers_of([uri], secret=secret)
    repository = Repository(folder)
    repository.check_new()
    files: list[Path] = []
    if made is not None:
        if made.resolve().is_relative_to(folder.resolve()):
            raise UsageError(f"{made} would be offered to everyone", hint="keys lie elsewhere")
        files = [file for role in roles if not keys[role] for file in _files(made, role)]
        for file in files:
            if file.exists():
                raise UsageError(f"the key {file} exists", hint="name another folder with --keys")
        for role in roles:
            if not keys[role]:
                keys[role] = [generate(file) for file in _files(made, role)]
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
        UsageError, MissingError, EdgeincError: As `Repository.rotate` and `signers_of`.
    """
    kind_of(role)
    signers = signers_of(given, secret=secret)
    files: list[str] = []
    keys: list[Key] = []
    try:
        for uri in new:
            path = Path(uri.removeprefix("file:"))
            if uri.startswith("file:") and not path.exists():
                if path.resolve().is_relative_to(folder.resolve()):
                    raise UsageError(
                        f"{path} would be offered to everyone", hint="keys lie elsewhere"
                    )
                generate(path)
                files.append(str(path))
            keys.append(public_key(uri, secret=secret))
            if not _only_public(uri):
                signers.append(signer_of(uri, secret=secret))
        done = Repository(folder).rotate(
            role, keys, signers=signers, threshold=threshold, model=model
        )
    except BaseException:
        for file in files:  # a key that signs nothing is only in the way
            Path(file).unlink()
        raise
    return RepoChange(done.folder, done.versions, done.published, done.missing, tuple(files))


def _files(folder: Path, role: str) -> list[Path]:
    where = folder / _FOLDERS.get(role, "teams")
    if role == "root":
        return [where / f"root-{n}.pem" for n in range(1, _ROOT_KEYS + 1)]
    return [where / f"{role}.pem"]


def _only_public(uri: str) -> bool:
    path = Path(uri.removeprefix("file:"))
    return uri.startswith("file:") and b"PUBLIC KEY" in path.read_bytes()
