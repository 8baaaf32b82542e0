"""Engines that sample completions behind one call, `rleif.records.Generate`."""

from rleif.rollout.transformers_engine import TransformersEngine, stop_ids

__all__ = ["TransformersEngine", "stop_ids"]
