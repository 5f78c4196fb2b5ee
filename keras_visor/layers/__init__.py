from keras_visor.layers.budget_policy import BudgetPolicy
from keras_visor.layers.cross_attention import VisorCrossAttention
from keras_visor.layers.decoder_layer import VisorDecoderLayer
from keras_visor.layers.layout import uniform_layout
from keras_visor.layers.self_attention_gate import VisorSelfAttentionGate

__all__ = [
    "BudgetPolicy",
    "VisorCrossAttention",
    "VisorDecoderLayer",
    "VisorSelfAttentionGate",
    "uniform_layout",
]
