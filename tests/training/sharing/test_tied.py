"""A model whose embeddings are its output layer, too, is loaded on one rank, and both ranks train it."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.helpers import two_ranks


@pytest.mark.slow
def test_tied_embeddings_are_loaded_on_one_rank_and_stay_tied(models, tmp_path):
    folder = shutil.copytree(models("granite_speech"), tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["tie_word_embeddings"] = config["text_config"]["tie_word_embeddings"] = True
    (folder / "config.json").write_text(json.dumps(config))
    weights = load_file(folder / "model.safetensors")
    kept = {name: weight for name, weight in weights.items() if "lm_head" not in name}
    assert len(kept) == len(weights) - 1
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    for ranks in 1, 2:
        (tmp_path / str(ranks)).mkdir()
        two_ranks.spawn(two_ranks.load_tied, ranks, str(folder), "granite_speech", str(tmp_path / str(ranks)))
    alone, first, second = (torch.load(tmp_path / name) for name in ("1/0.pt", "2/0.pt", "2/1.pt"))
    assert [found[0] for found in (alone, first, second)] == [["cpu"], ["cpu"], ["meta"]]
    assert first[1] == second[1] and not [name for name in first[1] if "lm_head" in name], "one parameter for both"
    for found in first, second:
        torch.testing.assert_close(found[2], alone[2], rtol=0, atol=1e-5)  # log-probabilities as loaded,
        torch.testing.assert_close(found[3], alone[3], rtol=0, atol=1e-3)  # and after an update
    assert (alone[3] - alone[2]).abs().max() > 1e-2
