"""One loop, and the losses as pure functions of tensors."""
