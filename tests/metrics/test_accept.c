/*
 * Accept: which format a scraper gets by its Accept header.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "exporter/accept.h"

#define OM "application/openmetrics-text"

static void format_by_any_header_is_what_is_liked_most(void **state)
{
    static const struct {
        const char *accept;
        enum format format;
    } cases[] = {
        { NULL, FORMAT_TEXT },
        { "", FORMAT_TEXT },
        { "*/*", FORMAT_TEXT },
        { "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", FORMAT_TEXT },
        { "image/png", FORMAT_TEXT }, /* neither: text all the same */
        { "text/plain", FORMAT_TEXT },
        { OM, FORMAT_OPENMETRICS },
        { "Application/OpenMetrics-Text; Version=\"1.0.0\"; charset=utf-8", FORMAT_OPENMETRICS },
        /* Prometheus's own */
        { OM ";version=1.0.0," OM ";version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
          FORMAT_OPENMETRICS },
        { OM "; version=0.0.1,text/plain;version=0.0.4;q=0.5,*/*;q=0.1", FORMAT_OPENMETRICS },
        { OM ";version=2.0.0,text/plain;version=0.0.4;q=0.5", FORMAT_TEXT },
        { OM ";q=0.3,text/plain;q=0.5", FORMAT_TEXT },
        { "text/plain;q=0.3 ,\t" OM " ; q=0.31", FORMAT_OPENMETRICS },
        { OM ";q=0,text/plain;q=0", FORMAT_TEXT },
        { OM ";q=0", FORMAT_TEXT },
        { OM ";q=0.5,*/*;q=0.9", FORMAT_TEXT },           /* it likes text more */
        { OM ";q=0.5,text/*;q=0.9,text/plain;q=0.1", FORMAT_OPENMETRICS }, /* the most specific range counts */
        { OM ";q=0.5,text/plain;q=0.1,text/*;q=0.9,*/*", FORMAT_OPENMETRICS },
        { OM ";q=2", FORMAT_TEXT },                       /* no q-value */
        { OM ";q=", FORMAT_TEXT },
        { OM ";q=0.1.1", FORMAT_TEXT },
        { OM ";q=nan", FORMAT_TEXT },
        { OM ";q=1e9", FORMAT_TEXT },
        { OM ";q=-1", FORMAT_TEXT },
        { OM ";q=0.123456789012345678901234567890", FORMAT_TEXT },
        { ",,;;,=;q,\"", FORMAT_TEXT },
        { OM ";x=\"a,text/plain;q=1\";q=0.5,text/plain;q=0.4", FORMAT_OPENMETRICS },
        { OM ";version=\"1.0.0", FORMAT_TEXT },
        { OM "x", FORMAT_TEXT },
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        if (accept_format(cases[i].accept) != cases[i].format)
            fail_msg("case %zu: %s", i, cases[i].accept);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(format_by_any_header_is_what_is_liked_most),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
