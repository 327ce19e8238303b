// x / 2 * (1 + erf(x / sqrt 2)): the exact form, which Falcon was trained with.
#pragma once
#include "gpu.h"

GPU_DEV float gelu(float x) { return 0.5f * x * (1.0f + erff(x * 0.70710678f)); }
