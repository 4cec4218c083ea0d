"""Models in and out: Hugging Face folders, safetensors, GGUF, ONNX; and reading a version whole to verify it.

Rules of this package:

* Nothing from outside is trusted: sizes are limited before anything is parsed, names are checked before they
  become paths, links are not followed, and no code that comes with a model is ever run.
* What a version holds of an imported file are its very bytes, so that an export gives them back.
* An export is the one deliberate way from the vault to plain files. It appears whole or not at all.
* transformers, onnx, model-signing and the like are optional: what needs one says which extra to install.
"""
