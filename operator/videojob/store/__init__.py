"""The object store: a job's chunks as a write-once log, and its video. One client for S3 and for a local folder.

    <store>/<namespace>/<job uid>/
        attempts/<attempt>/<chunk>.mp4 and .safetensors    what a chunk is made of
        chunks/<chunk>.json                                its record: the chunk counts from the moment this exists
        output/<attempt>.mp4                               the video
        output.json                                        its record
        closed/<attempt>                                   attempts up to the highest of these have lost the job
        after/<attempt>/chunks/<chunk>.json, output.json   the records of those that came after it

A record is put create-only and never changes, so of two writers one wins and the other learns who did. See `JobStore`.
"""

from videojob.store.check import check_store
from videojob.store.errors import CorruptObject, JobClosed, StoreError
from videojob.store.jobs import JobStore
from videojob.store.location import open_store
from videojob.store.objects import Store
from videojob.store.records import ChunkRecord, Commit, OutputRecord, StoredObject

__all__ = [
    "ChunkRecord",
    "Commit",
    "CorruptObject",
    "JobClosed",
    "JobStore",
    "OutputRecord",
    "Store",
    "StoreError",
    "StoredObject",
    "check_store",
    "open_store",
]
