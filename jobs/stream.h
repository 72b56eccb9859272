#ifndef T2_JOBS_STREAM_H
#define T2_JOBS_STREAM_H
/* Text as it is generated, piece by piece, to what may be shown at once: whole UTF-8 characters
 * only, and nothing that could still become a stop string. */
#include <stdbool.h>
#include <stddef.h>

struct stream {
    const char *const *stops; /* [n_stops] */
    size_t n_stops;
    char *held; /* not shown yet */
    size_t n_held, capacity;
    size_t n_shown; /* bytes given out in all */
    bool stopped;   /* a stop string was met: nothing more comes */
};

void stream_begin(struct stream *stream, const char *const *stops, size_t n_stops);
/* Adds bytes. What may be shown now is held[0 .. *n_ready); take it with stream_take. -1 with
 * error_set when out of memory. */
int stream_push(struct stream *stream, const char *bytes, size_t n_bytes, size_t *n_ready);
/* Removes the first n held bytes: they have been shown. */
void stream_take(struct stream *stream, size_t n);
void stream_free(struct stream *stream);

#endif
