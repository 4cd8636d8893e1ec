// The copies of the kernels in this build.
#pragma once
#include "problem.hpp"

#define NF_DECLARE(isa)                                           \
    namespace nf::isa {                                           \
    void attend_sets(const std::vector<Problem>&, int threads);   \
    void attend_sets_back(const std::vector<Problem>&, const std::vector<Gradients>&, int threads); \
    void activate_sets(const std::vector<Activation>&, int threads); \
    void activate_sets_back(const std::vector<Activation>&, const std::vector<ActivationGradients>&, int threads); \
    void map_matrices(const Matrices&);                           \
    void map_matrices_back(const Matrices&, const MatrixGradients&); \
    void settle(const Entries&, int threads);                     \
    void settle_back(const Entries&, int threads);                \
    void map_linear(const Linear&, int threads);                  \
    void map_linear_back(const Linear&, int threads);             \
    void map_blocks(const Blocks&, int threads);                  \
    void map_blocks_back(const Blocks&, const BlockGradients&, int threads); \
    void aggregate(const Messages&);                              \
    void aggregate_back(const Messages&, const MessageGradients&); \
    void relate(const Relations&);                                \
    void relate_back(const Relations&, const RelationGradients&); \
    }
NF_DECLARE(baseline)
#if defined(NF_X86)
NF_DECLARE(avx2)
NF_DECLARE(avx512)
#endif
