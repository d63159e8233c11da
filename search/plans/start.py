"""What a search starts from: presets, distiller files, earlier searches, the student alone.

"we can avoid some repeating searches by transferring some excellent losses for different
detectors" (DetKDS, Section 3.2).
"""

from __future__ import annotations

from dataclasses import replace

from ...configs import distiller_file, distiller_names
from ...db import Store
from ...settings import PRESETS
from ...space import NONE, STEP, Distiller, SearchSpace, Term, WrongUse, nearest

EARLIER = "search:"


def reads_store(references: list[str]) -> bool:
    """Whether a reference needs a store that holds an earlier search."""
    return any(reference.startswith(EARLIER) for reference in references)


def start_distillers(
    references: list[str], space: SearchSpace, store: Store | None
) -> list[Distiller]:
    """The distillers that ``search.start`` names, each once, without terms that do nothing.

    A reference is ``presets`` for all shipped distillers that lie in the space, ``none``, a
    shipped distiller's name, a distiller file, terms in arrow notation, or ``search:NAME`` for the
    best of each stage of an earlier search. Of a distiller that is named, terms whose knowledge is
    not searched are left out. Without a store, references to searches are left out. Raises
    :class:`WrongUse` for a reference that does not exist and for a named distiller's option that
    the space does not hold.
    """
    found: dict[str, Distiller] = {}
    for reference in references:
        if reference == PRESETS:
            distillers = _presets(space)
        else:
            named = _named(reference, store)
            distillers = [_searched(one, space, reference) for one in named]
            distillers = [
                new
                for new, old in zip(distillers, named, strict=True)
                if new.terms or not old.active
            ]
        for distiller in distillers:
            found.setdefault(distiller.key, distiller)
    return list(found.values())


def _presets(space: SearchSpace) -> list[Distiller]:
    """The shipped distillers all of whose terms the space holds, whatever their weights."""
    shipped = [Distiller.from_json(distiller_file(name)) for name in distiller_names()]
    return [
        one
        for one in shipped
        if all(t.knowledge in space.knowledge and not _missing(t, space) for t in one.active)
    ]


def _named(reference: str, store: Store | None) -> list[Distiller]:
    if reference.startswith(EARLIER):
        return [] if store is None else _earlier(reference.removeprefix(EARLIER), store)
    if reference == NONE:
        return [Distiller((), name=NONE)]
    if "," in reference:
        return [Distiller.parse(reference)]
    return [Distiller.from_json(distiller_file(reference))]


def _earlier(name: str, store: Store) -> list[Distiller]:
    """The best distiller of each stage of a search in the store."""
    search = store.find_search(name)
    if search is None:
        names = [known.name for known in store.searches()]
        raise WrongUse(f"no search '{name}' in {store.url}: {nearest(name, names)}", "search.start")
    best: dict[str, tuple[float, Distiller]] = {}
    for trial in store.trials(search.id):
        if trial.score is not None and trial.score > best.get(trial.stage, (-1.0, None))[0]:
            best[trial.stage] = (trial.score, trial.distiller)
    return [distiller for _, distiller in best.values()]


def _searched(distiller: Distiller, space: SearchSpace, reference: str) -> Distiller:
    """The distiller without the terms that are not searched."""
    terms = tuple(term for term in distiller.active if term.knowledge in space.knowledge)
    for term in terms:
        fault = _missing(term, space)
        if fault is not None:
            raise WrongUse(f"{reference}: {fault}", "search.start")
    return replace(distiller, terms=terms)


def _missing(term: Term, space: SearchSpace) -> str | None:
    """What of a term, whose knowledge is searched, the space does not hold; any weight will do."""
    options = space.options[term.knowledge]
    slots = [*options.transforms, options.distances, options.schedules]
    values = [*term.applied, term.distance, term.schedule]
    if term.factor not in (None, STEP):
        return (
            f"a factor of {term.factor:g} for {term.knowledge} is not in the space, whose stepwise "
            f"weights have a factor of {STEP:g}; leave the factor out"
        )
    for value, choices in zip(values, slots, strict=True):
        if value not in choices:
            return (
                f"'{value}' for {term.knowledge} is not in the space; set search.space=extended or "
                "leave it out"
            )
    return None
