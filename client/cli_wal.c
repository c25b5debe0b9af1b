/* replog wal: a log directory looked at offline. */
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include "client/cli.h"
#include "client/json.h"
#include "wal/log.h"

const char help_wal[] =
    "usage: replog wal verify DIR [--at SEQ]\n"
    "       replog wal dump DIR [--from SEQ]\n"
    "\n"
    "Looks at a log that no process holds, and changes nothing. DIR is a log directory or a "
    "member's\n"
    "(then its DIR/wal is meant).\n"
    "\n"
    "verify reads every byte and checks hashes and chain; two replicas with the same chain at the\n"
    "same seq hold the same bytes from the beginning.\n"
    "      --at SEQ    the chain value at SEQ instead of at the end\n"
    "      --json      "
    "{\"ok\",\"first_seq\",\"last_seq\",\"blocks\",\"bytes\",\"chain\",\"torn_bytes\",\"error\"}\n"
    "dump prints every record, markers and what is not known committed included, as read does.\n"
    "      --from SEQ  begin there\n";

static replog_status open_log(const char *dir, struct wal **wal, replog_error *err) {
    char path[4096];
    snprintf(path, sizeof path, "%s/wal/MANIFEST", dir);
    bool member = access(path, F_OK) == 0;
    snprintf(path, sizeof path, "%s%s", dir, member ? "/wal" : "");
    struct wal_options options = {.disk = disk_posix(), .dir = path, .read_only = true};
    return wal_open(&options, wal, err);
}

/* ---- verify ---------------------------------------------------------------------------------- */

struct verdict {
    uint64_t first_seq, last_seq, blocks, bytes, chain, torn_bytes;
    struct progress progress;
};

static replog_status read_all(struct wal *wal, struct verdict *v, replog_error *err) {
    struct wal_reader *reader;
    struct block_header header;
    const uint8_t *bytes;
    replog_status status = wal_reader_open(wal, v->first_seq, &reader, err);
    if (status) return status;
    for (;;) {
        status = wal_reader_next(reader, v->last_seq, &header, &bytes, err);
        if (status) break;
        v->blocks++;
        v->bytes += header.length;
        if (progress_due(&v->progress)) {
            progress_line("seq %" PRIu64 " of %" PRIu64, block_last_seq(&header), v->last_seq);
        }
    }
    wal_reader_close(reader);
    return status == REPLOG_NOT_FOUND ? REPLOG_OK : status;
}

static replog_status verify(struct wal *wal, uint64_t at, struct verdict *v, replog_error *err) {
    struct wal_pos tail = wal_tail(wal), pos;
    v->first_seq = wal_first_seq(wal);
    v->last_seq = tail.seq;
    v->chain = tail.chain;
    v->torn_bytes = wal_torn_bytes(wal);
    replog_status status = read_all(wal, v, err);
    if (status || !at) return status;
    status = wal_pos_at(wal, at, &pos, err);
    if (!status) v->chain = pos.chain;
    return status;
}

static void print_verdict(const struct verdict *v, bool ok, const char *error, bool json) {
    struct buffer b = {0};
    if (json) {
        buffer_printf(&b,
                      "{\"ok\":%s,\"first_seq\":%" PRIu64 ",\"last_seq\":%" PRIu64
                      ",\"blocks\":%" PRIu64 ",\"bytes\":%" PRIu64 ",\"chain\":\"%016" PRIx64
                      "\",\"torn_bytes\":%" PRIu64 ",\"error\":",
                      ok ? "true" : "false", v->first_seq, v->last_seq, v->blocks, v->bytes,
                      v->chain, v->torn_bytes);
        json_string(&b, error, json_is_utf8(error, strlen(error)) ? strlen(error) : 0);
        buffer_u8(&b, '}');
    } else {
        buffer_printf(&b,
                      "%s: seq %" PRIu64 " to %" PRIu64 ", %" PRIu64 " blocks, %" PRIu64
                      " bytes, chain %016" PRIx64 ", %" PRIu64 " torn bytes behind the end",
                      ok ? "sound" : "DAMAGED", v->first_seq, v->last_seq, v->blocks, v->bytes,
                      v->chain, v->torn_bytes);
    }
    cli_print(&b);
    buffer_free(&b);
}

static int wal_verify(struct cli *cli, const char *dir, uint64_t at) {
    struct wal *wal = NULL;
    struct verdict v = {0};
    replog_error err = {0};
    progress_start(&v.progress);
    replog_status status = open_log(dir, &wal, &err);
    if (!status) status = verify(wal, at, &v, &err);
    progress_end(&v.progress);
    if (!status || status == REPLOG_DATA_LOSS) print_verdict(&v, !status, err.text, cli->json);
    wal_close(wal);
    return status ? cli_failed(status, err.text) : CLI_DONE;
}

/* ---- dump ------------------------------------------------------------------------------------ */

static replog_status config_text(struct slice value, struct buffer *b, replog_error *err) {
    struct config config;
    replog_status status = config_decode(value, &config, err);
    if (status) return status;
    buffer_u8(b, '[');
    for (uint32_t i = 0; i < config.n_members; i++) {
        const char *address = config.members[i].address;
        size_t n = strlen(address);
        buffer_append(b, i ? ",{" : "{", i ? 2 : 1);
        json_member(b, "id");
        json_number(b, config.members[i].id);
        json_member(b, "address");
        json_string(b, address, json_is_utf8(address, n) ? n : 0);
        buffer_u8(b, '}');
    }
    buffer_append(b, "]", 2);
    return REPLOG_OK;
}

/* A stored record as a reader shows it; `members` keeps the text of a CONFIG. */
static replog_status to_entry(const replog_record *record, struct buffer *members, replog_entry *e,
                              replog_error *err) {
    struct slice value = {record->value, record->value_bytes};
    replog_status status = REPLOG_OK;
    *e = (replog_entry){.seq = record->seq, .term = record->term, .op = record->op};
    e->key = record->key;
    e->key_bytes = record->key_bytes;
    if (e->op == REPLOG_OP_PUT) {
        e->value = record->value;
        e->value_bytes = record->value_bytes;
    } else if (e->op == REPLOG_OP_SESSION) {
        e->session = record->seq;
    } else if (e->op == REPLOG_OP_CHECKPOINT && value.size_bytes) {
        struct checkpoint_marker marker;
        status = checkpoint_decode(value, &marker, err);
        if (!status) {
            e->safe_seq = marker.safe_seq;
            e->drop_upto = marker.drop_upto;
        }
    } else if (e->op == REPLOG_OP_CONFIG) {
        buffer_clear(members);
        status = config_text(value, members, err);
        if (!status && !members->failed) e->members = (const char *)members->data;
    }
    return status;
}

struct dump {
    struct cli *cli;
    uint64_t from;
    struct buffer line, members;
    bool stdout_gone;
};

static replog_status dump_block(struct dump *d, const struct block_header *header,
                                const uint8_t *bytes, replog_error *err) {
    struct block_walk at = {0};
    replog_record record;
    while (!d->stdout_gone && block_next(bytes, header, &at, &record)) {
        replog_entry e;
        if (record.seq < d->from) continue;
        replog_status status = to_entry(&record, &d->members, &e, err);
        if (status) return status;
        buffer_clear(&d->line);
        cli_entry(&d->line, &e, d->cli->json);
        d->stdout_gone = !cli_print(&d->line);
    }
    return REPLOG_OK;
}

static int wal_dump(struct cli *cli, const char *dir, uint64_t from) {
    struct wal *wal = NULL;
    struct wal_reader *reader = NULL;
    struct block_header header;
    const uint8_t *bytes;
    replog_error err = {0};
    struct dump d = {.cli = cli, .from = from};
    replog_status status = open_log(dir, &wal, &err);
    if (!status) {
        uint64_t first = wal_first_seq(wal);
        status = wal_reader_open(wal, from ? from : first, &reader, &err);
    }
    while (!status && !d.stdout_gone) {
        status = wal_reader_next(reader, UINT64_MAX, &header, &bytes, &err);
        if (!status)
            status = dump_block(&d, &header, bytes, &err);
        else if (status == REPLOG_NOT_FOUND)
            break;
    }
    wal_reader_close(reader);
    wal_close(wal);
    buffer_free(&d.line);
    buffer_free(&d.members);
    /* NOT_FOUND without a sentence is the end; with one it is a directory that is not there. */
    if (status == REPLOG_NOT_FOUND && !err.text[0]) status = REPLOG_OK;
    return status ? cli_failed(status, err.text) : CLI_DONE;
}

int cmd_wal(struct cli *cli, int argc, char **argv) {
    static const struct option own[] = {
        {"at", required_argument, NULL, 'a'}, {"from", required_argument, NULL, 'f'}, {0}};
    uint64_t at = 0, from = 0;
    for (int option; (option = cli_option(cli, argc, argv, own)) != -1;) {
        if (option == '?') return CLI_USAGE;
        if (option == 'a' && !cli_number("--at", optarg, 1, UINT64_MAX, &at)) return CLI_USAGE;
        if (option == 'f' && !cli_number("--from", optarg, 1, UINT64_MAX, &from)) return CLI_USAGE;
    }
    if (cli->help) return CLI_DONE;
    if (argc - optind != 2) return cli_usage("wal", "'verify DIR' or 'dump DIR' is wanted");
    const char *action = argv[optind], *dir = argv[optind + 1];
    if (strcmp(action, "verify") == 0) {
        return from ? cli_usage("wal", "--from goes with dump") : wal_verify(cli, dir, at);
    }
    if (strcmp(action, "dump") == 0) {
        return at ? cli_usage("wal", "--at goes with verify") : wal_dump(cli, dir, from);
    }
    return cli_usage("wal", "'%s' is neither verify nor dump", action);
}
