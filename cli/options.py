"""Which option sets what the other rooms call by the name of its setting.

An error of the other rooms begins with a setting (``proxy.train_images``, ``storage``). Where the
command has an option for the setting, the user reads the option (``--train``, ``--storage``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from ..space import WrongUse

_STORED = {"storage": "--storage", "work_dir": "--work-dir"}
_CONFIGURED = {**_STORED, "cfg_options": "--cfg-options"}
_ORDERED = {"max_teachers": "--max-teachers", "order_algorithm": "--algorithm"}

#: The options of every command, by the settings that they set.
OPTIONS: dict[str, dict[str, str]] = {
    "search": {**_CONFIGURED, "name": "--name", "resume": "--resume"},
    "trials": _STORED,
    "export": _STORED,
    "train": {**_CONFIGURED, **_ORDERED, "distiller": "--distiller", "order": "--teachers"},
    "teachers": {**_CONFIGURED, **_ORDERED, "costs": "--costs"},
    "proxy": {
        "proxy.train_images": "--train",
        "proxy.val_images": "--val",
        "proxy.folder": "--out",
    },
}


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
