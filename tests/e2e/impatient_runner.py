"""`python -m tests.e2e.impatient_runner`: the runner, to which a stage hangs after seconds in place of minutes."""

from videojob.runner import patience, vigil
from videojob.runner.__main__ import start

if __name__ == "__main__":
    patience.FIRST_SECONDS = patience.FLOOR_SECONDS = 10.0
    vigil.LOOK_SECONDS = 1.0
    start()
