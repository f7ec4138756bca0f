"""The law of scaling, as numbers and as a picture."""

import subprocess
import sys
from xml.etree import ElementTree

import pytest

from p2pchain.bench.scaling import COUNTS, compute_point, draw

SVG = "{http://www.w3.org/2000/svg}"


def test_small_networks_stand_still():
    for count in (16, 64, 128, 192):
        point = compute_point(1000.0, count)
        assert point.members == -(-2 * count // 3)
        assert 1400 < point.rate <= 1500


def test_large_networks_grow():
    rates = [compute_point(1000.0, count).rate for count in (193, 400, 1000)]
    assert rates[0] > 1500
    assert rates == sorted(rates)
    assert compute_point(1000.0, 1000).members <= 96


@pytest.mark.parametrize("rate", [1.0, 4321.0, 1e6])
def test_a_picture_shows_every_point_within_its_frame(rate):
    root = ElementTree.fromstring(draw([compute_point(rate, n) for n in COUNTS], rate))
    marks = root.findall(f"{SVG}circle")
    assert len(marks) == len(COUNTS)
    _, _, width, height = map(int, root.attrib["viewBox"].split())
    for mark in marks:
        assert 0 < float(mark.attrib["cx"]) < width
        assert 0 < float(mark.attrib["cy"]) < height


def run(*args):
    command = [sys.executable, "-m", "p2pchain.bench.scaling", *args]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_command(tmp_path):
    path = tmp_path / "scaling.svg"
    assert run("4000", str(path)).returncode == 0
    assert "r = 4,000" in path.read_text()
    for rate in ("0", "nan", "many"):
        refused = run(rate, str(tmp_path / "none.svg"))
        assert refused.returncode == 2
    assert not (tmp_path / "none.svg").exists()
