"""Pictures with questions and answers to train and test on, and metrics."""

from keras_visor.datasets.metrics import anls
from keras_visor.datasets.metrics import exact_match
from keras_visor.datasets.metrics import exact_match_by_family
from keras_visor.datasets.metrics import option_accuracy
from keras_visor.datasets.metrics import pope_f1
from keras_visor.datasets.metrics import pope_scores
from keras_visor.datasets.metrics import relaxed_accuracy
from keras_visor.datasets.metrics import vqa_accuracy
from keras_visor.datasets.public_dataset import PublicDataset
from keras_visor.datasets.public_dataset import public_datasets
from keras_visor.datasets.rendered_pictures import RenderedPictures
from keras_visor.datasets.rendered_pictures import question_families

__all__ = [
    "PublicDataset",
    "RenderedPictures",
    "anls",
    "exact_match",
    "exact_match_by_family",
    "option_accuracy",
    "pope_f1",
    "pope_scores",
    "public_datasets",
    "question_families",
    "relaxed_accuracy",
    "vqa_accuracy",
]
