/* The ceiling of the comparison: an epoll loop that knows its answers beforehand and decides nothing.
 *
 *   ceiling PORT ANSWERS
 *
 * ANSWERS holds one answer after another: "<request line> \t<bytes of the head> <file of the body, or ->\n" and the head.
 * It reads no header but Range. Bodies up to 128 KiB are sent from memory with their head, larger ones by sendfile.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

enum { COPIED = 128 << 10, HEAD = 16384, ANSWERS = 64 };

struct answer {
    const char *line, *head;
    size_t line_length, head_length, size;
    int file;
    char *whole; /* head and body, when it is sent from memory */
};

struct connection {
    int fd, waits;            /* waits: for room in the socket */
    size_t held;              /* bytes of requests that are not answered */
    const char *out;
    size_t out_left, file_left;
    off_t offset;
    int file;
    char own_head[2048], in[HEAD];
};

static struct answer answers[ANSWERS];
static int count, ready;

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static void read_answers(const char *path) {
    struct stat found;
    int fd = open(path, O_RDONLY);
    if (fd < 0 || fstat(fd, &found)) fail(path);
    char *at = mmap(NULL, found.st_size, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0), *end = at + found.st_size;
    while (at < end && count < ANSWERS) {
        struct answer *a = &answers[count++];
        char *tab = memchr(at, '\t', end - at), *newline = memchr(at, '\n', end - at);
        a->line = at, a->line_length = tab - at, a->head_length = strtoul(tab + 1, &tab, 10);
        *newline = 0, a->head = newline + 1, a->file = -1;
        at = newline + 1 + a->head_length;
        if (strcmp(tab + 1, "-")) {
            if ((a->file = open(tab + 1, O_RDONLY)) < 0 || fstat(a->file, &found)) fail(tab + 1);
            a->size = found.st_size;
        }
        if (a->size <= COPIED) {
            a->whole = malloc(a->head_length + a->size + 1);
            memcpy(a->whole, a->head, a->head_length);
            if (a->size && pread(a->file, a->whole + a->head_length, a->size, 0) != (ssize_t)a->size) fail("body");
        }
    }
}

/* The head of a part: the other lines are those of the whole. */
static size_t partial_head(struct connection *c, struct answer *a, size_t from, size_t to) {
    int length = snprintf(c->own_head, 256, "HTTP/1.1 206 Partial Content\r\nContent-Length: %zu\r\nContent-Range: bytes %zu-%zu/%zu",
                          to - from + 1, from, to, a->size);
    const char *line = a->head, *end = a->head + a->head_length - 4;
    while ((line = memmem(line, end - line, "\r\n", 2))) {
        const char *next = memmem(line + 2, end - line - 2, "\r\n", 2);
        size_t part = (next ? next : end) - line;
        if (strncasecmp(line + 2, "content-length:", 15) && length + part < sizeof c->own_head - 4) {
            memcpy(c->own_head + length, line, part);
            length += part;
        }
        line += 2;
    }
    memcpy(c->own_head + length, "\r\n\r\n", 4);
    return length + 4;
}

/* Choose the answer to the first request that is held; 0 when it is not complete. */
static int choose(struct connection *c) {
    char *end = memmem(c->in, c->held, "\r\n\r\n", 4);
    if (!end) return 0;
    size_t length = end + 4 - c->in;
    struct answer *found = NULL;
    for (int n = 0; n < count && !found; n++)
        if (answers[n].line_length < length && !memcmp(c->in, answers[n].line, answers[n].line_length)) found = &answers[n];
    if (!found) fail("a request without an answer");
    char *range = memmem(c->in, length, "\r\nRange: bytes=", 15);
    c->file = found->file, c->offset = 0, c->file_left = found->whole ? 0 : found->size;
    c->out = found->whole ? found->whole : found->head;
    c->out_left = found->head_length + (found->whole ? found->size : 0);
    if (range) {
        size_t from = strtoul(range + 15, &range, 10), to = strtoul(range + 1, NULL, 10);
        c->out = c->own_head, c->out_left = partial_head(c, found, from, to);
        c->offset = from, c->file_left = to - from + 1;
    }
    c->held -= length;
    memmove(c->in, c->in + length, c->held);
    return 1;
}

/* 1 when all of it is sent, 0 when the socket is full, -1 when the connection is gone. */
static int deliver(struct connection *c) {
    while (c->out_left || c->file_left) {
        ssize_t sent;
        if (c->out_left) {
            sent = send(c->fd, c->out, c->out_left, MSG_NOSIGNAL | (c->file_left ? MSG_MORE : 0));
            if (sent > 0) c->out += sent, c->out_left -= sent;
        } else {
            sent = sendfile(c->fd, c->file, &c->offset, c->file_left);
            if (sent > 0) c->file_left -= sent;
        }
        if (sent <= 0) return sent < 0 && errno == EAGAIN ? 0 : -1;
    }
    return 1;
}

static void watch(struct connection *c, int waits) {
    if (c->waits == waits) return;
    struct epoll_event event = {.events = waits ? EPOLLOUT : EPOLLIN, .data.ptr = c};
    c->waits = waits;
    epoll_ctl(ready, EPOLL_CTL_MOD, c->fd, &event);
}

static void serve(struct connection *c) {
    int state = 1;
    if (!c->waits) {
        ssize_t got = recv(c->fd, c->in + c->held, HEAD - c->held, 0);
        if (got <= 0) state = got < 0 && errno == EAGAIN ? 1 : -1;
        else c->held += got;
    } else {
        state = deliver(c);
    }
    while (state == 1 && choose(c)) state = deliver(c);
    if (state < 0) {
        close(c->fd);
        free(c);
    } else {
        watch(c, state == 0);
    }
}

int main(int argc, char **argv) {
    if (argc != 3) return 2;
    struct sockaddr_in where = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[1])), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int one = 1, listener = socket(AF_INET, SOCK_STREAM, 0);
    struct epoll_event events[512], accepts = {.events = EPOLLIN};
    signal(SIGPIPE, SIG_IGN); /* sendfile has no MSG_NOSIGNAL */
    read_answers(argv[2]);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (struct sockaddr *)&where, sizeof where) || listen(listener, 4096)) fail("listen");
    ready = epoll_create1(0);
    epoll_ctl(ready, EPOLL_CTL_ADD, listener, &accepts);
    for (;;) {
        int found = epoll_wait(ready, events, 512, -1);
        for (int n = 0; n < found; n++) {
            if (events[n].data.ptr) {
                serve(events[n].data.ptr);
                continue;
            }
            int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
            if (fd < 0) continue;
            struct connection *c = calloc(1, sizeof *c);
            struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
            setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
            c->fd = fd;
            epoll_ctl(ready, EPOLL_CTL_ADD, fd, &event);
        }
    }
}
