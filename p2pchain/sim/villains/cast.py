"""Everybody who may appear as a villain, by name."""

from p2pchain.sim.villains.amnesiac import Amnesiac
from p2pchain.sim.villains.certificate_forger import CertificateForger
from p2pchain.sim.villains.chunk_withholder import (
    CertificateWithholder,
    LateProducer,
    SilentProducer,
)
from p2pchain.sim.villains.double_finalizer import DoubleFinalizer
from p2pchain.sim.villains.double_producer import DoubleProducer
from p2pchain.sim.villains.equivocator import Equivocator
from p2pchain.sim.villains.impersonator import Impersonator
from p2pchain.sim.villains.invalid_proposer import InvalidProposer
from p2pchain.sim.villains.jumper import Jumper
from p2pchain.sim.villains.late_equivocator import LateEquivocator
from p2pchain.sim.villains.liar import Liar
from p2pchain.sim.villains.lying_endorser import CredulousEndorser, LyingEndorser
from p2pchain.sim.villains.lying_producer import (
    Backdater,
    LyingProducer,
    Spoiler,
    StrayProducer,
)
from p2pchain.sim.villains.nullify_only import NullifyOnly
from p2pchain.sim.villains.outdated_voter import OutdatedVoter
from p2pchain.sim.villains.silent_leader import Mute, SilentLeader
from p2pchain.sim.villains.slanderer import Slanderer
from p2pchain.sim.villains.spammer import Spammer
from p2pchain.sim.villains.swapper import Swapper
from p2pchain.sim.villains.twin import Twin
from p2pchain.sim.villains.villain import Villain
from p2pchain.sim.villains.withholder import Withholder

CAST: dict[str, type[Villain]] = {
    "amnesiac": Amnesiac,
    "certificate forger": CertificateForger,
    "double finalizer": DoubleFinalizer,
    "equivocator": Equivocator,
    "impersonator": Impersonator,
    "invalid proposer": InvalidProposer,
    "jumper": Jumper,
    "late equivocator": LateEquivocator,
    "liar": Liar,
    "mute": Mute,
    "nullify only": NullifyOnly,
    "outdated voter": OutdatedVoter,
    "silent leader": SilentLeader,
    "slanderer": Slanderer,
    "spammer": Spammer,
    "swapper": Swapper,
    "twin": Twin,
    "withholder": Withholder,
}

CHUNK_CAST: dict[str, type[Villain]] = {
    "backdater": Backdater,
    "certificate withholder": CertificateWithholder,
    "credulous endorser": CredulousEndorser,
    "double producer": DoubleProducer,
    "late producer": LateProducer,
    "lying endorser": LyingEndorser,
    "lying producer": LyingProducer,
    "silent producer": SilentProducer,
    "spoiler": Spoiler,
    "stray producer": StrayProducer,
}
"""Those who cheat about chunks, where there are any."""
