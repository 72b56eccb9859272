#ifndef T2_SOLVER_MANIFOLD_H
#define T2_SOLVER_MANIFOLD_H
/* Low-rank maps between tokens that act on the coordinates of a curved space (Mixture of Space,
 * MoSLoRA: arXiv 2602.14490): one token, one matrix W = B A of low rank, one space of constant
 * curvature kappa in a chart. Knows no engine and no adapter; plain functions of f64 scalars.
 *
 * With x the token [n], w = B A x, b the bias point's coordinates, k = sqrt |kappa|, c = -kappa:
 *
 *   scale      s = 1 / sqrt(n + |x|^2), so |s x| < 1: with kappa <= 2 the lift ends before pi / 2
 *   lift       X = exp_0(s x)
 *   multiply   Y = B A X, on the coordinates, and put back on the manifold
 *   translate  Z = the isometry that takes the origin to b, applied to Y
 *   result     E = log_0(Z) / s
 *
 *   chart      X                                 put back                 Z
 *   ball       tanh(k|v|) v / (k|v|)             |Y| <= (1 - 1e-5) / k    b (+) Y
 *   Lorentz    sinh(k|v|) v / (k|v|)             t = sqrt(1/c + |Y|^2)    boost
 *   sphere     sin(k|v|) v / (k|v|),             (t, Y) as a direction    rotation
 *              t = cos(k|v|) / k
 *
 *   log_0      artanh(k|Z|) Z / (k|Z|), arsinh(k|Z|) Z / (k|Z|), atan2(k|Z|, k t) Z / (k|Z|)
 *
 * (+) is Moebius addition, whose formulas and exp_0, log_0 of the ball are those of Ganea,
 * Becigneul & Hofmann 2018 (Hyperbolic neural networks):
 *
 *   b (+) Y = ((1 + 2c<b,Y> + c|Y|^2) b + (1 - c|b|^2) Y) / (1 + 2c<b,Y> + c^2 |b|^2 |Y|^2)
 *
 * and boost and rotation are one formula: with g = sqrt(1 - kappa |b|^2) and (t, Y) the point,
 *
 *   Z = Y + (k t - kappa <b,Y> / (1 + g)) b        k t' = g k t - kappa <b,Y>
 *
 * The sphere's pair needs no division by its length: atan2 takes it out. As t is the lift's own,
 * the angle grows with |Y| up to pi / 2 and never folds back, as asin of a clipped norm would.
 *
 * The cost. A lift only stretches a token, X = lambda s x with lambda a function of |x|, so Y =
 * lambda s w, and everything after it is in the plane of w and b:
 *
 *   E = p w + q b,   p and q functions of |x|^2, |w|^2, <b, w>, |b|^2 and kappa
 *
 * which are the functions below. One norm of a token serves all matrices that read it, and
 * curvature costs nothing that grows with the matrix. All functions are smooth at kappa = 0, where
 * p = 1. */

enum chart { CHART_FLAT, CHART_BALL, CHART_LORENTZ, CHART_SPHERE };

/* The largest |kappa| that is allowed. */
#define MANIFOLD_MOST_CURVED 2.0

struct chart_input {
    double n;      /* elements of the token */
    double x2;     /* |x|^2 */
    double w2, bw; /* |w|^2, <b, w> */
    double b2;     /* |b|^2, within manifold_point_limit */
    double kappa;  /* <= 0 on ball and Lorentz, >= 0 on the sphere */
};

struct chart_output {
    double p, q;
};

struct chart_gradient {
    double x2, w2, bw, b2, kappa;
};

/* E = p w + q b. CHART_FLAT: p = 1, q = 0. Finite for any finite input with |x|^2, |w|^2 up to
 * 1e150. */
struct chart_output chart_forward(enum chart chart, const struct chart_input *in);

/* dL/d(input) from dL/dp and dL/dq. */
struct chart_gradient chart_backward(enum chart chart, const struct chart_input *in, double dp,
                                     double dq);

/* ---- bias points ----------------------------------------------------------------------------- */

/* A bias point's coordinates may be this long: its place stays valid at any curvature up to
 * most_curved, while kappa is learned. */
double manifold_point_limit(double most_curved);

struct point_step {
    double rate, beta1, beta2, epsilon;
    unsigned long step; /* from 1 */
};

/* One step of Riemannian Adam (Becigneul & Ganea 2019) on a point [n] in its chart, from dL/dpoint:
 * the Riemannian gradient, its first moment, one second moment for the point (the mean square of
 * the gradient's length an element, so that steps are Adam's as kappa -> 0), the exponential map,
 * and parallel transport of the first moment to where it leads. m [n] holds tangent vectors in the
 * coordinates of the hyperboloid (for the ball too) or the sphere, v [n] the one number in each
 * element; both begin as zeros. `scratch` [4 n]. */
void manifold_point_step(enum chart chart, double kappa, double limit, unsigned long n,
                         const struct point_step *options, float *point, const float *gradient,
                         float *m, float *v, double *scratch);

#endif
