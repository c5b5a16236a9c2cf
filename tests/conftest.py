"""What several test files start from."""

import os
import shutil
import subprocess
import sysconfig
import venv
from importlib import metadata
from pathlib import Path

import pytest
from engines import machine  # noqa: F401  # a fixture of several files
from stations import _first_station, station, web  # noqa: F401  # fixtures of several files
from trust_parts import (  # noqa: F401  # fixtures of several files
    _first_published,
    _server,
    clock,
    device,
    forge,
    keys,
    published,
    server,
)

REPOSITORY = Path(__file__).parents[1]


LONG = ("test_demo.py", "test_readme.py", "test_your_own_data.py", "test_crashes.py")
"""Files of few tests that take long: begun last, one worker would end them alone."""


def pytest_collection_modifyitems(items):
    """Begin with the long files; the order is otherwise as it was."""
    items.sort(key=lambda item: item.path.name not in LONG)


def pytest_configure():
    """Give every worker of pytest-xdist one core.

    Processes with as many threads as there are cores wait for each other's spinning threads: two
    of them on two cores take ten times as long as one after the other.
    """
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker is not None and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})


@pytest.fixture(scope="session", autouse=True)
def _cache_of_its_own(tmp_path_factory):
    """Nothing that a test indexes or unpacks lands in the user's cache folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEINC_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def repository():
    """The folder that holds pyproject.toml."""
    return REPOSITORY


@pytest.fixture(scope="session")
def camvid_root():
    """The folder that holds `camvid/`; a test that asks for it is skipped where it is absent."""
    root = Path(os.environ.get("EDGEINC_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (root / "camvid" / "train.txt").is_file():
        pytest.skip(f"no CamVid in {root}; name its parent folder in EDGEINC_TEST_DATA")
    return root


@pytest.fixture
def python(tmp_path, tmp_path_factory):
    """Run a fresh Python in an empty folder: `python("-c", code)` returns the finished process.

    `first`: folder whose modules come before the installed ones.
    `without`: distributions that are not installed for this Python.
    """

    def run(*arguments, first=REPOSITORY, without=()):
        work = tmp_path / "work"
        work.mkdir(exist_ok=True)
        settings = {k: v for k, v in os.environ.items() if not k.startswith("EDGEINC_")}
        return subprocess.run(
            [_environment(tuple(without), tmp_path_factory), *map(str, arguments)],
            cwd=work,
            env={**settings, "PYTHONPATH": str(first), "NO_COLOR": "1"},
            capture_output=True,
            text=True,
            timeout=120,
        )

    return run


_environments = {}


def _environment(without, tmp_path_factory):
    """The interpreter of an environment with links to what is installed here, less some."""
    if without not in _environments:
        folder = tmp_path_factory.mktemp("environment")
        venv.create(folder, symlinks=True)
        gone = {
            Path(file).parts[0]
            for name in without
            for found in metadata.distributions(name=name)
            for file in found.files or ()
        } - {"..", "__pycache__"}
        (site,) = folder.glob("lib/python*/site-packages")
        for entry in Path(sysconfig.get_path("platlib")).iterdir():
            if entry.name not in gone and not (site / entry.name).exists():
                (site / entry.name).symlink_to(entry)
        _environments[without] = folder / "bin" / "python"
    return _environments[without]


SMALL_MODEL = ("model.width=0.125",)
"""A network that trains in seconds: what tests of the machinery use."""


@pytest.fixture(scope="session")
def street_data(tmp_path_factory):
    """A `folder` dataset of 20 synthetic scenes of 64x96, every fifth of them `val`."""
    from edgeinc.data._synth import synth

    root = tmp_path_factory.mktemp("data") / "street"
    synth(root, n=20, size=(64, 96), seed=0)
    return root


@pytest.fixture(scope="session")
def labelled_alone(street_data, tmp_path_factory):
    """The scenes of `street_data` with one class labelled and no other: `labelled_alone("car")`."""
    import numpy as np

    from edgeinc.data import Label, open_dataset
    from edgeinc.data.folder import write_folder

    scenes = open_dataset(street_data)

    def made(name):
        label, root = scenes.label(name), tmp_path_factory.mktemp("alone") / name
        samples = (
            (split, i, scenes.image(i), np.where(scenes.mask(i) == label.id, 0, 255).astype("u1"))
            for split in scenes.splits()
            for i in scenes.ids(split)
        )
        write_folder(root, samples, labels=[Label(0, name, label.color)])
        return root

    return made


@pytest.fixture(scope="session")
def _base_run(street_data, tmp_path_factory):
    from edgeinc.training import train

    run = tmp_path_factory.mktemp("runs") / "base"
    train(
        street_data,
        classes=["road", "sky", "building"],
        size=(64, 96),
        run=run,
        sets=SMALL_MODEL,
        epochs=2,
        batch_size=4,
        precision="fp32",
        threads=1,
        workers=0,
    )
    return run


@pytest.fixture
def base_run(_base_run, tmp_path):
    """A run of one trained step (road, sky, building) that the test may change."""
    copy = tmp_path / "run"
    shutil.copytree(_base_run, copy)
    return copy
