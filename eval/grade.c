#include "eval/grade.h"

#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "eval/latex.h"

static const char *const grader_names[GRADER_COUNT] = {
    [GRADE_NONE] = "none",   [GRADE_LAST_NUMBER] = "last_number",
    [GRADE_LABEL] = "label", [GRADE_LETTER] = "letter",
    [GRADE_EXACT] = "exact", [GRADE_MATH] = "math",
    [GRADE_SQL] = "sql",     [GRADE_PYTHON_TESTS] = "python_tests",
};

const char *grader_name(enum grader grader)
{
    return grader < GRADER_COUNT ? grader_names[grader] : "unknown";
}

/* ---- numbers -----------------------------------------------------------------------------------
 */

static const char *skip_blanks(const char *p)
{
    while (*p == ' ' || *p == '\t')
        p++;
    return p;
}

/* Skips a currency sign or an opening that may stand between sign and digits. */
static const char *skip_currency(const char *p)
{
    static const char *const signs[] = {
        "$",        "\\$",      "\xe2\x82\xac",
        "\xc2\xa3", "\xc2\xa5", "\xe2\x82\xb9"}; /* dollar, euro, pound, yen, rupee */

    for (size_t i = 0; i < sizeof signs / sizeof *signs; i++) {
        size_t n = strlen(signs[i]);
        if (strncmp(p, signs[i], n) == 0)
            return skip_blanks(p + n);
    }
    return p;
}

/* "-" or U+2212. */
static const char *skip_minus(const char *p, bool *negative)
{
    if (*p == '-')
        p++;
    else if (strncmp(p, "\xe2\x88\x92", 3) == 0)
        p += 3;
    else
        return p;
    *negative = !*negative;
    return p;
}

/* Digits with commas between groups of three, a decimal part, an exponent: "1,234.50", ".5". The
 * comma before anything but three digits ends the number, as in "1,2 and 3". A dot with no digit
 * after it is the sentence's. */
static bool read_decimal(const char *p, double *value, const char **end)
{
    char digits[64];
    size_t n = 0;
    bool any = false;

    while (isdigit((unsigned char)*p)) {
        if (n < sizeof digits - 24)
            digits[n++] = *p;
        else
            return false; /* no answer has forty digits */
        any = true;
        p++;
        if (*p == ',' && isdigit((unsigned char)p[1]) && isdigit((unsigned char)p[2]) &&
            isdigit((unsigned char)p[3]) && !isdigit((unsigned char)p[4]))
            p++;
    }
    if (*p == '.' && isdigit((unsigned char)p[1])) {
        if (!any)
            digits[n++] = '0';
        digits[n++] = *p++;
        while (isdigit((unsigned char)*p)) {
            if (n < sizeof digits - 8)
                digits[n++] = *p;
            any = true;
            p++;
        }
    }
    if (!any)
        return false;
    if (*p == 'e' || *p == 'E') {
        const char *q = p + 1 + (p[1] == '+' || p[1] == '-');
        size_t length = 0;
        while (isdigit((unsigned char)q[length]))
            length++;
        if (length >= 1 && length <= 3 && !isalpha((unsigned char)q[length])) {
            size_t whole = (size_t)(q - p) + length;
            memcpy(digits + n, p, whole);
            n += whole;
            p += whole;
        }
    }
    digits[n] = '\0';
    *value = strtod(digits, NULL);
    *end = p;
    return isfinite(*value);
}

/* A denominator: "/4" (no blanks around the stroke, or both). */
static bool read_fraction_part(const char *p, double *denominator, const char **end)
{
    const char *q = skip_blanks(p);

    if (*q != '/')
        return false;
    return read_decimal(skip_blanks(q + 1), denominator, end) && *denominator != 0;
}

bool grade_read_number(const char *text, double *value, const char **end)
{
    const char *p = skip_blanks(text), *after;
    bool negative = false;
    double whole, numerator, denominator;

    p = skip_minus(p, &negative);
    p = skip_currency(skip_blanks(p));
    p = skip_minus(p, &negative); /* "$-5" */
    if (!read_decimal(p, &whole, &after))
        return false;
    p = after;
    if (read_fraction_part(p, &denominator, &after)) {
        whole /= denominator;
        p = after;
    } else if (*p == ' ' && isdigit((unsigned char)p[1]) &&
               read_decimal(p + 1, &numerator, &after) && *after == '/' &&
               read_fraction_part(after, &denominator, &after) && numerator < denominator) {
        whole += numerator / denominator; /* "1 1/2" */
        p = after;
    }
    *value = negative ? -whole : whole;
    if (end)
        *end = p;
    return true;
}

/* A minus is a sign where it touches what follows and nothing to subtract from stands before it:
 * "16-3" and "16 - 3" hold 3, "is -5" holds -5, "- 5 apples" is a list. */
static bool minus_is_sign(const char *text, const char *minus, const char *after)
{
    const char *p = minus;

    if (*after == ' ' || *after == '\t')
        return false;
    if (p > text && isalnum((unsigned char)p[-1]))
        return false;
    while (p > text && p[-1] == ' ')
        p--;
    return p == text || !(isdigit((unsigned char)p[-1]) || p[-1] == ')' || p[-1] == '%');
}

/* The last number that starts in text; *found false if there is none. */
static bool last_number_in(const char *text, double *value)
{
    bool found = false;

    for (const char *p = text; *p;) {
        const char *start = p, *end;
        bool negative = false;
        if (*p == '-' || (unsigned char)*p == 0xe2) {
            start = skip_minus(p, &negative);
            if (start == p || !minus_is_sign(text, p, start)) {
                p++;
                continue;
            }
        } else if (!isdigit((unsigned char)*p) && *p != '.' && *p != '$') {
            p++;
            continue;
        }
        if (grade_read_number(p, value, &end)) {
            found = true;
            p = end;
        } else {
            p++;
        }
    }
    return found;
}

bool grade_last_number(const char *text, double *value)
{
    const char *marker = NULL;
    double number;

    for (const char *p = strstr(text, "####"); p; p = strstr(p + 1, "####"))
        marker = p;
    if (marker) {
        const char *p = marker + strspn(marker, "# \t*:=");
        if (grade_read_number(p, value, NULL))
            return true;
    }
    if (!last_number_in(text, &number))
        return false;
    *value = number;
    return true;
}

bool grade_numbers_equal(double answer, double gold)
{
    double tolerance = 1e-6 * fabs(gold);

    if (!isfinite(answer) || !isfinite(gold))
        return false;
    return fabs(answer - gold) <= (gold == 0 ? 1e-6 : tolerance);
}

/* ---- words -------------------------------------------------------------------------------------
 */

static bool is_word_byte(char c)
{
    return isalnum((unsigned char)c) || (unsigned char)c >= 0x80;
}

int grade_first_label(const char *text, const char *const *labels, size_t n_labels)
{
    const char *p = text;
    int best = -1;
    size_t best_length = 0;

    while (*p && !is_word_byte(*p))
        p++;
    for (size_t i = 0; i < n_labels; i++) {
        size_t n = strlen(labels[i]);
        /* The longest that fits: "very good" before "very". */
        if (n > best_length && strncasecmp(p, labels[i], n) == 0 && !is_word_byte(p[n])) {
            best = (int)i;
            best_length = n;
        }
    }
    return best;
}

/* The label that stands at p as a word of its own; case counts when `exact`. */
static int label_at(const char *text, const char *p, const char *const *labels, size_t n_labels,
                    bool exact)
{
    if (p > text && is_word_byte(p[-1]))
        return -1;
    for (size_t i = 0; i < n_labels; i++) {
        size_t n = strlen(labels[i]);
        if (n && (exact ? strncmp(p, labels[i], n) : strncasecmp(p, labels[i], n)) == 0 &&
            !is_word_byte(p[n]) && p[n] != '\'')
            return (int)i;
    }
    return -1;
}

static const char *skip_openings(const char *p)
{
    return p + strspn(p, " \t\n\r*_\"'`([{:$");
}

/* After "answer is", "answer:", "option", ..., the last such place in the text. */
static int letter_after_cue(const char *text, const char *const *labels, size_t n_labels)
{
    static const char *const cues[] = {"answer is", "answer:", "answer",    "option",
                                       "choice",    "choose",  "correct is"};
    int found = -1;

    for (const char *p = text; *p; p++) {
        for (size_t i = 0; i < sizeof cues / sizeof *cues; i++) {
            size_t n = strlen(cues[i]);
            if (strncasecmp(p, cues[i], n) != 0 || is_word_byte(p[n]))
                continue;
            const char *start = skip_openings(p + n);
            if (strncasecmp(start, "option ", 7) == 0 || strncasecmp(start, "choice ", 7) == 0)
                start = skip_openings(start + 7);
            int label = label_at(text, start, labels, n_labels, true);
            /* "the answer is a plant": the article is no letter; upper case is asked for */
            if (label >= 0)
                found = label;
            break;
        }
    }
    return found;
}

int grade_letter(const char *text, const char *const *labels, size_t n_labels)
{
    int label = letter_after_cue(text, labels, n_labels);
    if (label >= 0)
        return label;

    const char *start = skip_openings(text);
    label = label_at(text, start, labels, n_labels, false);
    if (label >= 0) {
        /* "A plant needs ..." starts with a word, not with a letter as the answer. */
        const char *after = start + strlen(labels[label]);
        if (*after != ' ' || !isalpha((unsigned char)after[1]))
            return label;
    }
    int last = -1;
    for (const char *p = text; *p; p++) {
        label = label_at(text, p, labels, n_labels, true);
        if (label < 0)
            continue;
        const char *after = p + strlen(labels[label]);
        bool article =
            strcmp(labels[label], "A") == 0 && *after == ' ' && islower((unsigned char)after[1]);
        bool pronoun = strcmp(labels[label], "I") == 0;
        if (!article && !pronoun)
            last = label;
    }
    return last;
}

bool grade_exact(const char *text, const char *gold)
{
    static const char blanks[] = " \t\n\r\v\f";
    text += strspn(text, blanks);
    gold += strspn(gold, blanks);
    size_t n = strlen(text), m = strlen(gold);
    while (n && strchr(blanks, text[n - 1]))
        n--;
    while (m && strchr(blanks, gold[m - 1]))
        m--;
    return n == m && memcmp(text, gold, n) == 0;
}

bool grade_math(const char *text, const char *gold)
{
    char *answer = latex_extract(text),
         *wanted = strstr(gold, "\\boxed") ? latex_extract(gold) : strdup(gold);
    bool same = answer && wanted && latex_equal(answer, wanted);

    free(answer);
    free(wanted);
    return same;
}
