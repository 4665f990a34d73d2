"""From a recording to a log-mel with a time axis."""

import numpy as np
from numpy.typing import NDArray

Waveform = NDArray[np.float32]
"""(N,) mono samples, float32, full scale at +-1"""
