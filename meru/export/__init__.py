"""Finished models in the files that others read: safetensors, ONNX, Hub folders, published layouts; mixed weights."""
