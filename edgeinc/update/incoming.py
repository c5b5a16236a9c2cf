"""From what a channel asks for to a slot that holds it: read, plan, fetch, unpack, build.

Nothing here writes the journal or decides what is served. A delta that does not give what was
signed costs the full file and no more; a full file that does not is refused.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from edgeinc import host
from edgeinc.errors import UpdateError, as_typed
from edgeinc.schema import Blob, Channel, DeviceConfig, Installed, Manifest
from edgeinc.update import _zstd, delta, engines, faults, slots
from edgeinc.update.disk import Disk
from edgeinc.update.identity import DOWNLOADS, SLOTS
from edgeinc.update.manifest import bundle_id, read, refuse_other_classes
from edgeinc.update.refusal import Refusal
from edgeinc.update.source import SignedFiles

GOLDEN_LIMIT = 64 << 20
BUDGET = 3
"""A bundle may cost this many times the bytes of its full file and golden answers in a day."""
MARGIN_BYTES = 4 << 20
"""Left free beside what an update writes, for the journal and the metadata."""


@dataclass(frozen=True)
class Incoming:
    """A manifest that was signed, and its bytes."""

    bundle_id: str
    content: bytes
    manifest: Manifest


@dataclass(frozen=True)
class Plan:
    """How the artifact comes here. `blob`: None where a sound slot holds it; `base`: of a delta."""

    way: Literal["held", "delta", "full"]
    blob: Blob | None
    base: Path | None

    @property
    def bytes(self) -> int:
        """To be transferred for the artifact."""
        return self.blob.bytes if self.blob else 0


def read_incoming(source: SignedFiles, channel: Channel) -> Incoming:
    """The manifest that a channel names.

    Raises:
        Refusal: `CORRUPT`, it is another one than the channel means; `INCOMPATIBLE`, it cannot be
            read.
        UpdateError: See `SignedFiles.target`.
    """
    content = source.target(channel.manifest)
    if bundle_id(content) != channel.bundle_id:
        raise Refusal(
            "CORRUPT",
            f"{channel.manifest} is not the bundle the channel names: sha256 "
            f"{bundle_id(content)[:12]}, named {channel.bundle_id[:12]}",
            hint="the operator of the channel has to promote the step again",
        )
    try:
        manifest = read(content, channel.manifest)
    except UpdateError as err:
        raise Refusal("INCOMPATIBLE", err.message, hint=err.hint) from err
    return Incoming(channel.bundle_id, content, manifest)


def refuse_unfit(
    new: Incoming, channel: Channel, config: DeviceConfig, served: Manifest | None
) -> None:
    """Refuse a bundle that is not for this device; nothing of it was fetched yet.

    Args:
        new: What shall be installed.
        channel: What names it.
        config: Of this device.
        served: The manifest of what is served now.

    Raises:
        Refusal: `INCOMPATIBLE`.
    """
    manifest, needs = new.manifest, new.manifest.requires
    problem, hint = "", "the publisher has to publish it again"
    if (manifest.model, manifest.step) != (channel.model, channel.step):
        problem = (
            f"the channel asks for step {channel.step} of {channel.model}, its manifest is of "
            f"step {manifest.step} of {manifest.model}"
        )
    elif needs.runtimes and config.runtime not in needs.runtimes:
        problem = f"it needs {' or '.join(needs.runtimes)}, this device has {config.runtime}"
        other = as_typed("device", "init", "--replace", "--runtime", needs.runtimes[0])
        hint = f"where that is installed: {other}"
    elif _numbers(needs.edgeinc) > _numbers(host.installed("edgeinc")):
        problem = f"it needs edgeinc {needs.edgeinc}, this is {host.installed('edgeinc')}"
        hint = "pip install --upgrade edgeinc"
    if problem:
        raise Refusal(
            "INCOMPATIBLE", f"step {manifest.step} is not for this device: {problem}", hint=hint
        )
    if served is not None:
        try:
            refuse_other_classes(served, manifest)
        except UpdateError as err:
            raise Refusal("INCOMPATIBLE", err.message, hint=err.hint) from err


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))


def make_plan(new: Incoming, folder: Path, bases: Mapping[str, Path]) -> Plan:
    """The way with the fewest bytes.

    Args:
        new: What shall be installed.
        folder: Where the slots are.
        bases: Artifacts that are held and sound, by hash.
    """
    if not slots.damage(folder / new.bundle_id):
        return Plan("held", None, None)
    full = next(b for b in new.manifest.blobs if b.kind == "full")
    deltas = [b for b in new.manifest.blobs if b.kind == "delta" and b.base_sha256 in bases]
    best = min([full, *deltas], key=lambda b: b.bytes)
    if best.kind == "delta":
        return Plan("delta", best, bases[best.base_sha256])
    return Plan("full", full, None)


def refuse_no_space(root: Path, new: Incoming, plan: Plan, runtime: str) -> None:
    """Refuse before anything is fetched for which there is no room.

    Args:
        root: The device's folder.
        new: What is installed.
        plan: How.
        runtime: Of the device; one that needs an engine needs room for it.

    Raises:
        Refusal: `NO_SPACE`.
    """
    golden = sum(b.bytes for b in new.manifest.blobs if b.kind == "golden")
    engine = engines.SPACE * new.manifest.artifact.bytes if engines.needed(runtime) else 0
    need = plan.bytes + new.manifest.artifact.bytes + engine + 2 * golden + MARGIN_BYTES
    need = max(need, new.manifest.requires.free_bytes)
    if shutil.disk_usage(root).free < need:
        raise Refusal(
            "NO_SPACE",
            # Without what is free: the same refusal shall have the same words.
            f"step {new.manifest.step} needs {need / 1e6:.1f} MB free in {root}",
            hint="free some space, then repeat; what is served stays served",
        )


def install(root: Path, new: Incoming, plan: Plan, installed: Installed, carrier: Carrier) -> None:
    """Fetch what a plan says and make the slot; when this returns it is durable.

    Args:
        root: The device's folder.
        new: What is installed.
        plan: How; not `held`.
        installed: What the slot says of itself; hashes are filled in.
        carrier: Brings the bytes.

    Raises:
        Refusal: `CORRUPT`, this is not what was signed; what was fetched is removed.
        UpdateError: See `SignedFiles.download`.
        OSError: The disk refused.
    """
    forget_others(root, new.manifest, carrier.disk)
    files = {slots.MANIFEST: new.content}
    hashes = {slots.MANIFEST: new.bundle_id, slots.MODEL: new.manifest.artifact.sha256}
    for blob in new.manifest.blobs:
        if blob.kind == "golden":
            zstd = blob.codec == "zstd"
            plain = _unpacked(carrier, blob, GOLDEN_LIMIT) if zstd else carrier.fetched(blob)
            files[slots.GOLDEN] = plain
            hashes[slots.GOLDEN] = hashlib.sha256(plain).hexdigest()
    files[slots.MODEL] = _artifact(new.manifest, plan, carrier)
    slots.build(root / SLOTS, replace(installed, files=hashes), files, carrier.disk)


def _artifact(manifest: Manifest, plan: Plan, carrier: Carrier) -> bytes:
    """The artifact's bytes, which have the signed hash."""
    full = next(b for b in manifest.blobs if b.kind == "full")
    if plan.base is not None and plan.blob is not None:
        try:
            return delta.decode(
                plan.base.read_bytes(),
                carrier.fetched(plan.blob),
                expected_sha256=manifest.artifact.sha256,
                limit_bytes=manifest.artifact.bytes,
            )
        except UpdateError as err:
            if isinstance(err, Refusal) and err.reason != "CORRUPT":
                raise  # the network or the budget, which the full file needs more of
            carrier.forget(plan.blob)
    content = _unpacked(carrier, full, manifest.artifact.bytes)
    if hashlib.sha256(content).hexdigest() != manifest.artifact.sha256:
        carrier.forget(full)
    return content  # `slots.build` refuses it then


def _unpacked(carrier: Carrier, blob: Blob, limit: int) -> bytes:
    packed = carrier.fetched(blob)
    try:
        return _zstd.decompress(packed, limit=limit)
    except UpdateError as err:
        carrier.forget(blob)
        raise Refusal("CORRUPT", err.message, hint=err.hint) from err


class Carrier:
    """Brings blobs into the folder of downloads.

    Args:
        root: The device's folder.
        source: Of the bytes.
        disk: Through which they are written.
        budget_bytes: All of them together may cost this much, so that no fault makes a device
            fetch without end.
    """

    def __init__(self, root: Path, source: SignedFiles, disk: Disk, budget_bytes: int) -> None:
        self._folder, self._source, self.disk = root / DOWNLOADS, source, disk
        self._last = source.received_bytes + budget_bytes

    def fetched(self, blob: Blob) -> bytes:
        """The bytes of a blob, which have the signed hash.

        Raises:
            Refusal: `CORRUPT`, they have not; the file is removed. `BUDGET`, it costs too much.
            UpdateError: See `SignedFiles.download`.
            OSError: The disk refused.
        """
        path = self._folder / blob.sha256
        if not path.exists():
            left = self._last - self._source.received_bytes
            if left <= 0:
                raise Refusal(
                    "BUDGET",
                    f"no more bytes are spent on it today: {blob.target} was begun too often",
                    hint="look at the connection; it is tried again after a day, or at once by "
                    "edgeinc device update --retry",
                )
            self._source.download(blob.target, path, budget_bytes=left)
        faults.point("blob.downloaded")
        with path.open("rb") as file:
            content = file.read(blob.bytes + 1)
        if hashlib.sha256(content).hexdigest() != blob.sha256:
            self.disk.remove(path)
            raise Refusal(
                "CORRUPT",
                f"{blob.target} is not the file that was signed",
                hint="repeat, which fetches it again",
            )
        return content

    def forget(self, blob: Blob) -> None:
        """Remove what was fetched of a blob.

        Raises:
            OSError: The disk refused.
        """
        self.disk.remove(self._folder / blob.sha256)


def budget_bytes(manifest: Manifest) -> int:
    """What a bundle may cost in a day."""
    return BUDGET * sum(b.bytes for b in manifest.blobs if b.kind != "delta")


def forget_others(root: Path, manifest: Manifest | None, disk: Disk) -> None:
    """Remove downloads, also begun ones, except those of one bundle.

    Raises:
        OSError: The disk refused.
    """
    mine = tuple(b.sha256 for b in manifest.blobs) if manifest else ()
    for path in sorted((root / DOWNLOADS).iterdir()):
        if not mine or not path.name.startswith(mine):
            disk.remove_tree(path)
