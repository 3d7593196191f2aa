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


@cache
def op(name: str) -> ModuleType:
    """The module of an op; KeyError if there is none."""
    if name not in names():
        raise KeyError(f"there is no op {name!r}; there are {', '.join(names())}")
    return importlib.import_module(f"{__name__}.{name}")


@cache
def names() -> tuple[str, ...]:
    found = (module.name for module in pkgutil.iter_modules(__path__))
    return tuple(sorted(name for name in found if name not in NOT_OPS))


@cache
def functions(name: str) -> tuple[str, ...]:
    """Which of forward, backward and update an op has."""
    return tuple(f for f in ("forward", "backward", "update") if hasattr(op(name), f))
