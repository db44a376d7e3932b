"""Drift: how far a video goes from the first frames of each shot, how far it may, and what happens then."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from videojob.api.schema import Resource

Share = Annotated[float, Field(gt=0, le=1)]


class DriftPolicy(StrEnum):
    """What happens once a shot has drifted further than the model's thresholds."""

    REPORT = "Report"
    """Nothing: it is on the status and in the metrics."""
    REFRESH = "Refresh"
    """The shot goes on from what is kept of the beginning, without the recent past."""
    STOP = "Stop"
    """The job ends as Failed."""


class DriftThresholds(Resource):
    """How far a shot may go from its first frames: from 0, the same, to 1. What is omitted has no bound."""

    colour: Annotated[Share | None, Field(description="Of the mean colour and the mean chroma.")] = None
    contrast: Annotated[Share | None, Field(description="The part by which the contrast may change.")] = None
    sharpness: Annotated[Share | None, Field(description="The part by which the sharpness may change.")] = None
    motion: Annotated[Share | None, Field(description="The part by which motion from frame to frame may change.")] = (
        None
    )
    dissimilarity: Annotated[
        Share | None,
        Field(description="Of a small picture: 0.5 has nothing in common with the first one, 1 is its negative."),
    ] = None


class DriftPeak(Resource):
    """The furthest that a signal has gone."""

    value: Annotated[float, Field(description="From 0, the same as the shot's first frames, to 1.")]
    shot: Annotated[int, Field(ge=0, description="Of the job's shots, counted from 0.")]
    second: Annotated[float, Field(ge=0, description="Where in the video the piece begins that has gone so far.")]


class DriftStatus(Resource):
    """The furthest that each signal has gone in any shot, and how often the memory was refreshed because of that."""

    colour: DriftPeak | None = None
    contrast: DriftPeak | None = None
    sharpness: DriftPeak | None = None
    motion: DriftPeak | None = None
    dissimilarity: DriftPeak | None = None
    refreshes: Annotated[int, Field(ge=0, description="Times that a shot went on without its recent past.")] = 0


SIGNALS = tuple(DriftThresholds.model_fields)
"""The signals, by their names in Python and on the wire."""
