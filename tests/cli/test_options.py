"""Errors of lower rooms name a setting; the user reads the option that sets it."""

from __future__ import annotations

import pytest
import typer.main
from detkds.cli.commands import app
from detkds.cli.options import OPTIONS, naming
from detkds.search.algorithms import check_algorithm_name
from detkds.search.controller import Controller, Event, replay
from detkds.settings import Search
from detkds.space import Candidate, Distiller, Outcome, SearchSpace, WrongUse

COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def shown(command: str, call, *arguments) -> str:
    with pytest.raises(WrongUse) as error, naming(OPTIONS.get(command, {})):
        call(*arguments)
    return str(error.value)


def replay_another_search() -> None:
    stored = Candidate(0, "global", Distiller.parse("global: catt, l1 × 5"))
    controller = Controller(SearchSpace.preset(), Search(), seed=0)
    replay(controller, [Event(stored, 0, None, Outcome.rejected("shape error"))])


def test_a_setting_that_the_command_has_an_option_for():
    said = shown("search", replay_another_search)
    assert said.startswith("--resume: trial 0 of the stored search is not what")
    assert shown("train", replay_another_search).startswith("resume: trial 0"), "no --resume there"


def test_a_setting_of_the_config_stays_what_it_is():
    said = shown("search", check_algorithm_name, "algorithm")
    assert said.startswith("search.algorithm: unknown algorithm 'algorithm'")


def test_an_error_without_a_setting_stays_what_it_is():
    assert shown("proxy", Distiller.parse, "nonsense").startswith("can't read the term 'nonsense'")


@pytest.mark.parametrize(
    ("command", "setting", "option"),
    [(command, *pair) for command, options in OPTIONS.items() for pair in options.items()],
)
def test_every_option_of_the_table_is_one_of_the_commands(command, setting, option):
    whole = COMMANDS[command]
    for one in getattr(whole, "commands", {command: whole}).values():
        assert option in {name for parameter in one.params for name in parameter.opts}

    def refuse() -> None:
        raise WrongUse("7 is too many: give at most 5", setting)

    assert shown(command, refuse) == f"{option}: 7 is too many: give at most 5"
