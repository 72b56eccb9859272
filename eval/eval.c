typedef int eval_is_not_empty;
