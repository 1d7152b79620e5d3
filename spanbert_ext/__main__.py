"""`python -m spanbert_ext` prints what the compiled operators were built with and what they use here."""

from spanbert_ext import build_info

for name, value in build_info().items():
    print(f"{name:18} {value}")
