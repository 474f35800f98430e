"""Listing of images: which files a folder or a list names, with which labels, and what was left out.

Training, evaluation and the index job ask here and get the same answer; no file's content is looked at.
"""

from backbone.listing.image_list import ImageList, ListedImage, list_images

__all__ = ["ImageList", "ListedImage", "list_images"]
