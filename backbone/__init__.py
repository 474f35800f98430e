"""The backbone: pixels in, one unit vector out, and its artifact. Importing this package loads neither torch nor a web server."""

from backbone.architecture import Architecture, named
from backbone.artifact import Artifact, load_artifact
from backbone.decode import DecodeLimits, decode
from backbone.factory import build
from backbone.listing import ImageList, ListedImage, list_images
from backbone.preprocess import Preprocess
from backbone.vote import knn_accuracy, nearest, vote

__all__ = [
    "Architecture",
    "Artifact",
    "DecodeLimits",
    "ImageList",
    "ListedImage",
    "Preprocess",
    "build",
    "decode",
    "knn_accuracy",
    "list_images",
    "load_artifact",
    "named",
    "nearest",
    "vote",
]
