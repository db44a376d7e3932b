"""What is decided on jobs, in short forms that tables compare."""

from dataclasses import fields

from tests.planner.builders import MOMENT
from videojob.planner.book import Book
from videojob.planner.decisions import Assign, Fault, JobDecision
from videojob.planner.facts import Moment
from videojob.planner.keeping import keeping
from videojob.planner.placing import Placing
from videojob.planner.settling import settling
from videojob.planner.view import view


def decided(book: Book, now: Moment = MOMENT) -> list[JobDecision]:
    """The decisions on jobs, in the order of a plan."""
    book.advance(now)
    seen = view(book, now)
    faults: list[Fault] = []
    found = [
        *keeping(book, seen, now, faults),
        *settling(book),
        *Placing(book, seen, now, frozenset(), faults).decide(),
    ]
    assert not faults
    return found


def brief(decision: JobDecision) -> tuple[object, ...]:
    """A decision without its job: its type, and its contents."""
    values = (getattr(decision, field.name) for field in fields(decision) if field.name != "job")
    return (type(decision).__name__, *values)


def assigned(book: Book) -> dict[str, str]:
    """The replica of every job that is assigned, in the order of the decisions."""
    return {decision.job.name: "/".join(decision.replica) for decision in decided(book) if isinstance(decision, Assign)}
