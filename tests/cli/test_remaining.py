"""How long the trials of a search still take, and what runs now, as all screens say it."""

from __future__ import annotations

import random

import pytest
from detkds.cli.remaining import MOST, AtWork, at_work, in_brief, time_left
from detkds.space import Progress


def trial(number: int, seconds: float, progress: Progress | None = None) -> AtWork:
    return AtWork(number, "logits", seconds, "host cpu", "logits: identity, l2 × 5", progress)


def test_the_time_left_is_that_of_the_workers_side_by_side() -> None:
    half = [trial(0, 300), trial(1, 300)]
    assert time_left([600], 0, half, workers=2, left=2) == "about 5 min left of the trials"
    assert time_left([600], 0, half, workers=2, left=6) == "about 25 min left of the trials"
    assert time_left([600], 0, [], workers=1, left=0) == "the trials are done"


def test_rejections_come_again_and_take_their_time() -> None:
    assert time_left([100, 100], 100, [], 1, left=4) == "about 10 min left of the trials"


def test_before_the_first_trial_is_done_it_says_itself_how_long_it_takes() -> None:
    assert time_left([], 0, [trial(0, 60)], 1, left=3) == "time left unknown yet"
    running = [trial(0, 60, Progress(1, 10, 2.0, 540))]
    assert time_left([], 0, running, 1, left=3) == "about 29 min left of the trials"


def test_a_trial_that_takes_longer_than_others_is_not_done_yet() -> None:
    late = [trial(0, 900, Progress(5, 10, 2.0, 900))]
    assert time_left([600], 0, late, workers=4, left=1) == "about 15 min left of the trials"


def test_the_range_holds_what_comes_four_times_in_five() -> None:
    """Simulated: the rest of the trials, drawn as those were that are known."""
    rng = random.Random(0)
    held = 0
    for _ in range(300):
        took = [rng.uniform(60, 600) for _ in range(10)]
        came = sum(rng.uniform(60, 600) for _ in range(30))
        said = time_left(took, 0, [], workers=1, left=30)
        low, high = said.removesuffix(")").partition("(")[2].split(" to ")
        held += _seconds(low) <= came <= _seconds(high)
    assert 0.72 < held / 300 < 0.88


def _seconds(text: str) -> float:
    number, unit = text.split()
    return float(number) * {"s": 1, "min": 60, "h": 3600}[unit]


@pytest.mark.parametrize("count", [MOST, MOST + 2])
def test_a_screen_is_not_filled_by_a_cluster(count: int) -> None:
    lines = at_work([trial(number, 5) for number in range(count)])
    assert len(lines) == min(count, MOST + 1)
    assert lines[0] == "running  0 logits for 5 s on host cpu: logits: identity, l2 × 5"
    assert (lines[-1] == "… and 2 more") == (count > MOST)


def test_a_log_says_in_brief_how_far_trials_are() -> None:
    known = [trial(7, 5, Progress(1, 4)), trial(8, 5), trial(9, 5, Progress(4, 4))]
    assert in_brief(known) == "trial 7 at 25 %, trial 9 at 100 %"
