"""`p2pchain testnet`: networks of real processes, disturbed and checked."""

from argparse import ArgumentTypeError, Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import TYPE_CHECKING

from p2pchain.cli.devnet import run_until_signal
from p2pchain.cli.options import add_command, add_group, positive
from p2pchain.cli.output import Output, format_table

if TYPE_CHECKING:
    from p2pchain.cli.options import Commands
    from p2pchain.testnet.report import Report


def add_parser(commands: "Commands") -> None:
    """Add `testnet`."""
    group = add_group(
        commands, "testnet", "run networks of real processes under faults, and check"
    )
    parser = add_command(group, "run", run, "run a manifest; exit code 1 if it fails")
    parser.add_argument("manifest", type=Path, metavar="MANIFEST.toml")
    parser.add_argument(
        "--keep", action="store_true", help="keep the homes and logs also on success"
    )
    parser = add_command(
        group, "generate", generate, "write random manifests, the same from a seed"
    )
    parser.add_argument(
        "--seed", type=_seed, required=True, metavar="N", help="of the first manifest"
    )
    parser.add_argument(
        "--count", type=positive, default=1, metavar="K", help="how many (1)"
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder to write into"
    )


def run(args: Namespace, output: Output) -> int:
    """Run one manifest; --home is the folder of its homes."""
    codes: list[int] = []

    async def main(args: Namespace, output: Output) -> None:
        # Imported here: the node's packages take a second, which others do not need.
        from p2pchain.testnet.manifest import load_manifest
        from p2pchain.testnet.runner import run_manifest

        manifest = load_manifest(args.manifest)
        with _open_folder(args, output) as (folder, done):
            report = await run_manifest(manifest, folder, output.say)
            output.show(report.to_json(), describe(report))
            codes.append(0 if report.ok else 1)
            done.extend(["ok"] if report.ok else [])

    run_until_signal(main, args, output)
    if not codes:
        output.fail("Interrupted", "interrupted; every process was ended")
    return codes[0] if codes else 1


def generate(args: Namespace, output: Output) -> None:
    """Write the manifests of some seeds."""
    from p2pchain.testnet.generate import generate_manifest
    from p2pchain.testnet.toml_form import dump_manifest

    folder: Path = args.out.expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for seed in range(args.seed, args.seed + args.count):
        manifest = generate_manifest(seed)
        path = folder / f"{manifest.name}.toml"
        path.write_text(dump_manifest(manifest), "utf-8")
        paths.append(str(path))
    output.show({"manifests": paths}, "\n".join(paths))


def _seed(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 18):
        raise ArgumentTypeError(f"{text!r} is no seed, 0 to 10^18 - 1")
    return int(text)


@contextmanager
def _open_folder(args: Namespace, output: Output) -> Iterator[tuple[Path, list[str]]]:
    """Give a folder that goes with the block, if that appends to the list."""
    if args.home:
        yield Path(args.home).expanduser().absolute(), []
        return
    parent = Path(mkdtemp(prefix="p2pchain-testnet-"))
    done: list[str] = []
    try:
        yield parent / "net", done
    finally:
        if done and not args.keep:
            rmtree(parent, ignore_errors=True)
        else:
            output.say(f"homes and logs are in {parent / 'net'}")


def describe(report: "Report") -> str:
    """Return the tables at the end of a run."""
    keys = ("name", "height", "view", "peers", "restarts")
    nodes = format_table(
        ("node", *keys[1:], "voting"),
        [
            [*(node[key] for key in keys), "yes" if node["voting"] else "no"]
            for node in report.nodes
        ],
    )
    checks = format_table(
        ("check", "", ""),
        [
            [f.name, "ok" if f.ok else "FAILED", f.text.partition("\n")[0]]
            for f in report.findings
        ],
    )
    load = report.load
    verdict = "PASSED" if report.ok else f"FAILED: {report.failure or report.reason}"
    lines = [
        "",
        nodes,
        "",
        checks,
        "",
        f"load: {load['final']} of {load['signed']} transfers final "
        f"({load['per_s']:.1f}/s), {load['expired']} expired",
        f"{report.name}: height {report.height} in {report.seconds:.0f} s: {verdict}",
    ]
    return "\n".join(lines)
