"""Arrays of one shape from arrays of another, as pure functions of the numbers."""

__all__: list[str] = []
