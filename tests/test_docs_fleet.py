"""docs/fleet.md: its sizes are those of a repository made here, its sums are right."""

import math
import re
from pathlib import Path

import pytest
from devices import bundle

from edgeinc.cli import main

PAGE = (Path(__file__).parents[1] / "docs" / "fleet.md").read_text(encoding="utf-8")
DEVICES, EVERY_S, STEPS = 10_000, 300, 50


def stated(name):
    """The number of a row of the tables: `| name | 1,234 |`."""
    found = re.search(rf"^\| {re.escape(name)} \| ([\d,.]+)", PAGE, re.MULTILINE)
    assert found, name
    return float(found[1].replace(",", ""))


@pytest.fixture
def grown(web):
    """A repository of fifty steps of one model; the device serves the newest but one."""
    for number in range(3, STEPS):
        web.publish(bundle(number, classes=3))
    web.publish(bundle(STEPS, classes=3))
    web.update()
    web.server.asked.clear()
    web.received = 0
    return web


def sizes(web):
    """Bytes by the last two parts of a name, of what was asked for since."""
    found = {}
    for path in web.server.asked:
        file = web.repository.folder / path.lstrip("/")
        name = re.sub(r"^(\d+|[0-9a-f]{64})\.", "", file.name)
        found[name] = file.stat().st_size if file.exists() else 0
    return found


def test_a_look_without_news_is_what_the_page_says(grown):
    assert grown.update().change == "nothing"
    asked = sizes(grown)
    assert sorted(asked) == ["root.json", "timestamp.json"]
    assert asked["root.json"] == 0  # the next root, which is not there
    assert math.isclose(asked["timestamp.json"], stated("timestamp.json"), rel_tol=0.05)
    looks = DEVICES * 86_400 / EVERY_S
    assert stated("looks a day") == looks
    assert stated("requests a day") == 2 * looks
    assert stated("requests a second") == round(2 * looks / 86_400)
    daily = looks * stated("timestamp.json")
    assert math.isclose(stated("GB a day, bodies"), daily / 1e9, abs_tol=0.1)


def test_a_step_costs_metadata_and_one_file(grown):
    grown.publish(bundle(STEPS + 1, classes=3))
    grown.server.asked.clear()
    assert grown.update().change == "committed"
    asked = sizes(grown)
    metadata = ("snapshot.json", "channel-north.json", "stable.json", "model-erfnet.json")
    names = (*metadata, "manifest.json")
    for name in names:
        assert math.isclose(asked[name], stated(name), rel_tol=0.05), (name, asked[name])
    once = sum(map(stated, names))
    for kind in ("full", "int6", "head"):
        size = stated(f"{kind}, bytes")
        total = DEVICES * (size + once)
        assert math.isclose(stated(f"{kind}, GB for the fleet"), total / 1e9, rel_tol=0.02), total


def test_the_commands_of_the_page_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
    for line in block.splitlines():
        with pytest.raises(SystemExit) as end:
            main(line.split()[1:])
        assert end.value.code == 0, line
    written = sorted(path.name for path in (tmp_path / "carrier").glob("*/*"))
    rauc = ["manifest.raucm", "rauc-post-install", "system.conf"]
    assert written == sorted(["edgeinc-model", *rauc, "recipe.json"])
