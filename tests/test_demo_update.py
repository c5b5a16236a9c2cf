"""The demo of an update: a step is taken, a bad one is left, on a video at full speed."""

import json
import re
import time

import pytest

from edgeinc.cli import main
from edgeinc.schema import UpdateDemoResult, from_json


@pytest.mark.slow
def test_the_story_that_users_see(tmp_path, capsys):
    begun = time.monotonic()
    with pytest.raises(SystemExit) as end:
        main(["demo-update", "--out", str(tmp_path / "demo"), "--json"])
    said = capsys.readouterr()
    assert end.value.code == 0, said.err
    found = from_json(UpdateDemoResult, said.out, source="stdout")
    assert found.failures == ()
    assert (found.faults, found.serves) == (0, 1)
    assert found.update_bytes < found.first_bytes
    # Which class it is says the largest bias, which depends on how many threads trained.
    assert re.fullmatch(r"trial: class \d filled 100\.0 % of all pixels", found.refused)
    assert time.monotonic() - begun < 600  # under 3 minutes where two cores have nothing else to do


def test_a_folder_with_other_files_is_left_alone(tmp_path, capsys):
    pytest.importorskip("torch")
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(SystemExit) as end:
        main(["demo-update", "--out", str(tmp_path), "--json"])
    assert end.value.code == 2
    assert "is not empty" in json.loads(capsys.readouterr().err)["error"]["message"]
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]
