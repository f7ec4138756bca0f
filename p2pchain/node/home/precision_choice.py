"""
`precision = "auto"`: what this node serves or buys of a model, chosen once.

A profile is what is sold, so a choice is written down and stays, whatever is plugged in
or out and whoever comes or goes: customers would find other layers under an old name,
or none.  Deleting the file, with the node stopped, lets the node look again.
"""

import json
import logging
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from chain.records.model import ModelRecord
from chain.records.registration import Registration, RegistrationStatus
from inference.device.hardware import Hardware, advise, choose_precision
from inference.device.precision import Precision
from p2pchain.node.home.profile import get_profile_hash
from wallet.files import write_atomically

PRECISION_FILE = "chosen-precision.json"

log = logging.getLogger(__name__)


def load_precision(folder: Path, record: ModelRecord) -> Precision | None:
    """Return what an earlier start chose for this model; None if it chose nothing."""
    try:
        saved = json.loads((folder / PRECISION_FILE).read_text())
        is_same = saved["model_id"] == record.model_id.hex()
        return Precision(saved["precision"]) if is_same else None
    except (OSError, ValueError, LookupError, TypeError):
        return None


def save_precision(folder: Path, record: ModelRecord, precision: Precision) -> None:
    """Write a choice down."""
    document = {"model_id": record.model_id.hex(), "precision": precision.value}
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_atomically(folder / PRECISION_FILE, json.dumps(document) + "\n", 0o600)


def count_served(
    record: ModelRecord, registrations: Iterable[Registration], account: bytes
) -> Counter[Precision]:
    """Return how many layers others host in each precision, counted once per host."""
    words: dict[bytes, Precision] = {}
    for word in Precision:
        # Two words for the same numbers are one profile; the first one counts.
        words.setdefault(get_profile_hash(record, word), word)
    served: Counter[Precision] = Counter()
    for each in registrations:
        is_live = each.status is RegistrationStatus.ACTIVE
        is_other = each.account != account
        if each.model_id == record.model_id and is_live and is_other:
            known = words.get(each.profile)
            if known is not None:
                served[known] += each.end - each.start
    return served


def choose_for(
    record: ModelRecord,
    served: Counter[Precision],
    hardware: Hardware,
    *,
    is_buyer: bool,
) -> Precision:
    """Return the precision of a node that has chosen nothing yet, and say why."""
    advice = advise(hardware, record.dtype)
    chosen = choose_precision(advice, served, is_buyer=is_buyer)
    others = ", ".join(f"{count} layers in {each}" for each, count in served.items())
    log.info(
        "%s in %s: %s; others serve %s",
        record.name,
        chosen,
        "what others serve" if is_buyer else advice.reason,
        others or "nothing of it yet",
    )
    return chosen
