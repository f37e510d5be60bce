/* Compiled kernels of the splice: what sampling, fading and judging a plan costs most of its time for.

Every kernel names the numpy code that is its reference, and does the same operations in the same order, so that the
two are equal bit for bit. That holds as long as the compiler neither fuses nor reorders them: setup.py builds with
-ffp-contract=off and without -ffast-math. Comparisons stand the way round in which a NaN breaks a limit, as in numpy.

Arrays come by the buffer protocol: C-contiguous, float64 or int64, as `kernels.py` hands them over. Nothing here keeps
state. The interpreter's lock is held: letting go of it for some microseconds may cost milliseconds to get it back.

Letters: N knots, J joints, T instants, H rows. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <float.h>
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define NS_PER_S 1e9

/* ---- arrays ---------------------------------------------------------------------------------------------------- */

enum { MOST_ARRAYS = 8 };

typedef struct {
    Py_buffer buffers[MOST_ARRAYS];
    int count;
} Arrays;

static void release(Arrays *arrays)
{
    while (arrays->count > 0)
        PyBuffer_Release(&arrays->buffers[--arrays->count]);
}

/* Numbers of an array with `dims` dimensions whose sizes are `rows` and, of two, `columns`; a size of -1 is any and is
   told to the caller. NULL, with an exception set, if it is another one. */
static void *take(Arrays *arrays, PyObject *object, const char *name, bool integers, bool written, int dims,
                  Py_ssize_t *rows, Py_ssize_t *columns)
{
    Py_buffer *buffer = &arrays->buffers[arrays->count];
    if (PyObject_GetBuffer(object, buffer, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT | (written ? PyBUF_WRITABLE : 0)) < 0)
        return NULL;
    arrays->count++;
    const char *kinds = integers ? "lq" : "d";
    bool right = buffer->itemsize == 8 && buffer->format != NULL && strlen(buffer->format) == 1
                 && strchr(kinds, buffer->format[0]) != NULL && buffer->ndim == dims;
    Py_ssize_t *sizes[2] = {rows, columns};
    for (int dim = 0; right && dim < dims; dim++) {
        if (*sizes[dim] < 0)
            *sizes[dim] = buffer->shape[dim];
        right = *sizes[dim] == buffer->shape[dim];
    }
    if (right)
        return buffer->buf;
    const char *wanted = integers ? "int64" : "float64", *format = buffer->format == NULL ? "?" : buffer->format;
    const Py_ssize_t length = buffer->ndim > 0 ? buffer->shape[0] : 0, width = buffer->ndim > 1 ? buffer->shape[1] : 0;
    if (dims == 1)
        PyErr_Format(PyExc_ValueError, "%s must be %s [%zd], it is '%s' [%zd, %zd] with %d dimensions", name, wanted,
                     *rows, format, length, width, buffer->ndim);
    else
        PyErr_Format(PyExc_ValueError, "%s must be %s [%zd, %zd], it is '%s' [%zd, %zd] with %d dimensions", name,
                     wanted, *rows, *columns, format, length, width, buffer->ndim);
    return NULL;
}

static bool arguments(const char *name, Py_ssize_t given, Py_ssize_t wanted)
{
    if (given == wanted)
        return true;
    PyErr_Format(PyExc_TypeError, "%s takes %zd arguments, %zd are given", name, wanted, given);
    return false;
}

typedef struct {
    Py_ssize_t N, J;
    const int64_t *knots;       /* [N] ns */
    const double *positions;    /* [N, J] */
    const double *velocities;   /* [N, J] */
} Plan;

static bool take_plan(Arrays *arrays, PyObject *const *args, Plan *plan)
{
    plan->N = plan->J = -1;
    return (plan->knots = take(arrays, args[0], "knots_ns", true, false, 1, &plan->N, NULL)) != NULL
           && (plan->positions = take(arrays, args[1], "positions", false, false, 2, &plan->N, &plan->J)) != NULL
           && (plan->velocities = take(arrays, args[2], "velocities", false, false, 2, &plan->N, &plan->J)) != NULL
           && (plan->N > 0 || (PyErr_SetString(PyExc_ValueError, "a plan has one knot at least"), false));
}

/* ---- a segment ------------------------------------------------------------------------------------------------- */

static inline int64_t clipped(int64_t value, int64_t lowest, int64_t highest)
{
    value = value > lowest ? value : lowest;
    return value < highest ? value : highest;
}

/* Plan.durations_s */
static inline double duration_s(const Plan *plan, Py_ssize_t i)
{
    return (double)(plan->knots[i + 1] - plan->knots[i]) / NS_PER_S;
}

/* Plan.bends: half the acceleration at the begin of a segment of duration h, a sixth of its jerk. */
static inline void bends(double p0, double p1, double v0, double v1, double h, double *bend, double *twist)
{
    double rise = (p1 - p0) / h;
    *bend = (3 * rise - 2 * v0 - v1) / h;
    *twist = (v0 + v1 - 2 * rise) / (h * h);
}

/* The last of rising knots that is not after an instant, 0 if all are: numpy's searchsorted(…, "right") - 1, clipped.
   Looked for from `at` on, since instants follow each other. */
static Py_ssize_t not_after(const int64_t *knots, Py_ssize_t count, int64_t instant, Py_ssize_t at)
{
    while (at > 0 && knots[at] > instant)
        at--;
    while (at + 1 < count && knots[at + 1] <= instant)
        at++;
    return at;
}

/* Of joint j just before the last knot. */
static inline double acceleration_at_end(const Plan *plan, Py_ssize_t j)
{
    if (plan->N == 1)
        return 0;
    const double *p1 = plan->positions + (plan->N - 1) * plan->J, *v1 = plan->velocities + (plan->N - 1) * plan->J;
    const double *p0 = p1 - plan->J, *v0 = v1 - plan->J, h = duration_s(plan, plan->N - 2);
    return (2 * v0[j] + 4 * v1[j] - 6 * (p1[j] - p0[j]) / h) / h;
}

/* ---- sample ---------------------------------------------------------------------------------------------------- */

PyDoc_STRVAR(sample_doc,
"sample(knots_ns [N], positions [N, J], velocities [N, J], instants_ns [T],\n"
"       out_positions [T, J], out_velocities [T, J])\n"
"\n"
"Positions and velocities of a plan at instants. Equals `Plan.sampled`.");

static PyObject *sample(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    Plan plan;
    Py_ssize_t T = -1;
    Arrays arrays = {.count = 0};
    PyObject *result = NULL;
    const int64_t *instants;
    double *out_p, *out_v;
    if (!arguments("sample", count, 6) || !take_plan(&arrays, args, &plan)
        || (instants = take(&arrays, args[3], "instants_ns", true, false, 1, &T, NULL)) == NULL
        || (out_p = take(&arrays, args[4], "out_positions", false, true, 2, &T, &plan.J)) == NULL
        || (out_v = take(&arrays, args[5], "out_velocities", false, true, 2, &T, &plan.J)) == NULL)
        goto done;
    const Py_ssize_t N = plan.N, J = plan.J;
    Py_ssize_t segment = 0;
    for (Py_ssize_t i = 0; i < T; i++, out_p += J, out_v += J) {
        if (N == 1) {
            memcpy(out_p, plan.positions, J * sizeof(double));
            memset(out_v, 0, J * sizeof(double));
            continue;
        }
        segment = not_after(plan.knots, N - 1, instants[i], segment);
        const int64_t inside = clipped(instants[i], plan.knots[0], plan.knots[N - 1]);
        const double t = (double)(inside - plan.knots[segment]) / NS_PER_S, h = duration_s(&plan, segment);
        const double *p = plan.positions + segment * J, *v = plan.velocities + segment * J;
        for (Py_ssize_t j = 0; j < J; j++) {
            double bend, twist;
            bends(p[j], p[J + j], v[j], v[J + j], h, &bend, &twist);
            out_p[j] = p[j] + t * (v[j] + t * (bend + t * twist));
            out_v[j] = v[j] + t * (2 * bend + 3 * t * twist);
        }
        if (inside != instants[i])
            memset(out_v, 0, J * sizeof(double));
    }
    result = Py_NewRef(Py_None);
done:
    release(&arrays);
    return result;
}

/* ---- last_acceleration ----------------------------------------------------------------------------------------- */

PyDoc_STRVAR(last_acceleration_doc,
"last_acceleration(knots_ns [N], positions [N, J], velocities [N, J], out [J])\n"
"\n"
"Acceleration just before the last knot. Equals `Plan.acceleration_at_end`.");

static PyObject *last_acceleration(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    Plan plan;
    Arrays arrays = {.count = 0};
    PyObject *result = NULL;
    double *out;
    if (!arguments("last_acceleration", count, 4) || !take_plan(&arrays, args, &plan)
        || (out = take(&arrays, args[3], "out", false, true, 1, &plan.J, NULL)) == NULL)
        goto done;
    for (Py_ssize_t j = 0; j < plan.J; j++)
        out[j] = acceleration_at_end(&plan, j);
    result = Py_NewRef(Py_None);
done:
    release(&arrays);
    return result;
}

/* ---- fade ------------------------------------------------------------------------------------------------------ */

PyDoc_STRVAR(fade_doc,
"fade(old [H, J], rows [H, J], step_ns, span_ns, out [H, J])\n"
"\n"
"Rows faded in over what they take over from, the first at the begin of the span. Equals `faded_in` of plan.py.");

static PyObject *fade(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    Py_ssize_t H = -1, J = -1;
    Arrays arrays = {.count = 0};
    PyObject *result = NULL;
    const double *old, *rows;
    double *out;
    if (!arguments("fade", count, 5))
        return NULL;
    const int64_t step_ns = PyLong_AsLongLong(args[2]);
    const double span_ns = PyFloat_AsDouble(args[3]);
    if (PyErr_Occurred() || (old = take(&arrays, args[0], "old", false, false, 2, &H, &J)) == NULL
        || (rows = take(&arrays, args[1], "rows", false, false, 2, &H, &J)) == NULL
        || (out = take(&arrays, args[4], "out", false, true, 2, &H, &J)) == NULL)
        goto done;
    for (Py_ssize_t i = 0; i < H; i++, old += J, rows += J, out += J) {
        double x = (double)(i * step_ns) / span_ns;
        x = x < 0 ? 0 : x;
        x = x > 1 ? 1 : x;
        const double weight = x * x * x * (x * (6 * x - 15) + 10);  /* smootherstep */
        for (Py_ssize_t j = 0; j < J; j++)
            out[j] = old[j] + weight * (rows[j] - old[j]);
    }
    result = Py_NewRef(Py_None);
done:
    release(&arrays);
    return result;
}

/* ---- limits ---------------------------------------------------------------------------------------------------- */

/* `Limits.table`: what a joint may do, a row of J each. */
enum { LOWER, UPPER, LOWEST, HIGHEST, VELOCITY, ACCELERATION, JERK, STEP, BOUNDS };

typedef struct {
    double rounding, outside, start_excess;   /* limits.py says what they are */
} Tolerances;

static bool take_tolerances(PyObject *const *args, Tolerances *tolerances)
{
    tolerances->rounding = PyFloat_AsDouble(args[0]);
    tolerances->outside = PyFloat_AsDouble(args[1]);
    tolerances->start_excess = PyFloat_AsDouble(args[2]);
    return PyErr_Occurred() == NULL;
}

/* Which joints [J] broke a limit: 0 or 1, as doubles, so that compilers can do several joints at once. */
static inline void forget(double *broken, Py_ssize_t J)
{
    memset(broken, 0, J * sizeof(double));
}

static inline bool none(const double *broken, Py_ssize_t J)
{
    for (Py_ssize_t j = 0; j < J; j++)
        if (broken[j] != 0)
            return false;
    return true;
}

/* A joint's mark after a value that may be at most a bound, or at least; a NaN is neither. */
static inline double at_most(double value, double bound, double mark)
{
    return value <= bound ? mark : 1;
}

static inline double at_least(double value, double bound, double mark)
{
    return value >= bound ? mark : 1;
}

/* `_within` of `_hull`: the control points of every cubic lie between the limits. */
static bool hull_within(const Plan *plan, const double *restrict lower, const double *restrict upper, double rounding,
                        double *restrict broken)
{
    const Py_ssize_t J = plan->J;
    forget(broken, J);
    for (Py_ssize_t i = 0; i < plan->N; i++) {
        const double *restrict p = plan->positions + i * J, *restrict v = plan->velocities + i * J;
        const double behind = i > 0 ? duration_s(plan, i - 1) : 0, ahead = i + 1 < plan->N ? duration_s(plan, i) : 0;
        for (Py_ssize_t j = 0; j < J; j++) {
            const double highest = upper[j] + rounding, lowest = lower[j] - rounding, reach = v[j] * (1.0 / 3);
            const double into = p[j] + ahead * reach, from = p[j] - behind * reach;
            double mark = broken[j];
            mark = at_least(p[j], lowest, at_most(p[j], highest, mark));
            mark = at_least(into, lowest, at_most(into, highest, mark));
            mark = at_least(from, lowest, at_most(from, highest, mark));
            broken[j] = mark;
        }
    }
    return none(broken, J);
}

/* `_within` of `_extremes`: every cubic lies between the limits at its ends and where its velocity vanishes. */
static bool extremes_within(const Plan *plan, const double *lower, const double *upper, double rounding)
{
    const Py_ssize_t J = plan->J;
    for (Py_ssize_t i = 0; i < plan->N; i++) {
        const double *p = plan->positions + i * J, *v = plan->velocities + i * J;
        const double h = i + 1 < plan->N ? duration_s(plan, i) : 0;
        for (Py_ssize_t j = 0; j < J; j++) {
            const double highest = upper[j] + rounding, lowest = lower[j] - rounding;
            if (!(p[j] <= highest && p[j] >= lowest))
                return false;
            if (i + 1 == plan->N)
                continue;
            double bend, twist;
            bends(p[j], p[J + j], v[j], v[J + j], h, &bend, &twist);
            double square = bend * bend - 3 * twist * v[j];
            square = square < 0 ? 0 : square;  /* a NaN stays one */
            const double q = -(bend + copysign(sqrt(square), bend));
            const double turns[2] = {twist != 0 ? q / (3 * twist) : 0, q != 0 ? v[j] / q : 0};
            for (int k = 0; k < 2; k++) {
                const double t = turns[k] > 0 && turns[k] < h ? turns[k] : 0;
                const double between = p[j] + t * (v[j] + t * (bend + t * twist));
                if (!(between <= highest && between >= lowest))
                    return false;
            }
        }
    }
    return true;
}

/* `Limits._judge_positions`. `lower` and `upper` [J] are filled: wider where the plan begins outside. */
static bool positions_within(const Plan *plan, const double *table, Tolerances by, double *lower, double *upper,
                             double *broken)
{
    const Py_ssize_t J = plan->J;
    for (Py_ssize_t j = 0; j < J; j++) {
        const double start = plan->positions[j], lowest = table[LOWEST * J + j], highest = table[HIGHEST * J + j];
        lower[j] = table[LOWER * J + j];
        upper[j] = table[UPPER * J + j];
        if (start < lower[j] - by.outside)
            lower[j] = (start > lowest ? start : lowest) - by.start_excess;
        if (start > upper[j] + by.outside)
            upper[j] = (start < highest ? start : highest) + by.start_excess;
    }
    return hull_within(plan, lower, upper, by.rounding, broken) || extremes_within(plan, lower, upper, by.rounding);
}

/* Accelerations [N, J] at both ends of every segment, and how they rise per nanosecond. The last is the rest behind the
   plan, which lasts a control period. */
typedef struct {
    double *first, *last, *slope;
} Accelerations;

/* `_fastest` and both ends of `Plan.accelerations` against their limits; fills `a` but for its last row. */
static bool speeds_and_accelerations_within(const Plan *plan, const double *table, double rounding, Accelerations a,
                                            double *restrict broken)
{
    const Py_ssize_t J = plan->J;
    const double *restrict velocity = table + VELOCITY * J, *restrict acceleration = table + ACCELERATION * J;
    const double *final = plan->velocities + (plan->N - 1) * J;
    for (Py_ssize_t j = 0; j < J; j++)
        broken[j] = at_most(fabs(final[j]), velocity[j] + rounding, 0);
    for (Py_ssize_t i = 0; i + 1 < plan->N; i++) {
        const double *restrict p = plan->positions + i * J, *restrict v = plan->velocities + i * J;
        double *restrict first = a.first + i * J, *restrict last = a.last + i * J, *restrict slope = a.slope + i * J;
        const double h = duration_s(plan, i), h_ns = (double)(plan->knots[i + 1] - plan->knots[i]);
        for (Py_ssize_t j = 0; j < J; j++) {
            double bend, twist;
            bends(p[j], p[J + j], v[j], v[J + j], h, &bend, &twist);
            const double begin = 2 * bend, end = begin + 6 * h * twist;
            const double turn = 0.5 * begin * begin / (begin - end);
            const double gain = begin * end < 0 ? turn : 0;  /* of speed, until acceleration changes its sign */
            double mark = broken[j];
            mark = at_most(fabs(v[j]), velocity[j] + rounding, mark);
            mark = at_most(fabs(v[j] + h * gain), velocity[j] + rounding, mark);
            mark = at_most(fabs(begin), acceleration[j] + rounding, mark);
            broken[j] = at_most(fabs(end), acceleration[j] + rounding, mark);
            first[j] = begin;
            last[j] = end;
            slope[j] = (end - begin) / h_ns;
        }
    }
    return none(broken, J);
}

/* The largest number that, divided by `by`, is at most a bound, both positive: dividing rounds, and keeps the order. The
   product is at most some roundings away from it. */
static double largest_within(double bound, double by)
{
    double largest = bound * by;
    while (largest / by > bound)
        largest = nextafter(largest, 0);
    for (double next; (next = nextafter(largest, INFINITY)) > largest && next / by <= bound;)
        largest = next;
    return largest;
}

/* A row of `_jerks`: how acceleration differs between an instant of the segment `at` and `from` [J]. */
static inline void judge_change(const Plan *plan, Accelerations a, Py_ssize_t at, int64_t instant,
                                const double *restrict from, const double *restrict most, double *restrict broken)
{
    const Py_ssize_t J = plan->J;
    const double *restrict first = a.first + at * J, *restrict slope = a.slope + at * J;
    const double since = (double)(instant - plan->knots[at]);
    for (Py_ssize_t j = 0; j < J; j++)
        broken[j] = at_most(fabs(first[j] + since * slope[j] - from[j]), most[j], broken[j]);
}

/* `_jerks` against their limits. `most` [J] is filled: by how much acceleration may change over a control period. */
static bool jerks_within(const Plan *plan, const double *table, double rounding, int64_t control_ns, double control_s,
                         Accelerations a, double *most, double *broken)
{
    const Py_ssize_t N = plan->N, J = plan->J;
    const int64_t *knots = plan->knots, begin = knots[0], end = knots[N - 1] + control_ns;
    memset(a.first + (N - 1) * J, 0, J * sizeof(double));
    memset(a.last + (N - 1) * J, 0, J * sizeof(double));
    memset(a.slope + (N - 1) * J, 0, J * sizeof(double));
    for (Py_ssize_t j = 0; j < J; j++)
        most[j] = largest_within(table[JERK * J + j] + rounding, control_s);
    forget(broken, J);
    for (Py_ssize_t i = 0; i < N; i++) {
        const int64_t ends[2] = {knots[i], i + 1 < N ? knots[i + 1] : end};
        const double *from[2] = {a.first + i * J, a.last + i * J};
        for (int side = 0; side < 2; side++)  /* just behind the begin of a segment, just before its end */
            for (int way = -1; way <= 1; way += 2) {
                const int64_t instant = ends[side] + way * control_ns;
                /* searchsorted "right" just behind a knot, "left" just before one */
                const Py_ssize_t at = not_after(knots, N, side == 0 ? instant : instant - 1, i);
                judge_change(plan, a, at, clipped(instant, begin, end), from[side], most, broken);
            }
    }
    return none(broken, J);
}

PyDoc_STRVAR(plan_within_doc,
"plan_within(knots_ns [N], positions [N, J], velocities [N, J], table [8, J], rounding, outside, start_excess,\n"
"            control_ns, control_s) -> bool\n"
"\n"
"Whether a whole plan keeps the limits. Equals the verdict of `Limits.judged`.");

static PyObject *plan_within(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    Plan plan;
    Tolerances by;
    Py_ssize_t rows = BOUNDS;
    Arrays arrays = {.count = 0};
    PyObject *result = NULL;
    double *scratch = NULL;
    const double *table;
    if (!arguments("plan_within", count, 9) || !take_tolerances(args + 4, &by))
        return NULL;
    const int64_t control_ns = PyLong_AsLongLong(args[7]);
    const double control_s = PyFloat_AsDouble(args[8]);
    if (PyErr_Occurred() || !take_plan(&arrays, args, &plan)
        || (table = take(&arrays, args[3], "table", false, false, 2, &rows, &plan.J)) == NULL)
        goto done;
    const Py_ssize_t numbers = plan.N * plan.J;
    if ((scratch = PyMem_Malloc((3 * numbers + 3 * plan.J + 1) * sizeof(double))) == NULL) {
        PyErr_NoMemory();
        goto done;
    }
    const Accelerations a = {scratch, scratch + numbers, scratch + 2 * numbers};
    double *lower = scratch + 3 * numbers, *upper = lower + plan.J, *broken = upper + plan.J;
    const bool within = positions_within(&plan, table, by, lower, upper, broken)
                        && (plan.N == 1
                            || (speeds_and_accelerations_within(&plan, table, by.rounding, a, broken)
                                && jerks_within(&plan, table, by.rounding, control_ns, control_s, a, lower, broken)));
    result = PyBool_FromLong(within);
done:
    PyMem_Free(scratch);
    release(&arrays);
    return result;
}

PyDoc_STRVAR(end_within_doc,
"end_within(knots_ns [N], positions [N, J], velocities [N, J], table [8, J], rounding, outside, start_excess) -> bool\n"
"\n"
"Whether a plan ends where a tail may begin. Equals the verdict of `Limits.end_judged`.");

static PyObject *end_within(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    Plan plan;
    Tolerances by;
    Py_ssize_t rows = BOUNDS;
    Arrays arrays = {.count = 0};
    PyObject *result = NULL;
    const double *table;
    if (!arguments("end_within", count, 7) || !take_tolerances(args + 4, &by) || !take_plan(&arrays, args, &plan)
        || (table = take(&arrays, args[3], "table", false, false, 2, &rows, &plan.J)) == NULL)
        goto done;
    const Py_ssize_t N = plan.N, J = plan.J;
    const double *p1 = plan.positions + (N - 1) * J, *v1 = plan.velocities + (N - 1) * J;
    bool within = true;
    for (Py_ssize_t j = 0; j < J; j++) {
        within &= fabs(v1[j]) <= table[VELOCITY * J + j] + by.rounding;
        /* A NaN passes here, as it does in numpy; the acceleration catches it. */
        within &= !(p1[j] - table[HIGHEST * J + j] > by.start_excess);
        within &= !(table[LOWEST * J + j] - p1[j] > by.start_excess);
    }
    for (Py_ssize_t j = 0; j < J; j++)
        within &= fabs(acceleration_at_end(&plan, j)) <= table[ACCELERATION * J + j] + by.rounding;
    result = PyBool_FromLong(within);
done:
    release(&arrays);
    return result;
}

PyDoc_STRVAR(rows_within_doc,
"rows_within(rows [H, J], present [J], table [8, J], rounding) -> bool\n"
"\n"
"Whether rows are finite and begin near where the plan is. Equals the verdict of `Limits.rows_judged`.");

static PyObject *rows_within(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    Py_ssize_t H = -1, J = -1, bounds = BOUNDS;
    Arrays arrays = {.count = 0};
    PyObject *result = NULL;
    const double *rows, *present, *table;
    if (!arguments("rows_within", count, 4))
        return NULL;
    const double rounding = PyFloat_AsDouble(args[3]);
    if (PyErr_Occurred() || (rows = take(&arrays, args[0], "rows", false, false, 2, &H, &J)) == NULL
        || (present = take(&arrays, args[1], "present", false, false, 1, &J, NULL)) == NULL
        || (table = take(&arrays, args[2], "table", false, false, 2, &bounds, &J)) == NULL)
        goto done;
    if (H == 0) {
        PyErr_SetString(PyExc_ValueError, "there must be a row at least");
        goto done;
    }
    bool within = true;
    for (Py_ssize_t i = 0; i < H * J; i++)
        within &= fabs(rows[i]) <= DBL_MAX;  /* finite */
    for (Py_ssize_t j = 0; j < J; j++)
        within &= fabs(rows[j] - present[j]) <= table[STEP * J + j] + rounding;
    result = PyBool_FromLong(within);
done:
    release(&arrays);
    return result;
}

/* ---- module ---------------------------------------------------------------------------------------------------- */

#define KERNEL(name) {#name, (PyCFunction)(void (*)(void))name, METH_FASTCALL, name##_doc}

static PyMethodDef kernels[] = {
    KERNEL(sample),     KERNEL(last_acceleration), KERNEL(fade),          KERNEL(plan_within),
    KERNEL(end_within), KERNEL(rows_within),       {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_kernels",
    .m_doc = "Compiled kernels of the splice; see _kernels.c. SOURCE is the SHA-256 of what it was built from.",
    .m_size = -1,
    .m_methods = kernels,
};

PyMODINIT_FUNC PyInit__kernels(void)
{
    PyObject *made = PyModule_Create(&module);
    if (made != NULL && PyModule_AddStringConstant(made, "SOURCE", SOURCE_DIGEST) < 0)
        Py_CLEAR(made);
    return made;
}
