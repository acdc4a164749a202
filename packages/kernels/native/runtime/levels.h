// The instruction-set levels of this build, lowest first, and which of them this CPU runs.
#pragma once
#include <span>

#include "octet/op.h"

namespace octet {

std::span<const Level> levels();

}  // namespace octet
