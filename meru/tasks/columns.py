"""The columns of a comparison of runs, by title, for each kind of figures.

A run belongs to the first kind of which it has a figure. Importing this file does not import PyTorch.
"""

from __future__ import annotations

IMAGE_TEXT = {
    "text→image class R@1": "text_to_image/class/recall@1",
    "text→image image R@10": "text_to_image/image/recall@10",
    "image→text class R@1": "image_to_text/class/recall@1",
    "zero-shot top-1": "zero_shot/accuracy@1",
    "class by captions top-1": "class_captions/accuracy@1",
    "pointing": "pointing/accuracy@1",
    "pointing, mean of parts": "pointing/mean_of_parts/accuracy@1",
    "box centre": "box_centre/accuracy@1",
    "box centre, mean of parts": "box_centre/mean_of_parts/accuracy@1",
}
PERSONS = {
    "text→image R@1": "text_to_image/identity/recall@1",
    "text→image R@5": "text_to_image/identity/recall@5",
    "text→image R@10": "text_to_image/identity/recall@10",
    "text→image mAP": "text_to_image/identity/mean_average_precision",
    "image→text R@1": "image_to_text/identity/recall@1",
}
DISCOVERY = {
    "All": "discovery/all/accuracy",
    "Old": "discovery/old/accuracy",
    "New": "discovery/new/accuracy",
    "k-means All": "kmeans/all/accuracy",
    "k-means Old": "kmeans/old/accuracy",
    "k-means New": "kmeans/new/accuracy",
    "test All": "inductive/all/accuracy",
    "test Old": "inductive/old/accuracy",
    "test New": "inductive/new/accuracy",
    "tree purity": "tree/dendrogram_purity",
    "feature tree purity": "feature_tree/dendrogram_purity",
}
# R@1 of text-to-image retrieval with corrupted images, averaged over severities, and with shortened captions.
DEGREES = {
    "clean": "clean",
    "all corruptions": "mean",
    "night": "night/mean",
    "fog": "fog/mean",
    "rain": "rain/mean",
    "snow": "snow/mean",
    "motion blur": "motion_blur/mean",
    "defocus blur": "defocus_blur/mean",
    "JPEG": "jpeg/mean",
    "resolution": "resolution/mean",
    "occlusion": "occlusion/mean",
    "camera's colour": "camera_colour/mean",
    "viewpoint": "viewpoint/mean",
    "half the caption": "caption/0.5",
    "a quarter of it": "caption/0.25",
}
COLUMNS = {
    "image–text": IMAGE_TEXT,
    "persons": PERSONS,
    "discovery": DISCOVERY,
    "robustness": {title: f"{degree}/text_to_image/class/recall@1" for title, degree in DEGREES.items()},
    "robustness on persons": {
        title: f"{degree}/text_to_image/identity/recall@1" for title, degree in DEGREES.items()
    },
}
