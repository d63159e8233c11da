"""The transforms and distances of class scores (DetKDS Table 2, Appendix D), for any size.

Student's and teacher's responses are (N, C, M): N images, C classes, M positions (priors or
regions) of all levels. Both are read in :class:`Pieces`, a range of positions each. A distance
compares *vectors*, by default the C scores of a position; ``reshape_c`` and ``reshape_n`` make
other vectors of the same numbers. It is 0 where both sides agree. A position that does not count
changes neither a distance nor its gradient, even where the position is infinite.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ..detectors import Levels
from .distances import EPSILON, HIDDEN_LOGIT, LEAST_SQUARE, coefficient, js_root
from .pieces import Join, Pieces, greatest, total
from .processes import mean_over_processes
from .response_transforms import CLASSES, POSITIONS, RESHAPES, RESPONSE_TRANSFORMS

#: α of formula (11). The paper prints no value; the formula's source (information-theoretic
#: representation distillation) uses 1.01.
CORRELATION_ALPHA = 1.01
#: Of student, teacher and what counts, then the numbers known of each vector.
OfPiece = Callable[..., Tensor]


@dataclass(frozen=True)
class Totals:
    """What a batch's means divide by, all at least a trifle."""

    #: How many positions count, mean over processes.
    positions: Tensor
    #: How many images have one that does, mean over processes.
    seen: Tensor
    #: How many images this process has.
    images: int

    @staticmethod
    def of(counts: Tensor) -> Totals:
        """``counts``: how many positions of each image count, (N, 1, 1)."""
        sums = torch.stack([counts.sum(), (counts > 0).to(counts.dtype).sum()])
        positions, seen = mean_over_processes(sums).clamp(min=EPSILON).unbind()
        return Totals(positions, seen, len(counts))


@dataclass(frozen=True)
class Vectors:
    """Pairs of vectors, of which a piece is held at a time.

    They may be those of some of a batch's images. Then a distance is these images' part of the
    batch's distance, which is the sum of the parts.
    """

    pieces: Pieces
    #: How many positions of each image count: (N, 1, 1).
    counts: Tensor
    #: Of the whole batch.
    totals: Totals
    reading: Reading
    #: What the reading needs of the whole: first the transform's statistics.
    shared: tuple[Tensor, ...]

    @staticmethod
    def of(
        transform: str,
        student: Levels,
        teacher: Levels,
        counted: Levels,
        totals: Totals | None = None,
    ) -> Vectors:
        """The responses of all levels, (N, C, *) each, after the named transform.

        ``counted``: True where a prediction counts, (N, 1, *), level by level. ``totals``: of the
        batch; None: the images are the batch.
        """
        pieces = Pieces(student, teacher, counted)
        counts = counts_of(counted)
        chosen = RESPONSE_TRANSFORMS["identity" if transform in RESHAPES else transform]
        statistics = chosen.statistics(pieces, counts)
        reading = Reading(chosen.apply, len(statistics), RESHAPES.get(transform, CLASSES))
        return Vectors(pieces, counts, totals or Totals.of(counts), reading, statistics)

    @property
    def along(self) -> tuple[int, ...]:
        """The axes that the vectors lie along."""
        return self.reading.axes

    @property
    def inside(self) -> bool:
        """Whether a piece has whole vectors."""
        return self.along == CLASSES

    def each(self, function: OfPiece, join: Join = total) -> Tensor:
        """What a function of each piece gives, joined."""
        reading = self.reading

        def of_piece(student: Tensor, teacher: Tensor, counted: Tensor, *shared: Tensor) -> Tensor:
            return function(*reading(student, teacher, counted, shared))

        return self.pieces.each(of_piece, *self.shared, join=join)

    def known(self, measure: OfPiece, join: Join = total) -> Vectors:
        """With one more number, or some side by side, known of each vector.

        ``measure`` is taken along the vectors. Where they do not fit into a piece, ``join`` makes
        the vectors' numbers of those of their parts.
        """
        if self.inside:
            steps, shared = (*self.reading.steps, measure), self.shared
        else:
            steps = (*self.reading.steps, None)
            shared = (*self.shared, self.each(measure, join))
        return replace(self, reading=replace(self.reading, steps=steps), shared=shared)

    def sums(self, terms: OfPiece) -> Vectors:
        """With the sums along each vector of ``terms`` of student, teacher and what is known."""
        axes = self.along

        def measure(s: Tensor, t: Tensor, counted: Tensor, *numbers: Tensor) -> Tensor:
            return torch.where(counted, terms(s, t, *numbers), 0).sum(dim=axes, keepdim=True)

        return self.known(measure)

    def sums_of_logs(self, terms: OfPiece) -> Vectors:
        """With the sums along each vector of ``terms`` of both sides' log softmax."""
        if self.inside:
            return self.sums(lambda s, t, *_: terms(*(x.log_softmax(dim=1) for x in (s, t))))
        axes, place = self.along, len(self.numbers())

        def hide(s: Tensor, t: Tensor, counted: Tensor) -> Tensor:
            return torch.stack([s, t]).masked_fill(~counted, HIDDEN_LOGIT)

        def tops(s: Tensor, t: Tensor, counted: Tensor, *_: Tensor) -> Tensor:
            return hide(s, t, counted).amax(dim=axes, keepdim=True).detach()

        def exponentials(s: Tensor, t: Tensor, counted: Tensor, *numbers: Tensor) -> Tensor:
            return (hide(s, t, counted) - numbers[place]).exp().sum(dim=axes, keepdim=True)

        def measure(s: Tensor, t: Tensor, counted: Tensor, *numbers: Tensor) -> Tensor:
            logs = hide(s, t, counted) - numbers[place] - numbers[place + 1].log()
            return torch.where(counted, terms(*logs), 0).sum(dim=axes, keepdim=True)

        return self.known(tops, greatest).known(exponentials).known(measure)

    def numbers(self) -> tuple[Tensor, ...]:
        """What is known of vectors that are longer than a piece: (N, C or 1, 1) each."""
        return self.shared[self.reading.statistics :]

    def mean_of_images(self, values: Tensor) -> Tensor:
        """The mean of values (N, C, 1) over the images that have a position that counts."""
        return torch.where(self.counts > 0, values, 0).mean(dim=(1, 2)).sum() / self.totals.seen

    def mean(self, value: Callable[..., Tensor]) -> Tensor:
        """The mean over vectors of what ``value`` makes of the numbers known of each."""
        if not self.inside:
            return self.mean_of_images(value(*self.numbers()))
        summed = self.each(lambda s, t, counted, *n: torch.where(counted, value(*n), 0).sum())
        return summed / self.totals.positions

    def mean_of_elements(self, value: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """The mean of a function of the student's and the teacher's numbers."""
        return self.sum_of_elements(value) / (self.totals.positions * self.classes)

    def sum_of_elements(self, value: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        return self.each(lambda s, t, counted, *_: torch.where(counted, value(s, t), 0).sum())

    @property
    def classes(self) -> int:
        return self.pieces.channels


@dataclass(frozen=True)
class Reading:
    """How a piece is read: transformed, with what is known of its vectors."""

    transform: Callable[..., Tensor]
    #: How many of the shared tensors are the transform's.
    statistics: int
    axes: tuple[int, ...]
    #: Each makes a number known of vectors inside of a piece; None: the next shared tensor is it.
    steps: tuple[OfPiece | None, ...] = ()

    def __call__(
        self, student: Tensor, teacher: Tensor, counted: Tensor, shared: tuple[Tensor, ...]
    ) -> Iterator[Tensor]:
        own = shared[: self.statistics]
        student, teacher = (
            torch.where(counted, self.transform(side, *(x[i] for x in own)), 0)
            for i, side in enumerate((student, teacher))
        )
        rest = iter(shared[self.statistics :])
        numbers: list[Tensor] = []
        for step in self.steps:
            found = next(rest) if step is None else step(student, teacher, counted, *numbers)
            numbers.append(found)
        return iter((student, teacher, counted, *numbers))


def counts_of(counted: Levels) -> Tensor:
    """How many positions count in an image, (N, 1, 1); ``counted``: (N, 1, *), level by level."""
    counts = torch.stack([level.flatten(1).sum(dim=1) for level in counted]).sum(dim=0)
    return counts.to(torch.float32).view(-1, 1, 1)


def l1(vectors: Vectors) -> Tensor:
    """Mean absolute difference."""
    return vectors.mean_of_elements(lambda s, t: (s - t).abs())


def l2(vectors: Vectors) -> Tensor:
    """Mean squared difference: see :func:`~detkds.distillers.distances.l2`."""
    return vectors.mean_of_elements(lambda s, t: (s - t).square())


def smooth_l1(vectors: Vectors) -> Tensor:
    """Huber's mean: quadratic below a difference of 1, linear above."""
    return vectors.mean_of_elements(lambda s, t: F.smooth_l1_loss(s, t, reduction="none"))


def kl(vectors: Vectors) -> Tensor:
    """KL(teacher ‖ student) of each vector's softmax, mean over vectors.

    Appendix D takes probabilities of classes; a softmax makes them.
    """

    def terms(log_q: Tensor, log_p: Tensor) -> Tensor:
        return log_p.exp() * (log_p - log_q)

    return vectors.sums_of_logs(terms).mean(lambda *numbers: numbers[-1])


def jensen_shannon(vectors: Vectors) -> Tensor:
    """Jensen-Shannon distance of each vector's softmax (SSSD), at most sqrt(ln 2).

    The root of the divergence's mean over an image's positions, mean over images: see
    :func:`~detkds.distillers.distances.jensen_shannon`. A reshaped vector is a sample of its own.
    """

    def terms(log_q: Tensor, log_p: Tensor) -> Tensor:
        log_m = torch.logaddexp(log_q, log_p) - math.log(2)
        return (log_q.exp() * (log_q - log_m) + log_p.exp() * (log_p - log_m)) / 2

    seen = vectors.sums_of_logs(terms)
    if not vectors.inside:
        return vectors.mean_of_images(js_root(seen.numbers()[-1]))

    def of_images(s: Tensor, t: Tensor, counted: Tensor, divergence: Tensor) -> Tensor:
        return torch.where(counted, divergence, 0).sum(dim=(1, 2), keepdim=True)

    divergence = seen.each(of_images) / vectors.counts.clamp(min=EPSILON)
    return vectors.mean_of_images(js_root(divergence))


def cosine(vectors: Vectors) -> Tensor:
    """1 - cosine of the two vectors, mean over vectors; 0 where both vanish."""
    products = vectors.sums(lambda s, t: torch.stack([s * t, s * s, t * t]))

    def distance(sums: Tensor) -> Tensor:
        product, first, second = sums + LEAST_SQUARE
        return 1 - product * (first * second).rsqrt()

    return products.mean(distance)


def pearson(vectors: Vectors) -> Tensor:
    """1 - Pearson's r of the two vectors, mean over vectors.

    Appendix D: P_i and Q_i are the probabilities of class i.
    """
    return _correlated(vectors).mean(lambda means, moments: 1 - coefficient(*moments))


def pearson_hw(vectors: Vectors) -> Tensor:
    """1 - Pearson's r of each class over its image's positions, mean over classes and images."""
    if not vectors.inside:
        return _nothing(vectors)
    return pearson(_by_class(vectors))


def correlation(vectors: Vectors) -> Tensor:
    """Formula (11) on the diagonal v of the cross-correlation matrix: log2(1 + Σ|v - 1|^2α).

    v_i is the correlation of class i over the n representations of a batch (Appendix D). A batch
    here is the positions, or regions, of one image, so that the loss is a mean over images. The 1
    is ours: without the 1 the loss goes to -∞, and its gradient to ∞, as both agree.
    """
    if not vectors.inside:
        return _nothing(vectors)
    _, moments = _correlated(_by_class(vectors)).numbers()
    apart = (1 - coefficient(*moments)).clamp(min=0)
    losses = torch.log2(1 + apart.pow(2 * CORRELATION_ALPHA).sum(dim=1))
    return losses.mean(dim=1).sum() / vectors.totals.images


def _correlated(vectors: Vectors) -> Vectors:
    """With both means along each vector, and with two variances and the covariance."""
    length = 1.0 if vectors.along == POSITIONS else float(vectors.classes)
    counts = 1.0 if vectors.inside else vectors.counts.clamp(min=EPSILON)
    count = length * counts

    def centred(s: Tensor, t: Tensor, means: Tensor) -> Tensor:
        a, b = s - means[0] / count, t - means[1] / count
        return torch.stack([a * a, b * b, a * b]) / count

    return vectors.sums(lambda s, t: torch.stack([s, t])).sums(centred)


def _by_class(vectors: Vectors) -> Vectors:
    return replace(vectors, reading=replace(vectors.reading, axes=POSITIONS))


def _nothing(vectors: Vectors) -> Tensor:
    """Zero with a graph: each number is a position of its own, and correlates with nothing."""
    return vectors.each(lambda s, t, *_: s[:0].sum())


def quality_focal(student: Tensor, teacher: Tensor) -> Tensor:
    """Quality focal loss of every logit at γ = 1, with the teacher's score as the soft label.

    CrossKD, formula (7). The result has the shape of the logits: it is not yet a mean.
    """
    label = teacher.sigmoid()
    difference = (student.sigmoid() - label).abs()
    return difference * F.binary_cross_entropy_with_logits(student, label, reduction="none")


#: The distances of class scores, by name; ``pearson`` compares the classes of a position.
SCORE_DISTANCES: dict[str, Callable[[Vectors], Tensor]] = {
    f.__name__: f
    for f in (
        *(l1, l2, smooth_l1, kl, jensen_shannon, cosine),
        *(pearson, pearson_hw, correlation),
    )
}
