"""What makes a folder a device: who it is, whom it trusts, and an empty journal.

init(Path("/var/lib/edgeinc"), DeviceConfig(device="pole-7", ...), root_metadata)
"""

from __future__ import annotations

from pathlib import Path

from edgeinc import registry
from edgeinc.errors import UsageError
from edgeinc.schema import DeviceConfig, State, from_json, to_json
from edgeinc.update import journal
from edgeinc.update.disk import Disk, refusing
from edgeinc.update.roles import channel_path, model_role

CONFIG, TRUST, SLOTS, DOWNLOADS = "device.json", "root.json", "slots", "dl"


def init(root: Path, config: DeviceConfig, trust: bytes, *, disk: Disk | None = None) -> None:
    """Make a folder a device.

    Args:
        root: The folder; it may exist, and hold no device.
        config: What the device is.
        trust: The repository's first root metadata, as it was brought here.
        disk: Through which it is written.

    Raises:
        UsageError: It is a device already, or a name cannot be one.
        Refusal: The disk refused.
    """
    disk = disk or Disk()
    if (root / CONFIG).exists():
        raise UsageError(
            f"{root} is a device already", hint="see `edgeinc device status`, or choose another"
        )
    channel_path(config.fleet)  # refuses a name that is no part of a path
    model_role(config.model)
    known = registry.names("runtimes")
    if config.runtime not in known:
        raise UsageError(f"unknown runtime '{config.runtime}'", hint=", ".join(known))
    with refusing(f"make {root} a device"):
        root.mkdir(parents=True, exist_ok=True)
        for name in (SLOTS, DOWNLOADS):
            disk.make_folder(root / name)
        disk.write_atomic(root / TRUST, trust)
        journal.store(root, State(seq=0), disk)
        disk.write_atomic(root / CONFIG, to_json(config).encode())


def read_config(root: Path) -> DeviceConfig:
    """What makes a folder this device.

    Raises:
        UsageError: The folder is no device.
        EdgeincError: The file is damaged.
    """
    file = root / CONFIG
    if not file.is_file():
        raise UsageError(
            f"{root} is no device", hint="make it one with `edgeinc device init`, or name --root"
        )
    return from_json(DeviceConfig, file.read_bytes(), source=str(file))
