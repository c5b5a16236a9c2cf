"""Archives as data sets: unpacked once, never outside the cache, never half."""

import shutil
import stat
import struct
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgeinc.data import _archive, open_dataset
from edgeinc.data._check import check
from edgeinc.data._synth import synth
from edgeinc.errors import DataError
from edgeinc.progress import SILENT


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("EDGEINC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def toy(tmp_path) -> Path:
    synth(tmp_path / "toy", n=5, size=(32, 48), seed=0)
    return tmp_path / "toy"


def _zip(
    path: Path, source: Path, *, below: str = "", extra: dict[str, bytes] | None = None
) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(p for p in source.rglob("*") if p.is_file()):
            archive.write(file, below + str(file.relative_to(source)))
        for name, content in (extra or {}).items():
            archive.writestr(name, content)
    return path


def _nothing_unpacked(cache: Path) -> bool:
    return not cache.exists() or not [p for p in cache.rglob("*") if p.is_file()]


@pytest.mark.parametrize("below", ["", "export/", "export/data/"])
def test_an_archive_is_a_data_set(tmp_path, toy, cache, below):
    extra = {"__MACOSX/._a": b"what some systems add"} if below else {}
    path = _zip(tmp_path / "Export 1.ZIP", toy, below=below, extra=extra)
    data, plain = open_dataset(path), open_dataset(toy)
    assert data.labels == plain.labels
    assert data.ids("train") == plain.ids("train")
    first = data.ids("train")[0]
    assert (data.image(first) == plain.image(first)).all()
    assert cache in data.root.parents
    assert check(str(path)).ok


def test_a_run_remembers_the_archive_and_not_where_it_was_unpacked(tmp_path, toy, cache):
    path = _zip(tmp_path / "export.zip", toy)
    ref = open_dataset(path).ref
    assert ref.root == str(path)
    shutil.rmtree(cache)
    assert open_dataset(ref).ids("train") == open_dataset(toy).ids("train")


def test_an_archive_is_unpacked_once_by_its_content(tmp_path, toy, cache, monkeypatch):
    path = _zip(tmp_path / "a.zip", toy)
    root = open_dataset(path).root
    assert [p.name for p in (cache / "archives").iterdir()] == [root.name]
    assert len(root.name) == 64
    copy = tmp_path / "elsewhere.zip"
    copy.write_bytes(path.read_bytes())
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *_: pytest.fail("unpacked again"))
    assert open_dataset(copy).root == root


def test_progress_counts_the_files(tmp_path, toy):
    told = []

    class Told(type(SILENT)):
        def task(self, name, total, unit="it", done=0):
            told.append((name, total))
            return super().task(name, total, unit, done)

    open_dataset(_zip(tmp_path / "a.zip", toy), progress=Told())
    assert told == [("unpack a.zip", 5 + 5 + 3)]


@pytest.mark.parametrize(
    "name", ["../evil.txt", "a/../../evil.txt", "/evil.txt", "C:/evil.txt", "..\\evil.txt", "c:x"]
)
def test_a_path_that_leads_out_is_refused(tmp_path, toy, cache, name):
    path = _zip(tmp_path / "a.zip", toy, extra={name: b"x"})
    with pytest.raises(DataError, match=r"a\.zip holds '.*', a path that leads out") as caught:
        open_dataset(path)
    assert name.replace("\\", "/") in caught.value.message
    assert _nothing_unpacked(cache)
    assert not list(tmp_path.rglob("evil*"))


@pytest.mark.parametrize(
    ("kind", "says"), [(stat.S_IFLNK, "a symbolic link"), (stat.S_IFIFO, "a device")]
)
def test_links_and_devices_are_refused(tmp_path, cache, kind, says):
    path = tmp_path / "a.zip"
    info = zipfile.ZipInfo("images/link.png")
    info.external_attr = (kind | 0o777) << 16
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(DataError, match=rf"holds 'images/link\.png', which is {says}"):
        open_dataset(path)
    assert _nothing_unpacked(cache)


def test_names_of_other_systems(tmp_path, cache):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        # UTF-8 without saying so, and the other slash.
        archive.writestr(zipfile.ZipInfo("images\\straße.txt"), b"1")
    raw = path.read_bytes()
    for at in _positions(raw, b"PK\x03\x04"):
        raw = _without_utf8_flag(raw, at + 6)
    for at in _positions(raw, b"PK\x01\x02"):
        raw = _without_utf8_flag(raw, at + 8)
    path.write_bytes(raw)
    folder = _archive.unpack(path)
    assert [p.relative_to(folder).as_posix() for p in folder.rglob("*.txt")] == [
        "images/straße.txt"
    ]


def _positions(content: bytes, mark: bytes) -> list[int]:
    return [i for i in range(len(content)) if content.startswith(mark, i)]


def _without_utf8_flag(content: bytes, at: int) -> bytes:
    (flags,) = struct.unpack_from("<H", content, at)
    assert flags & 0x800
    return content[:at] + struct.pack("<H", flags & ~0x800) + content[at + 2 :]


def test_a_password_is_refused(tmp_path, toy, cache):
    path = _zip(tmp_path / "a.zip", toy)
    raw = bytearray(path.read_bytes())
    for mark, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        for found in _positions(bytes(raw), mark):
            raw[found + at] |= 1
    path.write_bytes(bytes(raw))
    with pytest.raises(DataError, match=r"a\.zip has a password") as caught:
        open_dataset(path)
    assert "unpack it yourself" in caught.value.hint
    assert _nothing_unpacked(cache)


@pytest.mark.parametrize("damage", ["text", "cut", "content", "empty file"])
def test_a_broken_archive_is_one_line_and_leaves_nothing(tmp_path, toy, cache, damage):
    path = _zip(tmp_path / "a.zip", toy)
    raw = bytearray(path.read_bytes())
    if damage == "content":
        start = raw.index(b"PK\x03\x04") + 60
        raw[start : start + 40] = b"\xff" * 40
    broken = {"text": b"not a zip", "cut": raw[: len(raw) // 2], "empty file": b""}
    path.write_bytes(bytes(broken.get(damage, raw)))
    with pytest.raises(DataError, match=r"a\.zip is not a zip archive, or it is damaged") as caught:
        open_dataset(path)
    assert "\n" not in caught.value.message
    assert _nothing_unpacked(cache)


def test_an_archive_that_grows_without_measure_is_refused(tmp_path, cache, monkeypatch):
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros.png", bytes(1 << 20))  # about a thousandth is stored
    monkeypatch.setattr(_archive, "SMALL_BYTES", 1 << 19)
    with pytest.raises(DataError, match=r"bomb\.zip would grow from .* GB to 0\.000977 GB"):
        open_dataset(path)
    assert _nothing_unpacked(cache)
    monkeypatch.setattr(_archive, "SMALL_BYTES", 1 << 20)
    assert _archive.unpack(path).is_dir()


def test_a_disk_that_is_too_small_is_said_before(tmp_path, toy, cache, monkeypatch):
    usage = _archive.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(_archive.shutil, "disk_usage", lambda _: usage._replace(free=10))
    with pytest.raises(DataError, match=r"a\.zip takes .* GB when unpacked, .* has .* GB free"):
        open_dataset(_zip(tmp_path / "a.zip", toy))
    assert _nothing_unpacked(cache)


def test_nothing_stays_of_what_was_interrupted(tmp_path, toy, cache, monkeypatch):
    path = _zip(tmp_path / "a.zip", toy)
    whole = zipfile.ZipFile.open
    opened = []

    def interrupted(self, info, *rest):
        opened.append(info)
        if len(opened) > 4:
            raise KeyboardInterrupt
        return whole(self, info, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(zipfile.ZipFile, "open", interrupted)
        with pytest.raises(KeyboardInterrupt):
            open_dataset(path)
    assert list((cache / "archives").iterdir()) == []
    assert open_dataset(path).ids("train")


def test_one_name_twice_is_refused(tmp_path, cache):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images/a.png", b"1")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("images/a.png", b"2")
    with pytest.raises(DataError, match=r"holds 'images/a\.png' twice"):
        open_dataset(path)


def test_an_archive_of_something_else(tmp_path, cache):
    path = tmp_path / "notes.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/notes.txt", b"hello")
    with pytest.raises(DataError, match=r"no dataset format recognised in .*notes\.zip"):
        open_dataset(path)
    with zipfile.ZipFile(path, "w"):
        pass
    with pytest.raises(DataError, match=r"notes\.zip is empty"):
        open_dataset(path)


def test_a_cache_that_cannot_be_written_says_how_to_choose_another(tmp_path, toy, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("EDGEINC_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match=r"a\.zip cannot be unpacked into") as caught:
        open_dataset(_zip(tmp_path / "a.zip", toy))
    assert "EDGEINC_CACHE" in caught.value.hint


def test_an_image_that_is_no_archive_is_not_unpacked(tmp_path):
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), np.zeros((4, 4), np.uint8))
    with pytest.raises(DataError, match=r"no dataset format recognised in .*a\.png"):
        open_dataset(path)
