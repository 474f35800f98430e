"""A tiny CLIP with random weights in a local folder, for servers that load CLIP: python benchmarks/hostile_clip.py FOLDER."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

folder = Path(sys.argv[1])
folder.mkdir(parents=True)
words = [
    "<|startoftext|>",
    "<|endoftext|>",
    *"abcdefghijklmnopqrstuvwxyz",
    *(f"{letter}</w>" for letter in "abcdefghijklmnopqrstuvwxyz"),
]
(folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
(folder / "merges.txt").write_text("#version: 0.2\n")
size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
text = {**size, "vocab_size": len(words), "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
config = CLIPConfig(text_config=text, vision_config={**size, "image_size": 32, "patch_size": 8}, projection_dim=32)
CLIPModel(config).save_pretrained(folder)
tokenizer = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
images = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
CLIPProcessor(images, tokenizer).save_pretrained(folder)
