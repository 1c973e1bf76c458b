"""What verl has saved of a training, as an adapter in PEFT's format or as a whole model, with the names of the hub's files.

``python -m verl.model_merger`` (0.9.1) rounds all weights to bfloat16, writes the whole model beside an adapter, and does not
know Qwen2-Audio. transformers' ``save_pretrained`` (5.10.4) writes Qwen2-Audio under names that neither the hub nor vLLM knows.
Here weights take their places in the files of the base model, which plain transformers, PEFT and vLLM all load.
"""
