"""The names in a device's folder, and who it is; `edgeinc.update.enrol` makes one."""

from __future__ import annotations

from pathlib import Path

from edgeinc.errors import UsageError, as_typed
from edgeinc.schema import DeviceConfig, from_json

CONFIG, TRUST, SLOTS, DOWNLOADS, CACHE = "device.json", "root.json", "slots", "dl", "tuf"


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


def read_trust(root: Path) -> bytes:
    """The root metadata that a device begins with.

    Raises:
        UsageError: It is gone.
    """
    try:
        return (root / TRUST).read_bytes()
    except FileNotFoundError as err:
        raise UsageError(
            f"{root / TRUST} is gone, and nothing can be trusted without it",
            hint="bring it here again: "
            + as_typed("device", "init", "--replace", "--trust", "root.json", "--root", root),
        ) from err
