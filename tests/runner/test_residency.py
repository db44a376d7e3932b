"""Which models are loaded, and which make room."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from videojob.runner.residency import Resident, make_room, preload


def model(name: str, weights: int = 10, job: int = 2, **known: object) -> Resident:
    return Resident(name, weights, job, **known)  # type: ignore[arg-type]


def loaded(name: str, used: float = 0.0, jobs: int = 0, weights: int = 10, job: int = 2) -> Resident:
    return Resident(name, weights, job, True, jobs, used)


@pytest.mark.parametrize(
    ("models", "memory", "chosen"),
    [
        pytest.param([model("a"), model("b")], 22, ("a", "b"), id="both, and a job"),
        pytest.param([model("a"), model("b")], 21, ("a",), id="no room for a job beside both"),
        pytest.param([model("a"), model("b")], float("inf"), ("a", "b"), id="memory is not known"),
        pytest.param([model("a", 30), model("b")], 12, ("b",), id="the next one, where the first is too large"),
        pytest.param([model("a", job=9), model("b", job=1)], 28, ("a",), id="room for a job of any of them"),
        pytest.param([model("b"), loaded("a", jobs=1)], 22, ("b",), id="beside a job that has its room"),
        pytest.param([model("b"), loaded("a", jobs=2)], 22, (), id="no room beside two jobs"),
        pytest.param([], 22, (), id="no models"),
    ],
)
def test_what_is_loaded_before_a_job_asks(models: list[Resident], memory: float, chosen: tuple[str, ...]) -> None:
    assert preload(models, memory) == chosen


@pytest.mark.parametrize(
    ("models", "memory", "leaving"),
    [
        pytest.param([loaded("a")], 12, (), id="it is loaded, and there is room"),
        pytest.param([model("a"), loaded("b")], 22, (), id="there is room for both"),
        pytest.param([model("a"), loaded("b")], 21, ("b",), id="an idle one makes room"),
        pytest.param(
            [model("a"), loaded("b", 5), loaded("c", 3), loaded("d", 4)], 32, ("c",), id="the least recently used"
        ),
        pytest.param([model("a", 15), loaded("b", 5), loaded("c", 3)], 27, ("c",), id="one is enough"),
        pytest.param([model("a", 16), loaded("b", 5), loaded("c", 3)], 27, ("c", "b"), id="one is not enough"),
        pytest.param([model("a"), loaded("b", jobs=1)], 23, None, id="a busy one stays"),
        pytest.param([model("a"), loaded("b", 1, jobs=1), loaded("c", 2)], 24, ("c",), id="the idle one beside it"),
        pytest.param([model("a"), loaded("b")], 11, None, id="too large for the replica: nothing is thrown out"),
        pytest.param([loaded("a", jobs=1), loaded("b")], 23, ("b",), id="a second job needs the room of an idle model"),
        pytest.param([loaded("a", jobs=1)], 13, None, id="no room for a second job"),
        pytest.param([model("a"), loaded("b", float("-inf")), loaded("c", 0)], 22, ("b",), id="one that does not load"),
    ],
)
def test_what_makes_room_for_a_job_of_a(models: list[Resident], memory: float, leaving: tuple[str, ...] | None) -> None:
    assert make_room("a", models, memory) == leaving


models_strategy = st.lists(
    st.builds(
        Resident,
        name=st.text("abcdefgh", min_size=1, max_size=2),
        weights_bytes=st.integers(0, 20),
        per_job_bytes=st.integers(0, 5),
        loaded=st.booleans(),
        jobs=st.just(0),
        used=st.floats(0, 100),
    ).flatmap(
        lambda made: st.builds(
            Resident,
            name=st.just(made.name),
            weights_bytes=st.just(made.weights_bytes),
            per_job_bytes=st.just(made.per_job_bytes),
            loaded=st.just(made.loaded),
            jobs=st.integers(0, 3) if made.loaded else st.just(0),
            used=st.just(made.used),
        )
    ),
    min_size=1,
    max_size=6,
    unique_by=lambda made: made.name,
)


@given(models_strategy, st.integers(0, 80))
def test_what_remains_fits_no_busy_model_leaves_and_none_leaves_for_nothing(
    models: list[Resident], memory: int
) -> None:
    wanted, others = models[0], models[1:]
    leaving = make_room(wanted.name, models, memory)

    def needed(gone: tuple[str, ...]) -> int:
        stay = [one for one in others if one.loaded and one.name not in gone]
        bytes_of = sum(one.weights_bytes + one.jobs * one.per_job_bytes for one in stay)
        return bytes_of + wanted.weights_bytes + (wanted.jobs + 1) * wanted.per_job_bytes

    idle = tuple(one.name for one in others if one.loaded and not one.jobs)
    if leaving is None:
        assert needed(idle) > memory
    else:
        assert set(leaving) <= set(idle)
        assert needed(leaving) <= memory
        assert not leaving or needed(leaving[:-1]) > memory
