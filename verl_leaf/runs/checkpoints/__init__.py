"""Export of verl's checkpoints as adapters in PEFT's format or as whole models, with the hub's weight names.

``python -m verl.model_merger`` (0.9.1) rounds all weights to bfloat16, writes the whole model beside an adapter, and
does not know Qwen2-Audio. transformers' ``save_pretrained`` (5.10.4) writes Qwen2-Audio with names that neither the hub
nor vLLM knows. This package puts the trained weights into the base model's files, so that transformers, PEFT and vLLM
load them.
"""
