from . import ops, reference
