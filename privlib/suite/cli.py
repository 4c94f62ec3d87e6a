"""The `privlib` command. Commands import what they need when they run, so that `privlib --help` is quick."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence

from privlib import __version__
from privlib.errors import PrivlibError

_PROFILES = ("smoke", "quick", "full")
INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit code is 0 when everything it was asked for succeeded, 1 when not, 2 for wrong usage."""
    options = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        return command(options)
    except PrivlibError as error:
        print(f"privlib: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("privlib: stopped; what had finished is kept, nothing half done is left", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of a pipe (head, less) is gone: not an error, but Python would complain again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _parser() -> argparse.ArgumentParser:
    description = "Private machine learning in secure hardware enclaves."
    parser = argparse.ArgumentParser(prog="privlib", description=description)
    parser.add_argument("--version", action="version", version=f"privlib {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="execute notebooks and leave a record of each")
    run.add_argument("notebooks", nargs="*", metavar="NOTEBOOK", help="number, name or path; all when none is named")
    run.add_argument("--profile", choices=_PROFILES, default="quick", help="how much work (default: quick)")
    run.add_argument("-p", "--parameter", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"))
    run.add_argument("--sweep", action="append", default=[], metavar="NAME=V1,V2", help="run once for each value")
    run.add_argument("--jobs", type=_positive, default=1, metavar="N", help="notebooks at a time (default: 1)")
    run.add_argument("--scheduler", metavar="ADDRESS", help="run on the Dask cluster with this scheduler")
    run.add_argument("--resume", action="store_true", help="skip what the last invocation finished")
    run.set_defaults(command=_run)

    bench = commands.add_parser("bench", help="run a benchmark and leave a record")
    bench.add_argument("name", metavar="NAME", help="file in benchmarks/, e.g. inference")
    bench.add_argument("--profile", choices=_PROFILES, default="quick", help="how much work (default: quick)")
    bench.add_argument("--only", default="", metavar="ROWS", help="comma-separated rows")
    bench.add_argument("--json", action="store_true", help="print the run record on standard output")
    bench.set_defaults(command=_bench)

    report = commands.add_parser("report", help="build results/report from the records")
    report.add_argument("--system", metavar="ID", help="system to report (default: the one of the newest record)")
    report.set_defaults(command=_report)

    data = commands.add_parser("data", help="fetch CIFAR-10, or say what is there")
    data.add_argument("action", choices=("fetch", "status"))
    data.set_defaults(command=_data)

    quote = commands.add_parser("verify-quote", help="verify an SGX or TDX quote, and say what it claims")
    quote.add_argument("file", metavar="FILE", help="the quote, as bytes or as hexadecimal text")
    _add_policy(quote)
    quote.add_argument("--report-data", metavar="HEX", help="expected report data, 64 bytes")
    quote.set_defaults(command=_verify_quote)

    release = commands.add_parser("verify-release", help="verify a trained model's certificate, and say what it claims")
    release.add_argument("file", metavar="FILE", help="what Release.save wrote")
    _add_policy(release)
    release.add_argument("--pld", action="store_true", help="also derive the tighter ε from the events (takes longer)")
    release.set_defaults(command=_verify_release)

    status = commands.add_parser("status", help="what is cached, compiled and run")
    status.set_defaults(command=_status)
    return parser


def _add_policy(parser: argparse.ArgumentParser) -> None:
    """What is accepted of a quote, and what it is verified with."""
    parser.add_argument("--collateral", metavar="FILE", help="JSON (default: what came with it, or Intel's service)")
    parser.add_argument("--time", type=int, metavar="SECONDS", help="Unix time of verification (default: now)")
    parser.add_argument("--root", metavar="FILE", help="certificate of another root to trust than Intel's, PEM or DER")
    parser.add_argument("--measurement", action="append", default=[], metavar="HEX", help="accepted MRENCLAVE or MRTD")
    parser.add_argument("--signer", action="append", default=[], metavar="HEX", help="accepted MRSIGNER")
    parser.add_argument("--product", type=int, metavar="N", help="accepted ISVPRODID")
    parser.add_argument("--minimum-svn", type=int, default=0, metavar="N", help="least ISVSVN")
    parser.add_argument("--platform", action="append", default=[], metavar="HEX", help="accepted PPID")
    parser.add_argument("--accept-status", action="append", default=[], metavar="STATUS", help="beside UpToDate")


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def _run(options: argparse.Namespace) -> int:
    from privlib.suite import runner
    from privlib.suite.errors import ParameterError
    from privlib.suite.progress import Progress
    from privlib.suite.project import find_root

    sweeps = {}
    for text in options.sweep:
        name, separator, values = text.partition("=")
        if not separator or not values:
            raise ParameterError(f"--sweep {text!r}: write NAME=V1,V2.")
        sweeps[name] = values.split(",")
    request = runner.Request(
        root=find_root(),
        names=options.notebooks,
        profile=options.profile,
        parameters=dict(options.parameter),
        sweeps=sweeps,
        jobs=options.jobs,
        resume=options.resume,
        scheduler=options.scheduler,
    )
    outcomes = runner.run(request, Progress())
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    print(f"{len(outcomes) - len(failed)} of {len(outcomes)} notebooks ran through")
    for outcome in failed:
        print(f"failed: {outcome.notebook}: {outcome.reason}")
    return 1 if failed else 0


def _bench(options: argparse.Namespace) -> int:
    from privlib.suite import bench
    from privlib.suite.project import find_root

    only = [row for row in options.only.split(",") if row]
    # Standard output carries the record and nothing else, whatever a library prints.
    output = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    done = bench.run(find_root(), options.name, options.profile, only)
    if options.json:
        output.write(json.dumps(done.data, indent=1, ensure_ascii=False) + "\n")
    else:
        from privlib.suite.tables import metrics_text

        output.write(metrics_text(done.data) + f"\nrecord: {done.folder}\n")
    output.close()
    if done.data["status"] != "ok":
        print(f"privlib: benchmark {options.name} {done.data['status']}: {done.data['reason']}", file=sys.stderr)
        return 1
    return 0


def _report(options: argparse.Namespace) -> int:
    from privlib.suite import report
    from privlib.suite.project import find_root

    root = find_root()
    page = report.build(root / "results", root, options.system)
    print(f"report: {page}")
    return 0


def _data(options: argparse.Namespace) -> int:
    from privlib import data
    from privlib.suite.status import data_text

    if options.action == "fetch":
        from privlib.progress import ConsoleProgress

        data.fetch(progress=ConsoleProgress())
    print(data_text(data.status()))
    return 0


def _verify_quote(options: argparse.Namespace) -> int:
    from privlib.suite import quotes

    return quotes.verify(options)


def _verify_release(options: argparse.Namespace) -> int:
    from privlib.suite import releases

    return releases.verify(options)


def _status(options: argparse.Namespace) -> int:
    from privlib.suite import status
    from privlib.suite.project import find_root

    print(status.text(find_root()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
