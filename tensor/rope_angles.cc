// The angles of rotary position embedding, by our own sin and cos, so that every machine gets the same bits.
#include "tensor/exact_math.h"
#include "tensor/float_ops.h"

namespace shoal {

void rope_angles(int position, int n_rot, double freq_base, double freq_scale, const float* factors,
                 float* cos, float* sin) {
  const double log_base = exact_math::log_of(freq_base);
  for (int i = 0; i < n_rot / 2; ++i) {
    double theta = exact_math::exp_of(log_base * (-2.0 * i / n_rot));
    if (factors != nullptr) theta /= static_cast<double>(factors[i]);
    double s, c;
    exact_math::sin_cos(position * freq_scale * theta, &s, &c);
    cos[i] = static_cast<float>(c);
    sin[i] = static_cast<float>(s);
  }
}

}  // namespace shoal
