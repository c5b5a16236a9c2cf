"""The command line as a user sees it: words in, exit code and two streams out."""

import dataclasses
import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import fields
from typing import NamedTuple

import pytest
import typer

from edgeinc import __version__
from edgeinc.cli import app, main
from edgeinc.cli._progress import Lines, duration, pace
from edgeinc.cli._ui import EN_DASH
from edgeinc.config import TrainSettings
from edgeinc.runs import create_run
from edgeinc.schema import (
    DataCheck,
    DataInfo,
    DemoResult,
    DemoRow,
    Diagnosis,
    Listing,
    PluginDetails,
    RunInfo,
    RunSummary,
    WrittenFile,
    from_json,
)

ESCAPE = "\x1b["
COMMON = ("--json", "--quiet", "-q", "--verbose", "-v", "--no-color", "--help", "-h")


class Done(NamedTuple):
    code: int
    out: str
    err: str


def _commands(group, words=()):
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, (*words, name))
        else:
            yield (*words, name), command


COMMANDS = dict(_commands(typer.main.get_command(app)))


@pytest.fixture
def edgeinc(tmp_path, monkeypatch, capsys):
    """Run a command line in an empty folder: `edgeinc("ls", "models").out`."""
    monkeypatch.chdir(tmp_path)
    for name in [n for n in os.environ if n.startswith("EDGEINC_")]:
        monkeypatch.delenv(name)
    for name, value in {"NO_COLOR": "1", "TERM": "dumb"}.items():
        monkeypatch.setenv(name, value)

    def run(*words):
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main([str(word) for word in words])
        return Done(end.value.code, *capsys.readouterr())

    return run


@pytest.fixture
def run_folder(tmp_path):
    """A run without a finished step, in the folder the commands work in."""
    path = tmp_path / "runs" / "mine"
    create_run(path, RunInfo("erfnet", {}, (64, 96), "2026-01-01"))
    return path


# ---------------------------------------------------------------------------------- help


def test_the_commands_are_those_that_were_promised():
    assert {" ".join(words) for words in COMMANDS} == {
        *(
            "demo",
            "demo-update",
            "train",
            "extend",
            "import",
            "invert",
            "eval",
            "predict",
            "export",
            "build",
        ),
        *("plan-update", "bench", "publish"),
        *("device init", "device check", "device update", "device status", "device history"),
        *("device rollback", "device hold", "device verify", "device run", "device watch"),
        *("report", "doctor", "ls", "show"),
        *("data ls", "data info", "data check", "data preview", "data synth"),
        *("data convert", "data split"),
        *("repo init", "repo ls", "repo verify", "repo sign", "repo rotate", "repo resign"),
        *("repo gc", "repo serve", "repo carrier"),
    }


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_help_shows_every_common_option_and_examples(edgeinc, words):
    done = edgeinc(*words, "--help")
    assert (done.code, done.err) == (0, "")
    shown = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", done.out))
    assert set(COMMON) <= shown
    examples = _examples(done.out)
    assert 2 <= len(examples) <= 4
    for example in examples:
        assert len(example) < 80
        assert example.startswith("edgeinc " + " ".join(words))


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_example_parses(edgeinc, words):
    for example in _examples(edgeinc(*words, "-h").out):
        arguments = shlex.split(example)[1 + len(words) :]
        COMMANDS[words].make_context(example, arguments)


def _examples(text):
    return [line.strip() for line in text.splitlines() if line.startswith(" edgeinc ")]


def test_every_setting_of_training_is_a_flag_with_its_default(edgeinc):
    train = " ".join(edgeinc("train", "--help").out.replace("│", " ").split())
    extend = edgeinc("extend", "--help").out
    for field in fields(TrainSettings):
        flag = "--" + field.name.replace("_", "-")
        assert flag in train
        assert flag in extend
        if field.default not in (None, False, ""):
            assert f"Default: {field.default}." in train
    assert "Default:" not in extend


@pytest.mark.parametrize("group", ["data"])
def test_the_summary_of_a_group_names_its_commands(edgeinc, group):
    summary = " ".join(edgeinc(group, "--help").out.split())
    named = summary.partition(":")[2].partition(": ")[2].partition(".")[0].split(", ")
    assert set(named) == {words[1] for words in COMMANDS if words[0] == group}


def test_short_flags_mean_the_same_everywhere():
    meaning = {}
    for command in COMMANDS.values():
        for option in command.params:
            for flag in option.opts:
                if re.fullmatch(r"-\w", flag):
                    meaning.setdefault(flag, set()).add(option.opts[0])
    expected = {"-e": "--epochs", "-b": "--batch-size", "-m": "--method", "-c": "--config"}
    expected |= {"-o": "--out", "-q": "--quiet", "-v": "--verbose"}
    assert meaning == {flag: {name} for flag, name in expected.items()}


@pytest.mark.parametrize(
    ("words", "command"),
    [
        (["device", "init", "--trust"], "device init"),
        (["--json", "data", "synth", "--n", "many"], "data synth"),
        (["device", "frob"], "device"),
        (["train", "--epochs", "data"], "train"),
        (["frob"], ""),
    ],
)
def test_a_usage_error_names_the_help_of_the_command_that_was_meant(edgeinc, words, command):
    done = edgeinc(*words)
    assert done.code == 2
    assert f"see `{' '.join(['edgeinc', *command.split()])} --help`" in done.out + done.err


@pytest.mark.parametrize("words", [[], ["data"], ["device"]])
def test_without_a_command_help_is_printed(edgeinc, words):
    done = edgeinc(*words)
    assert (done.code, done.err) == (2, "")
    assert "Usage:" in done.out


def test_version(edgeinc):
    assert edgeinc("--version") == (0, f"edgeinc {__version__}\n", "")


def test_help_loads_nothing_heavy(python):
    heavy = ["torch", "onnx", "onnxruntime", "numpy", "cv2"]
    code = (
        "import sys; from edgeinc.cli import main\n"
        "try: main(['train', '--help'])\n"
        "except SystemExit: pass\n"
        f"print([m for m in {heavy} if m in sys.modules])"
    )
    assert python("-c", code).stdout.splitlines()[-1] == "[]"


# ---------------------------------------------------------------------------------- errors

USAGE = {
    "unknown command": (["exprot"], "export"),
    "unknown option": (["train", "--precison", "fp32"], "--precision"),
    "no such choice": (["train", "--optimizer", "lion"], "adamw"),
    "not a number": (["train", "--epochs", "many"], "--epochs"),
    "missing option": (["predict", "a.png"], "--out"),
    "no data": (["train"], "--data"),
    "bad size": (["train", "--data", "streets", "--size", "64"], "64"),
    "empty name": (["extend", "runs/x", "--new-classes", "car,,bus"], "car,,bus"),
    "bad step": (["eval", "runs/x", "--step", "last"], "last"),
    "no last run": (["report"], "no run"),
    "no source": (["predict", "-o", "x"], "source"),
    "no such run": (["report", "runs/gone"], "runs/gone"),
    "no such kind": (["ls", "model"], "models"),
    "nothing of that name": (["show", "erfnt"], "erfnet"),
    "no such data": (["data", "info", "strets"], "streets"),
    "bad purpose": (["doctor", "--for", "fun"], "fun"),
}


@pytest.mark.parametrize(("words", "named"), USAGE.values(), ids=USAGE.keys())
def test_a_wrong_command_line_ends_with_two_and_a_hint(edgeinc, words, named):
    done = edgeinc(*words)
    assert (done.code, done.out) == (2, "")
    first, second = done.err.splitlines()
    assert first.startswith("error: ")
    assert second.startswith("hint: ")
    assert named in done.err


@pytest.mark.parametrize(("words", "named"), USAGE.values(), ids=USAGE.keys())
def test_with_json_an_error_is_a_document(edgeinc, words, named):
    done = edgeinc(*words, "--json")
    assert (done.code, done.out) == (2, "")
    error = json.loads(done.err)["error"]
    assert set(error) == {"message", "hint", "exit_code"}
    assert error["exit_code"] == 2
    assert named in error["message"] + error["hint"]


def test_quiet_still_says_what_is_wrong(edgeinc):
    done = edgeinc("show", "erfnt", "-q")
    assert done.code == 2
    assert done.err.startswith("error: ")


def test_a_bug_is_one_line_and_the_way_to_its_traceback(edgeinc, monkeypatch, run_folder):
    (run_folder / "step-0").mkdir()
    (run_folder / "step-0" / "step.json").mkdir()  # a folder where a file belongs
    done = edgeinc("show", run_folder)
    assert done.code == 1
    assert len(done.err.splitlines()) == 2
    for words, value in [(["-vv"], ""), ([], "1")]:
        monkeypatch.setenv("EDGEINC_DEBUG", value)
        again = edgeinc("show", run_folder, *words)
        assert again.code == 1
        assert "Traceback" in again.err


def test_an_internal_error_is_called_so(edgeinc, monkeypatch):
    monkeypatch.setattr("edgeinc.catalogue.listing", lambda kind: 1 / 0)
    done = edgeinc("ls", "models")
    assert (done.code, done.out) == (1, "")
    assert done.err == (
        "error: internal: ZeroDivisionError: division by zero\n"
        "hint: repeat with -vv, or with EDGEINC_DEBUG=1, to see the traceback\n"
    )


def test_a_missing_library_ends_with_four_and_the_extra_that_brings_it(python):
    done = python("-m", "edgeinc", "train", "--data", "streets", without=["torch"])
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr == 'error: torch is not installed\nhint: pip install "edgeinc[train]"\n'


def test_interrupting_ends_with_130(edgeinc, monkeypatch):
    def interrupt(kind):
        raise KeyboardInterrupt

    monkeypatch.setattr("edgeinc.catalogue.listing", interrupt)
    assert edgeinc("ls", "models").code == 130
    error = json.loads(edgeinc("ls", "models", "--json").err)["error"]
    assert error["exit_code"] == 130


# ---------------------------------------------------------------------------------- documents


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        (["ls"], Listing),
        (["ls", "models"], Listing),
        (["ls", "methods"], Listing),
        (["ls", "datasets"], Listing),
        (["ls", "runtimes"], Listing),
        (["ls", "runs"], Listing),
        (["ls", "conventions"], Listing),
        (["data", "ls"], Listing),
        (["show", "cil"], PluginDetails),
        (["show", "streets"], PluginDetails),
        (["data", "info", "streets"], DataInfo),
        (["data", "check", "streets", "--limit", "2"], DataCheck),
        (["data", "preview", "streets", "-o", "sheet.png", "--n", "2"], WrittenFile),
        (["data", "synth", "scenes", "--n", "5", "--size", "32x48"], WrittenFile),
        (["doctor", "--for", "device"], Diagnosis),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_json_prints_one_document_and_nothing_else(edgeinc, words, kind):
    done = edgeinc(*words, "--json")
    assert (done.code, done.err) == (0, "")
    document = from_json(kind, done.out, source="stdout")
    assert document.schema_version == 1


def test_bare_ls_has_every_kind(edgeinc, run_folder):
    document = from_json(Listing, edgeinc("ls", "--json").out, source="stdout")
    found = {(item.name, item.note) for item in document.items}
    expected = {"erfnet": "models", "streets": "datasets", "torch": "runtimes", "runs/mine": "runs"}
    both = {("cil", "methods"), ("cil", "conventions")}
    assert expected.items() | both <= found
    text = edgeinc("ls").out
    assert [line for line in text.splitlines() if line in {note for _, note in found}] == [
        "models",
        "methods",
        "datasets",
        "runtimes",
        "scenarios",
        "conventions",
        "runs",
    ]


def test_quiet_leaves_names_and_paths(edgeinc, repository):
    files = (repository / "edgeinc" / "methods").glob("[a-z]*.py")
    assert edgeinc("ls", "methods", "-q").out.split() == sorted(file.stem for file in files)
    done = edgeinc("data", "synth", "scenes", "--n", "5", "--size", "32x48", "-q")
    assert done == (0, "scenes\n", "")


def test_common_flags_stand_anywhere(edgeinc):
    expected = edgeinc("ls", "methods", "--json")
    assert edgeinc("--json", "ls", "methods") == expected
    assert edgeinc("ls", "--json", "methods") == expected
    assert edgeinc("-q", "data", "ls").out == edgeinc("data", "ls", "-q").out


def test_no_command_of_a_hint_is_written_by_hand_around_a_value(repository):
    """`as_typed` quotes what a shell would take apart; an f-string does not."""
    verbs = "|".join(sorted({words[0] for words in COMMANDS}))
    words = r"( [a-z]+)?( --[a-z-]+( [a-z]+)?)*"
    by_hand = re.compile(rf"\bf[\"'].*edgeinc ({verbs}){words} (--[a-z-]+ )?\{{")
    assert by_hand.search('f"edgeinc export {run}"')
    assert by_hand.search("f'see `edgeinc repo sign --key {key}`'")
    found = [
        f"{path.relative_to(repository)}: {line.strip()}"
        for path in sorted((repository / "edgeinc").rglob("*.py"))
        for line in path.read_text(encoding="utf-8").splitlines()
        if by_hand.search(line)
    ]
    assert found == []


def test_success_names_the_next_command_on_stderr(edgeinc):
    done = edgeinc("data", "info", "streets")
    assert done.err == "next: edgeinc data check streets\n"
    assert "next:" not in done.out


def test_verbose_tells_the_time(edgeinc):
    assert re.match(r"\d\d:\d\d:\d\d next: ", edgeinc("data", "info", "streets", "-v").err)


# ---------------------------------------------------------------------------------- exit codes


def test_data_with_problems_ends_with_three(edgeinc, tmp_path):
    edgeinc("data", "synth", "scenes", "--n", "5", "--size", "32x48")
    victim = min((tmp_path / "scenes").rglob("masks/**/*.png"))
    victim.write_bytes(victim.read_bytes()[:40])
    done = edgeinc("data", "check", "scenes")
    assert done.code == 3
    assert victim.name in done.out
    assert done.err.startswith("error: 1 problem in scenes")
    quiet = edgeinc("data", "check", "scenes", "-q")
    assert quiet.code == 3
    assert victim.name in quiet.out
    document = edgeinc("data", "check", "scenes", "--json")
    assert document.code == 3
    assert not from_json(DataCheck, document.out, source="stdout").ok
    assert json.loads(document.err)["error"]["exit_code"] == 3


def test_doctor_ends_with_four_when_something_is_missing(python):
    done = python("-m", "edgeinc", "doctor", "--for", "train", without=["torch"])
    assert done.returncode == 4
    assert re.search(r"^missing +torch", done.stdout, re.MULTILINE)
    assert "hint: pip install" in done.stderr


def test_demo_shows_its_table_and_ends_with_three_when_a_gate_was_not_met(edgeinc, monkeypatch):
    rows = (
        DemoRow(0, ("road", "sky"), None, 81.25, 81.25, 40.0),
        DemoRow(1, ("car",), 80.0, 61.0, 73.66, 39.0),
    )
    result = DemoResult("d/run", rows, "d/page.html", "d/seen.png", 75.0)
    monkeypatch.setattr("edgeinc.demo.demo", lambda out, *, progress: result)
    done = edgeinc("demo", "--out", "d")
    assert done.code == 0
    cells = [line.split() for line in done.out.splitlines()]
    assert ["0", "road,", "sky", EN_DASH, "81.2", "81.2", "40.0"] in cells
    assert ["1", "car", "80.0", "61.0", "73.7", "39.0"] in cells
    assert {"d/page.html", "d/seen.png"} <= set(done.out.split())
    assert edgeinc("demo", "-q") == (0, "d/page.html\n", "")
    failed = dataclasses.replace(result, failures=("step 1 lost the sky",))
    monkeypatch.setattr("edgeinc.demo.demo", lambda out, *, progress: failed)
    done = edgeinc("demo", "--json")
    assert (done.code, from_json(DemoResult, done.out, source="stdout")) == (3, failed)
    assert json.loads(done.err)["error"]["message"] == "step 1 lost the sky"


# ---------------------------------------------------------------------------------- last run


def test_a_run_may_be_left_out_once_one_was_used(edgeinc, run_folder):
    assert edgeinc("show").code == 2
    named = edgeinc("show", "runs/mine", "--json")
    assert from_json(RunSummary, named.out, source="stdout").path == "runs/mine"
    left_out = edgeinc("show")
    assert left_out.code == 0
    assert left_out.err.splitlines()[0] == "run: runs/mine (the last one used in this folder)"
    assert edgeinc("show", "--json") == named
    assert edgeinc("show", "-q") == (0, "runs/mine\n", "")


def test_a_failed_command_changes_no_last_run(edgeinc, run_folder, tmp_path):
    create_run(tmp_path / "runs" / "other", RunInfo("erfnet", {}, (64, 96), "2026-01-01"))
    edgeinc("show", "runs/other")
    assert edgeinc("eval", "runs/mine").code != 0
    assert "runs/other" in edgeinc("show").err


# ---------------------------------------------------------------------------------- terminals


@pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals are POSIX")
@pytest.mark.parametrize(
    ("words", "environment", "colored"),
    [
        (["ls", "methods"], {}, False),
        (["show", "cil"], {}, True),
        (["show", "erfnt"], {}, True),
        (["train", "--help"], {}, True),
        (["show", "cil"], {"NO_COLOR": "1"}, False),
        (["show", "erfnt"], {"NO_COLOR": "1"}, False),
        (["train", "--help"], {"NO_COLOR": "1"}, False),
        (["show", "cil"], {"TERM": "dumb"}, False),
        (["train", "--help"], {"TERM": "dumb"}, False),
        (["show", "cil", "--no-color"], {}, False),
        (["train", "--help", "--no-color"], {}, False),
        (["train", "--precison", "--no-color"], {}, False),
    ],
)
def test_colour_is_for_terminals_that_want_it(tmp_path, words, environment, colored):
    text = _in_terminal(tmp_path, words, environment)
    assert text
    assert (ESCAPE in text) is colored


def test_no_colour_without_a_terminal_even_where_one_is_forced(python, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    for words in (["--help"], ["show", "cil"], ["show", "erfnt"]):
        done = python("-c", f"import os; del os.environ['NO_COLOR']\n{_MAIN}", *words)
        assert ESCAPE not in done.stdout + done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals are POSIX")
def test_a_terminal_gets_a_bar_that_is_gone_in_the_end(tmp_path):
    text = _in_terminal(tmp_path, ["data", "check", "streets", "--limit", "8"], {})
    assert "/16" in text
    assert "img/s" in text
    assert "check" not in text.rsplit(f"{ESCAPE}2K", 1)[-1].partition("next:")[0]


def test_a_closed_pipe_is_no_traceback(python):
    code = f"import os\nr, w = os.pipe()\nos.dup2(w, 1)\nos.close(r), os.close(w)\n{_MAIN}"
    done = python("-c", code, "show", "cil")
    assert done.stderr == ""
    assert done.returncode == 1


def test_a_terminal_without_unicode_gets_ascii_and_json_stays_utf8(python, monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    done = python("-m", "edgeinc", "show", "cil")
    assert (done.returncode, done.stderr.count("Traceback")) == (0, 0)
    document = python("-m", "edgeinc", "show", "cil", "--json")
    assert from_json(PluginDetails, document.stdout, source="stdout").name == "cil"


_MAIN = "import sys; from edgeinc.cli import main; main(sys.argv[1:])"


def _in_terminal(folder, words, environment):
    """What a command prints where both streams are a terminal."""
    import pty

    reading, terminal = pty.openpty()
    clean = {k: v for k, v in os.environ.items() if not k.startswith("EDGEINC_")}
    clean = {k: v for k, v in clean.items() if k not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS")}
    clean |= {"TERM": "xterm-256color", **environment}
    process = subprocess.Popen(
        [sys.executable, "-m", "edgeinc", *words],
        cwd=folder,
        env=clean,
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
    )
    os.close(terminal)
    text = b""
    while True:
        try:
            block = os.read(reading, 65536)
        except OSError:  # Linux says EIO when the other end is closed
            break
        if not block:
            break
        text += block
    os.close(reading)
    process.wait(timeout=60)
    return text.decode(errors="replace")


# ---------------------------------------------------------------------------------- progress


def test_without_a_terminal_there_is_a_line_every_five_seconds():
    now, said = [0.0], []
    progress = Lines(said.append, clock=lambda: now[0])
    with progress.task("train", total=40, unit="it", done=10) as task:
        for second in range(1, 13):
            now[0] = float(second)
            task.advance(2, note=f"loss {second}")
    assert said == [
        "train 20/40 it  2.0 it/s  10.0 s left  loss 5",
        "train 30/40 it  2.0 it/s  5.0 s left  loss 10",
        "train 34/40 it in 12.0 s",
    ]


def test_short_work_says_nothing():
    now, said = [0.0], []
    with Lines(said.append, clock=lambda: now[0]).task("check", total=None, unit="img") as task:
        for _ in range(100):
            now[0] += 0.04
            task.advance()
    assert said == []


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.25, "0.2 s"), (59.9, "59.9 s"), (250, "4 min 10 s"), (7500, "2 h 05 min")],
)
def test_durations_are_read_by_people(seconds, text):
    assert duration(seconds) == text


def test_a_slow_rate_is_turned_over():
    assert (pace(12.34, "img"), pace(0.25, "it")) == ("12.3 img/s", "4.0 s/it")
