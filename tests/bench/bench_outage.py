"""What an API server that is away costs ten runners, in virtual time, with the parts of the histories."""

import pytest

from tests.simulation.outage import RUNNERS, TAKEN_BACK_SECONDS, Cost, outage

SECONDS = (3.0, 9.0, 20.0, 60.0, 300.0)


@pytest.mark.timeout(600)
def test_outages() -> None:
    """One row for each length and kind of outage; then a runner is killed in the middle of it."""
    print(f"\nAPI server away, {RUNNERS} runners, Leases of 15 s (virtual time)")
    print("| seconds | connections | attempts lost | chunks made twice | a runner killed meanwhile: taken back after |")
    print("|---|---|---|---|---|")
    costs: list[Cost] = []
    for seconds in SECONDS:
        for detail in ("refused", "frozen"):
            alive, killed = outage(seconds, detail), outage(seconds, detail, kill=True)
            costs += [alive, killed]
            print(
                f"| {seconds:.0f} | {detail} | {alive.lost} | {alive.twice} | {killed.taken_back:.1f} s |", flush=True
            )
    blind = outage(0.0, "", blind=200.0)
    print(f"| 0 | the leader's watches stand still for 200 s | {blind.lost} | {blind.twice} | |")
    for cost in [*costs, blind]:
        assert not cost.outcome.faults, cost.outcome
        assert (cost.lost, cost.twice) == (0, 0)
        assert cost.taken_back is None or cost.taken_back <= TAKEN_BACK_SECONDS
