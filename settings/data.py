"""The section ``data``: the images, and how detectors see them."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from .base import FilePath, Settings

#: How much the width over the height of a teacher's images may differ from the student's: as much
#: as whole pixels need, such as in 333 x 200 for 1333 x 800.
MAX_STRETCH = 0.02


class Split(Settings):
    """One COCO-format split."""

    #: The annotation file.
    annotations: FilePath
    #: The folder that the annotation file's file names are relative to.
    images: FilePath
    #: The splits that this one joins, whose data sets stand side by side; the annotation file is
    #: written from theirs. Empty: the annotation file is there.
    parts: list[Split] = []
    #: mmdet's config of a data set of another format, such as VOC's; the annotation file is written
    #: from it. None: the annotation file is there.
    source: dict[str, Any] | None = None

    @property
    def written(self) -> bool:
        """Whether detkds writes the annotation file."""
        return bool(self.parts) or self.source is not None


class Synthetic(Settings):
    """A set of textured shapes that detkds draws."""

    #: Training images.
    train: int = Field(default=600, ge=1)
    #: Validation images. Teachers without a score are scored on them.
    val: int = Field(default=200, ge=1)
    #: Test images.
    test: int = Field(default=200, ge=1)
    #: Pixels a side.
    size: int = Field(default=128, ge=32)
    #: The seed of the images.
    seed: int = Field(default=0, ge=0)
    #: Shapes an image at most.
    objects: int = Field(default=4, ge=1)
    #: The smallest and the largest diameter of a shape, in shares of the image's side.
    diameters: tuple[float, float] = (1 / 6, 1 / 2)


class Data(Settings):
    """The data set: real splits, or a synthetic set."""

    #: The training split.
    train: Split | None = None
    #: The test split. Only the final table uses this split; trials are scored on the proxy.
    test: Split | None = None
    #: Images that no detector is trained on. Teachers without a score are scored on them. None:
    #: such teachers are scored on the proxy's validation images, which are training images.
    val: Split | None = None
    #: A synthetic set in place of real splits.
    synthetic: Synthetic | None = None
    #: (width, height) that images are resized into, with their aspect ratio kept. None: the images
    #: come as the pipelines of the section ``job`` make them.
    image_size: tuple[int, int] | None = None
    #: (width, height) of the teacher's images, if the teacher sees larger images than the student.
    teacher_image_size: tuple[int, int] | None = None
    #: (width, height)s that training images are resized into; one of them is drawn each time an
    #: image is seen. None: all images have one size.
    multi_scale: list[tuple[int, int]] | None = Field(default=None, min_length=1)
    #: The probability of a horizontal flip in training.
    flip: float = Field(default=0.5, ge=0, le=1)
    #: Megabytes of decoded training images that a worker keeps. The images for scoring and the
    #: teacher's knowledge may take as much again, each. Images beyond the limit are decoded, or
    #: shown to the teacher, every time.
    cache_megabytes: int = Field(default=1024, ge=0)
    #: Processes that decode images beside each training, for a set far larger than the cache. With
    #: such processes, a training keeps no decoded images.
    num_workers: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _teacher_sees_more(self) -> Data:
        fault = self.teacher_image_size and self.size_fault(self.teacher_image_size)
        if fault:
            raise ValueError(f"data.teacher_image_size {fault}")
        return self

    @property
    def looks(self) -> list[str]:
        """The settings given here that say how detectors see the images."""
        look = ("image_size", "teacher_image_size", "multi_scale", "flip", "num_workers")
        return [f"data.{name}" for name in look if name in self.model_fields_set]

    @model_validator(mode="after")
    def _one_source(self) -> Data:
        if (self.train is None) == (self.synthetic is None):
            raise ValueError("give either data.train or data.synthetic")
        if self.synthetic is not None and self.val is not None:
            raise ValueError("data.synthetic has a validation split of its own; leave data.val out")
        return self

    @property
    def train_size(self) -> tuple[int, int] | None:
        """(width, height) that training images are resized into; None: see ``image_size``."""
        return self.teacher_image_size or self.image_size

    @property
    def train_sizes(self) -> list[tuple[int, int]]:
        """The (width, height)s of which every training image is resized into one."""
        return self.multi_scale or ([self.train_size] if self.train_size else [])

    @property
    def for_teachers(self) -> Data:
        """The same data for a teacher that is trained or scored alone, on images of its size."""
        return self.model_copy(update={"image_size": self.train_size, "teacher_image_size": None})

    @property
    def for_student(self) -> Data:
        """The same data for a student that is trained without a teacher."""
        return self.beside(self.image_size)

    def beside(self, size: tuple[int, int] | None) -> Data:
        """The same data for a student beside a teacher that sees images of this size."""
        own = None if size == self.image_size else size
        return self.model_copy(update={"teacher_image_size": own})

    @property
    def student_scale(self) -> float:
        """The factor in (0, 1] from a teacher's image to the student's."""
        if self.image_size is None or self.train_size is None:
            return 1.0
        return min(self.image_size) / min(self.train_size)

    def size_fault(self, size: tuple[int, int]) -> str | None:
        """Why a teacher can't see images of this size beside the student, or None."""
        if self.image_size is None:
            return "stands beside no data.image_size; give both, or leave it out"
        (width, height), (own_width, own_height) = size, self.image_size
        if self.multi_scale is not None and size != self.image_size:
            return (
                "stands beside data.multi_scale, which sets the sizes of training images too; "
                "leave one of them out"
            )
        if min(size) < min(self.image_size):
            return "is below data.image_size; leave it out"
        if abs(width * own_height / (height * own_width) - 1) > MAX_STRETCH:
            return (
                f"is not of the shape of data.image_size {self.image_size}, so one factor does not "
                f"lead from {size} to it; give the same width for each pixel of height"
            )
        return None
