"""What makes a folder a device: who it is, whom it trusts, and an empty journal.

init(Path("/var/lib/edgeinc"), DeviceConfig(device="pole-7", ...), root_metadata)
correct(Path("/var/lib/edgeinc"), DeviceConfig(...), root_metadata)     # the same, later
"""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

from edgeinc import registry
from edgeinc.errors import UsageError
from edgeinc.schema import DeviceConfig, State, to_json
from edgeinc.update import journal, serving, slots
from edgeinc.update.disk import Disk, refusing
from edgeinc.update.fetch import Source, refuse_no_root
from edgeinc.update.identity import CACHE, CONFIG, DOWNLOADS, SLOTS, TRUST
from edgeinc.update.lock import LOCK, alone
from edgeinc.update.manifest import read
from edgeinc.update.roles import channel_path, model_role

_DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")
_LONGEST_NAME = 128


def init(root: Path, config: DeviceConfig, trust: bytes, *, disk: Disk | None = None) -> None:
    """Make a folder a device.

    Args:
        root: The folder; it may exist, and hold no device.
        config: What the device is.
        trust: The repository's first root metadata, as it was brought here.
        disk: Through which it is written.

    Raises:
        UsageError: It is a device already, or something of it cannot be so.
        Refusal: The disk refused.
    """
    disk = disk or Disk()
    if (root / CONFIG).exists():
        raise UsageError(
            f"{root} is a device already",
            hint="see `edgeinc device status`; --replace corrects what it is",
        )
    _refuse(config, trust)
    with refusing(f"make {root} a device"):
        root.mkdir(parents=True, exist_ok=True)
        for name in (SLOTS, DOWNLOADS):
            disk.make_folder(root / name)
        _write(root, config, trust, disk)


def correct(root: Path, config: DeviceConfig, trust: bytes, *, disk: Disk | None = None) -> None:
    """Say anew what a device is; what it serves, and what it has seen, stays.

    Args:
        root: The device's folder.
        config: What it is from now on.
        trust: The root metadata that it begins with from now on.
        disk: Through which it is written.

    Raises:
        UsageError: It is no device, serves another model, or something of it cannot be so.
        Refusal: An update is running (`BUSY`), or the disk refused.
    """
    disk = disk or Disk()
    if not (root / CONFIG).exists():
        raise UsageError(f"{root} is no device", hint="leave out --replace to make it one")
    _refuse(config, trust)
    with refusing(f"correct {root}"):
        _write(root, config, trust, disk)


def _write(root: Path, config: DeviceConfig, trust: bytes, disk: Disk) -> None:
    """Write what a device is; the configuration last, so that a device is one as a whole.

    A folder that lost its configuration knows by its journal, or by its slots, what it serves.
    Floors stay in any case: they are bound to the keys of their repository.

    Raises:
        UsageError: It serves another model.
        Refusal: An update is running.
        OSError: The disk refused.
    """
    with alone(root / LOCK, f"an update of {root} is running"):
        found = journal.load(root)
        state = found or serving.state_from_slots(root)
        _refuse_other_model(root, state, config.model)
        file = root / TRUST
        if not file.is_file() or file.read_bytes() != trust:
            disk.remove_tree(root / CACHE)  # of the root before
            disk.write_atomic(file, trust)
        if found is None:
            journal.store(root, state, disk)
        disk.write_atomic(root / CONFIG, to_json(config).encode())


def _refuse(config: DeviceConfig, trust: bytes) -> None:
    """Refuse what could never be updated.

    Raises:
        UsageError: A name, an address, a runtime or a root that is none.
    """
    channel_path(config.fleet)  # refuses a name that is no part of a path
    model_role(config.model)
    name = config.device
    if not name.strip() or not name.isprintable() or len(name) > _LONGEST_NAME:
        raise UsageError(f"'{name}' cannot be the name of a device", hint="--name pole-7")
    known = registry.names("runtimes")
    if config.runtime not in known:
        raise UsageError(f"unknown runtime '{config.runtime}'", hint=", ".join(known))
    if not _DEVICE.fullmatch(config.provider):
        raise UsageError(f"unknown device '{config.provider}'", hint="auto, cpu, cuda or cuda:N")
    Source.at(config.repository)
    if "://" in config.repository and not urlsplit(config.repository).hostname:
        raise UsageError(f"'{config.repository}' names no server", hint="https://HOST/PATH")
    refuse_no_root(trust)


def _refuse_other_model(root: Path, state: State, model: str) -> None:
    """Refuse to take a folder with steps of one model for a device of another.

    Raises:
        UsageError: It serves another model.
    """
    served = state.current
    if served is None or slots.damage(root / SLOTS / served.bundle_id):
        return
    file = root / SLOTS / served.bundle_id / slots.MANIFEST
    serves = read(file.read_bytes(), str(file)).model
    if serves != model:
        raise UsageError(
            f"{root} serves step {served.step} of {serves}",
            hint=f"a device of {model} has a folder of its own: --root DIR",
        )
