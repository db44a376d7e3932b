"""What a model is on the server, and what to do about it next: one machine. Pure.

| state    | the server has                              | what ends it                                             |
|----------|---------------------------------------------|----------------------------------------------------------|
| Unsure   | nobody knows: what a runner before has left | a look, or an unload                                     |
| Absent   | nothing of it                               | a load                                                   |
| Loading  | what came of a load that was begun          | a look                                                   |
| Resident | all of it, with the right weights           | a look that finds it gone, or it is wanted no more       |
| Leaving  | what Triton has not dropped yet             | Triton has dropped it, and nothing else: it is never two |
| Failed   | what a refused load has left                | an unload                                                |

Its weights count as on the accelerator in every state but Absent.
"""

from dataclasses import dataclass
from enum import Enum, auto


class State(Enum):
    """What a model is on the server."""

    UNSURE = auto()
    ABSENT = auto()
    LOADING = auto()
    RESIDENT = auto()
    LEAVING = auto()
    FAILED = auto()

    @property
    def holds_memory(self) -> bool:
        """Whether its weights count as on the accelerator."""
        return self is not State.ABSENT


class Action(Enum):
    """What to do about a model."""

    WAIT = auto()
    """Until something changes, or the time of something comes."""
    READ = auto()
    """Read its weights, to know their digest."""
    LOOK = auto()
    """Ask the server what it has of it."""
    LOOK_AT_FOLDER = auto()
    """See that its folder is there, and which weights are known to be in it; no weights are read."""
    LOAD = auto()
    LOAD_STAGE = auto()
    """Load one stage anew, whose process has ended."""
    UNLOAD = auto()
    """Take it off the accelerator, and wait until it is gone."""
    REMOVE = auto()
    """Delete its folder in the server's repository: the end of it."""


@dataclass(frozen=True)
class Facts:
    """What the next action depends on beside the state."""

    wanted: bool = False
    """It is to be on the accelerator."""
    dropped: bool = False
    """The pool no longer has it."""
    digest_known: bool = False
    """It is known which weights it should have."""
    weights_read: bool = False
    """They were read since the last load was begun, so the digest is that of what a load would load."""
    room: bool = False
    """What is on the accelerator leaves room for the weights."""
    stage_ended: bool = False
    """The process of one of its stages has ended. Triton would wait for ever for the end of that stage."""
    look_due: bool = False
    """It is time to look again: at the server where the model is resident, at the folder where it is absent."""
    resting: bool = False
    """Something has failed, and it is not yet time to try again."""


def next_action(state: State, facts: Facts) -> Action:
    """What to do next about a model that is so."""
    if facts.resting:
        return Action.WAIT
    if state is State.ABSENT:
        return _of_absent(facts)
    needed = facts.wanted and not facts.dropped
    if state in {State.LEAVING, State.FAILED} or not needed:
        return Action.LOAD_STAGE if facts.stage_ended else Action.UNLOAD
    if state is State.RESIDENT:
        if facts.stage_ended:
            return Action.LOAD_STAGE
        return Action.LOOK if facts.look_due else Action.WAIT
    return Action.LOOK if facts.digest_known else Action.READ


def _of_absent(facts: Facts) -> Action:
    if facts.dropped:
        return Action.REMOVE
    if not facts.wanted:
        return Action.LOOK_AT_FOLDER if facts.look_due else Action.WAIT
    if not facts.weights_read:
        return Action.READ
    return Action.LOAD if facts.room else Action.WAIT
