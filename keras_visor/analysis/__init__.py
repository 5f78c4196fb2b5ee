"""What a VISOR costs and where it looks."""

from keras_visor.analysis.answer_picture import attention_maps
from keras_visor.analysis.answer_picture import draw_answer
from keras_visor.analysis.answer_picture import layer_roles
from keras_visor.analysis.flops import count_flops
from keras_visor.analysis.kept_tokens import draw_kept_tokens
from keras_visor.analysis.kept_tokens import kept_maps

__all__ = [
    "attention_maps",
    "count_flops",
    "draw_answer",
    "draw_kept_tokens",
    "kept_maps",
    "layer_roles",
]
