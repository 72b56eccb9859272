#ifndef T2_MPI_ERROR_H
#define T2_MPI_ERROR_H
/* Errors that travel up with one sentence.
 *
 * A function that can fail returns int (0 is success, -1 failure) or NULL and leaves a sentence
 * with error_set(); callers pass the failure on, or add context with error_prefix(). The command
 * prints the sentence once. Library code never prints and never exits. The message belongs to the
 * calling thread. A good sentence names the file, the thing and the fix. */
#include <stdarg.h>

/* Replaces the current message. Always returns -1, so that `return error_set(...)` reads well. */
int error_set(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Puts "text: " before the current message. Always returns -1. */
int error_prefix(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* The current message, "" if none. Valid until the next call of this module in this thread. */
const char *error_message(void);

void error_clear(void);

#endif
