"""Images for devices, read and not built: what they copy is there, and nothing installs torch."""

import json
import re
import sys
from fnmatch import fnmatch
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(ROOT.glob("deploy/*/Dockerfile"))
PYTHON = {"desktop-gpu": "3, 12", "jetson-jetpack6": "3, 10", "jetson-jetpack7": "3, 12"}


def instructions(path):
    """(word, rest) of every instruction, continued lines joined and build arguments resolved."""
    text = re.sub(r"^#.*\n", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    found = [
        tuple(line.split(maxsplit=1))
        for line in text.replace("\\\n", " ").splitlines()
        if line.strip()
    ]
    arguments = dict(rest.split("=", 1) for word, rest in found if word == "ARG")
    return [
        (word, re.sub(r"\$\{(\w+)\}", lambda m: arguments[m[1]], rest) if word == "FROM" else rest)
        for word, rest in found
    ]


def metadata():
    """`[project]` of pyproject.toml."""
    tomllib = import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def of(path, word):
    return [rest for each, rest in instructions(path) if each == word]


@pytest.fixture(params=FILES, ids=lambda path: path.parent.name)
def file(request):
    return request.param


def test_there_is_an_image_for_each_platform():
    assert [path.parent.name for path in FILES] == sorted(PYTHON)


def test_the_base_is_pinned(file):
    (base,) = of(file, "FROM")
    name, _, tag = base.partition(":")
    assert name.startswith("nvcr.io/nvidia/")
    assert re.fullmatch(r"r?\d+\.\d+[\w.-]*", tag), base


def test_what_is_copied_is_there_and_reaches_the_build(file):
    """`.dockerignore` lets nothing through that it does not name."""
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in ignored
    passed = [line[1:] for line in ignored if line.startswith("!")]
    sources = [name for rest in of(file, "COPY") for name in rest.split()[:-1]]
    assert sources
    for name in sources:
        assert (ROOT / name).exists(), name
        assert any(fnmatch(name, pattern) for pattern in passed), name


def test_what_building_the_wheel_reads_is_copied(file):
    project = metadata()
    copied = {name for rest in of(file, "COPY") for name in rest.split()[:-1]}
    assert {"edgeinc", "pyproject.toml", project["readme"], *project["license-files"]} <= copied


def test_nothing_installs_torch(file):
    project = metadata()
    installs = [
        part
        for rest in of(file, "RUN")
        for part in re.split(r"&&|;", rest)
        if re.search(r"\bpip3? install\b", part)
    ]
    assert installs
    for part in installs:
        assert "torch" not in part
        (extras,) = re.findall(r"/src\[([\w,]+)\]", part)
        wanted = [*project["dependencies"]]
        for extra in extras.split(","):
            wanted += project["optional-dependencies"][extra]
        assert not [need for need in wanted if need.startswith(("torch", "edgeinc[train"))]


def test_the_environment_sees_the_systems_tensorrt_of_its_python(file):
    runs = " ".join(of(file, "RUN"))
    assert "-m venv --system-site-packages" in runs
    assert f"sys.version_info[:2] == ({PYTHON[file.parent.name]})" in runs
    assert "find_spec('tensorrt')" in runs


def test_it_runs_edgeinc_and_not_as_root(file):
    words = [word for word, _ in instructions(file)]
    (user,) = of(file, "USER")
    assert user not in ("root", "0")
    assert f" {user} " in " ".join(of(file, "RUN")), "the user is made"
    assert words.index("USER") > max(i for i, word in enumerate(words) if word in ("RUN", "COPY"))
    assert [json.loads(rest) for rest in of(file, "ENTRYPOINT")] == [["edgeinc"]]
    assert [json.loads(rest) for rest in of(file, "CMD")] == [["doctor", "--for", "device"]]


def test_the_page_has_five_lines_for_each_image(file):
    page = (ROOT / "deploy" / "README.md").read_text()
    blocks = re.findall(r"(?:^    .+\n)+", page, re.MULTILINE)
    (block,) = [b for b in blocks if f"-f deploy/{file.parent.name}/Dockerfile " in b]
    lines = block.splitlines()
    assert len(lines) == 5
    (tag,) = re.findall(r"-t (\S+)", lines[1])
    assert lines[2].rstrip("'").endswith(f" {tag}")
    jetson = file.parent.name.startswith("jetson")
    assert ("--runtime nvidia" if jetson else "--gpus all") in lines[2]
    assert [line.split()[1] for line in lines[3:]] == ["doctor", "build"]
    assert "Not built here: no Docker, no GPU" in page
