"""A book that was kept by deltas equals one that is built anew, and old news changes nothing."""

from dataclasses import replace
from datetime import datetime

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.planner.builders import MONO, NOW, ago, book, job, model, pool, queue, replica
from tests.planner.deciding import decided
from tests.planner.test_invariants import jobs
from videojob.api.videojob import Phase
from videojob.planner.agenda import Agenda
from videojob.planner.book import Book
from videojob.planner.decisions import JobDecision
from videojob.planner.facts import Job, Moment

UIDS = 6


def fingerprint(agenda: Agenda) -> dict[str, object]:
    """All that decisions are made from."""
    pending = agenda.pending
    return {
        "held": {key: set(found) for key, found in agenda.held.items()},
        "attention": {need: set(found) for need, found in agenda.attention.items() if found},
        "moments": list(agenda.moments),
        "classes": {
            shape: (list(found.ready), found.work, found.count, sorted(found.shown()))
            for shape, found in pending.classes.items()
        },
        "unannounced": list(pending.unannounced),
        "reasons": dict(pending.reasons),
        "by model": {name: set(uids) for name, uids in pending.by_model.items()},
    }


class Deltas(RuleBasedStateMachine):
    """Objects come and go, writes begin and end, and time goes on, in any order."""

    @initialize()
    def start(self) -> None:
        self.now = NOW
        self.mono = MONO
        self.version = 1
        self.book = book(models=[], pools=[pool(max_jobs=3)], replicas={"p/r0": replica(slots=3)}, queues=[])
        self.begun: list[JobDecision] = []
        self.objects: dict[str, Job] = {}

    def next_version(self) -> int:
        self.version += 1
        return self.version

    @rule(data=st.data(), index=st.integers(0, UIDS - 1))
    def put_job(self, data: st.DataObject, index: int) -> None:
        found = replace(data.draw(jobs(index)), version=self.next_version())
        assert self.book.put_job(found)
        self.objects[found.uid] = found

    @rule(index=st.integers(0, UIDS - 1))
    def drop_job(self, index: int) -> None:
        self.book.drop_job(f"uid-j{index:02}")
        self.objects.pop(f"uid-j{index:02}", None)

    @rule(index=st.integers(0, UIDS - 1), insert=st.booleans())
    def old_news(self, index: int, insert: bool) -> None:
        known = self.book.jobs.get(f"uid-j{index:02}")
        if known is not None:
            assert not self.book.put_job(replace(known, cancel=True), insert=insert)

    @rule(name=st.sampled_from(["tiny", "big"]), width=st.sampled_from([16, 4096]), steps=st.integers(1, 3))
    def put_model(self, name: str, width: int, steps: int) -> None:
        made = model(name, limits={"max_width": width})
        metadata = made.metadata.model_copy(update={"resource_version": str(self.next_version())})
        defaults = made.spec.defaults.model_copy(update={"steps": steps})
        spec = made.spec.model_copy(update={"defaults": defaults})
        self.book.put_model(made.model_copy(update={"metadata": metadata, "spec": spec}))

    @rule(name=st.sampled_from(["tiny", "big"]))
    def drop_model(self, name: str) -> None:
        self.book.drop_model(name, f"uid-{name}")

    @rule(stop=st.sampled_from(["None", "Hold"]))
    def put_queue(self, stop: str) -> None:
        made = queue(stop)
        metadata = made.metadata.model_copy(update={"resource_version": str(self.next_version())})
        self.book.put_queue(made.model_copy(update={"metadata": metadata}))

    @rule(index=st.integers(0, UIDS - 1))
    def unreadable(self, index: int) -> None:
        self.book.put_unreadable("videojobs", f"uid-j{index:02}", "no phase of that name")

    @rule(seconds=st.integers(1, 2000))
    def time(self, seconds: int) -> None:
        self.now = datetime.fromtimestamp(self.now.timestamp() + seconds, NOW.tzinfo)
        self.mono += seconds

    @rule(data=st.data())
    def begin(self, data: st.DataObject) -> None:
        free = [one for one in decided(self.book, Moment(self.now, self.mono)) if self.stands(one)]
        if free:
            decision = data.draw(st.sampled_from(free))
            self.book.begin(decision)
            self.begun.append(decision)

    def stands(self, decision: JobDecision) -> bool:
        """Whether the job is still the one that was decided on. Progress of a held one changes nothing."""
        known, decided = self.book.jobs.get(decision.job.uid), decision.job
        if known is None or known is decided:
            return known is decided
        held = known.assignment is not None and known.assignment == decided.assignment
        return held and (known.attempts, known.generation) == (decided.attempts, decided.generation)

    @rule(data=st.data(), rests=st.booleans())
    def end(self, data: st.DataObject, rests: bool) -> None:
        if self.begun:
            decision = self.begun.pop(data.draw(st.integers(0, len(self.begun) - 1)))
            if rests:
                self.book.rest(("job", decision.job.uid), self.mono + 10)
            self.book.end(decision)

    @invariant()
    def equals_one_that_is_built_anew(self) -> None:
        moment = Moment(self.now, self.mono)
        self.book.advance(moment)
        anew = self.anew()
        anew.advance(moment)
        assert fingerprint(self.book.agenda) == fingerprint(anew.agenda)
        assert self.book.counts == anew.counts

    def anew(self) -> Book:
        made = Book(self.book.rules)
        for model_ in self.book.models.values():
            made.put_model(model_)
        for found in self.objects.values():
            made.put_job(found)
        for (kind, uid), why in self.book.unreadable.items():
            made.put_unreadable(kind, uid, why)
        for decision in self.begun:
            made.begin(decision)
        for key, until in self.book.rests().items():
            made.rest(key, until)
        return made


TestDeltas = Deltas.TestCase
TestDeltas.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)


@given(st.permutations([1, 2, 3, 4]))
def test_events_of_one_job_in_any_order_leave_the_newest(order: list[int]) -> None:
    made = book()
    for version in order:
        made.put_job(job(version=version, priority=version))
    assert made.jobs["uid-a"].priority == 4


def test_an_answer_to_a_write_does_not_bring_back_a_job_that_is_gone() -> None:
    made = book(job())
    made.drop_job("uid-a")
    assert not made.put_job(job(version=9), insert=False)
    assert made.version("uid-a") is None


def test_a_finished_job_takes_no_more_than_its_version() -> None:
    made = book(job(phase=Phase.SUCCEEDED, completion_time=ago(5), version=7))
    assert (made.jobs, made.finished) == ({}, {"uid-a": 7})
    assert sum(made.counts.values()) == 1


def test_jobs_of_a_model_that_changes_are_settled_a_few_at_a_time_and_by_the_next_cycle() -> None:
    made = book(*(job(f"j{number}", width=32) for number in range(5)), models=[model()])
    old = made.models["tiny"]

    def change(version: str, **limits: int) -> None:
        metadata = old.metadata.model_copy(update={"resource_version": version})
        made.put_model(old.model_copy(update={"metadata": metadata, "spec": model("tiny", limits=limits).spec}))

    def refused() -> int:
        return sum(entry.shape.refused is not None for entry in made.agenda.pending.entries.values())

    change("100", max_width=16)
    assert refused() == 0, "none has been looked at again"
    assert made.settle(2)
    assert refused() == 2
    change("101", max_width=16)
    assert made.settle(2), "what is left is not begun anew where the spec stays as it is"
    assert refused() == 4
    made.advance(Moment(NOW, MONO))
    assert refused() == 5
    assert not made.settle(2)
