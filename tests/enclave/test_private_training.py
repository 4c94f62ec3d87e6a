"""Training inside, end to end: providers who release under terms, a budget that holds through crashes and rollbacks,
and a host that learns nothing from what passes."""

import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from privlib.enclave.datasets import EncryptedDataset
from privlib.enclave.errors import EnclaveDied, RequestRefused
from privlib.enclave.image import EnclaveImage
from privlib.enclave.launcher import Enclave, launch
from privlib.enclave.policy import QuotePolicy
from privlib.enclave.refusals import MeasurementError
from privlib.enclave.release import verify_release
from privlib.enclave.state import StateStore
from privlib.trusted import TrainingStep, load
from privlib.trusted.protocol import decode
from privlib.trusted.terms import Terms
from tests.enclave.hosts import Meddler
from tests.enclave.providers import Provider, request


@pytest.fixture(scope="module")
def trainer(training_image: EnclaveImage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Enclave]:
    with launch(training_image, state=StateStore(tmp_path_factory.mktemp("state"))) as running:
        yield running


def test_an_epoch_of_dp_sgd_moves_the_parameters_and_says_what_it_cost(
    training_image: EnclaveImage, training_policy: QuotePolicy, provider: Provider, state: StateStore,
    training_artifact: Path,
) -> None:  # fmt: skip
    step = load(training_artifact)
    assert isinstance(step, TrainingStep)
    before = step.parameters()
    with launch(training_image, state=state) as enclave, enclave.connect(training_policy) as session:
        assert provider.release_to(session) == 100
        release = session.train(request(provider, steps=3))
    found = verify_release(release.encode(), training_policy)
    assert release.parameters.keys() == before.keys() == found.parameters.keys()
    for name, value in release.parameters.items():
        assert value.shape == before[name].shape and np.isfinite(value).all()
        assert not np.array_equal(value, before[name]), name
    # Three steps of noise with standard deviation 1/16 each, momentum 0.9, learning rate 0.1: about 0.029 a weight.
    moved = np.concatenate([(value - before[name]).ravel() for name, value in release.parameters.items()])
    assert moved.std() == pytest.approx(0.1 / 16 * np.sqrt(1 + 1.9**2 + (1 + 0.9 + 0.81) ** 2), rel=0.1)
    (claim,) = found.datasets
    (event,) = claim.events
    assert (found.program, found.program_in_image, found.updates) == (step.digest, True, 3)
    assert (claim.dataset, claim.delta, event.steps, event.largest_batch) == (provider.digest, 1e-5, 3, 48)
    assert 0 < claim.epsilon < 4 and event.sampling == "truncated_poisson" and 0.9999 < event.noise_multiplier < 1


def test_two_epochs_do_not_share_their_noise(
    trainer: Enclave, training_policy: QuotePolicy, provider: Provider
) -> None:
    session = trainer.connect(training_policy)
    provider.release_to(session)
    first, second, third = (session.train(request(provider, steps=1)).parameters for _ in range(3))
    for name in first:
        assert not np.array_equal((second[name] - first[name]).ravel(), (third[name] - second[name]).ravel())


def test_training_waits_until_every_provider_has_released(
    training_image: EnclaveImage, training_policy: QuotePolicy, provider: Provider, other_provider: Provider,
    state: StateStore,
) -> None:  # fmt: skip
    """Each with its own key, policy and session; the consumer has another session."""
    both = request(provider, other_provider)
    with launch(training_image, state=state) as enclave, enclave.connect(training_policy) as consumer:
        provider.release_to(enclave.connect(training_policy))
        with pytest.raises(RequestRefused, match=f"ConsentError: not released yet: {other_provider.digest}"):
            consumer.train(both)
        assert not state.folder.exists()  # nothing was charged either
        other_provider.release_to(enclave.connect(training_policy))
        assert consumer.status()["rows"] == {provider.digest: 100, other_provider.digest: 60}
        found = verify_release(consumer.train(both).encode(), training_policy)
    assert [each.dataset for each in found.datasets] == sorted((provider.digest, other_provider.digest))
    assert {event.dataset_size for each in found.datasets for event in each.events} == {161}


def test_a_provider_releases_nothing_to_a_measurement_it_does_not_know(
    trainer: Enclave, training_policy: QuotePolicy, other_provider: Provider
) -> None:
    """The provider's own policy counts, also where its session has let the enclave pass."""
    session = trainer.connect(training_policy)
    assert session._verifier
    other = replace(training_policy, measurements=frozenset({bytes(32)}))
    session._verifier = replace(session._verifier, policy=other)
    with pytest.raises(MeasurementError):
        other_provider.release_to(session)
    assert other_provider.digest not in session.status()["rows"]


def test_another_file_in_a_dataset_s_place_is_refused(
    trainer: Enclave, training_policy: QuotePolicy, provider: Provider, other_provider: Provider, tmp_path: Path
) -> None:
    session, data = trainer.connect(training_policy), bytearray(other_provider.dataset.path.read_bytes())
    damage = {
        "DatasetKeyError": provider.dataset.path.read_bytes(),
        "DatasetTruncatedError": bytes(data[:-1]),
        "DatasetFormatError": bytes(data) + b"more",
        "DatasetChunkError": bytes(data[:-1]) + bytes([data[-1] ^ 1]),
        "HostError": None,
    }
    for error, content in damage.items():
        path = tmp_path / error
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(RequestRefused) as caught:
            session.provision(other_provider.key, replace(other_provider.dataset, path=path))
        assert caught.value.type == error
    with pytest.raises(RequestRefused) as caught:  # other terms than it was encrypted under
        session.provision(other_provider.key, replace(other_provider.dataset, terms=Terms(2e6)))
    assert caught.value.type == "DatasetKeyError"
    assert other_provider.digest not in session.status()["rows"]


def test_a_dataset_that_does_not_fit_or_is_none_is_refused(
    trainer: Enclave, training_policy: QuotePolicy, tmp_path: Path
) -> None:
    from privlib.enclave.datasets import encrypt_dataset, encrypt_examples

    session, key, terms = trainer.connect(training_policy), bytes(32), Terms(1.0)
    large = Provider(tmp_path / "large", 1300, terms)
    with pytest.raises(RequestRefused, match="ProvisionError: .*do not fit"):
        large.release_to(session)
    encrypt_dataset(tmp_path / "text", [b"no examples"], key, terms.encode())
    wrong = {
        "text": EncryptedDataset.at(tmp_path / "text", terms),
        "shape": encrypt_examples(tmp_path / "s", np.zeros((4, 5), np.float32), np.zeros(4, np.int64), key, terms),
        "labels": encrypt_examples(tmp_path / "l", np.zeros((1, 3, 32, 32), np.float32), np.array([10]), key, terms),
    }
    for dataset in wrong.values():
        with pytest.raises(RequestRefused, match="InputError"):
            session.provision(key, dataset)


def test_the_budget_stops_a_run_before_anything_is_charged(
    training_image: EnclaveImage, training_policy: QuotePolicy, state: StateStore, tmp_path: Path
) -> None:
    provider = Provider(tmp_path / "data", 50, Terms(4.0))
    with launch(training_image, state=state) as enclave, enclave.connect(training_policy) as session:
        provider.release_to(session)
        spent = verify_release(session.train(request(provider, steps=3)).encode(), training_policy)
        stored = {path.name: path.read_bytes() for path in state.folder.iterdir()}
        with pytest.raises(RequestRefused, match="BudgetError: .*there is room for [1-9]") as caught:
            session.train(request(provider, steps=500))
        assert caught.value.type == "BudgetError"
        assert {path.name: path.read_bytes() for path in state.folder.iterdir()} == stored
        assert session.status()["updates"] == 3
        room = int(str(caught.value).split("room for ")[1].split()[0])
        last = verify_release(session.train(request(provider, steps=room)).encode(), training_policy)
        assert spent.datasets[0].epsilon < last.datasets[0].epsilon <= 4.0
        with pytest.raises(RequestRefused, match="room for 0"):
            session.train(request(provider, steps=1))


def worker_of(enclave: Enclave) -> psutil.Process:
    process: Any = enclave._process
    (worker,) = psutil.Process(process.pid).children()
    return worker


def test_a_killed_epoch_stays_charged_whole(
    training_image: EnclaveImage, training_policy: QuotePolicy, provider: Provider, state: StateStore
) -> None:
    with launch(training_image, state=state) as enclave, enclave.connect(training_policy) as session:
        provider.release_to(session)
        worker = worker_of(enclave)

        def kill() -> None:
            while not any(state.folder.glob("*.register")):  # charged: the epoch begins
                time.sleep(0.01)
            worker.kill()

        thread = threading.Thread(target=kill)
        thread.start()
        with pytest.raises(EnclaveDied, match="during 'train': SIGKILL"):
            session.train(request(provider, steps=70_000))
        thread.join()
    with launch(training_image, state=state) as enclave, enclave.connect(training_policy) as session:
        provider.release_to(session)
        found = verify_release(session.train(request(provider, steps=2)).encode(), training_policy)
    assert found.updates == 2
    assert sum(event.steps for event in found.datasets[0].events) == 70_002


def test_an_old_or_missing_ledger_is_refused(
    training_image: EnclaveImage, training_policy: QuotePolicy, provider: Provider, state: StateStore, tmp_path: Path
) -> None:
    with launch(training_image, state=state) as enclave, enclave.connect(training_policy) as session:
        provider.release_to(session)
        session.train(request(provider, steps=1))
        (sealed,) = state.folder.glob("*.sealed")
        shutil.copy(sealed, tmp_path / "old")
        session.train(request(provider, steps=1))
        newest = sealed.read_bytes()
        for content in ((tmp_path / "old").read_bytes(), None):
            sealed.unlink()
            if content is not None:
                sealed.write_bytes(content)
            with pytest.raises(RequestRefused) as caught:
                session.train(request(provider, steps=1))
            assert caught.value.type == "RollbackError"
            sealed.write_bytes(newest)
        sealed.write_bytes(newest[:-1] + bytes([newest[-1] ^ 1]))
        with pytest.raises(RequestRefused) as caught:
            session.train(request(provider, steps=1))
        assert caught.value.type == "SealAlteredError"
        sealed.write_bytes(newest)
        assert session.status()["updates"] == 2
        session.train(request(provider, steps=1))


def test_cancelled_training_releases_nothing_and_stays_charged(
    training_image: EnclaveImage, training_policy: QuotePolicy, provider: Provider, state: StateStore
) -> None:
    with launch(training_image, state=state) as enclave, enclave.connect(training_policy) as session:
        provider.release_to(session)
        seen: list[dict[str, Any]] = []

        def cancel() -> None:
            while not any(state.folder.glob("*.register")):
                time.sleep(0.01)
            seen.append(session.status())
            session.cancel()

        session.cancel()  # nothing is under way: nothing happens
        thread = threading.Thread(target=cancel)
        thread.start()
        with pytest.raises(RequestRefused, match="cancelled after [0-9]+ of 60000 updates") as caught:
            session.train(request(provider, steps=60_000))
        thread.join()
        assert caught.value.type == "CancelledError"
        assert seen[0]["busy"] == "train" and seen[0]["seconds"] > 0
        done = session.status()["updates"]
        assert done < 60_000
        found = verify_release(session.train(request(provider, steps=1)).encode(), training_policy)
        assert sum(event.steps for event in found.datasets[0].events) == 60_001 and found.updates == done + 1


def trace(enclave: Enclave, policy: QuotePolicy, providers: list[Provider], steps: int, rate: float) -> list[Any]:
    """Kind, direction and size of everything that passes during training."""
    session = enclave.connect(policy)
    for each in providers:
        each.release_to(session)
    host = Meddler(enclave)
    passed: list[Any] = []

    def note(way: str) -> Any:
        def noted(message: Any) -> Any:
            passed.append((way, message.kind, message.fields.get("call", "")))
            return message

        return noted

    host.to_enclave, host.to_client = note("in"), note("out")
    session.train(request(*providers, steps=steps, sample_rate=rate))
    sizes = {"in": iter(map(len, host.sent)), "out": iter(map(len, host.received))}
    return [(*each, next(sizes[each[0]])) for each in passed]


def test_what_the_host_sees_does_not_depend_on_the_data_or_the_sample(
    training_image: EnclaveImage, training_policy: QuotePolicy, tmp_path: Path
) -> None:
    """Other data, other samples (of 2 or of 32 examples each): the same frames, of the same sizes, in the same order;
    and none at all between the charge and the release, however many steps there are."""
    terms, traces = Terms(None), []
    for number, (seed, steps, rate) in enumerate([(0, 3, 0.32), (1, 3, 0.02), (2, 7, 0.32)]):
        provider = Provider(tmp_path / f"data{number}", 100, terms, seed)
        with launch(training_image, state=StateStore(tmp_path / f"state{number}")) as enclave:
            traces.append(trace(enclave, training_policy, [provider], steps, rate))

    def shapes(found: list[Any]) -> list[Any]:
        return [each[:3] for each in found]

    assert shapes(traces[0]) == shapes(traces[1]) == shapes(traces[2])
    during = [each[2] for each in traces[0] if each[0] == "out" and each[1] == "host"]
    assert during == ["keys", "load", "register", "register", "store", "register", "advance", "quote"]


def test_the_same_request_on_other_data_has_the_same_trace_to_the_byte(
    training_image: EnclaveImage, training_policy: QuotePolicy, tmp_path: Path
) -> None:
    traces = []
    for seed in range(2):
        provider = Provider(tmp_path / f"data{seed}", 100, Terms(None), seed)
        with launch(training_image, state=StateStore(tmp_path / f"state{seed}")) as enclave:
            traces.append(trace(enclave, training_policy, [provider], 3, 0.16))
    assert traces[0] == traces[1]


def test_only_the_consumers_that_the_terms_name_may_train(
    training_image: EnclaveImage, training_policy: QuotePolicy, state: StateStore, tmp_path: Path
) -> None:
    consumer, stranger = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    terms = Terms(100.0, consumers=frozenset({consumer.public_key().public_bytes_raw()}))
    provider, open_to_all = Provider(tmp_path / "data", 40, terms), Provider(tmp_path / "other", 40, Terms(100.0))
    with launch(training_image, state=state) as enclave:
        provider.release_to(enclave.connect(training_policy))
        open_to_all.release_to(enclave.connect(training_policy))
        for identity in (None, stranger):
            with pytest.raises(RequestRefused, match="ConsentError: a provider's terms do not name this client"):
                enclave.connect(training_policy, identity=identity).train(request(provider))
        with pytest.raises(RequestRefused, match="ConsentError"):
            enclave.connect(None).train(request(provider))
        enclave.connect(training_policy, identity=consumer).train(request(provider))
        with pytest.raises(RequestRefused, match="hold what other consumers had trained"):
            enclave.connect(training_policy, identity=stranger).train(request(open_to_all))


def test_offers_serve_once(trainer: Enclave, training_policy: QuotePolicy, provider: Provider) -> None:
    session = trainer.connect(training_policy)
    host = Meddler(trainer)
    provider.release_to(session)
    assert provider.key not in host.seen
    sent = [decode(each) for each in host.sent if b'"record"' in each]
    assert len(sent) == 2  # the offer's, and the key's; the ciphertext goes as it lies
