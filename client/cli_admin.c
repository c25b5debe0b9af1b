#include <inttypes.h>
#include <string.h>

#include "client/cli.h"
#include "client/json.h"

const char help_checkpoint[] =
    "usage: replog checkpoint\n"
    "\n"
    "Every member that is online flushes its store; a CHECKPOINT record then says up to which seq\n"
    "all members have absorbed the log. A member that is away holds safe_seq back.\n"
    "\n"
    "      --json  {\"seq\",\"safe_seq\"}; seq is the CHECKPOINT record's\n";

const char help_truncate[] =
    "usage: replog truncate --upto SEQ\n"
    "\n"
    "Asks that the log be dropped up to and including SEQ. The request persists: records go once\n"
    "every member's store has absorbed them.\n"
    "\n"
    "      --json  {\"requested\",\"first_seq\",\"held_by\":[{\"id\",\"checkpoint_seq\"}]}\n";

const char help_status[] = "usage: replog status\n"
                           "\n"
                           "Shows the leader, the log, every member and what holds truncation. "
                           "Exit status 0 even when no\n"
                           "leader is known (leader 0).\n";

static int no_arguments(struct cli *cli, int argc, char **argv) {
    static const struct option own[] = {{0}};
    if (cli_option(cli, argc, argv, own) == '?') return CLI_USAGE;
    if (cli->help) return CLI_DONE;
    if (optind < argc) return cli_usage(argv[0], "unexpected '%s'", argv[optind]);
    return cli_connect(cli, NULL);
}

int cmd_checkpoint(struct cli *cli, int argc, char **argv) {
    int status = no_arguments(cli, argc, argv);
    if (status || cli->help) return status;
    uint64_t seq, safe_seq;
    replog_error err;
    replog_status outcome = replog_checkpoint(cli->client, cli->timeout_ms, &seq, &safe_seq, &err);
    if (outcome) return cli_failed(outcome, err.text);
    printf(cli->json ? "{\"seq\":%" PRIu64 ",\"safe_seq\":%" PRIu64 "}\n"
                     : "checkpoint at seq %" PRIu64 "; every member holds all up to %" PRIu64 "\n",
           seq, safe_seq);
    return CLI_DONE;
}

int cmd_truncate(struct cli *cli, int argc, char **argv) {
    static const struct option own[] = {{"upto", required_argument, NULL, 'u'}, {0}};
    uint64_t upto = 0;
    for (int option; (option = cli_option(cli, argc, argv, own)) != -1;) {
        if (option == '?' || !cli_number("--upto", optarg, 1, UINT64_MAX, &upto)) return CLI_USAGE;
    }
    if (cli->help) return CLI_DONE;
    if (optind < argc) return cli_usage("truncate", "unexpected '%s'", argv[optind]);
    if (!upto) return cli_usage("truncate", "--upto SEQ is wanted");
    int status = cli_connect(cli, NULL);
    if (status) return status;
    replog_truncate_result r;
    replog_error err;
    replog_status outcome = replog_truncate(cli->client, upto, cli->timeout_ms, &r, &err);
    if (outcome) return cli_failed(outcome, err.text);
    struct buffer b = {0};
    if (cli->json) {
        buffer_printf(&b, "{\"requested\":%" PRIu64 ",\"first_seq\":%" PRIu64, r.requested,
                      r.first_seq);
        json_member(&b, "held_by");
        cli_json_holders(&b, r.held_by, r.n_held_by);
        buffer_u8(&b, '}');
    } else {
        buffer_printf(&b, "asked for %" PRIu64 "; the log begins at %" PRIu64, r.requested,
                      r.first_seq);
        for (uint32_t i = 0; i < r.n_held_by; i++) {
            buffer_printf(&b, "%s member %" PRIu64 " (its checkpoint is at %" PRIu64 ")",
                          i ? "," : "; held by", r.held_by[i].id, r.held_by[i].checkpoint_seq);
        }
    }
    cli_print(&b);
    buffer_free(&b);
    return CLI_DONE;
}

/* ---- Status ---------------------------------------------------------------------------------- */

static void text_member(struct buffer *b, const char *name, const char *text) {
    size_t n = strlen(text);
    json_member(b, name);
    json_string(b, text, json_is_utf8(text, n) ? n : 0);
}

static void number_member(struct buffer *b, const char *name, uint64_t value) {
    json_member(b, name);
    json_number(b, value);
}

static void member_json(struct buffer *b, const replog_member_status *m) {
    buffer_u8(b, '{');
    number_member(b, "id", m->id);
    text_member(b, "address", m->address);
    text_member(b, "role", m->role);
    text_member(b, "state", m->state);
    json_member(b, "online");
    buffer_printf(b, "%s", m->online ? "true" : "false");
    number_member(b, "match_seq", m->match_seq);
    number_member(b, "commit_seq", m->commit_seq);
    number_member(b, "applied_seq", m->applied_seq);
    number_member(b, "checkpoint_seq", m->checkpoint_seq);
    number_member(b, "lag_bytes", m->lag_bytes);
    number_member(b, "chain_seq", m->chain_seq);
    json_member(b, "chain");
    buffer_printf(b, "\"%016" PRIx64 "\"}", m->chain);
}

static void status_json(struct buffer *b, const replog_cluster_status *s) {
    buffer_u8(b, '{');
    number_member(b, "leader", s->leader);
    number_member(b, "term", s->term);
    number_member(b, "first_seq", s->first_seq);
    number_member(b, "commit_seq", s->commit_seq);
    number_member(b, "last_seq", s->last_seq);
    json_member(b, "members");
    buffer_u8(b, '[');
    for (uint32_t i = 0; i < s->n_members; i++) {
        if (i) buffer_u8(b, ',');
        member_json(b, &s->members[i]);
    }
    buffer_u8(b, ']');
    json_member(b, "truncation");
    buffer_u8(b, '{');
    number_member(b, "safe_seq", s->safe_seq);
    number_member(b, "drop_upto", s->drop_upto);
    json_member(b, "held_by");
    cli_json_holders(b, s->held_by, s->n_held_by);
    buffer_printf(b, "}}");
}

static void status_text(struct buffer *b, const replog_cluster_status *s) {
    if (s->leader) {
        buffer_printf(b, "leader %" PRIu64 ", ", s->leader);
    } else {
        buffer_printf(b, "no leader known, ");
    }
    buffer_printf(b,
                  "term %" PRIu64 "; log from seq %" PRIu64 " to %" PRIu64
                  ", committed up to %" PRIu64 "\n",
                  s->term, s->first_seq, s->last_seq, s->commit_seq);
    buffer_printf(b, "%4s %-21s %-8s %-11s %12s %12s %12s %12s %12s  %s\n", "id", "address", "role",
                  "state", "durable", "committed", "applied", "checkpoint", "lag bytes", "chain");
    for (uint32_t i = 0; i < s->n_members; i++) {
        const replog_member_status *m = &s->members[i];
        buffer_printf(b,
                      "%4" PRIu64 " %-21s %-8s %-11s %12" PRIu64 " %12" PRIu64 " %12" PRIu64
                      " %12" PRIu64 " %12" PRIu64 "  %016" PRIx64 "@%" PRIu64 "\n",
                      m->id, m->address, m->role, m->state, m->match_seq, m->commit_seq,
                      m->applied_seq, m->checkpoint_seq, m->lag_bytes, m->chain, m->chain_seq);
    }
    buffer_printf(b, "truncation: all members hold up to %" PRIu64 ", asked for %" PRIu64,
                  s->safe_seq, s->drop_upto);
    for (uint32_t i = 0; i < s->n_held_by; i++) {
        buffer_printf(b, "%s member %" PRIu64 " (checkpoint %" PRIu64 ")", i ? "," : "; held by",
                      s->held_by[i].id, s->held_by[i].checkpoint_seq);
    }
}

int cmd_status(struct cli *cli, int argc, char **argv) {
    int status = no_arguments(cli, argc, argv);
    if (status || cli->help) return status;
    replog_cluster_status s;
    replog_error err;
    replog_status outcome = replog_get_status(cli->client, cli->timeout_ms, &s, &err);
    if (outcome) return cli_failed(outcome, err.text);
    struct buffer b = {0};
    if (cli->json) {
        status_json(&b, &s);
    } else {
        status_text(&b, &s);
    }
    cli_print(&b);
    buffer_free(&b);
    return CLI_DONE;
}
