/* Values of expression trees: residues modulo two primes, complex doubles, and hashes. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "eval/latex_tree.h"

#ifndef M_PI
#define M_PI 3.14159265358979323846
#endif

enum { MAX_FACTORIAL = 20000 };

static const uint64_t primes[LATEX_PRIMES] = {(1ull << 61) - 1, (1ull << 61) - 31};

static uint64_t mix(uint64_t h)
{
    h ^= h >> 33;
    h *= 0xff51afd7ed558ccdu;
    h ^= h >> 33;
    h *= 0xc4ceb9fe1a85ec53u;
    return h ^ (h >> 33);
}

static uint64_t hash_text(const char *text, uint64_t seed)
{
    uint64_t h = mix(seed + 0x9e3779b97f4a7c15u);

    for (; *text; text++)
        h = (h ^ (unsigned char)*text) * 0x100000001b3u;
    return mix(h);
}

/* ---- hashes -------------------------------------------------------------------------------------
 */

static bool is_unordered(const struct latex_node *node)
{
    return node->kind == LATEX_ADD || node->kind == LATEX_MULTIPLY || node->kind == LATEX_LIST ||
           node->kind == LATEX_SET || (node->kind == LATEX_UNION && node->op != '\\');
}

uint64_t latex_hash(const struct latex_tree *tree, int node)
{
    const struct latex_node *n = &tree->nodes[node];
    uint64_t h = hash_text(n->text, (uint64_t)n->kind * 1024 + (uint64_t)(n->op + 512)), sum = 0;

    for (int child = n->first; child != LATEX_NONE; child = tree->nodes[child].next) {
        uint64_t c = latex_hash(tree, child);
        if (is_unordered(n))
            sum += mix(c);
        else
            h = mix(h * 31 + c);
    }
    return mix(h + sum);
}

bool latex_has(const struct latex_tree *tree, int node, enum latex_kind kind)
{
    const struct latex_node *n = &tree->nodes[node];

    if (n->kind == kind)
        return true;
    for (int child = n->first; child != LATEX_NONE; child = tree->nodes[child].next)
        if (latex_has(tree, child, kind))
            return true;
    return false;
}

/* ---- whole numbers ------------------------------------------------------------------------------
 */

/* The exact value where it is a whole number of 62 bits: exponents and the like. */
static bool whole_value(const struct latex_tree *tree, int node, int sign, int64_t *value)
{
    const struct latex_node *n = &tree->nodes[node];
    const int64_t limit = (int64_t)1 << 61;
    int64_t a, b;
    char *end;

    switch (n->kind) {
    case LATEX_NUMBER:
        errno = 0;
        *value = strtoll(n->text, &end, 10);
        if (*end == '.') /* "2.0" */
            end += 1 + strspn(end + 1, "0");
        return !errno && !*end && *value < limit;
    case LATEX_NEGATE:
    case LATEX_PLUS_MINUS:
        if (!whole_value(tree, n->first, sign, &a))
            return false;
        *value = n->kind == LATEX_NEGATE || n->op * sign < 0 ? -a : a;
        return true;
    case LATEX_ADD:
    case LATEX_MULTIPLY:
        a = n->kind == LATEX_MULTIPLY;
        for (int child = n->first; child != LATEX_NONE; child = tree->nodes[child].next) {
            if (!whole_value(tree, child, sign, &b))
                return false;
            if (n->kind == LATEX_ADD ? __builtin_add_overflow(a, b, &a)
                                     : __builtin_mul_overflow(a, b, &a))
                return false;
            if (a > limit || a < -limit)
                return false;
        }
        *value = a;
        return true;
    case LATEX_DIVIDE:
        if (!whole_value(tree, n->first, sign, &a) || !whole_value(tree, n->last, sign, &b) ||
            b == 0 || a % b)
            return false;
        *value = a / b;
        return true;
    default:
        return false;
    }
}

/* ---- residues -----------------------------------------------------------------------------------
 */

uint64_t latex_residue_product(uint64_t a, uint64_t b, int prime)
{
    return (uint64_t)((unsigned __int128)a * b % primes[prime]);
}

static uint64_t residue_power(uint64_t base, uint64_t exponent, int prime)
{
    uint64_t result = 1;

    for (; exponent; exponent >>= 1) {
        if (exponent & 1)
            result = latex_residue_product(result, base, prime);
        base = latex_residue_product(base, base, prime);
    }
    return result;
}

static uint64_t residue_negate(uint64_t a, int prime)
{
    return a ? primes[prime] - a : 0;
}

static bool residue_divide(uint64_t a, uint64_t b, int prime, uint64_t *value)
{
    *value = latex_residue_product(a, residue_power(b, primes[prime] - 2, prime), prime);
    return b != 0;
}

static uint64_t residue_of_whole(int64_t a, int prime)
{
    return a < 0 ? residue_negate((uint64_t)-a % primes[prime], prime)
                 : (uint64_t)a % primes[prime];
}

static bool residue_of_digits(const char *text, int prime, uint64_t *value)
{
    uint64_t whole = 0, scale = 1;
    bool point = false;

    for (; *text; text++) {
        if (*text == '.') {
            point = true;
            continue;
        }
        whole = (latex_residue_product(whole, 10, prime) + (uint64_t)(*text - '0')) % primes[prime];
        if (point)
            scale = latex_residue_product(scale, 10, prime);
    }
    return residue_divide(whole, scale, prime, value);
}

/* n! or n (n - 1) ... (n - k + 1) / k! */
static bool residue_counts(const struct latex_tree *tree, const struct latex_node *n,
                           const struct latex_point *point, int prime, uint64_t *value)
{
    uint64_t product = 1, divisor = 1;
    int64_t top, count;

    if (!whole_value(tree, n->first, point->sign, &top))
        return false;
    count = top;
    if (n->kind == LATEX_BINOMIAL && !whole_value(tree, n->last, point->sign, &count))
        return false;
    if (count < 0 || count > MAX_FACTORIAL || (n->kind == LATEX_FACTORIAL && top < 0))
        return false;
    if ((*point->budget -= count / 8) < 0)
        return false;
    for (int64_t i = 0; i < count; i++) {
        product = latex_residue_product(product, residue_of_whole(top - i, prime), prime);
        divisor = latex_residue_product(divisor, (uint64_t)i + 1, prime);
    }
    if (n->kind == LATEX_FACTORIAL) {
        *value = product;
        return true;
    }
    return residue_divide(product, divisor, prime, value);
}

bool latex_residue(const struct latex_tree *tree, int node, const struct latex_point *point,
                   int prime, uint64_t *value)
{
    const struct latex_node *n = &tree->nodes[node];
    uint64_t a, b;
    int64_t exponent;

    if (--*point->budget < 0)
        return false;
    switch (n->kind) {
    case LATEX_NUMBER:
        return residue_of_digits(n->text, prime, value);
    case LATEX_SYMBOL:
        *value = hash_text(n->text, (uint64_t)point->trial) % primes[prime];
        return true;
    case LATEX_ADD:
    case LATEX_MULTIPLY:
        a = n->kind == LATEX_MULTIPLY;
        for (int child = n->first; child != LATEX_NONE; child = tree->nodes[child].next) {
            if (!latex_residue(tree, child, point, prime, &b))
                return false;
            a = n->kind == LATEX_ADD ? (a + b) % primes[prime] : latex_residue_product(a, b, prime);
        }
        *value = a;
        return true;
    case LATEX_NEGATE:
    case LATEX_PLUS_MINUS:
        if (!latex_residue(tree, n->first, point, prime, &a))
            return false;
        *value = n->kind == LATEX_NEGATE || n->op * point->sign < 0 ? residue_negate(a, prime) : a;
        return true;
    case LATEX_DIVIDE:
        return latex_residue(tree, n->first, point, prime, &a) &&
               latex_residue(tree, n->last, point, prime, &b) && residue_divide(a, b, prime, value);
    case LATEX_POWER:
        if (!whole_value(tree, n->last, point->sign, &exponent) ||
            !latex_residue(tree, n->first, point, prime, &a))
            return false;
        if (exponent >= 0) {
            *value = residue_power(a, (uint64_t)exponent, prime);
            return true;
        }
        return residue_divide(1, residue_power(a, (uint64_t)-exponent, prime), prime, value);
    case LATEX_FACTORIAL:
    case LATEX_BINOMIAL:
        return residue_counts(tree, n, point, prime, value);
    default:
        return false;
    }
}

/* ---- complex doubles ----------------------------------------------------------------------------
 */

static double unit_of(uint64_t h)
{
    return (double)(h >> 11) * 0x1p-53;
}

/* Three positive points, a negative one, two complex ones: laws that hold for positive numbers
 * alone are not taken for equality. */
static double complex symbol_value(const char *name, int trial)
{
    const uint64_t h = hash_text(name, (uint64_t)trial + 100);
    const double a = 0.3 + 2.2 * unit_of(h), b = 0.2 + 1.5 * unit_of(mix(h + 1));

    return trial < 3 ? a : trial == 3 ? -a : trial == 4 ? a + b * I : -a + b * I;
}

static double complex whole_power(double complex base, int64_t exponent)
{
    const bool inverse = exponent < 0;
    double complex result = 1;

    for (uint64_t e = (uint64_t)(inverse ? -exponent : exponent); e; e >>= 1) {
        if (e & 1)
            result *= base;
        if (e > 1)
            base *= base;
    }
    return inverse ? 1 / result : result;
}

static bool is_real(double complex z)
{
    return cimag(z) == 0;
}

static double complex root(double complex radicand, double complex index)
{
    const double x = creal(radicand), n = creal(index);

    if (is_real(radicand) && is_real(index)) {
        if (n == 2)
            return x >= 0 ? sqrt(x) : sqrt(-x) * I;
        if (n == 3)
            return cbrt(x);
        if (x < 0 && n == floor(n) && fmod(n, 2) != 0)
            return -pow(-x, 1 / n);
        if (x >= 0)
            return pow(x, 1 / n);
    }
    return cpow(radicand, 1 / index);
}

static bool function_value(enum latex_function function, double complex x, double complex base,
                           double complex *value)
{
    switch (function) {
    case LATEX_SIN:
        *value = csin(x);
        return true;
    case LATEX_COS:
        *value = ccos(x);
        return true;
    case LATEX_TAN:
        *value = csin(x) / ccos(x);
        return cabs(ccos(x)) > 1e-14;
    case LATEX_COT:
        *value = ccos(x) / csin(x);
        return cabs(csin(x)) > 1e-14;
    case LATEX_SEC:
        *value = 1 / ccos(x);
        return cabs(ccos(x)) > 1e-14;
    case LATEX_CSC:
        *value = 1 / csin(x);
        return cabs(csin(x)) > 1e-14;
    case LATEX_ARCSIN:
        *value = casin(x);
        return true;
    case LATEX_ARCCOS:
        *value = cacos(x);
        return true;
    case LATEX_ARCTAN:
        *value = catan(x);
        return true;
    case LATEX_SINH:
        *value = csinh(x);
        return true;
    case LATEX_COSH:
        *value = ccosh(x);
        return true;
    case LATEX_TANH:
        *value = ctanh(x);
        return true;
    case LATEX_LN:
    case LATEX_LOG:
        *value = clog(x) / clog(base);
        return true;
    case LATEX_EXP:
        *value = cexp(x);
        return true;
    case LATEX_ABS:
        *value = cabs(x);
        return true;
    case LATEX_FLOOR:
        *value = floor(creal(x) + 1e-12);
        return is_real(x);
    case LATEX_CEIL:
        *value = ceil(creal(x) - 1e-12);
        return is_real(x);
    case LATEX_OPAQUE:
        return false;
    }
    return false;
}

static bool compute(const struct latex_tree *tree, const struct latex_node *n,
                    const struct latex_point *point, double complex *value)
{
    double complex a = 0, b = 0;
    int64_t exponent;
    /* Of most kinds these are the operands. */
    const bool unary = n->n >= 1 && n->kind != LATEX_ADD && n->kind != LATEX_MULTIPLY;

    if (unary && !latex_value(tree, n->first, point, &a))
        return false;
    if (unary && n->n == 2 && !latex_value(tree, n->last, point, &b))
        return false;
    switch (n->kind) {
    case LATEX_NUMBER:
        *value = strtod(n->text, NULL);
        return true;
    case LATEX_SYMBOL:
        *value = symbol_value(n->text, point->trial);
        return true;
    case LATEX_PI:
        *value = M_PI;
        return true;
    case LATEX_E:
        *value = exp(1);
        return true;
    case LATEX_I:
        *value = I;
        return true;
    case LATEX_ADD:
    case LATEX_MULTIPLY:
        a = n->kind == LATEX_MULTIPLY;
        for (int child = n->first; child != LATEX_NONE; child = tree->nodes[child].next) {
            if (!latex_value(tree, child, point, &b))
                return false;
            a = n->kind == LATEX_ADD ? a + b : a * b;
        }
        *value = a;
        return true;
    case LATEX_NEGATE:
        *value = -a;
        return true;
    case LATEX_PLUS_MINUS:
        *value = n->op * point->sign < 0 ? -a : a;
        return true;
    case LATEX_DIVIDE:
        *value = a / b;
        return cabs(b) != 0;
    case LATEX_POWER:
        if (whole_value(tree, n->last, point->sign, &exponent))
            *value = whole_power(a, exponent);
        else if (is_real(a) && is_real(b) && creal(a) >= 0)
            *value = pow(creal(a), creal(b));
        else
            *value = cpow(a, b);
        return true;
    case LATEX_ROOT:
        *value = root(a, n->n == 2 ? b : 2);
        return n->n == 1 || cabs(b) != 0;
    case LATEX_FACTORIAL:
        *value = tgamma(creal(a) + 1);
        return is_real(a) && creal(a) >= 0;
    case LATEX_BINOMIAL:
        if (!is_real(a) || !is_real(b) || creal(b) < 0 || creal(a) < creal(b))
            return false;
        *value = exp(lgamma(creal(a) + 1) - lgamma(creal(b) + 1) - lgamma(creal(a) - creal(b) + 1));
        return true;
    case LATEX_FUNCTION:
        if (n->n == 1)
            b = n->op == LATEX_LN ? exp(1) : 10;
        return function_value((enum latex_function)n->op, a, b, value);
    default:
        return false;
    }
}

bool latex_value(const struct latex_tree *tree, int node, const struct latex_point *point,
                 double complex *value)
{
    if (--*point->budget < 0 || !compute(tree, &tree->nodes[node], point, value))
        return false;
    return isfinite(creal(*value)) && isfinite(cimag(*value));
}
