"""Training images of several sizes: drawn anew, kept apart, and in what results depend on."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from detkds.data import make_shapes
from detkds.data.loading import build_dataset
from detkds.search.plans import keys
from detkds.settings import Data, Split

SIZES = [(64, 64), (96, 96)]


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    files = make_shapes(tmp_path_factory.mktemp("shapes"), train=4, val=1, test=1, size=64)
    return Split(annotations=str(files.train), images=str(files.images))


def dataset(split: Split, *, training: bool = True, **own):
    data = Data(train=split, image_size=(64, 64), flip=0, **own)
    return build_dataset(split, data, training=training)


def test_a_size_is_drawn_each_time_an_image_is_seen(split):
    data = dataset(split, multi_scale=SIZES)
    shapes = Counter(tuple(data[0]["inputs"].shape) for _ in range(400))
    assert set(shapes) == {(3, 64, 64), (3, 96, 96)}
    assert abs(shapes[3, 64, 64] - 200) < 60, "each with the same probability"


def test_each_size_is_kept_with_its_own_pixels_and_boxes(split):
    data = dataset(split, multi_scale=SIZES)
    (cached,) = (t for t in data.pipeline.transforms if hasattr(t, "known"))
    alone = {size: dataset(split, multi_scale=[size])[0] for size in SIZES}
    for _ in range(20):
        seen = data[0]
        (truth,) = (a for a in alone.values() if a["inputs"].shape == seen["inputs"].shape)
        assert (seen["inputs"] == truth["inputs"]).all()
        boxes, expected = (one["data_samples"].gt_instances.bboxes for one in (seen, truth))
        assert (boxes.tensor == expected.tensor).all()
    assert len(cached.known) == 2
    pixels = sum(one["img"].nbytes for one in cached.known.values())
    assert cached.free == 1024 * 2**20 - pixels


def test_other_sets_have_one_size_and_one_size_draws_no_number(split):
    scored = dataset(split, training=False, multi_scale=SIZES)
    assert {tuple(scored[0]["inputs"].shape) for _ in range(20)} == {(3, 64, 64)}
    data = dataset(split)
    (cached,) = (t for t in data.pipeline.transforms if hasattr(t, "known"))
    np.random.seed(0)
    expected = np.random.rand()
    np.random.seed(0)
    cached.transform({"img_path": "unread", "height": 0} | data.get_data_info(0))
    assert np.random.rand() == expected


def test_results_depend_on_the_sizes_and_older_keys_stay(split):
    one = Data(train=split, image_size=(64, 64))
    many = one.model_copy(update={"multi_scale": SIZES})
    assert keys.view(one) == [(64, 64), None, 0.5]
    assert keys.view(many) == [(64, 64), None, 0.5, SIZES]
    assert many.for_teachers.train_sizes == SIZES
