"""Where figures go besides `metrics.jsonl`: nowhere, Weights & Biases, SwanLab, TensorBoard, or several of them."""
