# cython: language_level=3, boundscheck=True, wraparound=False, binding=False
"""Binding of kernels and tape. No arithmetic is done here: names are joined to struct members,
addresses are filled in, and a run is handed over without the GIL."""

from cpython.buffer cimport (
    PyBUF_C_CONTIGUOUS, PyBUF_FORMAT, PyBUF_WRITABLE, PyBuffer_FillInfo, PyBuffer_Release,
    PyObject_GetBuffer,
)
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from libc.stddef cimport ptrdiff_t
from libc.stdint cimport int32_t, int64_t, uint64_t, uintptr_t
from libc.stdlib cimport free
from libc.string cimport memcpy, memset

cdef extern from "kernel.h":
    enum: CN_MAX_RANK
    enum: CN_MAX_STAGES
    enum: CN_REAL, CN_F32, CN_F64, CN_U8, CN_U16, CN_I64, CN_ANY
    enum: CN_FIELD_TENSOR, CN_FIELD_SIZE, CN_FIELD_NUMBER, CN_FIELD_FUSED
    enum: CN_OK
    ctypedef struct cn_tensor:
        void *data
        ptrdiff_t shape[4]
        int32_t rank
        int32_t type
    ctypedef struct cn_step:
        ptrdiff_t n
        const int64_t *index
        ptrdiff_t row
        int64_t t
        uint64_t seed
        double lr
    ctypedef struct cn_head:
        void *workspace
    ctypedef struct cn_field:
        const char *name
        size_t offset
        int32_t kind
        int32_t type
        int32_t count
    ctypedef ptrdiff_t (*size_function)(const void *) noexcept nogil
    ctypedef ptrdiff_t (*chunks_function)(const void *, ptrdiff_t) noexcept nogil
    ctypedef struct cn_stage:
        chunks_function chunks
        void *run
    ctypedef struct cn_kernel:
        const char *name
        size_t args_size
        const cn_field *fields
        const char *(*check)(const void *) noexcept nogil
        size_function workspace
        size_function scratch
        cn_stage stages[6]
        int32_t once

cdef extern from "cpu.h":
    ctypedef struct cn_isa:
        const char *name
        const cn_kernel *const *const *f32
    const cn_isa cn_isas[]
    int cn_cpu_has(const char *isa)
    const cn_kernel *cn_find(const char *name, int is_double, const char *isa)

cdef extern from "team.h":
    ctypedef struct cn_limits:
        int openmp, affinity, quota, requested, limit
    void cn_team_init()
    cn_limits cn_team_limits()
    void cn_set_threads(int requested)
    void cn_set_quota(int quota)
    int cn_team_size()
    int cn_team_now()
    int cn_team_prove(int wanted)
    uint64_t cn_float_control()

cdef extern from "memory.h":
    void *cn_allocate(size_t bytes)

cdef extern from "tape.h":
    ctypedef struct cn_op:
        const cn_kernel *kernel
        const void *args
    ctypedef struct cn_run:
        const cn_op *ops
        ptrdiff_t first, last
        cn_step *steps
        ptrdiff_t step_count
        char *scratch
        ptrdiff_t scratch_pitch
        const double *const *result_tensors
        ptrdiff_t result_count
        double *results
        int team
        int reuse_once
        double seconds
        double *op_seconds
        ptrdiff_t steps_done
        ptrdiff_t failed_op
        int32_t status
    void cn_tape_run(cn_run *run) nogil

cdef extern from "build.h":
    const char *CN_COMPILER
    const char *CN_FLAGS

cn_team_init()

STATUS = ("ok", "index", "label", "input", "one value", "loss", "gradient")
cdef dict TYPES = {"float32": CN_F32, "float64": CN_F64, "uint8": CN_U8, "uint16": CN_U16,
                   "int64": CN_I64}
cdef dict ITEM_SIZES = {CN_F32: 4, CN_F64: 8, CN_U8: 1, CN_U16: 2, CN_I64: 8}
# By struct-module code and size of an item, whatever letter the platform gives a 64-bit integer.
cdef dict FORMATS = {("f", 4): CN_F32, ("d", 8): CN_F64, ("B", 1): CN_U8, ("H", 2): CN_U16,
                     ("q", 8): CN_I64, ("l", 8): CN_I64}


def build_info():
    return {"compiler": (<bytes>CN_COMPILER).decode(), "flags": (<bytes>CN_FLAGS).decode()}


def isas():
    """Instruction sets compiled in and present, the fastest last."""
    names = []
    cdef int i = 0
    while cn_isas[i].name != NULL:
        if cn_cpu_has(cn_isas[i].name):
            names.append((<bytes>cn_isas[i].name).decode())
        i += 1
    return tuple(names)


def compiled_isas():
    names = []
    cdef int i = 0
    while cn_isas[i].name != NULL:
        names.append((<bytes>cn_isas[i].name).decode())
        i += 1
    return tuple(names)


def kernels():
    """Names of all kernels, each with its fields: {name: {field: kind}}."""
    found = {}
    cdef const cn_kernel *const *const *family = cn_isas[0].f32
    cdef const cn_kernel *const *kernel
    while family[0] != NULL:
        kernel = family[0]
        while kernel[0] != NULL:
            found[(<bytes>kernel[0].name).decode()] = fields_of(kernel[0])
            kernel += 1
        family += 1
    return found


cdef dict fields_of(const cn_kernel *kernel):
    kinds = {CN_FIELD_TENSOR: "tensor", CN_FIELD_SIZE: "size", CN_FIELD_NUMBER: "number",
             CN_FIELD_FUSED: "fused"}
    fields = {}
    cdef const cn_field *field = kernel.fields
    while field.name != NULL:
        fields[(<bytes>field.name).decode()] = kinds[field.kind]
        field += 1
    return fields


def limits():
    return cn_team_limits()


def set_threads(int requested):
    cn_set_threads(requested)


def set_quota(int quota):
    cn_set_quota(quota)


def team_size():
    return cn_team_prove(cn_team_size())


def team_now():
    return cn_team_prove(cn_team_now())


def float_control():
    return cn_float_control()


cdef class Arena:
    """Memory for the tensors of a plan: 64-byte aligned, 2 MiB aligned with huge pages where it is
    larger than that. Exports its bytes as a buffer."""

    cdef char *data
    cdef readonly Py_ssize_t size

    def __cinit__(self, Py_ssize_t size):
        if size < 0:
            raise ValueError(f"size must not be negative, not {size}")
        self.size = size
        self.data = <char *>cn_allocate(<size_t>max(size, 1))
        if self.data == NULL:
            raise MemoryError(f"cannot allocate {size} bytes for a plan's tensors")

    def __dealloc__(self):
        free(self.data)

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self, self.data, self.size, 0, flags)

    @property
    def address(self):
        return <uintptr_t>self.data


cdef class Record:
    """One op, checked: a kernel with shapes and values, but no addresses yet. Immutable."""

    cdef const cn_kernel *kernel
    cdef char *args
    cdef readonly str name
    cdef readonly Py_ssize_t workspace, scratch
    cdef readonly bint once
    cdef dict offsets

    def __cinit__(self, str kernel, str dtype, str isa, dict tensors, dict values):
        """tensors: name -> (shape, dtype); values: name -> number or tuple of integers.

        Raises ValueError naming the kernel and what is wrong with its arguments."""
        self.name = kernel
        self.kernel = cn_find(kernel.encode(), dtype == "float64", isa.encode())
        if self.kernel == NULL:
            raise ValueError(f"there is no kernel {kernel} for {dtype} and {isa}")
        self.args = <char *>PyMem_Calloc(1, self.kernel.args_size)
        if self.args == NULL:
            raise MemoryError()
        self.offsets = {}
        unknown = (set(tensors) | set(values)) - set(fields_of(self.kernel))
        if unknown:
            raise ValueError(f"{kernel} has no argument {', '.join(sorted(unknown))}")
        cdef const cn_field *field = self.kernel.fields
        while field.name != NULL:
            name = (<bytes>field.name).decode()
            if field.kind == CN_FIELD_TENSOR:
                self.set_tensor(field, name, tensors.get(name), TYPES[dtype])
            elif field.kind != CN_FIELD_FUSED or name in values:
                if name not in values:
                    raise ValueError(f"{kernel}: {name} is missing")
                self.set_value(field, name, values[name])
            field += 1
        cdef const char *wrong = self.kernel.check(self.args)
        if wrong != NULL:
            raise ValueError(f"{kernel}: {(<bytes>wrong).decode()}")
        self.once = self.kernel.once
        self.workspace = self.kernel.workspace(self.args) if self.kernel.workspace != NULL else 0
        self.scratch = self.kernel.scratch(self.args) if self.kernel.scratch != NULL else 0

    def __dealloc__(self):
        PyMem_Free(self.args)

    cdef set_tensor(self, const cn_field *field, str name, declared, int real_type):
        cdef cn_tensor *tensor = <cn_tensor *>(self.args + field.offset)
        cdef int i
        for i in range(CN_MAX_RANK):
            tensor.shape[i] = 1
        tensor.rank = -1
        if declared is None:
            return
        shape, dtype = declared
        expected = real_type if field.type == CN_REAL else field.type
        if dtype not in TYPES or (expected != CN_ANY and TYPES[dtype] != expected):
            raise ValueError(f"{self.name}: {name} has dtype {dtype}")
        if len(shape) > CN_MAX_RANK:
            raise ValueError(f"{self.name}: {name} has {len(shape)} dimensions, more than 4")
        total = 1
        for i in range(len(shape)):
            if shape[i] < 0:
                raise ValueError(f"{self.name}: {name} has shape {tuple(shape)}")
            total *= max(shape[i], 1)
        # Room for an offset in bytes, and for the sums of sizes that kernels make.
        if total >= 1 << 56:
            raise ValueError(f"{self.name}: {name} with shape {tuple(shape)} is too large")
        for i in range(len(shape)):
            tensor.shape[i] = shape[i]
        tensor.rank = len(shape)
        tensor.type = TYPES[dtype]
        self.offsets[name] = field.offset

    cdef set_value(self, const cn_field *field, str name, value):
        cdef ptrdiff_t *sizes = <ptrdiff_t *>(self.args + field.offset)
        cdef int i
        if field.kind == CN_FIELD_NUMBER:
            (<double *>(self.args + field.offset))[0] = value
            return
        numbers = value if isinstance(value, tuple) else (value,)
        if len(numbers) != field.count:
            raise ValueError(f"{self.name}: {name} must be {field.count} integers, not {value!r}")
        for i in range(field.count):
            sizes[i] = numbers[i]


cdef struct patch:
    ptrdiff_t at     # where in the arguments an address goes
    ptrdiff_t base
    ptrdiff_t offset


cdef class Template:
    """The records of a plan with, for every tensor, its base and offset. Immutable and shared."""

    cdef readonly tuple records
    cdef readonly Py_ssize_t scratch, base_count, capacity
    cdef Py_ssize_t size
    cdef list starts
    cdef patch *patches
    cdef Py_ssize_t patch_count
    cdef readonly tuple results

    def __cinit__(self, records, addresses, results, Py_ssize_t base_count, Py_ssize_t capacity):
        """capacity: the largest batch that the records' shapes hold; addresses: for each record {field or "workspace": (base, byte offset) or None for a
        tensor that is bound to an array before each run}; results: (base, byte offset) of the
        float64 scalars that a run hands out."""
        self.records = tuple(records)
        self.results = tuple(results)
        self.base_count = base_count
        self.capacity = capacity
        self.starts = []
        self.size = 0
        self.scratch = 0
        entries = []
        cdef Record record
        for made, places in zip(self.records, addresses, strict=True):
            if not isinstance(made, Record):
                raise TypeError(f"a template consists of records, not {made!r}")
            record = made
            expected = set(record.offsets) | ({"workspace"} if record.workspace else set())
            if set(places) != expected:
                raise ValueError(f"{record.name}: addresses for {sorted(places)}, "
                                 f"tensors {sorted(expected)}")
            for name, place in places.items():
                if place is not None:
                    base, offset = place
                    if not 0 <= base < base_count or offset < 0 or offset % 8:
                        raise ValueError(f"{record.name}: {name} has no valid place: {place}")
                    at = 0 if name == "workspace" else record.offsets[name]
                    entries.append((self.size + at, base, offset))
            self.starts.append(self.size)
            self.size += <Py_ssize_t>record.kernel.args_size
            self.scratch = max(self.scratch, record.scratch)
        self.scratch = (self.scratch + 63) // 64 * 64
        self.patch_count = len(entries)
        self.patches = <patch *>PyMem_Calloc(max(len(entries), 1), sizeof(patch))
        if self.patches == NULL:
            raise MemoryError()
        for i, (at, base, offset) in enumerate(entries):
            self.patches[i].at = at
            self.patches[i].base = base
            self.patches[i].offset = offset

    def __dealloc__(self):
        PyMem_Free(self.patches)


cdef class Tape:
    """A template with addresses, ready to run. One run at a time."""

    cdef readonly Template template
    cdef readonly object busy
    cdef object owners
    cdef char *args
    cdef cn_op *ops
    cdef const double **result_tensors
    cdef Arena scratch
    cdef int scratch_team
    cdef dict bound
    cdef set unbound

    def __cinit__(self, Template template not None, bases, owners):
        """bases: the address each of the template's bases begins at; owners: kept alive."""
        if len(bases) != template.base_count:
            raise ValueError(f"{len(bases)} bases for a template with {template.base_count}")
        self.template = template
        self.owners = owners
        self.busy = False
        self.bound = {}
        cdef Py_ssize_t count = len(template.records), i
        self.args = <char *>PyMem_Calloc(max(template.size, 1), 1)
        self.ops = <cn_op *>PyMem_Calloc(max(count, 1), sizeof(cn_op))
        self.result_tensors = <const double **>PyMem_Calloc(
            max(len(template.results), 1), sizeof(double *))
        if self.args == NULL or self.ops == NULL or self.result_tensors == NULL:
            raise MemoryError()
        cdef Record record
        cdef Py_ssize_t start
        for i in range(count):
            record = template.records[i]
            start = template.starts[i]
            memcpy(self.args + start, record.args, record.kernel.args_size)
            self.ops[i].kernel = record.kernel
            self.ops[i].args = self.args + start
        cdef patch *p
        cdef uintptr_t base
        for i in range(template.patch_count):
            p = &template.patches[i]
            base = bases[p.base]
            (<uintptr_t *>(self.args + p.at))[0] = base + <uintptr_t>p.offset
        for i in range(len(template.results)):
            base_index, offset = template.results[i]
            base = bases[base_index]
            self.result_tensors[i] = <const double *>(base + <uintptr_t>offset)
        self.unbound = set()
        for i in range(count):
            record = template.records[i]
            for name, offset in record.offsets.items():
                if (<cn_tensor *>(self.args + <Py_ssize_t>template.starts[i] +
                                  <Py_ssize_t>offset)).data == NULL:
                    self.unbound.add((i, name))

    def __dealloc__(self):
        PyMem_Free(self.args)
        PyMem_Free(self.ops)
        PyMem_Free(self.result_tensors)

    def bind(self, Py_ssize_t record_index, str name, array, bint writable=False):
        """Points a tensor at an array of the caller's: C-contiguous, aligned, and with as many
        elements an example as the plan says; the number of examples is the array's own."""
        if self.busy:
            raise RuntimeError("a tape cannot be bound while it runs")
        if not 0 <= record_index < len(self.template.records):
            raise IndexError(f"there is no record {record_index}")
        cdef Record record = self.template.records[record_index]
        cdef cn_tensor *tensor = <cn_tensor *>(
            self.args + <Py_ssize_t>self.template.starts[record_index] +
            <Py_ssize_t>record.offsets[name])
        cdef Bound bound = Bound(array, writable)
        declared = (<cn_tensor *>(record.args + <Py_ssize_t>record.offsets[name]))[0]
        cdef ptrdiff_t example = 1, found = 1
        cdef int i
        for i in range(1, CN_MAX_RANK):
            example *= declared.shape[i]
        for i in range(1, bound.view.ndim):
            found *= bound.view.shape[i]
        if bound.view.ndim < 1 or bound.view.shape[0] < 1 or found != example:
            raise ValueError(f"{record.name}: {name} has shape {bound.shape()}, "
                             f"expected {example} elements an example")
        if <uintptr_t>bound.view.buf % <uintptr_t>bound.view.itemsize:
            raise ValueError(f"{record.name}: {name} is not aligned")
        if declared.type != bound.type and not (name == "data" and
                                                bound.type in (CN_U8, CN_F32, CN_F64)):
            raise ValueError(f"{record.name}: {name} has the wrong dtype")
        cdef cn_tensor before = tensor[0]
        tensor.data = bound.view.buf
        tensor.shape[0] = bound.view.shape[0]
        tensor.type = bound.type
        cdef const char *wrong = record.kernel.check(
            self.args + <Py_ssize_t>self.template.starts[record_index])
        if wrong != NULL:
            tensor[0] = before
            raise ValueError(f"{record.name}: {(<bytes>wrong).decode()}")
        self.bound[record_index, name] = bound
        self.unbound.discard((record_index, name))

    def release(self):
        """Lets go of all bound arrays."""
        if self.busy:
            raise RuntimeError("a tape cannot be released while it runs")
        for index, name in self.bound:
            record = <Record>self.template.records[index]
            (<cn_tensor *>(self.args + <Py_ssize_t>self.template.starts[index] +
                           <Py_ssize_t>(<Record>record).offsets[name])).data = NULL
            self.unbound.add((index, name))
        self.bound.clear()

    def run(self, const int64_t[::1] sizes, const int64_t[::1] index, const double[::1] lr,
            int64_t t, uint64_t seed, double[:, ::1] results, Py_ssize_t first=0, last=None,
            int team=1, double seconds=0, bint reuse_once=False, int64_t row=0,
            double[:, ::1] op_seconds=None):
        """Runs len(sizes) steps; step i takes the next sizes[i] entries of index, learning rate
        lr[i] and iteration number t + i. Returns (steps done, status, op that gave up or -1).
        op_seconds (steps, last - first) gets what each op took, in seconds."""
        if self.busy:
            raise RuntimeError("this tape is running already")
        self.busy = True
        try:
            return self.run_alone(sizes, index, lr, t, seed, results, first,
                                  len(self.template.records) if last is None else last,
                                  team, seconds, reuse_once, row, op_seconds)
        finally:
            self.busy = False

    cdef run_alone(self, const int64_t[::1] sizes, const int64_t[::1] index,
                   const double[::1] lr, int64_t t, uint64_t seed, double[:, ::1] results,
                   Py_ssize_t first, Py_ssize_t last, int team, double seconds, bint reuse_once,
                   int64_t row, double[:, ::1] op_seconds):
        cdef Py_ssize_t count = sizes.shape[0], i
        if not 0 <= first < last <= len(self.template.records):
            raise ValueError(f"there are no ops {first} .. {last - 1}")
        if count < 1 or lr.shape[0] != count or results.shape[0] != count or \
                results.shape[1] != len(self.template.results):
            raise ValueError("sizes, lr and results must have one entry a step")
        if op_seconds is not None and (op_seconds.shape[0] != count or
                                       op_seconds.shape[1] != last - first):
            raise ValueError("op_seconds must have one row a step and one entry an op")
        if self.unbound:
            raise ValueError(f"not bound: {sorted(self.unbound)}")
        cdef Py_ssize_t left = index.shape[0]
        for i in range(count):
            if not 1 <= sizes[i] <= self.template.capacity:
                raise ValueError(f"a batch must have 1 .. {self.template.capacity} examples")
            left -= sizes[i]
            if left < 0:
                break
        if left:
            raise ValueError("index must have as many entries as the steps take")
        if t < 1:
            raise ValueError(f"t must be at least 1, not {t}")
        if team < 1:
            raise ValueError(f"team must be at least 1, not {team}")
        team = cn_team_prove(team)
        if self.scratch is None or self.scratch_team < team:
            self.scratch = Arena(<object>self.template.scratch * <object>team)
            self.scratch_team = team
        cdef cn_step *steps = <cn_step *>PyMem_Calloc(count, sizeof(cn_step))
        if steps == NULL:
            raise MemoryError()
        cdef ptrdiff_t start = 0
        for i in range(count):
            steps[i].n = sizes[i]
            steps[i].index = &index[0] + start
            steps[i].row = row + start
            steps[i].t = t + i
            steps[i].seed = seed
            steps[i].lr = lr[i]
            start += sizes[i]
        cdef cn_run run
        memset(&run, 0, sizeof(run))
        run.ops = self.ops
        run.first = first
        run.last = last
        run.steps = steps
        run.step_count = count
        run.scratch = self.scratch.data
        run.scratch_pitch = self.template.scratch
        run.result_tensors = <const double *const *>self.result_tensors
        run.result_count = len(self.template.results)
        if run.result_count:
            run.results = &results[0, 0]
        run.team = team
        run.reuse_once = reuse_once
        run.seconds = seconds
        if op_seconds is not None:
            run.op_seconds = &op_seconds[0, 0]
        with nogil:
            cn_tape_run(&run)
        PyMem_Free(steps)
        return run.steps_done, STATUS[run.status], run.failed_op


cdef class Bound:
    """A caller's array, held while a tape points at it."""

    cdef Py_buffer view
    cdef bint held
    cdef int type

    def __cinit__(self, array, bint writable):
        flags = PyBUF_C_CONTIGUOUS | PyBUF_FORMAT | (PyBUF_WRITABLE if writable else 0)
        PyObject_GetBuffer(array, &self.view, flags)
        self.held = True
        code = (<bytes>self.view.format).decode() if self.view.format != NULL else "B"
        self.type = FORMATS.get((code, self.view.itemsize), -1)
        if self.type < 0:
            raise ValueError(f"an array of format {code!r} cannot be bound")

    def shape(self):
        return tuple(self.view.shape[i] for i in range(self.view.ndim))

    def __dealloc__(self):
        if self.held:
            PyBuffer_Release(&self.view)
