"""How well predictions agree with answers, one metric a file.

The metrics of the public data sets all take `predictions`, a string a
question, and `answers`, a list of accepted strings a question.
"""

from keras_visor.datasets.metrics.anls import anls
from keras_visor.datasets.metrics.exact_match import exact_match
from keras_visor.datasets.metrics.exact_match import exact_match_by_family
from keras_visor.datasets.metrics.option_accuracy import option_accuracy
from keras_visor.datasets.metrics.pope_f1 import pope_f1
from keras_visor.datasets.metrics.pope_scores import pope_scores
from keras_visor.datasets.metrics.relaxed_accuracy import relaxed_accuracy
from keras_visor.datasets.metrics.vqa_accuracy import vqa_accuracy

__all__ = [
    "anls",
    "exact_match",
    "exact_match_by_family",
    "option_accuracy",
    "pope_f1",
    "pope_scores",
    "relaxed_accuracy",
    "vqa_accuracy",
]
