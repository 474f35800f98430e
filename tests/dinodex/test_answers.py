"""The client's answer types against /openapi.json: what one of the two gains or loses, the other and this list must follow."""

from __future__ import annotations

import pytest
from pydantic import BaseModel

from dinodex import answers
from service.app import create_app
from service.settings import load_settings

# the client's names for schemas that are not `<name>Answer`
SCHEMAS = {
    "Classification": "ClassifyAnswer",
    "Clustered": "ClusteringMade",
    "CollectionStats": "CollectionAnswer",
    "Counted": "CountAnswer",
    "Page": "ScrollAnswer",
    "PutOutcome": "PutItem",
    "Refusal": "Problem",
    "Started": "JobStarted",
}
# fields that the client leaves unread
UNREAD = {
    "ClusterHit": {"name"},
    "CollectionStats": {
        *("labels", "labelled", "index", "measured_recall", "memory_bytes", "tail", "building", "model_loaded")
    },
    "Duplicates": {"capped", "threshold"},
    "Job": {"kind", "created_at"},
    "Model": {"model", "outputs", "runtime_reason", "self_test_cosine", "lineage"},
    "Outliers": {"points"},
    "Refusal": {"type", "title", "request_id", "retry_after_s", "errors"},
}


def client_types() -> dict[str, type[BaseModel]]:
    return {
        name: kind
        for name, kind in vars(answers).items()
        if isinstance(kind, type) and issubclass(kind, BaseModel) and kind is not BaseModel
    }


@pytest.fixture(scope="module")
def fields(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """Return the fields of each schema of the document."""
    folder = tmp_path_factory.mktemp("nothing")
    document = create_app(load_settings(artifact=folder, data=folder, allow_anonymous=True)).openapi()
    return {name: set(schema.get("properties", ())) for name, schema in document["components"]["schemas"].items()}


@pytest.mark.parametrize("name", client_types())
def test_a_type_of_the_client_names_the_fields_of_its_schema(name: str, fields: dict[str, set[str]]) -> None:
    answered = fields[SCHEMAS.get(name, f"{name}Answer")]
    read, unread = set(client_types()[name].model_fields), UNREAD.get(name, set())
    assert read | unread == answered
    assert not read & unread


def test_the_list_of_what_is_left_unread_names_types_that_there_are() -> None:
    assert client_types().keys() >= SCHEMAS.keys() | UNREAD.keys()
