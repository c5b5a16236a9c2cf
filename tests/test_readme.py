"""The README says what happens: its commands run, its Python runs, its tables are the results."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


def commands(block):
    """Lines without their comments."""
    return [line.split("  #")[0].strip() for line in block.splitlines() if line.strip()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An empty folder that the commands and then the Python of the README share."""
    return tmp_path_factory.mktemp("readme")


@pytest.fixture(scope="module")
def environment():
    """The `edgeinc` of this Python first on the path, one thread, no colour."""
    bin_folder = str(Path(sys.executable).parent)
    return {
        **os.environ,
        "PATH": os.pathsep.join([bin_folder, os.environ["PATH"]]),
        "OMP_NUM_THREADS": "1",
        "NO_COLOR": "1",
    }


def test_first_commands_are_targets_of_the_makefile():
    makefile = (README.parent / "Makefile").read_text(encoding="utf-8")
    first = commands(blocks("bash")[0])
    assert first == ["make demo", "make test"]
    for command in first:
        assert re.search(rf"^{command.split()[1]}:", makefile, re.MULTILINE)
    assert "make test" in (README.parent / ".ci" / "run").read_text(encoding="utf-8")


def test_install_command_names_extras_that_exist():
    text = (README.parent / "pyproject.toml").read_text(encoding="utf-8")
    install, demo = commands(blocks("bash")[1])
    for extra in re.search(r"edgeinc\[(.*?)\]", install)[1].split(","):
        assert re.search(rf"^{extra} = \[", text, re.MULTILINE)
    assert demo == "edgeinc demo"


def test_what_a_developer_installs_is_said_in_the_makefile_alone():
    root = README.parent
    assert (root / "Makefile").read_text(encoding="utf-8").count('-e ".[') == 1
    for name in (".github/workflows/ci.yml", ".ci/run", "CONTRIBUTING.md", "README.md"):
        assert "pip install -e" not in (root / name).read_text(encoding="utf-8"), name


def test_the_loop_runs_command_by_command(folder, environment):
    for command in commands(blocks("bash")[2]):
        done = subprocess.run(
            command, shell=True, cwd=folder, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    run = folder / "runs" / "folder-erfnet"
    assert (run / "report.html").stat().st_size > 10_000
    assert (run / "export" / "step-1.fp32.dynamic.onnx").is_file()
    assert len(list((folder / "seen").iterdir())) == 60


def test_ten_lines_of_python_run_and_the_library_prints_nothing(folder, environment):
    code = blocks("python")[0]
    assert len(code.strip().splitlines()) == 10
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == code.count("print(")


def test_method_shown_is_the_method_that_ships():
    shown = blocks("python")[1]
    source = (README.parent / "edgeinc" / "methods" / "finetune.py").read_text(encoding="utf-8")
    for line in ("class Finetune(Method):", "class Config:", "supervised(output, labels"):
        assert line in shown
        assert line in source


def test_tables_are_made_from_the_committed_results():
    script = runpy.run_path(str(README.parent / "benchmarks" / "readme_tables.py"))
    for page in script["PAGES"]:
        text = page.read_text(encoding="utf-8")
        assert "<!-- table:" in text
        assert script["with_tables"](text) == text
    assert README.read_text(encoding="utf-8").count("<!-- table:") == 3


def test_links_and_pictures_exist():
    for target in re.findall(r"\]\(([^)#]+)\)", README.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (README.parent / target).exists(), target
