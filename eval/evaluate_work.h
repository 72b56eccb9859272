#ifndef T2_EVAL_EVALUATE_WORK_H
#define T2_EVAL_EVALUATE_WORK_H
/* One rank's items under way in evaluate_task(): drawn from the queue, made into the scheduler's
 * requests, and their answers into graded records. It knows neither how the items are grouped nor
 * how the ranks' records come together (evaluate.c). Internal to evaluate.c. */
#include "eval/evaluate.h"
#include "eval/items.h"

struct evaluate_job; /* an item under way */

/* What the scheduler's callbacks share on this rank. */
struct evaluate_work {
    const struct comm *comm;
    const struct task *task; /* items.task */
    const struct evaluate_options *options;
    const struct tokenizer *tokenizer;
    const struct model_config *config; /* NULL: sequences are not checked */
    struct items items;
    size_t n_samples;
    size_t n_items, block, n_started;
    size_t *order;              /* [n_items]: rows, group by group; NULL: as they come */
    size_t first, n_here;       /* of order: the group that is run */
    size_t next_item, end_item; /* of the group: this rank's block */
    struct comm_queue queue;
    struct evaluate_job *jobs;    /* all under way */
    struct evaluate_job *current; /* the one whose requests are being handed out */
    struct item_record *records;
    size_t n_records, capacity, n_correct;
    char *failure; /* what made next() give up */
    double start;
};

void evaluate_work_free(struct evaluate_work *work);

/* Before hours of work: can this rank's part of the items be made? 0, or -1 with error_set. */
int evaluate_work_check(struct evaluate_work *work);

/* The scheduler's client; context is the work. */
bool evaluate_work_next(void *context, struct request *request);
int evaluate_work_done(void *context, const struct request *request,
                       const struct response *response);

/* Takes what the sandbox has finished; with wait, until nothing is left there. 0, or -1 with
 * error_set. */
int evaluate_work_grade(struct evaluate_work *work, bool wait);
/* After a failure: nothing may be left in the sandbox for the next task. */
void evaluate_work_drop(const struct evaluate_work *work);

#endif
