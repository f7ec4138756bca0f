"""Waiting on the trio side until a transaction is final."""

from typing import TYPE_CHECKING

import trio

from p2pchain.api.backend import Backend
from p2pchain.api.errors import Timeout

if TYPE_CHECKING:
    from chain.queries.found import FoundTransaction


async def wait_final(
    backend: Backend, tx_id: bytes, timeout_s: float
) -> "FoundTransaction":
    """Return the transaction with its place and outcome once it is final.

    Raises:
        Timeout: Not final within `timeout_s`; says whether it still waits.
    """
    with trio.move_on_after(timeout_s):
        while True:
            height = backend.get_status().height
            found = backend.queries.get_transaction(tx_id)
            if found is not None:
                return found
            await backend.wait_height(height + 1)
    pending = backend.get_pending(tx_id) is not None
    waits = "still waits" if pending else "no longer waits"
    raise Timeout(
        f"0x{tx_id.hex()} is not final after {timeout_s:.0f} s; it {waits} in the "
        "mempool"
    )
