"""Fixtures that any test may ask for."""

from hypothesis import settings

pytest_plugins = ("tests.control_plane",)

# How long an example takes is the machine's matter: timed assertions do not belong in tests.
settings.register_profile("videojob", deadline=None)
settings.load_profile("videojob")
