"""Request models: the JSON of requests, with their limits as types.

They are read strictly: a number is not a string, an unknown key is an error. Of a list only the first wrong item is named, and of many
unknown keys none: a megabyte of them would else become gigabytes of errors. Ids, labels, payloads and filters are checked by the
library, which has the same rules for every way in.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from backbone.vote import Weighting
from service.analysis.voting import Balance
from service.api.openapi_schemas import FILTER, PAYLOAD
from service.points import MAX_ID_CHARS, Keep


def _whole(value: object) -> object:
    """Return 5.0 as 5: JSON has one kind of number, and some languages write all of theirs with a point."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


WHOLE = BeforeValidator(_whole)
# The library's rule of ids and labels, as far as a schema can say it.
TEXT_RULE: dict[str, Any] = {
    "minLength": 1,
    "maxLength": MAX_ID_CHARS,
    "pattern": r"^[^\u0000-\u001f\u007f-\u009f]*$",
}
Limit = Annotated[int, Field(ge=1, le=1000), WHOLE]  # a page, not an export
Temperature = Annotated[
    float, Field(gt=0, le=100, description="of the softmax weighting; the less, the more the nearest count")
]
WeightingIn = Annotated[
    Weighting,
    Field(
        description="a neighbour's weight: softmax exp(cosine / temperature), distance 1 / (1 - cosine) "
        "(where neighbours equal the query they alone vote, alike), uniform 1"
    ),
]
BalanceIn = Annotated[
    Balance,
    Field(
        description="inverse divides each vote by the number of labelled points of its class (among those that the filter selects)"
    ),
]
Base64 = Annotated[str, Field(description="the bytes of one image in base64", json_schema_extra={"format": "byte"})]
PointText = Annotated[str, Field(json_schema_extra=TEXT_RULE)]  # the library checks it
_QUADS = "(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{4}|[A-Za-z0-9+/]{3}=|[A-Za-z0-9+/]{2}==)"  # base64 of at least one byte
_ALONE: dict[str, Any] = {"format": "byte", "pattern": f"^{_QUADS}$"}
# An image that its request stands or falls with; in a list of images, one that is none has its error in its place.
OneImage = Annotated[Base64, Field(json_schema_extra=_ALONE)]
ImageText = Annotated[
    str,
    Field(
        json_schema_extra={
            "anyOf": [_ALONE, {"format": "uri", "pattern": f"^data:image/[^,]{{0,80}};base64,{_QUADS}$"}]
        }
    ),
]
VectorIn = Annotated[list[float], Field(min_length=1, fail_fast=True)]
Ids = Annotated[list[str], Field(min_length=1, fail_fast=True)]
FilterIn = Annotated[dict[str, Any], WithJsonSchema(FILTER)]
PayloadIn = Annotated[dict[str, Any], WithJsonSchema(PAYLOAD)]
_DISTINCT: dict[str, Any] = {"uniqueItems": True}
Ks = Annotated[list[Limit], Field(min_length=1, max_length=16, fail_fast=True, json_schema_extra=_DISTINCT)]
Scalar = str | int | Annotated[float, Field(allow_inf_nan=False)] | bool
TwoValues = Annotated[list[Scalar], Field(min_length=2, max_length=2, fail_fast=True, json_schema_extra=_DISTINCT)]


def exactly_one(*names: str) -> dict[str, Any]:
    """Return the part of a schema by which exactly one of these fields is given, and not as null."""
    return {"oneOf": [{"required": [name], "properties": {name: {"not": {"type": "null"}}}} for name in names]}


class RequestModel(BaseModel):
    """A JSON body."""

    model_config = ConfigDict(strict=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _few_keys(cls, given: object) -> object:
        if isinstance(given, dict) and len(given) > len(cls.model_fields):
            raise ValueError(
                f"there are {len(given):,} keys, more than the {len(cls.model_fields)} that are known here"
            )
        return given


class EmbedBody(RequestModel):
    """Images to embed."""

    images: Annotated[list[Base64], Field(min_length=1, fail_fast=True)]


class EmbeddingsBody(BaseModel):
    """What OpenAI's clients send; what else they send is left alone."""

    model_config = ConfigDict(strict=True, extra="ignore")

    input: Annotated[
        ImageText | Annotated[list[ImageText], Field(min_length=1, fail_fast=True)],
        Field(description="one image or several, each a data URI or base64"),
    ]
    model: Annotated[
        str | None, Field(description="name or fingerprint of a loaded model; the default one if absent")
    ] = None
    encoding_format: Annotated[
        Literal["float", "base64"], Field(description="base64: the vector's float32 numbers, little-endian")
    ] = "float"
    dimensions: Annotated[
        Annotated[int, WHOLE] | None,
        Field(description="the model's own, where it is given"),
    ] = None


class CollectionBody(RequestModel):
    """How to make a collection; `fingerprint` binds it to that loaded model instead of the default one."""

    keep: Keep | None = None
    fingerprint: str | None = None


class PointIn(RequestModel):
    """A point to put: with `vector` or with `image`; what is left out stays as it was."""

    id: PointText
    vector: VectorIn | None = None
    image: Base64 | None = None
    label: PointText | None = None
    payload: PayloadIn | None = None


class PutPointsBody(RequestModel):
    """Points to put; in a multipart request the `points` part, where images or vectors are parts of their own."""

    points: Annotated[list[PointIn], Field(min_length=1, fail_fast=True)]
    replace: bool = False
    fingerprint: str | None = None


class PatchPointBody(RequestModel):
    """New values; what is left out stays, null removes."""

    label: PointText | None = None
    payload: PayloadIn | None = None


class DeleteBody(RequestModel):
    """Which points to delete: by ids, or by a filter with a condition that can leave points out."""

    model_config = ConfigDict(json_schema_extra=exactly_one("ids", "filter"))

    ids: Ids | None = None
    filter: FilterIn | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.ids is None) == (self.filter is None):
            raise ValueError("give either ids or filter")
        return self


class ScrollBody(RequestModel):
    """A page of points in a stable order; `cursor` is the `next_cursor` of the page before."""

    limit: Limit = 100  # a screenful of thumbnails
    cursor: str | None = None
    filter: FilterIn | None = None
    with_vector: bool = False


class CountBody(RequestModel):
    """Which points to count; without a filter all."""

    filter: FilterIn | None = None


class Target(RequestModel):
    """What a search starts from: exactly one of a vector, a stored point's id, or an image."""

    model_config = ConfigDict(json_schema_extra=exactly_one("vector", "id", "image"))

    vector: VectorIn | None = None
    id: PointText | None = None
    image: OneImage | None = None
    fingerprint: str | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if sum(given is not None for given in (self.vector, self.id, self.image)) != 1:
            raise ValueError("give exactly one of vector, id and image")
        return self


class QueryBody(Target):
    """A search; a query by id leaves that point out."""

    limit: Limit = 10
    filter: FilterIn | None = None
    score_threshold: Annotated[float, Field(ge=-1, le=1)] | None = None
    with_payload: bool = True
    with_vector: bool = False
    exact: bool = False


class QueryBatchBody(RequestModel):
    """Several searches at once."""

    queries: Annotated[list[QueryBody], Field(min_length=1, fail_fast=True)]


class ClassifyBody(Target):
    """A kNN vote of the labelled points; `reject_below` is the probability under which there is no label."""

    k: Limit = 20  # DINO's choice
    temperature: Temperature = 0.07  # DINO's choice
    weighting: WeightingIn = "softmax"  # DINO's choice
    balance: BalanceIn = "none"  # as DINO; and on even classes it makes no difference
    reject_below: Annotated[float, Field(ge=0, le=1)] | None = None
    filter: FilterIn | None = None
    exact: bool = False


class EvaluateBody(RequestModel):
    """Which votes to try on the labelled points (those that the filter selects); `ks` are the numbers of neighbours."""

    # no two alike; from the nearest alone to what DINO tries at most on large sets, and one search finds all of them
    ks: Ks = [1, 5, 10, 20, 50, 100, 200]
    temperature: Temperature = 0.07
    weighting: WeightingIn = "softmax"
    balance: BalanceIn = "none"
    filter: FilterIn | None = None
    exact: bool = False

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if len(set(self.ks)) < len(self.ks):
            raise ValueError("name each of ks once")
        return self


class LabelIssuesBody(RequestModel):
    """The vote that judges the labels (of the points that the filter selects), and how many issues are listed."""

    k: Limit = 20
    temperature: Temperature = 0.07
    weighting: WeightingIn = "softmax"
    balance: BalanceIn = "none"
    limit: Limit = 100
    filter: FilterIn | None = None
    exact: bool = False


class QueryParams(BaseModel):
    """The options of a search whose body is an image; `filter` is JSON."""

    limit: Limit = 10
    filter: str | None = None
    score_threshold: Annotated[float, Field(ge=-1, le=1)] | None = None
    with_payload: bool = True
    with_vector: bool = False
    exact: bool = False
    fingerprint: str | None = None


class ClassifyParams(BaseModel):
    """The options of a classification whose body is an image; `filter` is JSON."""

    k: Limit = 20
    temperature: Temperature = 0.07
    weighting: WeightingIn = "softmax"
    balance: BalanceIn = "none"
    reject_below: Annotated[float, Field(ge=0, le=1)] | None = None
    filter: str | None = None
    exact: bool = False
    fingerprint: str | None = None


_NULL = {"type": "null"}
_OF_THE_METHOD: dict[str, Any] = {
    "oneOf": [
        {
            "properties": {"method": {"const": "kmeans"}, "k": {"not": _NULL}, "min_size": _NULL},
            "required": ["k"],
        },
        {"properties": {"method": {"const": "hdbscan"}, "k": _NULL}, "required": ["method"]},
    ]
}


class ClusteringBody(RequestModel):
    """How to cluster; the same seed gives the same clusters of the same points.

    `kmeans`: spherical k-means on the unit vectors into `k` clusters, or as many as a sweep recommends with "auto".
    `hdbscan`: dense regions of `min_size` points and more, however many there are, and noise between them.
    """

    model_config = ConfigDict(json_schema_extra=_OF_THE_METHOD)

    method: Literal["kmeans", "hdbscan"] = "kmeans"
    k: Limit | Literal["auto"] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**31), WHOLE] = 0
    min_size: Annotated[int, Field(ge=2, le=1_000_000), WHOLE] | None = None

    @model_validator(mode="after")
    def _of_the_method(self) -> Self:
        if (self.method == "kmeans") != (self.k is not None):
            raise ValueError("give k, a number or auto, with kmeans; hdbscan finds the number itself")
        if self.method == "kmeans" and self.min_size is not None:
            raise ValueError("min_size belongs to hdbscan")
        return self


def _alike(one: Scalar, other: Scalar) -> bool:
    """Say whether a filter takes two values for the same; 1 and true are not."""
    return one == other and isinstance(one, bool) == isinstance(other, bool)


class DuplicatesBody(RequestModel):
    """Which pairs count as near-duplicates: those with this cosine or more.

    `across` confines them to pairs of a point with the one and a point with the other value of `key`, such as train and test.
    """

    threshold: Annotated[float, Field(ge=0, le=1)] = (
        0.95  # of DINO vectors: another crop or encoding of the same photograph
    )
    key: Annotated[str, Field(min_length=1, max_length=512)] = "label"
    across: TwoValues | None = None
    limit: Limit = 100
    exact: bool = False

    @model_validator(mode="after")
    def _two_sides(self) -> Self:
        if self.across is not None and _alike(*self.across):
            raise ValueError("across names two different values")
        return self


class OutliersBody(RequestModel):
    """How many neighbours say how alone a point is."""

    k: Limit = 10
    limit: Limit = 100
    exact: bool = False


class ClusterNameBody(RequestModel):
    """A person's name for a cluster; null removes it."""

    name: Annotated[str, Field(min_length=1, max_length=512, json_schema_extra=TEXT_RULE)] | None


class ClusterQueryBody(Target):
    """Which clusters are nearest."""

    limit: Limit = 10


class ClusterQueryParams(BaseModel):
    """The options of a cluster search whose body is an image."""

    limit: Limit = 10
    fingerprint: str | None = None
