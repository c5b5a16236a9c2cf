"""A repository whose timestamp is signed by a key in a PKCS#11 token, which never leaves it.

The token is SoftHSM (Debian: `apt install softhsm2`), behind the module that a real one has.
"""

import shutil
import subprocess
from pathlib import Path

import pytest
from tuf.api.metadata import Metadata

from edgeinc.errors import EdgeincError
from edgeinc.update.disk import Disk
from edgeinc.update.fetch import Source, Trusted
from edgeinc.update.keys import signer_of
from edgeinc.update.repository import Repository

pkcs11 = pytest.importorskip("pkcs11")

MODULES = [
    file
    for pattern in ("lib", "lib/*", "lib64", "local/lib")
    for file in Path("/usr").glob(f"{pattern}/softhsm/libsofthsm2.so")
]
pytestmark = pytest.mark.skipif(
    not MODULES or shutil.which("softhsm2-util") is None, reason="no SoftHSM here"
)
PIN = "1234"
URI = "hsm:2?label=edge"


@pytest.fixture(scope="module")
def token(tmp_path_factory):
    """A token with one EC key, under the id 2. PKCS#11 modules are loaded once a process."""
    folder = tmp_path_factory.mktemp("token")
    config = folder / "softhsm2.conf"
    (folder / "tokens").mkdir()
    config.write_text(f"directories.tokendir = {folder / 'tokens'}\nlog.level = ERROR\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOFTHSM2_CONF", str(config))
        patch.setenv("PYKCS11LIB", str(MODULES[0]))
        command = ["softhsm2-util", "--init-token", "--free", "--label", "edge"]
        subprocess.run(
            [*command, "--pin", PIN, "--so-pin", PIN], check=True, capture_output=True, timeout=60
        )
        make_key(str(MODULES[0]))
        yield


def make_key(module):
    from pkcs11.util.ec import encode_named_curve_parameters

    inside = pkcs11.lib(module).get_token(token_label="edge")
    with inside.open(rw=True, user_pin=PIN) as session:
        curve = {pkcs11.Attribute.EC_PARAMS: encode_named_curve_parameters("secp256r1")}
        parameters = session.create_domain_parameters(pkcs11.KeyType.EC, curve, local=True)
        parameters.generate_keypair(store=True, id=bytes([2]), label="timestamp")


def test_a_device_trusts_what_the_token_signs(token, keys, tmp_path):
    asked = []

    def secret(name):
        asked.append(name)
        return PIN

    signer = signer_of(URI, secret=secret)
    roles = {role: keys[role] for role in ("root", "targets", "snapshot", "model-erfnet")}
    repository = Repository(tmp_path / "repo")
    repository.create({**roles, "timestamp": [signer]})
    everyone = [signer, *(s for signers in roles.values() for s in signers)]
    path = "models/erfnet/step-0001/manifest.json"
    repository.add_targets("model-erfnet", {path: b"signed"}, signers=everyone)

    metadata = tmp_path / "repo" / "metadata"
    timestamp = Metadata.from_file(str(metadata / "timestamp.json"))
    assert set(timestamp.signatures) == {signer.public_key.keyid}
    trusted = Trusted(
        tmp_path / "cache",
        Source.at(str(tmp_path / "repo")),
        root=(metadata / "1.root.json").read_bytes(),
        disk=Disk(),
        floors={},
    )
    assert trusted.refresh()["timestamp"].version == 2
    assert trusted.target(path) == b"signed"
    assert asked
    assert set(asked) == {"pin"}


@pytest.mark.parametrize("uri", ["hsm:9?label=edge", "hsm:2?label=other"])
def test_a_key_that_is_not_in_the_token_is_named(token, uri):
    with pytest.raises(EdgeincError) as caught:
        signer_of(uri, secret=lambda name: PIN)
    assert uri in caught.value.message


def test_a_wrong_pin_signs_nothing(token, keys, tmp_path):
    wrong = signer_of(URI, secret=lambda name: "0000")
    roles = {role: keys[role] for role in ("root", "targets", "snapshot")}
    with pytest.raises(EdgeincError, match="sign") as caught:
        Repository(tmp_path / "repo").create({**roles, "timestamp": [wrong]})
    assert "access" in caught.value.hint
    assert not (tmp_path / "repo" / "metadata").exists()


def test_a_token_whose_module_is_not_named_says_how_to_name_it(token, monkeypatch):
    monkeypatch.delenv("PYKCS11LIB")
    with pytest.raises(EdgeincError, match="PYKCS11LIB"):
        signer_of(URI, secret=lambda name: PIN)
