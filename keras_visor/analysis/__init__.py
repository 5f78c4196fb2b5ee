"""What a VISOR costs and where it looks."""

from keras_visor.analysis.answer_picture import attention_maps
from keras_visor.analysis.answer_picture import draw_answer
from keras_visor.analysis.answer_picture import layer_roles
from keras_visor.analysis.flops import count_flops

__all__ = ["attention_maps", "count_flops", "draw_answer", "layer_roles"]
