"""Appended to each stage's model.py in tests: fails, or waits, at a chunk or at a step of it, when a file asks for it.

Runs inside Triton, where `TritonPythonModel` is the real model that was defined above, and FAULTS and STAGE are set
below. The real model's work is not changed.
"""

# ruff: noqa: F821
import json
import time
from pathlib import Path

import torch

from videojob.models.runtime import chunk_errors


class FaultyMarks:
    """The stage's marks, looked at once a step: a place to count steps and to hold one."""

    def __init__(self, marks, model):
        self._marks = marks
        self._model = model

    def clear(self, correlation_id, run):
        self._marks.clear(correlation_id, run)

    def marked(self, correlation_id, run):
        self._model.step += 1
        self._model.fault("step")
        found = self._marks.marked(correlation_id, run)
        self._model.record(found is not None)
        return found


class FaultyModel(TritonPythonModel):
    """The real model, with faults."""

    def initialize(self, args):
        super().initialize(args)
        self.chunk = self.step = 0
        if hasattr(self, "_marks"):
            self._marks = FaultyMarks(self._marks, self)

    def _respond(self, request):
        wanted = requested(request)
        self.chunk, self.step = -1 if isinstance(wanted, End) else wanted.unit.index, 0
        self.fault("before")
        response = super()._respond(request)
        self.fault("after")
        return response

    def fault(self, when):
        """Do what the file asks for at this point."""
        path = Path(FAULTS, f"{STAGE}.json")
        try:
            fault = json.loads(path.read_text())
        except (FileNotFoundError, ValueError):
            return
        if (fault["chunk"], fault["when"], fault["step"]) != (self.chunk, when, self.step if when == "step" else 0):
            return
        Path(FAULTS, f"{STAGE}.reached").touch()
        if fault["action"] == "hold":
            while path.exists():
                time.sleep(0.01)
            return
        fault["times"] -= 1
        if fault["times"] == 0:
            path.unlink()
        else:
            path.with_suffix(".new").write_text(json.dumps(fault))
            path.with_suffix(".new").replace(path)
        if fault["action"] == "break":  # As a kernel that reads where it must not.
            with chunk_errors("The accelerator"):
                raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
        raise RuntimeError("a fault was asked for")

    def record(self, marked):
        """Record a step of a chunk, and whether the sequence was to stop."""
        with Path(FAULTS, f"{STAGE}.log").open("a") as log:
            log.write(f"{self.chunk} {self.step} {int(marked)}\n")


TritonPythonModel = FaultyModel
