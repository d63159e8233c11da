"""How far proxies can be believed: Kendall's tau, its bands, and the ceilings of noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import proxy
import pytest
from proxy import (
    SCORES,
    Study,
    ceiling,
    interval,
    one_against_the_rest,
    resampled_tau,
    tau,
    variances,
    without_training,
)
from scipy.stats import kendalltau
from table_files import FINAL_NOISE, PROBLEM, Written, scores, space, written
from table_rows import FINAL, Job, Run, Shared, write_table


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Written:
    proxies = {"scratch": 1.0, "reverse": -1.0}
    return written(tmp_path_factory.mktemp("proxy"), distillers=40, study=40, proxies=proxies)


@pytest.fixture(scope="module")
def study(file: Written) -> Study:
    return Study.of(file.runs, PROBLEM)


def test_tau_of_a_good_and_of_a_reversed_proxy(study: Study) -> None:
    good, reverse = (tau(study.pairs(name, "AP", 4)) for name in ("scratch", "reverse"))
    assert good > 0.6
    assert reverse < -0.6
    low, high = interval(study.pairs("scratch", "AP", 4), np.random.default_rng(0))
    assert low < good < high < 1


def test_resampled_tau_is_that_of_the_sample() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 8, size=(2, 20)).astype(float)  # with ties
    counts = rng.multinomial(20, np.full(20, 1 / 20), size=5)
    expected = [
        kendalltau(np.repeat(first, drawn), np.repeat(second, drawn)).statistic for drawn in counts
    ]
    assert resampled_tau(first, second, counts) == pytest.approx(expected)
    first[7] = np.nan
    counts[:, 7] = 0
    expected = [
        kendalltau(np.repeat(first, drawn), np.repeat(second, drawn)).statistic for drawn in counts
    ]
    counts[:, 7] = 3
    assert resampled_tau(first, second, counts) == pytest.approx(expected)


def test_a_low_loss_is_a_high_score(study: Study) -> None:
    for score in SCORES:
        assert tau(study.pairs("scratch", score, 4)) > 0.6, score


def test_every_seed_has_its_pairs(study: Study) -> None:
    first, second = study.pairs("scratch", "AP", 4)
    assert first.shape == second.shape == (2, len(study.final))
    key = next(iter(study.final))
    assert first[1, 0] == pytest.approx(np.mean(study.final[key]))
    assert first[0, 0] == study.trials["scratch"][key][0][-1].ap
    assert second[0, 0] == study.trials["scratch"][key][1][-1].ap


def test_scores_look_at_no_later_epoch() -> None:
    epochs = [scores(ap) for ap in (0.1, 0.2, 0.6)]
    assert SCORES["AP"](epochs[:2]) == 0.2
    assert SCORES["mean AP of 2 epochs"](epochs) == pytest.approx(0.4)
    assert SCORES["mean AP of 3 epochs"](epochs[:2]) == pytest.approx(0.15)


def test_cost_is_that_of_the_training_and_of_one_scoring(study: Study) -> None:
    assert study.cost("scratch", 4) == 20 + 1
    assert study.cost("scratch", 1) == 5 + 1


def test_variances() -> None:
    rng = np.random.default_rng(0)
    true = rng.normal(0, 3, size=4000)
    groups = [(one + rng.normal(0, 2, size=rng.integers(1, 4))).tolist() for one in true]
    between, noise = variances(groups)
    assert between == pytest.approx(9, rel=0.1)
    assert noise == pytest.approx(4, rel=0.1)


def test_scores_without_a_training(study: Study) -> None:
    assert {*study.untrained} == {"filter/drop", "filter/share"}
    table = without_training(study, np.random.default_rng(0))
    drop, share = (float(cell.split()[0]) for cell in table.columns[2].cells)
    assert drop > 0.6 > abs(share)


def test_ceilings(study: Study) -> None:
    """The tau of a proxy whose only error is noise lies at its ceiling."""
    rng = np.random.default_rng(0)
    _, noise = variances(list(study.final.values()))
    assert noise**0.5 == pytest.approx(FINAL_NOISE, rel=0.25)
    trials = [[one[-1].ap for one in seeds.values()] for seeds in study.trials["scratch"].values()]
    spread, own = variances(trials)
    most, with_noise = ceiling(study, 0.0, rng), ceiling(study, own / spread, rng)
    assert with_noise < most < 1
    assert tau(study.pairs("scratch", "AP", 4)) == pytest.approx(with_noise, abs=0.12)
    exact = Study({key: [one[0]] * 2 for key, one in study.final.items()}, {}, {}, {})
    assert ceiling(exact, 0.0, rng) == pytest.approx(1)


def test_one_full_training_against_the_others(study: Study) -> None:
    pairs = one_against_the_rest(study.final)
    assert len(pairs) == 3
    first = next(iter(study.final.values()))
    assert pairs[0][:, 0] == pytest.approx([first[0], (first[1] + first[2]) / 2])
    assert not one_against_the_rest({key: one[:1] for key, one in study.final.items()})


def printed(file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    monkeypatch.setattr("sys.argv", ["proxy.py", "--table", str(file)])
    proxy.main()
    return capsys.readouterr().out


def test_command(
    file: Written, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = printed(file.path, monkeypatch, capsys)
    assert f"{PROBLEM}: " in output
    titles = ("scratch, by epoch", "AP, by knowledge", "scores without a training")
    for title in (*titles, "the ceilings that noise sets"):
        assert title in output
    assert "that and the noise of a trial on reverse" in output


def test_a_part_of_a_table_will_do(
    file: Written,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One seed of all, and three distillers alone."""

    def table_of(runs: list[tuple[Job, Run]]) -> Path:
        write_table(tmp_path / "part.csv.gz", runs, {PROBLEM: Shared(space())}, "0.0")
        return tmp_path / "part.csv.gz"

    one_seed = [(job, run) for job, run in file.runs if job.seed == 0]
    output = printed(table_of(one_seed), monkeypatch, capsys)
    assert "not yet under several seeds" in output
    assert " to " in output
    few = {job.key for job, _ in [pair for pair in file.runs if pair[0].kind == FINAL][:7]}
    output = printed(table_of([p for p in file.runs if p[0].key in few]), monkeypatch, capsys)
    assert "3 distillers with full trainings" in output
    assert " to " not in output, "too few for a tau"


def test_wrong_use_is_one_line(
    file: Written, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--table", str(file.path), "--problems", "shape"]
    monkeypatch.setattr("sys.argv", ["proxy.py", *options])
    with pytest.raises(SystemExit) as exit:
        proxy.main()
    assert exit.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "proxy.py: error: --problems: no problem 'shape': did you mean shapes?"
