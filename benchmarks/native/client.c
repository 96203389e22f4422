/* The client of every comparison: HTTP/1.1 on kept connections, one thread, one epoll.
 *
 *   client PORT tls|plain CONNECTIONS SECONDS DEPTH REQUESTS [BODY]
 *
 * REQUESTS holds one request after another, each as "<bytes of its body> <bytes of the request>\n" and the request. A
 * connection asks for them in turn, DEPTH at a time. An answer that is no 200 or 206, or whose body has another length,
 * ends the run with 1. With SECONDS 0 every connection asks once, at the same moment. With BODY every answer is compared
 * with that file. Bodies are dropped in the kernel (MSG_TRUNC, tcp(7)) unless they are compared or encrypted: a client
 * that copied them would be what is measured.
 *
 * Prints {"requests", "bytes", "seconds", "p50", "p99", "fastest", "slowest", "processor"}; times in seconds.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { ROOM = 1 << 20, HEAD = 8192, SMALL = 48 << 10, TURNS = 4 };

struct request {
    const char *text;
    size_t length, body;
};

struct connection {
    int fd, waiting;         /* answers that are still to come */
    SSL *tls;
    size_t left;             /* bytes of this body that are still to come */
    size_t held;             /* bytes of a head that is not complete */
    size_t next, asked;      /* the next request to send; the one that is being answered */
    double since;
    char head[HEAD];
};

static struct request *requests;
static size_t count, done, taken, times_room;
static double *times;
static char *room, *body;
static int depth, once;

static void fail(const char *what) {
    fprintf(stderr, "client: %s%s%s\n", what, errno ? ": " : "", errno ? strerror(errno) : "");
    exit(1);
}

static double now(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec + at.tv_nsec / 1e9;
}

static char *mapped(const char *path, size_t *length) {
    struct stat found;
    int fd = open(path, O_RDONLY);
    if (fd < 0 || fstat(fd, &found)) fail(path);
    char *text = mmap(NULL, found.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (text == MAP_FAILED) fail(path);
    close(fd);
    *length = found.st_size;
    return text;
}

static void read_requests(const char *path) {
    size_t length;
    char *at = mapped(path, &length), *end = at + length;
    while (at < end) {
        struct request one;
        one.body = strtoul(at, &at, 10);
        one.length = strtoul(at, &at, 10);
        one.text = ++at;
        at += one.length;
        requests = realloc(requests, (count + 1) * sizeof one);
        requests[count++] = one;
    }
    if (!count) fail("no requests");
}

static void ask(struct connection *c) {
    static char out[1 << 18];
    size_t length = 0;
    for (int n = 0; n < depth; n++) {
        struct request *one = &requests[c->next];
        if (length + one->length > sizeof out) fail("DEPTH is too large");
        memcpy(out + length, one->text, one->length);
        length += one->length;
        c->next = (c->next + 1) % count;
    }
    c->waiting = depth;
    c->since = now();
    ssize_t sent = c->tls ? SSL_write(c->tls, out, (int)length) : send(c->fd, out, length, MSG_NOSIGNAL);
    if (sent != (ssize_t)length) fail("a request could not be sent");
}

/* Whether the connection asks again. */
static int answered(struct connection *c) {
    if (done == times_room) times = realloc(times, (times_room = times_room * 2 + 1024) * sizeof *times);
    times[done++] = now() - c->since;
    c->asked = (c->asked + 1) % count;
    if (--c->waiting == 0 && !once) {
        ask(c);
        return 1;
    }
    return 0;
}

static void compare(struct connection *c, const char *piece, size_t got) {
    if (body && memcmp(body + requests[c->asked].body - c->left, piece, got)) errno = 0, fail("wrong bytes");
}

/* Take what came; it may hold several answers and the beginning of another. */
static void take(struct connection *c, char *piece, size_t got) {
    while (got) {
        if (c->left) {
            size_t part = got < c->left ? got : c->left;
            compare(c, piece, part);
            taken += part, piece += part, got -= part;
            if ((c->left -= part) == 0) answered(c);
            continue;
        }
        if (!c->waiting) errno = 0, fail("more bytes than were asked for");
        size_t before = c->held, part = got < HEAD - before ? got : HEAD - before;
        memcpy(c->head + before, piece, part);
        char *end = memmem(c->head, before + part, "\r\n\r\n", 4);
        if (!end) {
            if ((c->held += part) == HEAD) errno = 0, fail("a head of more than 8 kB");
            return;
        }
        if (memcmp(c->head, "HTTP/1.1 20", 11) || (c->head[11] != '0' && c->head[11] != '6')) {
            fprintf(stderr, "%.*s\n", (int)(end - c->head), c->head);
            errno = 0, fail("no such answer was wanted");
        }
        size_t used = end + 4 - c->head - before;
        piece += used, got -= used;
        c->held = 0;
        if ((c->left = requests[c->asked].body) == 0) answered(c);
    }
}

static void readable(struct connection *c) {
    for (int turn = 0; c->tls || turn < TURNS; turn++) {
        size_t wanted = c->left ? c->left : requests[c->asked].body > SMALL ? 1024 : ROOM;
        int dropped = c->left > SMALL && !c->tls && !body;
        if (wanted > ROOM || (c->left && !dropped)) wanted = ROOM;
        errno = 0;
        ssize_t got = c->tls ? SSL_read(c->tls, room, ROOM) : recv(c->fd, room, wanted, MSG_DONTWAIT | (dropped ? MSG_TRUNC : 0));
        if (got <= 0) {
            int again = c->tls ? SSL_get_error(c->tls, (int)got) == SSL_ERROR_WANT_READ : errno == EAGAIN;
            if (got == 0 || !again) fail("the connection ended before its answer");
            return;
        }
        if (dropped) {
            taken += got;
            if ((c->left -= got) == 0) answered(c);
        } else {
            take(c, room, got);
        }
        if (!c->tls && !c->left) return; /* epoll says when there is more */
    }
}

static void join(struct connection *c, int port, SSL_CTX *context) {
    struct sockaddr_in where = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int one = 1;
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&where, sizeof where)) fail("no connection");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (context) {
        c->tls = SSL_new(context);
        SSL_set_fd(c->tls, c->fd);
        if (SSL_connect(c->tls) != 1) fail("no TLS");
    }
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv) {
    if (argc < 7) errno = 0, fail("PORT tls|plain CONNECTIONS SECONDS DEPTH REQUESTS [BODY]");
    int port = atoi(argv[1]), connections = atoi(argv[3]);
    double seconds = atof(argv[4]);
    depth = atoi(argv[5]), once = seconds == 0;
    read_requests(argv[6]);
    size_t length = 0;
    if (argc > 7) body = mapped(argv[7], &length);
    for (size_t n = 0; body && n < count; n++)
        if (requests[n].body != length) errno = 0, fail("BODY has another length");
    SSL_CTX *context = strcmp(argv[2], "tls") ? NULL : SSL_CTX_new(TLS_client_method());
    if (context) SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION);
    room = malloc(ROOM);
    struct connection *all = calloc(connections, sizeof *all);
    struct epoll_event events[512];
    int ready = epoll_create1(0);
    for (int n = 0; n < connections; n++) {
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = &all[n]};
        join(&all[n], port, context);
        all[n].next = all[n].asked = n * count / connections % count;
        epoll_ctl(ready, EPOLL_CTL_ADD, all[n].fd, &event);
    }
    double began = now(), passed = 0;
    for (int n = 0; n < connections; n++) ask(&all[n]);
    while (once ? done < (size_t)connections * depth : passed < seconds || !done) {
        int found = epoll_wait(ready, events, 512, 120000);
        if (found <= 0) errno = 0, fail("no answer for 120 seconds");
        for (int n = 0; n < found; n++) readable(events[n].data.ptr);
        passed = now() - began;
    }
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    qsort(times, done, sizeof *times, ascending);
    printf("{\"requests\": %zu, \"bytes\": %zu, \"seconds\": %.6f, \"p50\": %.9f, \"p99\": %.9f, \"fastest\": %.9f, "
           "\"slowest\": %.9f, \"processor\": %.6f}\n",
           done, taken, passed, times[done / 2], times[done * 99 / 100], times[0], times[done - 1],
           used.ru_utime.tv_sec + used.ru_stime.tv_sec + (used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6);
    return 0;
}
