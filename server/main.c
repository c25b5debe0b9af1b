/* replogd: one member of a replog cluster. */
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/log.h"
#include "server/server.h"
#include "server/thread.h"

static struct server server; /* for the process's life; threads outlive main's interest in it */

static void stop_signals(sigset_t *set) {
    (void)sigemptyset(set);
    (void)sigaddset(set, SIGTERM);
    (void)sigaddset(set, SIGINT);
}

/* A second signal: the one who waits has lost patience. */
static void *second_signal(void *arg) {
    (void)arg;
    sigset_t set;
    int got;
    stop_signals(&set);
    (void)sigwait(&set, &got);
    log_error("stopped by a second signal");
    _exit(1);
}

int main(int argc, char **argv) {
    replog_error err;
    enum options_outcome outcome = options_parse(argc, argv, &server.options, &err);
    if (outcome == OPTIONS_ASKED) return 0;
    if (outcome == OPTIONS_REFUSED) {
        (void)fprintf(stderr, "replogd: %s\nreplogd --help lists the flags\n", err.text);
        return 2;
    }
    log_set_level(server.options.log_level);
    log_set_member(server.options.id);

    sigset_t set;
    stop_signals(&set);
    (void)pthread_sigmask(SIG_BLOCK, &set, NULL); /* before any thread: all inherit it */
    (void)signal(SIGPIPE, SIG_IGN);

    if (server_start(&server, &err) != REPLOG_OK) {
        log_error("cannot start: %s: %s", replog_status_name(err.status), err.text);
        _exit(1); /* threads may run already; nothing was acknowledged */
    }
    int got;
    (void)sigwait(&set, &got);
    log_info("stopping on %s", got == SIGTERM ? "SIGTERM" : "SIGINT");
    pthread_t watcher;
    if (thread_start(&watcher, "signals", second_signal, NULL, NULL) == REPLOG_OK) {
        (void)pthread_detach(watcher);
    }
    server_stop(&server);
    _exit(0);
}
