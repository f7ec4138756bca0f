"""A bar of characters, for logs and for the command line."""

WIDTH = 20


def draw_bar(done: int, total: int) -> str:
    """Return a bar that is full when all is done."""
    filled = WIDTH * min(done, total) // total if total else WIDTH
    return "#" * filled + "." * (WIDTH - filled)
