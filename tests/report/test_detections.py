"""The report's section of detections: the file's numbers, boxes over small pictures, no request."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from detkds.db import Store
from detkds.report import Facts, render
from detkds.report.pictures import SIDE, heat_picture, thumbnail
from detkds.search.record import detections_file
from PIL import Image
from stored_detections import FOUND, SIZE, TRUTH, write_detections
from stored_search import NASTY, Page, finished_search


def text_of(folder: Path) -> str:
    with Store(f"sqlite:///{folder}/detkds.db") as store:
        if store.find_search("cells") is None:
            finished_search(store)
        return render(Facts.read(store, "cells", folder=folder))


@pytest.fixture
def page(tmp_path) -> Page:
    write_detections(tmp_path)
    return Page(text_of(tmp_path))


def decoded(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition("base64,")[2])))


def test_tables_hold_the_files_numbers(page):
    text = " ".join(page.text["detections"].split())
    assert "in 500 test images of 900: student alone, student distilled, teacher." in text
    assert "those of seed 4" in text
    assert "student alone 0.40, student distilled 0.45, teacher 0.50" in text
    rows = {row[0]: row[1:] for row in page.rows["detections"]}
    assert rows["cell"] == ["7", "31.0", "35.0", "40.0", "+4.0"]
    assert rows["platelet"] == ["0", "–", "–", "–", "–"]
    assert rows["both beside an object, of another class"] == ["2.0", "2"] * 3
    assert rows["8"] == ["1.90", "0.40"]
    assert page.left_open == []


def test_each_detector_has_a_line_of_its_own_style_in_both_plots(page):
    lines = [own["class"] for tag, own in page.tags if (own.get("class") or "").startswith("line ")]
    styles = ["line alone", "line distilled", "line teacher"]
    assert lines[: 2 * len(styles)] == 2 * styles


def test_boxes_stand_over_the_pictures(page):
    photos = [own for tag, own in page.tags if tag == "image"]
    assert [one["id"] for one in photos] == ["photo-1", "photo-2"]
    assert decoded(photos[0]["href"]).size == SIZE
    uses = [own["href"] for tag, own in page.tags if tag == "use"]
    assert uses == ["#photo-1"] * 3 + ["#photo-2"] * 3
    boxes = [own for tag, own in page.tags if tag == "rect"]
    styles = [one["class"] for one in boxes[: len(boxes) // 2]]
    assert (
        styles
        == ["truth", "truth", "crowd", "missed", "missed", "wrong", "missed", "right"]
        + ["missed"] * 2
    )
    assert [float(boxes[0][side]) for side in ("x", "y", "width", "height")] == TRUTH[0][:4]
    text = " ".join(page.text["detections"].split())
    assert "student distilled 1 found, 1 not, 0 wrong boxes" in text
    assert "student alone 0 found, 2 not, 1 wrong box" in text
    assert "cell, score 0.60: localisation" in text
    heats = [own["src"] for tag, own in page.tags if tag == "img"]
    assert len(heats) == 4
    assert decoded(heats[0]).size == (2, 2)


def test_the_section_requests_nothing(page):
    for tag, own in page.tags:
        for name in ("src", "href", "xlink:href"):
            value = own.get(name)
            assert value is None or value.startswith(("data:", "#photo-")), (tag, name, value)


def test_pictures_that_are_gone_are_named_and_the_page_is_made(tmp_path):
    write_detections(tmp_path)
    (tmp_path / "images" / "1.jpg").unlink()
    page = Page(text_of(tmp_path))
    text = " ".join(page.text["detections"].split())
    assert f"1 of 2 pictures can't be read in {tmp_path / 'images'}; their boxes" in text
    assert "stand on grey: 1.jpg" in text
    assert [tag for tag, _ in page.tags].count("image") == 1
    assert [own.get("class") for tag, own in page.tags if tag == "rect"].count("gone") == 4
    boxes = [own for tag, own in page.tags if tag == "rect" and own["class"] != "gone"]
    assert len(boxes) == 20


def test_names_that_look_like_html_are_escaped(tmp_path):
    pictures = [{**FOUND["pictures"][0], "file": NASTY}]
    maps = {"none": NASTY}
    write_detections(
        tmp_path, classes=[NASTY, NASTY], pictures=pictures, maps=maps,
        names={"alone": "none", "distilled": NASTY}, images=NASTY,
    )  # fmt: skip
    page = Page(text_of(tmp_path))
    tags = [tag for tag, _ in page.tags]
    assert (tags.count("img"), tags.count("script"), tags.count("b")) == (0, 1, 4)
    assert page.text["detections"].count(NASTY) > 8
    assert page.left_open == []


@pytest.mark.parametrize("text", ['{"schema": "detkds/detections/2"}', "[]", '{"schema": "detk'])
def test_a_file_of_another_version_or_cut_off_makes_no_section(tmp_path, text):
    detections_file(tmp_path, "cells").write_text(text)
    assert "detections" not in Page(text_of(tmp_path)).text


def test_a_file_of_another_searchs_trainings_makes_no_section(tmp_path):
    write_detections(tmp_path, trainings={"alone": "none", "distilled": "found-seed0-1"})
    assert "detections" not in Page(text_of(tmp_path)).text


def test_a_student_without_another_or_a_teacher(tmp_path):
    only = {"distilled": FOUND["detectors"]["distilled"]}
    pictures = [
        {**one, "found": {"distilled": one["found"]["distilled"]}} for one in FOUND["pictures"]
    ]
    none = {"none": "there is no teacher"}
    write_detections(tmp_path, detectors=only, pictures=pictures, maps=none)
    page = Page(text_of(tmp_path))
    assert "No maps are compared: there is no teacher." in page.text["detections"]
    assert ["cell", "7", "35.0"] in page.rows["detections"]


def test_a_thumbnail_is_small_and_turned_as_detectors_see_it(tmp_path):
    image = Image.new("RGB", (1200, 400), "red")
    exif = image.getexif()
    exif[0x0112] = 6  # to be turned by a quarter
    image.save(tmp_path / "turned.jpg", exif=exif)
    uri = thumbnail(tmp_path / "turned.jpg")
    assert uri is not None
    assert decoded(uri).size == (round(SIDE / 3), SIDE)
    (tmp_path / "text.jpg").write_text("no image")
    assert thumbnail(tmp_path / "text.jpg") is None
    assert thumbnail(tmp_path) is None


def test_a_map_is_lighter_where_it_is_farther():
    grey = np.array(decoded(heat_picture([[0, 1, 2, 3]], 3)).convert("L"))[0].astype(int)
    assert (np.diff(grey) > 30).all()
    assert decoded(heat_picture([[0.0]], 0.0)).size == (1, 1)
