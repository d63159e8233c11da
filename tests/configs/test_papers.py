"""The rows of the papers' tables: each is whole, and each that can be repeated is a config."""

from __future__ import annotations

import json
import sys
from itertools import permutations

import pytest
from detkds.cli import main
from detkds.configs import coco_pairs, distiller_file, papers, records
from detkds.configs import paper_row as row
from detkds.settings import config_name, load_config
from detkds.space import Distiller

ROWS = [
    one for paper in papers().values() for table in paper.tables.values()
    for one in table.rows.values()
]  # fmt: skip
RUN = [one for one in ROWS if one.why is None]


def distiller_of(reference: str | None) -> Distiller | None:
    if reference in (None, "none"):
        return None
    if "," in reference:
        return Distiller.parse(reference)
    return Distiller.from_json(distiller_file(reference))


def test_there_are_rows_of_every_paper_with_tables() -> None:
    assert {one.paper for one in RUN} == {"detkds", "crosskd", "mtpd"}
    assert len(ROWS) > 250
    assert len(RUN) > 200


def test_a_row_either_runs_or_says_why_not() -> None:
    for one in ROWS:
        assert (one.why is None) == (one.distiller is not None), one.reference
        assert one.published is None or 20 < one.published < 50, one.reference
        assert one.metric in ("box AP", "mask AP", "cost")
        assert (one.command is None) == (one.why is not None and one.instead is None)


@pytest.mark.parametrize("paper", ["detkds", "crosskd", "mtpd"])
def test_every_row_that_runs_is_a_config_of_a_pair_in_the_list(paper: str) -> None:
    for one in (one for one in RUN if one.paper == paper):
        config = load_config(one.reference)
        assert set(one.pairs) <= set(coco_pairs()), one.reference
        assert config.teacher is not None
        assert set(config.teachers) == set(one.pool)
        assert one.epochs is None or config.final.epochs == one.epochs
        distiller_of(one.distiller)
        assert one.order in (None, "auto") or one.order.split(",") == list(config.teachers)


def test_a_run_of_a_row_has_a_name_of_its_own() -> None:
    names = [config_name(one.reference) for one in ROWS]
    assert len(set(names)) == len(ROWS)
    assert config_name("paper:crosskd/7/crosskd+pkd") == "crosskd-7-crosskd+pkd"
    assert not [name for name in names if "/" in name or ":" in name]


def test_crosskds_best_row() -> None:
    one = row("paper:crosskd/7/crosskd+pkd")
    assert one.published == 43.9
    assert str(distiller_of(one.distiller)) == (
        "global: identity, pearson × 6\n"
        "cross_logits: identity, quality_focal × 1\n"
        "cross_localization: identity, kl × 4"
    )
    config = load_config(one.reference)
    assert (config.inherit, config.final.epochs) == (False, 12)
    assert "gfl_r101_fpn_mstrain_2x" in config.teacher.checkpoint


def test_mtpds_sequences_are_all_of_its_table_7() -> None:
    """64 orders of four teachers; the paper sorts them by AP, and prints the same in Table 8."""
    rows = papers()["mtpd"].tables["7"].rows
    orders = [order for n in range(1, 5) for order in permutations(["I", "II", "III", "IV"], n)]
    assert {tuple(name.split("-")) for name in rows} == set(orders)
    for n in range(1, 5):
        found = [one.published for name, one in rows.items() if len(name.split("-")) == n]
        assert found == sorted(found, reverse=True)
    table8 = papers()["mtpd"].tables["8"].rows
    same = {"bgs-3": "I-III-IV", "shortest-max-2": "I-IV", "forward-3": "II-I-III", "bgs-1": "IV"}
    for name, order in same.items():
        assert table8[name].published == rows[order].published
        assert table8[name].epochs == 3 * len(order.split("-"))


def test_a_sequence_sets_teachers_scores_and_epochs() -> None:
    config = load_config("paper:mtpd/7/III-IV")
    assert list(config.teachers) == ["III", "IV"]
    assert [one.score for one in config.teachers.values()] == [42.3, 49.1]
    assert config.final.epochs == 6
    assert row("paper:mtpd/7/III-IV").order == "III,IV"
    together = row("paper:mtpd/12/I+IV+V")
    assert (together.order, together.simultaneous) == ("I,IV,V", True)


def test_each_teacher_of_mtpds_table_13_has_its_own_size_of_images() -> None:
    config = load_config("paper:mtpd/13/distilled")
    assert config.data.image_size == (333, 200)
    assert config.data.teacher_image_size == (1333, 800)
    sizes = [one.image_size for one in config.teachers.values()]
    assert sizes == [(666, 400), (1000, 600), None], "the last looks at data.teacher_image_size"
    assert config.final.epochs == 36


def test_teachers_that_a_paper_trains_have_a_schedule_and_others_have_none() -> None:
    trained = load_config("paper:mtpd/10/V")
    assert trained.teacher.checkpoint is None
    assert trained.teacher.schedule.epochs == 12
    assert trained.teacher.schedule.optim_wrapper["optimizer"]["lr"] == 0.02
    assert (
        load_config("paper:mtpd/10/V-IV").teacher.schedule.optim_wrapper["optimizer"]["lr"] == 0.02
    )
    assert load_config("paper:detkds/7/detkds").teacher.schedule is None
    swin = load_config("paper:mtpd/5/retinanet-swin-t-s")
    assert swin.teacher.schedule is None, "the paper's Swin-T is not CrossKD's of 12 epochs"
    assert load_config("paper:crosskd/9/swin-crosskd").teacher.schedule.epochs == 12


def test_what_a_row_needs_is_what_its_config_loads() -> None:
    for one in RUN:
        config = load_config(one.reference)
        if one.distiller == "none":
            continue
        pool = list(config.teachers.values()) or [config.teacher]
        loaded = [model.checkpoint for model in pool if model.checkpoint]
        text = " ".join(one.needs)
        assert all(url in text for url in loaded), one.reference
        if config.student.checkpoint and "://" in config.student.checkpoint:
            assert config.student.checkpoint in text
        without = sum(model.checkpoint is None for model in pool)
        given = sum("not in the model zoo" in n or "trained first" in n for n in one.needs)
        assert given == without, one.reference
        assert ("trained first" in text) <= (config.teacher.schedule is not None)


def said(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    monkeypatch.setattr(sys, "argv", ["detkds", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 0
    return capsys.readouterr().out


def test_the_listing_shows_every_row(capsys, monkeypatch) -> None:
    text = said(capsys, monkeypatch, "papers")
    for one in ROWS:
        assert f"{one.command if one.why is None else one.name}" in text
    assert "COCO 2017 in data/coco" in " ".join(text.split())


def test_the_listing_as_json_is_one_table(capsys, monkeypatch) -> None:
    found = json.loads(said(capsys, monkeypatch, "papers", "crosskd/7", "--json"))
    assert found == json.loads(json.dumps(records("crosskd/7")))
    by_row = {one["row"]: one for one in found}
    best = by_row["paper:crosskd/7/crosskd+pkd"]
    assert (best["published"], best["metric"]) == (43.9, "box AP")
    assert best["command"] == "detkds train paper:crosskd/7/crosskd+pkd"
    assert any("download.openmmlab.com" in need for need in best["needs"])
    assert any("COCO 2017" in need for need in best["needs"])
    assert "FGD in part only" in by_row["paper:crosskd/7/fgd"]["why not"]
    assert by_row["paper:crosskd/7/fgd"]["command"] is None


@pytest.mark.parametrize(
    ("name", "terms"),
    [
        ("detkds_retinanet_r101", {"global": 6, "fgbg": 2}),
        ("detkds_retinanet_x101", {"instance": 50}),
        ("detkds_fcos_r101", {"global": 5, "fgbg": 2}),
        ("detkds_gfl_r101", {"global": 10}),
        ("detkds_reppoints_x101", {"global": 10}),
        ("detkds_faster_rcnn_r101", {"global": 2, "fgbg": 2, "instance": 0.1, "logits": 0.1}),
    ],
)
def test_found_distillers_carry_the_releases_weights(name: str, terms: dict[str, float]) -> None:
    found = distiller_of(name)
    assert {term.knowledge: term.weight for term in found.terms} == terms


def test_the_two_stage_instance_term_is_the_releases() -> None:
    (instance,) = (t for t in distiller_of("detkds_two_stage").terms if t.knowledge == "instance")
    assert instance.distance == "pearson"
