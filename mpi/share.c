#include "mpi/share.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "mpi/error.h"

/* Grows with what is really read, so a pipe of unknown length works and a wrong size does no harm.
 */
static int read_stream(FILE *file, const char *path, const char *what, size_t max_bytes,
                       char **text, size_t *n_bytes)
{
    size_t n = 0, capacity = 1 << 16;
    char *buffer = malloc(capacity);

    while (buffer) {
        n += fread(buffer + n, 1, capacity - 1 - n, file);
        if (n < capacity - 1 || n > max_bytes)
            break;
        capacity *= 2;
        char *larger = realloc(buffer, capacity);
        if (!larger)
            free(buffer);
        buffer = larger;
    }
    *text = buffer;
    *n_bytes = n;
    if (!buffer)
        return error_set("%s: out of memory", path);
    buffer[n] = '\0';
    if (ferror(file))
        return error_set("%s: cannot read %s: %s", path, what, strerror(errno));
    if (n > max_bytes)
        return error_set("%s: %s is larger than %zu bytes", path, what, max_bytes);
    if (memchr(buffer, '\0', n))
        return error_set("%s: %s is not a text file (it has a NUL byte)", path, what);
    return 0;
}

static int read_path(const char *path, const char *what, size_t max_bytes, char **text,
                     size_t *n_bytes)
{
    struct stat info;

    if (strcmp(path, "-") == 0)
        return read_stream(stdin, "standard input", what, max_bytes, text, n_bytes);
    FILE *file = fopen(path, "rb");
    if (!file)
        return error_set("%s: cannot read %s: %s", path, what, strerror(errno));
    int rc = fstat(fileno(file), &info) == 0 && S_ISDIR(info.st_mode)
                 ? error_set("%s: %s is not a file", path, what)
                 : read_stream(file, path, what, max_bytes, text, n_bytes);
    fclose(file);
    return rc;
}

int share_file(const struct comm *comm, const char *path, const char *what, size_t max_bytes,
               char **text, size_t *n_bytes)
{
    int rc = 0;

    *text = NULL;
    *n_bytes = 0;
    if (comm->rank == 0)
        rc = read_path(path, what, max_bytes < (1u << 30) ? max_bytes : 1u << 30, text, n_bytes);
    if (comm->size > 1) {
        /* The text, or rank 0's sentence with a negative length. */
        const char *message = error_message();
        int64_t n = rc == 0 ? (int64_t)*n_bytes : -(int64_t)strlen(message);
        MPI_Bcast(&n, 1, MPI_INT64_T, 0, comm->handle);
        const size_t bytes = (size_t)(n < 0 ? -n : n);
        char *buffer = malloc(bytes + 1);
        if (!buffer) {
            fprintf(stderr, "t2: out of memory\n");
            comm_abort(comm, 1);
        }
        if (comm->rank == 0)
            memcpy(buffer, rc == 0 ? *text : message, bytes);
        MPI_Bcast(buffer, (int)bytes, MPI_CHAR, 0, comm->handle);
        buffer[bytes] = '\0';
        free(*text);
        *text = buffer;
        *n_bytes = bytes;
        if (n < 0)
            rc = error_set("%s", buffer);
    }
    if (rc != 0) {
        free(*text);
        *text = NULL;
        *n_bytes = 0;
    }
    return rc;
}

/* MPI counts are ints: longer messages travel in pieces. */
enum { PIECE = 1 << 28, TAG = 17 };

static void send_bytes(const struct comm *comm, const char *bytes, uint64_t n_bytes)
{
    MPI_Send(&n_bytes, 1, MPI_UINT64_T, 0, TAG, comm->handle);
    for (uint64_t at = 0; at < n_bytes; at += PIECE) {
        const uint64_t left = n_bytes - at;
        MPI_Send(bytes + at, (int)(left < PIECE ? left : PIECE), MPI_BYTE, 0, TAG, comm->handle);
    }
}

/* NULL when out of memory: the message is then received and dropped. */
static char *receive_bytes(const struct comm *comm, int from, uint64_t *n_bytes)
{
    MPI_Recv(n_bytes, 1, MPI_UINT64_T, from, TAG, comm->handle, MPI_STATUS_IGNORE);
    char *bytes = malloc(*n_bytes + 1), *dropped = bytes ? NULL : malloc(PIECE);
    if (!bytes && !dropped)
        comm_abort(comm, 1);
    for (uint64_t at = 0; at < *n_bytes; at += PIECE) {
        const uint64_t left = *n_bytes - at;
        MPI_Recv(bytes ? bytes + at : dropped, (int)(left < PIECE ? left : PIECE), MPI_BYTE, from,
                 TAG, comm->handle, MPI_STATUS_IGNORE);
    }
    free(dropped);
    return bytes;
}

int share_collect(const struct comm *comm, const void *bytes, size_t n_bytes,
                  int (*take)(void *context, const void *bytes, size_t n_bytes), void *context)
{
    int rc = 0;

    if (comm->rank != 0) {
        send_bytes(comm, bytes, n_bytes);
        return comm_agree(comm, 0);
    }
    rc = take(context, bytes, n_bytes);
    for (int from = 1; from < comm->size; from++) {
        uint64_t n = 0;
        char *theirs = receive_bytes(comm, from, &n);
        if (rc == 0 && !theirs)
            rc = error_set("out of memory for %zu bytes of rank %d", (size_t)n, from);
        if (rc == 0)
            rc = take(context, theirs, n);
        free(theirs);
    }
    return comm_agree(comm, rc);
}
