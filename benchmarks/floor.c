/* One epoch of the default training in plain C: what the arithmetic itself costs on a machine.

   Adam over all weights at every step, with the gradients of the mean squared error and of the L2 term. `weights`,
   `momentum`, `velocity` and `gradient` hold `rows` vectors and then `rows` biases; `squares` sums the squared
   gradients of each bias. `pairs` are rows of two: user, users + movie. Returns the summed squared error. */
#include <math.h>

double epoch(const int *pairs, const float *ratings, const long *order, long count, long rows, int size, int batch,
             float rate, float l2, float *restrict weights, float *restrict momentum, float *restrict velocity,
             float *restrict gradient, float *restrict squares, long *restrict iteration) {
  const long vectors = rows * size, all = vectors + rows;
  float *const bias = weights + vectors, *const bias_gradient = gradient + vectors;
  double total = 0;
  for (long start = 0; start < count; start += batch) {
    const long length = count - start < batch ? count - start : batch;
    for (long at = start; at < start + length; at++) {
      const long row = order[at], user = pairs[2 * row], movie = pairs[2 * row + 1];
      const float *u = weights + user * size, *m = weights + movie * size;
      float error = bias[user] + bias[movie] - ratings[row];
      for (int i = 0; i < size; i++) error += u[i] * m[i];
      total += error * error;
      error *= 2.0f / length;
      for (int i = 0; i < size; i++) {
        gradient[user * size + i] += error * m[i];
        gradient[movie * size + i] += error * u[i];
      }
      bias_gradient[user] += error;
      bias_gradient[movie] += error;
      squares[user] += error * error;
      squares[movie] += error * error;
    }
    ++*iteration;
    const float step = rate * sqrtf(1 - powf(0.999f, *iteration)) / (1 - powf(0.9f, *iteration));
    for (long i = 0; i < vectors; i++) {
      const float g = gradient[i] + 2 * l2 * weights[i];
      gradient[i] = 0;
      momentum[i] += (g - momentum[i]) * 0.1f;
      velocity[i] += (g * g - velocity[i]) * 0.001f;
      weights[i] -= momentum[i] * step / (sqrtf(velocity[i]) + 1e-7f);
    }
    for (long i = vectors; i < all; i++) {
      momentum[i] += (gradient[i] - momentum[i]) * 0.1f;
      velocity[i] += (squares[i - vectors] - velocity[i]) * 0.001f;
      gradient[i] = 0;
      squares[i - vectors] = 0;
      weights[i] -= momentum[i] * step / (sqrtf(velocity[i]) + 1e-7f);
    }
  }
  return total;
}
