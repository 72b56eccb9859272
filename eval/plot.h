#ifndef T2_EVAL_PLOT_H
#define T2_EVAL_PLOT_H
/* Line figures as SVG for a page, drawn by gnuplot in a process of its own. Colours are the page's:
 * CSS variables (--s1 ... --s8, --grid) and the colour of text, so that a figure is right on light
 * and on dark. Local to a rank. */
#include <stdbool.h>
#include <stddef.h>

enum plot_style { PLOT_LINES, PLOT_POINTS, PLOT_LINES_POINTS, PLOT_DASHED };

enum { PLOT_COLOURS = 8 };

struct plot_series {
    char label[80]; /* "": not in the key */
    enum plot_style style;
    size_t colour;       /* taken modulo PLOT_COLOURS */
    const double *x, *y; /* borrowed; x NULL: 1, 2, ...; places that are not finite are left out */
    size_t n;
};

struct plot {
    const char *x_label, *y_label;
    bool log_x, log_y;
    double y_min, y_max; /* both 0: as the data are */
    const struct plot_series *series;
    size_t n_series;
};

/* malloc'ed SVG, or NULL with error_set: gnuplot is missing or has failed. number: unique in the
 * page, for the names inside. */
char *plot_svg(const struct plot *plot, size_t number);

#endif
