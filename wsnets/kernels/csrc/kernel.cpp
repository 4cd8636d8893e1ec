// The kernels, compiled once per instruction set; NF_ISA names the copy.
#include "activation.hpp"
#include "blocks.hpp"
#include "entries.hpp"
#include "linear.hpp"
#include "matrices.hpp"
#include "messages.hpp"
#include "relations.hpp"
#include "sets.hpp"
