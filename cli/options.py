"""Which option sets what the other rooms call by the name of its setting.

An error of the other rooms begins with a setting (``proxy.train_images``, ``storage``). Where the
command has an option for the setting, the user reads the option (``--train``, ``--storage``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from ..space import WrongUse

_STORED = {"storage": "--storage", "work_dir": "--work-dir"}
#: A search that runs is refused as one that is to be resumed is.
_OWNED = {**_STORED, "resume": "name"}
_CONFIGURED = {**_STORED, "cfg_options": "--cfg-options"}
_ORDERED = {"max_teachers": "--max-teachers", "order_algorithm": "--algorithm"}

#: The options that name models, which a search config may set as well.
_MODELS = {
    "student": "--student",
    "teacher": "--teacher",
    "teacher.checkpoint": "--teacher-checkpoint",
}
#: What --gpus sets, which a search config may set as well.
_GPUS = {"final.processes": "--gpus", "resources.gpus": "--gpus"}

#: The options of every command, by the settings that they set.
OPTIONS: dict[str, dict[str, str]] = {
    "search": {**_CONFIGURED, "name": "--name", "resume": "--resume", "submit": "--submit"},
    "check": {"work_dir": "--work-dir", "cfg_options": "--cfg-options"},
    "trials": _STORED,
    "searches": _STORED,
    "export": _STORED,
    "db": _STORED,
    "clean": _OWNED,
    "delete": _OWNED,
    "log": _STORED,
    "report": _STORED,
    "watch": _STORED,
    "train": {
        **_CONFIGURED,
        **_ORDERED,
        "distiller": "--distiller",
        "order": "--teachers",
        "export_config": "--export-config",
    },
    "teachers": {**_CONFIGURED, **_ORDERED, "costs": "--costs"},
    "proxy": {
        "proxy.train_images": "--train",
        "proxy.val_images": "--val",
        "proxy.folder": "--out",
    },
}


def options_of(arguments: Sequence[str]) -> dict[str, str]:
    """The options of the command in ``arguments``, by the settings that they set.

    A search config may name the models and set the GPUs, too: these have options only where a
    command gives them.
    """
    options = OPTIONS.get(arguments[0] if arguments else "", {})
    given = {argument.partition("=")[0] for argument in arguments}
    if "--gpus" in given:
        options = {**options, **_GPUS}
    if "--student" not in given or "--costs" in given:
        return options
    return {**options, **_MODELS}


@contextmanager
def naming(options: Mapping[str, str]) -> Iterator[None]:
    """A :class:`WrongUse` from inside begins with the option that sets its setting."""
    try:
        yield
    except WrongUse as error:
        option = options.get(error.setting or "")
        if option is None:
            raise
        raise WrongUse(error.message, option) from None
