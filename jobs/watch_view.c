#include "jobs/watch_view.h"

#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "model/expert_curve.h"
#include "mpi/text.h"

/* Between two steps lie validations, checkpoints and a busy file server. */
static const double silent_seconds = 120, silent_steps = 5;
static const double gone_seconds = 1800, gone_steps = 20;
enum { NAME_WIDTH = 12, VALUE_WIDTH = 12, RANGE_WIDTH = 24, LEAST_ROW = 10, MOST_ROW = 80 };

/* ---- is it alive -------------------------------------------------------------------------------
 */

struct watch_place watch_place_here(void)
{
    struct watch_place here;

    live_curve_place(here.host, here.pid_namespace, sizeof here.host);
    return here;
}

static bool says(const char *text, const char *what)
{
    return text && strcmp(text, what) == 0;
}

static double step_seconds(const struct curve_file *c, size_t step)
{
    static const char *const parts[] = {"seconds_rollout", "seconds_gradient", "seconds_reduce",
                                        "seconds_other"};
    double sum = 0;

    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        const double *column = curve_column(c, parts[i]);
        sum += column ? column[step] : 0;
    }
    return isfinite(sum) && sum > 0 ? sum : 0;
}

double watch_step_seconds(const struct curve_file *c)
{
    double sum = 0;

    if (c->source == CURVE_LIVE && c->n > c->began_step && c->updated > c->began)
        return (c->updated - c->began) / (double)(c->n - c->began_step);
    for (size_t i = 0; i < c->n; i++)
        sum += step_seconds(c, i);
    return c->n > 0 ? sum / (double)c->n : 0;
}

enum watch_life watch_life(const struct curve_file *c, const struct watch_place *here, double now)
{
    double longest = 0;

    if (c->source != CURVE_LIVE)
        return c->source == CURVE_EXPERT ? WATCH_FINISHED : WATCH_SAVED;
    if (strcmp(c->state, "finished") == 0)
        return WATCH_FINISHED;
    if (strcmp(c->state, "stopped") == 0)
        return WATCH_STOPPED;
    if (strcmp(c->state, "failed") == 0)
        return WATCH_FAILED;
    if (c->pid > 0 && c->pid == (pid_t)c->pid && says(c->host, here->host) &&
        says(c->pid_namespace, here->pid_namespace))
        return kill((pid_t)c->pid, 0) != 0 && errno == ESRCH ? WATCH_GONE : WATCH_RUNNING;
    for (size_t i = 0; i < c->n; i++)
        longest = fmax(longest, step_seconds(c, i));
    longest = fmax(longest, watch_step_seconds(c));
    const double silence = now - c->updated;
    return silence > fmax(gone_seconds, gone_steps * longest)       ? WATCH_GONE
           : silence > fmax(silent_seconds, silent_steps * longest) ? WATCH_SILENT
                                                                    : WATCH_RUNNING;
}

bool watch_is_over(enum watch_life life)
{
    return life != WATCH_RUNNING && life != WATCH_SILENT;
}

/* ---- pieces ------------------------------------------------------------------------------------
 */

/* A file's text for a terminal, however long it is there. */
static void put_text(FILE *out, const char *text)
{
    for (int n = 0; n < 200 && text && *text; n++, text++)
        putc(text_printable(*text, '?'), out);
}

static void put_life(FILE *out, const struct curve_file *c, enum watch_life life, double now)
{
    char ago[32];

    text_duration(ago, sizeof ago, fmax(0, now - c->updated));
    switch (life) {
    case WATCH_RUNNING:
        if (c->n_planned > 0 && c->n >= c->n_planned)
            fputs("its steps are done, scoring the test split", out);
        else
            fputs(c->n > c->began_step ? "running" : "running, no step is finished yet", out);
        break;
    case WATCH_SILENT:
        fprintf(out, "no news for %s", ago);
        break;
    case WATCH_GONE:
        fprintf(out,
                "gone without a word, last heard of %s ago; --resume goes on where a state "
                "was saved",
                ago);
        break;
    case WATCH_STOPPED:
        fputs("stopped as asked; --resume goes on", out);
        break;
    case WATCH_FAILED:
        fputs("ended with an error", out);
        break;
    case WATCH_FINISHED:
        fputs(c->n_planned > c->n ? "finished early" : "finished", out);
        break;
    case WATCH_SAVED:
        fputs("saved state of a training that is not finished", out);
        break;
    }
}

/* "  1.24 s a step, 4 min 05 s left" */
static void put_rate(FILE *out, const struct curve_file *c, enum watch_life life)
{
    const double seconds = watch_step_seconds(c);
    char text[32];

    if (seconds <= 0)
        return;
    fprintf(out, ", %s a step", text_duration(text, sizeof text, seconds));
    if (!watch_is_over(life) && c->n_planned > c->n)
        fprintf(out, ", %s left",
                text_duration(text, sizeof text, seconds * (double)(c->n_planned - c->n)));
}

static void put_steps(FILE *out, const struct curve_file *c)
{
    fprintf(out, "step %zu", c->n);
    if (c->n_planned > 0)
        fprintf(out, " of %llu (%.0f %%)", (unsigned long long)c->n_planned,
                100 * fmin(1, (double)c->n / (double)c->n_planned));
}

static size_t best_validation(const struct curve_file *c)
{
    size_t best = 0;

    for (size_t i = 1; i < c->n_validations; i++)
        if (c->validation_scores[i] > c->validation_scores[best])
            best = i;
    return best;
}

/* ---- the view ----------------------------------------------------------------------------------
 */

static void put_bar(FILE *out, double fraction, size_t width, bool blocks)
{
    const size_t whole = (size_t)(fmin(1, fmax(0, fraction)) * (double)width + 0.5);

    for (size_t i = 0; i < width; i++)
        fputs(i < whole ? blocks ? "█" : "#" : blocks ? "░" : ".", out);
}

static void put_row(FILE *out, const char *name, const double *values, size_t n, size_t width,
                    bool blocks)
{
    const size_t room = width > NAME_WIDTH + VALUE_WIDTH + RANGE_WIDTH + LEAST_ROW
                            ? width - NAME_WIDTH - VALUE_WIDTH - RANGE_WIDTH
                            : LEAST_ROW;
    double low = INFINITY, high = -INFINITY;

    for (size_t i = 0; i < n; i++) {
        low = fmin(low, values[i]);
        high = fmax(high, values[i]);
    }
    fprintf(out, "%-*s%*.4g  ", NAME_WIDTH, name, VALUE_WIDTH - 2, values[n - 1]);
    expert_curve_row(out, values, n, room < MOST_ROW ? room : MOST_ROW, blocks);
    fprintf(out, "  %.3g to %.3g\n", low, high);
}

static void put_columns(FILE *out, const struct curve_file *c, size_t width, bool blocks)
{
    static const struct {
        const char *column, *name;
        bool always;
    } rows[] = {{"reward", "reward", true},
                {"accuracy", "accuracy", true},
                {"loss", "loss", true},
                {"entropy", "entropy", true},
                {"kl", "kl", false},
                {"gradient_norm", "gradient", true},
                {"length", "length", false},
                {"one_answer_share", "same answer", false},
                {"tokens_per_second", "tokens/s", true}};

    for (size_t i = 0; c->n > 0 && i < sizeof rows / sizeof *rows; i++) {
        const double *values = curve_column(c, rows[i].column);
        bool changes = rows[i].always;
        for (size_t k = 1; values && k < c->n && !changes; k++)
            changes = values[k] != values[0];
        if (values && changes)
            put_row(out, rows[i].name, values, c->n, width, blocks);
    }
    if (c->n_validations > 0)
        put_row(out, "validation", c->validation_scores, c->n_validations, width, blocks);
}

static void put_validation(FILE *out, const struct curve_file *c)
{
    const size_t best = best_validation(c), last = c->n_validations - 1;

    fprintf(out, "validation: %.4f before, best %.4f at step %.0f, last %.4f at step %.0f\n",
            c->validation_scores[0], c->validation_scores[best], c->validation_steps[best],
            c->validation_scores[last], c->validation_steps[last]);
}

static void put_phases(FILE *out, const struct curve_file *c)
{
    static const char *const phases[][2] = {{"seconds_rollout", "rollout"},
                                            {"seconds_gradient", "gradient"},
                                            {"seconds_reduce", "reduction"},
                                            {"seconds_other", "other"}};
    double all = 0;

    for (size_t i = 0; i < c->n; i++)
        all += step_seconds(c, i);
    if (all <= 0)
        return;
    fputs("time of steps:", out);
    for (size_t p = 0; p < sizeof phases / sizeof *phases; p++) {
        const double *column = curve_column(c, phases[p][0]);
        double sum = 0;
        for (size_t i = 0; column && i < c->n; i++)
            sum += column[i];
        fprintf(out, "%s %s %.0f %%", p > 0 ? "," : "", phases[p][1], 100 * sum / all);
    }
    fputc('\n', out);
}

static void put_head(FILE *out, const struct curve_file *c, enum watch_life life, double now)
{
    put_text(out, c->task ? c->task : "a training");
    if (c->adapter)
        fputs(", ", out);
    put_text(out, c->adapter);
    fputs(": ", out);
    put_life(out, c, life, now);
    if (c->host && !watch_is_over(life)) {
        fputs(" on ", out);
        put_text(out, c->host);
        if (c->n_ranks > 1)
            fprintf(out, " and %lld ranks", (long long)c->n_ranks);
    }
    fputc('\n', out);
}

void watch_print(FILE *out, const struct curve_file *c, enum watch_life life, double now,
                 size_t width, bool blocks)
{
    char *text = NULL, *next = NULL;
    size_t size;
    FILE *lines = open_memstream(&text, &size);

    if (!lines)
        return;
    put_head(lines, c, life, now);
    if (c->n_planned > 0 && life != WATCH_FINISHED) {
        put_bar(lines, (double)c->n / (double)c->n_planned, 24, blocks);
        fputs("  ", lines);
    }
    put_steps(lines, c);
    put_rate(lines, c, life);
    fputs("\n\n", lines);
    put_columns(lines, c, width, blocks);
    if (c->n > 0)
        fputc('\n', lines);
    if (c->n_validations > 0)
        put_validation(lines, c);
    put_phases(lines, c);
    const bool whole = fclose(lines) == 0;
    for (char *line = text; whole && line && *line; line = next) {
        next = line + strcspn(line, "\n");
        next += *next ? (*next = '\0', 1) : 0;
        text_cut(line, width);
        fprintf(out, "%s\n", line);
    }
    free(text);
}

void watch_print_line(FILE *out, const struct curve_file *c, enum watch_life life, double now)
{
    static const char *const names[] = {"reward", "accuracy", "loss", "entropy"};

    put_steps(out, c);
    for (size_t i = 0; c->n > 0 && i < sizeof names / sizeof *names; i++) {
        const double *column = curve_column(c, names[i]);
        if (column)
            fprintf(out, " %s %.4g", names[i], column[c->n - 1]);
    }
    if (c->n_validations > 0) {
        const size_t best = best_validation(c);
        fprintf(out, " valid %.4f (best %.4f at %.0f)", c->validation_scores[c->n_validations - 1],
                c->validation_scores[best], c->validation_steps[best]);
    }
    put_rate(out, c, life);
    fputs("; ", out);
    put_life(out, c, life, now);
    fputc('\n', out);
}
