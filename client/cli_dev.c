/* replog dev: a local cluster in the foreground. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <libgen.h>
#include <limits.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "client/cli.h"

const char help_dev[] =
    "usage: replog dev --nodes N --dir DIR [--base-port 7400]\n"
    "\n"
    "Runs a local cluster of N nodes (1 to 7) in the foreground. Node i serves on "
    "127.0.0.1:BASE+i\n"
    "(HTTP on BASE+50+i) and keeps its data, log output and process id in DIR/i, "
    "DIR/i/replogd.log\n"
    "and DIR/i/replogd.pid. Prints one line 'ready leader=ID endpoints=...' when it can serve.\n"
    "SIGINT or SIGTERM stops every node; run again on the same DIR it goes on where it was. A "
    "node\n"
    "that ends is reported and not restarted: the replogd command that is shown joins it again. "
    "When\n"
    "one ends before all is ready, and the others do not serve within five seconds, it gives up.\n";

enum {
    MAX_NODES = 7,
    MAX_DIR_BYTES = 1000,
    HTTP_OFFSET = 50,
    POLL_MS = 100,
    READY_CALL_MS = 500, /* one question whether the cluster serves */
    PORT_WAIT_MS = 5000, /* for the nodes of a dev that was killed */
    LESS_WAIT_MS = 5000, /* for those that are left to serve, once one has ended */
    STOP_MS = 10000      /* from SIGTERM to SIGKILL */
};

struct node {
    pid_t pid; /* our child; 0: it ended */
    int other; /* pidfd of one that was started by hand, found when stopping; -1: none */
    char dir[MAX_DIR_BYTES + 16], id[16], listen[32], http[32];
    char *argv[12]; /* of replogd */
};

struct dev {
    unsigned n_nodes;
    unsigned base_port;
    const char *dir; /* at most MAX_DIR_BYTES */
    char replogd[PATH_MAX], endpoints[400], cluster[400];
    struct node nodes[MAX_NODES];
};

/* ---- Starting -------------------------------------------------------------------------------- */

/* replogd beside this program, or whichever PATH has. */
static void find_replogd(struct dev *d) {
    char self[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n > 0) {
        self[n] = '\0';
        snprintf(d->replogd, sizeof d->replogd, "%.*s/replogd", PATH_MAX - 16, dirname(self));
        if (access(d->replogd, X_OK) == 0) return;
    }
    snprintf(d->replogd, sizeof d->replogd, "replogd");
}

static void describe(struct dev *d) {
    size_t e = 0, c = 0;
    for (unsigned i = 1; i <= d->n_nodes; i++) {
        const char *comma = i > 1 ? "," : "";
        unsigned port = d->base_port + i;
        e += (size_t)snprintf(d->endpoints + e, sizeof d->endpoints - e, "%s127.0.0.1:%u", comma,
                              port);
        c += (size_t)snprintf(d->cluster + c, sizeof d->cluster - c, "%s%u=127.0.0.1:%u", comma, i,
                              port);
    }
    for (unsigned i = 1; i <= d->n_nodes; i++) {
        struct node *node = &d->nodes[i - 1];
        static char id[] = "--id", listen[] = "--listen", cluster[] = "--cluster", dir[] = "--dir",
                    http[] = "--http";
        unsigned port = d->base_port + i;
        snprintf(node->dir, sizeof node->dir, "%s/%u", d->dir, i);
        snprintf(node->id, sizeof node->id, "%u", i);
        snprintf(node->listen, sizeof node->listen, "127.0.0.1:%u", port);
        snprintf(node->http, sizeof node->http, "127.0.0.1:%u", port + HTTP_OFFSET);
        char *argv[12] = {d->replogd, id,  node->id,  listen, node->listen, cluster,
                          d->cluster, dir, node->dir, http,   node->http,   NULL};
        memcpy(node->argv, argv, sizeof argv);
    }
}

static bool make_dirs(const struct dev *d) {
    for (unsigned i = 0; i <= d->n_nodes; i++) {
        const char *dir = i ? d->nodes[i - 1].dir : d->dir;
        if (mkdir(dir, 0777) && errno != EEXIST) {
            fprintf(stderr, "replog: UNAVAILABLE: making directory %s: %s\n", dir, strerror(errno));
            return false;
        }
    }
    return true;
}

/* ---- Nobody else here ------------------------------------------------------------------------ */

static void pause_ms(long ms) {
    struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};
    nanosleep(&t, NULL); /* a signal ends it early */
}

/* Whether `pid` is a replogd that keeps its data in `dir`. */
static bool is_node(pid_t pid, const char *dir) {
    char path[64], exe[PATH_MAX], line[8192], theirs[PATH_MAX], ours[PATH_MAX];
    snprintf(path, sizeof path, "/proc/%d/exe", (int)pid);
    ssize_t n = readlink(path, exe, sizeof exe - 1);
    if (n <= 0) return false;
    exe[n] = '\0';
    const char *name = strrchr(exe, '/');
    if (!name || strncmp(name, "/replogd", 8) != 0 || (name[8] && name[8] != ' ')) return false;
    snprintf(path, sizeof path, "/proc/%d/cmdline", (int)pid);
    int fd = open(path, O_RDONLY);
    if (fd < 0) return false;
    n = read(fd, line, sizeof line - 1);
    close(fd);
    if (n <= 0) return false;
    line[n] = '\0';
    for (char *word = line, *end = line + n; word < end; word += strlen(word) + 1) {
        const char *value = NULL;
        if (strcmp(word, "--dir") == 0) value = word + strlen(word) + 1;
        if (strncmp(word, "--dir=", 6) == 0) value = word + 6;
        if (!value || value >= end) continue;
        char joined[PATH_MAX + 64];
        snprintf(joined, sizeof joined, "/proc/%d/cwd/%s", (int)pid, value);
        const char *where = value[0] == '/' ? value : joined;
        return realpath(where, theirs) && realpath(dir, ours) && strcmp(theirs, ours) == 0;
    }
    return false;
}

static pid_t started_by_hand(const struct node *node) {
    char path[PATH_MAX + 16];
    long pid = 0;
    snprintf(path, sizeof path, "%s/replogd.pid", node->dir);
    FILE *f = fopen(path, "r");
    char text[32] = "";
    if (f && fgets(text, sizeof text, f)) pid = strtol(text, NULL, 10);
    if (f) fclose(f);
    if (pid <= 1 || pid > INT_MAX || pid == node->pid) return 0;
    return is_node((pid_t)pid, node->dir) ? (pid_t)pid : 0;
}

/* One dev at a time on a directory; held until the process ends. */
static bool lock_dir(const struct dev *d) {
    char path[MAX_DIR_BYTES + 16];
    snprintf(path, sizeof path, "%s/dev.lock", d->dir);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0) return true;
    if (errno == EWOULDBLOCK) {
        cli_failed(REPLOG_FAILED_PRECONDITION, "another replog dev runs on this directory");
    } else {
        fprintf(stderr, "replog: UNAVAILABLE: locking %s: %s\n", path, strerror(errno));
    }
    return false;
}

static bool port_is_free(unsigned port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (fd < 0) return true; /* the node will say what is wrong */
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    bool is_free =
        bind(fd, (struct sockaddr *)&address, sizeof address) == 0 || errno != EADDRINUSE;
    close(fd);
    return is_free;
}

/* Nodes of a dev that was killed may need a moment to go. A port that stays in use would have us
 * speak to somebody else's cluster. */
static bool ports_free(const struct dev *d) {
    uint64_t end = clock_mono_ms() + PORT_WAIT_MS;
    for (unsigned i = 1; i <= d->n_nodes; i++) {
        unsigned port = d->base_port + i;
        while (!port_is_free(port) || !port_is_free(port + HTTP_OFFSET)) {
            if (clock_mono_ms() < end && !cli_interrupted()) {
                pause_ms(POLL_MS);
                continue;
            }
            char text[160];
            int pid = (int)started_by_hand(&d->nodes[i - 1]);
            if (pid) {
                snprintf(text, sizeof text, "node %u runs already, as process %d", i, pid);
            } else {
                snprintf(text, sizeof text, "port %u or %u of node %u is in use by another program",
                         port, port + HTTP_OFFSET, i);
            }
            cli_failed(REPLOG_UNAVAILABLE, text);
            return false;
        }
    }
    return true;
}

/* ---- Children -------------------------------------------------------------------------------- */

static _Noreturn void become_node(struct dev *d, struct node *node, pid_t parent) {
    char log[PATH_MAX + 16];
    setsid(); /* a terminal's interrupt is for us alone; we pass it on */
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    signal(SIGPIPE, SIG_DFL);
    if (getppid() != parent) _exit(1);
    snprintf(log, sizeof log, "%s/replogd.log", node->dir);
    int in = open("/dev/null", O_RDONLY), out = open(log, O_WRONLY | O_CREAT | O_APPEND, 0666);
    if (in < 0 || out < 0 || dup2(in, 0) < 0 || dup2(out, 1) < 0 || dup2(out, 2) < 0) _exit(126);
    execvp(d->replogd, node->argv);
    fprintf(stderr, "%s: %s\n", d->replogd, strerror(errno));
    _exit(127);
}

static bool start_nodes(struct dev *d) {
    pid_t parent = getpid();
    for (unsigned i = 0; i < d->n_nodes; i++) {
        pid_t pid = fork();
        if (pid == 0) become_node(d, &d->nodes[i], parent);
        if (pid < 0) {
            fprintf(stderr, "replog: UNAVAILABLE: fork: %s\n", strerror(errno));
            return false;
        }
        d->nodes[i].pid = pid;
    }
    return true;
}

/* ---- Watching -------------------------------------------------------------------------------- */

/* A word of a command, so that a shell takes it for one. */
static void print_quoted(const char *word) {
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                                "-_./,:=@%+";
    if (*word && !word[strspn(word, plain)]) {
        fprintf(stderr, " %s", word);
        return;
    }
    fputs(" '", stderr);
    for (; *word; word++) {
        if (*word == '\'')
            fputs("'\\''", stderr);
        else
            fputc(*word, stderr);
    }
    fputc('\'', stderr);
}

/* What a node that ended by itself said last: why. */
static void print_last_line(const char *log) {
    char tail[1024], *last = tail;
    FILE *f = fopen(log, "r");
    if (!f) return;
    (void)fseek(f, -(long)(sizeof tail - 1), SEEK_END); /* a shorter file: from its beginning */
    size_t n = fread(tail, 1, sizeof tail - 1, f);
    fclose(f);
    while (n && tail[n - 1] == '\n') n--;
    tail[n] = '\0';
    if (!n) return;
    if (strrchr(tail, '\n')) last = strrchr(tail, '\n') + 1;
    fprintf(stderr, "  %s\n", last);
}

static void report_end(const struct dev *d, unsigned i, int status) {
    const struct node *node = &d->nodes[i];
    char log[PATH_MAX + 16];
    snprintf(log, sizeof log, "%s/replogd.log", node->dir);
    fprintf(stderr, "replog dev: node %u ended %s %d; its log is %s; to start it again:\n ", i + 1,
            WIFSIGNALED(status) ? "by signal" : "with status",
            WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status), log);
    for (int k = 0; node->argv[k]; k++) print_quoted(node->argv[k]);
    fputc('\n', stderr);
    if (!WIFSIGNALED(status)) print_last_line(log);
}

/* Notes which children ended; returns how many live. */
static unsigned reap(struct dev *d, bool tell) {
    unsigned alive = 0;
    for (unsigned i = 0; i < d->n_nodes; i++) {
        struct node *node = &d->nodes[i];
        int status;
        if (node->pid && waitpid(node->pid, &status, WNOHANG) == node->pid) {
            node->pid = 0;
            if (tell) report_end(d, i, status);
        }
        alive += node->pid != 0;
    }
    return alive;
}

/* A leader that answers a linearizable read serves. */
static bool serves(struct cli *cli, uint64_t *leader) {
    void *value = NULL;
    size_t value_bytes;
    replog_cluster_status status;
    replog_status got = replog_get(cli->client, "replog dev", 10, false, READY_CALL_MS, &value,
                                   &value_bytes, NULL, NULL);
    if (!got) free(value);
    if (got && got != REPLOG_NOT_FOUND) return false;
    if (replog_get_status(cli->client, READY_CALL_MS, &status, NULL)) return false;
    *leader = status.leader;
    return status.leader != 0;
}

static int wait_ready(struct cli *cli, struct dev *d) {
    uint64_t leader = 0, less_since_ms = 0;
    while (!cli_interrupted()) {
        unsigned alive = reap(d, true);
        if (alive < d->n_nodes / 2 + 1) {
            return cli_failed(REPLOG_UNAVAILABLE, "too few nodes are left for a majority");
        }
        if (serves(cli, &leader)) {
            printf("ready leader=%" PRIu64 " endpoints=%s\n", leader, d->endpoints);
            fflush(stdout);
            return CLI_DONE;
        }
        /* A new cluster is founded by all its members or not at all. */
        if (alive < d->n_nodes && !less_since_ms) less_since_ms = clock_mono_ms();
        if (less_since_ms && clock_mono_ms() > less_since_ms + LESS_WAIT_MS) {
            return cli_failed(REPLOG_UNAVAILABLE, "the nodes that are left do not serve");
        }
        pause_ms(POLL_MS);
    }
    return CLI_DONE;
}

/* ---- Stopping -------------------------------------------------------------------------------- */

/* A pidfd and no number: it never names another process, and it is readable only when every thread
 * has let go of its files. A number's /proc entry loses its name long before that, with the lock
 * of the data directory still held. */
static int find_other(const struct node *node) {
    pid_t pid = started_by_hand(node);
    if (!pid) return -1;
    int fd = (int)syscall(SYS_pidfd_open, pid, 0);
    if (fd < 0 && errno != ESRCH) {
        fprintf(stderr, "replog dev: process %d on %s was not started here and is left: %s\n",
                (int)pid, node->dir, strerror(errno));
    }
    if (fd < 0) return -1;
    if (is_node(pid, node->dir)) return fd; /* asked again: only now is it sure to be the same */
    close(fd);
    return -1;
}

static bool other_lives(const struct node *node) {
    struct pollfd end = {.fd = node->other, .events = POLLIN};
    return node->other >= 0 && poll(&end, 1, 0) != 1; /* an error tells nothing */
}

static void signal_all(struct dev *d, int number) {
    for (unsigned i = 0; i < d->n_nodes; i++) {
        struct node *node = &d->nodes[i];
        if (node->pid) kill(node->pid, number);
        if (node->other >= 0) syscall(SYS_pidfd_send_signal, node->other, number, NULL, 0);
    }
}

static bool all_gone(struct dev *d) {
    unsigned left = reap(d, false);
    for (unsigned i = 0; i < d->n_nodes; i++) left += other_lives(&d->nodes[i]);
    return left == 0;
}

static int stop_nodes(struct dev *d) {
    reap(d, false);
    for (unsigned i = 0; i < d->n_nodes; i++) d->nodes[i].other = find_other(&d->nodes[i]);
    signal_all(d, SIGTERM);
    for (uint64_t end = clock_mono_ms() + STOP_MS; clock_mono_ms() < end;) {
        if (all_gone(d)) return CLI_DONE;
        pause_ms(20);
    }
    fprintf(stderr, "replog dev: nodes that do not end within %d s are killed\n", STOP_MS / 1000);
    signal_all(d, SIGKILL);
    for (uint64_t end = clock_mono_ms() + STOP_MS; clock_mono_ms() < end && !all_gone(d);) {
        pause_ms(20);
    }
    return CLI_FAILED;
}

/* ---- The command ----------------------------------------------------------------------------- */

static int run(struct cli *cli, struct dev *d) {
    find_replogd(d);
    describe(d);
    cli_catch_signals();
    signal(SIGPIPE, SIG_IGN); /* who read the line that we are ready may be gone */
    if (!make_dirs(d) || !lock_dir(d) || !ports_free(d)) return CLI_FAILED;
    int status = start_nodes(d) ? CLI_DONE : CLI_FAILED;
    cli->endpoints = d->endpoints;
    if (!status) status = cli_connect(cli, NULL);
    if (!status) status = wait_ready(cli, d);
    replog_client_close(cli->client);
    cli->client = NULL;
    while (!status && !cli_interrupted()) {
        reap(d, true);
        pause_ms(POLL_MS);
    }
    int stopped = stop_nodes(d);
    return status ? status : stopped;
}

int cmd_dev(struct cli *cli, int argc, char **argv) {
    static const struct option own[] = {{"nodes", required_argument, NULL, 'n'},
                                        {"dir", required_argument, NULL, 'd'},
                                        {"base-port", required_argument, NULL, 'b'},
                                        {0}};
    static struct dev d;
    const char *dir = NULL;
    uint64_t nodes = 3, base_port = 7400;
    for (int option; (option = cli_option(cli, argc, argv, own)) != -1;) {
        if (option == '?') return CLI_USAGE;
        if (option == 'd') dir = optarg;
        if (option == 'n' && !cli_number("--nodes", optarg, 1, MAX_NODES, &nodes)) return CLI_USAGE;
        if (option == 'b' &&
            !cli_number("--base-port", optarg, 1, 65535 - HTTP_OFFSET - MAX_NODES, &base_port)) {
            return CLI_USAGE;
        }
    }
    if (cli->help) return CLI_DONE;
    if (optind < argc) return cli_usage("dev", "unexpected '%s'", argv[optind]);
    if (!dir) return cli_usage("dev", "--dir DIR is wanted");
    if (strlen(dir) > MAX_DIR_BYTES) {
        return cli_usage("dev", "--dir of more than %d bytes", MAX_DIR_BYTES);
    }
    d.n_nodes = (unsigned)nodes;
    d.base_port = (unsigned)base_port;
    d.dir = dir;
    return run(cli, &d);
}
