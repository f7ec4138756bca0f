"""Amounts as people read them."""

from primitives.types import ATOMS_PER_COIN


def format_amount(atoms: int | str) -> str:
    """Return atoms as coins, or as atoms where a coin is too much to be read."""
    atoms = int(atoms)
    if abs(atoms) < ATOMS_PER_COIN // 1000:
        return f"{atoms} atoms"
    sign = "-" if atoms < 0 else ""
    whole, rest = divmod(abs(atoms), ATOMS_PER_COIN)
    fraction = f"{rest:09d}".rstrip("0")
    return f"{sign}{whole}{'.' if fraction else ''}{fraction} P2P"
