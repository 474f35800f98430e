"""One collection of a service: its points, searches, votes and clusters."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, TypedDict, Unpack

import numpy as np
from numpy.typing import NDArray

from dinodex.answers import (
    Classification,
    Cluster,
    Clustered,
    ClusterHit,
    Clusterings,
    ClusterOutlier,
    CollectionStats,
    Counted,
    Deleted,
    Duplicates,
    Evaluation,
    Hit,
    Job,
    LabelIssues,
    Outlier,
    Outliers,
    Page,
    Point,
    PutOutcome,
    Started,
)
from dinodex.connection import Connection, ImageLike, M, encode_id, image_bytes, image_part, in_chunks, read_as
from dinodex.errors import ClientError, JobFailed

Filter = Mapping[str, Any]
Vector = Sequence[float] | NDArray[np.floating]

PAGE = 1000  # points a request when all are listed: the service's limit
JOB_WAIT_S = 30  # how long the request that starts a job waits for its end; then the job is asked after
ACCEPTED = 202  # the status of a job that goes on
POLL_S = 0.2  # between two looks at a job


class VoteOptions(TypedDict, total=False):
    """How neighbours vote; what is not said is as in DINO's vote.

    temperature: 0.07, of the softmax weighting exp(cosine / temperature); weighting: or `distance`, 1 / (1 - cosine), or `uniform`;
    balance: `inverse` divides each vote by the number of labelled points of its class; where: a filter of the points that may
    vote; exact: compare with every vector instead of asking the index.
    """

    temperature: float
    weighting: Literal["softmax", "distance", "uniform"]
    balance: Literal["none", "inverse"]
    where: Filter
    exact: bool


class Collection:
    """A handle on a collection; `client.collection(name)` makes one."""

    def __init__(self, connection: Connection, name: str) -> None:
        self._connection, self.name = connection, name
        self._path = f"/v1/collections/{encode_id(name)}"
        self._point = f"{self._path}/point"  # with the id as a parameter: proxies change what they find in a path

    def create(self, *, keep: Literal["none", "thumbnail", "image"] | None = None) -> CollectionStats:
        """Create the collection, or find it; `keep` says what of the pictures is kept."""
        return self._connection.ask("PUT", self._path, CollectionStats, json={"keep": keep} if keep else {})

    def stats(self) -> CollectionStats:
        """Return what the service says of the collection."""
        return self._connection.ask("GET", self._path, CollectionStats)

    def drop(self) -> None:
        """Delete the collection and all its points."""
        self._connection.send("DELETE", self._path)

    def put(
        self,
        point_id: str,
        *,
        image: ImageLike | None = None,
        vector: Vector | None = None,
        label: str | None = None,
        payload: Mapping[str, Any] | None = None,
        replace: bool = False,
    ) -> PutOutcome:
        """Store one point from an image or a ready vector; when this returns, it is on the service's disk.

        Raises:
            Conflict: the id is there with other content and `replace` is false.
        """
        point: dict[str, Any] = {"id": point_id, "label": label, "payload": payload}
        point = {key: value for key, value in point.items() if value is not None}
        if vector is not None:
            outcomes = self.put_many([{**point, "vector": vector}], replace=replace)
            return outcomes[0]
        params = {"id": point_id, "replace": str(replace).lower()}
        params |= {"label": label} if label is not None else {}
        params |= {"payload": json.dumps(payload)} if payload is not None else {}
        part = image_part(_given(image))
        return self._connection.ask("PUT", self._point, PutOutcome, params=params, **part)

    def put_many(self, points: Sequence[Mapping[str, Any]], *, replace: bool = False) -> list[PutOutcome]:
        """Store many points; images go in several requests where they are many.

        Args:
            points: mappings with `id`, either `vector` or `image` in all of them, and optionally `label` and `payload`.
            replace: let content that differs replace what is stored.

        Returns:
            One outcome a point, in order; images are refused one by one.

        Raises:
            RequestRefused: an invalid vector refuses all.
        """
        path = f"{self._path}/points"
        if all("vector" in point for point in points):
            body = {"points": [{**point, "vector": _floats(point["vector"])} for point in points], "replace": replace}
            return self._connection.ask_list("PUT", path, PutOutcome, json=body)
        outcomes = []
        for _, chunk in in_chunks(points):
            described = [{key: value for key, value in point.items() if key != "image"} for point in chunk]
            text = json.dumps({"points": described, "replace": replace})
            files: list[tuple[str, Any]] = [("points", (None, text, "application/json"))]
            files += [("files", (str(i), image_bytes(_given(point.get("image"))))) for i, point in enumerate(chunk)]
            outcomes += self._connection.ask_list("PUT", path, PutOutcome, files=files)
        return outcomes

    def get(self, point_id: str, *, with_vector: bool = False) -> Point:
        """Return one point."""
        params = {"id": point_id, "with_vector": str(with_vector).lower()}
        return self._connection.ask("GET", self._point, Point, params=params)

    def thumbnail(self, point_id: str) -> bytes:
        """Return the kept picture of a point, as JPEG."""
        return self._connection.send("GET", f"{self._point}/thumbnail", params={"id": point_id}).content

    def delete(self, ids: Sequence[str] | None = None, *, where: Filter | None = None) -> int:
        """Delete points by their ids or by a filter; returns how many were there. `drop` deletes all."""
        if (ids is None) == (where is None):
            raise ValueError("give either ids or where, a filter")
        if where is not None and not any(where.values()):
            raise ValueError("the filter has no condition and would delete every point; drop() does that")
        body = {"filter": dict(where)} if where is not None else {"ids": list(ids or [])}
        return self._connection.ask("POST", f"{self._path}/points/delete", Deleted, json=body).deleted

    def count(self, where: Filter | None = None) -> int:
        """Count the points, all or those of a filter."""
        body = _present(filter=where)
        return self._connection.ask("POST", f"{self._path}/points/count", Counted, json=body).count

    def scroll(self, where: Filter | None = None, *, with_vector: bool = False) -> Iterator[Point]:
        """Yield every point in a stable order, a page a request."""
        cursor: str | None = None
        while True:
            body = _present(limit=PAGE, cursor=cursor, filter=where, with_vector=with_vector)
            page = self._connection.ask("POST", f"{self._path}/points/scroll", Page, json=body)
            yield from page.result
            if (cursor := page.next_cursor) is None:
                return

    def query(
        self,
        *,
        image: ImageLike | None = None,
        vector: Vector | None = None,
        id: str | None = None,  # noqa: A002 - the field's name in the API
        limit: int = 10,
        where: Filter | None = None,
        score_threshold: float | None = None,
        with_vector: bool = False,
        exact: bool = False,
    ) -> list[Hit]:
        """Return the most similar points, best first, for an image, a vector or a stored point (which is left out)."""
        options = _present(
            limit=limit, filter=where, score_threshold=score_threshold, with_vector=with_vector, exact=exact
        )
        return self._connection.ask_list("POST", f"{self._path}/query", Hit, **_target(image, vector, id, options))

    def classify(
        self,
        *,
        image: ImageLike | None = None,
        vector: Vector | None = None,
        id: str | None = None,  # noqa: A002
        k: int = 20,
        reject_below: float | None = None,
        **vote: Unpack[VoteOptions],
    ) -> Classification:
        """Let the `k` nearest labelled points vote; below the probability `reject_below` there is no label."""
        options = _present(k=k, reject_below=reject_below, **_spelled(vote))
        request = _target(image, vector, id, options)
        return self._connection.ask("POST", f"{self._path}/classify", Classification, **request)

    def evaluate(self, ks: Sequence[int] = (1, 5, 10, 20, 50, 100, 200), **vote: Unpack[VoteOptions]) -> Evaluation:
        """Classify every labelled point by the others, for several k; wait for it and return the figures."""
        return self._job("classify/evaluate", {"ks": list(ks), **_spelled(vote)}, Evaluation)

    def label_issues(self, k: int = 20, *, limit: int = 100, **vote: Unpack[VoteOptions]) -> LabelIssues:
        """Find labelled points whose neighbours vote for another label; wait for it and return the most suspicious."""
        return self._job("label-issues", {"k": k, "limit": limit, **_spelled(vote)}, LabelIssues)

    def cluster(
        self,
        k: int | Literal["auto"] | None = None,
        *,
        method: Literal["kmeans", "hdbscan"] = "kmeans",
        seed: int = 0,
        min_size: int | None = None,
    ) -> str:
        """Cluster the points, wait for it, and return the clustering's id.

        Args:
            k: clusters of k-means; left out, as many as a sweep recommends. HDBSCAN finds the number itself.
            method: spherical k-means, or HDBSCAN, which leaves noise between clusters of `min_size` points and more.
            seed: the same seed gives the same clusters of the same points.
            min_size: for HDBSCAN only; None leaves it to the service.
        """
        body = _present(method=method, k=k, seed=seed, min_size=min_size)
        if method == "kmeans":
            body.setdefault("k", "auto")
        return self._job("clusterings", body, Clustered).clustering

    def duplicates(
        self,
        threshold: float = 0.95,
        *,
        across: tuple[str | float, str | float] | None = None,
        key: str = "label",
        limit: int = 100,
        exact: bool = False,
    ) -> Duplicates:
        """Return groups of points whose cosine is `threshold` or more; `across` confines pairs to two values of `key`."""
        body = _present(threshold=threshold, key=key, limit=limit, exact=exact)
        body |= {"across": list(across)} if across is not None else {}
        return self._job("duplicates", body, Duplicates)

    def outliers(self, *, k: int = 10, limit: int = 100, exact: bool = False) -> list[Outlier]:
        """Return the points farthest from their `k` nearest neighbours, farthest first."""
        return self._job("outliers", {"k": k, "limit": limit, "exact": exact}, Outliers).result

    def clusterings(self) -> list[dict[str, Any]]:
        """List the clusterings that were made."""
        return self._connection.ask("GET", f"{self._path}/clusterings", Clusterings).result

    def clusters(self, clustering: str) -> list[Cluster]:
        """List the clusters of a clustering, with their sizes, representatives and labels."""
        return self._connection.ask_list("GET", f"{self._clustering(clustering)}/clusters", Cluster)

    def cluster_points(self, clustering: str, cluster: int, *, limit: int = 100) -> list[Point]:
        """Return points of a cluster, the most typical first."""
        path = f"{self._clustering(clustering)}/clusters/{cluster}/points"
        return self._connection.ask("GET", path, Page, params={"limit": limit}).result

    def cluster_outliers(
        self, clustering: str, *, cluster: int | None = None, limit: int = 100
    ) -> list[ClusterOutlier]:
        """Return the points (of one cluster) that fit worst: the noise of HDBSCAN, else the farthest from their centroids."""
        params = _present(cluster=cluster, limit=limit)
        path = f"{self._clustering(clustering)}/outliers"
        return self._connection.ask_list("GET", path, ClusterOutlier, params=params)

    def delete_clustering(self, clustering: str) -> None:
        """Delete a clustering, and nothing of its points."""
        self._connection.send("DELETE", self._clustering(clustering))

    def name_cluster(self, clustering: str, cluster: int, name: str) -> None:
        """Give a cluster a name."""
        self._connection.send("PATCH", f"{self._clustering(clustering)}/clusters/{cluster}", json={"name": name})

    def query_clusters(
        self,
        clustering: str,
        *,
        image: ImageLike | None = None,
        vector: Vector | None = None,
        id: str | None = None,  # noqa: A002
        limit: int = 10,
    ) -> list[ClusterHit]:
        """Return the clusters nearest to an image, a vector or a stored point."""
        request = _target(image, vector, id, {"limit": limit})
        return self._connection.ask_list("POST", f"{self._clustering(clustering)}/query", ClusterHit, **request)

    def _job(self, path: str, body: Mapping[str, Any], result: type[M]) -> M:
        """Start a job, wait for it, and return its result."""
        status, found = self._connection.ask_object(
            "POST", f"{self._path}/{path}", params={"wait_s": JOB_WAIT_S}, json=body
        )
        return read_as(result, self._wait(read_as(Started, found).job) if status == ACCEPTED else found)

    def _wait(self, job_id: str) -> dict[str, Any]:
        while True:
            job = self._connection.ask("GET", f"/v1/jobs/{encode_id(job_id)}", Job)
            if job.state == "done":
                return job.result or {}
            if job.state in ("failed", "cancelled"):
                reason = job.error.detail if job.error else "it was cancelled"
                raise JobFailed(f"the job ended without a result: {reason}.", code=job.state)
            time.sleep(POLL_S)

    def _clustering(self, clustering: str) -> str:
        return f"{self._path}/clusterings/{encode_id(clustering)}"


def _target(
    image: ImageLike | None, vector: Vector | None, point_id: str | None, options: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the arguments of a search request: a raw image with query parameters, or JSON."""
    if (image is not None) + (vector is not None) + (point_id is not None) != 1:
        raise ValueError("give exactly one of image, vector and id")
    if image is not None:
        params = {
            key: json.dumps(value) if isinstance(value, (dict, bool)) else value for key, value in options.items()
        }
        return {"params": params, **image_part(image)}
    chosen: dict[str, Any] = {"id": point_id} if point_id is not None else {"vector": _floats(vector)}
    return {"json": {**chosen, **options}}


def _present(**values: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON values
    return {
        key: dict(value) if isinstance(value, Mapping) else value for key, value in values.items() if value is not None
    }


def _spelled(vote: VoteOptions) -> dict[str, Any]:
    """Return the options of a vote as the API spells them."""
    return {("filter" if name == "where" else name): value for name, value in _present(**vote).items()}


def _floats(vector: object) -> list[float]:
    values = np.asarray(vector, dtype=np.float64).reshape(-1)
    if not np.isfinite(values).all():
        raise ClientError(
            "the vector holds a number that is not finite; JSON cannot carry it, and no collection takes it."
        )
    return [float(value) for value in values]


def _given(image: ImageLike | None) -> ImageLike:
    if image is None:
        raise ValueError("give an image or a vector")
    return image
