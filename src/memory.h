/* The one place where tensors' memory comes from. */
#ifndef CN_MEMORY_H
#define CN_MEMORY_H

#include <stddef.h>

/* NULL if there is none. From 2 MiB on, aligned to that with huge pages advised: a step touches
 * every page of its arena, and a page of 4 KiB costs a translation each. Give back with free. */
void *cn_allocate(size_t bytes);

#endif
