// What `shoal inspect MODEL.gguf` prints: what is in a model file, for a person. Works for any file that
// opens, also of an architecture that Shoal does not compute, and says why it does not. All text from the
// file is made printable.
#pragma once

#include <iosfwd>

#include "model/gguf_file.h"

namespace shoal {

// Thread-safe; throws nothing for what the file holds.
void inspect_model(const GgufFile& file, std::ostream& out);

}  // namespace shoal
