"""Muon for the matrices, AdamW for the rest."""

import keras
from keras import ops


class MatrixMuon(keras.optimizers.Muon):
    """Muon for the attention's matrices too, which Keras keeps by head.

    Keras' own takes all variables of rank 2, and those alone. This one takes
    the kernels of dense and of attention layers; AdamW trains the rest, such
    as embeddings, convolutions, biases and norms.
    """

    def _should_use_adamw(self, variable):
        is_matrix = variable.name == "kernel" and len(variable.shape) in (2, 3)
        return not is_matrix

    def _muon_update_step(self, gradient, variable, lr, m):
        # From heads: (heads, head width, width). Else the input comes first.
        from_heads = "output" in variable.path
        rows_and_columns = (
            (-1, variable.shape[-1]) if from_heads else (variable.shape[0], -1)
        )
        self.assign(m, self.momentum * m + gradient)
        update = self.zeropower_via_newtonschulz5(
            ops.reshape(gradient + self.momentum * m, rows_and_columns),
            self.ns_steps,
        )
        update = ops.reshape(self.lr_adjust(update), variable.shape)
        self.assign_sub(variable, lr * update)


@keras.saving.register_keras_serializable(package="visor_tiny")
class WarmUpStayDecay(keras.optimizers.schedules.LearningRateSchedule):
    """Rises in `warm_up` steps, stays, and falls to 0 in the last `decay`.

    Args:
        rate: float. Where it stays.
        steps: int. All steps.
        warm_up: int. Steps of the rise.
        decay: int. Steps of the fall.
    """

    def __init__(self, rate, steps, warm_up, decay):
        self.rate, self.steps = rate, steps
        self.warm_up, self.decay = warm_up, decay

    def __call__(self, step):
        step = ops.cast(step, "float32")
        rise = (step + 1) / self.warm_up
        fall = (self.steps - step) / self.decay
        return self.rate * ops.clip(ops.minimum(rise, fall), 0.0, 1.0)

    def get_config(self):
        return {
            "rate": self.rate,
            "steps": self.steps,
            "warm_up": self.warm_up,
            "decay": self.decay,
        }


def make_optimizer(learning_rate, steps, decay):
    """Muon at `learning_rate`, AdamW at a third."""
    return MatrixMuon(
        WarmUpStayDecay(learning_rate, steps, min(100, steps), decay),
        adam_lr_ratio=1 / 3,
        adam_beta_2=0.99,
        weight_decay=0.0,
        adam_weight_decay=0.0,
        global_clipnorm=1.0,
    )
