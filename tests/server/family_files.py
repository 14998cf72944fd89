"""GGUF files of the families as far as a server reads them: architecture, name, and a vocabulary of the right kind."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

CHAT_TOKENS = ("<|plugin|>", "<|interpreter|>", "<|action_end|>", "<|action_start|>", "<|im_end|>", "<|im_start|>")


def write_family(
    path: Path,
    architecture: str,
    *,
    name: str = "a model",
    vocabulary: str = "llama",
    tokens: tuple[str, ...] = ("<unk>", "<s>", "</s>", *CHAT_TOKENS),
    template: str | None = None,
    reward: bool = False,
) -> Path:
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name(name)
    writer.add_context_length(8192)
    writer.add_embedding_length(32)
    writer.add_block_count(1)
    writer.add_head_count(2)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_tokenizer_model(vocabulary)
    writer.add_token_list(tokens)
    writer.add_bos_token_id(1)
    if template is not None:
        writer.add_chat_template(template)
    if reward:
        writer.add_uint32("llama.pooling_type", 3)
        writer.add_uint32("interns1.reward.token_id", 2)
    writer.add_tensor("token_embd.weight", np.zeros((len(tokens), 32), dtype=np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
