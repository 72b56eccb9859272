#ifndef T2_TRAIN_STATE_TEXT_H
#define T2_TRAIN_STATE_TEXT_H
/* Settings texts (state.h) that differ, and shown. */
#include <stdio.h>

/* error_set with the first line in which a file's settings differ from this run's. what: "the
 * state" or "the expert". Returns -1. */
int state_text_differ(const char *path, const char *what, const char *theirs, const char *ours);

/* The settings for people, indented under a heading; what a terminal must not get becomes '?'. */
void state_text_print(const char *settings, FILE *file);

/* Of a state's file. */
enum { TRAIN_STATE_VERSION = 2 };

#endif
