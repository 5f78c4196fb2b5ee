"""VISOR, vision on request: vision-language models for Keras 3."""

from keras_visor import analysis
from keras_visor import checkpoints
from keras_visor import datasets
from keras_visor import evaluation
from keras_visor import layers
from keras_visor import reduction
from keras_visor import training
from keras_visor.layers.budget_policy import BudgetPolicy
from keras_visor.layers.cross_attention import VisorCrossAttention
from keras_visor.layers.layout import uniform_layout
from keras_visor.layers.self_attention_gate import VisorSelfAttentionGate
from keras_visor.models import visor_presets  # noqa: F401 (registers them)
from keras_visor.models.encoded_images import EncodedImages
from keras_visor.models.visor_backbone import VisorBackbone
from keras_visor.models.visor_causal_lm import VisorCausalLM
from keras_visor.models.visor_causal_lm_preprocessor import (
    VisorCausalLMPreprocessor,
)
from keras_visor.models.visor_image_converter import VisorImageConverter
from keras_visor.models.visor_tokenizer import VisorTokenizer

__version__ = "0.1.0"

__all__ = [
    "BudgetPolicy",
    "EncodedImages",
    "VisorBackbone",
    "VisorCausalLM",
    "VisorCausalLMPreprocessor",
    "VisorCrossAttention",
    "VisorImageConverter",
    "VisorSelfAttentionGate",
    "VisorTokenizer",
    "analysis",
    "checkpoints",
    "datasets",
    "evaluation",
    "layers",
    "reduction",
    "training",
    "uniform_layout",
]
