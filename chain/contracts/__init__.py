"""One file per transaction kind, each a pure rule."""
