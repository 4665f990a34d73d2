"""Runs over many recordings on a Ray cluster: the same results, from several machines."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch

from weakaudio.batch.checkpoint import Outcome
from weakaudio.batch.runner import Analysis, Task, analyse_groups
from weakaudio.errors import WeakAudioError


def analyse_on_ray(analysis: Analysis, groups: Sequence[Sequence[Task]]) -> Iterator[list[Outcome]]:
    """Analyse groups of recordings on a cluster: the `engine` of `embed_folder` and `detect_folder`.

    Each worker is an actor of Ray Data with one CPU (one GPU where the analysis is on a GPU) and the model, which it
    receives once. A group whose worker dies is given to another one. The cluster is the one that `ray.init` finds
    (RAY_ADDRESS), else this machine; recordings must have the same paths on all of its machines. Only this process
    writes.

    Raises
    ------
    WeakAudioError
        Ray is not installed, or failed.
    """
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise WeakAudioError(f"--engine ray needs Ray: pip install 'weakaudio[ray]' ({error})") from error
    if not groups:
        return
    if not ray.is_initialized():
        ray.init(logging_level=logging.ERROR, include_dashboard=False, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    on_gpu = next(analysis.model.parameters()).is_cuda
    n_workers = int(ray.cluster_resources().get("GPU" if on_gpu else "CPU", 1))
    rows = [{"group": pickle.dumps([_anywhere(task) for task in group])} for group in groups]
    outcomes = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        _Worker,
        batch_size=1,
        fn_constructor_args=(ray.put(analysis),),
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=max(min(n_workers, len(groups)), 1)),
        num_gpus=1 if on_gpu else None,
        num_cpus=None if on_gpu else 1,
    )
    try:
        for row in outcomes.iter_rows():
            yield pickle.loads(row["outcomes"])  # made by our own workers, a moment ago
    except ray.exceptions.RayError as error:
        raise WeakAudioError(
            f"Ray failed ({str(error).splitlines()[0]}); results so far are kept, run again to resume"
        ) from error


def _anywhere(task: Task) -> Task:
    """Make the task's path absolute, for a process with another working directory."""
    return replace(task, recording=replace(task.recording, path=task.recording.path.absolute()))


class _Worker:
    """Holds the model, and analyses one group at a time."""

    def __init__(self, analysis: Any) -> None:
        import ray

        self.analysis = ray.get(analysis) if isinstance(analysis, ray.ObjectRef) else analysis
        if not torch.cuda.is_available():
            torch.set_num_threads(1)

    def __call__(self, batch: dict[str, Any]) -> Iterator[dict[str, list[bytes]]]:
        (group,) = batch["group"]
        for outcomes in analyse_groups(self.analysis, [pickle.loads(group)]):
            yield {"outcomes": [pickle.dumps(outcomes)]}
