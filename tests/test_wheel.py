"""What reaches site-packages: one name, with the files that are not Python."""

import subprocess
import sys
import zipfile

import pytest

pytest.importorskip("build")
pytest.importorskip("hatchling")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory, repository):
    out = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, repository],
        check=True,
        capture_output=True,
    )
    (path,) = out.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        return (
            path.name,
            archive.namelist(),
            {n: archive.read(n).decode() for n in archive.namelist() if ".dist-info/" in n},
        )


def test_only_edgeinc_lands_in_site_packages(wheel):
    _, files, _ = wheel
    tops = {name.split("/")[0] for name in files}
    assert sorted(top for top in tops if not top.endswith(".dist-info")) == ["edgeinc"]


def test_every_file_of_the_package_is_in_the_wheel(wheel, repository):
    _, files, _ = wheel
    source = {
        str(path.relative_to(repository))
        for path in (repository / "edgeinc").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {f for f in files if f.startswith("edgeinc/")} == source
    assert "edgeinc/py.typed" in files
    assert [f for f in files if f.startswith("edgeinc/") and f.endswith(".toml")]


def test_the_wheel_is_pure_and_carries_the_version_of_the_package(wheel):
    import edgeinc

    assert wheel[0] == f"edgeinc-{edgeinc.__version__}-py3-none-any.whl"


def test_a_device_installs_no_torch(wheel):
    _, _, texts = wheel
    (metadata,) = [text for name, text in texts.items() if name.endswith("/METADATA")]
    required = [line for line in metadata.splitlines() if line.startswith("Requires-Dist:")]
    base = [line for line in required if "extra ==" not in line]
    assert [line for line in base if "numpy" in line]
    assert not [line for line in base if "torch" in line or "onnx" in line]


def test_the_command_is_installed(wheel):
    _, _, texts = wheel
    (entry_points,) = [t for n, t in texts.items() if n.endswith("/entry_points.txt")]
    assert "edgeinc = edgeinc.cli:main" in entry_points
