"""`python -m videojob.runner`."""

import os
import signal


def start() -> None:
    """Run the runner; what `videojob-runner` calls."""
    # The kernel drops a signal that process 1 of a container does not handle, and the imports take seconds.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    from videojob.runner.main import main  # noqa: PLC0415

    main()


if __name__ == "__main__":
    start()
