#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/factors_internal.h"
#include "mpi/error.h"

/* Adds a matrix: its path and shape, all singular values, the first, middle and last vector. */
static int add_matrix(EVP_MD_CTX *hash, struct factors *f, const struct factors_matrix *m)
{
    const size_t r = module_rank(&m->module);
    const size_t rows[] = {0, r / 2, r - 1};
    const uint64_t shape[] = {m->module.n_rows, m->module.n_columns};
    float *row = malloc(r * sizeof *row);
    int status = -1;

    if (!row)
        return error_set("out of memory");
    if (EVP_DigestUpdate(hash, m->module.path, strlen(m->module.path) + 1) != 1 ||
        EVP_DigestUpdate(hash, shape, sizeof shape) != 1 ||
        EVP_DigestUpdate(hash, m->sigma, r * sizeof *m->sigma) != 1)
        goto failed;
    for (size_t i = 0; i < 3; i++) {
        if (factors_read(f, m, rows[i], 1, row) != 0)
            goto done;
        if (EVP_DigestUpdate(hash, row, r * sizeof *row) != 1)
            goto failed;
    }
    status = 0;
    goto done;
failed:
    error_set("OpenSSL cannot compute SHA-256");
done:
    free(row);
    return status;
}

int factors_fingerprint(struct factors *f, char hex[65])
{
    unsigned char digest[EVP_MAX_MD_SIZE];
    EVP_MD_CTX *hash = EVP_MD_CTX_new();
    unsigned n = 0;
    int status = -1;

    if (!hash || EVP_DigestInit_ex(hash, EVP_sha256(), NULL) != 1 ||
        EVP_DigestUpdate(hash, factors_identity(f), 64) != 1) {
        error_set("OpenSSL cannot compute SHA-256");
        goto done;
    }
    for (size_t i = 0; i < factors_n_matrices(f); i++)
        if (add_matrix(hash, f, factors_get(f, i)) != 0)
            goto done;
    if (EVP_DigestFinal_ex(hash, digest, &n) != 1 || n != 32) {
        error_set("OpenSSL cannot compute SHA-256");
        goto done;
    }
    for (unsigned i = 0; i < n; i++)
        snprintf(hex + 2 * i, 3, "%02x", digest[i]);
    status = 0;
done:
    EVP_MD_CTX_free(hash);
    return status;
}
