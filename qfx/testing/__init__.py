"""What tests of passes are made of: a check of one model, and a fuzzer over many.

    from qfx.testing import check, fuzz

    def test_fuses() -> None:
        check(FuseConvRelu(), ConvRelu(), x, after='''
            %x         : f32[1,3,8,8] = input
            %conv_relu : f32[1,4,8,8] = conv2d+relu(%x, @conv.weight, @conv.bias)
            return %conv_relu
        ''')

    def test_any_model() -> None:
        fuzz(FuseConvRelu(), seeds=range(50))

``pytest --update-golden`` writes the text that passes really make into the test; for that the
``conftest.py`` at the top of your tests says ``pytest_plugins = ["qfx.testing.pytest_plugin"]``.
"""

from qfx.testing.checking import Result, assert_close, assert_unchanged, check, run
from qfx.testing.drawing import generate
from qfx.testing.fuzzing import Fuzzed, FuzzError, fuzz
from qfx.testing.programs import Program, example, seeded

__all__ = [
    "FuzzError",
    "Fuzzed",
    "Program",
    "Result",
    "assert_close",
    "assert_unchanged",
    "check",
    "example",
    "fuzz",
    "generate",
    "run",
    "seeded",
]
