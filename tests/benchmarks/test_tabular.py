"""The tabular benchmark: its file, its surrogate, and searches on it."""

from __future__ import annotations

import gzip
import json
import statistics
from pathlib import Path
from random import Random

import pandas
import pytest
from detkds.db import Store
from detkds.search.controller import Controller
from detkds.settings import Search
from detkds.space import Candidate, Distiller, Outcome, Status, WrongUse
from scipy.stats import kendalltau
from simulate import goal_of, main, read_algorithm, simulate
from table_files import PROBLEM, TRIAL_NOISE, Written, drawn, rejected, space, worth, written
from table_rows import FILTER, Job, Run, Shared, read_table, write_table
from tabular import Tabular

SMALL = Search(space="extended", population=5, iterations=8, weights=20)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Written:
    return written(tmp_path_factory.mktemp("table"))


@pytest.fixture(scope="module")
def table(file: Written) -> Tabular:
    return Tabular.load(PROBLEM, path=file.path)


def new_distillers(table: Tabular, count: int) -> list[Distiller]:
    """Distillers that the table does not hold."""
    rng = Random(1)
    found = {one.key: one for one in (drawn(rng) for _ in range(4 * count))}
    return [one for key, one in found.items() if key not in table.distillers][:count]


def test_file_holds_the_runs(file: Written) -> None:
    _, rows = read_table(file.path)
    assert [job for job, _ in rows] == [job for job, _ in file.runs]
    for (_, read), (_, run) in zip(rows, file.runs, strict=True):
        assert (read.status, read.reason) == (run.status, run.reason)
        assert [one.ap for one in read.epochs] == pytest.approx(
            [one.ap for one in run.epochs], rel=1e-3
        )


def test_failed_runs_are_not_shipped(file: Written, tmp_path: Path) -> None:
    failed = Run(Status.FAILED, reason="Traceback: /somewhere/on/a/machine")
    runs = [*file.runs, (Job(PROBLEM, Distiller(()), "scratch", 7), failed)]
    write_table(
        tmp_path / "t.csv.gz",
        runs,
        {PROBLEM: Shared(space())},
        "0.0",
    )
    assert (tmp_path / "t.csv.gz").read_bytes() == file.path.read_bytes()


def rewritten(file: Written, folder: Path, **changes: object) -> Path:
    """The table with another head."""
    head, _, rows = gzip.decompress(file.path.read_bytes()).decode().partition("\n")
    changed = {**json.loads(head.removeprefix("# ")), **changes}
    path = folder / "changed.csv.gz"
    path.write_bytes(gzip.compress(f"# {json.dumps(changed)}\n{rows}".encode()))
    return path


def test_another_space_is_refused(file: Written, tmp_path: Path) -> None:
    head = gzip.decompress(file.path.read_bytes()).decode().partition("\n")[0]
    known = json.loads(head.removeprefix("# "))["space"]
    known["logits"]["distances"].remove("correlation")
    path = rewritten(file, tmp_path, space=known, version="0.1.7")
    with pytest.raises(WrongUse, match=r"over the space of detkds 0\.1\.7, .* in logits; collect"):
        Tabular.load(PROBLEM, path=path)


def test_other_files_are_refused(file: Written, tmp_path: Path) -> None:
    with pytest.raises(WrongUse, match=r"its format is 'detkds/table/9'"):
        read_table(rewritten(file, tmp_path, schema="detkds/table/9"))
    with pytest.raises(WrongUse, match=r"none\.csv\.gz: can't read the table: No such file"):
        read_table(tmp_path / "none.csv.gz")
    (tmp_path / "plain.csv").write_text("a,b\n")
    with pytest.raises(WrongUse, match="it is no gzipped table"):
        read_table(tmp_path / "plain.csv")
    with pytest.raises(WrongUse, match="no problem 'shape': did you mean shapes"):
        Tabular.load("shape", path=file.path)
    with pytest.raises(WrongUse, match="no trials on a proxy 'scrach': did you mean scratch"):
        Tabular.load(PROBLEM, "scrach", file.path)


def test_known_distillers_score_what_one_of_their_trials_scored(table: Tabular) -> None:
    for key in list(table.trials)[:20]:
        first, second = (curve[-1] for curve in table.trials[key])
        found = [table.score(table.distillers[key], seed) for seed in range(30)]
        assert set(found) == {first, second}
        assert found == [table.score(table.distillers[key], seed) for seed in range(30)]
        assert table.score(table.distillers[key], 3, epoch=2) in {
            curve[1] for curve in table.trials[key]
        }


def test_surrogate_ranks_new_distillers(table: Tabular) -> None:
    new = new_distillers(table, 150)
    expected = [float(table.expected(one)[-1]) for one in new]
    found = kendalltau(expected, [worth(one) for one in new]).statistic
    assert found > 0.6
    quality = table.quality()
    assert quality["Kendall's tau"] > 0.5
    assert quality["error, AP"] < 0.7 * quality["spread of the distillers, AP"]
    assert quality["noise of a trial, AP"] == pytest.approx(100 * TRIAL_NOISE, rel=0.2)


def test_left_out_rows_are_predicted_from_the_others() -> None:
    """The closed form is what a fit without the row says."""
    import numpy as np
    from surrogate import Kernel, Surrogate

    rng = np.random.default_rng(0)
    features, values = rng.normal(size=(30, 4)), rng.normal(size=(30, 2))
    whole = Surrogate(features, values, np.ones(30))
    assert isinstance(whole.kernel, Kernel)
    center, scale = values.mean(0), values.std(0) + 1e-9
    for row in (0, 17):
        rest = np.arange(30) != row
        inner = whole.kernel(features[rest], features[rest]) + whole.noise * np.eye(29)
        solved = np.linalg.solve(inner, (values[rest] - center) / scale)
        expected = whole.kernel(features[[row]], features[rest]) @ solved * scale + center
        assert whole.left_out[row] == pytest.approx(expected[0])


def test_new_distillers_have_the_noise_of_seeds(table: Tabular) -> None:
    noise = [
        table.score(one, seed) - float(table.expected(one)[-1])
        for one in new_distillers(table, 40)
        for seed in range(20)
    ]
    assert statistics.stdev(noise) == pytest.approx(TRIAL_NOISE, rel=0.3)


def test_rejections(table: Tabular) -> None:
    known = next(one for key, one in table.distillers.items() if key in table.rejected)
    assert table.outcome(known, 0).status is Status.REJECTED
    assert table.rejection(known) == "loss_global is 123.4, above 100"
    new = new_distillers(table, 200)
    right = sum((table.rejection(one) is not None) == rejected(one) for one in new)
    assert right > 0.93 * len(new)


def test_outcomes_follow_the_early_bar(table: Tabular) -> None:
    one = table.distillers[next(iter(table.trials))]
    whole = table.outcome(Candidate(0, "global", one), 0)
    assert (whole.status, whole.early_score) == (Status.COMPLETED, None)
    new = new_distillers(table, 1)[0]
    passed = table.outcome(Candidate(0, "global", new, 0.0), 0)
    assert passed.status is Status.COMPLETED
    assert passed.early_score == table.score(new, 0, epoch=2)
    stopped = table.outcome(Candidate(0, "global", new, 0.9), 0)
    assert (stopped.status, stopped.score) == (Status.STOPPED, None)


def test_trials_of_a_store_are_added(table: Tabular, tmp_path: Path) -> None:
    """The file is what ``detkds trials --csv`` writes."""
    scored, refused = (
        next(one for one in new_distillers(table, 200) if rejected(one) is gone)
        for gone in (False, True)
    )
    metrics = {"bbox_mAP": 0.2, "bbox_mAP_50": 0.4, "bbox_mAP_75": 0.1}
    outcomes = {
        scored: Outcome(Status.COMPLETED, score=0.2, metrics=metrics),
        refused: Outcome.rejected("zero gradient"),
        new_distillers(table, 3)[2]: Outcome.failed("no space left"),
        Distiller.parse("global: satt, l1 × 0.3 share"): Outcome(
            Status.COMPLETED, score=0.15, metrics={**metrics, "weight/global": 4.25}
        ),
    }
    with Store(f"sqlite:///{tmp_path}/detkds.db") as store:
        search = store.create_search("earlier", {}, "conditions", 0)
        for number, (one, outcome) in enumerate(outcomes.items()):
            candidate = Candidate(number, "global", one)
            trial = store.add_trial(search.id, candidate, number, "conditions", 5)
            store.tell_trial(trial, outcome, number, None)
        pandas.DataFrame(store.trial_records(search.id)).to_csv(tmp_path / "t.csv", index=False)
    more = table.with_trials(tmp_path / "t.csv")
    assert len(more.runs) == len(table.runs) + 3
    assert more.with_trials(tmp_path / "t.csv").runs == more.runs
    assert {more.score(scored, seed) for seed in range(5)} == {0.2}
    assert more.rejection(refused) == "zero gradient"
    assert more.score(Distiller.parse("global: satt, l1 × 4.25"), 0) == 0.15
    assert more.expected(scored)[-1] > table.expected(scored)[-1] + 0.02
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(WrongUse, match=r"other\.csv: no trials; give a file that"):
        table.with_trials(tmp_path / "other.csv")


def test_shares_are_the_weights_that_the_sizes_give(file: Written, tmp_path: Path) -> None:
    """A table without sizes refuses shares; a term without a size has no plain weight."""
    form = Distiller.parse("global: catt → norm_c, l1 × 0.3 share; logits: identity, kl × 2")
    with pytest.raises(WrongUse, match="no sizes of 'shapes', which shares need"):
        Tabular.load(PROBLEM, path=file.path).outcome(form, 0)
    shared = Shared(space(), {"global: catt → norm_c, l1": 0.06})
    write_table(tmp_path / "t.csv.gz", file.runs, {PROBLEM: shared}, "0.0")
    table = Tabular.load(PROBLEM, path=tmp_path / "t.csv.gz")
    plain = table.plain(form)
    assert [term.weight for term in plain.terms] == pytest.approx([5, 2])
    assert not plain.in_shares
    outcome = table.outcome(form, 0)
    assert outcome.plain_weights == pytest.approx({"global": 5})
    assert outcome.score == table.score(plain, 0)
    other = Distiller.parse("global: satt, l1 × 0.3 share")
    assert table.outcome(other, 0).reason == "no weight makes a share of it"


def test_a_search_runs_on_the_table_as_on_workers(table: Tabular) -> None:
    controller = Controller(table.space, SMALL, seed=0)
    while not controller.done:
        candidate = controller.ask()
        assert candidate is not None
        controller.tell(candidate, table.outcome(candidate, 0))
    assert controller.best is not None
    middle = statistics.median(curve[-1] for curves in table.trials.values() for curve in curves)
    assert controller.best[1].score > middle


def test_simulated_searches(table: Tabular) -> None:
    goal = goal_of(table, 80)
    expected = [float(table.expected(table.distillers[key])[-1]) for key in table.trials]
    assert sum(one > goal for one in expected) == pytest.approx(0.2 * len(expected), abs=1)
    found = [simulate(table, SMALL, seed, budget=60) for seed in range(8)]
    assert all(len(one.worth) <= 60 for one in found)
    for one in found:
        reached = one.reached(goal)
        if reached <= len(one.worth):
            assert one.worth[int(reached) - 1] >= goal
            assert all(one.worth[: int(reached) - 1] < goal)
    assert sum(one.reached(goal) <= 60 for one in found) >= 6
    again = simulate(table, SMALL, 0, budget=60)
    assert again.worth.tolist() == found[0].worth.tolist()
    assert found[0].worth.tolist() != found[1].worth.tolist()


def test_settings_of_algorithms() -> None:
    read = read_algorithm("algorithm1,population=10,early_stop=False")
    assert (read.algorithm, read.population, read.early_stop) == ("algorithm1", 10, False)
    with pytest.raises(WrongUse, match=r"--algorithms: algorithm1,popullation=3: popullation: "):
        read_algorithm("algorithm1,popullation=3")


def test_simulate_command(
    file: Written, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--table", file.path, "--problem", PROBLEM, "--searches", "3", "--budget", "30"]
    algorithm = ["--algorithms", "algorithm1,population=3,iterations=3,weights=6"]
    monkeypatch.setattr("sys.argv", ["simulate.py", *map(str, options), *algorithm])
    main()
    output = capsys.readouterr().out
    assert "each distiller predicted from the others: distillers" in output
    first = [line.split("│")[1].strip() for line in output.splitlines() if line.startswith("│")]
    assert "".join(first) == "algorithm1,population=3,iterations=3,weights=6"


def test_filter_rows_are_no_trials(table: Tabular) -> None:
    rejected = {k.key for k, run in table.runs.items() if k.kind == FILTER and run.reason}
    assert rejected
    assert not rejected & table.trials.keys()
