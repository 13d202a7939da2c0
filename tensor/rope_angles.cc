// The angles of rotary position embedding, by our own sin and cos, so that every machine gets the same bits.
#include <algorithm>

#include "tensor/exact_math.h"
#include "tensor/float_ops.h"

namespace shoal {

void rope_frequencies(const RopeScaling& scaling, int n_rot, const float* factors, double* frequencies) {
  const double log_base = exact_math::log_of(scaling.freq_base);
  for (int i = 0; i < n_rot / 2; ++i) {
    double theta = exact_math::exp_of(log_base * (-2.0 * i / n_rot));
    if (factors != nullptr) theta /= static_cast<double>(factors[i]);
    const double width = std::max(0.001, scaling.ramp_end - scaling.ramp_begin);
    const double way = std::clamp((i - scaling.ramp_begin) / width, 0.0, 1.0);
    const double kept = scaling.ramp_height * (1 - way);
    frequencies[i] = theta * (scaling.freq_scale + (1 - scaling.freq_scale) * kept);
  }
}

void rope_angles(int position, const double* frequencies, int pairs, float magnitude, float* cos,
                 float* sin) {
  for (int i = 0; i < pairs; ++i) {
    double s, c;
    exact_math::sin_cos(position * frequencies[i], &s, &c);
    cos[i] = static_cast<float>(c) * magnitude;
    sin[i] = static_cast<float>(s) * magnitude;
  }
}

}  // namespace shoal
