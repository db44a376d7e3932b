"""Arguments that both operator and runner take."""

import argparse

from videojob.api.replica import MAX_CUT_OFF_SECONDS


def cut_off_seconds(text: str) -> int:
    """For how long a runner goes on without the API server. Raises argparse.ArgumentTypeError."""
    if not (text.isascii() and text.isdigit() and int(text) <= MAX_CUT_OFF_SECONDS):
        raise argparse.ArgumentTypeError(f"{text!r} is no such time: it takes whole seconds, up to a day")
    return int(text)
