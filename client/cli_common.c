#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "client/cli.h"
#include "client/json.h"

enum { MAX_OPTIONS = 24 };

bool cli_number(const char *name, const char *text, uint64_t low, uint64_t high, uint64_t *value) {
    char *end = NULL;
    errno = 0;
    unsigned long long v = strtoull(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end || errno || v < low || v > high) {
        fprintf(stderr,
                "replog: %s takes a whole number from %" PRIu64 " to %" PRIu64 ", not '%s'\n", name,
                low, high, text);
        return false;
    }
    *value = v;
    return true;
}

int cli_option(struct cli *cli, int argc, char **argv, const struct option *own) {
    static const struct option shared[] = {{"endpoints", required_argument, NULL, 1001},
                                           {"json", no_argument, NULL, 1002},
                                           {"timeout", required_argument, NULL, 1003},
                                           {"help", no_argument, NULL, 1004},
                                           {0}};
    struct option all[MAX_OPTIONS] = {{0}};
    size_t n = 0;
    for (; own[n].name; n++) all[n] = own[n];
    memcpy(all + n, shared, sizeof shared);
    for (;;) {
        uint64_t ms = 0;
        int option = getopt_long(argc, argv, "e:h", all, NULL);
        switch (option) {
        case 'e':
        case 1001:
            cli->endpoints = optarg;
            break;
        case 1002:
            cli->json = true;
            break;
        case 1003:
            if (!cli_number("--timeout", optarg, 1, UINT32_MAX, &ms)) return '?';
            cli->timeout_ms = (uint32_t)ms;
            break;
        case 'h':
        case 1004:
            cli->help = true;
            break;
        default:
            return option;
        }
    }
}

bool cli_ack(const char *text, replog_ack *ack) {
    static const char *const names[] = {
        [REPLOG_ACK_QUORUM] = "quorum", [REPLOG_ACK_LEADER] = "leader", [REPLOG_ACK_ALL] = "all"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (strcmp(text, names[i]) == 0) {
            *ack = (replog_ack)i;
            return true;
        }
    }
    fprintf(stderr, "replog: --ack is leader, quorum or all, not '%s'\n", text);
    return false;
}

int cli_usage(const char *command, const char *format, ...) {
    va_list args;
    va_start(args, format);
    fprintf(stderr, "replog %s: ", command);
    vfprintf(stderr, format, args);
    fprintf(stderr, "; see replog %s --help\n", command);
    va_end(args);
    return CLI_USAGE;
}

int cli_failed(replog_status status, const char *text) {
    fflush(stdout);
    fprintf(stderr, "replog: %s: %s\n", replog_status_name(status), text);
    return CLI_FAILED;
}

int cli_connect(struct cli *cli, const replog_client_options *options) {
    replog_client_options o = options ? *options : (replog_client_options){0};
    replog_error err;
    o.timeout_ms = cli->timeout_ms;
    replog_status status = replog_client_open(cli->endpoints, &o, &cli->client, &err);
    if (!status) return CLI_DONE;
    cli_failed(status, err.text);
    return status == REPLOG_INVALID_ARGUMENT ? CLI_USAGE : CLI_FAILED;
}

bool cli_print(struct buffer *line) {
    buffer_u8(line, '\n');
    if (line->failed) return false;
    return fwrite(line->data, 1, line->size_bytes, stdout) == line->size_bytes;
}

int cli_finish_output(void) {
    if (fflush(stdout) == 0 && !ferror(stdout)) return CLI_DONE;
    fprintf(stderr, "replog: UNAVAILABLE: writing to standard output: %s\n", strerror(errno));
    return CLI_FAILED;
}

void cli_json_ids(struct buffer *b, const uint64_t *ids, uint32_t n) {
    buffer_u8(b, '[');
    for (uint32_t i = 0; i < n; i++) {
        if (i) buffer_u8(b, ',');
        json_number(b, ids[i]);
    }
    buffer_u8(b, ']');
}

void cli_json_holders(struct buffer *b, const replog_holder *holders, uint32_t n) {
    buffer_u8(b, '[');
    for (uint32_t i = 0; i < n; i++) {
        buffer_append(b, i ? ",{" : "{", i ? 2 : 1);
        json_member(b, "id");
        json_number(b, holders[i].id);
        json_member(b, "checkpoint_seq");
        json_number(b, holders[i].checkpoint_seq);
        buffer_u8(b, '}');
    }
    buffer_u8(b, ']');
}

static void number_member(struct buffer *b, const char *name, uint64_t value) {
    json_member(b, name);
    json_number(b, value);
}

static void entry_json(struct buffer *b, const replog_entry *e) {
    const char *op = replog_op_name(e->op);
    buffer_u8(b, '{');
    number_member(b, "seq", e->seq);
    number_member(b, "term", e->term);
    json_member(b, "op");
    json_string(b, op, strlen(op));
    if (e->op == REPLOG_OP_PUT || e->op == REPLOG_OP_DELETE) {
        json_bytes_member(b, "key", "key_b64", e->key, e->key_bytes);
    }
    if (e->op == REPLOG_OP_PUT) {
        json_bytes_member(b, "value", "value_b64", e->value, e->value_bytes);
    } else if (e->op == REPLOG_OP_CHECKPOINT) {
        number_member(b, "safe_seq", e->safe_seq);
        number_member(b, "drop_upto", e->drop_upto);
    } else if (e->op == REPLOG_OP_CONFIG && e->members) {
        json_member(b, "members");
        buffer_append(b, e->members, strlen(e->members));
    } else if (e->op == REPLOG_OP_SESSION) {
        number_member(b, "session", e->session);
    }
    buffer_u8(b, '}');
}

void cli_entry(struct buffer *line, const replog_entry *e, bool json) {
    if (json) {
        entry_json(line, e);
        return;
    }
    const char *op = replog_op_name(e->op);
    json_number(line, e->seq);
    buffer_u8(line, '\t');
    buffer_append(line, op, strlen(op));
    buffer_u8(line, '\t');
    if (e->key_bytes) buffer_append(line, e->key, e->key_bytes);
    buffer_u8(line, '\t');
    if (e->op == REPLOG_OP_CHECKPOINT) {
        buffer_printf(line, "safe_seq=%" PRIu64 " drop_upto=%" PRIu64, e->safe_seq, e->drop_upto);
    } else if (e->op == REPLOG_OP_SESSION) {
        buffer_printf(line, "session=%" PRIu64, e->session);
    } else if (e->op == REPLOG_OP_CONFIG && e->members) {
        buffer_append(line, e->members, strlen(e->members));
    } else if (e->value_bytes) {
        buffer_append(line, e->value, e->value_bytes);
    }
}

/* ---- Progress and signals -------------------------------------------------------------------- */

void progress_start(struct progress *p) {
    p->on = isatty(STDERR_FILENO) == 1;
    p->start_ms = clock_mono_ms();
    p->next_ms = p->start_ms + 250;
}

bool progress_due(struct progress *p) {
    if (!p->on) return false;
    uint64_t now = clock_mono_ms();
    if (now < p->next_ms) return false;
    p->next_ms = now + 250;
    return true;
}

void progress_line(const char *format, ...) {
    va_list args;
    va_start(args, format);
    fputs("\r\033[K", stderr);
    vfprintf(stderr, format, args);
    va_end(args);
}

void progress_end(const struct progress *p) {
    if (p->on) fputs("\r\033[K", stderr);
}

static volatile sig_atomic_t interrupted;

static void on_signal(int number) {
    (void)number;
    interrupted = 1;
}

bool cli_interrupted(void) {
    return interrupted != 0;
}

static void handle_signals(void (*handler)(int)) {
    struct sigaction action = {.sa_handler = handler}, before;
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    /* The terminal went away; not under nohup. */
    if (sigaction(SIGHUP, NULL, &before) == 0 && before.sa_handler != SIG_IGN) {
        sigaction(SIGHUP, &action, NULL);
    }
}

void cli_catch_signals(void) {
    handle_signals(on_signal);
}

void cli_release_signals(void) {
    handle_signals(SIG_DFL);
}
