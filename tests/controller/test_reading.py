"""Objects of the API as facts."""

import pytest

from tests.controller.objects import Json, deployment_body
from videojob.controller.pool_effects import SCALER
from videojob.controller.reading import FIELD_MANAGER, deployed_of


def owner(manager: str, *fields: str, **entry: str) -> Json:
    """An entry of `managedFields` with these fields of the spec."""
    return {
        "manager": manager,
        "operation": "Apply",
        "fieldsV1": {"f:spec": {f"f:{one}": {} for one in fields}},
        **entry,
    }


@pytest.mark.parametrize(
    ("entries", "owned"),
    [
        pytest.param([owner(FIELD_MANAGER, "replicas", "template")], True, id="ours alone"),
        pytest.param(
            [owner(FIELD_MANAGER, "replicas"), owner(SCALER, "replicas")], False, id="kept by another manager"
        ),
        pytest.param(
            [owner(FIELD_MANAGER, "replicas"), owner("kubectl", "replicas", operation="Update", subresource="scale")],
            False,
            id="scaled by a person as well",
        ),
        pytest.param([owner(FIELD_MANAGER, "template"), owner(SCALER, "replicas")], False, id="let go"),
        pytest.param([owner(FIELD_MANAGER, "template")], False, id="nobody's"),
        pytest.param(
            [{"manager": FIELD_MANAGER}, owner(FIELD_MANAGER, "replicas")], True, id="an entry without fields"
        ),
    ],
)
def test_replicas_are_owned_where_nobody_else_owns_them(entries: list[Json], owned: bool) -> None:
    """One that is ours alone would fall back to its default if it were let go; one that is kept already is let go."""
    body = deployment_body()
    body["metadata"]["managedFields"] = entries
    assert deployed_of(body).owned is owned
