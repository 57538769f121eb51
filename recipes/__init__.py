"""Runnable training scripts, on emoreg's public API alone. Installed as `emoreg_recipes`, for `emoreg train`."""
