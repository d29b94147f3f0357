"""How far a publish is, in numbers and words."""

from __future__ import annotations

import io

import pytest

from nexus_redis_provider.core.gold.memory import Expectation
from nexus_redis_provider.core.gold.progress import Meter, Progress, ProgressLine


def test_share_and_time_left_are_told_where_the_number_of_rows_is_known():
    meter = Meter(Expectation(1_000_000))
    meter.note(0, 4.0)
    progress = meter.note(250_000, 5.0)
    assert (progress.share, progress.rows_per_second, progress.eta) == (0.25, 250_000, 3.0)
    assert str(progress) == "250,000 rows written, 25% of 1,000,000, 250,000 rows/s, 3 s left"


def test_what_is_only_an_estimate_is_labelled():
    progress = Meter(Expectation(200, is_estimate=True)).note(100, 2.0)
    assert str(progress) == "100 rows written, 50% of about 200, 50 rows/s, about 2 s left"


def test_more_rows_than_expected_are_all_of_them():
    progress = Meter(Expectation(100, is_estimate=True)).note(250, 1.0)
    assert (progress.share, progress.eta) == (1.0, 0.0)


def test_nothing_is_said_of_the_rest_where_nobody_knows_it():
    progress = Meter().note(100, 2.0)
    assert (progress.share, progress.eta) == (None, None)
    assert str(progress) == progress.bar() == "100 rows written, 50 rows/s"


def test_the_speed_is_that_of_late():
    meter = Meter()
    for second in range(1, 100):
        meter.note(1000 * second, float(second))
    progress = [meter.note(99_000 + second, 99.0 + second) for second in range(1, 31)][-1]
    assert progress.rows_per_second == 1
    assert Meter().note(0, 0.0).rows_per_second == 0


def test_a_bar_shows_the_share():
    bar = Progress(rows=1, seconds=1, rows_per_second=1, expected=Expectation(2)).bar()
    assert bar.startswith("[############............] 1 rows written, 50% of 2")


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("kind", [Terminal, io.StringIO])
def test_a_terminal_has_one_line_that_changes_and_a_log_has_many(monkeypatch, kind):
    stream, logged = kind(), list[str]()
    monkeypatch.setattr("sys.stderr", stream)
    line, meter = ProgressLine("sales", logged.append), Meter(Expectation(300))
    for second in range(3):
        line(meter.note(100 * second, float(second)))
    line.close()
    line.close()
    if kind is Terminal:
        assert logged == []
        first, second = stream.getvalue().split("\r")[1:]
        assert first.startswith("sales [########...")
        assert second.endswith("1 s left\x1b[K\n")
    else:
        assert stream.getvalue() == ""
        assert logged == [f"sales: {Meter(Expectation(300)).note(100, 1.0)}", logged[1]]
        assert "200 rows written, 67% of 300" in logged[1]
