"""The errors of the service: everything that it refuses, as one tree.

Each class has a stable `code`; `service/http/problems.py` gives it a status.

    ServiceError
    ├── Missing                what was asked for is not there
    │   ├── CollectionMissing      collection_missing
    │   ├── PointMissing           point_missing
    │   ├── ClusteringMissing      clustering_missing
    │   ├── ClusterMissing         cluster_missing
    │   ├── JobMissing             job_missing
    │   ├── KeyMissing             key_missing
    │   └── ModelMissing           model_not_found     OpenAI's word, which its clients know
    ├── Conflict               what is there does not go with what was asked for
    │   ├── CollectionConflict     collection_conflict
    │   ├── FingerprintMismatch    fingerprint_mismatch
    │   ├── PointConflict          point_conflict
    │   ├── OtherSource            other_source        an id whose point came from another file than the one that is indexed
    │   ├── TooManyGone            too_many_gone       more would be pruned than is likely meant
    │   ├── KeyConflict            key_conflict
    │   └── CollectionEmpty        collection_empty
    ├── Invalid                the request itself is at fault
    │   ├── InvalidName            invalid_name
    │   ├── InvalidId              invalid_id
    │   ├── InvalidLabel           invalid_label
    │   ├── InvalidPayload         invalid_payload
    │   ├── InvalidSource          invalid_source
    │   ├── InvalidVector          invalid_vector
    │   ├── DimensionMismatch      dimension_mismatch
    │   ├── DuplicateId            duplicate_id
    │   ├── FilterInvalid          filter_invalid
    │   ├── CursorInvalid          cursor_invalid
    │   └── NoAttention            no_attention        a picture of what a network without attention attends to
    ├── Storage                the disk, not the request
    │   ├── StorageFull            storage_full
    │   ├── StorageFailed          storage_failed
    │   └── SourceUnreachable      source_unreachable  files of a folder that is indexed cannot be looked for
    ├── LibraryInvalid             library_invalid     the data directory does not hold a library this version can read
    ├── JobCancelled               job_cancelled       raised inside a job's work when its owner has cancelled it
    ├── Unreadable             what came over HTTP cannot be read as a request
    │   ├── MalformedRequest       malformed_request
    │   ├── Unauthorized           unauthorized
    │   ├── ScopeMissing           scope_missing       a key that may read, for a request that would write
    │   ├── TooManyItems           too_many_items
    │   ├── UnsupportedBody        unsupported_body
    │   │   └── UnsupportedContentCoding   unsupported_content_coding
    │   └── ItemsRefused           items_refused       an answer that is all or nothing, and some items were refused
    ├── Unavailable            not now; the same request may succeed later
    │   ├── Saturated              saturated
    │   ├── TooManyRequests        too_many_requests   of one caller
    │   ├── DeadlinePassed         deadline_passed
    │   ├── EmbedderRestarted      embedder_restarted
    │   ├── CallerLeft             caller_left         nobody waits for the answer any more
    │   ├── DecoderUnavailable     decoder_unavailable
    │   └── Stopping               stopping
    ├── Inference              the network, not the image
    │   ├── InferenceFailed        inference_failed
    │   └── EmbeddingNotFinite     embedding_not_finite
    ├── KeysInvalid                keys_invalid        the file of keys is damaged
    └── CannotStart            the service refuses to start
        ├── SettingsInvalid        settings_invalid
        └── PortInUse              port_in_use

A message is one sentence for a person: what is wrong and what to do.
"""

from collections.abc import Sequence
from typing import ClassVar


class ServiceError(Exception):
    """A refusal with a stable machine-readable `code`."""

    code: ClassVar[str] = "service_error"


class Missing(ServiceError):
    """The thing that was asked for is not there."""

    code = "missing"


class CollectionMissing(Missing):
    """No collection has this name."""

    code = "collection_missing"


class PointMissing(Missing):
    """No point of the collection has this id."""

    code = "point_missing"


class ClusteringMissing(Missing):
    """The collection has no clustering with this id."""

    code = "clustering_missing"


class ClusterMissing(Missing):
    """The clustering has no cluster with this number."""

    code = "cluster_missing"


class JobMissing(Missing):
    """No job has this id."""

    code = "job_missing"


class KeyMissing(Missing):
    """No key has this name."""

    code = "key_missing"


class ModelMissing(Missing):
    """No loaded model has this name."""

    code = "model_not_found"


class Conflict(ServiceError):
    """The request does not go with what is there."""

    code = "conflict"


class CollectionConflict(Conflict):
    """The collection exists with other settings."""

    code = "collection_conflict"


class FingerprintMismatch(Conflict):
    """The collection holds the vectors of another model."""

    code = "fingerprint_mismatch"


class PointConflict(Conflict):
    """The id exists with other content, and replacing it was not asked for."""

    code = "point_conflict"


class OtherSource(Conflict):
    """The id belongs to a point that came from another file, or from none, and replacing that was not asked for."""

    code = "other_source"


class TooManyGone(Conflict):
    """More points would be pruned than is likely meant."""

    code = "too_many_gone"


class KeyConflict(Conflict):
    """A key has this name already."""

    code = "key_conflict"


class CollectionEmpty(Conflict):
    """There is no point (for classification: no labelled point) to answer from."""

    code = "collection_empty"


class Invalid(ServiceError):
    """The request itself is at fault."""

    code = "invalid"


class InvalidName(Invalid):
    """A collection name outside the rule of `points.check_collection_name`."""

    code = "invalid_name"


class InvalidId(Invalid):
    """A point id outside the rule of `points.check_id`."""

    code = "invalid_id"


class InvalidLabel(Invalid):
    """A label outside the rule of `points.check_label`."""

    code = "invalid_label"


class InvalidPayload(Invalid):
    """A payload that is not a JSON object within the limits of `payloads.encode_payload`."""

    code = "invalid_payload"


class InvalidSource(Invalid):
    """A source path that cannot be kept as text."""

    code = "invalid_source"


class InvalidVector(Invalid):
    """A vector with NaN or Inf, of length zero, or that is no list of numbers."""

    code = "invalid_vector"


class DimensionMismatch(Invalid):
    """A vector of another dimension than the collection's."""

    code = "dimension_mismatch"


class DuplicateId(Invalid):
    """The same id twice in one request."""

    code = "duplicate_id"


class FilterInvalid(Invalid):
    """A filter that is not in the filter language."""

    code = "filter_invalid"


class CursorInvalid(Invalid):
    """A cursor that was not given out for this listing."""

    code = "cursor_invalid"


class NoAttention(Invalid):
    """A picture of attention is asked for, and the network is one without."""

    code = "no_attention"


class Storage(ServiceError):
    """The disk, not the request, is at fault."""

    code = "storage"


class StorageFull(Storage):
    """No space is left; nothing of the request was stored. Writing works again once there is space."""

    code = "storage_full"


class StorageFailed(Storage):
    """The disk failed or the library is closed. After a failed write the library only answers reads until a restart."""

    code = "storage_failed"


class SourceUnreachable(Storage):
    """Files of a folder that is indexed cannot be looked for, so it is not known whether they are gone."""

    code = "source_unreachable"


class LibraryInvalid(ServiceError):
    """The data directory does not hold a library that this version can read."""

    code = "library_invalid"


class JobCancelled(ServiceError):
    """Raised inside a job's work, by its progress call, when the job has been cancelled."""

    code = "job_cancelled"


class Unreadable(ServiceError):
    """The bytes that came over HTTP cannot be read as a request."""

    code = "unreadable"


class MalformedRequest(Unreadable):
    """A body or URL that breaks its own format: JSON, base64 text, npy, multipart, percent-encoding."""

    code = "malformed_request"


class Unauthorized(Unreadable):
    """No key, or not the right one."""

    code = "unauthorized"


class ScopeMissing(Unreadable):
    """The key may read, and the request would change something."""

    code = "scope_missing"


class TooManyItems(Unreadable):
    """More items in one request than the settings allow."""

    code = "too_many_items"


class UnsupportedBody(Unreadable):
    """A content type that this route does not take."""

    code = "unsupported_body"


class UnsupportedContentCoding(UnsupportedBody):
    """A content coding other than gzip, or several."""

    code = "unsupported_content_coding"


class ItemsRefused(Unreadable):
    """An answer that is all or nothing was asked for, and some items were refused; `errors` holds (index, error)."""

    code = "items_refused"

    def __init__(self, message: str, errors: Sequence[tuple[int, Exception]]) -> None:
        super().__init__(message)
        self.errors = tuple(errors)


class Unavailable(ServiceError):
    """Not now; the same request may succeed later."""

    code = "unavailable"


class Saturated(Unavailable):
    """The queue is full; nothing of the request was begun."""

    code = "saturated"


class TooManyRequests(Unavailable):
    """One key asks more often than it may."""

    code = "too_many_requests"

    def __init__(self, message: str, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class DeadlinePassed(Unavailable):
    """It waited, or was worked on, for longer than a request may take."""

    code = "deadline_passed"


class EmbedderRestarted(Unavailable):
    """The thread that computes was started anew while it was at this image."""

    code = "embedder_restarted"


class CallerLeft(Unavailable):
    """The caller hung up; its work was given up."""

    code = "caller_left"


class DecoderUnavailable(Unavailable):
    """The system has no process, or no descriptor, for a decoder now, or the one that it gave ended at its start."""

    code = "decoder_unavailable"


class Stopping(Unavailable):
    """The service shuts down, or its worker is gone."""

    code = "stopping"

    def __init__(self, message: str = "the service is stopping; send the request to another one.") -> None:
        super().__init__(message)


class Inference(ServiceError):
    """The network, not the image, is at fault."""

    code = "inference"


class InferenceFailed(Inference):
    """The forward pass failed on this image, alone as well."""

    code = "inference_failed"


class EmbeddingNotFinite(Inference):
    """The network gave NaN, Inf or a vector of length zero."""

    code = "embedding_not_finite"


class KeysInvalid(ServiceError):
    """The file of keys is damaged, or of another version."""

    code = "keys_invalid"


class CannotStart(ServiceError):
    """The service refuses to start."""

    code = "cannot_start"


class SettingsInvalid(CannotStart):
    """A setting is missing or out of its range, or the settings together are not safe."""

    code = "settings_invalid"


class PortInUse(CannotStart):
    """Another program listens on the address."""

    code = "port_in_use"
