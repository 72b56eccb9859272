#include "jobs/stream.h"

#include <stdlib.h>
#include <string.h>

#include "mpi/error.h"

void stream_begin(struct stream *stream, const char *const *stops, size_t n_stops)
{
    memset(stream, 0, sizeof *stream);
    stream->stops = stops;
    stream->n_stops = n_stops;
}

/* Bytes at the end that begin a UTF-8 character without finishing it. */
static size_t unfinished_bytes(const char *text, size_t n)
{
    for (size_t back = 1; back <= 3 && back <= n; back++) {
        const unsigned char c = (unsigned char)text[n - back];
        if ((c & 0xc0) == 0x80)
            continue;
        const size_t length = c >= 0xf5 ? 1 : c >= 0xf0 ? 4 : c >= 0xe0 ? 3 : c >= 0xc0 ? 2 : 1;
        return length > back ? back : 0;
    }
    return 0;
}

/* Where the part begins that may not be shown: a stop string, or an end that could become one. */
static size_t find_stop(struct stream *s)
{
    size_t limit = s->n_held;

    for (size_t i = 0; i < s->n_stops; i++) {
        const char *stop = s->stops[i];
        const size_t n = strlen(stop);
        if (n == 0)
            continue;
        const char *found = memmem(s->held, s->n_held, stop, n);
        if (found) {
            s->stopped = true;
            if ((size_t)(found - s->held) < limit)
                limit = (size_t)(found - s->held);
        }
        const size_t longest = n - 1 < s->n_held ? n - 1 : s->n_held;
        for (size_t k = longest; k > 0; k--)
            if (memcmp(s->held + s->n_held - k, stop, k) == 0) {
                if (s->n_held - k < limit)
                    limit = s->n_held - k;
                break;
            }
    }
    return limit;
}

int stream_push(struct stream *s, const char *bytes, size_t n_bytes, size_t *n_ready)
{
    *n_ready = 0;
    if (s->stopped)
        return 0;
    if (n_bytes > s->capacity - s->n_held) {
        const size_t capacity = 2 * (s->n_held + n_bytes) + 64;
        char *held = realloc(s->held, capacity);
        if (!held)
            return error_set("out of memory");
        s->held = held;
        s->capacity = capacity;
    }
    if (n_bytes > 0)
        memcpy(s->held + s->n_held, bytes, n_bytes);
    s->n_held += n_bytes;
    *n_ready = find_stop(s);
    if (*n_ready > 0)
        *n_ready -= unfinished_bytes(s->held, *n_ready);
    return 0;
}

void stream_take(struct stream *s, size_t n)
{
    if (n == 0)
        return;
    s->n_held -= n;
    s->n_shown += n;
    memmove(s->held, s->held + n, s->n_held);
}

void stream_free(struct stream *stream)
{
    free(stream->held);
    memset(stream, 0, sizeof *stream);
}
