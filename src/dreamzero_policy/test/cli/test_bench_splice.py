"""`dreamzero bench splice` times a splice that the limits accept."""

from dreamzero_policy.cli.bench_splice import bench_splice
from dreamzero_policy.runtime import kernels


def test_every_part_of_an_accepted_splice_is_timed() -> None:
    document = bench_splice(rows=24, joints=3, repeats=10)
    assert document["kernels"] == kernels.told()
    assert document["way"] == "cross-fade of 0.2 s" and document["knots"] > 24
    for clock in ("wall_ms", "cpu_ms"):
        assert list(document[clock]) == ["splice", "cross_fade", "bridge", "tail", "judge"]
        assert all(0 < part["p50"] <= part["p99"] for part in document[clock].values())
