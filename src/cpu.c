#include "cpu.h"

#include <string.h>

int cn_cpu_has(const char *isa) {
#if defined(__x86_64__)
    __builtin_cpu_init();
#if defined(CN_EMULATE_AVX512)
    if (!strcmp(isa, "avx512")) isa = "avx2";
#endif
    if (!strcmp(isa, "avx2"))
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (!strcmp(isa, "avx512"))
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#endif
    return !strcmp(isa, cn_isas[0].name);
}

const cn_kernel *cn_find(const char *name, int is_double, const char *isa) {
    for (const cn_isa *level = cn_isas; level->name; level++) {
        if (strcmp(level->name, isa)) continue;
        for (const cn_kernel *const *const *family = is_double ? level->f64 : level->f32; *family;
             family++)
            for (const cn_kernel *const *kernel = *family; *kernel; kernel++)
                if (!strcmp((*kernel)->name, name)) return *kernel;
    }
    return NULL;
}
