// The op table of one instruction-set level. Compiled once per level, like every file of this folder.
//
// Ops are declared weak, so a level may lack a row: the row is then null, the manifest must name the gap with its
// reason, and JavaScript refuses the op with NOT_SUPPORTED. src/manifest.test.ts compares both.
//
// No file here may have a static initialiser: it would run at load time, before the CPU is known to support the level.
#include "octet/op.h"

namespace octet::cpu::OCTET_LEVEL {

#define X(name) [[gnu::weak]] Status op_##name(const OpCall&, Context&);
#include "octet/ops.def"
#undef X

extern const OpFn kTable[];
const OpFn kTable[] = {
#define X(name) op_##name,
#include "octet/ops.def"
#undef X
};

}  // namespace octet::cpu::OCTET_LEVEL
