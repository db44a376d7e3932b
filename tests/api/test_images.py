"""Images of shots, and of models: what the API server takes and refuses, and its wording."""

from typing import Any

import pytest

from dev.control_plane import Cluster
from tests.api.admission import GOOD, MODEL, Json, create, manifest, refusal, with_field
from videojob.api.shots import MAX_INLINE

SHOT: Json = GOOD["shots"][0]
A_KEY = "this is an object of the job's namespace in the pool's store, such as inputs/fox.png"
WAN = MODEL | {"family": "Wan"}


def test_images_are_in_the_store_or_in_the_job(cluster: Cluster, namespace: str) -> None:
    first, last = {"store": "inputs/animals/Fox_1.v2.png"}, {"inline": "A" * MAX_INLINE}
    made = create(cluster, namespace, GOOD | {"shots": [SHOT | {"image": first, "lastImage": last}, SHOT]})
    assert (made["spec"]["shots"][0]["image"], made["spec"]["shots"][0]["lastImage"]) == (first, last)
    assert "image" not in made["spec"]["shots"][1]


@pytest.mark.parametrize(
    ("image", "words"),
    [
        ({}, "write one of the two"),
        ({"store": "inputs/a.png", "inline": "AAAA"}, "write one of the two"),
        ("inputs/a.png", "must be of type object"),
        ({"url": "https://example.com/a.png"}, 'unknown field "spec.shots[0].image.url"'),
        ({"store": ""}, A_KEY),
        ({"store": "s3://bucket/a.png"}, A_KEY),
        ({"store": "/etc/passwd"}, A_KEY),
        ({"store": "a.png"}, A_KEY),
        ({"store": "inputs/"}, A_KEY),
        ({"store": "inputs//a.png"}, A_KEY),
        ({"store": "inputs/../other/a.png"}, A_KEY),
        ({"store": "inputs/.hidden"}, A_KEY),
        ({"store": "inputs/a b.png"}, A_KEY),
        ({"store": "inputs/a.png\n"}, A_KEY),
        ({"store": "inputs/" + "a" * 512}, "may not be more than 512"),
        ({"inline": "A" * (MAX_INLINE + 4)}, "may not be more than"),
        ({"inline": 5}, "must be of type string"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_another_image_is_refused_in_words(cluster: Cluster, namespace: str, image: Any, words: str) -> None:
    assert words in refusal(cluster, namespace, manifest("VideoJob", with_field(GOOD, "shots.0.image", image)))


def test_all_images_in_a_job_are_counted(cluster: Cluster, namespace: str) -> None:
    half = {"inline": "A" * (MAX_INLINE // 2)}
    shots = [SHOT | {"image": half, "lastImage": {"inline": "AAAA"}}, SHOT | {"image": half}]
    message = refusal(cluster, namespace, manifest("VideoJob", GOOD | {"shots": shots}))
    assert "the images in the job have more than 256 KiB in all: put them into the pool's store" in message
    assert len(message) < 1000, "the images are not in the answer"


def test_a_last_image_comes_with_a_first(cluster: Cluster, namespace: str) -> None:
    shots = [SHOT | {"lastImage": {"inline": "AAAA"}}]
    assert "lastImage comes with image" in refusal(cluster, namespace, manifest("VideoJob", GOOD | {"shots": shots}))


@pytest.mark.parametrize(
    ("spec", "images", "words"),
    [
        (
            MODEL,
            {"first": "Required"},
            "take no images yet: remove images, which are for LTX, SkyReelsV2",
        ),
        (WAN, {"first": "Never"}, 'supported values: "Required", "Optional"'),
        (WAN, {"last": "Never"}, 'supported values: "Required", "Optional"'),
        (WAN, {"first": "Optional", "last": "Required"}, "make first Required"),
        (WAN, {"middle": "Optional"}, 'unknown field "spec.images.middle"'),
        (WAN, True, "must be of type object"),
    ],
    ids=str,
)
def test_what_no_model_takes_is_refused_in_words(
    cluster: Cluster, namespace: str, spec: Json, images: Any, words: str
) -> None:
    assert words in refusal(cluster, namespace, manifest("VideoModel", spec | {"images": images}))
