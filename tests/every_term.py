"""Settings that give every term of the image–text models a weight."""

ENTAILMENT = {
    "weight": 0.2,
    "minimum_radius": 0.1,
    "across_aperture": 0.7,
    "within_aperture": 1.2,
    "slope": 0.1,
    "calibration": 10.0,
}
EVERY_TERM = {
    "contrastive": {"weight": 1.0, "positives": "class"},
    "entailment": ENTAILMENT,
    "word_grounding": {"weight": 1.0, "exclude_class": True},
    "word_contrast": {"weight": 0.5, "scope": "caption", "exclude_class": True},
    "patch_agreement": {"weight": 0.5},
    "part_entailment": {"weight": 0.5},
    "late_interaction": {"weight": 0.5},
    "caption_hierarchy": {"weight": 0.5, "pooling": "query", "order": "image_below_query", "parents": "shuffled"},
    "semantic_margin": {"weight": 0.5, "margin": 0.2, "margin_source": "intra", "soft_label": 0.4},
    "reverse_contrastive": {"weight": 0.5, "smoothing": 0.01},
    "cyclic": {"weight": 0.1, "within": 10.0, "across": 1.0},
}
