"""docs/repository.md: its commands run in the order of the page, its lifetimes are the code's."""

import re
from pathlib import Path

import pytest

from edgeinc.cli import main
from edgeinc.update.roles import LIFETIME_DAYS
from edgeinc.update.verify import verify

PAGE = (Path(__file__).parents[1] / "docs" / "repository.md").read_text(encoding="utf-8")


def test_the_commands_run_and_leave_a_repository_that_devices_take(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
    lines = [line.split("  #")[0].strip() for block in blocks for line in block.splitlines()]
    assert len(lines) == 13
    for line in lines:
        with pytest.raises(SystemExit) as end:
            main(line.split()[1:])
        assert end.value.code == 0, f"{line}\n{capsys.readouterr().err}"
    versions = verify("repo").versions
    assert versions["root"] == 3
    assert {"model-erfnet", "model-bisenet", "site-gate2", "channel-north"} <= versions.keys()


def test_lifetimes_are_those_of_the_code():
    stated = re.findall(r"^\| `([a-z]+)[^|]*\|.*\| (\d+) days \|$", PAGE, re.MULTILINE)
    assert {role: int(days) for role, days in stated} == LIFETIME_DAYS
