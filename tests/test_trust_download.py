"""Files come whole or not at all, whatever the network does; nothing is fetched for ever."""

import errno
import itertools
import os
import re
import threading
import time
from pathlib import Path

import pytest
from trust_parts import (
    BLOB,
    CHANNEL,
    CONTENT,
    FAST,
    FLEET,
    MANIFEST,
    PORTAL,
    Device,
    cut,
    everyone,
    raw,
    refused,
    status,
    whole,
)

from edgeinc.errors import UsageError
from edgeinc.update.disk import Disk
from edgeinc.update.fetch import Gone, Limits, Source

SIZE = len(CONTENT[BLOB])
CONTENT_OF_CHANNEL = b'{"step": 1}'


def asked_for(server, name):
    return [path for path in server.asked if name in path]


def test_a_small_target_and_a_file_are_what_was_signed(device):
    trusted = device.refresh()
    assert trusted.target(MANIFEST) == CONTENT[MANIFEST]
    assert device.take() == CONTENT[BLOB]
    assert not (device.folder / "got.part").exists()


def test_a_file_that_is_here_is_not_fetched_again(device, server):
    device.take()
    device.take()
    assert len(asked_for(server, "full.zst")) == 1


def test_a_folder_gives_the_same_as_a_server(published, tmp_path, device):
    device.source = Source.at(str(published.folder))
    assert device.take() == CONTENT[BLOB]
    assert device.refresh().target(MANIFEST) == CONTENT[MANIFEST]
    (next(published.folder.rglob("*.full.zst"))).unlink()
    (device.folder / "got").unlink()
    with pytest.raises(Gone):
        device.take()


def cut_short(folder, monkeypatch):
    file = next(folder.rglob("*.full.zst"))
    os.truncate(file, SIZE - 1)
    return file


def too_long(folder, monkeypatch):
    file = next(folder.rglob("*.full.zst"))
    file.write_bytes(file.read_bytes() + b"more")
    return file


def of_other_bytes(folder, monkeypatch):
    file = next(folder.rglob("*.full.zst"))
    file.write_bytes(bytes(SIZE))
    return file


def endless_metadata(folder, monkeypatch):
    file = folder / "metadata" / "timestamp.json"
    file.write_bytes(bytes(10**6))
    return file


def gone(folder, monkeypatch):
    file = next(folder.rglob("*.full.zst"))
    file.unlink()
    return file


def without_its_head(folder, monkeypatch):
    file = folder / "metadata" / "timestamp.json"
    file.unlink()
    return file


def not_to_be_read(folder, monkeypatch):
    file, real = next(folder.rglob("*.full.zst")), Path.open

    def closed(path, *how):
        if path == file:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, *how)

    monkeypatch.setattr("edgeinc.update._transport.Path.open", closed)
    return file


def on_a_bad_sector(folder, monkeypatch):
    file = folder / "metadata" / "timestamp.json"
    file.unlink()
    file.symlink_to("/proc/self/mem")  # reading its first byte is an I/O error
    return file


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        *((cut_short, "CORRUPT"), (too_long, "CORRUPT"), (of_other_bytes, "CORRUPT")),
        *((endless_metadata, "CORRUPT"), (gone, "CORRUPT"), (without_its_head, "CORRUPT")),
        *((not_to_be_read, "DISK"), (on_a_bad_sector, "DISK")),
    ],
)
def test_a_damaged_stick_is_refused_at_once_and_no_network_is_blamed(
    published, device, monkeypatch, damage, reason
):
    device.source = Source.at(str(published.folder))
    damage(published.folder, monkeypatch)
    with refused(reason) as caught:
        device.take()
    assert device.slept == []
    said = f"{caught.value.message} {caught.value.hint}"
    assert not re.search(r"network|server|address|answers|HTTP|connection", said), said
    assert "copy the repository again" in caught.value.hint


def test_what_came_over_the_network_stays_when_a_stick_is_cut_short(published, device, server):
    server.fault("full.zst", cut(90_000), times=1)
    server.fault("full.zst", status(503))
    with refused("NETWORK"):
        device.take()
    device.source = Source.at(str(published.folder))
    file = next(published.folder.rglob("*.full.zst"))
    whole = file.read_bytes()
    file.write_bytes(whole[:50_000])
    with refused("CORRUPT"):
        device.take()
    assert (device.folder / "got.part").stat().st_size > 80_000
    file.write_bytes(whole)
    assert device.take() == CONTENT[BLOB]


def test_three_cuts_cost_three_resumptions_and_hardly_a_byte(device, server):
    for after in (50_000, 60_000, 70_000):
        server.fault("full.zst", cut(after), times=1)
    trusted = device.refresh()
    assert trusted.signs(BLOB)  # brings the metadata of its role
    before = trusted.received_bytes
    trusted.download(BLOB, device.folder / "got", budget_bytes=2 * SIZE)
    assert (device.folder / "got").read_bytes() == CONTENT[BLOB]
    assert len(asked_for(server, "full.zst")) == 4
    assert trusted.received_bytes - before < 1.05 * SIZE


def test_a_server_without_ranges_begins_anew(device, server):
    server.fault("full.zst", cut(100_000), times=1)
    server.fault("full.zst", whole)
    assert device.take() == CONTENT[BLOB]


@pytest.mark.parametrize("sixteenth", range(16))
def test_every_truncation_is_resumed_by_the_next_run(device, server, sixteenth):
    part = device.folder / "got.part"
    part.write_bytes(CONTENT[BLOB][: SIZE * sixteenth // 16])
    trusted = device.refresh()
    assert trusted.signs(BLOB)  # brings the metadata of its role
    before = trusted.received_bytes
    trusted.download(BLOB, device.folder / "got", budget_bytes=SIZE)
    assert (device.folder / "got").read_bytes() == CONTENT[BLOB]
    assert trusted.received_bytes - before == SIZE - SIZE * sixteenth // 16


@pytest.mark.parametrize(
    "left",
    [b"", b"\0" * 1000, b"\0" * SIZE, CONTENT[BLOB] + b"more", b"\0" * (SIZE - 1)],
    ids=["empty", "zeros", "zeros of full length", "too long", "one byte short"],
)
def test_what_a_crash_left_behind_is_never_taken_for_the_file(device, left):
    (device.folder / "got.part").write_bytes(left)
    assert device.take() == CONTENT[BLOB]


def test_what_came_stays_when_the_network_fails_for_good(device, server):
    server.fault("full.zst", cut(90_000), times=1)
    server.fault("full.zst", status(503))
    with refused("NETWORK"):
        device.take()
    assert 80_000 < (device.folder / "got.part").stat().st_size <= 90_000
    assert not (device.folder / "got").exists()


def test_a_storm_of_503_is_waited_out_with_growing_pauses(device, server):
    server.fault("full.zst", status(503), times=2)
    assert device.take() == CONTENT[BLOB]
    first, second = device.slept
    assert 0.005 <= first <= 0.015
    assert 0.01 <= second <= 0.03


def test_a_storm_that_does_not_end_ends_the_try(device, server):
    server.fault("full.zst", status(503))
    with refused("NETWORK"):
        device.take()
    assert len(asked_for(server, "full.zst")) == FAST.attempts


@pytest.mark.parametrize("code", [400, 403, 404, 410])
def test_a_4xx_is_for_ever_and_asked_once(device, server, code):
    server.fault("full.zst", status(code))
    with pytest.raises(Gone, match=str(code)):
        device.take()
    assert len(asked_for(server, "full.zst")) == 1


@pytest.mark.parametrize("code", [408, 429, 500, 502])
def test_what_may_pass_is_tried_again(device, server, code):
    server.fault("full.zst", status(code), times=1)
    assert device.take() == CONTENT[BLOB]


def test_a_login_page_instead_of_metadata_is_said_to_be_none(device, server):
    server.fault("timestamp", PORTAL)
    with refused("CORRUPT") as caught:
        device.refresh()
    assert "not metadata" in caught.value.message
    server.faults.clear()
    device.refresh()


def test_a_login_page_instead_of_a_file_is_refused_and_the_file_taken_later(device, server):
    server.fault("full.zst", PORTAL)
    with refused("NETWORK"):
        device.take()
    server.faults.clear()
    assert device.take() == CONTENT[BLOB]


def test_a_login_page_of_known_length_costs_nothing_that_came_before(device, server):
    (device.folder / "got.part").write_bytes(CONTENT[BLOB][:200_000])
    page = b"<html>log in</html>"
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(page)
    server.fault("full.zst", raw(page, head=head))
    with refused("NETWORK"):
        device.take()
    assert (device.folder / "got.part").stat().st_size == 200_000


def test_other_bytes_of_the_right_length_are_refused(device, published):
    file = next(published.folder.rglob("*.full.zst"))
    file.write_bytes(b"\0" * SIZE)
    with refused("CORRUPT"):
        device.take()
    assert list(device.folder.glob("got*")) == []


@pytest.mark.parametrize("name", ["full.zst", "timestamp.json", "2.root.json"])
def test_endless_data_is_cut_off(device, server, name):
    server.fault(name, raw(itertools.repeat(b"x" * 65_536)))
    trusted = device.trusted()
    with refused("CORRUPT"):
        trusted.refresh()
        trusted.download(BLOB, device.folder / "got", budget_bytes=10**9)
    assert trusted.received_bytes < 1_500_000


@pytest.mark.parametrize("name", ["full.zst", "timestamp.json"])
def test_a_slow_drip_ends_in_a_timeout(device, server, name):
    server.fault(name, raw(itertools.repeat(b"x"), pause=0.02))
    begun = time.monotonic()
    with refused("NETWORK") as caught:
        device.take(limits=Limits(1, 0.2, 2000, attempts=1))
    assert "too slow" in caught.value.message
    assert time.monotonic() - begun < 5


def test_headers_that_drip_end_in_a_timeout(device, server):
    server.fault("timestamp", raw(itertools.repeat(b"X"), pause=0.02, head=b"HTTP/1.1 200 "))
    begun = time.monotonic()
    with refused("NETWORK"):
        device.refresh(limits=Limits(silence_s=0.5, attempts=1))
    assert time.monotonic() - begun < 5


def test_silence_ends_in_a_timeout(device, server):
    over = threading.Event()
    server.fault("timestamp", lambda handler: over.wait(10))
    begun = time.monotonic()
    with refused("NETWORK"):
        device.refresh(limits=Limits(silence_s=0.3, attempts=1))
    assert time.monotonic() - begun < 5
    over.set()


def test_no_server_is_one_line(device):
    device.source = Source.at("http://127.0.0.1:9")
    with refused("NETWORK") as caught:
        device.refresh()
    assert "refused" in caught.value.message
    assert "0x" not in caught.value.message


def test_bytes_have_a_budget(device, server):
    def whole_but_cut(handler):
        whole(handler)
        handler.limit = 200_000

    server.fault("full.zst", whole_but_cut)
    with refused("BUDGET"):
        device.take(budget_bytes=3 * SIZE)
    assert len(asked_for(server, "full.zst")) == 4


def test_a_small_target_has_a_limit(device):
    with refused("CORRUPT"):
        device.refresh().target(BLOB, limit_bytes=1000)


def test_an_empty_target_is_a_file(device, published, keys):
    path = "models/erfnet/step-0002/empty"
    published.add_targets("model-erfnet", {path: b""}, signers=everyone(keys))
    assert device.take(path) == b""


class Watched(Disk):
    """Says what was durable when."""

    def __init__(self):
        self.done = []

    def append(self, path, data):
        self.done.append(("append", len(data)))
        super().append(path, data)

    def fsync(self, path):
        self.done.append(("fsync", path.name))
        super().fsync(path)

    def rename(self, old, new):
        self.done.append(("rename", new.name))
        super().rename(old, new)

    def fsync_folder(self, path):
        self.done.append(("fsync_folder", path.name))
        super().fsync_folder(path)


def test_every_4_mb_are_durable_and_the_name_comes_last(device, published, keys):
    path = "models/erfnet/step-0002/full.zst"
    content = b"0123456789abcdef" * (9 << 16)
    published.add_targets("model-erfnet", {path: content}, signers=everyone(keys))
    disk = Watched()
    trusted = device.refresh()
    trusted = device.trusted(disk=disk)
    trusted.refresh()
    disk.done.clear()
    trusted.download(path, device.folder / "got", budget_bytes=10**8)
    sizes = [size for what, size in disk.done if what == "append"]
    assert sum(sizes) == len(content)
    assert len(sizes) == 3
    assert max(sizes) < (4 << 20) + 65_537
    assert [what for what, _ in disk.done] == ["append", "fsync"] * 3 + ["rename", "fsync_folder"]


def test_what_was_cached_is_durable_after_a_refresh(device):
    disk = Watched()
    device.trusted(disk=disk).refresh()
    synced = {name for what, name in disk.done if what == "fsync"}
    assert {"1.root.json", "timestamp.json", "snapshot.json", "targets.json"} <= synced
    assert ("fsync_folder", "tuf") in disk.done


@pytest.mark.parametrize(
    "path",
    ["../x", "models/../x", "/models/x", "models//x", "models\\erfnet", "models/erfnet/a\nb", ""],
)
def test_tricks_with_paths_are_vouched_for_by_nobody(device, path):
    with refused("TRUST"):
        device.refresh().target(path)


def test_another_kind_of_url_is_refused():
    with pytest.raises(UsageError, match="ftp"):
        Source.at("ftp://example/repo")


def test_a_device_of_its_own_folder_is_begun_where_nothing_is(tmp_path, server, clock, device):
    fresh = Device(tmp_path / "new", server.url, clock)
    fresh.root = device.root
    fresh.folder.mkdir()
    assert fresh.take() == CONTENT[BLOB]


def test_a_small_target_that_was_fetched_is_not_fetched_again(device, server, published, keys):
    """Unless another one is signed, or what was kept is not that one any more."""
    for _ in range(3):
        assert device.refresh().target(CHANNEL) == CONTENT_OF_CHANNEL
    assert len(asked_for(server, "stable.json")) == 1
    for kept in device.cache.glob("small/*"):
        kept.write_bytes(b'{"step": 9}')
    assert device.refresh().target(CHANNEL) == CONTENT_OF_CHANNEL
    assert len(asked_for(server, "stable.json")) == 2
    published.add_targets(FLEET, {CHANNEL: b'{"step": 2}'}, signers=everyone(keys))
    assert device.refresh().target(CHANNEL) == b'{"step": 2}'
    many = {f"channels/north/{number}.json": b"%d" % number for number in range(9)}
    published.add_targets(FLEET, many, signers=everyone(keys))
    trusted = device.refresh()
    for path, content in many.items():
        assert trusted.target(path) == content
    assert len(list(device.cache.glob("small/*"))) == 4
