/* Threads: how many, made safely, meeting between stages, with one floating-point environment. */
#ifndef CN_TEAM_H
#define CN_TEAM_H

#include <stdint.h>
#include <time.h>

#include "kernel.h"

/* Seconds, from a clock that never goes back. */
static inline double cn_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Called once, when the module is imported: remembers OpenMP's own default and makes fork safe. */
void cn_team_init(void);

typedef struct {
    int openmp;    /* omp_get_max_threads() of the calling thread */
    int affinity;  /* processors this process may run on */
    int quota;     /* cgroup quota in whole processors, 0 if none; set by cn_set_quota */
    int requested; /* cn_set_threads, 0 if none */
    int limit;     /* OMP_THREAD_LIMIT */
} cn_limits;

cn_limits cn_team_limits(void);
void cn_set_threads(int requested);
void cn_set_quota(int quota);

/* Threads for a run from here: a request stands, unless this thread's OpenMP limit was lowered
 * since import (threadpoolctl does that); without one it is the least of openmp, affinity and
 * quota. 1 inside somebody's parallel region. */
int cn_team_size(void);

/* Threads for the next run: that many, or for a while fewer, after runs whose threads had to make
 * way for other processes. All wait for the one that lost its processor, so fewer threads that keep
 * theirs are faster, and the other process is not held up either. A request stands here too. */
int cn_team_now(void);
/* How often the calling thread was put aside for another one. */
long cn_preemptions(void);
/* What a run of several threads met with; seconds of its duration. */
void cn_team_learn(long preemptions, double seconds);

/* `wanted`, or fewer where the system will not give that many threads: libgomp ends the whole
 * process when it cannot create one, so new threads are tried out first. */
int cn_team_prove(int wanted);

/* The chunks of a stage, and of those that join it, are dealt out in shares, one for each thread,
 * in order: from op to op a thread meets the same part of the batch and of the parameters, which
 * its caches may still have. One that is through with its own share takes from the next, of each
 * stage the last chunks: a slow thread leaves the same examples to it in op after op. */
enum { CN_SHARES = 64 }; /* at most; then several threads have one together */
typedef struct {
    /* For each stage, how many chunks were taken from its front, and in the upper half from its
     * back. */
    _Alignas(64) uint64_t taken[CN_MAX_STAGES];
} cn_share;

/* Where all threads of a run meet. Spins for a short while, then yields the processor: libgomp's
 * own barrier holds a step up for many time slices when another process is busy on a core. */
typedef struct {
    cn_share shares[2][CN_SHARES]; /* of one meeting and the next in turns */
    _Alignas(64) int32_t arrived;
    _Alignas(64) uint32_t generation;
    const int32_t *watched; /* the run's status */
    int32_t seen;           /* its value when the last thread arrived */
    double *when;           /* NULL, or gets the time when the last thread arrived */
} cn_barrier;

/* What went past the caches counts as written for all who hear of it later. */
static inline void cn_publish(void) {
#if defined(__x86_64__)
    __builtin_ia32_sfence();
#endif
}

/* A chunk of a stage or of one that joins it; `stage` counts from the first of these. */
typedef struct {
    int64_t chunk;
    int stage;
} cn_place;

/* The next chunk for one of the threads; returns 0 if all are taken. A share has the same fraction
 * of each stage's chunks, those of the first stage first. `passed` counts the shares that this
 * thread has found empty, from 0. */
static inline int cn_next_place(cn_barrier *b, uint32_t meeting, int thread, int threads,
                                const ptrdiff_t *chunks, int stages, int *passed, cn_place *at) {
    for (int shares = threads < CN_SHARES ? threads : CN_SHARES; *passed < shares; ++*passed) {
        int share = (thread + *passed) % shares;
        const uint64_t one = *passed ? (uint64_t)1 << 32 : 1;
        for (at->stage = 0; at->stage < stages; at->stage++) {
            /* Not as cn_part has it: half of the chunks are to be those of half of the threads. */
            ptrdiff_t from = chunks[at->stage] * share / shares, front, back;
            ptrdiff_t to = chunks[at->stage] * (share + 1) / shares;
            uint64_t *counter = &b->shares[meeting % 2][share].taken[at->stage];
            uint64_t taken = __atomic_load_n(counter, __ATOMIC_RELAXED);
            do {
                front = from + (ptrdiff_t)(taken & UINT32_MAX);
                back = to - (ptrdiff_t)(taken >> 32);
            } while (front < back &&
                     !__atomic_compare_exchange_n(counter, &taken, taken + one, 0, __ATOMIC_RELAXED,
                                                  __ATOMIC_RELAXED));
            if (front < back) {
                at->chunk = *passed ? back - 1 : front;
                return 1;
            }
        }
    }
    return 0;
}

/* Before a thread comes to a meeting: its share of what follows is whole again. Nobody looks at it
 * any more: it was of what lay before the last meeting, to which all have come. */
static inline void cn_renew_share(cn_barrier *b, uint32_t next, int thread) {
    for (int i = 0; thread < CN_SHARES && i < CN_MAX_STAGES; i++)
        __atomic_store_n(&b->shares[next % 2][thread].taken[i], 0, __ATOMIC_RELAXED);
}

/* All see what any wrote before. Returns the watched status as it was when all had arrived: the
 * same for every thread, though one that leaves early may soon change it. */
int32_t cn_meet(cn_barrier *b, int threads);

/* Round to nearest, exceptions masked, denormals flushed to zero; returns what was in force. */
uint64_t cn_float_enter(void);
void cn_float_leave(uint64_t before);
uint64_t cn_float_control(void);

#endif
