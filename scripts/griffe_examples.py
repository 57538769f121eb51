"""For the site's API: a docstring's `Example:` is what griffe's parser knows as `Examples:`."""

from typing import Any

from griffe import Extension, Object


class Examples(Extension):
    """Reads the one as the other."""

    def on_object(self, *, obj: Object, **kwargs: Any) -> None:
        """For every docstring that is collected."""
        if obj.docstring is not None:
            obj.docstring.value = obj.docstring.value.replace("Example:\n", "Examples:\n")
