"""The terms that populations start from: those of presets, distiller files, earlier searches.

"we can avoid some repeating searches by transferring some excellent losses for different
detectors" (DetKDS, Section 3.2).
"""

from __future__ import annotations

from ...configs import distiller_file
from ...db import Store
from ...space import STEP, Distiller, SearchSpace, Term, WrongUse, nearest

EARLIER = "search:"


def reads_store(references: list[str]) -> bool:
    """Whether a reference needs a store that holds an earlier search."""
    return any(reference.startswith(EARLIER) for reference in references)


def start_terms(references: list[str], space: SearchSpace, store: Store | None) -> list[Term]:
    """The terms that ``search.start`` names, each once, as far as their knowledge is searched.

    A reference is a preset's name, a distiller file, terms in arrow notation, or ``search:NAME``
    for the best of each stage of an earlier search. Without a store, references to searches are
    left out. Raises :class:`WrongUse` for a reference that does not exist and for an option that
    the space does not hold.
    """
    terms: dict[Term, None] = {}
    for reference in references:
        for distiller in _distillers(reference, store):
            for term in distiller.active:
                if term.knowledge in space.knowledge:
                    _check_term(term, space, reference)
                    terms[term] = None
    return list(terms)


def _distillers(reference: str, store: Store | None) -> list[Distiller]:
    if reference.startswith(EARLIER):
        return [] if store is None else _earlier(reference.removeprefix(EARLIER), store)
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


def _check_term(term: Term, space: SearchSpace, reference: str) -> None:
    options = space.options[term.knowledge]  # any weight will do
    slots = [*options.transforms, options.distances, options.schedules]
    values = [*term.applied, term.distance, term.schedule]
    if term.factor not in (None, STEP):
        raise WrongUse(
            f"{reference}: a factor of {term.factor:g} for {term.knowledge} is not in the space, "
            f"whose stepwise weights have a factor of {STEP:g}; leave the factor out",
            "search.start",
        )
    for value, choices in zip(values, slots, strict=True):
        if value not in choices:
            raise WrongUse(
                f"{reference}: '{value}' for {term.knowledge} is not in the space; set "
                "search.space=extended or leave it out",
                "search.start",
            )
