"""Pictures with questions and answers to train and test on, and metrics."""

from keras_visor.datasets.metrics import exact_match
from keras_visor.datasets.metrics import exact_match_by_family
from keras_visor.datasets.rendered_pictures import RenderedPictures
from keras_visor.datasets.rendered_pictures import question_families

__all__ = [
    "RenderedPictures",
    "exact_match",
    "exact_match_by_family",
    "question_families",
]
