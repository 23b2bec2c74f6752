"""The format AWQ, version "gemm": 4-bit codes with zero points, as AutoAWQ wrote them."""
