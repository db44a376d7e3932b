"""The one exception of the developer tools."""


class DevError(Exception):
    """Ends a command; the message is a sentence for a person, with what is wrong and what to do."""
