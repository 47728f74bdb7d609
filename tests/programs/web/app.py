"""A web application whose workers share a cache, for gunicorn: tests/programs/web.py starts it.

A page is ten fragments, each of which takes a while to render, so each is kept in the cache. What the cache is,
$WEB_CACHE says:

    goalloc   goalloc.dict("fragments"): bytes in the shared heap, for all workers, and for those that come after them
    redis     a redis server on the Unix socket $WEB_REDIS
    dict      a dict of Python's in each worker

Each worker imports this module for itself, after it was forked, and so attaches for itself.
"""

import hashlib
import os

FRAGMENTS_A_PAGE = 10
RENDER_ROUNDS = 300  # of a hash: a third of a millisecond


def open_cache():
    """(get, set, size) of the cache: functions."""
    kind = os.environ["WEB_CACHE"]
    if kind == "goalloc":
        import goalloc

        goalloc.attach(label="web worker", wait=True)
        cache = goalloc.dict("fragments")
        return cache.get, cache.set, lambda: len(cache)
    if kind == "redis":
        import redis

        server = redis.Redis(unix_socket_path=os.environ["WEB_REDIS"])
        return server.get, server.set, server.dbsize
    cache = {}
    return cache.get, cache.__setitem__, lambda: len(cache)


cache_get, cache_set, cache_size = open_cache()


def render(name):
    """The bytes of a fragment: 500 to 4500, the same each time."""
    digest = name
    for _ in range(RENDER_ROUNDS):
        digest = hashlib.sha256(digest).digest()
    return (digest.hex().encode() * 71)[: 500 + int.from_bytes(digest[:4], "little") % 4000]


def page(number):
    """(the page, how many of its fragments were rendered)"""
    parts, rendered = [], 0
    for i in range(FRAGMENTS_A_PAGE):
        name = b"fragment:%d" % (number * 3 + i)  # pages have fragments in common
        part = cache_get(name)
        if part is None:
            part = render(name)
            cache_set(name, part)
            rendered += 1
        parts.append(part)
    return b"\n".join(parts), rendered


def application(environ, start_response):
    """GET /page/N; GET /size; GET and PUT /value/KEY, which the tests use."""
    method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
    headers, status, body = [], "200 OK", b""
    if path.startswith("/page/"):
        body, rendered = page(int(path.removeprefix("/page/")))
        headers.append(("X-Rendered", str(rendered)))
    elif path == "/size":
        body = b"%d" % cache_size()
    elif path.startswith("/value/") and method == "PUT":
        cache_set(path.encode(), environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))
    elif path.startswith("/value/"):
        body = cache_get(path.encode())
        if body is None:
            status, body = "404 Not Found", b""
    else:
        status = "404 Not Found"
    start_response(status, [("Content-Type", "text/plain"), ("Content-Length", str(len(body))), *headers])
    return [body]
