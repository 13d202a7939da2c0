#pragma once

#include <memory>

#include "node/bootstrap.h"

namespace shoal {

// Initialises MPI; finalises it when destroyed. Without MPI in the build: throws SetupError saying so.
std::unique_ptr<Bootstrap> make_mpi_bootstrap();

}  // namespace shoal
