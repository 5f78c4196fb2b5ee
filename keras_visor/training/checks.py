"""Checks of arguments that several functions share."""

import operator


def check_positive(**arguments: int) -> None:
    """Raise an error that names the first argument that is no count.

    Raises:
        TypeError: One is no integer.
        ValueError: One is below 1.
    """
    for name, value in arguments.items():
        try:
            if isinstance(value, bool):
                raise TypeError
            value = operator.index(value)
        except TypeError as error:
            raise TypeError(
                f"`{name}` must be an integer. Received: {value!r} of type "
                f"{type(value)}"
            ) from error
        if value < 1:
            raise ValueError(f"`{name}` must be 1 or more. Received: {value}")
