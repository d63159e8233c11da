"""The report: its numbers are the store's, its texts are escaped, and it requests nothing."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest
from browser import looked_at
from detkds.db import Store
from detkds.report import Facts, render
from detkds.report.charts import nice_ticks
from detkds.report.options import importances, shared_options
from detkds.report.sections import training_curves
from detkds.space import Distiller, Outcome, Status
from scipy import stats
from stored_detections import write_detections
from stored_search import (
    CONFIG,
    CONFIRMED,
    FOUND,
    NASTY,
    OUTCOMES,
    Page,
    add,
    finished_search,
    large_search,
)


def page_of(store: Store, name: str) -> Page:
    return Page(render(Facts.read(store, name)))


@pytest.fixture
def finished(tmp_path) -> Page:
    with Store(f"sqlite:///{tmp_path}/detkds.db") as store:
        finished_search(store)
        return page_of(store, "cells")


def test_the_first_screen_says_who_won_by_how_much_and_how_sure(finished):
    text = " ".join(finished.text["verdict"].split())
    assert "A found distiller won: trial 2, proxy AP 31.0" in text
    assert str(FOUND).replace("\n", " ") in text
    assert "over the best preset, pkd +4.0 AP mean of 3 fresh seeds" in text
    differences = [0.04, 0.05, 0.03]
    p = stats.ttest_1samp(differences, 0, alternative="greater").pvalue
    assert f"probability that it is better: {1 - p:.2f}" in text
    assert "over student alone +9.0 AP mean of 1 fresh seed: too few to say how sure" in text
    assert "Proxy APs to compare with: student alone 20.0, teacher 55.0." in text
    assert "Next: detkds export cells --out cells-best.json" in text
    assert "trained/found/student.pth" in text


def test_validations_within_a_training_are_a_curve(tmp_path):
    """Of a training that was killed, too: its log has two files, and a line that is cut off."""
    for start, lines in {"1": [(1, 0.1), (2, 0.2)], "2": [(2, 0.25), (3, 0.2)]}.items():
        folder = tmp_path / "found" / start / "vis_data"
        folder.mkdir(parents=True)
        entries = [json.dumps({"coco/bbox_mAP": ap, "step": epoch}) for epoch, ap in lines]
        (folder / "scalars.json").write_text("\n".join([*entries, '{"coco/bbox']))
    with Store(f"sqlite:///{tmp_path}/detkds.db") as store:
        search = finished_search(store)
        row = store.add_training("found", 5, "test", "c", search)
        checkpoint = str(tmp_path / "found" / "student.pth")
        store.finish_training(row, Outcome(Status.COMPLETED, 0.2), checkpoint)
        (chart,) = training_curves(Facts.read(store, "cells"))
        assert "found, seed 5" in page_of(store, "cells").text["trainings"]
    assert (chart.x_label, chart.y_label) == ("epoch", "AP")
    assert chart.lines[0].points == [(1, 10.0), (2, 25.0), (3, 20.0)]


def test_tables_hold_the_numbers_of_the_store(finished):
    finals = {row[0]: row[1:] for row in finished.rows["finals"][1:]}
    assert finals["found"][:2] == ["2", "23.0 ± 1.4"]
    assert finals["student alone"][:2] == ["2", "16.0 ± 1.4"]
    confirmed = finished.rows["confirmation"][1:]
    assert confirmed[0] == ["trial 2", "31.0", "31.0 ± 1.0", "3"]
    assert len(confirmed) == len(CONFIRMED["contenders"])
    rows = finished.rows["trials"][1:]
    assert len(rows) == len(OUTCOMES)
    for number, (row, (_, stage, outcome)) in enumerate(zip(rows, OUTCOMES, strict=True)):
        score = "" if outcome.score is None else f"{100 * outcome.score:.1f}"
        assert row[:4] == [str(number), stage, outcome.status.value, score]
    weights = finished.rows["weights"]
    assert weights == [["trial", "proxy AP", "global", "logits"], ["2", "31.0", "5", "2"]]
    leaders = finished.rows["distillers"][1:4]
    assert [row[2] for row in leaders] == ["31.0", "26.0", "20.0"]
    assert [row[3] for row in leaders] == ["trial 2", "pkd", "student alone"]


def test_trials_that_ended_early_say_why_and_what_they_saved(finished):
    rows = {row[0]: row for row in finished.rows["rejections"][1:]}
    assert rows["stopped"][1:] == ["stopped halfway", "1", "60 s"]
    assert rows["rejected"][1:] == [NASTY, "1", "100 s"]
    assert rows["failed"][1:] == [NASTY, "1", "–"]


def test_the_curve_marks_every_trial_by_its_status(finished):
    marks = {s: finished.marks(s) for s in ("completed", "stopped", "rejected", "failed")}
    assert marks == {"completed": 3, "stopped": 1, "rejected": 1, "failed": 1}


def test_proxy_and_final_aps_have_a_rank_correlation(finished):
    text = " ".join(finished.text["agreement"].split())
    assert "test AP of 3 distillers: 1.00" in text
    assert "So few distillers say little." in text


def test_teachers_have_a_heat_map_and_an_order(finished):
    rows = finished.rows["teachers"]
    assert rows[1] == ["student", "–", "3", "2"]
    assert "bgs: r18 → r34" in finished.text["teachers"]


def test_a_config_that_repeats_the_search_is_on_the_page(finished):
    text = finished.text["repeat"]
    assert json.loads(text[text.index("{") : text.rindex("}") + 1]) == CONFIG
    assert "seed of the search and its trials 7" in text


def test_texts_that_look_like_html_are_escaped(tmp_path):
    with Store(f"sqlite:///{tmp_path}/detkds.db") as store:
        finished_search(store, NASTY)
        page = page_of(store, NASTY)
    assert "img" not in [tag for tag, _ in page.tags]
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert NASTY in page.text["verdict"]
    assert page.left_open == []


def test_the_page_requests_nothing(finished):
    for tag, attributes in finished.tags:
        for name in ("src", "href", "action", "data", "srcset", "poster", "xlink:href"):
            value = attributes.get(name)
            assert value is None or value == "data:,", (tag, name, value)
    policy = [own.get("content") for tag, own in finished.tags if tag == "meta"]
    assert any(content and content.startswith("default-src 'none'") for content in policy)
    folder = Path(__import__("detkds.report.page").__file__).parent / "report" / "page"
    for file in folder.glob("*.*"):
        assert not re.search(r"url\(|@import|fetch\(|https?:", file.read_text("utf-8")), file


def test_a_search_without_trials_and_one_with_a_single_trial(tmp_path):
    with Store(f"sqlite:///{tmp_path}/detkds.db") as store:
        search = store.create_search("new", {}, "conditions", 0)
        page = page_of(store, "new")
        assert "No trial completed" in page.text["verdict"]
        trial = add(store, search.id, 0, FOUND, "global")
        with store.held("new"):
            page = page_of(store, "new")
        assert "No trial has completed yet" in page.text["verdict"]
        assert "Still running, by " in page.text["verdict"]
        assert "Interrupted: nobody runs" in page_of(store, "new").text["verdict"]
        store.tell_trial(trial, Outcome(Status.COMPLETED, 0.0, seconds=1.0), 0)
        page = page_of(store, "new")
    assert "A found distiller leads so far: trial 0, proxy AP 0.0" in page.text["verdict"]
    assert page.left_open == []


def test_without_confirmation_a_margin_is_called_unconfirmed(tmp_path):
    with Store(f"sqlite:///{tmp_path}/detkds.db") as store:
        search = store.create_search("a", CONFIG, "conditions", 0)
        for number, (distiller, stage, outcome) in enumerate(OUTCOMES):
            store.tell_trial(add(store, search.id, number, distiller, stage), outcome, number)
        text = " ".join(page_of(store, "a").text["verdict"].split())
    assert "over the best preset, pkd +5.0 AP one trial each, under one seed: not confirmed" in text
    assert "over student alone +11.0 AP" in text
    assert "luckiest of many" in text


@pytest.mark.parametrize("winner", ["pkd", "none"])
def test_a_preset_or_no_distillation_that_wins_is_called_that(tmp_path, winner):
    number = {"none": 0, "pkd": 1}[winner]
    others = CONFIRMED["contenders"]
    own = next(one for one in others if one["title"] == winner)
    record = {
        **CONFIRMED,
        "trial": number,
        "title": winner,
        "rival": "trial 2" if winner == "pkd" else "pkd",
        "contenders": [own, *(one for one in others if one is not own)],
    }
    with Store(f"sqlite:///{tmp_path}/detkds.db") as store:
        store.confirm_search(finished_search(store), record)
        text = " ".join(page_of(store, "cells").text["verdict"].split())
    assert {"pkd": "The preset pkd won", "none": "No distillation at all won"}[winner] in text
    over = "over trial 2 -4.0 AP" if winner == "pkd" else "over the best preset, pkd -5.0 AP"
    assert over in text


@pytest.mark.slow
def test_ten_thousand_trials_make_a_page_in_time(tmp_path):
    with Store(f"sqlite:///{tmp_path}/detkds.db") as store:
        large_search(store, 10_000)
        begun = time.process_time()  # other processes may keep this one waiting
        text = render(Facts.read(store, "large"))
        assert time.process_time() - begun < 20
    assert len(text.encode()) < 15e6
    page = Page(text)
    assert len(page.rows["trials"]) == 10_001
    assert page.left_open == []


def test_good_distillers_share_what_makes_them_good(tmp_path):
    """Every distance "pearson" adds 10 AP to the scores of this search."""
    with Store(f"sqlite:///{tmp_path}/detkds.db") as store:
        large_search(store, 400)
        facts = Facts.read(store, "large")
    ranked = [trial for trial in facts.scored if trial.stage == "global"]
    first = shared_options(ranked)[0]
    assert (first.name, first.option) == ("global.distance", "pearson")
    top = ranked[: round(0.1 * len(ranked))]
    assert first.top == sum(t.distiller.terms[0].distance == "pearson" for t in top) / len(top)
    for values in importances(ranked).values():
        assert max(values, key=values.__getitem__) == "global.distance"
    assert shared_options(ranked[:19]) == []


@pytest.mark.parametrize(("low", "high"), [(0.0, 1e-6), (-3.0, 7.0), (0.2, 12345.0)])
def test_ticks_are_few_and_inside(low, high):
    ticks = nice_ticks(low, high)
    assert 2 <= len(ticks) <= 7
    assert all(low - 1e-9 <= tick <= high * (1 + 1e-9) for tick in ticks)


@pytest.mark.slow
def test_a_browser_opens_sorts_and_zooms(tmp_path):
    write_detections(tmp_path)
    with Store(f"sqlite:///{tmp_path}/detkds.db") as store:
        finished_search(store)
        page = tmp_path / "page.html"
        page.write_text(render(Facts.read(store, "cells", folder=tmp_path)), "utf-8")
    found = looked_at(page, tmp_path)
    scores = ["20.0", "26.0", "31.0"]
    assert found["rising"] == [*scores, "", "", ""]
    assert found["falling"] == [*reversed(scores), "", "", ""]


def test_options_of_a_distiller_are_named_by_slot():
    from detkds.report.options import parameters

    distiller = Distiller.parse("global: catt → scale_2 → norm_n, l1 × 5; logits: norm_n, l2 × 0")
    assert parameters(distiller) == {
        "global": "present",
        "global.attention": "catt",
        "global.scale": "scale_2",
        "global.normalise": "norm_n",
        "global.distance": "l1",
        "global.weight": "5",
        "global.schedule": "constant",
    }
