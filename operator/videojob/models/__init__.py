"""Model families over diffusers: text encoding, denoising of one chunk, streaming decode. Only here is torch imported.

`family` is the interface, one module per family implements it, and `stages` adds what serving needs: prompt cache,
sequences, compute times. The `model.py` files of `model_repo/` call the stages.
"""
