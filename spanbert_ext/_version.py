# SPDX-License-Identifier: Apache-2.0
"""The version of the package, in a module that imports nothing: the build reads it as text and runs it alone."""

__version__ = "0.1.0"


def torch_label(version: str, cuda: str | None) -> str:
    """In what a torch must agree with the one that the operators were compiled for: "torch2.13.0.cpu" or, with CUDA,
    "torch2.14.1.cu13". It stands in the name of a wheel, behind the version and a "+".

    version, cuda: as `torch.__version__` and `torch.version.cuda`.
    """
    device = f"cu{cuda.partition('.')[0]}" if cuda else "cpu"
    return f"torch{version.partition('+')[0]}.{device}"
