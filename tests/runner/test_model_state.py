"""What is done about a model, by what it is on the server: the whole machine as one table, and what holds of it."""

import itertools
from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from videojob.runner.model_state import Action, Facts, State, next_action

ANY = tuple(State)
MAYBE_THERE = (State.UNSURE, State.LOADING, State.RESIDENT, State.LEAVING, State.FAILED)
NO = False
NEEDED = {"wanted": True, "dropped": NO, "resting": NO}
UNWANTED = {"wanted": NO, "dropped": NO, "resting": NO}
DROPPED = {"dropped": True, "resting": NO}

TABLE: list[tuple[tuple[State, ...], dict[str, bool], Action]] = [
    (ANY, {"resting": True}, Action.WAIT),
    ((State.ABSENT,), DROPPED, Action.REMOVE),
    ((State.ABSENT,), UNWANTED | {"look_due": True}, Action.LOOK_AT_FOLDER),
    ((State.ABSENT,), UNWANTED | {"look_due": NO}, Action.WAIT),
    ((State.ABSENT,), NEEDED | {"weights_read": NO}, Action.READ),
    ((State.ABSENT,), NEEDED | {"weights_read": True, "room": NO}, Action.WAIT),
    ((State.ABSENT,), NEEDED | {"weights_read": True, "room": True}, Action.LOAD),
    ((State.UNSURE, State.LOADING), NEEDED | {"digest_known": NO}, Action.READ),
    ((State.UNSURE, State.LOADING), NEEDED | {"digest_known": True}, Action.LOOK),
    ((State.RESIDENT,), NEEDED | {"stage_ended": True}, Action.LOAD_STAGE),
    ((State.RESIDENT,), NEEDED | {"stage_ended": NO, "look_due": True}, Action.LOOK),
    ((State.RESIDENT,), NEEDED | {"stage_ended": NO, "look_due": NO}, Action.WAIT),
    ((State.LEAVING, State.FAILED), NEEDED | {"stage_ended": True}, Action.LOAD_STAGE),
    ((State.LEAVING, State.FAILED), NEEDED | {"stage_ended": NO}, Action.UNLOAD),
    (MAYBE_THERE, UNWANTED | {"stage_ended": True}, Action.LOAD_STAGE),
    (MAYBE_THERE, UNWANTED | {"stage_ended": NO}, Action.UNLOAD),
    (MAYBE_THERE, DROPPED | {"stage_ended": True}, Action.LOAD_STAGE),
    (MAYBE_THERE, DROPPED | {"stage_ended": NO}, Action.UNLOAD),
]
"""Facts that a row does not name may be either; each case is in exactly one row."""

NAMES = [each.name for each in fields(Facts)]
FACTS = [Facts(**dict(zip(NAMES, values, strict=True))) for values in itertools.product((NO, True), repeat=len(NAMES))]
any_facts = st.sampled_from(FACTS)


@pytest.mark.parametrize("state", State)
def test_every_case_is_in_the_table(state: State) -> None:
    for facts in FACTS:
        rows = [
            action
            for states, conditions, action in TABLE
            if state in states and all(getattr(facts, name) is value for name, value in conditions.items())
        ]
        assert [next_action(state, facts)] == rows, facts


@pytest.mark.parametrize("state", State)
def test_memory_counts_in_every_state_but_absent(state: State) -> None:
    assert state.holds_memory is (state is not State.ABSENT)


@given(st.sampled_from(State), any_facts)
def test_nothing_is_loaded_that_is_not_wanted_or_has_no_room_or_may_be_there_already(
    state: State, facts: Facts
) -> None:
    if next_action(state, facts) is Action.LOAD:
        assert state is State.ABSENT
        assert facts.wanted and not facts.dropped and facts.room and facts.weights_read


def brought_about(state: State, facts: Facts, action: Action, data: st.DataObject) -> tuple[State, Facts]:
    """State and facts after an action, which may find anything."""
    outcomes: dict[Action, list[tuple[State, dict[str, bool]]]] = {
        Action.WAIT: [(state, {"resting": NO, "look_due": True, "room": True})],
        Action.READ: [(state, {"weights_read": True, "digest_known": True})],
        Action.LOOK: [(found, {}) for found in (State.ABSENT, State.RESIDENT, State.LEAVING)],
        Action.LOOK_AT_FOLDER: [(state, {"look_due": NO})],
        Action.LOAD: [(made, {"weights_read": NO}) for made in (State.LOADING, State.FAILED, State.LEAVING)],
        Action.LOAD_STAGE: [(state, {"stage_ended": NO})],
        Action.UNLOAD: [(State.ABSENT, {"stage_ended": NO})],
        Action.REMOVE: [(state, {})],
    }
    became, changes = data.draw(st.sampled_from(outcomes[action]), label=action.name)
    return became, replace(facts, **changes)


@given(st.sampled_from(State), any_facts, st.lists(st.booleans(), max_size=20), st.data())
def test_a_dropped_model_is_removed_and_only_once_nothing_of_it_is_on_the_server(
    state: State, facts: Facts, fails: list[bool], data: st.DataObject
) -> None:
    facts, actions = replace(facts, dropped=True), list[Action]()
    while Action.REMOVE not in actions:
        assert len(actions) < 50, "it goes on for ever"
        action = next_action(state, facts)
        actions.append(action)
        if action is Action.WAIT or not fails or not fails.pop():
            state, facts = brought_about(state, facts, action, data)
        else:
            facts = replace(facts, resting=True)
            state = State.LEAVING if action is Action.UNLOAD else state
    assert state is State.ABSENT
    assert set(actions) <= {Action.WAIT, Action.LOAD_STAGE, Action.UNLOAD, Action.REMOVE}
