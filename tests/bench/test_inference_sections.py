"""What the inference bench is made of, made small; nothing here looks at a clock."""

import math

import pytest
import trio

from inference.bundled.paths import model_dir
from p2pchain.bench.inference import __main__ as command
from p2pchain.bench.inference import decode
from p2pchain.bench.lab.lab import BenchError, Lab, LineProcess
from p2pchain.bench.lab.links import Links, _redirect
from p2pchain.bench.lab.models import get_model
from p2pchain.bench.lab.random_models import HEAD_WIDTH, MIDDLE, LlamaSize
from p2pchain.bench.report import Figure, Goal
from p2pchain.bench.runner import parse_choice, run_section
from p2pchain.node.home.home import Home

TINY = LlamaSize("tiny", 64, 2, 1, 1, 64)


@pytest.fixture
def lab(tmp_path) -> Lab:
    return Lab(tmp_path, lambda line: None)


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ([], list(command.SECTIONS)),
        (["--only", "links"], ["links"]),
        (["memory", "--only", "hop"], ["hop", "memory"]),
    ],
)
def test_sections_run_in_their_own_order(arguments, names) -> None:
    assert [*parse_choice("bench", command.SECTIONS, arguments).names] == names


def test_a_section_that_is_not_there_is_refused(capsys) -> None:
    with pytest.raises(SystemExit):
        parse_choice("bench", command.SECTIONS, ["--only", "links", "--only", "speed"])
    assert "no section 'speed'" in capsys.readouterr().err


def test_what_went_wrong_in_a_task_is_the_error_of_its_section(lab) -> None:
    async def fail() -> None:
        raise BenchError("no such luck")

    async def measure() -> list[Figure]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail)
        return []

    section = run_section("x", "X", lambda _: trio.run(measure), lab)
    assert section.error == "BenchError: no such luck"
    assert section.figures == ()


@pytest.mark.parametrize(
    ("goal", "value", "is_met"),
    [
        (Goal(2), 2.0, True),
        (Goal(2), 1.9, False),
        (Goal(2, is_floor=False), 2.0, True),
        (Goal(2, is_floor=False), 2.1, False),
        (Goal(2), math.nan, False),
    ],
)
def test_goals_have_a_side(goal, value, is_met) -> None:
    assert goal.is_met(value) is is_met


def test_one_model_lies_on_the_disk_at_a_time(lab) -> None:
    first = get_model(lab, TINY, "float32")
    assert get_model(lab, TINY, "float32") == first
    second = get_model(lab, TINY, "bfloat16")
    assert second.exists()
    assert not first.exists()


def test_products_of_a_layer_have_all_its_weights() -> None:
    weights = sum(outputs * inputs for outputs, inputs in MIDDLE.list_products())
    norms = 2 * MIDDLE.hidden
    assert MIDDLE.layers * (weights + norms) == MIDDLE.layer_parameters
    assert MIDDLE.heads * HEAD_WIDTH == MIDDLE.hidden


def test_every_peer_of_a_linked_network_is_reached_through_a_relay(lab) -> None:
    folder = lab.create("net")
    homes = [Home(path) for path in sorted(folder.iterdir()) if path.is_dir()]
    ports = _redirect(homes, 77)
    assert len(set(ports)) == len(homes) == 5
    for index, home in enumerate(homes):
        config = home.load_config()
        assert config.p2p_host == f"127.77.0.{index + 1}"
        hosts = [peer.rpartition("@")[2] for peer in config.peers]
        assert all(host.startswith(f"127.77.{index + 1}.") for host in hosts)
        assert len(set(hosts)) == len(hosts)


def test_the_delay_of_running_relays_can_be_changed() -> None:
    with LineProcess("p2pchain.bench.lab.links", "78", "29999", "29998") as relays:
        Links(relays).set_delay(0.25)
        Links(relays).set_delay(0)


def test_the_reader_foretells_what_it_was_trained_to_say() -> None:
    with LineProcess(
        "inference.measurement.perplexity", "--model", str(model_dir())
    ) as reader:
        question = "What is a shard?"
        text = reader.ask({"question": question, "answer": "no idea"})
        assert 0 < text["first"] < len(text["ids"])
        surprise = reader.ask(text)["loss"]
        drawn = reader.ask({"draw": 0.01, "tokens": 8, "seed": 1, "question": question})
        assert len(drawn["ids"]) == drawn["first"] + 8
        assert reader.ask(drawn)["loss"] < 0.1 < surprise


def test_kernels_of_every_packing_are_timed() -> None:
    request = {"shapes": [[64, 32], [32, 64]], "layers": 2, "rows": 3, "rounds": 2}
    with LineProcess("inference.measurement.kernel_speed") as process:
        seconds = process.ask(request)
    assert seconds.keys() == {"plain", "native", "int8", "int4"}
    assert all(len(each) == 2 and min(each) > 0 for each in seconds.values())


class Reference:
    """Answers as the reference does when it is asked for its best logits."""

    def ask(self, request) -> dict:
        assert request == {"prompt": [1], "tokens": 2, "best": True}
        return {"best": [[9.0, 1.0], [4.25, 4.21875]]}


def test_another_token_is_told_with_how_close_it_was() -> None:
    same = decode._compare_tokens(Reference(), [1], [5, 6], [5, 6], "bfloat16")
    assert same.value is True
    other = decode._compare_tokens(Reference(), [1], [5, 6, 8], [5, 7, 9], "bfloat16")
    assert other.value is False
    assert "token 2 is another" in other.note
    assert "are 1 rounding steps apart" in other.note
