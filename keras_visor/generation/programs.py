"""The one place that knows how each backend compiles a program."""

import functools
from collections.abc import Callable
from typing import Any

import keras


class Programs:
    """Runs functions of a model, each as a compiled program.

    A program is compiled for each new set of input shapes and static
    arguments, and reused for ever after. Follows
    `keras_hub.models.CausalLM.make_generate_function`.

    Args:
        model: A `keras_hub.models.CausalLM`.

    Attributes:
        num_compiled: int. How many programs have been compiled.
    """

    def __init__(self, model):
        self.model = model
        self.num_compiled = 0
        self._compiled: dict[Any, Callable] = {}
        self._compiled_for: tuple[int, ...] = ()

    @property
    def compiles(self) -> bool:
        """Whether a new shape costs a compilation.

        Where it does not, padding to common shapes would only cost time.
        """
        return keras.config.backend() != "torch" and not self.model.run_eagerly

    def run(self, function: Callable, *tensors, **static):
        """`function(model, *tensors, **static)`.

        Args:
            function: A pure function of the model's weights, its sampler's
                random state and its arguments.
            *tensors: Nested structures of arrays, or `None`.
            **static: Hashable Python values, constants of the program.
        """
        # A program holds on to the variables that were there when it was
        # compiled; LoRA and quantization bring new ones.
        variables = tuple(map(id, self._variables()))
        if variables != self._compiled_for:
            self._compiled.clear()
            self._compiled_for = variables
        key = (function, tuple(sorted(static.items())))
        if key not in self._compiled:

            def traced(*tensors):
                # Runs while tracing only: once for each compiled program.
                self.num_compiled += self.compiles
                return function(self.model, *tensors, **static)

            self._compiled[key] = self._compile(traced)
        tensors = keras.tree.map_structure(
            keras.ops.convert_to_tensor, tensors, none_is_leaf=False
        )
        return self._compiled[key](*tensors)

    def _compile(self, function):
        backend = keras.config.backend()
        if backend == "torch":
            import torch

            return torch.no_grad()(function)
        if not self.compiles:
            return function
        if backend == "jax":
            return self._compile_jax(function)
        if backend == "tensorflow":
            import tensorflow as tf

            # Without autograph, which would rewrite what has no control flow.
            return tf.function(
                function, jit_compile=self.model.jit_compile, autograph=False
            )
        return function

    def _compile_jax(self, function):
        import jax

        model = self.model

        # On CPUs, XLA orders a program for concurrency by default, which keeps
        # more alive at once: the dense prefill of 7,371 visual tokens took
        # 1.4 GB of temporary memory, and takes 0.4 GB ordered for memory, at
        # the same speed. Older versions of JAX do not know the option.
        options = None
        if jax.default_backend() == "cpu" and jax.__version_info__ >= (0, 10):
            options = {
                "xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"
            }

        @functools.partial(jax.jit, compiler_options=options)
        def compiled(state, tensors):
            mapping = zip(self._variables(), state, strict=True)
            with keras.StatelessScope(state_mapping=mapping) as scope:
                outputs = function(*tensors)
            # Only the sampler's random state changes in generation.
            random_state = [
                scope.get_current_value(v) for v in model.sampler.variables
            ]
            return outputs, random_state

        def run(*tensors):
            state = [v.value for v in self._variables()]
            outputs, random_state = compiled(state, tensors)
            for variable, value in zip(
                model.sampler.variables, random_state, strict=True
            ):
                if value is not None:
                    variable.assign(value)
            return outputs

        return run

    def _variables(self):
        return [*self.model.variables, *self.model.sampler.variables]
