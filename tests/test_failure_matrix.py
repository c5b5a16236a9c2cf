"""The page of failures: every row says what happens and names tests that are there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "failure-matrix.md").read_text(encoding="utf-8")
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.splitlines()
    if line.startswith("| ") and "`test_" in line
]
TESTS = sorted(
    {found for row in ROWS for found in re.findall(r"`(test_\w+\.py)::(test_\w+)`", row[2])}
)
ROW_COUNT = 30


def test_every_row_has_a_fault_an_outcome_and_nothing_but_tests():
    assert len(ROWS) == ROW_COUNT
    assert len({row[0] for row in ROWS}) == ROW_COUNT
    for fault, outcome, tests in ROWS:
        assert fault
        assert outcome
        assert re.fullmatch(r"(`test_\w+\.py::test_\w+`\s?)+", tests), fault


@pytest.mark.parametrize(("file", "test"), TESTS)
def test_the_test_that_is_named_is_there(file, test):
    source = (ROOT / "tests" / file).read_text(encoding="utf-8")
    assert re.search(rf"^def {test}\(", source, re.MULTILINE), f"{file} has no {test}"
