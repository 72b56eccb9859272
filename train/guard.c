#include "train/guard.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* A batch of a balanced two-answer task shares its most frequent answer by 0.5 to 0.8; answers with
 * 0.05 nats give the second one in less than one case of a hundred. */
static const double share_limit = 0.97, entropy_limit = 0.05;
/* Of a validation's items, hundreds: what few base models reach, and none by chance. */
static const double validation_share_limit = 0.99;

size_t guard_window(const struct train_options *options)
{
    const size_t answers = options->batch * options->n_answers;
    const size_t window = (96 + answers - 1) / answers;

    return window < 3 ? 3 : window;
}

bool guard_looks_collapsed(const struct train_point *curve, size_t since, size_t n, size_t window)
{
    double share = 0, entropy = 0;

    if (n < since + window)
        return false;
    for (size_t i = n - window; i < n; i++) {
        share += curve[i].one_answer_share / (double)window;
        entropy += curve[i].entropy / (double)window;
    }
    return share >= share_limit && entropy < entropy_limit;
}

bool guard_answers_one_thing(const struct train_state *state)
{
    return state->n_validations >= 2 && state->validations[0].one_answer_share < share_limit &&
           state->validations[state->n_validations - 1].one_answer_share >= validation_share_limit;
}

bool guard_is_below_base(const struct train_state *state)
{
    if (state->n_validations < 2)
        return false;
    const double n = fmax(1, (double)state->validations[0].n_items);
    const double base = state->validations[0].score;
    const double last = state->validations[state->n_validations - 1].score;
    const double error = sqrt(fmax(base * (1 - base), 1 / n) / n);

    return last < base - 2 * error;
}

void guard_check(const struct trainer *t, struct train_state *s, const float *origin)
{
    const struct train_options *o = &t->options;

    if (o->guard == GUARD_OFF || o->objective != TRAIN_REINFORCE)
        return;
    const bool collapsed =
        guard_looks_collapsed(s->curve, (size_t)s->last_alarm, (size_t)s->step, guard_window(o));
    const bool validated_now =
        s->n_validations > 0 && s->validations[s->n_validations - 1].step == s->step;
    const bool news = validated_now && s->last_alarm < s->step;
    const bool below = news && guard_is_below_base(s), one = news && guard_answers_one_thing(s);

    if (!collapsed && !below && !one)
        return;
    const bool first = s->last_alarm == 0;
    s->last_alarm = s->step;
    if (t->comm->rank == 0 && !t->quiet && (first || o->guard == GUARD_ROLLBACK))
        fprintf(stderr, "t2 train: step %llu: %s; %s\n", (unsigned long long)s->step,
                collapsed || one ? "nearly all answers are the same one: the policy is collapsing"
                                 : "the validation score has fallen below the base model's",
                o->guard == GUARD_ROLLBACK
                    ? "going back to the best state with half the learning rate"
                    : "the best state is kept (--guard rollback goes back to it; a larger --batch, "
                      "a smaller --rate or --baseline rloo steady the gradient)");
    if (o->guard != GUARD_ROLLBACK)
        return;
    memcpy(s->parameters, s->best_parameters ? s->best_parameters : origin,
           s->n * sizeof *s->parameters);
    memset(s->adam.m, 0, s->n * sizeof *s->adam.m);
    memset(s->adam.v, 0, s->n * sizeof *s->adam.v);
    s->adam.step = 0;
    s->rate_scale /= 2;
    s->n_rollbacks++;
}
