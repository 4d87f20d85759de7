"""A few seconds of `make soak`."""

from pathlib import Path

from tests.service.reliability.soak import EXPECTED, Report, soak

MIB = 1 << 20


def test_a_mixed_load_leaves_nothing_behind(tmp_path: Path) -> None:
    report = soak(5.0, tmp_path)
    assert report.faults(growth_bytes=16 * MIB) == [], str(report)  # it is still warming up
    assert sum(report.answers.values()) > 200


def test_what_is_left_behind_is_noticed() -> None:
    report = Report(files=(9, 12), threads=(4, 13), in_flight=3.0)
    report.answers.update({(kind, min(allowed)): 1 for kind, allowed in EXPECTED.items()})
    report.answers["json", 500] = 2
    report.resident_bytes = [100 * MIB + step * MIB // 2 for step in range(40)]
    assert report.faults() == [
        "2 answers 500 to json",
        "12 files are left, there were 9",
        "13 threads are left, there were 4",
        "memory grew by 10.0 MiB",
        "3 requests are in flight",
    ]
