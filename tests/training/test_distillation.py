from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from weakaudio.errors import ProtocolError, WeakAudioError
from weakaudio.networks import Network, build_network
from weakaudio.networks.model import Model
from weakaudio.pretrained.checkpoint import save_model
from weakaudio.pretrained.registry import load_model
from weakaudio.training.distillation import Distiller

LABELS = ["dog", "rain", "saw"]
STAGES = [["dense", 1, 4], ["dense", 1, 8], ["dense", 1, 8], ["dense", 1, 16]]


@pytest.fixture
def teacher(tmp_path: Path, randomise: Callable[[Network], Network]) -> Path:
    network = randomise(build_network("mobilenet", n_classes=3, width=0.1))
    save_model(Model(network, "efficientat-32k", LABELS), tmp_path / "teacher.safetensors")
    return tmp_path / "teacher.safetensors"


def distiller(teacher: Path, network: str = "flash", **more: object) -> Distiller:
    torch.manual_seed(0)
    config = {"stages": STAGES, "n_features": 24} if network == "flash" else {"width": 0.1}
    return Distiller(str(teacher), network, config, **{"steps": 100, "warmup": 10, **more})  # type: ignore[arg-type]


def noise(n_clips: int = 4) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return 0.1 * torch.randn(n_clips, 32000, generator=generator)


def test_every_term_of_the_loss_falls_on_repeated_audio(teacher: Path) -> None:
    student, audio = distiller(teacher, learning_rate=1e-2, warmup=0), noise()
    optimizer = student.configure_optimizers()["optimizer"]  # type: ignore[index,call-overload]

    def losses() -> dict[str, float]:
        return {name: float(value.detach()) for name, value in student.losses(audio).items()}

    first = losses()
    for _ in range(60):
        optimizer.zero_grad()
        torch.stack(list(student.losses(audio).values())).sum().backward()
        optimizer.step()
    last = losses()
    assert first.keys() == last.keys() == {"scores", "embedding", "maps"}
    for name in first:
        assert last[name] < 0.7 * first[name], name


def test_a_target_over_time_is_learnt_by_a_head_with_finer_scores(teacher: Path, tmp_path: Path) -> None:
    """The class of a tone, where it sounds; a student without that head may be the start of one with it."""
    start = distiller(teacher)
    save_model(start.model, tmp_path / "start.safetensors")
    config = {"stages": STAGES, "n_features": 24, "score_stride": 4, "score_width": 16}
    more = {"learning_rate": 1e-2, "init_from": str(tmp_path / "start.safetensors")}
    student = Distiller(str(teacher), "flash", config, steps=100, warmup=0, **more)  # type: ignore[arg-type]
    for name, tensor in start.model.network.state_dict().items():
        torch.testing.assert_close(student.model.network.state_dict()[name], tensor)
    audio, times = 0.1 * noise(), student.model.score_times(32000)
    targets = torch.zeros(4, len(times), 3)
    for n, first in enumerate((5000, 12000, 18000, 24000)):
        audio[n, first : first + 8000] += torch.sin(torch.arange(8000) * 0.3)
        middles = torch.from_numpy(times.mean(1) * 32000)
        targets[n, (middles >= first) & (middles < first + 8000), 1] = 1.0
    optimizer = student.configure_optimizers()["optimizer"]  # type: ignore[index,call-overload]
    for _ in range(150):
        optimizer.zero_grad()
        student.losses(audio, targets)["targets"].backward()
        optimizer.step()
    with torch.no_grad():
        probs = student.model(audio).segment_logits.sigmoid()
    assert probs[targets == 1].mean() > 0.8
    assert probs[..., 1][targets[..., 1] == 0].mean() < 0.2
    total = student.training_step([audio, targets], 0)
    parts = student.losses(audio, targets)
    weights = {"scores": 0.3, "targets": 0.3, "embedding": 2.0, "maps": 8.0}
    expected = sum(weights[name] * float(value) for name, value in parts.items())
    assert float(total) == pytest.approx(expected, rel=1e-4)


def around(embeddings: torch.Tensor, n: int, width: int) -> torch.Tensor:
    """Mean of `width` segments around the n-th, within the clip."""
    start = min(max(n - width // 2, 0), max(len(embeddings) - width, 0))
    return embeddings[start : start + width].mean(0)


def test_the_score_term_covers_clips_and_segments(teacher: Path) -> None:
    """Against a plain loop."""
    student = distiller(teacher).eval()
    audio = noise(2).repeat(1, 4)
    with torch.no_grad():
        found = float(student.losses(audio)["scores"])
        logmel, _ = student.model.logmel(audio)
        net, theirs = student.model.network, load_model(teacher).network
        ours, embeddings = net.forward_features(logmel)[0], theirs.forward_features(logmel)[0]

        def divergence(logits: torch.Tensor, target_logits: torch.Tensor) -> float:
            p, q = target_logits.sigmoid().double().numpy(), logits.sigmoid().double().numpy()
            return float((p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).sum())

        clips = segments = 0.0
        for clip in range(2):
            of_clip = theirs.forward_head(embeddings[clip].mean(0))
            clips += divergence(net.forward_head(ours[clip].mean(0)), of_clip) / 2
            for n in range(ours.shape[1]):
                low = torch.stack([theirs.forward_head(around(embeddings[clip], n, width)) for width in (3, 9)])
                segments += divergence(net.forward_head(ours[clip, n]), low.amin(0)) / (2 * ours.shape[1])
    assert found == pytest.approx(clips + segments / 2, rel=1e-4)


def standardised(x: torch.Tensor, dims: tuple[int, ...]) -> torch.Tensor:
    return (x - x.mean(dims, keepdim=True)) / (x.var(dims, correction=0, keepdim=True) + 1e-5).sqrt()


def test_embedding_and_map_terms_use_the_teachers_standardised_by_channel(teacher: Path) -> None:
    student = distiller(teacher).eval()
    with torch.no_grad():
        found = student.losses(noise())
        logmel, _ = student.model.logmel(noise())
        ours, theirs = student.model.network.forward_maps(logmel), load_model(teacher).network.forward_maps(logmel)
        clip = student.adapter(ours.embeddings.mean(1)) - standardised(theirs.embeddings.mean(1), (0,))
        segment = student.adapter(ours.embeddings) - standardised(theirs.embeddings, (0, 1))
        maps = [
            (adapter(mine) - standardised(its, (0, 2, 3))).square().mean()
            for adapter, mine, its in zip(student.map_adapters, ours.maps, theirs.maps, strict=True)
        ]
    assert len(maps) == 4
    assert float(found["embedding"]) == pytest.approx(
        float(clip.square().mean() + segment.square().mean() / 2), rel=1e-3
    )
    assert float(found["maps"]) == pytest.approx(float(torch.stack(maps).mean()), rel=1e-3)


def test_a_decimated_student_learns_local_means_of_the_teachers_outputs(teacher: Path) -> None:
    """A second and a half: the last segment has half the frames."""
    student = distiller(teacher, frame_stride=2).eval()
    audio = noise().repeat(1, 2)[:, :48000]
    assert student.model.front_end.hop_length == 640
    with torch.no_grad():
        found = student.losses(audio)
        logmel, _ = load_model(teacher).logmel(audio)
        ours = student.model.network.forward_maps(student.model.logmel(audio)[0])
        net, theirs = load_model(teacher).network, load_model(teacher).network.forward_maps(logmel)
        assert (theirs.embeddings.shape[1], ours.embeddings.shape[1]) == (5, 3)

        def halved(x: torch.Tensor, dim: int) -> torch.Tensor:
            rows, made = x.unbind(dim), []
            for n in range(0, len(rows), 2):
                around = [rows[n], rows[n], *rows[max(n - 1, 0) : n], *rows[n + 1 : n + 2]]
                made.append(torch.stack(around).mean(0))
            return torch.stack(made, dim)

        segments = halved(net.score_segments(theirs.embeddings, theirs.mask).sigmoid(), 1)
        clips = net.forward_head(theirs.embeddings.mean(1)).sigmoid()

        def divergence(logits: torch.Tensor, p: torch.Tensor) -> float:
            return float((p * (p / logits.sigmoid()).log() + (1 - p) * ((1 - p) / (-logits).sigmoid()).log()).sum())

        head = student.model.network.forward_head
        scores = divergence(head(ours.embeddings.mean(1)), clips) / 4
        scores += divergence(head(ours.embeddings), segments) / (2 * 4 * 3)
        maps = [
            (adapter(mine) - standardised(halved(its, 2), (0, 2, 3))).square().mean()
            for adapter, mine, its in zip(student.map_adapters, ours.maps, theirs.maps, strict=True)
        ]
        clip = student.adapter(ours.embeddings.mean(1)) - standardised(theirs.embeddings.mean(1), (0,))
        segment = student.adapter(ours.embeddings) - standardised(halved(theirs.embeddings, 1), (0, 1))
    assert float(found["scores"]) == pytest.approx(scores, rel=1e-3)
    assert float(found["maps"]) == pytest.approx(float(torch.stack(maps).mean()), rel=1e-3)
    assert float(found["embedding"]) == pytest.approx(
        float(clip.square().mean() + segment.square().mean() / 2), rel=1e-3
    )


def test_a_student_is_initialised_from_another_model(teacher: Path, tmp_path: Path) -> None:
    """Its hop may differ; its network, classes and log-mel may not."""
    first = distiller(teacher)
    torch.nn.init.normal_(first.model.network.classifier.weight)
    path = str(tmp_path / "first.safetensors")
    save_model(first.model, path)
    second = distiller(teacher, frame_stride=2, init_from=path)
    for name, value in first.model.network.state_dict().items():
        assert torch.equal(second.model.network.state_dict()[name], value), name
    with pytest.raises(ProtocolError, match=r"first\.safetensors: .*network \('FlashCNN'.*expected \('MobileNet"):
        distiller(teacher, network="mobilenet", init_from=path)
    other = replace(first.model.front_end, f_max=7000.0)
    save_model(Model(first.model.network, other, first.model.labels), path)
    with pytest.raises(ProtocolError, match=r"log-mel .*f_max=7000"):
        distiller(teacher, init_from=path)
    save_model(Model(first.model.network, first.model.front_end, ["dog", "rain", "wind"]), path)
    with pytest.raises(ProtocolError, match=r"classes .*'wind'\], expected .*'saw'\]"):
        distiller(teacher, init_from=path)


def test_the_loss_is_the_weighted_sum_of_its_terms(teacher: Path) -> None:
    student = distiller(teacher).eval()
    student.log = lambda *args, **kwargs: None  # type: ignore[method-assign]
    with torch.no_grad():
        parts, total = student.losses(noise()), student.training_step(noise(), 0)
    weights = {"scores": 0.3, "embedding": 2.0, "maps": 8.0}
    assert float(total) == pytest.approx(sum(weights[name] * float(part) for name, part in parts.items()), rel=1e-5)


def test_the_teacher_is_neither_changed_nor_trained_nor_saved(teacher: Path) -> None:
    student = distiller(teacher)
    before = student.teacher(noise()).clip_probs
    optimizer = student.configure_optimizers()["optimizer"]  # type: ignore[index,call-overload]
    torch.stack(list(student.losses(noise()).values())).sum().backward()
    optimizer.step()
    assert torch.equal(student.teacher(noise()).clip_probs, before)
    assert not student.teacher.training
    of_student = sum(parameter.numel() for parameter in student.model.network.parameters())
    adapters = (4 * 8 + 8) + (8 * 8 + 8) + (8 * 16 + 16) + (16 * 16 + 16) + (24 * 96 + 96)
    assert sum(p.numel() for group in optimizer.param_groups for p in group["params"]) == of_student + adapters
    assert not [name for name in student.state_dict() if "teacher" in name]


def test_the_learning_rate_rises_stays_and_falls(teacher: Path) -> None:
    configured = distiller(teacher, warmup=2, lr_decay=4, steps=10, learning_rate=0.1).configure_optimizers()
    optimizer, schedule = configured["optimizer"], configured["lr_scheduler"]["scheduler"]  # type: ignore[index, call-overload]
    rates = []
    for _ in range(10):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    np.testing.assert_allclose(rates, [0.05, *[0.1] * 6, 0.075, 0.05, 0.025])


def test_unfit_networks_and_steps_are_refused(teacher: Path, tmp_path: Path) -> None:
    with pytest.raises(WeakAudioError, match="WeakCNN has no stages"):
        Distiller(str(teacher), "weakcnn", {}, 1000)
    with pytest.raises(ProtocolError, match="25 steps are fewer than 10 of warmup and 20 of lr_decay"):
        distiller(teacher, steps=25, lr_decay=20)
