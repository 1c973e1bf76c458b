"""A model whose embeddings are its output layer, too, is loaded on one rank, and both ranks train it."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.helpers import two_ranks


@pytest.mark.slow
@pytest.mark.parametrize("head", ["absent", "equal", "different"])
def test_the_files_decide_whether_embeddings_are_tied_and_one_rank_loads_them(models, tmp_path, head):
    folder = shutil.copytree(models("granite_speech"), tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["tie_word_embeddings"] = True
    config["tie_word_embeddings"] = head != "different"  # as in Qwen3-VL-MoE, whose text config has true by default
    weights = load_file(folder / "model.safetensors")
    (name,) = [name for name in weights if "lm_head" in name]
    (embeddings,) = [weight for name, weight in weights.items() if name.endswith("embed_tokens.weight")]
    own = weights.pop(name)
    weights |= {"absent": {}, "equal": {name: embeddings.clone()}, "different": {name: own}}[head]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    def load(ranks: int, out: str) -> list:
        (folder / "config.json").write_text(json.dumps(config))
        (tmp_path / out).mkdir()
        two_ranks.spawn(two_ranks.load_tied, ranks, ranks, str(folder), "granite_speech", str(tmp_path / out))
        return [torch.load(file) for file in sorted((tmp_path / out).iterdir())]

    (first, second), (alone,) = load(2, "two"), load(1, "one")
    assert [found[0] for found in (alone, first, second)] == [["cpu"], ["cpu"], ["meta"]]
    assert first[1] == second[1] == alone[1], "the same parameters"
    assert len([name for name in first[1] if "lm_head" in name]) == (head == "different")
    for found in first, second:
        torch.testing.assert_close(found[2], alone[2], rtol=0, atol=1e-5)  # log-probabilities as loaded,
        torch.testing.assert_close(found[3], alone[3], rtol=0, atol=1e-3)  # and after an update
    assert (alone[3] - alone[2]).abs().max() > 1e-2
    if head == "different":
        config["text_config"]["tie_word_embeddings"] = False
        (untied,) = load(1, "untied")
        torch.testing.assert_close(alone[2], untied[2], rtol=0, atol=1e-5)
