"""The simulated platform: what it reports, requires and notices."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from privlib.enclave import inventory
from privlib.enclave.errors import EnclaveDied, ImageError, LaunchError, LaunchTimeout, MechanismError, PlatformError
from privlib.enclave.image import EnclaveImage
from privlib.enclave.launcher import ALL_MECHANISMS, launch
from privlib.enclave.platforms import base, simulated
from privlib.enclave.platforms.simulated import SimulatedPlatform
from privlib.enclave.policy import QuotePolicy
from privlib.enclave.refusals import DebugError, EvidenceError
from privlib.enclave.signer import Signer
from privlib.enclave.simulated_root import SimulatedRoot
from privlib.enclave.state import StateStore
from privlib.enclave.verify import verify_quote
from privlib.trusted.platform import IDENTITY
from privlib.trusted.protocol import Message
from tests.enclave.providers import Provider, request
from tests.enclave.sources import SOURCES, clone, image_of

IMAGES = np.zeros((2, 3, 32, 32), np.float32)


def worker_of(enclave: Any) -> psutil.Process:
    (worker,) = psutil.Process(enclave._process.pid).children()
    return worker


def test_everything_mapped_is_listed_and_small(image: EnclaveImage) -> None:
    """Under 80 MB of code and libraries beside Python itself; neither PyTorch nor a compiler; all threads stand.

    What nobody uses of it comes linked: OpenBLAS and its Fortran runtime (32 MB) to NumPy's core, libtvm_ffi_testing
    (2 MB) to tvm_ffi's. Leaving them out would mean wheels of our own.
    """
    with launch(image, require=ALL_MECHANISMS) as enclave:
        report = enclave.report
        assert report.platform == "simulated" and not report.missing
        assert set(report.mechanisms) == set(ALL_MECHANISMS)
        assert {file.name for file in report.mapped} <= {file.name for file in image.files}
        own = [file for file in report.mapped if not file.name.startswith(("host/", "python/"))]
        assert sum(file.size for file in own) < 80_000_000
        assert {"artifact/library.so", "site/tvm/lib/libtvm_runtime.so"} <= {file.name for file in own}
        assert not [file.name for file in report.mapped if "torch" in file.name or "compiler" in file.name]
        listening = 1  # waits for a word of the host's while the others compute
        assert report.threads == len(os.sched_getaffinity(0)) + listening == worker_of(enclave).num_threads()


def test_the_report_of_mapped_files_is_the_kernels(image: EnclaveImage) -> None:
    """What the worker says of itself is what root sees from outside."""
    if os.getuid() != 0:
        pytest.skip("only root may look into a worker")
    with launch(image) as enclave:
        seen = {Path(each.path.removesuffix(" (deleted)")).name.removeprefix("memfd:privlib:")
                for each in worker_of(enclave).memory_maps() if each.path.startswith("/")}  # fmt: skip
        assert seen == {Path(file.name).name for file in enclave.report.mapped}


def test_nothing_but_the_channel_is_open_inside(image: EnclaveImage) -> None:
    if os.getuid() != 0:
        pytest.skip("only root may look into a worker")
    with launch(image) as enclave:
        links = [os.readlink(f"/proc/{worker_of(enclave).pid}/fd/{name}")
                 for name in os.listdir(f"/proc/{worker_of(enclave).pid}/fd")]  # fmt: skip
        assert len(links) == 1 and links[0].startswith("socket:")


# A host whose kernel refuses namespaces, Landlock, or both: the same refusal, by a filter on the launching process.
POOR_HOST = """
import ctypes, json, pickle, sys
from privlib.trusted import bpf, sandbox
from privlib.enclave.launcher import launch
from privlib.enclave.errors import MechanismError
import numpy as np
with open(sys.argv[1], "rb") as file:
    image = pickle.load(file)
assert not sandbox.forbid_new_privileges()
EPERM = 0x00050000 | 1  # SECCOMP_RET_ERRNO
code = [bpf._load(0)]
for number in json.loads(sys.argv[2]):
    code += [bpf._jump(number, 0, 1), bpf._return(EPERM)]
assert not sandbox.install(b"".join([*code, bpf._return(bpf.ALLOW)]))
required = json.loads(sys.argv[3])
try:
    with launch(image, **({} if required is None else {"require": required})) as enclave:
        enclave.connect(None).infer(np.zeros((1, 3, 32, 32), np.float32))
        print(json.dumps(enclave.report.missing))
except MechanismError as error:
    print(json.dumps(str(error)))
"""
UNSHARE, LANDLOCK_CREATE = 272, 444


def on_poor_host(image: EnclaveImage, tmp_path: Path, refused: list[int], required: list[str] | None) -> Any:
    import pickle

    (tmp_path / "image").write_bytes(pickle.dumps(image))
    command = [sys.executable, "-c", POOR_HOST, str(tmp_path / "image"), json.dumps(refused), json.dumps(required)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(SOURCES)})
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_what_the_host_lacks_is_recorded(image: EnclaveImage, tmp_path: Path) -> None:
    refused = "Operation not permitted"
    namespaces = [name for name in ALL_MECHANISMS if "namespace" in name]
    expected = dict.fromkeys([*namespaces, "private file system", "landlock"], refused)
    assert on_poor_host(image, tmp_path, [UNSHARE, LANDLOCK_CREATE], None) == expected
    left = [each.name for each in Path("/tmp").glob("privlib-*") if re.fullmatch("privlib-[0-9a-f]{32}", each.name)]
    assert not left, "the unpacked image is left behind"


@pytest.mark.parametrize(
    ("refused", "required"),
    [(UNSHARE, ["network namespace", "private file system"]), (LANDLOCK_CREATE, ["landlock"])],
)
def test_a_required_mechanism_that_is_missing_stops_the_launch(
    image: EnclaveImage, tmp_path: Path, refused: int, required: list[str]
) -> None:
    said = on_poor_host(image, tmp_path, [refused], ["seccomp", *required])
    lacking = ", ".join(f"{name} (Operation not permitted)" for name in required)
    assert f"lacks what is required: {lacking};" in said


def test_a_mechanism_nobody_knows_is_refused(image: EnclaveImage) -> None:
    with pytest.raises(MechanismError, match="moat: no such mechanism; there are .*landlock"):
        launch(image, require=["moat"])


def test_a_platform_nobody_knows_is_refused(image: EnclaveImage) -> None:
    with pytest.raises(PlatformError, match="no platform 'abacus'; there are .*simulated"):
        launch(image, "abacus")


def test_a_swapped_file_never_starts(image: EnclaveImage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import dataclasses

    index = next(i for i, file in enumerate(image.files) if file.name.endswith("libtvm_runtime.so"))
    evil = tmp_path / "libtvm_runtime.so"
    evil.write_bytes(b"\x7fELF evil")
    files = [*image.files]
    files[index] = dataclasses.replace(files[index], path=evil)
    with pytest.raises(ImageError, match="no longer what the image was built from"):
        launch(dataclasses.replace(image, files=tuple(files)))


def test_an_image_its_signer_does_not_answer_for_never_starts(image: EnclaveImage) -> None:
    import dataclasses

    changed = inventory.made("configuration.json", b'{"memory_bytes": 1099511627776, "dataset_bytes": 1}\n')
    files = tuple(changed if file.name == "configuration.json" else file for file in image.files)
    with pytest.raises(ImageError, match="not its signer's"):
        launch(dataclasses.replace(image, files=files))


def test_a_host_file_changed_while_it_is_loaded_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "libpython.so"
    path.write_bytes(b"good")
    watched = simulated.HostFile(inventory._on_disk("host/libpython.so", path))
    watched.check()
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    path.write_bytes(b"evil")
    os.utime(path, ns=times)  # the time of the last change is the kernel's, and stays
    with pytest.raises(ImageError, match="was changed while it was loaded"):
        watched.check()
    path.write_bytes(b"good")
    with pytest.raises(ImageError, match="was changed"):
        watched.check()
    watched.close()


def test_a_worker_that_maps_what_its_image_does_not_list_never_serves(
    image: EnclaveImage, signer: Signer, tmp_path: Path
) -> None:
    """It cannot reach the host's files; what it makes itself and maps as code is noticed."""
    sources = clone(tmp_path)
    worker = sources / "privlib" / "trusted" / "serving.py"
    made = (
        "    import mmap\n    own = os.memfd_create('own')\n    os.write(own, bytes(4096))\n"
        "    globals()['kept'] = mmap.mmap(own, 4096, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_EXEC)\n"
        "    files, whole = process.mapped()\n"
    )
    worker.write_text(worker.read_text().replace("    files, whole = process.mapped()\n", made))
    with pytest.raises(LaunchError, match="maps /memfd:own .*not in its image"):
        launch(image_of(sources, image, signer))


def test_a_worker_that_fails_to_start_says_why(image: EnclaveImage, signer: Signer, tmp_path: Path) -> None:
    sources = clone(tmp_path)
    loader = sources / "privlib" / "trusted" / "loader.py"
    broken = "def unpack(*_):\n    raise OSError('no room')\n\ndef _("
    loader.write_text(loader.read_text().replace("def unpack(", broken, 1))
    with pytest.raises(LaunchError, match="(?s)ended before it was ready.*no room"):
        launch(image_of(sources, image, signer))


def test_a_worker_that_says_nothing_is_ended(
    image: EnclaveImage, signer: Signer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = clone(tmp_path)
    loader = sources / "privlib" / "trusted" / "loader.py"
    silent = "def unpack(*_):\n    import time\n    time.sleep(3600)\n\ndef _("
    loader.write_text(loader.read_text().replace("def unpack(", silent, 1))
    monkeypatch.setattr(base, "SILENCE_SECONDS", 0.5)
    before = set(psutil.Process().children(recursive=True))
    with pytest.raises(LaunchTimeout, match="said nothing for 0.5 s"):
        launch(image_of(sources, image, signer))
    assert set(psutil.Process().children(recursive=True)) == before


@pytest.mark.parametrize("who", ["worker", "waiter"])
def test_death_during_a_request_is_noticed_at_once(
    training_image: EnclaveImage, training_policy: QuotePolicy, provider: Provider, state: StateStore, who: str
) -> None:
    with launch(training_image, state=state) as enclave:
        session = enclave.connect(training_policy)
        provider.release_to(session)
        worker = worker_of(enclave)
        victim = worker if who == "worker" else psutil.Process(worker.ppid())
        timer = threading.Timer(0.5, victim.kill)
        timer.start()
        started = time.monotonic()
        with pytest.raises(EnclaveDied, match="ended during 'train': SIGKILL"):
            session.train(request(provider, steps=100_000))
        assert time.monotonic() - started < 30  # the epoch would take many minutes
        timer.join()
        assert not enclave.alive
        with pytest.raises(EnclaveDied, match="SIGKILL"):
            session.status()
        worker.wait(10)


def test_death_between_requests_is_noticed(image: EnclaveImage) -> None:
    with launch(image) as enclave:
        assert enclave.alive
        worker_of(enclave).send_signal(signal.SIGKILL)
        with pytest.raises(EnclaveDied, match="SIGKILL: it was killed"):
            enclave.connect(None).infer(IMAGES)
        assert not enclave.alive


def test_closing_an_enclave_wakes_whoever_waits_for_it(
    training_image: EnclaveImage, training_policy: QuotePolicy, provider: Provider, state: StateStore
) -> None:
    enclave = launch(training_image, state=state)
    session, caught = enclave.connect(training_policy), []
    provider.release_to(session)

    def ask() -> None:
        with pytest.raises(EnclaveDied) as error:
            session.train(request(provider, steps=100_000))
        caught.append(error.value)

    thread = threading.Thread(target=ask)
    thread.start()
    time.sleep(0.3)
    enclave.close()
    thread.join(30)
    assert len(caught) == 1
    enclave.close()
    with pytest.raises(EnclaveDied):
        session.status()


def test_an_enclave_ends_with_its_launcher(image: EnclaveImage, tmp_path: Path) -> None:
    import pickle

    (tmp_path / "image").write_bytes(pickle.dumps(image))
    code = (
        "import pickle, psutil, sys, os\nfrom privlib.enclave.launcher import launch\n"
        "e = launch(pickle.load(open(sys.argv[1], 'rb')))\n"
        "print([e._process.pid, psutil.Process(e._process.pid).children()[0].pid], flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    command = [sys.executable, "-W", "ignore", "-c", code, str(tmp_path / "image")]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(SOURCES)})
    assert done.returncode == -signal.SIGKILL, done.stderr
    pids = json.loads(done.stdout)
    deadline = time.monotonic() + 30
    while any(map(psutil.pid_exists, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(psutil.pid_exists, pids))


def test_a_quote_states_what_was_launched_and_the_nonce_it_was_asked_with(
    image: EnclaveImage, root: SimulatedRoot
) -> None:
    nonce = bytes(range(32))
    policy = QuotePolicy(measurements=frozenset({image.measurement}), root=root.certificate)
    with launch(image) as enclave:
        verdict = verify_quote(enclave.quote(nonce), policy.fresh(b"", nonce, IDENTITY), enclave.collateral)
        assert (verdict.signer, verdict.product_id, verdict.svn) == (image.signature.mr_signer, 1, 1)
        with pytest.raises(LaunchError, match="32 bytes, got 31"):
            enclave.quote(nonce[:-1])
    with launch(image, debug=True) as enclave, pytest.raises(DebugError):
        verify_quote(enclave.quote(nonce), policy, enclave.collateral)


def test_a_platform_may_have_a_root_of_its_own(image: EnclaveImage, policy: QuotePolicy) -> None:
    own = SimulatedRoot.create()
    with launch(image, SimulatedPlatform(root=own)) as enclave:
        with pytest.raises(EvidenceError):
            enclave.connect(policy)
        assert enclave.connect(replace(policy, root=own.certificate)).verdict


def grown(image: EnclaveImage, launches: int, requests: int) -> dict[str, int]:
    """How many processes and descriptors, and how much memory, a process has gained."""
    own = psutil.Process()

    def state() -> dict[str, int]:
        return {
            "processes": len(own.children(recursive=True)),
            "descriptors": own.num_fds(),
            "bytes": own.memory_info().rss,
        }

    def use(requests: int) -> None:
        with launch(image) as enclave:
            session = enclave.connect(None)
            for _ in range(requests):
                session.infer(IMAGES)

    use(requests)
    before = state()
    for _ in range(launches):
        use(1)
    use(requests)
    after = state()
    return {name: after[name] - before[name] for name in before}


def test_nothing_is_left_behind(image: EnclaveImage) -> None:
    gained = grown(image, 2, 100)
    assert (gained["processes"], gained["descriptors"]) == (0, 0)
    assert gained["bytes"] < 16 << 20


@pytest.mark.soak
def test_nothing_is_left_behind_by_a_thousand_launches_and_ten_thousand_requests(image: EnclaveImage) -> None:
    gained = grown(image, 1000, 10_000)
    assert (gained["processes"], gained["descriptors"]) == (0, 0)
    assert gained["bytes"] < 16 << 20


@pytest.mark.soak
def test_a_worker_does_not_grow_over_ten_thousand_requests(image: EnclaveImage) -> None:
    with launch(image) as enclave:
        session, worker = enclave.connect(None), worker_of(enclave)
        for _ in range(100):
            session.infer(IMAGES)
        before = worker.memory_info().rss
        for number in range(10_000):
            if number % 2:
                session.infer(IMAGES)
            else:
                with pytest.raises(Exception, match="is no request"):
                    session.request(Message("nonsense"))
        assert worker.memory_info().rss - before < 4 << 20
