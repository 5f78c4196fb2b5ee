"""Fewer visual tokens: VISOR-TR, and what it is measured against."""

from keras_visor.reduction.average_pooling import AveragePooling
from keras_visor.reduction.fast_v import FastV
from keras_visor.reduction.hired import HiRED
from keras_visor.reduction.names import reducer_from_text
from keras_visor.reduction.pyramid_drop import PyramidDrop
from keras_visor.reduction.random_choice import RandomChoice
from keras_visor.reduction.reducer import Reducer
from keras_visor.reduction.uniform_choice import UniformChoice
from keras_visor.reduction.vis_pruner import VisPruner
from keras_visor.reduction.vision_sources import VisionSources
from keras_visor.reduction.vision_zip import VisionZip

__all__ = [
    "AveragePooling",
    "FastV",
    "HiRED",
    "PyramidDrop",
    "RandomChoice",
    "Reducer",
    "UniformChoice",
    "VisPruner",
    "VisionSources",
    "VisionZip",
    "reducer_from_text",
]
