"""A device, its command line and a real repository: signed files in, a proven network out."""

import json

import pytest
from devices import CHANNEL, GATES, bundle, channel
from networks import SIZE, brightest, network

from edgeinc.cli import main
from edgeinc.runtimes import _golden
from edgeinc.update.manifest import write
from edgeinc.update.repository import Repository


@pytest.fixture
def repository(tmp_path):
    """Publishes a step and asks the fleet for it."""
    signers = pytest.importorskip("securesystemslib.signer").CryptoSigner
    pytest.importorskip("onnxruntime")
    roles = ("root", "root", "root", "targets", "snapshot", "timestamp")
    keys = {}
    for role in (*roles, "model-erfnet", "channel-poles"):
        keys.setdefault(role, []).append(signers.generate_ed25519())
    everyone = [signer for held in keys.values() for signer in held]
    made = Repository(tmp_path / "repo")
    made.create(keys)

    def publish(step):
        made.add_targets("model-erfnet", {step.path: step.content, **step.files}, signers=everyone)
        made.add_targets("channel-poles", {CHANNEL: write(channel(step))}, signers=everyone)

    return publish


def run(capsys, *words):
    with pytest.raises(SystemExit) as end:
        main(["device", *map(str, words)])
    return end.value.code, *capsys.readouterr()


def test_a_device_takes_a_sound_step_and_refuses_a_bad_one(repository, tmp_path, capsys):
    golden = _golden.ask(brightest, SIZE)
    sound = bundle(1, artifact=network((1, 1, 1), golden=golden), classes=3, gates=GATES)
    wrong = bundle(2, artifact=network((1, 1, 2), golden=golden), classes=3, parent=sound)
    repository(sound)
    root, repo = tmp_path / "device", tmp_path / "repo"
    trust = next((repo / "metadata").glob("*root.json"))
    names = ("--model", "erfnet", "--fleet", "poles", "--name", "pole-7", "--device", "cpu")
    assert run(capsys, "init", "--root", root, "--trust", trust, "--repo", repo, *names)[0] == 0
    code, out, err = run(capsys, "check", "--root", root, "--json")
    assert (code, json.loads(out)["change"]) == (0, "available"), err
    code, out, err = run(capsys, "update", "--root", root, "--json")
    assert (code, json.loads(out)["change"]) == (0, "committed"), err
    assert (root / "current" / "model.onnx").read_bytes() == sound.artifact

    repository(wrong)
    code, _, err = run(capsys, "update", "--root", root, "--json")
    assert (code, json.loads(err)["error"]["reason"]) == (5, "UNHEALTHY")
    assert "golden" in err
    assert (root / "current" / "model.onnx").read_bytes() == sound.artifact
    assert "condemned" in run(capsys, "status", "--root", root)[1]
