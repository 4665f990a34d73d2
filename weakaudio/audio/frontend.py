"""The front end: waveforms to log-mels, with presets that travel inside checkpoints."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from math import log
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weakaudio.audio.geometry import frame_count, frame_counts, length_mask
from weakaudio.errors import WeakAudioError

Edges = Literal["zeros", "reflect"]
MelScale = Literal["slaney", "kaldi"]

_AMIN = 1e-10  # power below which the logarithm is not taken: librosa's default


@dataclass(frozen=True)
class FrontEnd:
    """All numbers of a log-mel. The level in dB is `10 * log10(max(mel power + offset, 1e-10))`, and the output
    `(level + shift) * gain`."""

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
    """floor, in dB under the clip's own maximum; None leaves the fixed floor of -100 dB"""
    shift: float = 0.0
    """dB"""
    gain: float = 1.0
    """1/dB"""
    double: bool = False
    """transform in float64: in float32 weak bands beside strong ones are off by up to 2e-3 dB"""
    pre_emphasis: float = 0.0
    """c of `y[n] = x[n + 1] - c * x[n]`, which is a sample shorter; 0 for none"""
    win_length: int | None = None
    """samples of a symmetric Hann window, in the middle of n_fft; None is a periodic one of n_fft samples"""
    edges: Edges = "zeros"
    """what a frame sees beyond an end of the clip: silence, or the clip mirrored at its first or last sample"""
    mel_scale: MelScale = "slaney"
    """librosa's filters, each of area 1; or Kaldi's, each of height 1 and a triangle on the mel axis"""
    offset: float = 0.0
    """added to the mel power: a soft floor"""

    def __post_init__(self) -> None:
        f_max = self.sample_rate / 2 if self.f_max is None else self.f_max
        right = {
            "sample_rate": self.sample_rate > 0,
            "n_fft": self.n_fft > 0,
            "hop_length": self.hop_length > 0,
            "n_mels": self.n_mels > 0,
            "win_length": self.win_length is None or 0 < self.win_length <= self.n_fft,
            "f_min and f_max": 0 <= self.f_min < f_max <= self.sample_rate / 2,
            "edges": self.edges in get_args(Edges),
            "mel_scale": self.mel_scale in get_args(MelScale),
        }
        wrong = [name for name, fits in right.items() if not fits]
        if wrong:
            raise WeakAudioError(f"front end {self.name!r}: {wrong[0]} cannot be so: {self}")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def n_frames(self, n_samples: int) -> int:
        """Frames of a clip of `n_samples` samples at this front end's rate."""
        return frame_count(max(n_samples - self.n_dropped, 0), self.hop_length)

    @property
    def n_dropped(self) -> int:
        """Samples by which pre-emphasis makes a clip shorter."""
        return int(self.pre_emphasis != 0)

    @property
    def context(self) -> int:
        """Frames at either end of a clip that depend on what is beyond that end."""
        return -(-(self.n_fft // 2 + self.n_dropped) // self.hop_length)


# `paper-44k` is the input of arXiv 1711.01369: librosa's `power_to_db(melspectrogram(...))` with its defaults.
# The others have a fixed floor, so that a block equals the whole. Ours and `panns-32k` are scaled so that silence is
# exactly 0: what convolutions pad with is then silence, too (in dB it would be a loud 0 dB); but for that shift
# `panns-32k` is the input of arXiv 1912.10211. `efficientat-32k` is that of arXiv 2211.04772, at its setting for
# inference: `(ln(mel power + 1e-5) + 4.5) / 5`, so silence is -1.4 there.
FRONT_ENDS: dict[str, FrontEnd] = {
    front_end.name: front_end
    for front_end in (
        FrontEnd("paper-44k", 44100, n_fft=1024, hop_length=512, n_mels=128, top_db=80.0, double=True),
        FrontEnd("32k", 32000, n_fft=1024, hop_length=320, n_mels=128, f_min=20.0, shift=100.0, gain=0.02),
        FrontEnd("16k", 16000, n_fft=512, hop_length=160, n_mels=64, f_min=20.0, shift=100.0, gain=0.02),
        FrontEnd(
            "panns-32k",
            32000,
            1024,
            hop_length=320,
            n_mels=64,
            f_min=50.0,
            f_max=14000.0,
            shift=100.0,
            edges="reflect",
        ),
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
    """A preset by name, or a decimated one by the name that `decimated` gives it: `efficientat-32k/2`.

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
        raise WeakAudioError(f"front end {name!r}: expected a preset, or a preset and a frame stride, as {preset}/2")
    return decimated(FRONT_ENDS[preset], int(stride))


def decimated(front_end: FrontEnd, frame_stride: int) -> FrontEnd:
    """A front end with `frame_stride` times the hop: it computes `logmel[:, ::frame_stride]` and no other frames.

    Its name has the frame stride behind a slash: "32k/2" ("32k/6" for a stride of 2 on "32k/3"); with a stride of 1
    it is `front_end` itself. Where the floor follows the loudest frame (`top_db`), that is the loudest of the frames
    computed, so its log-mel differs slightly from `logmel[:, ::frame_stride]`. With a hop longer than the window,
    parts of the signal are in no frame.

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
    """Waveforms (B, N) to log-mels (B, T, F), on any device, in float32 also inside autocast.

    Frames are centred. What lies outside a clip counts as the front end's `edges` say; so padding a clip with zeros
    to fit a batch does not change any of its own frames.
    """

    window: Tensor
    filters: Tensor

    def __init__(self, front_end: FrontEnd | str) -> None:
        super().__init__()
        self.front_end = get_front_end(front_end) if isinstance(front_end, str) else front_end
        fe = self.front_end
        # Derived from the preset, so not part of a checkpoint's tensors.
        self.register_buffer("filters", _filters(fe), persistent=False)  # (n_fft // 2 + 1, F)
        # Float64 only where the preset asks for it: not every device has it.
        window = _window(fe)
        self.register_buffer("window", window if fe.double else window.float(), persistent=False)

    def forward(
        self, waveform: Tensor, lengths: Tensor | None = None, loudest: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Log-mels and their lengths.

        Parameters
        ----------
        waveform
            (B, N) at the front end's sample rate, full scale at +-1; zeros after the end of a shorter clip.
        lengths
            (B,) samples of each clip; None means all N.
        loudest
            (B,) level in dB (`loudest`) of the recording that each clip is a part of, for a floor under the maximum
            of the whole; None: each clip is a whole. Front ends with a fixed floor ignore it.

        Returns
        -------
        logmel, n_frames
            (B, T, F) float32, with 0 after the end of a shorter clip, and (B,) int64 frames of each clip.
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
        """(B,) the highest level in dB of frames `first` to `last` (exclusive; None: the end) of waveforms (B, N)."""
        lengths = torch.full((len(waveform),), waveform.shape[1], dtype=torch.int64, device=waveform.device)
        return self._level(waveform, lengths)[0][:, first:last].amax(dim=(1, 2))

    def _level(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, F) dB above the fixed floor, and (B,) frames of each clip."""
        fe = self.front_end
        with torch.autocast(waveform.device.type, enabled=False):
            # On a CPU clip by clip: what belongs to one fits its cache. A GPU takes all at once.
            size = 1 if waveform.device.type == "cpu" else len(waveform)
            parts = zip(waveform.split(size), lengths.split(size), strict=True)
            mel = torch.cat([self._mel_power(*part) for part in parts])
            level = mel.add_(fe.offset).clamp_(min=_AMIN).log10_().mul_(10.0)
        return level, frame_counts((lengths - fe.n_dropped).clamp(min=0), fe.hop_length)

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
        ).transpose(1, 2)  # (B, T, n_fft // 2 + 1), the order in which it lies in memory
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

    `padded` is (B, pad + N + pad), of which clip b has `lengths[b]` samples from `pad` on. A clip shorter than `pad`
    is mirrored again and again, as by `numpy.pad`.
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
