"""What a trial is called where Ray shows it: in its dashboard, and in its workers' logs."""

from __future__ import annotations

from ..space import WEIGHTS_STAGE, Candidate, Term
from ..space.options import IDENTITY

#: Longer names are cut: a dashboard's tables have no room for them.
LONGEST = 120


def trial_name(search: str, candidate: Candidate) -> str:
    """The search, the trial's number and its distiller, without weights where the forms differ.

    >>> from detkds.space import Distiller
    >>> trial_name("cells", Candidate(17, "logits", Distiller.parse("logits: softmax_c, kl × 5")))
    'cells/17 logits softmax_c kl'
    """
    distiller = candidate.distiller
    if candidate.stage == WEIGHTS_STAGE:
        weights = [f"{term.knowledge} {term.weight:g}" for term in distiller.terms]
        what = f"{WEIGHTS_STAGE} {', '.join(weights)}"
    elif distiller.active:
        what = distiller.name or " + ".join(map(_form, distiller.active))
    else:
        what = "student alone"
    name = f"{search}/{candidate.number} {what}"
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"


def _form(term: Term) -> str:
    named = [name for name in term.transforms if name != IDENTITY] or [IDENTITY]
    return " ".join([term.knowledge, *named, term.distance])
