"""The recipe of VISOR: stages, sub-networks, universal training, policy."""

from keras_visor.training.budget_sampling import budget_shares
from keras_visor.training.budget_sampling import sample_budgets
from keras_visor.training.budget_scores import BudgetScores
from keras_visor.training.budget_scores import score_budgets
from keras_visor.training.freezing import adamw
from keras_visor.training.freezing import freeze_base
from keras_visor.training.freezing import train_only
from keras_visor.training.freezing import unfreeze
from keras_visor.training.policy import train_policy
from keras_visor.training.pseudo_labels import label_frequencies
from keras_visor.training.pseudo_labels import pseudo_labels
from keras_visor.training.rebuild import set_policy_rule
from keras_visor.training.rebuild import with_budgets
from keras_visor.training.rebuild import with_layout
from keras_visor.training.rebuild import with_policy
from keras_visor.training.resumable_fit import fit
from keras_visor.training.routing import Routing
from keras_visor.training.routing import calibrate_tolerance
from keras_visor.training.routing import choose_budgets
from keras_visor.training.routing import evaluate_routing
from keras_visor.training.routing import routing_logits
from keras_visor.training.subnetworks import Subnetwork
from keras_visor.training.subnetworks import search_subnetworks
from keras_visor.training.subnetworks import viable_budgets
from keras_visor.training.tables import label_table
from keras_visor.training.tables import routing_table
from keras_visor.training.tables import subnetwork_table

__all__ = [
    "BudgetScores",
    "Routing",
    "Subnetwork",
    "adamw",
    "budget_shares",
    "calibrate_tolerance",
    "choose_budgets",
    "evaluate_routing",
    "fit",
    "freeze_base",
    "label_frequencies",
    "label_table",
    "pseudo_labels",
    "routing_logits",
    "routing_table",
    "sample_budgets",
    "score_budgets",
    "search_subnetworks",
    "set_policy_rule",
    "subnetwork_table",
    "train_only",
    "train_policy",
    "unfreeze",
    "viable_budgets",
    "with_budgets",
    "with_layout",
    "with_policy",
]
