"""What detectors see: COCO-format files, the synthetic set, cached images."""

from .coco import (
    SIZES,
    Document,
    check_split,
    class_names,
    read_annotations,
    size_class,
    write_annotations,
    write_together,
)
from .synthetic import CLASSES, ShapesFiles, make_shapes, shapes_files

__all__ = [
    "CLASSES",
    "SIZES",
    "Document",
    "ShapesFiles",
    "check_split",
    "class_names",
    "make_shapes",
    "read_annotations",
    "shapes_files",
    "size_class",
    "write_annotations",
    "write_together",
]
