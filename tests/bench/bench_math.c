/* Grades pairs of LaTeX answers: reads JSON lines {"answer": ..., "gold": ...} from a file and
 * prints 1 or 0 for each, the time to stderr. What tests/oracle/math_oracle.py compares. */
#include <stdio.h>
#include <time.h>

#include "eval/grade.h"
#include "eval/jsonl.h"
#include "mpi/error.h"

int main(int argc, char **argv)
{
    struct jsonl *reader = argc == 2 ? jsonl_open(argv[1]) : NULL;
    struct timespec start, end;
    double seconds = 0, longest = 0;
    size_t n = 0;
    json_t *row = NULL;

    if (!reader) {
        fprintf(stderr, "usage: bench_math PAIRS.jsonl %s\n", argc == 2 ? error_message() : "");
        return 1;
    }
    while (jsonl_next(reader, &row) == 0 && row) {
        const char *answer = json_string_value(jsonl_field(row, "answer")),
                   *gold = json_string_value(jsonl_field(row, "gold"));
        clock_gettime(CLOCK_MONOTONIC, &start);
        bool same = answer && gold && grade_math(answer, gold);
        clock_gettime(CLOCK_MONOTONIC, &end);
        double took =
            (double)(end.tv_sec - start.tv_sec) + 1e-9 * (double)(end.tv_nsec - start.tv_nsec);
        seconds += took;
        longest = took > longest ? took : longest;
        printf("%d\n", same);
        json_decref(row);
        n++;
    }
    fprintf(stderr, "%zu pairs in %.3f s, the longest %.3f ms\n", n, seconds, 1e3 * longest);
    jsonl_close(reader);
    return 0;
}
