"""What :func:`qfx.bisect` found, and how it says so."""

from __future__ import annotations

from dataclasses import dataclass
from math import isinf

from qfx.report.sites import Site


@dataclass(frozen=True)
class Bisection:
    """The operation and the pass with which the error enters.

    Attributes:
        site: the operation, as in the report; None where no operation could be compared.
        pass_name: the pass that made it what it is, or removed it.
        makers: every pass and rule that rewrote it, oldest first.
        sqnr: of the operation by itself, in dB; of one that was removed, what its reader has.
        typical: SQNR of the median operation by itself, exact ones aside, in dB.
        output: SQNR of the whole model, as it runs, in dB.
        stands_out: whether the operation is clearly worse than the others, or than its specs
            explain; else it is the worst of a sound model.
        kernel: for a fault of lowering, the kernel at work, or "".
        explained: the least SQNR that the rounding of its specs explains, in dB.
        shown_by: for an operation that a pass removed though it did something, the one whose
            result shows it, or "".
        doubt: a question to the user where the two models hardly belong together; mostly "".
    """

    site: Site | None
    pass_name: str
    makers: tuple[str, ...]
    sqnr: float
    typical: float
    output: float
    stands_out: bool
    kernel: str = ""
    explained: float = 0.0
    shown_by: str = ""
    doubt: str = ""

    def __str__(self) -> str:
        return "\n".join(text for text in (self.doubt, self._found()) if text)

    def _found(self) -> str:
        if self.site is None:
            return f"no operation could be compared; output {self.output:.1f} dB"
        whole = f"The whole model: {self.output:.1f} dB."
        if not self.stands_out:
            return f"{self._even()}\n{whole}"
        place = ", ".join(p for p in (self.site.module_path, self.site.source) if p)
        at = f"{self.site.node} ({place})" if place else self.site.node
        if self.shown_by:
            return (
                f"The error enters at {at}: pass {self.pass_name} removed it, though it does "
                f"something.\n{self.shown_by}, which comes after it, shows {self._numbers()}. "
                f"{whole}"
            )
        chain = f" (rewritten by {', '.join(self.makers)})" if self.makers else ""
        kernel = f", kernel {self.kernel}" if self.kernel else ""
        return (
            f"The error enters at {at}: {self._numbers()}.\n"
            f"Made by pass {self.pass_name}{chain}{kernel}. {whole}"
        )

    def _numbers(self) -> str:
        if self.typical > self.explained and not isinf(self.typical):
            return f"{self.sqnr:.1f} dB by itself where {self.typical:.1f} dB is typical"
        return f"{self.sqnr:.1f} dB by itself where rounding alone leaves {self.explained:.0f} dB"

    def _even(self) -> str:
        if isinf(self.sqnr):
            return "No operation stands out: each is exact by itself."
        return (
            "No operation stands out: the error is spread over the operations. By itself each is "
            f"at {self.sqnr:.1f} dB or better, and the median of them at {self.typical:.1f} dB."
        )
