"""Carriers: files that other update systems can read, whose commands do what the page says.

None of them is run by its own system here; the scripts are, with the real command line.
"""

import configparser
import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from stations import NEW, OLD

from edgeinc.cli import main
from edgeinc.update.carriers import write

ROOT = Path(__file__).parents[1]
posix = pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX shell")


@pytest.fixture(params=["mender", "rauc", "greengrass"])
def written(request, tmp_path):
    made = write(request.param, tmp_path / "carrier")
    assert made.kind == request.param
    return {name: tmp_path / "carrier" / name for name in made.files}


def test_every_carrier_calls_the_device(written):
    assert any("edgeinc device update --from" in f.read_text() for f in written.values())


@posix
def test_scripts_are_sound(written):
    for file in written.values():
        if file.read_text().startswith("#!"):
            assert file.stat().st_mode & 0o111
            subprocess.run(["sh", "-n", file], check=True)
            if shutil.which("shellcheck"):
                subprocess.run(["shellcheck", file], check=True)


def test_rauc_has_a_repository_of_trees_and_a_handler(tmp_path):
    write("rauc", tmp_path)
    config = configparser.ConfigParser()
    config.read(tmp_path / "system.conf")
    section = config["artifacts.edgeinc"]
    assert section["type"] == "trees"
    handler = tmp_path / Path(config["handlers"]["post-install"]).name
    assert f"--from {section['path']}/repo" in handler.read_text()
    bundle = configparser.ConfigParser()
    bundle.read(tmp_path / "manifest.raucm")
    assert bundle["image.edgeinc/repo"]["filename"] == "repo.tar"
    assert bundle["bundle"]["format"] == "verity"  # a plain one may hold no artifacts


def test_greengrass_has_one_recipe(tmp_path):
    write("greengrass", tmp_path)
    recipe = json.loads((tmp_path / "recipe.json").read_text())
    assert recipe["RecipeFormatVersion"] == "2020-01-25"
    (manifest,) = recipe["Manifests"]
    assert manifest["Artifacts"][0]["Unarchive"] == "ZIP"
    assert "{artifacts:decompressedPath}/repo" in manifest["Lifecycle"]["Install"]["Script"]


def test_what_was_changed_is_not_written_over(tmp_path, capsys):
    write("mender", tmp_path)
    write("mender", tmp_path)
    (tmp_path / "edgeinc-model").write_text("mine")
    for words in (["--for", "mender"], ["--for", "balena"]):
        with pytest.raises(SystemExit) as end:
            main(["repo", "carrier", *words, "-o", str(tmp_path)])
        assert end.value.code == 2
    assert "unknown carrier 'balena'" in capsys.readouterr().err
    assert (tmp_path / "edgeinc-model").read_text() == "mine"


@pytest.fixture
def module(station, tmp_path, monkeypatch):
    """The module of Mender as its client calls it, before a device that serves OLD."""
    write("mender", tmp_path)
    command = tmp_path / "bin" / "edgeinc"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m edgeinc "$@"\n')
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(command.parent), prepend=":")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("EDGEINC_DEVICE", str(station.root))
    files = tmp_path / "payload"
    for name in ("files", "tmp"):
        (files / name).mkdir(parents=True)

    def call(state):
        return subprocess.run(
            [tmp_path / "edgeinc-model", state, files],
            cwd=files,
            capture_output=True,
            text=True,
            check=False,
        )

    def carry():
        with tarfile.open(files / "files" / "repo.tar", "w") as tar:
            for name in ("metadata", "targets"):
                tar.add(station.repository.folder / name, name)

    call.carry = carry
    return call


@posix
def test_mender_learns_what_the_module_can_do(module):
    for state, answer in (
        ("SupportsRollback", "Yes"),
        ("NeedsArtifactReboot", "No"),
        ("ProvidePayloadFileSizes", "No"),
        ("Download", ""),
        ("Cleanup", ""),
        ("ArtifactFailure", ""),
    ):
        done = module(state)
        assert (done.returncode, done.stdout.strip()) == (0, answer), state


@posix
def test_mender_installs_commits_and_takes_back_what_it_changed(module, station):
    pytest.importorskip("onnxruntime")
    from networks import network
    from stations import step_of

    step = step_of(2, network((1, 1, 1)), parent=OLD)
    station.publish(step)
    module.carry()
    for state in ("Download", "ArtifactInstall", "ArtifactCommit"):
        done = module(state)
        assert done.returncode == 0, done.stderr
    assert station.serves == step.artifact
    assert module("ArtifactRollback").returncode == 0
    assert station.serves == OLD.artifact


@posix
def test_mender_is_told_of_a_refusal_and_takes_nothing_back(module, station):
    station.publish(NEW)  # its artifact is no network
    module.carry()
    done = module("ArtifactInstall")
    assert done.returncode == 5
    assert "failed its probe" in done.stderr
    assert module("ArtifactRollback").returncode == 0
    assert station.serves == OLD.artifact
