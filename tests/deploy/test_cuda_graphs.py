from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from weakaudio.deploy import cuda_graphs as graphs
from weakaudio.deploy.cuda_graphs import GraphedModel, capture
from weakaudio.errors import WeakAudioError
from weakaudio.networks import FlashCNN, MobileNet, Network
from weakaudio.networks.model import Model

STAGES = (("dense", 1, 4), ("dense", 1, 8), ("dense", 1, 8), ("dense", 1, 16))
LABELS = list("abc")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.fixture(scope="module")
def model(randomise: Callable[[Network], Network]) -> Model:
    return Model(randomise(FlashCNN(3, 64, STAGES, 8)), "16k", LABELS).eval()


def noise(clips: int, samples: int) -> Tensor:
    return 0.1 * torch.randn(clips, samples, generator=torch.Generator().manual_seed(samples))


def stand_in(self: GraphedModel, seconds: float) -> graphs._Bucket:
    """Stand-in for a GPU: the same work on the same memory, on a CPU."""
    fe = self.model.front_end
    logmel = torch.zeros(self.batch, fe.n_frames(round(seconds * fe.sample_rate)), fe.n_mels)
    lengths = torch.full((self.batch,), logmel.shape[1])
    output = self.model.network(logmel, lengths)

    def replay() -> None:
        for old, new in zip(output, self.model.network(logmel, lengths), strict=True):
            old.copy_(new)

    return graphs._Bucket(logmel, lengths, replay, output)


@pytest.fixture
def on_a_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GraphedModel, "_capture", torch.inference_mode()(stand_in))


@pytest.mark.usefixtures("on_a_processor")
def test_clips_of_any_length_and_number_go_into_a_bucket_and_come_out_as_they_are(model: Model) -> None:
    """Also after longer and louder ones, which leave their values in the same memory."""
    graphed = GraphedModel(model, seconds=(0.5, 2.0), batch=3, device="cpu")
    kept = []
    for clips, samples in ((3, 32000), (1, 20000), (2, 8000), (3, 8000), (1, 1), (2, 31999)):
        waveform = noise(clips, samples)
        with torch.inference_mode():
            kept.append((graphed(waveform), model(waveform)))
    lengths = torch.tensor([20000, 7000])
    waveform = noise(2, 20000) * (torch.arange(20000) < lengths[:, None])
    with torch.inference_mode():
        kept.append((graphed(waveform, lengths), model(waveform, lengths)))
    for found, expected in kept:  # only now: a replay must not write over earlier results
        torch.testing.assert_close(found.clip_probs, expected.clip_probs, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(found.mask, expected.mask)
        own = expected.mask
        for name in ("segment_logits", "embeddings"):
            torch.testing.assert_close(
                getattr(found, name)[own], getattr(expected, name)[own], atol=1e-5, rtol=1e-5, msg=name
            )


@pytest.mark.usefixtures("on_a_processor")
def test_clips_that_fit_no_bucket_are_refused(model: Model) -> None:
    graphed = GraphedModel(model, seconds=(0.5, 1.0), batch=2, device="cpu")
    with pytest.raises(WeakAudioError, match=r"clips of 1.5 s: the longest of these CUDA graphs is for 1 s"):
        graphed(noise(1, 24000))
    for clips in (0, 3):
        with pytest.raises(WeakAudioError, match=f"{clips} clips: these CUDA graphs are for 1 to 2"):
            graphed(torch.zeros(clips, 100))


def test_a_processor_is_refused(model: Model) -> None:
    with pytest.raises(WeakAudioError, match=r"device cpu: CUDA graphs need a GPU; on a CPU use"):
        GraphedModel(model, device="cpu")
    with pytest.raises(WeakAudioError, match="CUDA graphs need a GPU"):
        capture(lambda: None, torch.device("cpu"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_missing_gpu_is_reported(model: Model) -> None:
    with pytest.raises(WeakAudioError, match="device 'cuda': not available"):
        GraphedModel(model)


@pytest.mark.parametrize("seconds", [(), (0.0,), (1.0, -1.0), (float("inf"),)])
def test_invalid_buckets_are_refused(model: Model, seconds: tuple[float, ...]) -> None:
    with pytest.raises(WeakAudioError, match="expected some, all above 0"):
        GraphedModel(model, seconds=seconds)


def test_a_batch_of_no_clips_is_refused(model: Model) -> None:
    with pytest.raises(WeakAudioError, match="a batch of 0 clips"):
        GraphedModel(model, batch=0)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize(
    "make",
    [lambda: FlashCNN(3, 64, STAGES, 8), lambda: MobileNet(3, n_mels=64, width=0.1)],
    ids=["flash", "mobilenet"],
)
def test_a_graph_computes_what_the_network_does(
    make: Callable[[], Network], randomise: Callable[[Network], Network]
) -> None:
    model = Model(randomise(make()), "16k", LABELS).eval()
    graphed = GraphedModel(model, seconds=(0.5, 2.0), batch=2)
    on_gpu = Model(model.network, "16k", LABELS).cuda()
    kept = []
    for clips, samples in ((2, 32000), (1, 20000), (2, 8000), (1, 31999)):
        waveform = noise(clips, samples)
        with torch.inference_mode():
            kept.append((graphed(waveform), on_gpu(waveform.cuda())))
    for found, expected in kept:
        torch.testing.assert_close(found.clip_probs, expected.clip_probs, atol=1e-3, rtol=1e-3)  # TF32
        torch.testing.assert_close(found.embeddings, expected.embeddings, atol=1e-2, rtol=1e-2)


@pytest.mark.gpu
@needs_gpu
def test_a_job_that_reads_a_value_back_from_the_gpu_is_refused() -> None:
    x = torch.ones(3, device="cuda")
    with pytest.raises(WeakAudioError, match="cannot be captured in a CUDA graph"):
        capture(lambda: float(x.sum()), x.device)
