"""Which decoder layers look at the image: the layout of a VISOR."""

from collections.abc import Sequence


def uniform_layout(num_layers: int) -> dict[str, list]:
    """The default layout: roles spread uniformly, a third of the layers each.

    Follows section "The architecture" of VISOR (arXiv 2603.23495): the
    cross-attention layers are spread uniformly over the decoder and
    `|L_CA| = |L_SA| = L / 3`. The budgets are nested: none of the
    self-attention layers, the last one, the last two, ..., all.

    Args:
        num_layers: int. The number of decoder layers, at least 2.

    Returns:
        A dict with the keys `cross_attention_layers` (0, 3, 6, ...),
        `self_attention_layers` (1, 4, 7, ...) and `budgets`, which
        `VisorBackbone` and `VisorCausalLM.from_preset` take as keyword
        arguments.

    Example:
    ```python
    keras_visor.uniform_layout(6)
    # {"cross_attention_layers": [0, 3], "self_attention_layers": [1, 4],
    #  "budgets": [[], [4], [1, 4]]}
    ```
    """
    if num_layers < 2:
        raise ValueError(
            "`num_layers` must be at least 2, one layer for cross-attention "
            f"and one for self-attention. Received: num_layers={num_layers}"
        )
    self_attention = list(range(1, num_layers, 3))
    return {
        "cross_attention_layers": list(range(0, num_layers, 3)),
        "self_attention_layers": self_attention,
        "budgets": _nested_budgets(self_attention),
    }


def complete_layout(
    num_layers: int,
    cross_attention_layers: Sequence[int] | None = None,
    self_attention_layers: Sequence[int] | None = None,
    budgets: Sequence[Sequence[int]] | None = None,
) -> dict[str, list]:
    """A layout with its defaults filled in, its indices not checked.

    Without layers it is the dense self of LLaVA-OneVision: every layer is a
    self-attention layer, and there is one budget. Where only one kind of
    layers is given, there are none of the other. The default budgets are then
    nested, as in `uniform_layout`.

    Returns:
        A dict with the keys of `uniform_layout`.
    """
    dense = cross_attention_layers is None and self_attention_layers is None
    if dense:
        self_attention_layers = range(num_layers)
    cross_attention, self_attention = (
        [] if layers is None else _listed(name, layers)
        for name, layers in (
            ("cross_attention_layers", cross_attention_layers),
            ("self_attention_layers", self_attention_layers),
        )
    )
    if budgets is None:
        budgets = [self_attention] if dense else _nested_budgets(self_attention)
    return {
        "cross_attention_layers": cross_attention,
        "self_attention_layers": self_attention,
        "budgets": [
            _listed("budgets", budget) for budget in _listed("budgets", budgets)
        ],
    }


def check_layout(
    num_layers: int,
    cross_attention_layers: Sequence[int],
    self_attention_layers: Sequence[int],
    budgets: Sequence[Sequence[int]],
) -> None:
    """Raise a `ValueError` that names what is wrong with a layout.

    Layer lists must be ascending, within `range(num_layers)` and disjoint;
    every budget must be an ascending subset of `self_attention_layers`, no
    two alike, from the cheapest (fewest layers) to the dearest.
    """
    _check_layers("cross_attention_layers", cross_attention_layers, num_layers)
    _check_layers("self_attention_layers", self_attention_layers, num_layers)
    both = set(cross_attention_layers) & set(self_attention_layers)
    if both:
        raise ValueError(
            "`cross_attention_layers` and `self_attention_layers` must be "
            f"disjoint: a layer has one role. Received both: {sorted(both)}"
        )
    if not budgets:
        raise ValueError(
            "`budgets` must hold at least one list of self-attention layers. "
            f"Received: budgets={budgets}"
        )
    for budget in budgets:
        _check_layers("budgets", budget, num_layers)
        foreign = set(budget) - set(self_attention_layers)
        if foreign:
            raise ValueError(
                "Every list in `budgets` must be a subset of "
                f"self_attention_layers={list(self_attention_layers)}. "
                f"Received: {list(budget)}, where {sorted(foreign)} is not."
            )
    sizes = [len(budget) for budget in budgets]
    if sizes != sorted(sizes):
        raise ValueError(
            "`budgets` must go from the cheapest to the dearest, by their "
            f"number of layers. Received: budgets={budgets}"
        )
    if len({tuple(budget) for budget in budgets}) < len(budgets):
        raise ValueError(f"`budgets` must differ. Received: budgets={budgets}")


def _nested_budgets(layers: list[int]) -> list[list[int]]:
    """None of the layers, the last one, the last two, ..., all."""
    return [layers[start:] for start in range(len(layers), -1, -1)]


def _listed(name: str, layers) -> list:
    try:
        return list(layers)
    except TypeError:
        kind = "lists" if name == "budgets" else "a list"
        raise ValueError(
            f"`{name}` must hold {kind} of layer indices. Received: {layers!r}"
        ) from None


def _check_layers(name: str, layers: Sequence[int], num_layers: int) -> None:
    outside = [
        layer
        for layer in layers
        if not isinstance(layer, int)
        or isinstance(layer, bool)
        or not 0 <= layer < num_layers
    ]
    if outside:
        raise ValueError(
            f"`{name}` must hold layer indices from 0 to {num_layers - 1}. "
            f"Received: {outside}"
        )
    if list(layers) != sorted(set(layers)):
        raise ValueError(
            f"`{name}` must be ascending, each layer once. "
            f"Received: {list(layers)}"
        )
