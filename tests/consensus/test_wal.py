"""The log: bytes, tears, damage, locks."""

import pytest
from consensus_bench import CHAIN, Bench
from hypothesis import given
from hypothesis import strategies as st

from consensus.errors import CorruptWal, WrongWal
from consensus.messages import Kind
from consensus.wal import encode_header, encode_records, scan_wal
from p2pchain.node.home.wal_file import WalFile, WalLocked, create_wal

KEY = b"k" * 48
BENCH = Bench()
RECORDS = (
    BENCH.notarize(0, BENCH.proposal()),
    BENCH.nullify(0),
    BENCH.finalize(0, BENCH.proposal(2)),
    BENCH.certify(Kind.NULLIFICATION, 3),
)
LOG = encode_header(KEY, CHAIN) + b"".join(encode_records([r]) for r in RECORDS)


def test_round_trip():
    assert scan_wal(LOG, KEY, CHAIN) == (RECORDS, len(LOG))
    together = encode_header(KEY, CHAIN) + encode_records(RECORDS)
    assert scan_wal(together, KEY, CHAIN)[0] == RECORDS
    many = encode_header(KEY, CHAIN) + encode_records(RECORDS * 200)
    assert scan_wal(many, KEY, CHAIN)[0] == RECORDS * 200


def test_cut_at_every_byte_keeps_whole_frames():
    """A crash at any byte of a write loses that write and nothing else."""
    header = len(encode_header(KEY, CHAIN))
    ends = [header]
    for record in RECORDS:
        ends.append(ends[-1] + len(encode_records([record])))
    for length in range(header, len(LOG) + 1):
        records, sound = scan_wal(LOG[:length], KEY, CHAIN)
        whole = sum(end <= length for end in ends) - 1
        assert (records, sound) == (RECORDS[:whole], ends[whole])


@given(st.integers(0, len(LOG) - 1), st.integers(1, 255))
def test_a_changed_byte_is_never_read_as_something_else(index, flip):
    data = bytearray(LOG)
    data[index] ^= flip
    last = len(LOG) - len(encode_records(RECORDS[-1:]))
    if index >= last:
        assert scan_wal(bytes(data), KEY, CHAIN) == (RECORDS[:-1], last)
    else:
        with pytest.raises(CorruptWal):
            scan_wal(bytes(data), KEY, CHAIN)


def test_no_header_and_other_owners_are_refused():
    for data in (b"", LOG[:20], b"rubbish" * 30):
        with pytest.raises(CorruptWal):
            scan_wal(data, KEY, CHAIN)
    with pytest.raises(WrongWal):
        scan_wal(LOG, b"o" * 48, CHAIN)
    with pytest.raises(WrongWal):
        scan_wal(LOG, KEY, bytes(32))


def test_file_appends_mends_and_shrinks(tmp_path):
    path = tmp_path / "wal"
    create_wal(path, KEY, CHAIN)
    with WalFile(path, KEY, CHAIN) as wal:
        assert wal.records == ()
        wal.append(RECORDS[:2])
    with path.open("ab") as file:
        file.write(b"\0\0\1torn")
    with WalFile(path, KEY, CHAIN) as wal:
        assert wal.records == RECORDS[:2]
        wal.append(RECORDS[2:3])
    with WalFile(path, KEY, CHAIN) as wal:
        assert wal.records == RECORDS[:3]
        wal.rewrite(RECORDS[1:3])
        wal.append(RECORDS[3:])
    with WalFile(path, KEY, CHAIN) as wal:
        assert wal.records == RECORDS[1:]


def test_file_is_never_made_anew(tmp_path):
    path = tmp_path / "wal"
    with WalFile(path, KEY, CHAIN) as wal:
        assert wal.is_lost
        assert "missing" in wal.flaw
    assert not path.exists()
    create_wal(path, KEY, CHAIN)
    with pytest.raises(FileExistsError):
        create_wal(path, KEY, CHAIN)


def test_lock_admits_one(tmp_path):
    path = tmp_path / "wal"
    create_wal(path, KEY, CHAIN)
    with WalFile(path, KEY, CHAIN), pytest.raises(WalLocked):
        WalFile(path, KEY, CHAIN)
    WalFile(path, KEY, CHAIN).close()
