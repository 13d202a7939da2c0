// The pipeline as a picture for a terminal: a box a stage, its time of one lap as a bar, the hops between.
// Pure.
#pragma once

#include <string>

#include "planner/types.h"

namespace shoal {

enum class PictureStyle { kAscii, kBoxes };  // kBoxes: UTF-8 box characters

std::string render_pipeline(const Plan& plan, PictureStyle style);

// "embedding + layers 0-9"
std::string share_text(const StageAssignment& stage);

}  // namespace shoal
