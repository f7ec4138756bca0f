"""What import rules cannot say: what a running node has loaded."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("p2pchain.node.run", {"torch", "transformers", "py_ecc"}),
        ("p2pchain.cli.main", {"aiohttp"}),
        ("chain.tree.blocktree", {"trio"}),
        ("inference.hop.service", {"torch"}),
    ],
)
def test_importing_a_part_leaves_out_what_it_must_not_load(module, absent) -> None:
    program = f"import sys, {module}; print(*sys.modules)"
    loaded = subprocess.check_output([sys.executable, "-c", program], text=True)
    assert module in loaded.split()
    assert absent & set(loaded.split()) == set()


def test_the_slow_reference_does_not_unbind_recursion() -> None:
    """A remote body of many brackets would end the process instead of its request."""
    program = (
        "import sys; before = sys.getrecursionlimit(); import primitives.bls_reference;"
        "sys.exit(sys.getrecursionlimit() != before)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
