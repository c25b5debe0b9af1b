/* replog append: one record, or the lines of a file through the window of the asynchronous API. */
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "client/cli.h"
#include "client/json.h"

const char help_append[] =
    "usage: replog append [--ack LEVEL] KEY VALUE\n"
    "       replog append [--ack LEVEL] --delete KEY\n"
    "       replog append [--ack LEVEL] --file FILE|- [--batch N]\n"
    "\n"
    "Appends and waits until the record is as durable as LEVEL says. An empty KEY makes a plain\n"
    "entry: replicated and read, not stored.\n"
    "\n"
    "      --delete KEY  append a DELETE\n"
    "      --file FILE   each line is KEY<TAB>VALUE; a line without a tab is a plain entry. '-' "
    "is\n"
    "                    standard input. Stops at the first failure, naming the line\n"
    "      --batch N     every N lines are one atomic batch, sealed by a COMMIT record; the last "
    "may\n"
    "                    be short. 1 (the default): single records without COMMIT\n"
    "      --ack LEVEL   leader: durable on the leader, may be lost with it; quorum (the "
    "default):\n"
    "                    on a majority, and committed; all: on every member\n"
    "      --timeout MS  for each append and its retries\n"
    "      --json        {\"first_seq\",\"last_seq\",\"term\",\"durable_on\":[ids]}, one per "
    "batch\n"
    "\n"
    "A command that was killed and is run again is a new session: nothing ties it to the first.\n";

struct append_cmd {
    struct cli *cli;
    const char *file, *delete_key;
    uint64_t batch;
    replog_append_options options;
};

static void print_result(struct buffer *b, const replog_append_result *r, bool json) {
    buffer_clear(b);
    if (json) {
        buffer_printf(b, "{\"first_seq\":%" PRIu64 ",\"last_seq\":%" PRIu64 ",\"term\":%" PRIu64,
                      r->first_seq, r->last_seq, r->term);
        json_member(b, "durable_on");
        cli_json_ids(b, r->durable_on, r->n_durable_on);
        buffer_u8(b, '}');
    } else {
        buffer_printf(b, "appended at seq %" PRIu64 ", term %" PRIu64 ", durable on ", r->last_seq,
                      r->term);
        cli_json_ids(b, r->durable_on, r->n_durable_on);
    }
    cli_print(b);
    fflush(stdout); /* who reads along sees each answer, and keeps it when we are killed */
}

static int append_one(struct append_cmd *cmd, const char *key, const char *value) {
    int status = cli_connect(cmd->cli, NULL);
    if (status) return status;
    replog_error err;
    replog_append_result result;
    struct buffer line = {0};
    replog_batch *batch = replog_batch_new();
    replog_status outcome = REPLOG_RESOURCE_EXHAUSTED;
    snprintf(err.text, sizeof err.text, "out of memory");
    if (batch) {
        outcome = value ? replog_batch_put(batch, key, strlen(key), value, strlen(value), &err)
                        : replog_batch_delete(batch, key, strlen(key), &err);
    }
    cmd->options.single = true;
    if (!outcome) outcome = replog_append(cmd->cli->client, batch, &cmd->options, &result, &err);
    if (outcome) {
        status = cli_failed(outcome, err.text);
    } else {
        print_result(&line, &result, cmd->cli->json);
    }
    replog_batch_free(batch);
    buffer_free(&line);
    return status;
}

/* ---- A file ---------------------------------------------------------------------------------- */

/* Shared by the reading thread and the callbacks. */
struct transfer {
    pthread_mutex_t mu;
    struct append_cmd *cmd;
    replog_batch *batch;
    uint64_t line, batch_line; /* read so far; the first line of the batch in hand */
    /* under mu */
    uint64_t batches, records, first_seq, last_seq;
    bool failed;
    uint64_t failed_line;
    replog_error error;
    struct buffer out; /* of the callbacks */
};

/* One batch in flight. */
struct ticket {
    struct transfer *transfer;
    uint64_t line, records;
};

static void note_failure_locked(struct transfer *t, uint64_t line, replog_status status,
                                const char *text) {
    if (t->failed && t->failed_line <= line) return;
    t->failed = true;
    t->failed_line = line;
    t->error.status = status;
    snprintf(t->error.text, sizeof t->error.text, "%s", text);
}

static void on_answer(void *user, replog_status status, const replog_append_result *result,
                      const replog_error *error) {
    struct ticket *ticket = user;
    struct transfer *t = ticket->transfer;
    pthread_mutex_lock(&t->mu);
    if (status) {
        note_failure_locked(t, ticket->line, status, error->text);
    } else {
        t->batches++;
        t->records += ticket->records;
        if (!t->first_seq) t->first_seq = result->first_seq;
        t->last_seq = result->last_seq;
        if (t->cmd->cli->json) print_result(&t->out, result, true);
    }
    pthread_mutex_unlock(&t->mu);
    free(ticket);
}

static bool has_failed(struct transfer *t) {
    pthread_mutex_lock(&t->mu);
    bool failed = t->failed;
    pthread_mutex_unlock(&t->mu);
    return failed;
}

static bool fail_line(struct transfer *t, uint64_t line, replog_status status, const char *text) {
    pthread_mutex_lock(&t->mu);
    note_failure_locked(t, line, status, text);
    pthread_mutex_unlock(&t->mu);
    return false;
}

static bool send_batch(struct transfer *t) {
    if (replog_batch_count(t->batch) == 0) return true;
    struct ticket *ticket = malloc(sizeof *ticket);
    if (!ticket) return fail_line(t, t->batch_line, REPLOG_RESOURCE_EXHAUSTED, "out of memory");
    *ticket = (struct ticket){t, t->batch_line, replog_batch_count(t->batch)};
    replog_error err;
    t->cmd->options.single = t->cmd->batch == 1;
    replog_status status = replog_append_async(t->cmd->cli->client, t->batch, &t->cmd->options,
                                               on_answer, ticket, &err);
    replog_batch_clear(t->batch);
    if (!status) return true;
    free(ticket);
    return fail_line(t, t->batch_line, status, err.text);
}

static bool take_line(struct transfer *t, const char *text, size_t size_bytes) {
    replog_error err;
    t->line++;
    if (replog_batch_count(t->batch) == 0) t->batch_line = t->line;
    const char *tab = memchr(text, '\t', size_bytes);
    size_t key_bytes = tab ? (size_t)(tab - text) : 0;
    const char *value = tab ? tab + 1 : text;
    size_t value_bytes = size_bytes - (size_t)(value - text);
    replog_status status = replog_batch_put(t->batch, text, key_bytes, value, value_bytes, &err);
    if (status) return fail_line(t, t->line, status, err.text);
    return replog_batch_count(t->batch) < t->cmd->batch || send_batch(t);
}

static void read_lines(struct transfer *t, FILE *in) {
    struct progress progress;
    char *text = NULL;
    size_t capacity = 0;
    bool going = true;
    progress_start(&progress);
    while (going && !has_failed(t)) {
        errno = 0;
        ssize_t n = getline(&text, &capacity, in);
        if (n < 0) break;
        if (n > 0 && text[n - 1] == '\n') n--;
        going = take_line(t, text, (size_t)n);
        if (progress_due(&progress)) {
            progress_line("line %" PRIu64, t->line);
        }
    }
    if (going && ferror(in)) going = fail_line(t, t->line + 1, REPLOG_UNAVAILABLE, strerror(errno));
    if (going && !has_failed(t)) send_batch(t);
    free(text);
    progress_end(&progress);
}

static int append_file(struct append_cmd *cmd) {
    FILE *in = strcmp(cmd->file, "-") == 0 ? stdin : fopen(cmd->file, "r");
    if (!in) {
        fprintf(stderr, "replog: NOT_FOUND: %s: %s\n", cmd->file, strerror(errno));
        return CLI_FAILED;
    }
    struct transfer t = {.mu = PTHREAD_MUTEX_INITIALIZER, .cmd = cmd};
    int status = cli_connect(cmd->cli, NULL);
    t.batch = replog_batch_new();
    if (!status && !t.batch) status = cli_failed(REPLOG_RESOURCE_EXHAUSTED, "out of memory");
    if (!status) {
        read_lines(&t, in);
        /* Each append has its own deadline, so this ends. */
        while (replog_flush(cmd->cli->client, 60000, NULL)) continue;
        if (t.failed) {
            char text[sizeof t.error.text + 32];
            snprintf(text, sizeof text, "line %" PRIu64 ": %s", t.failed_line, t.error.text);
            status = cli_failed(t.error.status, text);
        }
    }
    if (!cmd->cli->json && t.batches) {
        printf("appended %" PRIu64 " records in %" PRIu64 " appends, seq %" PRIu64 " to %" PRIu64
               "\n",
               t.records, t.batches, t.first_seq, t.last_seq);
    }
    if (in != stdin) fclose(in);
    replog_batch_free(t.batch);
    buffer_free(&t.out);
    return status;
}

int cmd_append(struct cli *cli, int argc, char **argv) {
    static const struct option own[] = {{"file", required_argument, NULL, 'f'},
                                        {"batch", required_argument, NULL, 'b'},
                                        {"ack", required_argument, NULL, 'a'},
                                        {"delete", required_argument, NULL, 'd'},
                                        {0}};
    struct append_cmd cmd = {.cli = cli, .batch = 1};
    bool batch_given = false;
    for (int option; (option = cli_option(cli, argc, argv, own)) != -1;) {
        if (option == '?') return CLI_USAGE;
        if (option == 'f') cmd.file = optarg;
        if (option == 'd') cmd.delete_key = optarg;
        if (option == 'a' && !cli_ack(optarg, &cmd.options.ack)) return CLI_USAGE;
        if (option == 'b') {
            batch_given = true;
            if (!cli_number("--batch", optarg, 1, REPLOG_MAX_BATCH_RECORDS, &cmd.batch)) {
                return CLI_USAGE;
            }
        }
    }
    if (cli->help) return CLI_DONE;
    int left = argc - optind;
    if (cmd.file && cmd.delete_key) return cli_usage("append", "--file or --delete, not both");
    if (batch_given && !cmd.file) return cli_usage("append", "--batch goes with --file");
    if ((cmd.file || cmd.delete_key) && left > 0) {
        return cli_usage("append", "unexpected '%s'", argv[optind]);
    }
    if (cmd.file) return append_file(&cmd);
    if (cmd.delete_key) return append_one(&cmd, cmd.delete_key, NULL);
    if (left != 2) return cli_usage("append", "KEY and VALUE are wanted, %d given", left);
    return append_one(&cmd, argv[optind], argv[optind + 1]);
}
