"""Files that let the update system of an estate carry a copy of the repository to its devices.

The carrier brings a folder, and `edgeinc device update --from` decides, as it does without one:
what is not signed, older than what was seen, or unhealthy is refused, and the carrier is told so.

    write("mender", Path("carrier"))
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import get_args

from edgeinc.errors import UsageError
from edgeinc.runs import write_atomic
from edgeinc.schema import CarrierKind, RepoCarrier

MENDER = """\
#!/bin/sh
# Mender update module (version 3 of its interface): /usr/share/mender/modules/v3/edgeinc-model
# The payload is one file, a tar of a repository: metadata/ and targets/.
set -eu

state="$1"
files="$2"
before="$files/tmp/before"

case "$state" in
    ProvidePayloadFileSizes | NeedsArtifactReboot)
        echo "No"
        ;;
    SupportsRollback)
        echo "Yes"
        ;;
    Download)
        # Streams that nobody reads are stored in $files/files.
        ;;
    ArtifactInstall)
        edgeinc device status --quiet > "$before"
        # Mender's folder is root's; the device's commands go on as the owner of the device.
        repo="$(mktemp -d)"
        trap 'rm -rf "$repo"' EXIT
        for payload in "$files"/files/*; do
            tar -xof "$payload" -C "$repo"
        done
        chmod -R u=rwX,go=rX "$repo"
        # Fetches, proves, tries and commits, in the device's own transaction.
        edgeinc device update --from "$repo"
        ;;
    ArtifactCommit)
        edgeinc device verify
        ;;
    ArtifactRollback)
        # Only what this update changed is taken back, also after it was killed.
        if [ -f "$before" ] && [ "$(edgeinc device status --quiet)" != "$(cat "$before")" ]; then
            edgeinc device rollback
        fi
        ;;
esac
"""

RAUC_CONFIG = """\
# Add these to /etc/rauc/system.conf.
[artifacts.edgeinc]
path=/var/lib/edgeinc-repo
type=trees

[handlers]
post-install=/usr/lib/edgeinc/rauc-post-install
"""

RAUC_MANIFEST = """\
# manifest.raucm of a bundle, beside repo.tar: tar -C REPO -cf repo.tar metadata targets
[update]
compatible=YOUR-SYSTEM
version=1

[bundle]
format=verity

[image.edgeinc/repo]
filename=repo.tar
convert=tar-extract
"""

RAUC_HANDLER = """\
#!/bin/sh
# /usr/lib/edgeinc/rauc-post-install
# RAUC has put the tree "repo" there, which is a copy of a repository: metadata/ and targets/.
# It runs this as root; the command goes on as the owner of the device, who has to read the tree.
set -eu

exec edgeinc device update --from /var/lib/edgeinc-repo/repo
"""

GREENGRASS = {
    "RecipeFormatVersion": "2020-01-25",
    "ComponentName": "edgeinc.model",
    "ComponentVersion": "1.0.0",
    "ComponentDescription": "A copy of a repository of edgeinc, and the update from it.",
    "ComponentPublisher": "edgeinc",
    "Manifests": [
        {
            "Platform": {"os": "linux"},
            "Lifecycle": {
                "Install": {
                    "RequiresPrivilege": True,
                    "Timeout": 1800,
                    "Script": "edgeinc device update --from {artifacts:decompressedPath}/repo",
                }
            },
            "Artifacts": [
                {
                    "Uri": "s3://BUCKET/edgeinc/repo.zip",
                    "Unarchive": "ZIP",
                    # The command goes on as the owner of the device.
                    "Permission": {"Read": "ALL"},
                }
            ],
        }
    ],
}

_SCRIPT, _FILE = 0o755, 0o644
_FILES: Mapping[CarrierKind, Mapping[str, tuple[str, int]]] = {
    "mender": {"edgeinc-model": (MENDER, _SCRIPT)},
    "rauc": {
        "system.conf": (RAUC_CONFIG, _FILE),
        "rauc-post-install": (RAUC_HANDLER, _SCRIPT),
        "manifest.raucm": (RAUC_MANIFEST, _FILE),
    },
    "greengrass": {"recipe.json": (json.dumps(GREENGRASS, indent=2) + "\n", _FILE)},
}
"""Text and mode of each file."""


def write(kind: str, folder: Path) -> RepoCarrier:
    """Write the files of a carrier.

    Args:
        kind: mender, rauc or greengrass.
        folder: Where to; it is made, and other files in it stay.

    Raises:
        UsageError: No such carrier, or a file is there that says something else.
        RunError: The disk is full.
    """
    kinds: dict[str, CarrierKind] = {name: name for name in get_args(CarrierKind)}
    if kind not in kinds:
        raise UsageError(f"unknown carrier '{kind}'", hint=", ".join(kinds))
    files = _FILES[kinds[kind]]
    for name, (text, _) in files.items():
        there = folder / name
        if there.exists() and there.read_bytes() != text.encode():
            raise UsageError(f"{there} exists and was changed", hint="name another folder with -o")
    folder.mkdir(parents=True, exist_ok=True)
    for name, (text, mode) in files.items():
        write_atomic(folder / name, text.encode())
        (folder / name).chmod(mode)
    return RepoCarrier(kinds[kind], str(folder), tuple(files))
