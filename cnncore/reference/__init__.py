"""Every plain op in NumPy: what it computes, as short as the formula.

One module an op. It has

- `infer(shapes..., attributes...)`: checks shapes and attributes, and returns the results' shapes
  and the attributes in canonical form;
- `infer_backward`: the same for `backward`;
- `forward` and `backward`, or `update`: keywords in, a dict of arrays out, in the dtype that comes
  in (float64 for checks). A result that has an argument's name replaces that argument;
- `<function>_bound`: a bound on the rounding error of any correct implementation, in units of the
  dtype's machine epsilon, from the arithmetic (Higham, Accuracy and Stability, ch. 3);
- `cost`: (floating-point operations, elements moved) of `forward` for one batch;
- `CASES`: the shapes and values that tests, gradient checks, benchmarks and `cnncore check` use;
- `DTYPES`: arguments and results that are not of the dtype being trained in;
- `STEP`: arguments that vary from step to step and so are no part of a plan.

The compiled kernel `<op>_<function>` takes the same words."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from types import ModuleType

NOT_OPS = {"case", "philox"}

# All at once, not when first used: a first use may be in one thread while another forks, and the
# child would wait for ever on the lock of a half-done import.
_OPS: dict[str, ModuleType] = {
    module.name: importlib.import_module(f"{__name__}.{module.name}")
    for module in sorted(pkgutil.iter_modules(__path__))
    if module.name not in NOT_OPS
}


def op(name: str) -> ModuleType:
    """The module of an op; KeyError if there is none."""
    return _OPS[name]


def names() -> tuple[str, ...]:
    return tuple(_OPS)


@cache
def functions(name: str) -> tuple[str, ...]:
    """Which of forward, backward and update an op has."""
    return tuple(f for f in ("forward", "backward", "update") if hasattr(op(name), f))
