/* Runs an array of ops, a number of steps at a time, with one team of threads. */
#ifndef CN_TAPE_H
#define CN_TAPE_H

#include "kernel.h"

typedef struct {
    const cn_kernel *kernel;
    const void *args;
} cn_op;

typedef struct {
    const cn_op *ops;
    ptrdiff_t first, last; /* run ops first .. last-1 */
    cn_step *steps;
    ptrdiff_t step_count;
    char *scratch;
    ptrdiff_t scratch_pitch;             /* bytes a thread */
    const double *const *result_tensors; /* scalars copied out after each step */
    ptrdiff_t result_count;
    double *results; /* (step_count, result_count) */
    int team;
    int reuse_once;     /* parameters do not change during the run: pack them at its first step */
    double seconds;     /* stop after the step that ends beyond this time; 0: never */
    double *op_seconds; /* (step_count, last - first): what each op took; NULL: not wanted */

    ptrdiff_t steps_done; /* out */
    ptrdiff_t failed_op;
    int32_t status; /* cn_status */
} cn_run;

/* Allocates nothing, takes no lock, needs no interpreter. */
void cn_tape_run(cn_run *run);

#endif
