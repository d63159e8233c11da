"""The kinds of knowledge in groups: of maps, of responses, across heads, of labels."""

from detkds.distillers import KINDS
from detkds.distillers.cross import CrossKind
from detkds.distillers.features import FeatureKind
from detkds.distillers.responses import ResponseKind


def _of(base: type) -> tuple[str, ...]:
    return tuple(name for name, kind in KINDS.items() if issubclass(kind, base))


FEATURE_KNOWLEDGE, RESPONSE_KNOWLEDGE = _of(FeatureKind), _of(ResponseKind)
CROSS_KNOWLEDGE = _of(CrossKind)
LABEL, MGD = "label", "mgd"
