"""What the prefill of the language model costs."""

import operator

from keras_visor.models.visor_backbone import VisorBackbone
from keras_visor.reduction.reducer import Reducer


def count_flops(
    backbone: VisorBackbone,
    text_length: int,
    vision_length: int,
    budget: int | None = None,
    reducer: Reducer | None = None,
) -> int:
    """Count the FLOPs of the language model's prefill, for one sample.

    A multiply-add is 2 FLOPs. With N tokens, width d, key/value width g and
    feed-forward width f, a decoder layer's matrices cost
    `2 N (2 d^2 + 2 d g + 3 d f)` and its attention, counted in full,
    `4 d N^2`. A self-attention layer that is on runs over text and visual
    tokens, any other layer over the text alone. A cross-attention adds its
    query and output projections over the text, its key and value projections
    and its convolution over the visual tokens, and the attention between the
    two. Not counted: encoder, projector, embedding and head; norms,
    activations, softmax and routing. Follows the FLOPs of VISOR (arXiv
    2603.23495), which are of the language model alone.

    Args:
        backbone: `VisorBackbone`.
        text_length: int. The number of text tokens, without padding.
        vision_length: int. The number of visual tokens, without padding. With
            0 there is nothing to look at and no cross-attention runs.
        budget: int. An index into `backbone.budgets`. Defaults to `None`: the
            dense base model, each of whose layers runs over all tokens and
            which has no cross-attention.
        reducer: `keras_visor.reduction.Reducer`. Each layer counts the visual
            tokens that it leaves there: `ceil(rate * n)` of n, which is the
            most that average pooling can leave. Its own work is not counted.
            Defaults to `None`.

    Returns:
        int. The number of FLOPs.

    Raises:
        TypeError: A length or the budget is no integer, or the reducer is none.
        ValueError: A length is negative, or there is no such budget, or no
            such layer as the reducer acts after.

    Example:
    ```python
    backbone = keras_visor.VisorBackbone.from_preset("visor_tiny_en")
    dense = keras_visor.analysis.count_flops(backbone, 24, 192)
    cheapest = keras_visor.analysis.count_flops(backbone, 24, 192, budget=0)
    dense / cheapest
    ```
    """
    text_length = _length("text_length", text_length)
    vision_length = _length("vision_length", vision_length)
    num_layers = backbone.num_layers
    if budget is None:
        joint, cross = range(num_layers), ()
    else:
        joint = _layers_on(backbone, budget)
        cross = backbone.cross_attention_layers
    lengths = [vision_length] * num_layers
    if reducer is not None:
        _check_reducer(reducer, num_layers)
        lengths = reducer.vision_length_before(vision_length, num_layers)
    flops = 0
    for layer, length in enumerate(lengths):
        joint_length = text_length + (length if layer in joint else 0)
        flops += _decoder_layer(backbone, joint_length)
        if layer in cross and length > 0:
            flops += _cross_attention(backbone, text_length, length)
    return flops


def _decoder_layer(backbone, length):
    width = backbone.hidden_dim
    key_value_width = (
        width // backbone.num_query_heads * backbone.num_key_value_heads
    )
    query_and_output = 2 * width * width
    key_and_value = 2 * width * key_value_width
    feed_forward = 3 * width * backbone.intermediate_dim
    attention = 4 * width * length**2
    return (
        2 * length * (query_and_output + key_and_value + feed_forward)
        + attention
    )


def _cross_attention(backbone, text_length, vision_length):
    width = backbone.hidden_dim
    key_value_width = (
        width
        // backbone.cross_attention_num_heads
        * backbone.cross_attention_num_key_value_heads
    )
    query_and_output = 2 * text_length * (2 * width * width)
    key_and_value = 2 * vision_length * (2 * width * key_value_width)
    attention = 4 * text_length * vision_length * width
    convolution = 2 * vision_length * width * backbone.position_kernel_size
    return query_and_output + key_and_value + attention + convolution


def _length(name, value):
    value = _integer(name, value)
    if value < 0:
        raise ValueError(f"`{name}` must be 0 or more. Received: {value}")
    return value


def _layers_on(backbone, budget):
    last = len(backbone.budgets) - 1
    budget = _integer("budget", budget)
    if not 0 <= budget <= last:
        raise ValueError(
            f"`budget` must be an index from 0 to {last}, or None for the "
            f"dense base model. Received: {budget}"
        )
    return backbone.budgets[budget]


def _check_reducer(reducer, num_layers):
    # Not `backbone.check_reducer`: the dense model looks at any layer.
    if not isinstance(reducer, Reducer):
        raise TypeError(
            "`reducer` must be one of `keras_visor.reduction` or None. "
            f"Received: reducer={reducer!r}"
        )
    unknown = sorted(
        set(reducer.rates_after(num_layers)) - set(range(num_layers))
    )
    if unknown:
        raise ValueError(
            "`reducer` must leave tokens out after decoder layers from 0 to "
            f"{num_layers - 1}. Received: reducer={reducer}, which does so "
            f"after {unknown}"
        )


def _integer(name, value):
    try:
        if isinstance(value, bool):
            raise TypeError
        # NumPy's integers would overflow.
        return operator.index(value)
    except TypeError as error:
        raise TypeError(
            f"`{name}` must be an integer. Received: {value!r} of type "
            f"{type(value)}"
        ) from error
