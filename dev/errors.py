"""The one exception of the developer tools."""


class DevError(Exception):
    """What ends a command: a sentence for a person, with what is wrong and what to do."""
