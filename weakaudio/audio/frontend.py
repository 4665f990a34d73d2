"""The front end: from waveforms to log-mels, with presets that checkpoints store by their numbers."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from math import log
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weakaudio.audio.geometry import frame_count, length_mask
from weakaudio.errors import WeakAudioError

Edges = Literal["zeros", "reflect"]
MelScale = Literal["slaney", "kaldi"]

_AMIN = 1e-10  # floor of the power before the logarithm, as in librosa


@dataclass(frozen=True)
class FrontEnd:
    """Parameters of a log-mel `(level + shift) * gain`, where `level = 10 * log10(max(mel power + offset, 1e-10))`.

    Raises
    ------
    WeakAudioError
        An invalid value.
    """

    name: str
    sample_rate: int
    """Hz"""
    n_fft: int
    """samples"""
    hop_length: int
    """samples"""
    n_mels: int
    f_min: float = 0.0
    """Hz"""
    f_max: float | None = None
    """Hz; None is half the sample rate"""
    top_db: float | None = None
    """floor in dB below the maximum of the clip; None for the fixed floor of -100 dB"""
    shift: float = 0.0
    """dB"""
    gain: float = 1.0
    """1/dB"""
    double: bool = False
    """transform in float64; in float32, weak bands next to strong ones are off by up to 2e-3 dB"""
    pre_emphasis: float = 0.0
    """c in `y[n] = x[n + 1] - c * x[n]`, which is one sample shorter than x; 0 for none"""
    win_length: int | None = None
    """samples of a symmetric Hann window centred in n_fft; None for a periodic one of n_fft samples"""
    edges: Edges = "zeros"
    """padding at the ends of the clip: silence, or the clip mirrored at its first and last sample"""
    mel_scale: MelScale = "slaney"
    """filters of librosa, of area 1; or of Kaldi, of height 1 and triangular on the mel axis"""
    offset: float = 0.0
    """added to the mel power: a soft floor"""

    def __post_init__(self) -> None:
        f_max = self.sample_rate / 2 if self.f_max is None else self.f_max
        valid = {
            "sample_rate": self.sample_rate > 0,
            "n_fft": self.n_fft > 0,
            "hop_length": self.hop_length > 0,
            "n_mels": self.n_mels > 0,
            "win_length": self.win_length is None or 0 < self.win_length <= self.n_fft,
            "f_min and f_max": 0 <= self.f_min < f_max <= self.sample_rate / 2,
            "edges": self.edges in get_args(Edges),
            "mel_scale": self.mel_scale in get_args(MelScale),
        }
        invalid = [name for name, fits in valid.items() if not fits]
        if invalid:
            raise WeakAudioError(f"front end {self.name!r}: invalid value of {invalid[0]}: {self}")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def n_frames(self, n_samples: int) -> int:
        """Number of frames of a clip of `n_samples` samples."""
        return frame_count(max(n_samples - self.n_dropped, 0), self.hop_length)

    @property
    def n_dropped(self) -> int:
        """Number of samples that pre-emphasis removes."""
        return int(self.pre_emphasis != 0)

    @property
    def context(self) -> int:
        """Number of frames at either end of a clip that depend on the padding there."""
        return -(-(self.n_fft // 2 + self.n_dropped) // self.hop_length)


# `paper-44k` is the input of arXiv 1711.01369: librosa's `power_to_db(melspectrogram(...))` with its defaults.
# All others have a fixed floor, so that the log-mel of an excerpt equals that part of the recording's. `32k`, `16k`
# and `panns-32k` are shifted so that silence is exactly 0, the value with which convolutions pad (0 dB would be
# loud); apart from that shift `panns-32k` is the input of arXiv 1912.10211. `efficientat-32k` is the input of arXiv
# 2211.04772 for inference, `(ln(mel power + 1e-5) + 4.5) / 5`, in which silence is -1.4.
FRONT_ENDS: dict[str, FrontEnd] = {
    front_end.name: front_end
    for front_end in (
        FrontEnd("paper-44k", 44100, n_fft=1024, hop_length=512, n_mels=128, top_db=80.0, double=True),
        FrontEnd("32k", 32000, n_fft=1024, hop_length=320, n_mels=128, f_min=20.0, shift=100.0, gain=0.02),
        FrontEnd("16k", 16000, n_fft=512, hop_length=160, n_mels=64, f_min=20.0, shift=100.0, gain=0.02),
        FrontEnd("panns-32k", 32000, 1024, 320, n_mels=64, f_min=50.0, f_max=14000.0, shift=100.0, edges="reflect"),
        FrontEnd(
            "efficientat-32k",
            32000,
            n_fft=1024,
            hop_length=320,
            n_mels=128,
            f_max=15000.0,
            shift=4.5 * 10 / log(10),
            gain=log(10) / 10 / 5,
            pre_emphasis=0.97,
            win_length=800,
            edges="reflect",
            mel_scale="kaldi",
            offset=1e-5,
        ),
    )
}


def get_front_end(name: str) -> FrontEnd:
    """Look up a preset, or a decimated preset by the name that `decimated` gives it, e.g. `efficientat-32k/2`.

    Raises
    ------
    WeakAudioError
        No preset of that name, or the frame stride after the slash is not an integer of 2 or more.
    """
    preset, slash, stride = name.partition("/")
    if preset not in FRONT_ENDS:
        raise WeakAudioError(f"front end {name!r}: unknown; there are {', '.join(FRONT_ENDS)}")
    if not slash:
        return FRONT_ENDS[preset]
    if not stride.isdecimal() or int(stride) < 2:
        raise WeakAudioError(f"front end {name!r}: expected a preset or, with a frame stride, {preset}/2")
    return decimated(FRONT_ENDS[preset], int(stride))


def decimated(front_end: FrontEnd, frame_stride: int) -> FrontEnd:
    """Multiply the hop of a front end, so that it computes only the frames `logmel[:, ::frame_stride]`.

    The name gets the frame stride after a slash: "32k/2", or "32k/6" for a stride of 2 on "32k/3"; a stride of 1
    returns `front_end` itself. A floor relative to the loudest frame (`top_db`) uses the loudest computed frame, so
    the values may differ slightly from `logmel[:, ::frame_stride]`. If the hop exceeds the window, some samples are
    in no frame.

    Raises
    ------
    WeakAudioError
        `frame_stride` is less than 1.
    """
    if frame_stride < 1:
        raise WeakAudioError(f"frame stride {frame_stride}: expected 1 or more")
    if frame_stride == 1:
        return front_end
    preset, _, before = front_end.name.partition("/")
    name = f"{preset}/{frame_stride * int(before)}" if before.isdecimal() else f"{front_end.name}/{frame_stride}"
    return replace(front_end, name=name, hop_length=frame_stride * front_end.hop_length)


class LogMel(nn.Module):
    """Compute log-mels (B, T, F) of waveforms (B, N), on any device, in float32 even inside autocast.

    Frames are centred, and clips are padded as `edges` of the front end says. Zeros that pad a clip to the length of
    its batch do not change any of its frames.
    """

    window: Tensor
    filters: Tensor

    def __init__(self, front_end: FrontEnd | str) -> None:
        super().__init__()
        self.front_end = get_front_end(front_end) if isinstance(front_end, str) else front_end
        fe = self.front_end
        # Derived from the preset, so not stored in checkpoints.
        self.register_buffer("filters", _filters(fe), persistent=False)  # (n_fft // 2 + 1, F)
        # float64 only if the preset requires it: not every device supports it.
        window = _window(fe)
        self.register_buffer("window", window if fe.double else window.float(), persistent=False)

    def forward(
        self, waveform: Tensor, lengths: Tensor | None = None, loudest: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Compute log-mels and their lengths.

        Parameters
        ----------
        waveform
            (B, N) at the front end's sample rate, full scale at +-1; zeros after the end of a shorter clip.
        lengths
            (B,) samples of each clip; None for N.
        loudest
            (B,) level in dB (from the method `loudest`) of the recording that each clip is an excerpt of, which sets
            the floor; None if clips are complete recordings. Ignored by front ends with a fixed floor.

        Returns
        -------
        logmel, n_frames
            (B, T, F) float32, 0 after the end of a shorter clip; and (B,) int64 frames of each clip.
        """
        fe = self.front_end
        if lengths is None:
            lengths = torch.full((len(waveform),), waveform.shape[1], dtype=torch.int64, device=waveform.device)
        level, n_frames = self._level(waveform, lengths)
        mask = length_mask(n_frames, level.shape[1])[:, :, None]
        if fe.top_db is not None:
            if loudest is None:
                loudest = level.masked_fill(~mask, -torch.inf).amax(dim=(1, 2))
            level = torch.maximum(level, loudest[:, None, None] - fe.top_db)
        if (fe.shift, fe.gain) != (0.0, 1.0):
            level = level.add_(fe.shift).mul_(fe.gain)
        return level.masked_fill_(~mask, 0.0), n_frames

    def loudest(self, waveform: Tensor, first: int = 0, last: int | None = None) -> Tensor:
        """(B,) highest level in dB of frames `first` to `last` (exclusive; None for the end) of waveforms (B, N)."""
        lengths = torch.full((len(waveform),), waveform.shape[1], dtype=torch.int64, device=waveform.device)
        return self._level(waveform, lengths)[0][:, first:last].amax(dim=(1, 2))

    def _level(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, F) level in dB, with the fixed floor, and (B,) frames of each clip."""
        fe = self.front_end
        with torch.autocast(waveform.device.type, enabled=False):
            # On a CPU clip by clip, whose intermediate results fit into the cache; on a GPU all at once.
            size = 1 if waveform.device.type == "cpu" else len(waveform)
            parts = zip(waveform.split(size), lengths.split(size), strict=True)
            mel = torch.cat([self._mel_power(*part) for part in parts])
            level = mel.add_(fe.offset).clamp_(min=_AMIN).log10_().mul_(10.0)
        return level, frame_count((lengths - fe.n_dropped).clamp(min=0), fe.hop_length)

    def _mel_power(self, waveform: Tensor, lengths: Tensor) -> Tensor:
        """(B, T, F) float32"""
        fe = self.front_end
        waveform = waveform.to(self.window.dtype)
        if fe.pre_emphasis:
            waveform = waveform[:, 1:] - fe.pre_emphasis * waveform[:, :-1]
            lengths = lengths - 1
        half = fe.n_fft // 2
        padded = F.pad(waveform, (half, half))
        if fe.edges == "reflect":
            _mirror(padded, lengths, half)
        spectrum = torch.stft(
            padded, fe.n_fft, fe.hop_length, window=self.window, center=False, return_complex=True
        ).transpose(1, 2)  # (B, T, n_fft // 2 + 1), the order in memory
        power = torch.addcmul(spectrum.real.square(), spectrum.imag, spectrum.imag)
        return power.float() @ self.filters


def _window(fe: FrontEnd) -> Tensor:
    """(n_fft,) float64"""
    if fe.win_length is None:
        return torch.hann_window(fe.n_fft, dtype=torch.float64)
    left = (fe.n_fft - fe.win_length) // 2
    window = torch.hann_window(fe.win_length, periodic=False, dtype=torch.float64)
    return F.pad(window, (left, fe.n_fft - fe.win_length - left))


def kaldi_filters(sample_rate: int, n_fft: int, n_mels: int, f_min: float, f_max: float) -> Tensor:
    """Mel filters as Kaldi computes them: (n_fft // 2 + 1, F) float32.

    Triangles of height 1 whose corners are equally spaced on the mel scale, `1127 * ln(1 + f / 700)`, and whose sides
    are straight on that scale; the bin at half the sample rate has weight 0. After `MelBanks` in Kaldi's
    feat/mel-computations.cc, without vocal tract length normalisation; in the order of operations of
    `torchaudio.compliance.kaldi.get_mel_banks`, to which it is equal bit for bit.
    """
    low, high = (1127.0 * log(1.0 + f / 700.0) for f in (f_min, f_max))
    step, band = (high - low) / (n_mels + 1), torch.arange(n_mels)
    left, center, right = (low + (band + n) * step for n in (0.0, 1.0, 2.0))
    frequency = sample_rate / n_fft * torch.arange(n_fft // 2, dtype=torch.float32)
    mel = 1127.0 * (1.0 + frequency / 700.0).log()[:, None]
    rise, fall = (mel - left) / (center - left), (right - mel) / (right - center)
    return F.pad(torch.minimum(rise, fall).clamp(min=0.0), (0, 0, 0, 1))


def _filters(fe: FrontEnd) -> Tensor:
    """(n_fft // 2 + 1, F) float32"""
    if fe.mel_scale == "kaldi":
        f_max = fe.sample_rate / 2 if fe.f_max is None else fe.f_max
        return kaldi_filters(fe.sample_rate, fe.n_fft, fe.n_mels, fe.f_min, f_max)
    import librosa  # a hundred megabytes, which only these filters need

    filters = librosa.filters.mel(  # Slaney's scale and area normalisation
        sr=fe.sample_rate, n_fft=fe.n_fft, n_mels=fe.n_mels, fmin=fe.f_min, fmax=fe.f_max
    )
    return torch.from_numpy(filters.T.copy())


def _mirror(padded: Tensor, lengths: Tensor, pad: int) -> None:
    """Fill, in place, `pad` samples before and after each clip with the clip mirrored at its ends.

    In `padded` (B, pad + N + pad), clip b has `lengths[b]` samples from position `pad`. Clips shorter than `pad` are
    mirrored repeatedly, as by `numpy.pad`.
    """
    clips = padded[:, pad : padded.shape[1] - pad]
    if clips.shape[1] == 0:
        return
    clips.masked_fill_(~length_mask(lengths, clips.shape[1]), 0.0)
    last = (lengths - 1).clamp(min=0)[:, None]
    steps = torch.arange(1, pad + 1, device=padded.device)
    period = (2 * last).clamp(min=1)

    def inside(position: Tensor) -> Tensor:
        position = position.remainder(period)
        return torch.minimum(position, period - position).minimum(last)

    before = clips.gather(1, inside(-steps.flip(0)[None]))
    after = clips.gather(1, inside(last + steps))
    padded[:, :pad] = before
    padded.scatter_(1, pad + last + steps, after)
