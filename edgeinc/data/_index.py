"""What every mask shows: pixels per id, read once and kept by content.

Rules: a mask is decoded once, in parallel, and never again while the bytes of its file stay the
same, wherever the file lies; what is kept is keyed by the hash of these bytes, so a changed mask
is read again and a moved dataset is not. Losing the cache costs time only.

    counts = count_pixels(dataset, dataset.ids("train"))       # (images, 256) int64
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from edgeinc import host
from edgeinc.data import Dataset, Mask
from edgeinc.errors import DataError
from edgeinc.progress import SILENT, Progress
from edgeinc.runs import write_atomic

__all__ = ["Counts", "count_pixels"]

Counts = npt.NDArray[np.int64]
"""(images, 256) pixels per dataset id."""

_CHUNK = 64
_SHARED = (".json", ".toml", ".txt")
"""Endings of files that many masks depend on: hashed once."""
_KEY = 16


def count_pixels(dataset: Dataset, ids: Sequence[str], *, progress: Progress = SILENT) -> Counts:
    """Pixels per dataset id of every mask.

    Raises:
        DataError: A mask is missing or damaged, or there are no images.
    """
    if not ids:
        raise DataError(f"no images in {dataset.root}", hint="see `edgeinc data check`")
    store, keys = _Store(dataset), _Keys(dataset)

    def row(image_id: str) -> tuple[bytes | None, npt.NDArray[np.int64]]:
        key = keys.of(image_id)
        known = store.get(key)
        return key, histogram(dataset.mask(image_id)) if known is None else known

    def rows(chunk: Sequence[str]) -> list[tuple[bytes | None, npt.NDArray[np.int64]]]:
        return [row(image_id) for image_id in chunk]

    counts = np.empty((len(ids), 256), np.int64)
    done = 0
    with ThreadPoolExecutor(host.cores()) as pool, progress.task("labels", len(ids), "img") as task:
        # In chunks: handing over single masks costs more than a known one takes.
        for found in pool.map(rows, _chunks(ids)):
            for key, line in found:
                counts[done] = line
                store.put(key, line)
                done += 1
            task.advance(len(found))
    store.save()
    return counts


def histogram(mask: Mask) -> npt.NDArray[np.int64]:
    """Pixels per id of one mask (H, W), as (256,) int64."""
    return np.bincount(mask.reshape(-1), minlength=256)


def _chunks(ids: Sequence[str]) -> Iterable[Sequence[str]]:
    return (ids[i : i + _CHUNK] for i in range(0, len(ids), _CHUNK))


class _Keys:
    """What a mask is made from, as a hash: its files, and the classes they are read as."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._shared: dict[Path, bytes] = {}
        self._readers: dict[int, bytes] = {}

    def of(self, image_id: str) -> bytes | None:
        """The key of an image; None where nothing is known of its mask."""
        files = self._dataset.mask_files(image_id)
        if not files:
            return None
        digest = hashlib.blake2b(self._reader(image_id), digest_size=_KEY)
        for path in files:
            try:
                digest.update(self._content(path))
            except OSError:
                return None  # reading the mask says what is wrong
            if path.suffix == ".json":  # one file may describe many images
                digest.update(image_id.encode())
        return digest.digest()

    def _content(self, path: Path) -> bytes:
        if path.suffix not in _SHARED:
            return path.read_bytes()
        if path not in self._shared:
            self._shared[path] = hashlib.blake2b(path.read_bytes(), digest_size=_KEY).digest()
        return self._shared[path]

    def _reader(self, image_id: str) -> bytes:
        source = self._dataset.source(image_id)
        if id(source) not in self._readers:
            what = repr((source.ref.name, source.background, source.labels))
            self._readers[id(source)] = what.encode()
        return self._readers[id(source)]


class _Store:
    """Counts by key, in one file for each format and class table."""

    def __init__(self, dataset: Dataset) -> None:
        table = repr((dataset.ref.name, dataset.background, dataset.labels)).encode()
        name = hashlib.blake2b(table, digest_size=8).hexdigest()
        self._file = host.cache_folder() / "index" / f"{dataset.ref.name}-{name}.npz"
        self._rows: dict[bytes, npt.NDArray[np.int64]] = {}
        self._changed = False
        # A damaged file is as good as none.
        with suppress(OSError, EOFError, ValueError, KeyError, IndexError, BadZipFile):
            with np.load(BytesIO(self._file.read_bytes()), allow_pickle=False) as stored:
                keys, where, pixels = stored["keys"].tobytes(), stored["where"], stored["pixels"]
            counts = np.zeros((len(keys) // _KEY, 256), np.int64)
            counts.reshape(-1)[where] = pixels
            self._rows = {keys[i * _KEY : (i + 1) * _KEY]: c for i, c in enumerate(counts)}

    def get(self, key: bytes | None) -> npt.NDArray[np.int64] | None:
        return None if key is None else self._rows.get(key)

    def put(self, key: bytes | None, counts: npt.NDArray[np.int64]) -> None:
        if key is not None and key not in self._rows:
            self._rows[key] = counts
            self._changed = True

    def save(self) -> None:
        """Write what is new; a folder that cannot be written to is no reason to fail."""
        if not self._changed:
            return
        counts = np.concatenate(list(self._rows.values()))
        where = np.flatnonzero(counts)
        keys = np.frombuffer(b"".join(self._rows), np.uint8)
        buffer = BytesIO()
        np.savez(buffer, keys=keys, where=where, pixels=counts[where])
        with suppress(OSError):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(self._file, buffer.getvalue())
