"""Plug-ins by file name: found without an import, loaded by name, joined by one new file."""

import importlib
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgeinc import registry
from edgeinc.errors import UsageError

FOLDERS = {"models": "models", "methods": "methods", "datasets": "data", "runtimes": "runtimes"}
PLUGINS = [(kind, name) for kind in FOLDERS for name in registry.names(kind)]
NEEDS_TORCH = {("runtimes", "torch")}

FOLDER_PLUGIN = '''"""Two images of nothing.

More about them.
"""
from edgeinc.data import Dataset


class Nothing(Dataset):
    labels = ()

    def splits(self): return ("train",)
    def ids(self, split): return ("a", "b")
    def image(self, image_id): raise NotImplementedError
    def mask(self, image_id): raise NotImplementedError
'''


@pytest.fixture
def copy(tmp_path, repository):
    """A copy of the package to which a test may add files."""
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(repository / "edgeinc", tmp_path / "copy" / "edgeinc", ignore=ignored)
    return tmp_path / "copy"


@pytest.mark.parametrize("kind", FOLDERS)
def test_the_names_are_the_files_of_the_folder(kind, repository):
    files = (repository / "edgeinc" / FOLDERS[kind]).glob("[!_]*.py")
    assert registry.names(kind) == tuple(sorted(f.stem for f in files))


@pytest.mark.parametrize(("kind", "name"), PLUGINS)
def test_a_plugin_loads_as_a_class_of_its_kind_and_file(kind, name):
    if kind in ("models", "methods") or (kind, name) in NEEDS_TORCH:
        pytest.importorskip("torch")
    plugin = registry.load(kind, name)
    package, base = registry.KINDS[kind]
    assert issubclass(plugin, getattr(importlib.import_module(package), base))
    assert plugin.__module__ == f"{package}.{name}"
    assert Path(registry.source(kind, name)) == Path(
        importlib.import_module(plugin.__module__).__file__
    )


@pytest.mark.parametrize(("kind", "name"), PLUGINS)
def test_a_plugin_has_a_summary_that_fits_a_line_of_a_table(kind, name):
    summary = registry.summary(kind, name)
    assert registry.docstring(kind, name).splitlines()[0] == summary
    assert 10 <= len(summary) <= 100


@pytest.mark.parametrize(("kind", "name"), PLUGINS)
def test_a_name_leads_back_to_its_kind(kind, name):
    homes = [k for k in FOLDERS if name in registry.names(k)]
    assert registry.kind_of(name) == homes[0]
    assert kind in homes


def test_a_name_nobody_has_is_of_no_kind():
    assert registry.kind_of("no-such-plugin") is None


def test_listing_imports_no_plugin(python):
    code = (
        "import sys; from edgeinc import registry\n"
        "found = [registry.summary(k, n) for k in registry.KINDS for n in registry.names(k)]\n"
        "packages = tuple(p + '.' for p, _ in registry.KINDS.values())\n"
        "print(len(found), [m for m in sys.modules if m.startswith(packages) and '._' not in m])"
    )
    done = python("-c", code, without=["torch"])
    assert (done.stdout, done.stderr) == (f"{len(PLUGINS)} []\n", "")


@pytest.mark.parametrize(
    ("name", "hint"),
    [("erfnt", "did you mean 'erfnet'?"), ("transformer-xxl", "known: "), ("_head", "known: ")],
)
def test_an_unknown_name_says_what_there_is(name, hint):
    for ask in (registry.load, registry.source, registry.docstring, registry.summary):
        with pytest.raises(UsageError, match=f"unknown model '{name}'") as caught:
            ask("models", name)
        assert hint in caught.value.hint
        assert "edgeinc ls models" in caught.value.hint


def test_an_unknown_kind_says_which_there_are():
    with pytest.raises(UsageError, match="unknown kind 'model'") as caught:
        registry.names("model")
    assert "'models'" in caught.value.hint


def test_suggest_without_anything_known():
    assert registry.suggest("car", ()) == "known: none"


def test_one_new_file_is_a_plugin(copy, python):
    (copy / "edgeinc/data/nothing.py").write_text(FOLDER_PLUGIN)
    (copy / "edgeinc/data/_hidden.py").write_text(FOLDER_PLUGIN)
    code = (
        "from edgeinc import registry\n"
        "names = registry.names('datasets')\n"
        "print('nothing' in names, '_hidden' in names)\n"
        "print(registry.summary('datasets', 'nothing'))\n"
        "print(registry.load('datasets', 'nothing').__name__)\n"
    )
    done = python("-c", code, first=copy)
    assert (done.stdout, done.stderr) == ("True False\nTwo images of nothing.\nNothing\n", "")


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ('"""Nothing at all."""', 0),
        ("from edgeinc.data import Dataset", 0),
        (FOLDER_PLUGIN + "\n\nclass Second(Nothing):\n    pass\n", 2),
    ],
    ids=["empty", "only the base imported", "two classes"],
)
def test_a_file_that_is_not_one_plugin_is_a_fault_of_the_file(copy, python, source, found):
    (copy / "edgeinc/data/broken.py").write_text(source)
    done = python(
        "-c", "from edgeinc import registry; registry.load('datasets', 'broken')", first=copy
    )
    message = f"TypeError: edgeinc.data.broken must define exactly one Dataset, found {found}"
    assert done.stderr.rstrip().endswith(message)


def test_another_package_joins_through_an_entry_point(tmp_path, python, repository):
    site = tmp_path / "site"
    (site / "guest-1.0.dist-info").mkdir(parents=True)
    (site / "guest-1.0.dist-info/METADATA").write_text(
        "Metadata-Version: 2.1\nName: guest\nVersion: 1.0\n"
    )
    (site / "guest-1.0.dist-info/entry_points.txt").write_text(
        "[edgeinc.datasets]\nguest = guest_data:Nothing\n"
    )
    (site / "guest_data.py").write_text(FOLDER_PLUGIN)
    code = (
        f"import sys; sys.path.append({str(repository)!r}); from edgeinc import registry\n"
        "print('guest' in registry.names('datasets'), 'guest_data' in sys.modules)\n"
        "print(registry.summary('datasets', 'guest'), registry.kind_of('guest'))\n"
        "print(registry.source('datasets', 'guest'), registry.load('datasets', 'guest').__name__)\n"
    )
    done = python("-c", code, first=site)
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "True False",
        "Two images of nothing. datasets",
        f"{site / 'guest_data.py'} Nothing",
    ]


def recipes(repository):
    """The plug-ins that CONTRIBUTING.md shows: path -> source."""
    text = (repository / "CONTRIBUTING.md").read_text(encoding="utf-8")
    return dict(re.findall(r"^`(edgeinc/\S+\.py)`\n\n```python\n(.*?)^```$", text, re.M | re.S))


def test_the_recipes_of_contributing_are_working_plugins(copy, python, repository, tmp_path):
    pytest.importorskip("torch")
    for path, source in recipes(repository).items():
        (copy / path).write_text(source)
    skyline = tmp_path / "skyline/train"
    skyline.mkdir(parents=True)
    cv2.imwrite(str(skyline / "a.jpg"), np.zeros((4, 6, 3), np.uint8))
    cv2.imwrite(str(skyline / "a.mask.png"), np.full((4, 6), 255, np.uint8))
    code = (
        "import torch; from pathlib import Path; from edgeinc import registry\n"
        "from edgeinc.models import create; from edgeinc.methods import StepContext\n"
        "model = create('tiny', [3]); old = model(torch.zeros(1, 3, 4, 6))\n"
        "model.grow(2); out = model(torch.zeros(1, 3, 4, 6)); print(tuple(out.logits.shape))\n"
        "Distil = registry.load('methods', 'distil'); context = StepContext(3, 5, 'none', None)\n"
        "terms = Distil(Distil.Config(), context).terms(out, torch.full((1, 4, 6), 255), old)\n"
        "print({name: term.isfinite().item() for name, term in terms.items()})\n"
        f"data = registry.load('datasets', 'skyline')(Path({str(skyline.parent)!r}))\n"
        "print(data.ids('train'), data.image('train/a').shape, data.mask('train/a').max())\n"
        "print(registry.load('runtimes', 'openvino').suffixes)\n"
    )
    done = python("-c", code, first=copy)
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "(1, 5, 4, 6)",
        "{'ce': True, 'kd': True}",
        "('train/a',) (4, 6, 3) 255",
        "('.onnx',)",
    ]
