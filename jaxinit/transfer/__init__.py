"""Start from weights that others trained: read, plan, merge, compare, save."""

__all__: list[str] = []
