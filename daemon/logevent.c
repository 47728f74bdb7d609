/*
 * Logevent: the table of the log's events.
 *
 * Called by log.c (the level of an event, its MESSAGE_ID); test_logevent compares it with the table in README.md. An
 * operator writes a MESSAGE_ID into scripts and alerts, so it stays with its event for ever: an event that is no more
 * leaves its row in the history, and a new one gets a number of its own (systemd-id128 new). Data: none.
 */
#include "daemon/logevent.h"

static const logevent_row rows[LOG_EVENTS] = {
    [LOG_EVENT_STARTED] = { "started", "17d83626b67040d7a258b412716da1d3", LOG_LEVEL_INFO },
    [LOG_EVENT_STOPPING] = { "stopping", "728dd47953074d77a9f23b46892d113b", LOG_LEVEL_INFO },
    [LOG_EVENT_NEW_HEAP] = { "new-heap", "de2b9e2a55d24b32a328b1c99f006dd8", LOG_LEVEL_INFO },
    [LOG_EVENT_TAKEOVER] = { "takeover", "88a84f36e8e24b13a9be52b02f949c09", LOG_LEVEL_INFO },
    [LOG_EVENT_TAKEOVER_COUNTED] = { "takeover-counted", "759cd99af1504b0cbb7ddb17b8e80dc9", LOG_LEVEL_INFO },
    [LOG_EVENT_TAKEOVER_REFUSED] = { "takeover-refused", "b3f561c816514c7db0949daeb754ff97", LOG_LEVEL_ERROR },
    [LOG_EVENT_HEAP_DROPPED] = { "heap-dropped", "35e5d9b1b68640e4a91e8dbd06185551", LOG_LEVEL_WARN },
    [LOG_EVENT_HEAP_UNHELD] = { "heap-unheld", "b675046ebea34a29b322a2562d815ad7", LOG_LEVEL_ERROR },
    [LOG_EVENT_HEAP_DAMAGED] = { "heap-damaged", "a5df9084a7224a329d7bdfa0d25b1530", LOG_LEVEL_ERROR },
    [LOG_EVENT_IMAGE_LOADED] = { "image-loaded", "3c3224b20b5a4feb9b2b56875c9ff26d", LOG_LEVEL_INFO },
    [LOG_EVENT_IMAGE_REFUSED] = { "image-refused", "07d455ae70bf4c8abd0c602bd0488003", LOG_LEVEL_ERROR },
    [LOG_EVENT_IMAGE_SAVED] = { "image-saved", "cb8f7665a1c04957b213a104bb13cfcf", LOG_LEVEL_INFO },
    [LOG_EVENT_IMAGE_NOT_SAVED] = { "image-not-saved", "6b9d5961070d475ba1ca8ee0ba292f67", LOG_LEVEL_ERROR },
    [LOG_EVENT_KEEPER_LOST] = { "keeper-lost", "53094080ec5045d9b832f61e7fd23457", LOG_LEVEL_WARN },
    [LOG_EVENT_KEEPER_STARTED] = { "keeper-started", "b2941f07c80c4c8681aca86abadc869b", LOG_LEVEL_INFO },
    [LOG_EVENT_SESSION_OPENED] = { "session-opened", "36b8824604474ff5be59dd4e3ebcf4b6", LOG_LEVEL_DEBUG },
    [LOG_EVENT_SESSION_LOST] = { "session-lost", "6563e6f7b52d497f9955cec82690a45a", LOG_LEVEL_DEBUG },
    [LOG_EVENT_SESSION_BACK] = { "session-back", "094a31aa42ca43a59a5b41cdf3a69d0c", LOG_LEVEL_DEBUG },
    [LOG_EVENT_SESSION_ENDED] = { "session-ended", "216dbed0386e4110a76eaaa92fe16a45", LOG_LEVEL_DEBUG },
    [LOG_EVENT_SESSION_DIED] = { "session-died", "e0631716d9f449fa996bfdbd9e57d231", LOG_LEVEL_INFO },
    [LOG_EVENT_SESSION_DISCONNECTED] = { "session-disconnected", "8f91155c30d943d8afe7ba95a0474d38", LOG_LEVEL_INFO },
    [LOG_EVENT_LIMIT_REACHED] = { "limit-reached", "c571d90541de42bb83ce73694144deca", LOG_LEVEL_WARN },
    [LOG_EVENT_GROWTH_REFUSED] = { "growth-refused", "af2fa5833aba42da9d9bbe1e24553a06", LOG_LEVEL_WARN },
    [LOG_EVENT_REFUSED_MORE] = { "refused-more", "21e202af9c8d4cd8a51cba55aa6e807d", LOG_LEVEL_WARN },
    [LOG_EVENT_MEMORY_OVER_LIMIT] = { "memory-over-limit", "92aedfeecec348bca8e184a3491d7102", LOG_LEVEL_WARN },
    [LOG_EVENT_CLIENT_VIOLATION] = { "client-violation", "1594e1744c4f418d86ad87351e2ff7f6", LOG_LEVEL_WARN },
    [LOG_EVENT_CLIENT_REFUSED] = { "client-refused", "f2f1f2faccc0415fb20d235621fb96d1", LOG_LEVEL_WARN },
    [LOG_EVENT_RELEASE_STUCK] = { "release-stuck", "fecd58cfaa40413aa91329d734758d01", LOG_LEVEL_WARN },
    [LOG_EVENT_RELEASE_AGAIN] = { "release-again", "cabf3a40fe354d278bdec16b76f23aa7", LOG_LEVEL_WARN },
    [LOG_EVENT_HELPER_LOST] = { "helper-lost", "7744f2105f3343d3ac0c3ef314a42d03", LOG_LEVEL_WARN },
    [LOG_EVENT_RELOADED] = { "reloaded", "9c7a9d76edaa48538424758db8f26797", LOG_LEVEL_INFO },
    [LOG_EVENT_RELOAD_REFUSED] = { "reload-refused", "11073206232b4b16850992a858773391", LOG_LEVEL_ERROR },
    [LOG_EVENT_LINES_DROPPED] = { "lines-dropped", "848156d1495a42e29ff47ca762176e82", LOG_LEVEL_WARN },
    [LOG_EVENT_LINES_LEFT_OUT] = { "lines-left-out", "6a897ecb42cf4e53a56c41c5daf42b0b", LOG_LEVEL_WARN },
};

const logevent_row *logevent_row_of(enum log_event event)
{
    return &rows[event];
}
