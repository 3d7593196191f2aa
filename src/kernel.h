/* The contract between the tape and a kernel.
 *
 * A kernel is one plain operation (conv2d_forward, adam_update, ...) for one dtype and one
 * instruction set. It runs as one or more stages; between two stages all threads meet, so a stage
 * may read what an earlier stage of the same kernel left in the workspace (packed weights, partial
 * sums), unless the second joins the first. A stage is cut into chunks by shape alone, never by the
 * number of threads, and a chunk's result depends on nothing but its arguments: that is why any
 * team gives the same bits.
 *
 * Arguments are fixed when the plan is made; what varies from step to step is in cn_step. */
#ifndef CN_KERNEL_H
#define CN_KERNEL_H

#include <stddef.h>
#include <stdint.h>

enum { CN_MAX_RANK = 4, CN_MAX_STAGES = 6 };

/* Element types. CN_REAL stands for the dtype that the kernel is compiled for. */
typedef enum { CN_REAL, CN_F32, CN_F64, CN_U8, CN_U16, CN_I64, CN_ANY } cn_type;

/* Dense and row-major. The first dimension of a tensor that has one entry per example holds the
 * plan's capacity; a step's n may be smaller. An absent optional tensor has rank -1. */
typedef struct {
    void *data;
    ptrdiff_t shape[CN_MAX_RANK]; /* dimensions beyond rank are 1 */
    int32_t rank;
    int32_t type;
} cn_tensor;

/* Why a step was given up. The tape also records which op said so. */
typedef enum {
    CN_OK,
    CN_BAD_INDEX, /* an example's index lies outside the data set */
    CN_BAD_LABEL, /* a class index lies outside 0 .. classes-1 */
    CN_BAD_INPUT, /* NaN or infinity in the data */
    CN_ONE_VALUE, /* batch normalization over a single value per channel */
    CN_NOT_FINITE_LOSS,
    CN_NOT_FINITE_GRADIENT,
} cn_status;

typedef struct {
    ptrdiff_t n;          /* examples in this step's batch, 1 .. capacity */
    const int64_t *index; /* which rows of the data set, n of them */
    ptrdiff_t row;        /* first row of the results that leave the plan */
    int64_t t;            /* iteration number, from 1 */
    uint64_t seed;
    double lr;
    int32_t *status; /* cn_status; written with cn_fail, read by the tape when all meet */
} cn_step;

/* Of several reasons the first in the list above is kept, whichever thread is faster. */
static inline void cn_fail(const cn_step *step, cn_status status) {
    int32_t now = __atomic_load_n(step->status, __ATOMIC_RELAXED);
    while ((now == CN_OK || now > (int32_t)status) &&
           !__atomic_compare_exchange_n(step->status, &now, (int32_t)status, 1, __ATOMIC_RELAXED,
                                        __ATOMIC_RELAXED)) {
    }
}

/* Every argument struct starts with this head. */
typedef struct {
    void *workspace; /* shared by all threads, kept between the stages of one kernel */
} cn_head;

/* One list declares a kernel's arguments: the struct's members and, for the binding, their names,
 * kinds and offsets. A name is the same word as in the NumPy twin. */
typedef enum { CN_FIELD_TENSOR, CN_FIELD_SIZE, CN_FIELD_NUMBER, CN_FIELD_FUSED } cn_field_kind;

typedef struct {
    const char *name;
    size_t offset;
    int32_t kind;
    int32_t type;  /* of a tensor */
    int32_t count; /* of the values of a size */
} cn_field;

#define CN_MEMBER_TENSOR(name) cn_tensor name;
#define CN_MEMBER_TYPED(name, type) cn_tensor name;
#define CN_MEMBER_SIZE(name, count) ptrdiff_t name[count];
#define CN_MEMBER_NUMBER(name) double name;
#define CN_MEMBER_FUSED(name) ptrdiff_t name;

#define CN_ENTRY(name, kind, type, count) {#name, offsetof(CN_ARGS_TYPE, name), kind, type, count},
#define CN_ENTRY_TENSOR(name) CN_ENTRY(name, CN_FIELD_TENSOR, CN_REAL, 1)
#define CN_ENTRY_TYPED(name, type) CN_ENTRY(name, CN_FIELD_TENSOR, type, 1)
#define CN_ENTRY_SIZE(name, count) CN_ENTRY(name, CN_FIELD_SIZE, CN_I64, count)
#define CN_ENTRY_NUMBER(name) CN_ENTRY(name, CN_FIELD_NUMBER, CN_F64, 1)
#define CN_ENTRY_FUSED(name) CN_ENTRY(name, CN_FIELD_FUSED, CN_I64, 1)

/* FIELDS is a list macro that takes the five kinds: TENSOR(x) of the kernel's dtype,
 * TYPED(x, type), SIZE(name, count) integers, NUMBER(name) a double, and FUSED(name) a switch that
 * only a fusion sets (0 otherwise), which therefore no twin has. */
#define CN_STRUCT(name, FIELDS)                                                                    \
    typedef struct {                                                                               \
        cn_head head;                                                                              \
        FIELDS(CN_MEMBER_TENSOR, CN_MEMBER_TYPED, CN_MEMBER_SIZE, CN_MEMBER_NUMBER,                \
               CN_MEMBER_FUSED)                                                                    \
    } name;
#define CN_TABLE(FIELDS)                                                                           \
    (const cn_field[]) {                                                                           \
        FIELDS(CN_ENTRY_TENSOR, CN_ENTRY_TYPED, CN_ENTRY_SIZE, CN_ENTRY_NUMBER,                    \
               CN_ENTRY_FUSED){NULL, 0, 0, 0, 0}                                                   \
    }

typedef struct {
    ptrdiff_t (*chunks)(const void *args, ptrdiff_t n);
    void (*run)(const void *args, const cn_step *step, ptrdiff_t chunk, void *scratch);
    /* 1: no thread waits between the stage before and this one, which reads nothing that the other
     * makes. Both have one scratch, and a thread may go from either to the other. */
    int32_t joins;
} cn_stage;

typedef struct {
    const char *name; /* "<op>_<function>", as in cnncore/reference/<op>.py */
    size_t args_size;
    const cn_field *fields;
    /* NULL, or what is wrong. The only gate between Python's numbers and the loops: shapes and
     * sizes are checked here, once, when the plan is made. */
    const char *(*check)(const void *args);
    ptrdiff_t (*workspace)(const void *args); /* bytes; NULL: none */
    /* Bytes a thread; NULL: none. Its contents do not outlive a stage and those that join it, at
     * whose first chunk of a thread it begins with 8 bytes of zero. */
    ptrdiff_t (*scratch)(const void *args);
    cn_stage stages[CN_MAX_STAGES]; /* ends at the first without run */
    int32_t once; /* stage 0 reads parameters only, so a run without updates needs it once */
} cn_kernel;

/* Helpers for check(). */
static inline int cn_present(cn_tensor t) { return t.rank >= 0; }
static inline int cn_is(cn_tensor t, int rank, ptrdiff_t d0, ptrdiff_t d1, ptrdiff_t d2,
                        ptrdiff_t d3) {
    return t.rank == rank && t.shape[0] == d0 && t.shape[1] == d1 && t.shape[2] == d2 &&
           t.shape[3] == d3;
}
static inline int cn_same(cn_tensor a, cn_tensor b) {
    return cn_is(a, b.rank, b.shape[0], b.shape[1], b.shape[2], b.shape[3]);
}
static inline int cn_optional(cn_tensor t, int rank, ptrdiff_t d0, ptrdiff_t d1, ptrdiff_t d2,
                              ptrdiff_t d3) {
    return !cn_present(t) || cn_is(t, rank, d0, d1, d2, d3);
}
/* Elements of one example. */
static inline ptrdiff_t cn_example(cn_tensor t) { return t.shape[1] * t.shape[2] * t.shape[3]; }
static inline ptrdiff_t cn_elements(cn_tensor t) { return t.shape[0] * cn_example(t); }
/* Channels (the last dimension) and rows of them an example: batch normalization's view. */
static inline ptrdiff_t cn_channels(cn_tensor t) { return t.shape[t.rank - 1]; }
static inline ptrdiff_t cn_rows(cn_tensor t, ptrdiff_t n) {
    return n * (cn_example(t) / cn_channels(t));
}

static inline ptrdiff_t cn_ceil_div(ptrdiff_t a, ptrdiff_t b) { return (a + b - 1) / b; }
static inline ptrdiff_t cn_round_up(ptrdiff_t a, ptrdiff_t b) { return cn_ceil_div(a, b) * b; }
static inline ptrdiff_t cn_min(ptrdiff_t a, ptrdiff_t b) { return a < b ? a : b; }
static inline ptrdiff_t cn_max(ptrdiff_t a, ptrdiff_t b) { return a > b ? a : b; }
static inline ptrdiff_t cn_clamp(ptrdiff_t a, ptrdiff_t low, ptrdiff_t high) {
    return cn_min(cn_max(a, low), high);
}
/* Part `i` of `parts` nearly equal parts of 0 .. total starts here. */
static inline ptrdiff_t cn_part(ptrdiff_t total, ptrdiff_t parts, ptrdiff_t i) {
    return total / parts * i + cn_min(i, total % parts);
}
/* The same of whole units, of which only the last may end beyond the total. */
static inline ptrdiff_t cn_part_of_units(ptrdiff_t total, ptrdiff_t unit, ptrdiff_t parts,
                                         ptrdiff_t i) {
    return cn_min(total, unit * cn_part(cn_ceil_div(total, unit), parts, i));
}
/* Chunks that are enough for some threads to share; and the pieces, at most `most`, that each of
 * fewer is cut into. */
enum { CN_ENOUGH_CHUNKS = 16 };
static inline ptrdiff_t cn_pieces(ptrdiff_t chunks, ptrdiff_t most) {
    return cn_clamp(CN_ENOUGH_CHUNKS / chunks, 1, most);
}

/* The names that differ between the compiled variants of a source: CN(gemm) is gemm_f32_avx2. */
#define CN_PASTE2(a, b) a##_##b
#define CN_PASTE(a, b) CN_PASTE2(a, b)
#define CN(name) CN_PASTE(name, CN_VARIANT)

#endif
