"""Which precision a machine should serve, from what its processors say they have."""

import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.device import hardware
from inference.device.hardware import (
    Advice,
    Gpu,
    Hardware,
    advise,
    choose_precision,
    format_gpus,
    measure_hardware,
    parse_gpus,
)
from inference.device.precision import PACKINGS, Precision

BF16, FP16, FP32 = "bfloat16", "float16", "float32"
NATIVE, INT8 = Precision.NATIVE, Precision.INT8


def build_gpu(major: int, minor: int = 0) -> Gpu:
    return Gpu("toy", (major, minor), 2**34, 2**33, 1e12)


@pytest.mark.parametrize(
    ("flags", "dtype", "expected"),
    [
        ("amx_bf16 amx_int8 avx512_vnni", BF16, NATIVE),
        ("avx512_bf16", BF16, NATIVE),
        ("avx512_bf16", FP16, Precision.FP32),
        ("avx512_bf16 avx512_vnni", FP16, INT8),
        ("avx512_fp16", FP16, NATIVE),
        ("avx512_vnni", BF16, INT8),
        ("avx_vnni", FP16, INT8),
        ("", BF16, Precision.FP32),
        ("", FP16, Precision.FP32),
        ("", FP32, NATIVE),
        ("amx_bf16 amx_int8", FP32, NATIVE),
    ],
)
def test_processors(flags: str, dtype: str, expected: Precision) -> None:
    advice = advise(Hardware(frozenset(flags.split())), dtype)
    assert advice.precisions[0] is expected
    assert advice.reason


@pytest.mark.parametrize(
    ("gpu", "dtype", "expected"),
    [
        (build_gpu(9), BF16, NATIVE),
        (build_gpu(8, 0), FP16, NATIVE),
        (build_gpu(7, 5), BF16, Precision.FP16),
        (build_gpu(7), FP32, NATIVE),
        (build_gpu(6, 1), FP16, Precision.FP32),
    ],
)
def test_cuda(gpu: Gpu, dtype: str, expected: Precision) -> None:
    # Whatever the processor beside it can do.
    found = Hardware(frozenset({"amx_bf16"}), (gpu, build_gpu(1)))
    advice = advise(found, dtype)
    assert advice.precisions[0] is expected
    assert "toy" in advice.reason


words = st.sampled_from(list(Precision))


@given(
    st.lists(words, min_size=1, max_size=4, unique=True),
    st.dictionaries(words, st.integers(0, 50)),
    st.booleans(),
)
def test_who_joins_takes_what_it_can_do_and_others_serve(order, served, is_buyer):
    advice = Advice(tuple(order), "")
    chosen = choose_precision(advice, served, is_buyer=is_buyer)
    able = list(Precision) if is_buyer else order
    known = {each: served[each] for each in able if served.get(each)}
    if known:
        assert known[chosen] == max(known.values())
    else:
        assert chosen is (NATIVE if is_buyer else order[0])


def test_what_a_precision_computes_in() -> None:
    for own in (BF16, FP16, FP32):
        for each in PACKINGS:
            assert each.get_dtype(own) == own
            assert each.packing is each
        assert Precision.FP32.get_dtype(own) == FP32
        assert Precision.BF16.get_dtype(own) == BF16
        assert Precision.FP16.get_dtype(own) == FP16
    assert Precision.BF16.packing is NATIVE


def test_flags_are_read(tmp_path: Path) -> None:
    cpuinfo, nothing = tmp_path / "cpuinfo", tmp_path / "nothing"
    assert measure_hardware(cpuinfo, nothing) == Hardware()
    cpuinfo.write_text(
        "processor\t: 0\nflags\t\t: fpu avx2 avx512_vnni amx_tile avx512_bf16\n"
        "processor\t: 1\nflags\t\t: fpu\n"
    )
    found = measure_hardware(cpuinfo, nothing)
    assert found.flags == {"avx512_vnni", "avx512_bf16"}
    assert not found.gpus
    assert (found.has_bfloat16, found.has_float16, found.has_integers) == (
        True,
        False,
        True,
    )


def test_devices_survive_the_probe() -> None:
    gpus = (build_gpu(8, 6), build_gpu(9))
    assert parse_gpus(format_gpus(gpus)) == gpus
    assert parse_gpus(b"[]") == ()
    for text in ("", "{", "[1]", '[{"name": 1}]', "[[]]", '[{"capability": []}]'):
        with pytest.raises(ValueError):
            parse_gpus(text)


def test_a_probe_that_fails_finds_nothing(tmp_path: Path, monkeypatch) -> None:
    driver = tmp_path / "nvidiactl"
    driver.touch()
    calls = []

    def run(command, **options):
        calls.append(command)
        raise subprocess.TimeoutExpired(command, 1)

    monkeypatch.setattr(hardware.subprocess, "run", run)
    assert measure_hardware(tmp_path / "no", driver).gpus == ()
    assert len(calls) == 1
    # Who wants the processor alone does not ask.
    assert measure_hardware(tmp_path / "no", driver, is_cpu_only=True).gpus == ()
    assert len(calls) == 1


def test_the_probe_itself_runs() -> None:
    done = subprocess.run(
        [hardware.sys.executable, "-m", "inference.device.gpu_probe"],
        capture_output=True,
        check=True,
        timeout=120,
    )
    assert isinstance(parse_gpus(done.stdout), tuple)
