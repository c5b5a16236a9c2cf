"""The slots of a device: one folder per bundle, made once and never changed.

    slots/<bundle id>/
      installed.json   the hashes of the others, and what the device had seen when it was made
      manifest.json    as it was signed; its hash is the folder's name
      model.onnx       the artifact
      golden.npz       questions with their answers, where the bundle has them

Rules: a slot is made under another name and gets its own when all of it is durable; a slot whose
files are not what was signed is never used, only made again.

    folder = build(root / "slots", installed, {MODEL: artifact, MANIFEST: manifest}, Disk())
    damage(folder)      # ""
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path

from edgeinc.runs import sha256
from edgeinc.schema import Installed
from edgeinc.update import faults
from edgeinc.update.disk import Disk
from edgeinc.update.refusal import Refusal
from edgeinc.update.sealed import read_sealed, seal

INSTALLED, MANIFEST, MODEL, GOLDEN = "installed.json", "manifest.json", "model.onnx", "golden.npz"
_ID = re.compile(r"[0-9a-f]{64}")


def build(folder: Path, installed: Installed, files: Mapping[str, bytes], disk: Disk) -> Path:
    """Make a slot; when this returns it is durable.

    Args:
        folder: Where the slots are.
        installed: What shall lie in it.
        files: Content by name.
        disk: Through which it is written.

    Raises:
        Refusal: `CORRUPT`, a file is not what `installed` says.
        OSError: The disk refused; what was begun is removed, after a crash by `tidy`.
    """
    found = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    for name in sorted({*found, *installed.files}):
        if found.get(name) != installed.files.get(name):
            raise Refusal(
                "CORRUPT",
                f"{name} of step {installed.step} is not the file that was signed: sha256 "
                f"{found.get(name, 'no file')[:12]}, signed {installed.files.get(name, '')[:12]}",
                hint="repeat, which fetches it again; if it stays, publish the step again",
            )
    new, final = folder / f".{installed.bundle_id}.tmp", folder / installed.bundle_id
    disk.remove_tree(new)
    disk.make_folder(new)
    try:
        for name, content in {**files, INSTALLED: seal(installed)}.items():
            disk.write_new(new / name, content)
            disk.fsync(new / name)
    except OSError:
        with suppress(OSError):  # a full disk needs the space
            disk.remove_tree(new)
        raise
    faults.point("slot.written")
    disk.fsync_folder(new)
    disk.remove_tree(final)  # there only when it is damaged
    disk.rename(new, final)
    faults.point("slot.renamed")
    disk.fsync_folder(folder)
    faults.point("slot.built")
    return final


def damage(slot: Path) -> str:
    """What is wrong with a slot in a few words; "" when every byte is as it was signed.

    Raises:
        EdgeincError: It was made by a newer edgeinc, or this user may not read it.
    """
    if not slot.is_dir():
        return "the slot is gone"
    installed = read(slot)
    if installed is None:
        return f"{INSTALLED} is damaged"
    for name, expected in installed.files.items():
        try:
            found = sha256(slot / name)
        except OSError as err:
            return f"{name} cannot be read: {err.strerror or err}"
        if found != expected:
            return f"{name} is not what was signed"
    return ""


def read(slot: Path) -> Installed | None:
    """What lies in a slot; None when that is damaged, or of another slot.

    Raises:
        EdgeincError: It was made by a newer edgeinc.
    """
    installed = read_sealed(Installed, slot / INSTALLED)
    if installed is None or installed.bundle_id != slot.name:
        return None
    named = (installed.files.get(MANIFEST), installed.files.get(MODEL))
    return installed if named == (installed.bundle_id, installed.artifact_sha256) else None


def ids(folder: Path) -> tuple[str, ...]:
    """The bundles that have a slot, damaged or not."""
    if not folder.is_dir():
        return ()
    return tuple(sorted(p.name for p in folder.iterdir() if _ID.fullmatch(p.name)))


def tidy(folder: Path, keep: Collection[str], disk: Disk) -> None:
    """Remove every slot but some, and what a crash left of one that was being made.

    Raises:
        OSError: The disk refused.
    """
    gone = [path for path in sorted(folder.iterdir()) if path.name not in keep]
    for path in gone:
        disk.remove_tree(path)
    if gone:
        disk.fsync_folder(folder)
