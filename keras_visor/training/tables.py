"""What the recipe finds, as tables for the terminal."""

from collections.abc import Sequence

from rich.table import Table

from keras_visor.training.routing import Routing
from keras_visor.training.subnetworks import Subnetwork
from keras_visor.training.subnetworks import viable_budgets


def subnetwork_table(
    subnetworks: Sequence[Subnetwork], min_gain: float = 0.0
) -> Table:
    """Score against FLOPs of the subsets tried, the viable ones marked.

    Args:
        subnetworks: sequence of `Subnetwork`, see `search_subnetworks`.
        min_gain: float. See `viable_budgets`.
    """
    viable = viable_budgets(subnetworks, min_gain)
    table = Table("self-attention layers on", title="Sub-networks")
    for name in ("FLOPs", "score"):
        table.add_column(name, justify="right")
    table.add_column("viable")
    for one in sorted(subnetworks, key=lambda s: (s.flops, -s.score)):
        table.add_row(
            _numbers(one.layers),
            f"{one.flops:.3g}",
            f"{one.score:.1%}",
            "yes" if list(one.layers) in viable else "",
        )
    return table


def label_table(
    frequencies: dict[str, list[int]], budgets: Sequence[Sequence[int]]
) -> Table:
    """How often each budget is the label, by group.

    Args:
        frequencies: dict, see `label_frequencies`.
        budgets: list of lists of int.
    """
    table = Table("group", title="Labels: the cheapest budget that is right")
    for budget in budgets:
        table.add_column(_numbers(budget), justify="right")
    for group, counts in frequencies.items():
        total = sum(counts)
        table.add_row(group, *(f"{count / total:.1%}" for count in counts))
    return table


def routing_table(routings: Sequence[Routing]) -> Table:
    """Score and cost of a policy's choices, by group.

    Args:
        routings: sequence of `Routing`, see `evaluate_routing`.
    """
    table = Table("group", title="Routing")
    for name in ("samples", "score", "full", "minimal", "FLOPs", "layers on"):
        table.add_column(name, justify="right")
    for one in routings:
        table.add_row(
            f"{one.group} (held out)" if one.held_out else one.group,
            f"{one.count:,}",
            f"{one.score:.1%}",
            f"{one.full_score:.1%}",
            f"{one.minimal_score:.1%}",
            f"{one.flops / one.full_flops:.1%}",
            f"{one.layers_on:.2f}",
        )
    return table


def _numbers(layers):
    return ", ".join(map(str, layers)) or "none"
