// The copies of the kernel in this build and which of them this machine can run.
#pragma once
#include "problem.hpp"

#define NF_DECLARE(isa)                                                              \
    namespace nf::isa {                                                              \
    bool fit(const Problem&, Progress&);                                             \
    void sine_cosine_array(const float*, std::int64_t, float*, float*);              \
    }
NF_DECLARE(baseline)
#if defined(NF_X86)
NF_DECLARE(avx2)
NF_DECLARE(avx512)
NF_DECLARE(amx)
#endif
