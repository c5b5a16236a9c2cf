"""What can go wrong in a way the user can mend.

Every error carries one line that names the value, a `hint` with the way out, and the exit code
the command ends with. Anything else that is raised is a bug and keeps its traceback.

    raise UsageError("unknown model 'erfnt'", hint="did you mean 'erfnet'? see `edgeinc ls models`")
"""

from __future__ import annotations

import shlex


def as_typed(*words: object) -> str:
    """A command of edgeinc for a hint: `edgeinc` and the words, quoted where a shell needs it."""
    return shlex.join(["edgeinc", *map(str, words)])


class EdgeincError(Exception):
    """Base of every error edgeinc raises on purpose: the operation failed."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(EdgeincError):
    """The command, a flag, a setting or a configuration file is not usable as given."""

    exit_code = 2


class GateError(EdgeincError):
    """A threshold the user asked for was not met; the result itself is complete and saved."""

    exit_code = 3


class MissingError(EdgeincError):
    """Hardware or software that was asked for is not on this machine."""

    exit_code = 4


class UpdateError(EdgeincError):
    """A new file was refused; what was served before still is."""

    exit_code = 5


class Interrupted(EdgeincError):
    """The user stopped the work; what was done is saved."""

    exit_code = 130


class DataError(EdgeincError):
    """An image, a mask or a label file is not what it should be."""


class RunError(EdgeincError):
    """A run folder cannot be used: absent, locked, damaged, or not in the state asked for."""


class TrainingError(EdgeincError):
    """Training cannot go on, for example because a loss term became NaN."""
