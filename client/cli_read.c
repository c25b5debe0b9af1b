#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "client/cli.h"
#include "client/json.h"

const char help_read[] =
    "usage: replog read [--from SEQ] [--to SEQ] [--follow] [--markers] [--node]\n"
    "\n"
    "Prints committed records in the order of the log: SEQ<TAB>OP<TAB>KEY<TAB>VALUE, or JSON\n"
    "objects with --json (key_b64 and value_b64 where the bytes are not UTF-8).\n"
    "\n"
    "      --from SEQ  begin there (default: the first record there is)\n"
    "      --to SEQ    end there (default: what is committed when the command begins)\n"
    "      --follow    wait for more, until interrupted; with --to, until that record\n"
    "      --markers   COMMIT, CHECKPOINT, TERM, CONFIG and SESSION records too\n"
    "      --node      from exactly the endpoint given (one), what it knows to be committed, "
    "without\n"
    "                  asking the leader\n"
    "      --timeout MS  how long to wait for a node (--follow waits until there is one)\n";

const char help_get[] =
    "usage: replog get KEY [--stale]\n"
    "\n"
    "Prints the value of KEY in the replayed store; NOT_FOUND (exit status 1) when there is none.\n"
    "\n"
    "      --stale  as the node that is asked has it, without asking the leader\n"
    "      --json   {\"key\",\"value\",\"seq\"}; seq is that of the record that wrote it\n";

enum {
    FOLLOW_FLUSH_MS = 1,  /* so long nothing came: what was printed goes out */
    FOLLOW_POLL_MS = 500, /* so often a follower looks whether it was interrupted */
    FOLLOW_TELL_AFTER = 6 /* such waits: then no node with a leader is worth a word */
};

static int read_records(struct cli *cli, const replog_read_options *o) {
    replog_reader *reader;
    replog_entry entry;
    replog_error err;
    replog_status status = replog_reader_open(cli->client, o, &reader, &err);
    if (status) return cli_failed(status, err.text);
    struct buffer line = {0};
    struct progress progress;
    uint64_t records = 0;
    bool printed = true, unflushed = false, told = false;
    unsigned quiet = 0; /* waits without a record */
    progress_start(&progress);
    if (isatty(STDOUT_FILENO)) progress.on = false; /* the records are the progress */
    while (printed && !cli_interrupted()) {
        uint32_t patience_ms = !o->follow ? 0 : unflushed ? FOLLOW_FLUSH_MS : FOLLOW_POLL_MS;
        status = replog_reader_next(reader, patience_ms, &entry, &err);
        /* Nothing new, or no node just now: who follows waits, with all that came in his hands. */
        if (o->follow && (status == REPLOG_DEADLINE_EXCEEDED || status == REPLOG_UNAVAILABLE)) {
            if (unflushed) printed = fflush(stdout) == 0;
            unflushed = false;
            if (++quiet >= FOLLOW_TELL_AFTER && status == REPLOG_UNAVAILABLE && !told) {
                fprintf(stderr, "replog: waiting: %s\n", err.text);
                told = true;
            }
            continue;
        }
        if (status) break;
        buffer_clear(&line);
        cli_entry(&line, &entry, cli->json);
        printed = cli_print(&line);
        unflushed = true;
        told = false;
        quiet = 0;
        records++;
        if (progress_due(&progress)) {
            progress_line("%" PRIu64 " records, seq %" PRIu64, records, entry.seq);
        }
    }
    progress_end(&progress);
    replog_reader_close(reader);
    buffer_free(&line);
    if (!printed || cli_interrupted() || status == REPLOG_NOT_FOUND) return CLI_DONE;
    return cli_failed(status, err.text);
}

int cmd_read(struct cli *cli, int argc, char **argv) {
    static const struct option own[] = {
        {"from", required_argument, NULL, 'f'}, {"to", required_argument, NULL, 't'},
        {"follow", no_argument, NULL, 'F'},     {"markers", no_argument, NULL, 'm'},
        {"node", no_argument, NULL, 'n'},       {0}};
    replog_read_options o = {0};
    bool node = false;
    for (int option; (option = cli_option(cli, argc, argv, own)) != -1;) {
        if (option == '?') return CLI_USAGE;
        if (option == 'f' && !cli_number("--from", optarg, 0, UINT64_MAX, &o.from_seq)) {
            return CLI_USAGE;
        }
        if (option == 't' && !cli_number("--to", optarg, 0, UINT64_MAX, &o.to_seq)) {
            return CLI_USAGE;
        }
        if (option == 'F') o.follow = true;
        if (option == 'm') o.markers = true;
        if (option == 'n') node = true;
    }
    if (cli->help) return CLI_DONE;
    if (optind < argc) return cli_usage("read", "unexpected '%s'", argv[optind]);
    if (node && strchr(cli->endpoints, ',')) {
        return cli_usage("read", "--node wants exactly one endpoint (-e HOST:PORT)");
    }
    if (node) o.only_endpoint = cli->endpoints;
    int status = cli_connect(cli, NULL);
    if (status) return status;
    cli_catch_signals();
    return read_records(cli, &o);
}

int cmd_get(struct cli *cli, int argc, char **argv) {
    static const struct option own[] = {{"stale", no_argument, NULL, 's'}, {0}};
    bool stale = false;
    for (int option; (option = cli_option(cli, argc, argv, own)) != -1;) {
        if (option == '?') return CLI_USAGE;
        stale = true;
    }
    if (cli->help) return CLI_DONE;
    if (argc - optind != 1) return cli_usage("get", "one KEY is wanted, %d given", argc - optind);
    int failed = cli_connect(cli, NULL);
    if (failed) return failed;
    const char *key = argv[optind];
    void *value;
    size_t value_bytes;
    uint64_t seq;
    replog_error err;
    replog_status status = replog_get(cli->client, key, strlen(key), stale, cli->timeout_ms, &value,
                                      &value_bytes, &seq, &err);
    if (status) return cli_failed(status, err.text);
    struct buffer line = {0};
    if (cli->json) {
        buffer_u8(&line, '{');
        json_bytes_member(&line, "key", "key_b64", key, strlen(key));
        json_bytes_member(&line, "value", "value_b64", value, value_bytes);
        json_member(&line, "seq");
        json_number(&line, seq);
        buffer_u8(&line, '}');
    } else {
        buffer_append(&line, value, value_bytes);
    }
    cli_print(&line);
    buffer_free(&line);
    free(value);
    return CLI_DONE;
}
