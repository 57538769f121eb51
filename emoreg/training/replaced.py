"""One object's method, replaced for a while."""

from collections.abc import Callable


def replaced(owner: object, name: str, wrap: Callable[[Callable], Callable]) -> Callable[[], None]:
    """Put ``wrap(method)`` on one object in its method's place; returns what undoes it."""
    before = vars(owner).get(name)
    setattr(owner, name, wrap(getattr(owner, name)))

    def restore() -> None:
        if before is None:
            vars(owner).pop(name, None)
        else:
            setattr(owner, name, before)

    return restore
