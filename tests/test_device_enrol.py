"""What makes a folder a device, what cannot, and how it is corrected later."""

import json
from dataclasses import replace

import pytest
from devices import CONFIG, ROOT, World, channel, installed, served
from devices import Repository as Memory
from securesystemslib.signer import CryptoSigner
from stations import NEW, OLD, Station
from trust_parts import ROLES
from tuf.api.metadata import Metadata

from edgeinc.cli import main
from edgeinc.errors import UsageError
from edgeinc.update import journal
from edgeinc.update.enrol import correct, init
from edgeinc.update.identity import read_config, read_trust
from edgeinc.update.lock import LOCK, alone
from edgeinc.update.refusal import Refusal
from edgeinc.update.repository import Repository


@pytest.fixture
def world():
    return World(Memory([OLD], channel(OLD)))


@pytest.fixture
def root(tmp_path, world):
    return installed(tmp_path / "device", world, server=False)


def forged():
    """A root whose content is not what its keys signed."""
    metadata = Metadata.from_bytes(ROOT)
    metadata.signed.version = 7
    return metadata.to_bytes()


@pytest.mark.parametrize(
    ("fields", "trust", "line"),
    [
        ({}, b"", "no root metadata"),
        ({}, b"{}", "no root metadata"),
        ({}, b"\x89PNG", "no root metadata"),
        ({}, ROOT[:-40], "no root metadata"),
        ({}, forged(), "no root metadata"),
        ({"provider": "gpuu"}, ROOT, "unknown device 'gpuu'"),
        ({"provider": "cuda:x"}, ROOT, "unknown device 'cuda:x'"),
        ({"runtime": "onnx"}, ROOT, "unknown runtime 'onnx'"),
        ({"repository": "ftp://updates.example.org"}, ROOT, "ftp://updates.example.org"),
        ({"repository": "https://"}, ROOT, "names no server"),
        ({"device": " "}, ROOT, "name of a device"),
        ({"device": "pole\n7"}, ROOT, "name of a device"),
        ({"fleet": "../up"}, ROOT, "fleet"),
        ({"model": ""}, ROOT, "model"),
    ],
)
def test_what_could_never_be_updated_is_refused_at_once(tmp_path, fields, trust, line):
    folder = tmp_path / "device"
    with pytest.raises(UsageError) as found:
        init(folder, replace(CONFIG, **fields), trust)
    assert line in found.value.message
    assert found.value.hint
    assert not folder.exists()


def test_metadata_of_another_role_is_named(tmp_path, station):
    other = station.repository.folder / "metadata" / "timestamp.json"
    with pytest.raises(UsageError, match="metadata of timestamp"):
        init(tmp_path / "new", CONFIG, other.read_bytes())


def test_a_device_is_corrected_and_serves_on(root, world):
    before = journal.load(root)
    fixed = replace(CONFIG, device="pole-8", repository="https://new.example.org", provider="cpu")
    correct(root, fixed, ROOT)
    assert read_config(root) == fixed
    assert journal.load(root) == before
    assert served(root) == OLD.artifact
    with pytest.raises(UsageError, match="serves step 1 of erfnet"):
        correct(root, replace(fixed, model="bisenet"), ROOT)
    with pytest.raises(UsageError, match="unknown device"):
        correct(root, replace(fixed, provider="gpuu"), ROOT)
    with alone(root / LOCK, "an update"), pytest.raises(Refusal) as found:
        correct(root, fixed, ROOT)
    assert found.value.reason == "BUSY"
    assert read_config(root) == fixed


def test_a_device_that_serves_nothing_yet_may_get_another_model(tmp_path):
    init(tmp_path, CONFIG, ROOT)
    correct(tmp_path, replace(CONFIG, model="bisenet"), ROOT)
    assert read_config(tmp_path).model == "bisenet"
    with pytest.raises(UsageError, match="is no device"):
        correct(tmp_path / "other", CONFIG, ROOT)


def test_a_root_that_is_brought_again_forgets_nothing(station):
    """Whoever stole keys that were replaced since has no use of a device that is mended."""
    stick = station.copy("stick")
    with station.forge.edit("root") as root:
        root.version += 1
    assert station.update().change == "nothing"
    assert station.state.floors["root"].version == 2
    (station.root / "root.json").unlink()
    correct(station.root, read_config(station.root), station.trust)
    with station.refusing("REPLAY"):
        station.update(str(stick))
    assert station.update().change == "nothing"


def test_what_only_the_slots_know_is_not_forgotten_by_a_correction(station):
    for name in ("state.json", "state.prev.json"):
        (station.root / name).write_bytes(b"worn")
    config = read_config(station.root)
    with pytest.raises(UsageError, match="serves step 1 of erfnet"):
        correct(station.root, replace(config, model="bisenet"), station.trust)
    correct(station.root, replace(config, device="pole-8"), station.trust)
    assert station.state.current.step == 1
    assert station.state.floors["timestamp"].version > 1
    assert station.serves == OLD.artifact


@pytest.mark.parametrize("lost", ["", "configuration", "journals"])
def test_a_device_moves_to_another_repository_and_back(station, tmp_path, clock, lost):
    """Floors, also root's, and what lies in the cache are of the one that was seen."""
    for _ in range(3):
        with station.forge.edit("root") as root:
            root.version += 1
    old = (station.trust, station.place)
    assert station.update().change == "nothing"
    assert station.state.floors["root"].version == 4
    keys = {role: [CryptoSigner.generate_ed25519() for _ in station.keys[role]] for role in ROLES}
    repository = Repository(tmp_path / "repo", now=clock)
    repository.create(keys)
    other = Station(tmp_path, repository, str(repository.folder), keys, clock)
    other.publish(OLD, NEW)
    config = replace(read_config(station.root), repository=other.place)
    if lost == "configuration":
        (station.root / "device.json").unlink()
        init(station.root, config, other.trust)
    else:
        correct(station.root, config, other.trust)
    if lost == "journals":
        (station.root / "state.json").write_bytes(b"worn")
        (station.root / "state.prev.json").write_bytes(b"worn")
    station.trust, station.place = other.trust, other.place
    assert station.update().step == 2
    assert station.state.floors["root"].version == 1
    station.trust, station.place = old
    correct(station.root, replace(config, repository=station.place), station.trust)
    assert station.update().reason == "OLDER"


def test_a_root_that_is_gone_is_brought_again(root, tmp_path, capsys):
    (root / "root.json").unlink()
    trust = tmp_path / "1.root.json"
    trust.write_bytes(ROOT)
    with pytest.raises(SystemExit) as end:
        main(["device", "update", "--root", str(root)])
    said = capsys.readouterr().err
    assert (end.value.code, "root.json is gone" in said, "--replace" in said) == (2, True, True)
    words = ["--repo", "https://u.example.org", "--model", "erfnet", "--fleet", "poles"]
    words += ["--trust", str(trust), "--root", str(root)]
    with pytest.raises(SystemExit) as end:
        main(["device", "init", *words])
    assert (end.value.code, "--replace" in capsys.readouterr().err) == (2, True)
    with pytest.raises(SystemExit) as end:
        main(["device", "init", *words, "--replace", "--json"])
    assert end.value.code in (0, None)
    assert json.loads(capsys.readouterr().out)["repository"] == "https://u.example.org"
    assert read_trust(root) == ROOT
    assert served(root) == OLD.artifact
    (root / "root.json").unlink()  # the hint itself
    with pytest.raises(SystemExit) as end:
        main(["device", "init", "--replace", "--trust", str(trust), "--root", str(root)])
    assert end.value.code in (0, None)
    assert read_trust(root) == ROOT


def test_what_is_not_said_again_stays(root, capsys):
    before = replace(read_config(root), device="p7", runtime="openvino", provider="cpu")
    correct(root, before, ROOT)
    with pytest.raises(SystemExit) as end:
        main(["device", "init", "--replace", "--fleet", "masts", "--root", str(root)])
    assert end.value.code in (0, None)
    assert read_config(root) == replace(before, fleet="masts")
    assert read_trust(root) == ROOT
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main(["device", "init", "--fleet", "f", "--root", str(root.parent / "new")])
    assert (end.value.code, "missing option '--trust'" in capsys.readouterr().err) == (2, True)


def test_a_device_that_lost_its_configuration_serves_on_when_it_has_it_again(root):
    (root / "device.json").unlink()
    init(root, CONFIG, ROOT)
    assert served(root) == OLD.artifact
    assert journal.load(root).current.step == 1


def test_a_trust_that_cannot_be_read_is_named(tmp_path, capsys):
    for trust in (tmp_path / "gone.json", tmp_path):
        words = ["--repo", "r", "--model", "m", "--fleet", "f", "--trust", str(trust)]
        with pytest.raises(SystemExit) as end:
            main(["device", "init", *words, "--root", str(tmp_path / "device")])
        assert end.value.code == 2
        assert str(trust) in capsys.readouterr().err
