"""The page of pains: each of the seventeen has an answer whose test is there."""

import re
from pathlib import Path

import pytest

from edgeinc.doctor._jetpack import MATRIX

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "pains.md").read_text(encoding="utf-8")
ROWS = {
    int(cells[1]): cells
    for line in PAGE.splitlines()
    if len(cells := [c.strip() for c in line.split("|")]) == 6 and cells[1].isdigit()
}
TESTS = [
    pytest.param(*found, id=f"{number} {found[1]}[{found[2]}]" if found[2] else None)
    for number, cells in ROWS.items()
    for found in re.findall(r"`(test_\w+\.py)::(test_\w+)(?:\[(.+?)\])?`", cells[4])
]


def test_every_pain_has_a_row_with_an_answer_and_a_test():
    assert sorted(ROWS) == list(range(1, 18))
    assert PAGE.count("\n| 1 |") == 1
    for number, (_, _, pain, answer, tests, _) in ROWS.items():
        assert re.search(r"\((?:\S+)#\d+\)", pain), f"{number} names no report"
        assert answer, number
        assert re.fullmatch(r"(`test_\w+\.py::[^`]+`\s?)+", tests), number


@pytest.mark.parametrize(("file", "test", "case"), TESTS)
def test_the_test_that_is_named_is_there(file, test, case):
    source = (ROOT / "tests" / file).read_text(encoding="utf-8")
    assert re.search(rf"^def {test}\(", source, re.MULTILINE), f"{file} has no {test}"
    if case:
        assert f'\n    "{case}": (' in source, f"{file} has no case '{case}'"


def test_the_matrix_on_the_page_is_doctors():
    told = re.findall(
        r"^\| ([\d., ]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|", PAGE, re.MULTILINE
    )
    assert told == [
        (
            row.name.removeprefix("JetPack ").replace("/", ", "),
            ".".join(map(str, row.l4t)),
            row.python,
            row.cuda,
            row.tensorrt,
        )
        for row in MATRIX
    ]
