// Heavy ball and Adam on the noisy quadratic model, as an expert in C would write it without writing vectors by hand:
// xoshiro256++ (Blackman and Vigna), normals by a 128-layer ziggurat (Doornik's ZIGNOR), loops that gcc vectorises.
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { LAYERS = 128, BLOCK = 256 };
static const double R = 3.442619855899, V = 9.91256303526217e-3;

typedef struct { uint64_t s[4]; } rng_t;
typedef struct { double x[LAYERS + 1], ratio[LAYERS]; } zig_t;

static inline uint64_t rotl(uint64_t x, int k) { return (x << k) | (x >> (64 - k)); }

static inline uint64_t next(rng_t *g) {
    uint64_t *s = g->s, result = rotl(s[0] + s[3], 23) + s[0], t = s[1] << 17;
    s[2] ^= s[0]; s[3] ^= s[1]; s[1] ^= s[2]; s[0] ^= s[3]; s[2] ^= t; s[3] = rotl(s[3], 45);
    return result;
}

static void seed_rng(rng_t *g, uint64_t x) {  // splitmix64
    for (int k = 0; k < 4; k++) {
        uint64_t z = (x += 0x9e3779b97f4a7c15);
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
        z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
        g->s[k] = z ^ (z >> 31);
    }
}

static void fill_table(zig_t *t) {
    double f = exp(-0.5 * R * R);
    t->x[0] = V / f; t->x[1] = R; t->x[LAYERS] = 0;
    for (int i = 2; i < LAYERS; i++) {
        t->x[i] = sqrt(-2 * log(V / t->x[i - 1] + f));
        f = exp(-0.5 * t->x[i] * t->x[i]);
    }
    for (int i = 0; i < LAYERS; i++) t->ratio[i] = t->x[i + 1] / t->x[i];
}

static inline double uniform(rng_t *g) { return ((next(g) >> 11) + 0.5) * 0x1p-53; }

static inline double normal(rng_t *g, const zig_t *t) {
    for (;;) {
        uint64_t bits = next(g);
        int i = bits & (LAYERS - 1);
        double u = (double)((int64_t)bits >> 10) * 0x1p-53;  // (-1, 1)
        if (fabs(u) < t->ratio[i]) return u * t->x[i];
        if (i == 0) {
            double x, y;
            do { x = log(uniform(g)) / R; y = log(uniform(g)); } while (-2 * y < x * x);
            return u < 0 ? x - R : R - x;
        }
        double x = u * t->x[i];
        double f0 = exp(-0.5 * (t->x[i] * t->x[i] - x * x)), f1 = exp(-0.5 * (t->x[i + 1] * t->x[i + 1] - x * x));
        if (f1 + uniform(g) * (f0 - f1) < 1.0) return x;
    }
}

static inline void heavy_ball(long n, double h, const double *restrict lr, const double *restrict push,
                              double *restrict theta, double *restrict m) {
    for (long j = 0; j < n; j++) {
        m[j] = 0.9 * m[j] + (h * theta[j] + push[j]);
        theta[j] -= lr[j] * m[j];
    }
}

static inline void adam(long n, double h, double scale, double eps, const double *restrict lr,
                        const double *restrict push, double *restrict theta, double *restrict m, double *restrict v) {
    for (long j = 0; j < n; j++) {
        double g = h * theta[j] + push[j];
        m[j] = 0.9 * m[j] + 0.1 * g;
        v[j] = 0.999 * v[j] + 0.001 * g * g;
        theta[j] -= scale * lr[j] * m[j] / (sqrt(v[j]) + eps);
    }
}

// loss (settings, trajectories). Lanes of one group: all settings of a trajectory on one draw, or all trajectories.
void run(int is_adam, uint64_t seed, long dim, long settings, long trajectories, long steps, double batch,
         const double *h, const double *rates, double *loss) {
    long one = settings == 1, n = one ? trajectories : settings, groups = one ? 1 : trajectories;
    double *theta = malloc(sizeof(double) * n * groups), *m = malloc(sizeof(double) * n * groups);
    double *v = malloc(sizeof(double) * n * groups), *z = malloc(sizeof(double) * BLOCK * trajectories);
    double *push = malloc(sizeof(double) * n), *lr = malloc(sizeof(double) * n);
    double *scale = malloc(sizeof(double) * steps), *eps = malloc(sizeof(double) * steps);
    for (long j = 0; j < n; j++) lr[j] = rates[one ? 0 : j];
    for (long t = 0; t < steps; t++) {
        double root = sqrt(1 - pow(0.999, t + 1));
        scale[t] = root / (1 - pow(0.9, t + 1));
        eps[t] = 1e-8 * root;
    }
    rng_t g; zig_t table;
    seed_rng(&g, seed); fill_table(&table);
    for (long i = 0; i < dim; i++) {
        double sigma = sqrt(h[i] / batch);
        memset(m, 0, sizeof(double) * n * groups); memset(v, 0, sizeof(double) * n * groups);
        for (long r = 0; r < trajectories; r++) {
            double x = normal(&g, &table);
            if (one) theta[r] = x; else for (long j = 0; j < n; j++) theta[r * n + j] = x;
        }
        for (long start = 0; start < steps; start += BLOCK) {
            long stop = start + BLOCK < steps ? start + BLOCK : steps;
            for (long k = 0; k < (stop - start) * trajectories; k++) z[k] = sigma * normal(&g, &table);
            for (long t = start; t < stop; t++) {
                const double *now = z + (t - start) * trajectories;
                for (long r = 0; r < groups; r++) {
                    const double *p = now;
                    if (!one) { for (long j = 0; j < n; j++) push[j] = now[r]; p = push; }
                    if (is_adam) adam(n, h[i], scale[t], eps[t], lr, p, theta + r * n, m + r * n, v + r * n);
                    else heavy_ball(n, h[i], lr, p, theta + r * n, m + r * n);
                }
            }
        }
        for (long r = 0; r < trajectories; r++)
            for (long s = 0; s < settings; s++) {
                double x = one ? theta[r] : theta[r * n + s];
                loss[s * trajectories + r] += 0.5 * h[i] * x * x;
            }
    }
    free(theta); free(m); free(v); free(z); free(push); free(lr); free(scale); free(eps);
}
