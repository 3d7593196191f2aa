#define _GNU_SOURCE
#include "team.h"

#include <omp.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/resource.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

static int openmp_at_import = 1, requested_threads, quota_threads;
static int proven = 1; /* threads that this process has had at once */

/* Preemptions are counted over at least WINDOW; more than LIMIT a second mean a busy neighbour, who
 * takes turns of some milliseconds with us. After PATIENCE such windows on end (threads that have
 * just been made are moved about, too), or the first after a trial, one thread is held back for
 * RETRY seconds. */
static const double WINDOW = 0.02, LIMIT = 150, RETRY = 0.5;
enum { PATIENCE = 3 };
static struct {
    pthread_mutex_t lock;
    long preemptions;
    double seconds, retry;
    int held_back;
    int crowded; /* such windows on end */
} crowd = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* In a forked child, where another thread of the parent may have held the lock. */
static void forget_crowd(void) {
    pthread_mutex_init(&crowd.lock, NULL);
    crowd.preemptions = 0;
    crowd.seconds = crowd.retry = 0;
    crowd.held_back = crowd.crowded = 0;
}

/* libgomp's worker threads do not exist in a forked child, where its next region would wait for
 * them for ever. Before a fork the calling thread's pool is dissolved; both sides make new ones. */
static void before_fork(void) {
    if (!omp_in_parallel()) omp_pause_resource_all(omp_pause_soft);
}
static void in_child(void) {
    __atomic_store_n(&proven, 1, __ATOMIC_RELAXED);
    forget_crowd();
}

void cn_team_init(void) {
    openmp_at_import = omp_get_max_threads();
    pthread_atfork(before_fork, NULL, in_child);
}

static int affinity(void) {
#if defined(__linux__)
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
#endif
    return omp_get_num_procs();
}

cn_limits cn_team_limits(void) {
    return (cn_limits){omp_get_max_threads(), affinity(), quota_threads, requested_threads,
                       omp_get_thread_limit()};
}

void cn_set_threads(int requested) { requested_threads = requested; }
void cn_set_quota(int quota) { quota_threads = quota; }

static int least(int a, int b) { return a < b ? a : b; }

int cn_team_size(void) {
    if (omp_in_parallel()) return 1;
    cn_limits limits = cn_team_limits();
    int threads;
    if (limits.requested)
        threads = limits.openmp < openmp_at_import ? least(limits.requested, limits.openmp)
                                                   : limits.requested;
    else {
        threads = least(limits.openmp, limits.affinity);
        if (limits.quota) threads = least(threads, limits.quota);
    }
    threads = least(threads, limits.limit);
    return threads < 1 ? 1 : threads;
}

int cn_team_now(void) {
    int size = cn_team_size();
    if (requested_threads) return size;
    pthread_mutex_lock(&crowd.lock);
    if (crowd.held_back && cn_now() > crowd.retry) {
        crowd.held_back--;
        crowd.retry = cn_now() + RETRY;
    }
    if (crowd.held_back > size - 1) crowd.held_back = size - 1;
    size -= crowd.held_back;
    pthread_mutex_unlock(&crowd.lock);
    return size;
}

long cn_preemptions(void) {
#if defined(__linux__)
    struct rusage usage;
    if (getrusage(RUSAGE_THREAD, &usage) == 0) return usage.ru_nivcsw;
#endif
    return 0;
}

void cn_team_learn(long preemptions, double seconds) {
    pthread_mutex_lock(&crowd.lock);
    crowd.preemptions += preemptions;
    crowd.seconds += seconds;
    if (crowd.seconds > WINDOW) {
        int crowded = crowd.preemptions > 1 && (double)crowd.preemptions > LIMIT * crowd.seconds;
        crowd.crowded = crowded ? crowd.crowded + 1 : 0;
        if (crowd.crowded >= PATIENCE) {
            crowd.held_back++;
            crowd.retry = cn_now() + RETRY;
            crowd.crowded = PATIENCE - 1;
        }
        crowd.preemptions = 0;
        crowd.seconds = 0;
    }
    pthread_mutex_unlock(&crowd.lock);
}

static void *wait_for_release(void *gate) {
    pthread_mutex_lock(gate);
    pthread_mutex_unlock(gate);
    return NULL;
}

int cn_team_prove(int wanted) {
    int known = __atomic_load_n(&proven, __ATOMIC_RELAXED);
    if (wanted <= known) return wanted;
    pthread_t *threads = malloc((size_t)wanted * sizeof *threads);
    if (!threads) return known;
    pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
    int made = 0;
    pthread_mutex_lock(&gate);
    while (made < wanted - 1 && !pthread_create(&threads[made], NULL, wait_for_release, &gate))
        made++;
    pthread_mutex_unlock(&gate);
    for (int i = 0; i < made; i++) pthread_join(threads[i], NULL);
    free(threads);
    /* At the system's limit stacks are not all that needs room, and other threads of this process
     * may want teams too: keep to half of what could be had. */
    if (made < wanted - 1) made /= 2;
    if (made + 1 > known) __atomic_store_n(&proven, made + 1, __ATOMIC_RELAXED);
    return made + 1 > known ? made + 1 : known;
}

static inline void pause_briefly(void) {
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Spins before the first yield: some tens of microseconds. */
enum { SPINS = 2000 };

int32_t cn_meet(cn_barrier *b, int threads) {
    cn_publish();
    uint32_t generation = __atomic_load_n(&b->generation, __ATOMIC_RELAXED);
    if (__atomic_add_fetch(&b->arrived, 1, __ATOMIC_ACQ_REL) == threads) {
        b->arrived = 0;
        int32_t seen = b->seen = __atomic_load_n(b->watched, __ATOMIC_RELAXED);
        if (b->when) *b->when = cn_now();
        __atomic_store_n(&b->generation, generation + 1, __ATOMIC_RELEASE);
        return seen;
    }
    for (int spins = 0; __atomic_load_n(&b->generation, __ATOMIC_ACQUIRE) == generation;) {
        if (spins < SPINS) {
            spins++;
            pause_briefly();
        } else {
            sched_yield();
        }
    }
    return b->seen;
}

#if defined(__x86_64__)
uint64_t cn_float_control(void) { return _mm_getcsr(); }
void cn_float_leave(uint64_t before) { _mm_setcsr((uint32_t)before); }
/* Flush to zero, denormals are zero, all six exceptions masked, round to nearest, no flags set. */
static const uint64_t OURS = 0x8000 | 0x0040 | 0x1f80;
#elif defined(__aarch64__)
uint64_t cn_float_control(void) {
    uint64_t fpcr;
    __asm__ volatile("mrs %0, fpcr" : "=r"(fpcr));
    return fpcr;
}
void cn_float_leave(uint64_t before) { __asm__ volatile("msr fpcr, %0" : : "r"(before)); }
static const uint64_t OURS = (uint64_t)1 << 24; /* flush to zero */
#else
uint64_t cn_float_control(void) { return 0; }
void cn_float_leave(uint64_t before) { (void)before; }
static const uint64_t OURS = 0;
#endif

uint64_t cn_float_enter(void) {
    uint64_t before = cn_float_control();
    cn_float_leave(OURS);
    return before;
}
