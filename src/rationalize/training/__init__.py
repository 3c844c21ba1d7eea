"""The training loop, the losses as pure functions of tensors, and the rows they learn from."""
