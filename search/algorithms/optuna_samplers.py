"""Optuna's samplers, through its ask-and-tell."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from random import Random
from typing import Any

from ...settings import Search
from ...space import Distiller, Outcome, WrongUse
from .base import MAX_DRAWS, Algorithm, Factory
from .budget import Budgeted, value
from .stages import Choice, Stage


@dataclass(frozen=True)
class Sampler:
    """How a sampler of Optuna is made, and what it makes of a stage's slots.

    ``conditional``: it may be asked for some of the parameters alone, so that the options of a kind
    of knowledge are asked for only if the distiller has the kind. The others look at parameters
    that all trials have: they get all, and those of an absent kind change nothing.
    ``numbers``: it knows numbers alone: an option is its place in the slot.
    ``least``: parameters that it needs. ``packages``: what it needs besides Optuna.
    """

    make: Callable[[Any, Search, int], Any]
    conditional: bool = False
    numbers: bool = False
    least: int = 1
    packages: tuple[str, ...] = ()


def _tpe(samplers: Any, settings: Search, seed: int) -> Any:
    return samplers.TPESampler(seed=seed, multivariate=True, group=True, constant_liar=True)


def _gp(samplers: Any, settings: Search, seed: int) -> Any:
    return samplers.GPSampler(seed=seed)


def _cmaes(samplers: Any, settings: Search, seed: int) -> Any:
    return samplers.CmaEsSampler(seed=seed, with_margin=True)


def _nsga2(samplers: Any, settings: Search, seed: int) -> Any:
    return samplers.NSGAIISampler(seed=seed, population_size=max(2, settings.population))


SAMPLERS: dict[str, Sampler] = {
    "tpe": Sampler(_tpe, conditional=True),
    "gp": Sampler(_gp, packages=("scipy", "torch")),
    "cmaes": Sampler(_cmaes, numbers=True, least=2, packages=("cmaes",)),
    "nsga2": Sampler(_nsga2),
}


def optuna_sampler(name: str) -> Factory:
    """The factory of the algorithm that asks one of :data:`SAMPLERS`.

    The factory raises :class:`WrongUse` if a package is missing, and for a stage with too little to
    choose. With its usual start, Optuna would try some random distillers first; here the stage's
    first distillers are tried before.
    """
    sampler = SAMPLERS[name]

    def algorithm(stage: Stage, settings: Search, rng: Random) -> Algorithm:
        optuna, *_ = (_imported(package, name) for package in ("optuna", *sampler.packages))
        proposer = OptunaSampler(optuna, sampler, stage, settings, rng.getrandbits(32))
        if len(proposer.parameters) < sampler.least:
            raise WrongUse(
                f"optuna:{name} needs {sampler.least} or more options to choose, and the stage "
                f"'{stage.name}' has {len(proposer.parameters)}; search more kinds of knowledge, "
                "or use another algorithm",
                "search.algorithm",
            )
        return Budgeted(stage, settings, rng, proposer)

    return algorithm


def _imported(package: str, name: str) -> Any:
    try:
        return import_module(package)
    except ImportError:
        raise WrongUse(
            f"optuna:{name} needs the package '{package}', which is not installed: "
            f"pip install {package}",
            "search.algorithm",
        ) from None


class OptunaSampler:
    """A study whose trials are distillers: a parameter for each slot with several choices.

    A weight is the place among the slot's weights, which are in order. Where 0 is among them, a
    parameter of its own says whether there is a term, so that half of the first distillers lack it.
    A candidate that is rejected or fails is a failed trial, of which samplers take no notice.
    """

    learns = True

    def __init__(
        self, optuna: Any, sampler: Sampler, stage: Stage, settings: Search, seed: int
    ) -> None:
        self._optuna, self._sampler, self._stage = optuna, sampler, stage
        with _quiet(optuna):
            made = sampler.make(optuna.samplers, settings, seed)
            self._study = optuna.create_study(sampler=made, direction="maximize")
        #: All parameters with their distributions.
        self.parameters: dict[str, Any] = {}
        for index, slot in enumerate(stage.slots):
            self.parameters.update(self._of_slot(index, slot))
        #: The open trials by the distiller's key.
        self._open: dict[str, list[Any]] = {}

    def propose(self, rng: Random) -> Distiller:
        for _ in range(MAX_DRAWS):
            trial, distiller = self._ask()
            if distiller.active:
                self._open.setdefault(distiller.key, []).append(trial)
                return distiller
            self._tell(trial, None)  # no proposal is the student alone
        distiller = self._stage.random(rng)
        self.given(distiller)
        return distiller

    def given(self, distiller: Distiller) -> None:
        """A trial with the distiller's parameters."""
        fixed: dict[str, int] = {}
        choices = self._stage.encode(distiller)
        for index, (slot, choice) in enumerate(zip(self._stage.slots, choices, strict=True)):
            fixed.update(self._values(index, slot, choice))
        self._study.enqueue_trial(fixed)
        trial, _ = self._ask()
        self._open.setdefault(distiller.key, []).append(trial)

    def told(self, distiller: Distiller, outcome: Outcome) -> None:
        self._tell(self._open[distiller.key].pop(0), value(outcome))

    def _tell(self, trial: Any, scored: float | None) -> None:
        failed = self._optuna.trial.TrialState.FAIL if scored is None else None
        self._study.tell(trial, scored, state=failed)

    def _ask(self) -> tuple[Any, Distiller]:
        """The study's next trial and its distiller."""
        with _quiet(self._optuna):
            whole = {} if self._sampler.conditional else self.parameters
            trial = self._study.ask(fixed_distributions=whole)
            choices: list[Choice] = []
            for index, slot in enumerate(self._stage.slots):
                idle = self._stage.idle(choices)
                choices.append(slot[0] if idle else self._chosen(trial, index, slot))
        return trial, self._stage.decode(choices)

    def _of_slot(self, index: int, slot: tuple[Choice, ...]) -> dict[str, Any]:
        """The parameters of a slot: none, whether there is a term, the place of the choice."""
        distributions = self._optuna.distributions
        found: dict[str, Any] = {}
        if isinstance(slot[0], float):
            if slot[0] == 0 and len(slot) > 1:
                found[_term(index)] = self._options(("no", "yes"))
                slot = slot[1:]
            if len(slot) > 1:
                found[_slot(index)] = distributions.IntDistribution(0, len(slot) - 1)
        elif len(slot) > 1:
            found[_slot(index)] = self._options(slot)
        return found

    def _options(self, options: tuple[Choice, ...]) -> Any:
        distributions = self._optuna.distributions
        if self._sampler.numbers:
            return distributions.IntDistribution(0, len(options) - 1)
        return distributions.CategoricalDistribution(range(len(options)))

    def _chosen(self, trial: Any, index: int, slot: tuple[Choice, ...]) -> Choice:
        """The trial's choice in a slot. Every parameter's value is a place."""
        if _term(index) in self.parameters:
            if not self._suggested(trial, _term(index)):
                return slot[0]
            slot = slot[1:]
        return slot[self._suggested(trial, _slot(index))] if len(slot) > 1 else slot[0]

    def _suggested(self, trial: Any, name: str) -> int:
        asked = self.parameters[name]
        if name in trial.params:
            return trial.params[name]
        if isinstance(asked, self._optuna.distributions.IntDistribution):
            return trial.suggest_int(name, asked.low, asked.high)
        return trial.suggest_categorical(name, asked.choices)

    def _values(self, index: int, slot: tuple[Choice, ...], choice: Choice) -> Mapping[str, int]:
        """The values of a slot's parameters for a choice."""
        found, place = {}, slot.index(choice)
        if _term(index) in self.parameters:
            found[_term(index)] = int(place > 0)
            place = max(place - 1, 0)
        if _slot(index) in self.parameters:
            found[_slot(index)] = place
        return found


def _slot(index: int) -> str:
    return f"slot {index}"


def _term(index: int) -> str:
    return f"term {index}"


@contextmanager
def _quiet(optuna: Any) -> Iterator[None]:
    """Keep Optuna from telling what concerns its own users: new studies, experimental options."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(before)
