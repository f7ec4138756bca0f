"""
A light client in a simulated network, and everything that it is told and must not take.

It follows the real chain with the node's own code (chain.light.sync), asking one node
after the other, and keeps what it believes for the whole run.  What a villain answers
is forged, and half of what the others answer is changed on the way.  After every answer
its newest block has to be a final one and its validators those of their epoch.
"""

import random
from typing import TYPE_CHECKING

from chain.errors import LightError, OtherEpoch, ProvenFork, StaleAnswer
from chain.light.client import LightState
from chain.light.sync import AskProofs, LightSync
from chain.queries.light import LightQueries
from chain.records.header import compute_block_hash
from p2pchain.sim.chains.tree_chain import TreeChain, TreeChains
from p2pchain.sim.light.forger import LightForger

if TYPE_CHECKING:
    from p2pchain.sim.node import Node
    from p2pchain.sim.world import World

EVERY_MS = (100, 2000)
"""Between two times that it looks; most views see it once."""
MAX_QUESTIONS = 40
"""In one look; each halves a way or goes on by a page."""


def open_reader(world: "World") -> "LightReader | None":
    """Return a light client of a world's chain; None where it has no headers."""
    chains = world.chains
    return LightReader(world, chains) if isinstance(chains, TreeChains) else None


class LightReader:
    """Somebody who follows the chain without running a node."""

    life = 0
    """It never crashes."""

    def __init__(self, world: "World", chains: TreeChains) -> None:
        self._world = world
        # Luck of its own: what nodes do is the same whether somebody reads or not.
        self._luck = random.Random(f"reader {world.seed}")
        self._forger = LightForger(world, chains, self._luck)
        self.state = LightState.from_set(
            chains.light_chain, 0, chains.spec.first_validators
        )
        """What it believes."""
        self.taken = 0
        """Answers that it believed."""
        self.refused = 0
        """Forged answers that it did not believe."""

    def start(self) -> None:
        """Look now and then, for ever."""
        delay_ms = self._luck.randint(*EVERY_MS)
        self._world.after(delay_ms, self, self._look)

    def _look(self) -> None:
        nodes = [node for node in self._world.nodes.values() if node.is_up]
        if nodes:
            node = self._luck.choice(nodes)
            self.follow(node, is_forged=not node.is_honest or self._luck.random() < 0.5)
        self.start()

    def follow(self, node: "Node", *, is_forged: bool) -> None:
        """Ask one node until there is nothing left to ask.

        Raises:
            InvariantBroken: What was believed is not so.
        """
        latest_ms = node.get_clock_ms() + 60_000
        sync = LightSync(self.state, self._world.keys.scheme, latest_ms)
        try:
            for _ in range(MAX_QUESTIONS):
                if sync.ask is None:
                    return
                if not self._ask(sync, node, is_forged=is_forged):
                    return
                self.taken += 1
                self.state = sync.state
                self._check()
        except ProvenFork as error:
            self._world.judge.on_misled(f"a fork: {error}")
        except (OtherEpoch, StaleAnswer):
            # It knows more already than this node does.
            pass
        except LightError as error:
            self.refused += 1
            if not is_forged:
                self._world.judge.on_misled(f"truth of {node.name} refused: {error}")
        finally:
            self.state = sync.state
            self._check()

    def _ask(self, sync: LightSync, node: "Node", *, is_forged: bool) -> bool:
        """Carry one question and its answer; False where there is none."""
        chain = node.chain
        assert isinstance(chain, TreeChain)
        queries = LightQueries(chain.tree)
        if isinstance(sync.ask, AskProofs):
            proofs = queries.list_proofs(sync.ask.epoch, sync.ask.count)
            if is_forged:
                proofs = self._forger.forge_proofs(proofs, chain.tree)
            if proofs:
                sync.on_proofs(proofs)
            return bool(proofs)
        assert sync.ask is not None
        block = queries.build_block(sync.ask.height)
        if block is not None and is_forged:
            block = self._forger.forge_block(block, node)
        if block is not None:
            sync.on_block(block)
        return block is not None

    def _check(self) -> None:
        newest = self.state.newest
        if newest is not None:
            self._world.judge.on_believed(newest.height, compute_block_hash(newest))
        nodes = [node for node in self._world.honest if node.is_up]
        if not nodes:
            return
        best = max(nodes, key=lambda node: node.chain.final_height).chain
        assert isinstance(best, TreeChain)
        true = best.get_validators(self.state.epoch)
        if true is not None and true != self.state.validators:
            self._world.judge.on_misled(f"other validators of epoch {self.state.epoch}")
