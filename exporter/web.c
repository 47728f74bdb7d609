/*
 * Web: HTTP, by libmicrohttpd: who is connected, for how long, and what they are answered.
 *
 * Called by main's loop, whose thread is the only one; libmicrohttpd runs within web_run() and calls back from there.
 * Calls cache. Data: a visitor for each connection.
 *
 *     GET, HEAD /metrics   a page of the cache, in the format that Accept asks for (accept.c)
 *     GET, HEAD /          a page for people that links to it
 *     other paths 404, other methods 405, requests with a body 400
 *
 * A visitor is one of:
 *     asking   nothing of a request has come, or a part; from its first moment, and from the end of each answer on
 *     waiting  it has asked, and the daemon has not answered yet (libmicrohttpd: suspended)
 *     reading  it is sent the answer
 *
 * Who asks or reads has --connection-timeout for all of it, so a byte now and then does not prolong it; who waits does
 * so as long as the cache lets it. Whose time is over is shut down, and libmicrohttpd closes it. If there are more than
 * --connections, the one whose time ends first goes: who comes gets its turn, however many sit there and say nothing.
 * Headers have a buffer of fixed size each, and what does not fit is refused by libmicrohttpd.
 */
#include "exporter/web.h"

#include <errno.h>
#include <microhttpd.h>
#include <netdb.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#include "proto/servicelog.h"

#define HEADER_BYTES (16u * 1024) /* of a request, for each connection */
#define ACCEPT_BYTES 1024u
#define BACKLOG      128
#define SPARE        32u /* connections beyond the limit, as long as those that are let go are not closed yet */

static const char landing[] = "<!DOCTYPE html>\n<html lang=\"en\"><head><title>goallocd</title></head>\n"
                              "<body><h1>goallocd-exporter " GOALLOC_VERSION "</h1>\n"
                              "<p>Figures of goallocd for Prometheus: <a href=\"/metrics\">/metrics</a></p>"
                              "</body></html>\n";

/* --- visitors --- */

/* libmicrohttpd sees the end of the stream and closes the connection. */
static void let_go(visitor *v)
{
    (void)shutdown(v->fd, SHUT_RDWR);
    v->until_ms = INT64_MAX;
}

static void make_room(const web *w)
{
    visitor *first = NULL;

    for (visitor *v = w->visitors; v != NULL; v = v->next) {
        if (v->until_ms != INT64_MAX && (first == NULL || v->until_ms <= first->until_ms))
            first = v;
    }
    if (first != NULL)
        let_go(first);
}

static void add_visitor(web *w, struct MHD_Connection *connection, void **ret)
{
    int fd = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd;
    visitor *v;

    if (w->nvisitors >= w->nvisitors_max)
        make_room(w);
    v = calloc(1, sizeof(*v));
    *ret = v;
    if (v == NULL) {
        (void)shutdown(fd, SHUT_RDWR);
        return;
    }
    *v = (visitor){ .next = w->visitors, .connection = connection, .fd = fd, .until_ms = w->now_ms + w->timeout_ms };
    if (v->next != NULL)
        v->next->prev = v;
    w->visitors = v;
    w->nvisitors++;
}

static void remove_visitor(web *w, visitor *v)
{
    if (v->prev != NULL)
        v->prev->next = v->next;
    else
        w->visitors = v->next;
    if (v->next != NULL)
        v->next->prev = v->prev;
    w->nvisitors--;
    free(v);
}

static void on_connection(void *data, struct MHD_Connection *connection, void **context,
                          enum MHD_ConnectionNotificationCode code)
{
    web *w = data;

    if (code == MHD_CONNECTION_NOTIFY_STARTED)
        add_visitor(w, connection, context);
    else if (*context != NULL)
        remove_visitor(w, *context);
    w->cache->counts.connections = w->nvisitors;
}

static visitor *visitor_of(struct MHD_Connection *connection)
{
    return MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT)->socket_context;
}

/* The answer is sent, or the connection has ended before. */
static void on_completed(void *data, struct MHD_Connection *connection, void **asked,
                         enum MHD_RequestTerminationCode code)
{
    const web *w = data;
    visitor *v = visitor_of(connection);

    (void)code;
    *asked = NULL;
    if (v == NULL)
        return;
    v->waits = false;
    v->until_ms = w->now_ms + w->timeout_ms;
}

/* --- answers --- */

static enum MHD_Result answer(struct MHD_Connection *connection, unsigned status, const char *type, const page *body,
                              const char *allow)
{
    struct MHD_Response *response =
        MHD_create_response_from_buffer(body->len, (void *)(uintptr_t)body->text, MHD_RESPMEM_MUST_COPY);
    enum MHD_Result r;

    if (response == NULL)
        return MHD_NO;
    (void)MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, type);
    (void)MHD_add_response_header(response, MHD_HTTP_HEADER_CACHE_CONTROL, "no-store");
    (void)MHD_add_response_header(response, "X-Content-Type-Options", "nosniff");
    if (status == MHD_HTTP_OK)
        (void)MHD_add_response_header(response, MHD_HTTP_HEADER_VARY, MHD_HTTP_HEADER_ACCEPT);
    if (allow != NULL)
        (void)MHD_add_response_header(response, MHD_HTTP_HEADER_ALLOW, allow);
    r = MHD_queue_response(connection, status, response);
    MHD_destroy_response(response);
    return r;
}

static enum MHD_Result answer_text(struct MHD_Connection *connection, unsigned status, const char *text)
{
    return answer(connection, status, "text/plain; charset=utf-8", &(page){ (char *)(uintptr_t)text, strlen(text) },
                  status == MHD_HTTP_METHOD_NOT_ALLOWED ? "GET, HEAD" : NULL);
}

static enum MHD_Result answer_metrics(const web *w, visitor *v)
{
    static const char *const types[FORMATS] = {
        [FORMAT_TEXT] = "text/plain; version=0.0.4; charset=utf-8",
        [FORMAT_OPENMETRICS] = "application/openmetrics-text; version=1.0.0; charset=utf-8",
    };
    const page *p = &w->cache->pages[v->format];

    v->until_ms = w->now_ms + w->timeout_ms;
    if (p->text == NULL)
        return answer_text(v->connection, MHD_HTTP_SERVICE_UNAVAILABLE, "out of memory\n");
    return answer(v->connection, MHD_HTTP_OK, types[v->format], p, NULL);
}

/* All Accept headers, one behind the other; what does not fit is left out. */
static enum MHD_Result gather_accept(void *data, enum MHD_ValueKind kind, const char *key, const char *value)
{
    char *all = data;
    size_t len = strlen(all);

    (void)kind;
    if (strcasecmp(key, MHD_HTTP_HEADER_ACCEPT) == 0 && value != NULL && len + 1 + strlen(value) < ACCEPT_BYTES) {
        all[len] = ',';
        memcpy(all + len + 1, value, strlen(value) + 1);
    }
    return MHD_YES;
}

static enum MHD_Result scrape(web *w, visitor *v)
{
    char accept[ACCEPT_BYTES] = "";

    (void)MHD_get_connection_values(v->connection, MHD_HEADER_KIND, gather_accept, accept);
    v->format = accept_format(accept);
    if (cache_scrape(w->cache, w->now_ms))
        return answer_metrics(w, v);
    v->waits = true;
    v->until_ms = INT64_MAX;
    MHD_suspend_connection(v->connection);
    return MHD_YES;
}

static bool has_body(struct MHD_Connection *connection)
{
    const char *len = MHD_lookup_connection_value(connection, MHD_HEADER_KIND, MHD_HTTP_HEADER_CONTENT_LENGTH);

    return MHD_lookup_connection_value(connection, MHD_HEADER_KIND, MHD_HTTP_HEADER_TRANSFER_ENCODING) != NULL ||
           (len != NULL && strcmp(len, "0") != 0);
}

/* The head of a request has come. What it is refused for is said at once, and ends the connection. */
static enum MHD_Result begin_request(const web *w, visitor *v, const char *url, const char *method)
{
    v->until_ms = w->now_ms + w->timeout_ms;
    v->has_waited = false;
    v->scrapes = strcmp(url, "/metrics") == 0;
    if (strcmp(method, MHD_HTTP_METHOD_GET) != 0 && strcmp(method, MHD_HTTP_METHOD_HEAD) != 0)
        return answer_text(v->connection, MHD_HTTP_METHOD_NOT_ALLOWED, "GET and HEAD alone\n");
    if (has_body(v->connection))
        return answer_text(v->connection, MHD_HTTP_BAD_REQUEST, "a request has no body here\n");
    if (!v->scrapes && strcmp(url, "/") != 0)
        return answer_text(v->connection, MHD_HTTP_NOT_FOUND, "there are / and /metrics\n");
    return MHD_YES;
}

/*
 * libmicrohttpd calls it when the head of a request has come (*asked is not set yet), when all of it has, and when a
 * visitor that has waited goes on.
 */
static enum MHD_Result on_request(void *data, struct MHD_Connection *connection, const char *url, const char *method,
                                  const char *version, const char *body, size_t *body_bytes, void **asked)
{
    web *w = data;
    visitor *v = visitor_of(connection);

    (void)version;
    (void)body;
    (void)body_bytes;
    if (v == NULL)
        return MHD_NO;
    if (*asked == NULL) {
        *asked = v;
        return begin_request(w, v, url, method);
    }
    if (v->has_waited)
        return answer_metrics(w, v);
    if (v->scrapes)
        return scrape(w, v);
    return answer(connection, MHD_HTTP_OK, "text/html; charset=utf-8",
                  &(page){ (char *)(uintptr_t)landing, sizeof(landing) - 1 }, NULL);
}

/* --- the loop --- */

int web_fd(const web *w)
{
    return MHD_get_daemon_info(w->http, MHD_DAEMON_INFO_EPOLL_FD)->epoll_fd;
}

int64_t web_wakes_ms(const web *w, int64_t now_ms)
{
    MHD_UNSIGNED_LONG_LONG left_ms;
    int64_t wakes_ms = INT64_MAX;

    if (MHD_get_timeout(w->http, &left_ms) == MHD_YES)
        wakes_ms = now_ms + (int64_t)(left_ms < 60000 ? left_ms : 60000);
    for (const visitor *v = w->visitors; v != NULL; v = v->next)
        wakes_ms = v->until_ms < wakes_ms ? v->until_ms : wakes_ms;
    return wakes_ms;
}

void web_run(web *w, int64_t now_ms)
{
    w->now_ms = now_ms;
    for (visitor *v = w->visitors; v != NULL; v = v->next) {
        if (v->until_ms <= now_ms)
            let_go(v);
    }
    (void)MHD_run(w->http);
}

void web_answer_all(web *w)
{
    for (visitor *v = w->visitors; v != NULL; v = v->next) {
        if (!v->waits)
            continue;
        v->waits = false;
        v->has_waited = true;
        MHD_resume_connection(v->connection);
    }
    (void)MHD_run(w->http);
}

/* --- start and stop --- */

/* A socket that listens at ADDRESS:PORT, or -errno; *ret_why is a text if there is more to say. */
static int listen_at(const char *text, struct sockaddr_storage *ret, const char **ret_why)
{
    const struct addrinfo hints = { .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV | AI_PASSIVE,
                                    .ai_socktype = SOCK_STREAM };
    const char *colon = strrchr(text, ':');
    bool brackets = text[0] == '[' && colon != NULL && colon > text + 1 && colon[-1] == ']';
    socklen_t len = sizeof(*ret);
    struct addrinfo *found;
    char address[64];
    int yes = 1;
    int fd;
    int r;

    *ret_why = "it is no ADDRESS:PORT";
    if (colon == NULL || (size_t)(colon - text) >= sizeof(address))
        return -EINVAL;
    (void)snprintf(address, sizeof(address), "%.*s", (int)(colon - text) - (brackets ? 2 : 0), text + brackets);
    if (strspn(colon + 1, "0123456789") < strlen(colon + 1) || strtoul(colon + 1, NULL, 10) > UINT16_MAX ||
        (!brackets && strchr(address, ':') != NULL) || address[0] == '\0' ||
        getaddrinfo(address, colon + 1, &hints, &found) != 0)
        return -EINVAL;
    fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    r = fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes)) < 0 ||
                bind(fd, found->ai_addr, found->ai_addrlen) < 0 || listen(fd, BACKLOG) < 0 ||
                getsockname(fd, (struct sockaddr *)ret, &len) < 0
            ? -errno
            : fd;
    freeaddrinfo(found);
    *ret_why = NULL;
    if (r < 0 && fd >= 0)
        (void)close(fd);
    return r;
}

static void name_address(web *w, const struct sockaddr_storage *address)
{
    char host[64] = "?";
    char port[16] = "?";
    bool v6 = address->ss_family == AF_INET6;

    (void)getnameinfo((const struct sockaddr *)address, sizeof(*address), host, sizeof(host), port, sizeof(port),
                      NI_NUMERICHOST | NI_NUMERICSERV);
    (void)snprintf(w->address, sizeof(w->address), v6 ? "http://[%s]:%s" : "http://%s:%s", host, port);
}

/* What libmicrohttpd has to say of clients is for nobody. */
static void be_quiet(void *data, const char *format, va_list arguments)
{
    (void)data;
    (void)format;
    (void)arguments;
}

int web_start(web *w, cache *c, const char *listen, unsigned connections, int timeout_ms)
{
    struct sockaddr_storage address = { .ss_family = AF_UNSPEC };
    const char *why;
    int fd = listen_at(listen, &address, &why);

    *w = (web){ .cache = c, .nvisitors_max = connections, .timeout_ms = timeout_ms };
    if (fd < 0) {
        servicelog_say(SERVICELOG_SERVICE_FAILED, NULL, "--listen %s: %s", listen, why != NULL ? why : strerror(-fd));
        return fd;
    }
    name_address(w, &address);
    w->http = MHD_start_daemon(MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME, 0, NULL, NULL, on_request, w,
                               MHD_OPTION_EXTERNAL_LOGGER, be_quiet, NULL, MHD_OPTION_LISTEN_SOCKET, fd,
                               MHD_OPTION_CONNECTION_LIMIT, connections + SPARE, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
                               (size_t)HEADER_BYTES, MHD_OPTION_NOTIFY_CONNECTION, on_connection, w,
                               MHD_OPTION_NOTIFY_COMPLETED, on_completed, w, MHD_OPTION_END);
    if (w->http != NULL)
        return 0;
    (void)close(fd);
    servicelog_say(SERVICELOG_SERVICE_FAILED, NULL, "cannot serve HTTP");
    return -EIO;
}

void web_stop(web *w)
{
    web_answer_all(w);
    MHD_stop_daemon(w->http);
}
