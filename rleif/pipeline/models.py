"""Checkpoints as the stages use them to generate."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from rleif.rollout import TransformersEngine


def load_engine(path: str, max_batch_size: int) -> tuple[TransformersEngine, Any]:
    """A rollout engine over a checkpoint, and its tokenizer: bfloat16 on CUDA, float32 elsewhere."""
    on_cuda = torch.cuda.is_available()
    check_checkpoint(path)
    model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16 if on_cuda else torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(path)
    model.to("cuda" if on_cuda else "cpu").eval()
    return TransformersEngine(model, tokenizer, max_batch_size=max_batch_size), tokenizer


def check_checkpoint(path: str) -> None:
    """Raises ValueError for a folder that is not a checkpoint, before transformers looks for it on the hub."""
    folder = Path(path)
    if folder.is_dir() and not any((folder / name).is_file() for name in ("config.json", "adapter_config.json")):
        raise ValueError(f"{path} is no checkpoint: there is no config.json in it")
    if not folder.exists() and (folder.is_absolute() or path.count("/") > 1):
        raise ValueError(f"{path}: no such checkpoint")
