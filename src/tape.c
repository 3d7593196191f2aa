#define _GNU_SOURCE
#include "tape.h"

#include <omp.h>

#include "team.h"

typedef struct {
    cn_run *run;
    cn_barrier barrier;
    double deadline;
    double met;       /* when the team last met, begun with the run; only where ops are timed */
    ptrdiff_t stop;   /* the step to stop after, from 1, or 0 */
    long preemptions; /* of all threads, where there are several */
} shared;

/* After the last op of a step: its results go out, and the clock is looked at. */
static void end_step(shared *s) {
    cn_run *run = s->run;
    for (ptrdiff_t i = 0; i < run->result_count; i++)
        run->results[run->steps_done * run->result_count + i] = *run->result_tensors[i];
    run->steps_done++;
    if (run->seconds > 0 && cn_now() > s->deadline)
        __atomic_store_n(&s->stop, run->steps_done, __ATOMIC_RELAXED);
}

/* One of the team's threads. A stage of a single chunk is the first thread's: it goes ahead as far
 * as the next stages are such, too, and only then do all meet. */
typedef struct {
    shared *all;
    void *scratch;
    int thread, threads;
    uint32_t meetings;
    int ahead; /* whether there was such a stage since the last meeting */
} member;

static int go_on(const shared *s) {
    return __atomic_load_n(&s->run->status, __ATOMIC_RELAXED) == CN_OK;
}

/* All threads return the same: whether to go on. */
static int meet(member *m) {
    m->ahead = 0;
    m->meetings++;
    cn_renew_share(&m->all->barrier, m->meetings, m->thread);
    return cn_meet(&m->all->barrier, m->threads) == CN_OK;
}

/* Before a thread's first chunk of a stage and those that join it. */
static void begin(member *m, const cn_op *op) {
    if (m->scratch && op->kernel->scratch) *(int64_t *)m->scratch = 0;
}

static void run_alone(member *m, const cn_op *op, const cn_stage *stages, int count,
                      const ptrdiff_t *chunks, const cn_step *step) {
    shared *s = m->all;
    begin(m, op);
    for (int i = 0; i < count; i++)
        for (ptrdiff_t chunk = 0; chunk < chunks[i] && go_on(s); chunk++)
            stages[i].run(op->args, step, chunk, m->scratch);
    if (!go_on(s) && s->run->failed_op < 0) s->run->failed_op = op - s->run->ops;
}

/* All threads return the same: whether to go on. A failure of the first thread, where it is ahead,
 * shows at the next meeting; until then it does nothing more. */
static int run_op(member *m, const cn_op *op, const cn_step *step, int skip_once) {
    shared *s = m->all;
    const cn_stage *stages = op->kernel->stages;
    for (int first = skip_once, count; first < CN_MAX_STAGES && stages[first].run; first += count) {
        const cn_stage *stage = stages + first;
        ptrdiff_t chunks[CN_MAX_STAGES], all = 0;
        for (count = 0; first + count < CN_MAX_STAGES && stage[count].run; count++) {
            if (count && !stage[count].joins) break;
            all += chunks[count] = stage[count].chunks(op->args, step->n);
        }
        if (m->threads == 1) {
            run_alone(m, op, stage, count, chunks, step);
            if (!go_on(s)) return 0;
        } else if (all == 1) {
            m->ahead = 1;
            if (m->thread == 0) run_alone(m, op, stage, count, chunks, step);
        } else if (all > 1) {
            if (m->ahead && !meet(m)) return 0;
            cn_place at;
            int passed = 0;
            begin(m, op);
            while (cn_next_place(&s->barrier, m->meetings, m->thread, m->threads, chunks, count,
                                 &passed, &at))
                stage[at.stage].run(op->args, step, at.chunk, m->scratch);
            if (!meet(m)) {
                if (m->thread == 0) s->run->failed_op = op - s->run->ops;
                return 0;
            }
        }
    }
    return 1;
}

static void walk(shared *s, int thread, int threads) {
    cn_run *run = s->run;
    char *scratch = run->scratch_pitch ? run->scratch + thread * run->scratch_pitch : NULL;
    member m = {s, scratch, thread, threads, 1, 0};
    uint64_t float_before = cn_float_enter();
    double before = s->met; /* the end of the op before */
    for (ptrdiff_t k = 0; k < run->step_count; k++) {
        const cn_step *step = &run->steps[k];
        double *seconds =
            run->op_seconds ? run->op_seconds + k * (run->last - run->first) - run->first : NULL;
        for (ptrdiff_t i = run->first; i < run->last; i++) {
            int skip_once = run->reuse_once && k > 0 && run->ops[i].kernel->once;
            if (!run_op(&m, &run->ops[i], step, skip_once)) goto leave;
            if (seconds) {
                if (m.ahead && !meet(&m)) goto leave;
                if (threads == 1) s->met = cn_now();
                if (thread == 0) seconds[i] = s->met - before;
                before = s->met;
            }
        }
        if (thread == 0 && go_on(s)) end_step(s);
        if (threads > 1 && !meet(&m)) goto leave;
        before = s->met;
        /* The first thread may be ahead, and have stopped at a later step: then all go on to it. */
        if (__atomic_load_n(&s->stop, __ATOMIC_RELAXED) == k + 1) break;
    }
leave:
    cn_float_leave(float_before);
}

void cn_tape_run(cn_run *run) {
    shared s = {.run = run,
                .barrier.watched = &run->status,
                .deadline = run->seconds > 0 ? cn_now() + run->seconds : 0};
    if (run->op_seconds) {
        s.barrier.when = &s.met;
        s.met = cn_now();
    }
    run->steps_done = 0;
    run->failed_op = -1;
    run->status = CN_OK;
    for (ptrdiff_t k = 0; k < run->step_count; k++) run->steps[k].status = &run->status;
    if (run->team == 1) {
        walk(&s, 0, 1);
        cn_publish();
        return;
    }
    double start = cn_now();
#pragma omp parallel num_threads(run->team)
    {
        long before = cn_preemptions();
        walk(&s, omp_get_thread_num(), omp_get_num_threads());
        cn_publish();
        __atomic_fetch_add(&s.preemptions, cn_preemptions() - before, __ATOMIC_RELAXED);
    }
    cn_team_learn(s.preemptions, cn_now() - start);
}
