/*
 * Accept: which of the two text formats a scraper wants.
 */
#ifndef GOALLOC_EXPORTER_ACCEPT_H
#define GOALLOC_EXPORTER_ACCEPT_H

/* Prometheus's text format 0.0.4, and OpenMetrics 1.0.0. */
enum format { FORMAT_TEXT, FORMAT_OPENMETRICS, FORMATS };

/* By the value of the Accept header; NULL: there is none. */
enum format accept_format(const char *accept);

#endif
